"""From stream entries to a bounded batch of events that can be folded.

`Streams` is the port to Redis; `read_batch` decides what is read and sorts out what is no event. Not here: whether an
event is new (that is `project`'s), and anything that changes a stream.

A stream is taken for the one that the checkpoint was made of when the server is the same run and the checkpoint's own
entry is still in it (trimming keeps it: `publish.lua`). Anything else was emptied, restored or replaced, and is read
from its first entry.
"""

import re
from typing import NamedTuple, Protocol, TypeAlias, cast

import msgspec
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from service.ledger import ids, wire
from service.ledger.events import CONTROL_KINDS, AttemptEnded, AttemptLost, BatchItemUsed, Event
from service.ledger.model_names import NAME_CHARS
from service.redis_client.factory import execute_with_run_ids, open_sync
from workers.store import Rejected, SkippedSeq

NO_ENTRY = "0-0"
"""The stream id before the first entry."""
PAGE_ENTRIES = 200
BATCH_ENTRIES = 2_000
BATCH_EVENTS = 10_000
LATEST_MS = 1 << 42
"""In the year 2109; a later time is a mistake that would make the fold forget all before it."""
LATEST_ID = ids.lowest_id(LATEST_MS)
LARGEST_COUNT = 1 << 40
"""More tokens than any attempt can have, and few enough for sums to stay within Postgres' bigint."""
LARGEST_COST_NUSD = 1 << 50
UsageEvent: TypeAlias = AttemptEnded | AttemptLost | BatchItemUsed
CANONICAL_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class StreamEntry(NamedTuple):
    """One stream entry; `value` is None when it lacks the one field that ours have."""

    stream_id: str
    value: bytes | None


class EntryPage(NamedTuple):
    """Some entries of a stream, the run of the server that they were read from, and the epoch of the snapshot that
    stands there, 0 when there is none."""

    run_id: str
    epoch: int
    entries: list[StreamEntry]


class EventRecord(NamedTuple):
    """An event and the stream entry that it came in."""

    stream_id: str
    event: Event


class EntryBatch(NamedTuple):
    """What was read after a checkpoint, from the server's run and epoch. `replaced`: from the first entry, since the
    stream is another or was never read; `full`: a limit ended the batch, and there is more."""

    run_id: str
    epoch: int
    stream_id: str
    replaced: bool
    records: list[EventRecord]
    dead: list[Rejected]
    full: bool


class StreamSource(Protocol):
    """The two ways in which a stream is read."""

    def page(self, stream: str, first_id: str) -> EntryPage:
        """Up to PAGE_ENTRIES entries from `first_id` on, itself included, and the run of the server."""

    def last_id(self, stream: str) -> str:
        """The id of the stream's last entry, NO_ENTRY when it has none."""


def open_redis(url: str, *, retries: int = 1) -> Redis:
    """A client that answers or fails within seconds, with the replies' shapes the same on every server."""
    return open_sync(
        url,
        socket_timeout=5,
        socket_connect_timeout=2,
        retry=Retry(NoBackoff(), retries),
        protocol=3,
        legacy_responses=False,
    )


class Streams:
    """Streams on a Redis server."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis

    def page(self, stream: str, first_id: str) -> EntryPage:
        """Up to PAGE_ENTRIES entries from `first_id` on, itself included, and the run of the server.

        The run is asked last: a server that changed in between is found out.
        """
        pipeline = self.redis.pipeline(transaction=False)
        pipeline.xrange(wire.events_key(stream), min=first_id, count=PAGE_ENTRIES)
        pipeline.hget(wire.route_key(stream), "epoch")
        (found, epoch), [run_id] = execute_with_run_ids(self.redis, pipeline, [wire.events_key(stream)])
        field = wire.ENTRY_FIELD.encode()
        entries = [StreamEntry(entry_id.decode(), fields.get(field)) for entry_id, fields in found]
        return EntryPage(run_id, int(epoch or 0), entries)

    def last_id(self, stream: str) -> str:
        """The id of the stream's last entry, NO_ENTRY when it has none."""
        entries = cast("list[tuple[bytes, object]]", self.redis.xrevrange(wire.events_key(stream), count=1))
        return entries[0][0].decode() if entries else NO_ENTRY


