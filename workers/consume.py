"""Reads stream entries into a bounded batch of valid events.

`Streams` is the Redis adapter; `read_batch` decides what to read and separates invalid entries. Not here: deduplication
(`project`), and anything that changes a stream.

A stream is the same one that the checkpoint describes if the server has the same run id and the checkpoint's entry
still exists (trimming keeps it: `publish.lua`). Any other stream was emptied, restored or replaced, and is read from
its first entry.
"""

import re
from typing import NamedTuple, Protocol, cast

import msgspec
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from service.ledger import ids, wire
from service.ledger.events import CONTROL_KINDS, AttemptEnded, Event, ResourceUsed, TokenCounts, UsageRepriced
from service.ledger.model_names import NAME_CHARS
from service.ledger.usage_lines import NO_TOKENS, UsageEvent, usage_lines
from service.redis_client.factory import execute_with_run_ids, open_sync
from workers.store import Rejected, SkippedSeq

NO_ENTRY = "0-0"
"""The stream id before the first entry."""
PAGE_ENTRIES = 200
BATCH_ENTRIES = 2_000
BATCH_EVENTS = 10_000
LATEST_MS = 1 << 42
"""In the year 2109. A later time must be an error; folding it would make everything before it expire."""
LATEST_ID = ids.lowest_id(LATEST_MS)
LARGEST_COUNT = 1 << 40
"""More tokens than any attempt can have, and few enough for sums to fit Postgres' bigint."""
LARGEST_COST_NUSD = 1 << 50
CANONICAL_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class StreamEntry(NamedTuple):
    """A stream entry; `value` is None if the entry lacks the expected field."""

    stream_id: str
    value: bytes | None


class EntryPage(NamedTuple):
    """A page of entries, the server's run id, and the epoch of the published snapshot (0 if there is none)."""

    run_id: str
    epoch: int
    entries: list[StreamEntry]


class EventRecord(NamedTuple):
    """An event and the id of its stream entry."""

    stream_id: str
    event: Event


class EntryBatch(NamedTuple):
    """The events after a checkpoint, with the server's run id and epoch. `replaced`: read from the first entry, since
    the stream is new or another one; `full`: a limit ended the batch, and there is more."""

    run_id: str
    epoch: int
    stream_id: str
    replaced: bool
    records: list[EventRecord]
    dead: list[Rejected]
    full: bool


class StreamSource(Protocol):
    """The settings of reading streams."""

    def page(self, stream: str, first_id: str) -> EntryPage:
        """Return up to PAGE_ENTRIES entries from `first_id` on (inclusive), and the server's run id."""

    def last_id(self, stream: str) -> str:
        """Return the id of the stream's last entry, NO_ENTRY if it is empty."""


def open_redis(url: str, *, retries: int = 1) -> Redis:
    """Open a client with short timeouts and the same reply shapes on every server version."""
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
        """Return up to PAGE_ENTRIES entries from `first_id` on (inclusive), and the server's run id.

        The run id is read last, so that a server replaced in between is noticed.
        """
        pipeline = self.redis.pipeline(transaction=False)
        pipeline.xrange(wire.events_key(stream), min=first_id, count=PAGE_ENTRIES)
        pipeline.hget(wire.route_key(stream), "epoch")
        (found, epoch), [run_id] = execute_with_run_ids(self.redis, pipeline, [wire.events_key(stream)])
        field = wire.ENTRY_FIELD.encode()
        entries = [StreamEntry(entry_id.decode(), fields.get(field)) for entry_id, fields in found]
        return EntryPage(run_id, int(epoch or 0), entries)

    def last_id(self, stream: str) -> str:
        """Return the id of the stream's last entry, NO_ENTRY if it is empty."""
        entries = cast("list[tuple[bytes, object]]", self.redis.xrevrange(wire.events_key(stream), count=1))
        return entries[0][0].decode() if entries else NO_ENTRY


def read_batch(streams: StreamSource, stream: str, run_id: str, stream_id: str) -> EntryBatch:
    """Read the next events after the checkpoint (run_id, stream_id); an empty `run_id` means a stream never read."""
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
    """True if the page begins with the last entry that was read."""
    return stream_id == NO_ENTRY or (bool(page.entries) and page.entries[0].stream_id == stream_id)


