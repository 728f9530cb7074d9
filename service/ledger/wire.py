"""Redis key names, and the encoding of stream entries and snapshots. No I/O.

Every key of one stream carries the stream's name as its hash tag, so that all of them lie in one slot of a Redis
Cluster. A stream is named after its route; `control` is the operators' stream.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec

from service.ledger.events import Event
from service.ledger.state import ControlLedger, Ledger, RouteLedger

CONTROL = "control"
PREFIX = "ccproxy"
STREAMS_KEY = f"{PREFIX}:streams"
"""A set: the names of all streams that were ever written."""
CHANGES_CHANNEL = f"{PREFIX}:changes"
"""Pub/sub channel: a `Change` for every published snapshot, and `CONTROL_NEWS`."""
FINGERPRINT_KEY = f"{PREFIX}:fingerprint-key"
"""A random key for fingerprints of errors and requests, where no configured secret is there to derive one from."""
REPLICAS_KEY = f"{PREFIX}:replicas"
"""A sorted set: the live replicas, by their last heartbeat."""
REPLICA_PREFIX = f"{PREFIX}:replica:"
WORKERS_KEY = f"{PREFIX}:workers"
"""A hash: the workers by name, each with its last `WorkerBeat` as JSON."""
WORKER_TTL_MS = 30_000
"""A worker without a heartbeat for this long is gone."""
FOLD_QUEUE = PREFIX
"""The RQ queue of fold jobs."""
REPORT_QUEUE = f"{PREFIX}-reports"
"""The RQ queue of report jobs."""
ENTRY_FIELD = "e"
"""The only field of a stream entry: a JSON array of events of one replica."""
SNAPSHOT_VERSION = 1
"""The newest version of snapshots. It rises only when a field changes its meaning: fields are added without it."""
READS_FIELD = "reads"
"""The field of a heartbeat that says which version of snapshots its proxy reads; without it, the first."""


def events_key(stream: str) -> str:
    """Key of the Redis stream of events."""
    return f"{PREFIX}:{{{stream}}}:events"


def snapshot_key(stream: str) -> str:
    """Key of the newest published snapshot, JSON."""
    return f"{PREFIX}:{{{stream}}}:snapshot"


def route_key(stream: str) -> str:
    """Key of the hash of a route's status, for operators."""
    return f"{PREFIX}:{{{stream}}}:route"


def wake_key(stream: str) -> str:
    """Key of the guard that is set from the enqueueing of a fold job until the job begins."""
    return f"{PREFIX}:{{{stream}}}:wake"


def probe_key(stream: str) -> str:
    """Key of the probe lease of a half-open circuit."""
    return f"{PREFIX}:{{{stream}}}:probe"


def answered_key(stream: str) -> str:
    """Key of the note that a probe of a half-open circuit has received content; expires."""
    return f"{PREFIX}:{{{stream}}}:answered"


def slots_key(stream: str) -> str:
    """Key of the sorted set of a limited route's attempts in progress, by expiry in fleet time."""
    return f"{PREFIX}:{{{stream}}}:slots"


def reserved_key(stream: str) -> str:
    """Key of the hash of a route's quota reservations: "tokens end replica seq at", seq 0 while in progress."""
    return f"{PREFIX}:{{{stream}}}:reserved"


def spent_key(stream: str) -> str:
    """Key of the note that less is left of a route's weekly limit than a request reserves: "week_start_ms limit"."""
    return f"{PREFIX}:{{{stream}}}:spent"


def replica_key(replica: str) -> str:
    """Key of a replica's heartbeat: a hash that expires."""
    return f"{REPLICA_PREFIX}{replica}"


def resource_key(resource_id: str) -> str:
    """Key of the route on which a batch, file, container or thread lives."""
    return f"{PREFIX}:resource:{resource_id}"


def oauth_token_key(route: str) -> str:
    """Key of a subscription's encrypted access token, which expires with the token."""
    return f"{PREFIX}:{{{route}}}:oauth-token"


def oauth_asked_key(route: str) -> str:
    """Key of a request to refresh a subscription's token, naming the useless one; expires."""
    return f"{PREFIX}:{{{route}}}:oauth-asked"


def oauth_lease_key(route: str) -> str:
    """Key of the lease of the one proxy that refreshes a subscription's token; expires."""
    return f"{PREFIX}:{{{route}}}:oauth-lease"


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A stream's ledger as of a checkpoint.

    `epoch` rises when Redis was found empty or rolled back; `position` counts the stream's events in Postgres;
    `stream_id` is the last stream entry in it; `as_of_ms` is when it was published. Greater (epoch, position) is newer.
    """

    version: int
    stream: str
    epoch: int
    position: int
    stream_id: str
    as_of_ms: int
    ledger: msgspec.Raw


OLDER_SHAPES: dict[int, Callable[[Ledger], Ledger]] = {}
"""For each version before the newest, what makes its ledger of that of the next one, without changing it."""


STATE_VERSION = 3
"""Version of the state that a checkpoint stores: 1 is a ledger alone, 2 has the version before it, 3 has usage
beside a model's own answers.