def read_batch(streams: StreamSource, stream: str, run_id: str, stream_id: str) -> EntryBatch:
    """The next events after the checkpoint (run_id, stream_id); an empty `run_id` stands for a stream never read."""
    page = streams.page(stream, stream_id)
    replaced = page.run_id != run_id or not continues(page, stream_id)
    if replaced and stream_id != NO_ENTRY:
        stream_id = NO_ENTRY
        page = streams.page(stream, stream_id)
    run_id, epoch = page.run_id, page.epoch
    records: list[EventRecord] = []
    dead: list[Rejected] = []
    read = 0
    while page.run_id == run_id and continues(page, stream_id):
        for entry in page.entries[stream_id != NO_ENTRY :]:
            if read >= BATCH_ENTRIES or len(records) >= BATCH_EVENTS:
                return EntryBatch(run_id, epoch, stream_id, replaced, records, dead, full=True)
            take(entry, stream, records, dead)
            stream_id = entry.stream_id
            read += 1
        if len(page.entries) < PAGE_ENTRIES:
            break
        page = streams.page(stream, stream_id)
    return EntryBatch(run_id, epoch, stream_id, replaced, records, dead, full=False)


def continues(page: EntryPage, stream_id: str) -> bool:
    """Whether the page begins with the entry that was read last."""
    return stream_id == NO_ENTRY or (bool(page.entries) and page.entries[0].stream_id == stream_id)


def take(entry: StreamEntry, stream: str, records: list[EventRecord], dead: list[Rejected]) -> None:
    """Sort the events of one entry from what is none."""
    if entry.value is None:
        dead.append(Rejected(entry.stream_id, entry.stream_id.encode(), f"no field {wire.ENTRY_FIELD!r}"))
        return
    for decoded in wire.decode_entry(entry.value):
        if isinstance(decoded, wire.Undecodable):
            dead.append(Rejected(entry.stream_id, decoded.raw, decoded.reason))
        elif fault := fault_of(stream, decoded):
            dead.append(Rejected(entry.stream_id, wire.encode_event(decoded), fault))
        else:
            records.append(EventRecord(entry.stream_id, decoded))


def fault_of(stream: str, event: Event) -> str:
    """Why an event must not be folded, though it decodes: it would fail its batch for ever, or spoil the state."""
    if (type(event) in CONTROL_KINDS) != (stream == wire.CONTROL):
        return "not an event of this stream"
    if not CANONICAL_ID.fullmatch(event.event_id):
        return "event_id is no UUID in lower case"
    if not (0 <= event.at_ms < LATEST_MS and event.event_id < LATEST_ID):
        return "time out of range"
    if not 0 <= event.seq < LATEST_MS:
        return "seq out of range"
    if "\0" in getattr(event, "request_id", "") or not fits(event.replica):
        return "a name is too long or has a NUL"
    return fault_of_usage(event) if isinstance(event, UsageEvent) else ""


def fault_of_usage(event: UsageEvent) -> str:
    """Why an attempt, or an item of a batch, can't be counted."""
    tokens = event.tokens
    counts = (tokens.input, tokens.output, tokens.cache_read, tokens.cache_write_5m, tokens.cache_write_1h)
    if min(counts) < 0 or max(counts) > LARGEST_COUNT:
        return "tokens out of range"
    if event.cost_nusd is not None and not 0 <= event.cost_nusd <= LARGEST_COST_NUSD:
        return "cost out of range"
    if not (fits(event.model_sent) and fits(event.client_key)):
        return "a name is too long or has a NUL"
    if isinstance(event, AttemptEnded) and not 0 <= event.retry_at_ms < LATEST_MS:
        return "retry_at_ms out of range"
    return ""


def fits(name: str) -> bool:
    """Whether a name can be part of a key in Postgres."""
    return len(name) <= NAME_CHARS and "\0" not in name


class Numbered(msgspec.Struct):
    """What can be read of an event that is none."""

    replica: str = ""
    seq: int = 0
    at_ms: int = 0


_numbered_decoder = msgspec.json.Decoder(Numbered)


def number_of(raw: bytes) -> SkippedSeq | None:
    """The number of an event that is not folded, as far as it can be read.

    Its replica is told that it was heard: it lies safe in Postgres, and there is nothing to wait for.
    """
    try:
        told = _numbered_decoder.decode(raw)
    except wire.UNREADABLE:
        return None
    if not (told.replica and fits(told.replica) and 0 < told.seq < LATEST_MS):
        return None
    return SkippedSeq(told.replica, told.seq, told.at_ms if 0 <= told.at_ms < LATEST_MS else 0)
