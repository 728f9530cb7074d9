"""An error's words, taken apart: what of them is quoted, whether they point into the request, and their fingerprint.

Words that point into a request (a path, a field, a length, a model) are about that request; others may be about the
account that sent it. Not here: what follows from that (`service.routing`).
"""

import re
from collections.abc import Collection, Iterable
from hashlib import blake2b

from service.settings import Route

FINGERPRINT_BYTES = 8
# fmt: off
FIELDS = frozenset((
    "base64", "block", "blocks", "body", "budget_tokens", "bytes", "cache_control", "character", "characters",
    "citations", "container", "content", "context_management", "document", "effort", "field", "file", "file_id",
    "grammar", "header", "image", "inference_geo", "input", "input_schema", "json", "max_tokens", "mcp_servers",
    "media_type", "message", "messages", "metadata", "model", "output_config", "output_format", "parameter",
    "parameters", "pdf", "prompt", "role", "safeguards", "schema", "service_tier", "signature", "speed",
    "stop_sequences", "stream", "streaming", "system", "temperature", "text", "thinking", "thread", "token",
    "tokens", "tool", "tool_choice", "tool_result", "tool_use", "tool_use_id", "tools", "top_k", "top_p", "url",
    "utf",
))
# fmt: on
"""What the Messages API's documentation calls the parts of a request."""
QUOTED = re.compile(r'"[^"]*(?:"|\Z)|`[^`]*(?:`|\Z)|\u201c[^\u201d]*(?:\u201d|\Z)|(?<!\w)\'[^\']*(?:\'|\Z)')
PATH = re.compile(r"\b[a-z_]\w*(?:\.(?:\d+|[a-z_]\w*)|\[\d+\])+", re.IGNORECASE)
ADDRESS = re.compile(
    r"\w+://[^\s<>]+|[\w.+-]+@[\w.-]+|\b(?:[\w-]+\.)+(?:com|org|net|io|ai|dev|app|cn|jp|eu|fr|de|uk)\b(?:/[^\s<>]*)?|"
    r"\b(?:e\.g|i\.e)\b",
    re.IGNORECASE | re.ASCII,
)
"""Where to read on or to write to, which looks like a path into the request."""
LENGTH = re.compile(
    r"\b(?:too (?:long|large|many|big|short|small|few)|exceeds?|exceeded|maximum|minimum|at (?:most|least)|"
    r"(?:greater|less|longer|shorter|larger|more|fewer) than)\b",
    re.IGNORECASE,
)
WORD = re.compile(r"[a-z_]\w*", re.IGNORECASE)
IDS = re.compile(r"\b(?=\w*\d)[\w-]{6,}\b")
DIGITS = re.compile(r"\d+")
BLANKS = re.compile(r"\s+")
ESCAPED_BLANKS = re.compile(r"(?:\\[nrt]|\s)+")


def unquoted(message: str) -> str:
    """The words without what they quote, which a client may have written."""
    return QUOTED.sub(" ", message)


def without_echoes(message: str, phrases: Collection[str], texts: Iterable[str]) -> str:
    """The words without those that only repeat a text of the request, up to one of the phrases; all in lower case.

    Single words (a tool's parameter "account") prove nothing: providers use them on their own.
    """
    message = flat(message)
    for text in texts:
        told = flat(text[: 2 * len(message)]).lstrip()
        if told[:2] in message and (echo := echo_of(told, phrases, message)):
            message = message.replace(echo, " ")
    return message


def flat(text: str) -> str:
    """A text on one line and without escapes: providers repeat texts with other blanks, and escaped."""
    return ESCAPED_BLANKS.sub(" ", text).replace("\\", "")


def echo_of(text: str, phrases: Collection[str], message: str) -> str:
    """The longest beginning of a text that ends with a phrase, and that a message repeats; "" for none."""
    ends = sorted((text.find(phrase) + len(phrase) for phrase in phrases if phrase in text), reverse=True)
    echo = next((text[:end] for end in ends if text[:end] in message), "")
    return "" if echo.isascii() and echo.isalnum() else echo


def points_into_request(message: str, fields: Collection[str] = (), model: str = "") -> bool:
    """Whether words name a part of the request: a path, a field, a length or its model. `fields` are the request's own.

    Without a word for it, nothing is pointed at.
    """
    words = ADDRESS.sub(" ", message.lower())
    if PATH.search(words) or LENGTH.search(words) or (model and model.lower() in words):
        return True
    return any(word in FIELDS or word in fields for word in WORD.findall(words))


class Fingerprints:
    """Keyed 64-bit fingerprints: the same for all replicas with one key, and of no use to who does not know it."""

    def __init__(self, key: bytes) -> None:
        self._key = blake2b(key).digest()

    def of_words(self, endpoint: str, status: int, error_type: str, message: str) -> str:
        """Of an error: its words without what changes from one request to the next."""
        plain = BLANKS.sub(" ", DIGITS.sub("", IDS.sub("", unquoted(message.lower())))).strip()
        return self._hash("\0".join((endpoint, str(status), error_type, plain)).encode(errors="replace"))

    def of_body(self, body: bytes) -> str:
        """Of a request's body."""
        return self._hash(body)

    def _hash(self, data: bytes) -> str:
        return blake2b(data, digest_size=FINGERPRINT_BYTES, key=self._key).hexdigest()


def account_of(secret: str) -> str:
    """Which account a key or a log-in is of: a hash by which nobody finds it, the same wherever it is used."""
    return blake2b(secret.encode(), digest_size=FINGERPRINT_BYTES, person=b"ccproxy-account").hexdigest()


def key_accounts(routes: Iterable[Route]) -> dict[str, str]:
    """The accounts of the routes that have an API key, by the routes' ids."""
    return {route.id: account_of(route.api_key.reveal()) for route in routes if route.api_key}
