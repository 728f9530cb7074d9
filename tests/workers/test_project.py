"""The laws of folding one batch: exactly once, in order, all or nothing."""

from threading import Thread
from typing import Any

import msgspec
import pytest
from redis import Redis

from service.ledger import fold, ids, wire
from service.ledger.events import AttemptEnded, ClientKeyIssued, RouteDisabled
from service.ledger.state import ControlLedger, RouteLedger
from tests.support.stream_factories import (
    NOON_MS,
    STREAM,
    append,
    append_each,
    append_raw,
    ended,
    many,
    new_id,
    spooled,
    started,
)
from tests.support.waiting import eventually
from tests.workers.conftest import Bench
from workers import consume
from workers.consume import EntryPage, EventRecord, Streams
from workers.project import RowChain
from workers.store import Row, Store, partition_name, week_of


def plain(ledger: Any) -> Any:
    """A ledger as plain values: what it says, whatever the order in which it was written."""
    return msgspec.to_builtins(ledger)


class Broken(Exception):
    """What a test breaks a transaction with."""


def test_a_batch_is_folded_once(bench: Bench) -> None:
    """Every event of a batch is one row and counts once, and reading again adds nothing."""
    append(bench.redis, [started(1), ended(2, outcome="failed", kind="server_error", scope="provider")])
    append(bench.redis, [ended(3)])
    first = bench.project()
    second = bench.project()
    assert (first.position, first.moved, second.position, second.moved) == (3, True, 3, False)
    row = bench.rows(
        "SELECT route, model, client_key, attempts, failed, input, output, cost_nusd FROM ccproxy.usage_hourly"
    )
    assert row == [(STREAM, "claude-sonnet-4-5", "alice", 2, 1, 20, 10, 2_000)]
    assert bench.rows("SELECT replica, account->'last_success_ms' FROM ccproxy.route_health") == [("r1", NOON_MS)]
    bench.check_chain()


def test_the_same_append_twice_counts_once(bench: Bench) -> None:
    """An event that comes again, in the same batch or a later one, by way of a disk or not, is no second event."""
    event, other = ended(1), ended(2)
    append(bench.redis, [event, event])
    append(bench.redis, [spooled(event), other])
    bench.project()
    append(bench.redis, [other, spooled(event)])
    assert bench.project().position == 2
    assert bench.attempts() == 2
    assert bench.count("quarantine") == 0
    bench.check_chain()


def test_one_id_with_two_contents_goes_to_quarantine(bench: Bench) -> None:
    """The first content stands; the second is kept aside with its bytes, and what is around it is folded."""
    event = ended(1)
    forged = msgspec.structs.replace(event, status=500)
    append(bench.redis, [event])
    bench.project()
    append(bench.redis, [forged, ended(2)])
    bench.project()
    assert bench.attempts() == 2
    assert bench.rows("SELECT event_id::text, raw FROM ccproxy.quarantine") == [
        (event.event_id, wire.encode_event(forged))
    ]


def test_an_id_of_another_stream_goes_to_quarantine(bench: Bench) -> None:
    """One event can't be an event of two routes."""
    event = ended(1)
    append(bench.redis, [event], "zai")
    append(bench.redis, [event])
    bench.project("zai")
    assert bench.project().position == 0
    assert bench.count("quarantine") == 1


@pytest.mark.parametrize(
    ("garbage", "reason"),
    [
        (b"\xff\x00 no json", "malformed"),
        (b'{"not":"an array"}', "array"),
        (b'[{"type":"never_heard_of","event_id":"x","at_ms":1}]', "never_heard_of"),
        (wire.encode_entry([RouteDisabled(event_id=new_id(), at_ms=NOON_MS, route="zai")]), "not an event of this"),
        (wire.encode_entry([ended(1, model_sent="nul\0")]), "NUL"),
        (wire.encode_entry([ended(1, model_sent="m" * 3_000)]), "too long"),
        (b'[{"type":"attempt_ended","message":"\\ud800"}]', "truncated"),
        (wire.encode_entry([ended(1, at_ms=NOON_MS, cost_nusd=1 << 62)]), "cost"),
        (wire.encode_entry([msgspec.structs.replace(ended(1), event_id="0")]), "UUID"),
        (wire.encode_entry([msgspec.structs.replace(ended(1), at_ms=1 << 60)]), "time"),
    ],
)
def test_garbage_goes_to_the_dead_letters(bench: Bench, garbage: bytes, reason: str) -> None:
    """What can't be folded is kept with the reason, once, and what is around it is folded."""
    append(bench.redis, [ended(1)])
    append_raw(bench.redis, garbage)
    append_raw(bench.redis, garbage)
    append(bench.redis, [ended(2)])
    assert bench.project().position == 2
    dead = bench.rows("SELECT reason FROM ccproxy.dead_letters")
    assert len(dead) == 1
    assert reason in dead[0][0]