def take(entry: StreamEntry, stream: str, records: list[EventRecord], dead: list[Rejected]) -> None:
    """Decode an entry's events into `records`, and invalid ones into `dead`."""
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
    """Return why a decodable event must not be folded, "" if it may: it would fail each batch, or corrupt the state."""
    if (type(event) in CONTROL_KINDS) != (stream == wire.CONTROL):
        return "not an event of this stream"
    if not CANONICAL_ID.fullmatch(event.event_id):
        return "event_id is not a lower-case UUID"
    if not (0 <= event.at_ms < LATEST_MS and event.event_id < LATEST_ID):
        return "time out of range"
    if not 0 <= event.seq < LATEST_MS:
        return "seq out of range"
    if "\0" in getattr(event, "request_id", "") or not fits(event.replica):
        return "a name is too long or has a NUL"
    return fault_of_money(event)


def fault_of_money(event: Event) -> str:
    """Return why an event's usage or prices can't be counted, "" if they can, or it has none."""
    if isinstance(event, UsageEvent):
        return fault_of_usage(event)
    if isinstance(event, ResourceUsed):
        return fault_of_total(event)
    return fault_of_prices(event) if isinstance(event, UsageRepriced) else ""


def fault_of_usage(event: UsageEvent) -> str:
    """Return why an attempt's or batch item's usage can't be counted, "" if it can."""
    if not (fits(event.model_sent) and fits(event.client_key)):
        return "a name is too long or has a NUL"
    for line in usage_lines(event):
        if fault := fault_of_counts(line.tokens, line.cost_nusd, line.model):
            return fault
    if isinstance(event, AttemptEnded) and not 0 <= event.retry_at_ms < LATEST_MS:
        return "retry_at_ms out of range"
    return ""


def fault_of_total(event: ResourceUsed) -> str:
    """Return why a resource's running total can't be counted, "" if it can."""
    if not fits(event.client_key):
        return "a name is too long or has a NUL"
    return fault_of_counts(event.tokens, event.cost_nusd, event.model) or fault_of_counts(
        event.rates_nusd or NO_TOKENS, None, ""
    )


def fault_of_prices(event: UsageRepriced) -> str:
    """Return why a new price can't be counted, "" if it can."""
    if not fits(event.client_key):
        return "a name is too long or has a NUL"
    for change in event.changes:
        for cost_nusd in (change.was_nusd, change.cost_nusd):
            if fault := fault_of_counts(NO_TOKENS, cost_nusd, change.model):
                return fault
    return ""


def fault_of_counts(tokens: TokenCounts, cost_nusd: int | None, model: str) -> str:
    """Return why tokens of a model, at this cost, can't be counted, "" if they can."""
    counts = (tokens.input, tokens.output, tokens.cache_read, tokens.cache_write_5m, tokens.cache_write_1h)
    if min(counts) < 0 or max(counts) > LARGEST_COUNT:
        return "tokens out of range"
    if cost_nusd is not None and not 0 <= cost_nusd <= LARGEST_COST_NUSD:
        return "cost out of range"
    return "" if fits(model) else "a name is too long or has a NUL"


def fits(name: str) -> bool:
    """True if a name fits into a Postgres key."""
    return len(name) <= NAME_CHARS and "\0" not in name


class Numbered(msgspec.Struct):
    """The fields that identify an event, decoded from an otherwise invalid one."""

    replica: str = ""
    seq: int = 0
    at_ms: int = 0


_numbered_decoder = msgspec.json.Decoder(Numbered)


def number_of(raw: bytes) -> SkippedSeq | None:
    """Decode the number of an event that is not folded, or None.

    It is acknowledged to the replica all the same: the event is stored in Postgres, and need not be sent again.
    """
    try:
        header = _numbered_decoder.decode(raw)
    except wire.UNREADABLE:
        return None
    if not (header.replica and fits(header.replica) and 0 < header.seq < LATEST_MS):
        return None
    return SkippedSeq(header.replica, header.seq, header.at_ms if 0 <= header.at_ms < LATEST_MS else 0)
