"""Extracts what a provider's response says about errors and limits, as plain data.

Not here: conclusions. Kind, scope and waits are determined by `routing`; this module never raises, since providers may
send anything.

The rules:

- Header names are case-insensitive; of several with one name the last counts. Unreadable values are ignored.
- Three error shapes are known (`{"type":"error","error":{...}}`, `{"error":{...}}`, `{"error":"..."}`); Z.AI's codes
  are numbers or texts, in `error.code` or `error.type`, or only as `[1308]` at the start of the message (recorded
  responses), or in `code` beside `msg`.
- Times are Unix milliseconds. Unified resets are epoch seconds, those of API keys RFC 3339 (Anthropic's documentation
  and recorded headers); timestamps in Z.AI's messages are Beijing time without saying so (an issue of another proxy).
- `used_ratio` of a subscription's window is its utilization, a fraction; of an API key's limit, 1 - remaining / limit.
- Messages are bounded and lose keys and quoted text (`protocol.redaction`), since they end up in events and logs.
"""

import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from functools import lru_cache
from html import unescape
from itertools import islice
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct

from service.ledger.events import Window
from service.protocol.redaction import READ_CHARS, redact
from service.routing.failure import Facts
from service.settings import Route

BODY_BYTES_READ: Final = 1_048_576
"""Larger bodies are not error responses, and are not decoded."""
WAIT_MS_LIMIT: Final = 366 * 86_400_000
"""Waits are capped at a year."""
MOST_WINDOWS: Final = 32
"""Maximum windows read from one response; providers have a handful, and each is stored in the ledger."""
LATEST_MS: Final = 4_102_444_800_000
"""The year 2100; later times are invalid."""

# Window names in headers (recorded; `7d_oi` is specific to a model, and similar ones may follow).
UNIFIED = "anthropic-ratelimit-unified-"
UNIFIED_WINDOW = re.compile(r"(5h|7d(?:_[a-z0-9]{1,32})?)-(status|reset|utilization)")
LIMIT = "anthropic-ratelimit-"
LIMIT_WINDOW = re.compile(r"(requests|tokens|input-tokens|output-tokens)-(limit|remaining|reset)")

ZAI_ZONE = timezone(timedelta(hours=8))
ZAI_CODE_IN_MESSAGE = re.compile(r"\s*\[(\d{3,5})\]")
RESET_IN_MESSAGE = re.compile(
    # Z.AI: "will reset at 2026-09-12 00:35:41"; Anthropic's spend limits: "regain access on 2026-09-01 at 00:00 UTC".
    r"\b(?:resets?|regain access) (?:at|on) (\d{4}-\d{2}-\d{2})(?:[ T]| at )(\d{2}:\d{2}(?::\d{2})?)(?:\.\d+)?"
    r"\s?(Z\b|UTC\b|GMT\b|[+-]\d{2}:?\d{2}\b)?",
    re.IGNORECASE,
)
ANY_STAMP = re.compile(r"(?<!\d)(\d{4}-\d{2}-\d{2})[ T](\d{2}:\d{2}(?::\d{2})?)()(?![\d.]*[Z+])")
"""A stamp in words of whatever language, where the code has said already what it means."""
TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
CHINESE = re.compile("[\u4e00-\u9fff]")
TAG = re.compile(r"<[^>]*>")

HeaderItems = Iterable[tuple[bytes, bytes]]


class ErrorFacts(Struct, frozen=True):
    """The error in a provider's response. Texts are empty, and other values None, where it says nothing.

    `error_code` is Anthropic's `details.error_code` or Z.AI's number as text. `retry_after_ms` is how long to wait,
    `reset_at_ms` when the named limit ends. `unified_status` and `claim` are a subscription's: the word for all
    windows together, and the window that it is about. `is_page`: it is a web page or plain text, no JSON.
    """

    status: int
    error_type: str = ""
    error_code: str = ""
    message: str = ""
    retry_after_ms: int | None = None
    reset_at_ms: int | None = None
    should_retry: bool | None = None
    unified_status: str = ""
    claim: str = ""
    request_id: str = ""
    windows: dict[str, Window] = {}
    is_page: bool = False


