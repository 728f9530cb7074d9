r"""Escapes untrusted text for output: a client's model name, a provider's message, a name in a backup.

Control characters, characters that reorder or hide text, and invisible ones are escaped like in Python's `repr`:
`\x1b`, `\n`, `\u202e`. One line stays one line. JSON keeps its meaning, with JSON's own escapes. Not here: printing
(`terminal`), and length limits.
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence

UNSEEN = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
"""Invisible characters that `str.isprintable` accepts, because Unicode calls them marks, letters or symbols."""
FORMULA_STARTS = frozenset("=+-@\t\r\n＝＋－＠")  # noqa: RUF001 - spreadsheets accept the full-width signs as well
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?", re.ASCII)


def visible(text: str) -> str:
    """Return the text with all invisible characters and line breaks escaped."""
    if text.isprintable() and (text.isascii() or not UNSEEN.search(text)):
        return text
    return "".join(char if is_seen(char) else char.encode("unicode_escape").decode("ascii") for char in text)


def is_seen(char: str) -> bool:
    """True if a character is visible as itself."""
    return char.isprintable() and not UNSEEN.match(char)


def visible_json(encoded: str) -> str:
    """Return JSON without line breaks, with the same meaning, and ASCII escapes for what `visible` would escape."""
    if encoded.isprintable() and (encoded.isascii() or not UNSEEN.search(encoded)):
        return encoded
    return "".join(char if is_seen(char) else json_escape(char) for char in encoded)


def json_escape(char: str) -> str:
    r"""Return `\uXXXX`, twice for a character beyond the first 65,536."""
    units = char.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[place : place + 4]}" for place in range(0, len(units), 4))


def csv_text(names: Sequence[str], rows: Sequence[Mapping[str, object]]) -> str:
    """Return rows as CSV with a header; no cell is a formula to a spreadsheet."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([csv_cell(row[name]) for name in names] for row in rows)
    return text.getvalue()


def csv_cell(value: object) -> object:
    """Return a cell's value; text that a spreadsheet would evaluate gets a leading apostrophe."""
    if not isinstance(value, str) or NUMBER.fullmatch(value):
        return value
    is_formula = not FORMULA_STARTS.isdisjoint((value[:1], value.lstrip()[:1]))
    return ("'" if is_formula else "") + visible(value)
