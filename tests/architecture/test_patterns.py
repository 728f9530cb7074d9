"""Regular expressions that Python before 3.11.5 gets wrong, which Debian 12 has.

There, a possessive or atomic group whose last turn fails half-way doesn't go back to where that turn began: it takes a
sign too much, or ends with a SystemError. Not here: what the expressions match.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
CLASS = re.compile(r"\[(?:\\.|[^]\\])*\]")
GROUP = re.compile(r"\)(?:[*+?]|\{[\d,]+\})\+|\(\?>")
CHECKED = {
    "service/edge/body_fields.py": 1,
    "service/protocol/json_shape.py": 1,
    "service/protocol/sse.py": 2,
}
"""How many groups each file has whose every turn is one class of signs, or an escape, so that none fails half-way in a
place that matters. The same texts were given to Python 3.11.2 and 3.13, and matched alike."""


def test_no_possessive_group_can_fail_half_way() -> None:
    """Possessive classes of signs (`[a-z]++`) are right everywhere; groups are not."""
    found = {}
    for folder in ("service", "workers"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if number := len(GROUP.findall(CLASS.sub("", path.read_text()))):
                found[str(path.relative_to(ROOT))] = number
    assert found == CHECKED
