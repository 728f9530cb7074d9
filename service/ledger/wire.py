"""Names of Redis keys, and bytes of stream entries and snapshots. Who reads and writes them is others' business.

Every key of one stream carries the stream's name as its hash tag, so that all of them lie on one slot of a Redis
Cluster. A stream is named after its route; `control` is the operators' stream.
"""

from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from service.ledger.events import Event
from service.ledger.state import ControlLedger, Ledger, RouteLedger

CONTROL = "control"
PREFIX = "ccproxy"
STREAMS_KEY = f"{PREFIX}:streams"
"""A set: the names of all streams that were ever written."""
CHANGES_CHANNEL = f"{PREFIX}:changes"
"""Pub/sub: a `SettingsChange` for every snapshot that is published, and `CONTROL_NEWS`."""
REPLICAS_KEY = f"{PREFIX}:replicas"
"""A sorted set: the replicas alive, by their last heartbeat."""
REPLICA_PREFIX = f"{PREFIX}:replica:"
FOLD_QUEUE = PREFIX
"""The RQ queue of wake-ups."""
REPORT_QUEUE = f"{PREFIX}-reports"
"""The RQ queue of reports that proxies ask of the workers."""
ENTRY_FIELD = "e"
"""The one field of a stream entry: a JSON array of events of one replica."""
SNAPSHOT_VERSION = 1


def events_key(stream: str) -> str:
    """The Redis stream of events."""
    return f"{PREFIX}:{{{stream}}}:events"


def snapshot_key(stream: str) -> str:
    """The newest published snapshot, JSON."""
    return f"{PREFIX}:{{{stream}}}:snapshot"


def route_key(stream: str) -> str:
    """The hash of readings for operators."""
    return f"{PREFIX}:{{{stream}}}:route"


def wake_key(stream: str) -> str:
    """Held from the enqueueing of a wake-up until its job begins."""
    return f"{PREFIX}:{{{stream}}}:wake"


def probe_key(stream: str) -> str:
    """Held by the one attempt that tries out a route whose circuit is half open."""
    return f"{PREFIX}:{{{stream}}}:probe"


def slots_key(stream: str) -> str:
    """A sorted set of a limited route's attempts under way, by when each runs out: fleet time."""
    return f"{PREFIX}:{{{stream}}}:slots"


def reserved_key(stream: str) -> str:
    """A hash of what attempts have reserved of a route's quota: "tokens end replica seq at", seq 0 while under way."""
    return f"{PREFIX}:{{{stream}}}:reserved"


def replica_key(replica: str) -> str:
    """A replica's heartbeat: a hash that expires."""
    return f"{REPLICA_PREFIX}{replica}"


def resource_key(resource_id: str) -> str:
    """The route on which a batch, file, container or thread lives."""
    return f"{PREFIX}:resource:{resource_id}"


def oauth_token_key(route: str) -> str:
    """A subscription's access token, sealed; it expires with the token."""
    return f"{PREFIX}:{{{route}}}:oauth-token"


def oauth_asked_key(route: str) -> str:
    """Asks whoever can to refresh a subscription's token: names the one that is no use any more; expires."""
    return f"{PREFIX}:{{{route}}}:oauth-asked"


def oauth_lease_key(route: str) -> str:
    """Held by the one proxy of the fleet that refreshes a subscription's token; expires."""
    return f"{PREFIX}:{{{route}}}:oauth-lease"


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A stream's ledger as of a checkpoint.

    `epoch` rises when Redis was found empty or older; `position` counts the stream's events in Postgres; `stream_id` is
    the last stream entry in it; `as_of_ms` is when it was published. Greater (epoch, position) is newer.
    """

    version: int
    stream: str
    epoch: int
    position: int
    stream_id: str
    as_of_ms: int
    ledger: msgspec.Raw


class Change(msgspec.Struct, frozen=True):
    """Told on `CHANGES_CHANNEL`: this stream has a snapshot at (epoch, position)."""

    stream: str
    epoch: int
    position: int


class Undecodable(msgspec.Struct, frozen=True):
    """Bytes that this version does not understand, and why."""

    raw: bytes
    reason: str


Decoded: TypeAlias = Event | Undecodable
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises: for another shape, for text that is no UTF-8, for brackets without end."""

_encoder = msgspec.json.Encoder()
_events_decoder: msgspec.json.Decoder[list[Event]] = msgspec.json.Decoder(list[Event])
_event_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_raw_list_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_snapshot_decoder = msgspec.json.Decoder(Snapshot)
_route_ledger_decoder = msgspec.json.Decoder(RouteLedger)
_control_ledger_decoder = msgspec.json.Decoder(ControlLedger)
_change_decoder = msgspec.json.Decoder(Change)


def entry_order(entry_id: str) -> tuple[int, int]:
    """The id of a stream entry as numbers that can be compared: its time in milliseconds, and the count within it."""
    at_ms, _, count = entry_id.partition("-")
    return int(at_ms), int(count or 0)


def encode_entry(events: Sequence[Event]) -> bytes:
    """The value of `ENTRY_FIELD` for these events."""
    return _encoder.encode(events)


def decode_entry(value: bytes) -> list[Decoded]:
    """The events of one entry, in order; what can't be decoded comes as `Undecodable`, never as an error."""
    try:
        return list(_events_decoder.decode(value))
    except UNREADABLE:
        return _decode_one_by_one(value)


def _decode_one_by_one(value: bytes) -> list[Decoded]:
    try:
        parts = _raw_list_decoder.decode(value)
    except UNREADABLE as error:
        return [Undecodable(value, str(error))]
    return [decode_event(bytes(part)) for part in parts]


def encode_event(event: Event) -> bytes:
    """One event as it stands in Postgres and in the spool."""
    return _encoder.encode(event)


def decode_event(raw: bytes) -> Decoded:
    """One event, or why it is none."""
    try:
        return _event_decoder.decode(raw)
    except UNREADABLE as error:
        return Undecodable(raw, str(error))


def new_ledger(stream: str) -> Ledger:
    """The empty ledger of a stream."""
    return ControlLedger() if stream == CONTROL else RouteLedger()


def encode_ledger(ledger: Ledger) -> bytes:
    """A ledger as JSON."""
    return _encoder.encode(ledger)


def decode_ledger(stream: str, raw: bytes | msgspec.Raw) -> Ledger:
    """A stream's ledger from JSON; raises msgspec.DecodeError when it is none."""
    if stream == CONTROL:
        return _control_ledger_decoder.decode(raw)
    return _route_ledger_decoder.decode(raw)


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """A snapshot as it lies in Redis."""
    return _encoder.encode(snapshot)


def decode_snapshot(raw: bytes) -> Snapshot | None:
    """A snapshot, or None when it is unreadable or of a version that this code does not know."""
    try:
        snapshot = _snapshot_decoder.decode(raw)
    except UNREADABLE:
        return None
    return snapshot if snapshot.version == SNAPSHOT_VERSION else None


def encode_change(change: Change) -> bytes:
    """A notice for `CHANGES_CHANNEL`."""
    return _encoder.encode(change)


CONTROL_NEWS = encode_change(Change(CONTROL, 0, 0))
"""Told on `CHANGES_CHANNEL` when an operator's event was appended: it counts before any snapshot has heard it."""


def decode_change(raw: bytes) -> Change | None:
    """A notice, or None when it is unreadable."""
    try:
        return _change_decoder.decode(raw)
    except UNREADABLE:
        return None
