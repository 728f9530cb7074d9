"""Redacts providers' messages before they are stored: one line, bounded, without keys and without client text.

Providers quote the key that they reject (whole, or shortened as `sk-ant-...wxyz`), and prompts. Messages are kept in
the log and in the ledger, for all operators to see, so all of them pass through here. The client that sent the request
gets them unchanged (`relay.client_errors`). Pure and idempotent.

- Keys are recognized by their format, by what precedes them, and by being shortened in the middle; those sent with the
  request also by any prefix or suffix of PIECE_CHARS.
- Client text can't be recognized among quoted text. Names of fields, models and ids are short and without blanks;
  longer quotes, and what validators call `input`, are removed.
"""

import re
from typing import Final

MESSAGE_CHARS: Final = 300
READ_CHARS: Final = 8 * MESSAGE_CHARS
PIECE_CHARS: Final = 8
"""A shorter piece of a key is useless, and may be a word."""
NAME_CHARS: Final = 64
"""The longest quoted name that is kept, and..."""
WORDS_CHARS: Final = 24
"""...the longest quoted text with blanks in it."""
MASK: Final = "***"

INVISIBLE = re.compile(
    "[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\U000e0000-\U000e0fff]+"
)
BLANKS = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")
SECRETS = re.compile(
    r"\b(?:sk-|ccp_)[\w.*…-]{3,}"  # keys and tokens of Anthropic, most others, and this proxy; shortened ones too
    r"|\b[0-9a-f]{32}\.\w{4,}"  # Z.AI's keys
    r"|\beyJ[\w-]{8,}\.[\w.-]+"  # JSON web tokens
    r"|(?<=bearer )\S+"
    r"|(?<![\w-])[\w-]{2,}+(?:\.{3,}|…|\*{3,})[\w-]{2,}",  # anything shortened in the middle
    re.IGNORECASE,
)
NAMED_SECRETS = re.compile(
    r"\b((?:api[-_ ]?key|access[-_ ]?token|secret|password)['\"]?\s*[:=]\s*)[^\s,;]+", re.IGNORECASE
)
INPUTS = re.compile(r"(\binput_value=|['\"]input['\"]:\s*).*?(?=,\s*['\"]?input_type|, ['\"]?(?:ctx|url)['\"]?[:=]|\Z)")
"""The input as Python validators show it."""
QUOTED = re.compile(
    "|".join(
        rf"({begin})([^{end}\\]*(?:\\.[^{end}\\]*)*\\?)({end}|\Z)"
        for begin, end in (('"', '"'), ("`", "`"), ("\u201c", "\u201d"), ("\u00ab", "\u00bb"))
    )
    + "|((?<!\\w)['\u2018])([^'\u2019\\\\]*(?:(?:\\\\.|(?<=\\w)['\u2019](?=\\w))[^'\u2019\\\\]*)*\\\\?)(['\u2019]|\\Z)"
)
"""Quoted text, up to its closing quote or the end, which may be within an escape; an apostrophe within a word does not
end it."""


def redact(message: str, *secrets: str) -> str:
    """Return the redacted message; `secrets` are the credentials sent with the request."""
    line = BLANKS.sub(" ", INVISIBLE.sub("", message[:READ_CHARS])).strip()
    for secret in filter(None, secrets):
        line = line.replace(secret, MASK)
    line = NAMED_SECRETS.sub(rf"\1{MASK}", SECRETS.sub(MASK, line))
    for secret in secrets:
        line = without_pieces(line, secret)
    line = QUOTED.sub(shortened, INPUTS.sub(rf"\1{MASK}", line))
    return line if len(line) <= MESSAGE_CHARS else line[: MESSAGE_CHARS - 1] + "…"


def without_pieces(line: str, secret: str) -> str:
    """Return the line without any prefix or suffix of a secret."""
    sizes = range(len(secret), PIECE_CHARS - 1, -1)
    for piece in (*(secret[:size] for size in sizes), *(secret[-size:] for size in sizes)):
        if piece in line:
            line = line.replace(piece, MASK)
    return line


def shortened(quoted: re.Match[str]) -> str:
    """Return quoted text if it is short enough for a name."""
    begin, text, end = (part for part in quoted.groups() if part is not None)
    return quoted[0] if len(text) <= (WORDS_CHARS if " " in text else NAME_CHARS) else f"{begin}…{end}"
