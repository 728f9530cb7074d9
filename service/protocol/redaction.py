"""What may be kept of a provider's words: one line, bounded, without keys and without what a client wrote.

Providers quote: the key that they refuse (whole, or cut as `sk-ant-...wxyz`), and the prompt that they can't read.
Their words reach the log, the ledger for good, and everybody who may look at it; so all that is kept of them passes
here. The client whose request it was gets them as they came (`relay.client_errors`). Pure; applied twice it changes
nothing more.

- Keys are known by their forms, by what stands before them, and by being cut in the middle; those that were sent with
  the request also by any beginning or end of PIECE_CHARS.
- Whether quoted text is a client's can't be told. Names of fields, models and ids are short and without blanks; what is
  longer, and what validators call `input`, is left out.
"""

import re
from typing import Final

MESSAGE_CHARS: Final = 300
READ_CHARS: Final = 8 * MESSAGE_CHARS
PIECE_CHARS: Final = 8
"""A shorter piece of a key is of no use to anybody, and may be a word."""
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
    r"\b(?:sk-|ccp_)[\w.*…-]{3,}"  # Anthropic's and most others' keys and tokens, and this proxy's; cut ones too
    r"|\b[0-9a-f]{32}\.\w{4,}"  # Z.AI's keys
    r"|\beyJ[\w-]{8,}\.[\w.-]+"  # JSON web tokens
    r"|(?<=bearer )\S+"
    r"|(?<![\w-])[\w-]{2,}+(?:\.{3,}|…|\*{3,})[\w-]{2,}",  # any that is cut in the middle
    re.IGNORECASE,
)
NAMED_SECRETS = re.compile(
    r"\b((?:api[-_ ]?key|access[-_ ]?token|secret|password)['\"]?\s*[:=]\s*)[^\s,;]+", re.IGNORECASE
)
INPUTS = re.compile(r"(\binput_value=|['\"]input['\"]:\s*).*?(?=,\s*['\"]?input_type|, ['\"]?(?:ctx|url)['\"]?[:=]|\Z)")
"""What validators of Python show of what they were given."""
QUOTED = re.compile(
    "|".join(
        rf"({begin})((?:[^{end}\\]|\\.)*+)({end}|\Z)"
        for begin, end in (('"', '"'), ("`", "`"), ("\u201c", "\u201d"), ("\u00ab", "\u00bb"))
    )
    + "|((?<!\\w)['\u2018])((?:[^'\u2019\\\\]|\\\\.|(?<=\\w)['\u2019](?=\\w))*+)(['\u2019]|\\Z)"
)
"""Quoted text, to its end or to that of the words; an apostrophe within a word ends none."""


def redact(message: str, *secrets: str) -> str:
    """The words that may be kept; `secrets` are the credentials that were sent with the request."""
    line = BLANKS.sub(" ", INVISIBLE.sub("", message[:READ_CHARS])).strip()
    for secret in filter(None, secrets):
        line = line.replace(secret, MASK)
    line = NAMED_SECRETS.sub(rf"\1{MASK}", SECRETS.sub(MASK, line))
    for secret in secrets:
        line = without_pieces(line, secret)
    line = QUOTED.sub(shortened, INPUTS.sub(rf"\1{MASK}", line))
    return line if len(line) <= MESSAGE_CHARS else line[: MESSAGE_CHARS - 1] + "…"


def without_pieces(line: str, secret: str) -> str:
    """The line without any beginning or end of a secret."""
    sizes = range(len(secret), PIECE_CHARS - 1, -1)
    for piece in (*(secret[:size] for size in sizes), *(secret[-size:] for size in sizes)):
        if piece in line:
            line = line.replace(piece, MASK)
    return line


def shortened(quoted: re.Match[str]) -> str:
    """Quoted text, if it is short enough for a name."""
    begin, text, end = (part for part in quoted.groups() if part is not None)
    return quoted[0] if len(text) <= (WORDS_CHARS if " " in text else NAME_CHARS) else f"{begin}…{end}"