def error_facts(status: int, headers: HeaderItems, body: bytes, now_ms: int) -> ErrorFacts:
    """Extract the facts of a response; `body` may also be the data of a stream's error event."""
    known = by_name(headers)
    fields = object_of(body)
    error = error_of(fields)
    raw_message = message_of(fields, error, body)
    code = code_of(error, raw_message) or code_text(fields.get("code"))
    word = text(error.get("type"))
    unified_reset = moment_ms(known.get(UNIFIED + "reset", ""))
    return ErrorFacts(
        status=status,
        error_type="" if word == code else word[:80],
        error_code=code,
        message=redact(raw_message),
        retry_after_ms=retry_after_ms(known, now_ms),
        reset_at_ms=unified_reset if unified_reset is not None else reset_in(raw_message, code),
        should_retry={"true": True, "false": False}.get(known.get("x-should-retry", "").lower()),
        unified_status=known.get(UNIFIED + "status", "")[:40],
        claim=known.get(UNIFIED + "representative-claim", "")[:40],
        request_id=(known.get("request-id") or text(fields.get("request_id")))[:80],
        windows=windows_of(headers),
        is_page=bool(raw_message) and not fields,
    )


def facts_for(answer: ErrorFacts, route: Route, model: str, now_ms: int) -> Facts:
    """Convert the facts for routing, with the route and the model sent."""
    after_ms = now_ms + answer.retry_after_ms if answer.retry_after_ms is not None else 0
    return Facts(
        status=answer.status,
        error_type=answer.error_type,
        error_code=answer.error_code,
        message=answer.message,
        retry_at_ms=after_ms,
        reset_at_ms=upcoming(answer.reset_at_ms, now_ms) or 0,
        should_retry=answer.should_retry,
        unified_status=answer.unified_status,
        claim=answer.claim,
        dialect=route.provider.dialect,
        provider=route.provider.id,
        model=model,
        is_page=answer.is_page,
    )


def windows_of(headers: HeaderItems) -> dict[str, Window]:
    """Return the quota windows in a response's headers: a subscription's (`5h`, `7d`, `7d_..`), then an API key's
    (`requests`, `tokens`, ..)."""
    unified: dict[str, dict[str, str]] = {}
    limits: dict[str, dict[str, str]] = {}
    for name, value in headers:
        if place := place_of(name):
            found = unified if place.is_unified else limits
            found.setdefault(place.window, {})[place.part] = value.decode("latin-1").strip()
    windows = {name: unified_window(parts) for name, parts in unified.items()}
    windows.update((name, limit_window(parts)) for name, parts in limits.items())
    return windows if len(windows) <= MOST_WINDOWS else dict(islice(windows.items(), MOST_WINDOWS))


def unified_window(parts: dict[str, str]) -> Window:
    """Return a subscription's window."""
    resets_at_ms = moment_ms(parts.get("reset", "")) or 0
    ratio = number(parts.get("utilization", ""))
    return Window(used_ratio=ratio, resets_at_ms=resets_at_ms, status=parts.get("status", "")[:40])


def limit_window(parts: dict[str, str]) -> Window:
    """Return an API key's window."""
    ratio = used_ratio(number(parts.get("limit", "")), number(parts.get("remaining", "")))
    return Window(used_ratio=ratio, resets_at_ms=moment_ms(parts.get("reset", "")) or 0)


class WindowHeader(NamedTuple):
    """The window and the part that a header reports."""

    is_unified: bool
    window: str
    part: str


@lru_cache(maxsize=256)
def place_of(name: bytes) -> WindowHeader | None:
    """Parse a header name such as `<prefix><window>-<part>`."""
    known = name.decode("latin-1").lower()
    if known.startswith(UNIFIED) and (match := UNIFIED_WINDOW.fullmatch(known, len(UNIFIED))):
        return WindowHeader(is_unified=True, window=match[1], part=match[2])
    if known.startswith(LIMIT) and (match := LIMIT_WINDOW.fullmatch(known, len(LIMIT))):
        return WindowHeader(is_unified=False, window=match[1], part=match[2])
    return None


def used_ratio(limit: float | None, remaining: float | None) -> float | None:
    """Return the used fraction of a limit."""
    if limit is None or remaining is None or limit <= 0:
        return None
    return max(0.0, 1 - remaining / limit)