def test_good_events_beside_garbage_in_one_entry_are_folded(bench: Bench) -> None:
    """An entry is not lost for one bad event in it."""
    append_raw(
        bench.redis, b"[" + wire.encode_event(ended(1)) + b',{"type":"new"},' + wire.encode_event(ended(2)) + b"]"
    )
    bench.redis.xadd(wire.events_key(STREAM), {"other": "field"})
    assert bench.project().position == 2
    assert bench.count("dead_letters") == 2


@pytest.mark.parametrize(
    "step", ["lock_checkpoint", "known_events", "adding_events", "add_usage", "save_health", "save_checkpoint"]
)
def test_death_between_read_and_commit_loses_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Wherever a transaction breaks off, nothing of it stands, and the next one folds the same batch whole."""
    append(bench.redis, many(2))
    bench.project()
    append(bench.redis, [ended(3, client_key="bob")])

    def breaking(self: Store, *arguments: Any) -> Any:
        original(self, *arguments)
        raise Broken

    original = getattr(Store, step)
    with monkeypatch.context() as patch:
        patch.setattr(Store, step, breaking)
        with pytest.raises(Broken):
            bench.project()
    assert bench.attempts() == 2
    projected = bench.project()
    assert projected.position == bench.attempts() == 3
    assert plain(projected.ledger) == plain(fresh_ledger(bench))
    bench.check_chain()


def test_a_batch_that_breaks_off_among_its_rows_is_folded_whole_later(bench: Bench) -> None:
    """Rows are folded while others are inserted: what was folded of a batch that failed is forgotten."""
    append(bench.redis, many(2))
    bench.project()
    append(bench.redis, [ended(seq) for seq in range(3, 9)])
    original = RowChain.row_of

    def breaking(self: RowChain, record: EventRecord) -> Row:
        if self.position == 5:
            raise Broken
        return original(self, record)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RowChain, "row_of", breaking)
        with pytest.raises(Broken):
            bench.project()
    assert (bench.attempts(), bench.count("events")) == (2, 2)
    projected = bench.project()
    assert projected.position == bench.attempts() == 8
    assert plain(projected.ledger) == plain(fresh_ledger(bench))
    bench.check_chain()


def test_a_stream_has_one_worker_at_a_time(bench: Bench) -> None:
    """Who finds the checkpoint taken returns at once; the other's batch stands."""
    other = bench.new_projector()
    seen = []

    class Meanwhile(Streams):
        """Lets another worker try while this one holds the lock."""

        def page(self, stream: str, first_id: str) -> EntryPage:
            seen.append(other.project(stream))
            return super().page(stream, first_id)

    append(bench.redis, many(3))
    projected = bench.new_projector(Meanwhile(bench.redis)).project(STREAM)
    assert seen == [None]
    assert projected is not None
    assert projected.position == 3


def test_workers_that_alternate_keep_one_ledger(bench: Bench) -> None:
    """A worker's ledger in memory is brought up to date with what another has folded meanwhile."""
    workers = [bench.projector, bench.new_projector()]
    events = many(12)
    for number, event in enumerate(events):
        append(bench.redis, [event, ended(number + 1, at_ms=event.at_ms + number * fold.HOUR_MS, replica="r2")])
        projected = workers[number % 2].project(STREAM)
    assert projected is not None
    assert plain(projected.ledger) == plain(fresh_ledger(bench))
    assert bench.attempts() == 24
    bench.check_chain()


def fresh_ledger(bench: Bench) -> RouteLedger:
    """The ledger as a worker that has just started reads it."""
    projected = bench.new_projector().project(STREAM)
    assert projected is not None
    assert isinstance(projected.ledger, RouteLedger)
    return projected.ledger


def test_a_batch_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the stream, a transaction folds no more than its bound, and says that there is more."""
    monkeypatch.setattr(consume, "PAGE_ENTRIES", 3)
    monkeypatch.setattr(consume, "BATCH_ENTRIES", 5)
    append_each(bench.redis, many(12))
    batches = [bench.project() for _ in range(3)]
    assert [(batch.position, batch.full) for batch in batches] == [(5, True), (10, True), (12, False)]


def test_a_batch_is_bounded_by_its_events(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long entries end a batch early, but are never cut."""
    monkeypatch.setattr(consume, "BATCH_EVENTS", 5)
    for _ in range(3):
        append(bench.redis, many(4))
    assert [bench.project().position for _ in range(2)] == [8, 12]


def flush(redis: Redis) -> None:
    """Empty the Redis without a restart."""
    redis.flushall()


def forget_stream(redis: Redis) -> None:
    """Lose one stream."""
    redis.delete(wire.events_key(STREAM))