It rises when a ledger has what an older worker would lose by reading and writing it. Such a worker can't read it, and
leaves the stream to newer ones.
"""


class NewerState(Exception):
    """A stored state of a newer version, whose workers go on with it."""


class WorkerBeat(msgspec.Struct, frozen=True):
    """A worker's heartbeat in fleet time. `problems` is what keeps it from folding, in words for operators."""

    at_ms: int
    version: str = ""
    pid: int = 0
    problems: tuple[str, ...] = ()


class Change(msgspec.Struct, frozen=True):
    """Notification on `CHANGES_CHANNEL`: this stream has a snapshot at (epoch, position)."""

    stream: str
    epoch: int
    position: int


class Undecodable(msgspec.Struct, frozen=True):
    """Bytes that this version can't decode, and the reason."""

    raw: bytes
    reason: str


Decoded: TypeAlias = Event | Undecodable
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Errors of decoding: wrong shape, invalid UTF-8, nesting without end."""

_encoder = msgspec.json.Encoder()
_events_decoder: msgspec.json.Decoder[list[Event]] = msgspec.json.Decoder(list[Event])
_event_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_raw_list_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_snapshot_decoder = msgspec.json.Decoder(Snapshot)
_state_decoder = msgspec.json.Decoder(tuple[int, msgspec.Raw])
_route_ledger_decoder = msgspec.json.Decoder(RouteLedger)
_control_ledger_decoder = msgspec.json.Decoder(ControlLedger)
_change_decoder = msgspec.json.Decoder(Change)


def entry_order(entry_id: str) -> tuple[int, int]:
    """Convert a stream entry's id to comparable numbers: milliseconds, and the sequence number within it."""
    at_ms, _, count = entry_id.partition("-")
    return int(at_ms), int(count or 0)


def encode_entry(events: Sequence[Event]) -> bytes:
    """Encode events as the value of `ENTRY_FIELD`."""
    return _encoder.encode(events)


def decode_entry(value: bytes) -> list[Decoded]:
    """Decode the events of one entry, in order; invalid ones are returned as `Undecodable`, never raised."""
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
    """Encode one event for Postgres and the spool."""
    return _encoder.encode(event)


def decode_event(raw: bytes | str) -> Decoded:
    """Decode one event, or return the reason why it can't be."""
    try:
        return _event_decoder.decode(raw)
    except UNREADABLE as error:
        return Undecodable(raw.encode() if isinstance(raw, str) else raw, str(error))


def decode_lines(raw: bytes) -> list[Event] | None:
    """Decode events, one a line; None if one of them can't be."""
    try:
        return _event_decoder.decode_lines(raw)
    except UNREADABLE:
        return None


def new_ledger(stream: str) -> Ledger:
    """Return the empty ledger of a stream."""
    return ControlLedger() if stream == CONTROL else RouteLedger()


def encode_ledger(ledger: Ledger) -> bytes:
    """Encode a ledger as JSON."""
    return _encoder.encode(ledger)


def decode_ledger(stream: str, raw: bytes | msgspec.Raw) -> Ledger:
    """Decode a stream's ledger; raises msgspec.DecodeError if it is invalid."""
    if stream == CONTROL:
        return _control_ledger_decoder.decode(raw)
    return _route_ledger_decoder.decode(raw)


def encode_state(ledger: Ledger) -> bytes:
    """Encode a ledger as the state of a checkpoint."""
    return _encoder.encode((STATE_VERSION, ledger))


def decode_state(stream: str, raw: bytes) -> Ledger:
    """Decode the state of a checkpoint. Raises NewerState, and msgspec.DecodeError if it is invalid."""
    if raw.startswith(b"{"):
        return decode_ledger(stream, raw)
    version, ledger = _state_decoder.decode(raw)
    if version > STATE_VERSION:
        raise NewerState(
            f"the stream {stream} was folded by a newer version; its workers go on with it. Without them: run that "
            "version, or restore a backup that was made before it, `ccproxy restore --replace FILE`"
        )
    return decode_ledger(stream, ledger)


def as_of_version(ledger: Ledger, version: int) -> Ledger:
    """Return a ledger as readers of a version understand it."""
    for older in range(SNAPSHOT_VERSION - 1, version - 1, -1):
        ledger = OLDER_SHAPES[older](ledger)
    return ledger


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """Encode a snapshot for Redis."""
    return _encoder.encode(snapshot)


def decode_snapshot(raw: bytes) -> Snapshot | None:
    """Decode a snapshot; None if it is unreadable or of a newer version."""
    try:
        snapshot = _snapshot_decoder.decode(raw)
    except UNREADABLE:
        return None
    return snapshot if 1 <= snapshot.version <= SNAPSHOT_VERSION else None


def encode_change(change: Change) -> bytes:
    """Encode a notification for `CHANGES_CHANNEL`."""
    return _encoder.encode(change)


CONTROL_NEWS = encode_change(Change(CONTROL, 0, 0))
"""Sent on `CHANGES_CHANNEL` when an operator's event was appended, since it takes effect before any snapshot includes
it."""


def decode_change(raw: bytes) -> Change | None:
    """Decode a notification; None if it is unreadable."""
    try:
        return _change_decoder.decode(raw)
    except UNREADABLE:
        return None
