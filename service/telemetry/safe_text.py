"""Text from strangers, made safe to show: a client's model name, a provider's words, a name in a backup.

What a terminal would obey, what reorders or hides other text, and what nobody can see is written as an escape, in the
notation of Python's `repr`: `\\x1b`, `\\n`, `\\u202e`. One line stays one line. JSON keeps its meaning, with JSON's own
escapes. Not here: printing (`terminal`), and how much of a stranger's text is kept at all.
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence

UNSEEN = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
"""Characters that Unicode calls marks, letters or symbols and so `str.isprintable` takes, yet that leave no ink."""
FORMULA_STARTS = frozenset("=+-@\t\r\n＝＋－＠")  # noqa: RUF001 - spreadsheets take the full-width signs as well
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?", re.ASCII)


def visible(text: str) -> str:
    """The text with every character either seen or escaped; line breaks are escaped too."""
    if text.isprintable() and (text.isascii() or not UNSEEN.search(text)):
        return text
    return "".join(char if is_seen(char) else char.encode("unicode_escape").decode("ascii") for char in text)


def is_seen(char: str) -> bool:
    """Whether a character is shown as itself."""
    return char.isprintable() and not UNSEEN.match(char)


def visible_json(encoded: str) -> str:
    """JSON without line breaks, with the same meaning, and ASCII escapes for what `visible` would escape."""
    if encoded.isprintable() and (encoded.isascii() or not UNSEEN.search(encoded)):
        return encoded
    return "".join(char if is_seen(char) else json_escape(char) for char in encoded)


def json_escape(char: str) -> str:
    """`\\uXXXX`, twice for a character beyond the first 65,536."""
    units = char.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[place : place + 4]}" for place in range(0, len(units), 4))


def csv_text(names: Sequence[str], rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as CSV with a head; no cell is a formula to a spreadsheet."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([csv_cell(row[name]) for name in names] for row in rows)
    return text.getvalue()


def csv_cell(value: object) -> object:
    """A value for a cell; text that a spreadsheet would calculate gets a leading apostrophe."""
    if not isinstance(value, str) or NUMBER.fullmatch(value):
        return value
    is_formula = not FORMULA_STARTS.isdisjoint((value[:1], value.lstrip()[:1]))
    return ("'" if is_formula else "") + visible(value)
