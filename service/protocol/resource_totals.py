"""Reads running totals from answers: the usage of sessions, of their threads, and of dreams, each since it was made.

Anthropic's managed agents work without a request of their own for each step; each answer that shows such a resource
shows its whole usage so far: one resource, a list of them, or the events of a session (`session.usage`). Usage of
single steps (`span.model_request_end`) is within these totals, and told again whenever events are listed.

Not here: what a total has grown (`service.ledger.running_totals`).
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Raw, Struct

from service.ledger.events import ResourceKind, TokenCounts
from service.ledger.model_names import bounded_name
from service.protocol.sse import EventTooLarge, SseReader
from service.protocol.tap import decode_tolerantly, value_of
from service.protocol.usage_reader import STANDARD_WORDS, UsageReader, is_below, text_or_empty, word_in

SESSIONS = "/v1/sessions"
KINDS: dict[str, ResourceKind] = {
    "session": "session",
    "session.usage": "session",
    "session_thread": "session_thread",
    "dream": "dream",
}
"""Objects that carry a running total, by their `type`."""
MOST_READINGS = 1_000
"""Maximum readings from one answer; a page of a list has a hundred."""
ID_CHARS = 128
OWN_FIELDS = ("list_cost", "active_seconds")
NUSD_PER_CENT = 10**7
MOST_CENTS = 10**9
MOST_SECONDS = 10**9


class TotalReading(Struct, frozen=True):
    """A running total: whose it is, and what it was. `part` is the thread or dream it is of, "" for the whole."""

    resource_id: str
    kind: ResourceKind
    part: str = ""
    model: str = ""
    tokens: TokenCounts = TokenCounts()
    tools: dict[str, int] = {}
    speed: str = ""
    geo: str = ""
    active_ms: int = 0
    made_at_ms: int = 0
    cost_nusd: int | None = None
    unread: tuple[str, ...] = ()


class ToldObject(Struct):
    """The fields of an object that are read, undecoded, so that an invalid one does not affect the others."""

    type: Raw = Raw(b"null")
    id: Raw = Raw(b"null")
    session_id: Raw = Raw(b"null")
    usage: Raw = Raw(b"null")
    agent: Raw = Raw(b"null")
    model: Raw = Raw(b"null")
    created_at: Raw = Raw(b"null")
    data: Raw = Raw(b"null")


_object_decoder = msgspec.json.Decoder(ToldObject)
_objects_decoder = msgspec.json.Decoder(list[Raw])


def totals_in(path: str, body: bytes) -> list[TotalReading]:
    """Return the totals in a whole answer to this path: of one object, or of those in its `data`."""
    told = told_object(body)
    if told is None:
        return []
    found = [reading] if (reading := reading_of(path, told)) else []
    return found + [reading for item in items_of(told) if (reading := reading_of(path, item))]


class TotalsTap:
    """Feed it the chunks of a session's event stream; it returns the totals that they complete. It never raises."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._reader: SseReader | None = SseReader()

    def feed(self, chunk: bytes) -> list[TotalReading]:
        """Return the totals of the events that end in this chunk."""
        if self._reader is None:
            return []
        try:
            bodies = [event.data for event in self._reader.events(chunk) if b"session.usage" in event.block]
        except EventTooLarge:
            self._reader = None
            return []
        return [reading for body in bodies for reading in totals_in(self._path, body)]


def told_object(raw: bytes | Raw) -> ToldObject | None:
    """Decode an object; None if it is none."""
    return decode_tolerantly(_object_decoder, raw)


def items_of(told: ToldObject) -> Iterator[ToldObject]:
    """Yield the objects of a list."""
    for item in (decode_tolerantly(_objects_decoder, told.data) or [])[:MOST_READINGS]:
        if found := told_object(item):
            yield found


def reading_of(path: str, told: ToldObject) -> TotalReading | None:
    """Return the total of an object; None if it has none."""
    kind_told = text_or_empty(value_of(told.type))
    kind = KINDS.get(kind_told)
    usage = value_of(told.usage)
    if kind is None or not isinstance(usage, dict):
        return None
    own_id, session_id = text_or_empty(value_of(told.id)), text_or_empty(value_of(told.session_id))
    if kind_told == "session.usage":  # an event, whose id is its own
        own_id, session_id = session_of(path), ""
    resource_id = session_id or own_id
    if not (is_id(own_id) and is_id(resource_id)) or (kind == "session_thread" and not session_id):
        return None
    part = own_id if session_id else ""
    return total_of(TotalReading(resource_id, kind, part, made_at_ms=made_ms(told, part)), usage, model_of(told))


def total_of(reading: TotalReading, usage: dict[str, Any], model: dict[str, Any]) -> TotalReading:
    """Return a reading with what its usage and its model say."""
    reader = UsageReader()
    reader.merge({name: value for name, value in usage.items() if name not in OWN_FIELDS})
    merged = reader.reading(text_or_empty(model.get("id")))
    return msgspec.structs.replace(
        reading,
        model=merged.model,
        tokens=merged.tokens,
        tools=merged.tools,
        speed=merged.speed or word_of(model.get("speed")),
        geo=merged.geo or word_of(model.get("inference_geo")),
        active_ms=active_ms(usage.get("active_seconds")),
        cost_nusd=None if reading.part else list_cost_nusd(usage.get("list_cost")),
        unread=merged.unread,
    )


def model_of(told: ToldObject) -> dict[str, Any]:
    """Return the model of a resource with its settings; a thread of an advisor names it without any."""
    agent = value_of(told.agent)
    model = agent.get("model") if isinstance(agent, dict) else value_of(told.model)
    return model if isinstance(model, dict) else {"id": bounded_name(text_or_empty(model))}


def session_of(path: str) -> str:
    """Return the session that a path names, "" if none."""
    return path.split("/")[3] if is_below(path, (SESSIONS,)) and path.count("/") > 2 else ""


def made_ms(told: ToldObject, part: str) -> int:
    """Return when a resource was created, 0 if unknown: a part is younger than the whole."""
    try:
        return (
            0
            if part
            else max(0, int(datetime.fromisoformat(text_or_empty(value_of(told.created_at))).timestamp() * 1000))
        )
    except (ValueError, OverflowError):
        return 0


def list_cost_nusd(told: Any) -> int | None:
    """Return the provider's sum in nano-dollars; None if it told none. It is told in cents, as a text."""
    if not isinstance(told, dict) or told.get("currency") != "USD":
        return None
    amount = text_or_empty(told.get("amount"))
    is_amount = amount.isascii() and amount.isdigit() and len(amount) < len(str(MOST_CENTS))
    return int(amount) * NUSD_PER_CENT if is_amount else None


def active_ms(told: Any) -> int:
    """Return a duration told in seconds."""
    is_duration = type(told) in (int, float) and 0 < told < MOST_SECONDS
    return int(told * 1000) if is_duration else 0


def word_of(told: Any) -> str:
    """Return a speed or geography; "" for the standard ones."""
    word = text_or_empty(told)
    return "" if word in STANDARD_WORDS else word_in(word)


def is_id(name: str) -> bool:
    """True if a name may be that of a resource."""
    return 0 < len(name) <= ID_CHARS and name.isprintable()