@pytest.mark.parametrize("lose", [flush, forget_stream])
def test_an_emptied_redis_raises_the_epoch(bench: Bench, lose: Any) -> None:
    """What the proxies append again is not counted again, what is new is, and positions go on without a gap."""
    events = many(5)
    append_each(bench.redis, events)
    assert (bench.project().epoch, bench.attempts()) == (1, 5)
    lose(bench.redis)
    append_each(bench.redis, [*events[2:], ended(6)])
    projected = bench.project()
    assert (projected.epoch, projected.position, bench.attempts()) == (2, 6, 6)
    bench.check_chain()


def test_an_emptied_redis_raises_the_epoch_while_idle(bench: Bench) -> None:
    """The epoch rises once, even if nothing is appended again."""
    append(bench.redis, many(2))
    bench.project()
    bench.redis.flushall()
    assert [bench.project().epoch for _ in range(3)] == [2, 2, 2]


def test_a_restarted_redis_raises_the_epoch(bench: Bench) -> None:
    """Another run may have lost acknowledged entries: the stream is read from its first, and nothing counts twice."""
    append_each(bench.redis, many(4))
    bench.project()
    bench.valkey.stop()
    bench.valkey.start()
    append(bench.redis, [ended(5)])
    projected = bench.project()
    assert (projected.epoch, projected.position, bench.attempts()) == (2, 5, 5)


def test_control_events_have_a_table_of_their_own(bench: Bench) -> None:
    """Operators' events are folded into the control ledger and never lie in a partition that is dropped."""
    issued = ClientKeyIssued(event_id=new_id(), at_ms=NOON_MS, key_id="k1", name="Alice", sha256="0" * 64)
    disabled = RouteDisabled(event_id=new_id(), at_ms=NOON_MS, route="zai", reason="rest")
    append(bench.redis, [issued, disabled, issued], wire.CONTROL)
    bench.project(wire.CONTROL)
    ledger = bench.new_projector().project(wire.CONTROL)
    assert ledger is not None
    assert plain(ledger.ledger) == plain(fold.fold_control(ControlLedger(), [issued, disabled]))
    assert (bench.count("control_events"), bench.count("events")) == (2, 0)
    bench.check_chain(wire.CONTROL)


def test_weeks_are_partitions_made_as_needed(bench: Bench) -> None:
    """An event lies in the partition of the week that its id names, wherever the week begins."""
    monday_ms = NOON_MS - NOON_MS % 604_800_000 + 4 * 86_400_000
    times_ms = [monday_ms - 1, monday_ms, monday_ms + 604_800_000, 0]
    append(bench.redis, [ended(seq, at_ms=at_ms) for seq, at_ms in enumerate(times_ms, 1)])
    bench.project()
    tables = bench.rows(
        "SELECT relname, event_id::text FROM ccproxy.events e JOIN pg_class c ON c.oid = e.tableoid ORDER BY position"
    )
    assert [table for table, _ in tables] == [partition_name(week_of(event_id)) for _, event_id in tables]
    assert len({table for table, _ in tables}) == 4


def test_two_workers_may_need_the_same_new_week(bench: Bench) -> None:
    """Partitions are made in turns; a worker that comes second waits, and finds the first one's."""
    at_ms = NOON_MS + 20 * 604_800_000
    append(bench.redis, [ended(1, at_ms=at_ms)])
    other = Thread(target=bench.new_projector().project, args=(STREAM,))
    store = bench.projector.store
    waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    with store.transaction():
        row = row_of(ended(1, at_ms=at_ms), "zai")
        with store.adding_events("zai", [row.event_id]) as add_row:
            add_row(row)
        other.start()
        eventually(lambda: bench.rows(waiting))
    other.join()
    assert bench.count("events") == 2


def row_of(event: AttemptEnded, stream: str) -> Row:
    """A row with this event."""
    body = wire.encode_event(event).decode()
    return Row(event.event_id, stream, 1, "attempt_ended", event.at_ms, "1-0", 1, event.request_id, body, bytes(32))


def test_replicas_that_the_ledger_forgot_are_forgotten(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table of health does not grow with every proxy that ever ran."""
    monkeypatch.setattr(fold, "KEPT_REPLICAS", 2)
    for number in range(4):
        append(bench.redis, [ended(1, at_ms=NOON_MS + number, replica=f"r{number}")])
        bench.project()
    assert bench.rows("SELECT replica FROM ccproxy.route_health ORDER BY replica") == [("r2",), ("r3",)]


def test_derived_ids_lie_in_the_week_of_their_attempt() -> None:
    """An attempt's start and end need no second partition."""
    attempt_id = new_id()
    assert week_of(attempt_id) == week_of(ids.ended_id(attempt_id))