def retry_after_ms(known: dict[str, str], now_ms: int) -> int | None:
    """Return the requested delay: `retry-after-ms`, else `retry-after` in seconds or as a date."""
    wait = number(known.get("retry-after-ms", ""))
    if wait is None:
        seconds = number(known.get("retry-after", ""))
        wait = None if seconds is None else seconds * 1000
    if wait is None:
        date = upcoming(date_ms(known.get("retry-after", "")), now_ms)
        wait = None if date is None else date - now_ms
    return None if wait is None else int(min(max(0, wait), WAIT_MS_LIMIT))


def upcoming(moment: int | None, now_ms: int) -> int | None:
    """Return the end of a wait unless it has passed: then one of the clocks is wrong, and the end unknown."""
    return moment if moment is not None and moment > now_ms else None


def date_ms(value: str) -> int | None:
    """Parse an HTTP date."""
    try:
        date = parsedate_to_datetime(value)
        return unix_ms(date if date.tzinfo else date.replace(tzinfo=UTC))
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


@lru_cache(maxsize=256)
def moment_ms(value: str) -> int | None:
    """Parse a time in epoch seconds (or, if it is that large, milliseconds) or RFC 3339; cached, because many responses
    have the same one."""
    seconds = number(value)
    if seconds is not None:
        moment = int(seconds if seconds > LATEST_MS / 1000 else seconds * 1000)
        return moment if moment <= LATEST_MS else None
    try:
        date = datetime.fromisoformat(value.strip())
        return unix_ms(date if date.tzinfo else date.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        return None


def reset_in(message: str, code: str = "") -> int | None:
    """Parse the reset time in a message; without an offset it is Z.AI's, in Beijing time.

    Beside a code of Z.AI's, or Chinese words, any stamp is the reset: nothing else has one there.
    """
    words = message[:READ_CHARS]
    match = RESET_IN_MESSAGE.search(words)
    if not match and (code.isdigit() or CHINESE.search(words)):
        match = ANY_STAMP.search(words)
    if not match:
        return None
    day, clock, offset = match.groups()
    offset = {None: "", "Z": "+00:00", "UTC": "+00:00", "GMT": "+00:00"}.get(offset and offset.upper(), offset)
    try:
        date = datetime.fromisoformat(f"{day}T{clock}{offset}")
        return unix_ms(date if date.tzinfo else date.replace(tzinfo=ZAI_ZONE))
    except (ValueError, OverflowError):
        return None


def unix_ms(date: datetime) -> int | None:
    """Return Unix milliseconds; None before 1970 and after 2100."""
    moment = round(date.timestamp() * 1000)
    return moment if 0 <= moment <= LATEST_MS else None


def number(value: str) -> float | None:
    """Parse a finite, non-negative number."""
    try:
        found = float(value)
    except ValueError:
        return None
    return found if math.isfinite(found) and found >= 0 else None


def error_of(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the error in a response's object, as an object."""
    error = fields.get("error")
    if isinstance(error, dict):
        return error
    return {"message": error} if isinstance(error, str) else {}


def code_of(error: dict[str, Any], message: str) -> str:
    """Return the provider's own error code, as text."""
    details = error.get("details")
    if isinstance(details, dict) and (code := code_text(details.get("error_code"))):
        return code
    if code := code_text(error.get("code")):
        return code
    if (code := code_text(error.get("type"))).isdigit():
        return code
    match = ZAI_CODE_IN_MESSAGE.match(message)
    return match[1] if match else ""


def code_text(value: Any) -> str:
    """Return a code as text, given as a text or a number."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)[:80]
    return text(value).strip()[:80]


def message_of(fields: dict[str, Any], error: dict[str, Any], body: bytes) -> str:
    """Return an error's message, or the text of a page or a plain body."""
    if fields:
        return text(error.get("message")) or text(fields.get("message")) or text(fields.get("msg"))
    words = body[:READ_CHARS].decode("utf-8", "replace")
    if not words.lstrip().startswith("<"):
        return words
    title = TITLE.search(words)
    return unescape(TAG.sub(" ", title[1] if title else words))


def object_of(body: bytes) -> dict[str, Any]:
    """Return a body's JSON object; empty for anything else."""
    if len(body) > BODY_BYTES_READ:
        return {}
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def by_name(headers: HeaderItems) -> dict[str, str]:
    """Return headers by lower-case name."""
    return {name.decode("latin-1").lower(): value.decode("latin-1").strip() for name, value in headers}


def text(value: Any) -> str:
    """Return a text; "" for anything else."""
    return value if isinstance(value, str) else ""
