"""The laws of publishing: after the commit, only forward, and again when Redis has lost it."""

import threading
from typing import Any

import msgspec
import pytest
from redis.client import Pipeline

from service.ledger import wire
from service.ledger.state import Ledger, RouteLedger
from tests.support.server_fixtures import empty
from tests.support.stream_factories import NOON_MS, STREAM, append, append_each, ended, many
from tests.workers.conftest import Bench
from workers import publish
from workers.consume import Streams
from workers.publish import Publisher, published_of
from workers.readers import SnapshotReaders


def ids_on(bench: Bench) -> list[str]:
    """The ids of the stream's entries."""
    entries: Any = bench.redis.xrange(wire.events_key(STREAM))
    return [entry_id.decode() for entry_id, _ in entries]


def test_a_snapshot_holds_the_ledger_as_of_its_checkpoint(bench: Bench) -> None:
    """Snapshot, readings and notice agree on (epoch, position), and the ledger is the folded one."""
    changes = bench.redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    changes.subscribe(wire.CHANGES_CHANNEL)
    entry_id = append(bench.redis, [ended(1), ended(2)])
    projected = bench.project()
    assert bench.new_publisher().publish(projected)
    snapshot = bench.snapshot()
    assert snapshot is not None
    assert (snapshot.stream, snapshot.epoch, snapshot.position, snapshot.stream_id) == (STREAM, 1, 2, entry_id)
    assert wire.decode_ledger(STREAM, snapshot.ledger) == projected.ledger
    notices = [changes.get_message(timeout=5), changes.get_message(timeout=5)]
    assert [wire.decode_change(notice["data"]) for notice in notices if notice] == [wire.Change(STREAM, 1, 2)]
    changes.close()


def test_an_older_snapshot_never_replaces_a_newer(bench: Bench) -> None:
    """A worker that was slow to publish changes nothing: neither snapshot nor stream."""
    append(bench.redis, [ended(1)])
    older = bench.project()
    append(bench.redis, [ended(2)])
    newer = bench.project()
    assert bench.new_publisher().publish(newer)
    assert not bench.new_publisher().publish(older)
    assert bench.new_publisher().published_position(STREAM) == published_of(newer)
    snapshot = bench.snapshot()
    assert snapshot is not None
    assert snapshot.position == 2


def test_an_epoch_outranks_every_position_before_it(bench: Bench) -> None:
    """After Redis came back empty, its snapshot is published though nothing new was folded; the old epoch's is not."""
    append(bench.redis, many(3))
    old = bench.project()
    bench.new_publisher().publish(old)
    bench.redis.flushall()
    new = bench.project()
    assert (new.epoch, new.position) == (2, 3)
    assert bench.new_publisher().publish(new)
    assert not bench.new_publisher().publish(old)
    assert bench.redis.smembers(wire.STREAMS_KEY) == {STREAM.encode()}


def test_a_postgres_that_came_back_empty_is_heard(bench: Bench) -> None:
    """What is folded anew ranks above the snapshots of the lost database, though its positions begin again."""
    append(bench.redis, many(3))
    bench.new_publisher().publish(bench.project())
    empty(bench.postgres)
    append(bench.redis, [ended(4)])
    projected = bench.new_projector().project(STREAM)
    assert projected is not None
    assert (projected.epoch, projected.position) == (2, 4)
    assert bench.new_publisher().publish(projected)


def test_a_lost_snapshot_is_published_again(bench: Bench) -> None:
    """A worker that finds nothing to fold still mends a Redis that has no snapshot, and leaves one that has alone."""
    append(bench.redis, [ended(1)])
    publisher = bench.new_publisher()
    publisher.publish(bench.project())
    assert not publisher.publish(bench.project())
    bench.redis.delete(wire.snapshot_key(STREAM))
    assert publisher.publish(bench.project())
    assert bench.snapshot() is not None


def test_entries_without_news_move_the_mark(bench: Bench) -> None:
    """A batch of nothing but duplicates is settled all the same."""
    event = ended(1)
    append(bench.redis, [event])
    publisher = bench.new_publisher()
    publisher.publish(bench.project())
    last_id = append(bench.redis, [event])
    projected = bench.project()
    assert (projected.position, projected.stream_id) == (1, last_id)
    assert publisher.publish(projected)
    assert publisher.published_position(STREAM) == published_of(projected)


def test_the_stream_is_trimmed_behind_the_checkpoint_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bounded tail stays, with the checkpoint's own entry; what is not folded is never trimmed."""
    monkeypatch.setattr(publish, "KEPT_ENTRIES", 5)
    append_each(bench.redis, many(20))
    projected = bench.project()
    append_each(bench.redis, [ended(seq, at_ms=NOON_MS + seq) for seq in range(21, 41)])
    before = ids_on(bench)
    bench.new_publisher().publish(projected)
    assert ids_on(bench) == before[15:]
    assert bench.project().position == 40


def test_a_stream_that_is_another_is_not_trimmed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that has not noticed yet that Redis came back empty trims nothing of what was appended since."""
    monkeypatch.setattr(publish, "KEPT_ENTRIES", 2)
    append_each(bench.redis, many(3))
    stale = bench.project()
    bench.redis.flushall()
    for seq in range(1, 9):
        bench.redis.xadd(wire.events_key(STREAM), {wire.ENTRY_FIELD: wire.encode_entry([ended(seq)])}, id=f"{seq}-0")
    bench.new_publisher().publish(stale)
    assert len(ids_on(bench)) == 8
    assert bench.project().position == 11


def test_publishing_keeps_its_interval(bench: Bench) -> None:
    """After a snapshot, the stream has to wait for the rest of the interval; others need not."""
    now_s = [100.0]
    publisher = Publisher(bench.redis, threading.Event(), clock=lambda: now_s[0])
    append(bench.redis, [ended(1)])
    publisher.publish(bench.project())
    assert publisher.wait_s(STREAM) == pytest.approx(publish.INTERVAL_S)
    assert publisher.wait_s("zai") == 0
    now_s[0] += publish.INTERVAL_S
    assert publisher.wait_s(STREAM) == 0


@pytest.mark.parametrize(("events", "interval_s"), [(1, 0.021), (30, 0.05), (500, publish.LONGEST_INTERVAL_S)])
def test_the_interval_grows_with_what_comes(bench: Bench, events: int, interval_s: float) -> None:
    """A busy stream is published more rarely, with more events each time; within a bound."""
    publisher = Publisher(bench.redis, threading.Event(), clock=lambda: 100.0)
    append(bench.redis, [ended(1)])
    publisher.publish(bench.project())
    append(bench.redis, [ended(seq) for seq in range(2, 2 + events)])
    publisher.publish(bench.project())
    assert publisher.wait_s(STREAM) == pytest.approx(interval_s)


def test_what_was_read_is_known_by_its_last_id(bench: Bench) -> None:
    """A stream that does not exist ends before its first entry."""
    assert Streams(bench.redis).last_id("nowhere") == "0-0"


@pytest.mark.parametrize(("size_bytes", "interval_s"), [(1_000, 0.02), (4_000_000, 0.2), (10**9, 1.0)])
def test_a_large_snapshot_comes_seldomer(bench: Bench, size_bytes: int, interval_s: float) -> None:
    """Each proxy decodes it: what it costs stays a few percent of a core, and no proxy waits for more than a second."""
    publisher = Publisher(bench.redis, threading.Event(), clock=lambda: 0.0)
    append(bench.redis, [ended(1)])
    publisher._schedule_next(bench.project(), size_bytes)
    assert publisher.wait_s(STREAM) == pytest.approx(interval_s)


def older_shape(ledger: Ledger) -> Ledger:
    """What a first version would have understood: nothing of waits."""
    assert isinstance(ledger, RouteLedger)
    return msgspec.structs.replace(ledger, waits={})


def test_an_older_snapshot_is_published_while_an_older_proxy_lives(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All proxies read it; the newer one comes with the first event after the last older heartbeat."""
    monkeypatch.setattr(wire, "SNAPSHOT_VERSION", 2)
    monkeypatch.setattr(wire, "OLDER_SHAPES", {1: older_shape})
    now_s = 0.0
    publisher = Publisher(bench.redis, threading.Event(), lambda: now_s)
    published = []
    changes: list[Any] = [
        lambda: bench.beat("new", reads=2),
        lambda: bench.beat("old"),
        lambda: bench.redis.delete(wire.replica_key("old")),
        lambda: bench.redis.zrem(wire.REPLICAS_KEY, "old"),
    ]
    throttle: dict[str, Any] = {"outcome": "failed", "kind": "throttle", "scope": "throttle", "status": 429}
    for number, change in enumerate(changes, 1):
        change()
        now_s += 2.0
        append(bench.redis, [ended(number, **throttle)])
        assert publisher.publish(bench.project())
        snapshot = bench.snapshot()
        assert snapshot
        published.append((snapshot.version, '"waits"' in bytes(snapshot.ledger).decode()))
    assert published == [(2, True), (1, False), (2, True), (2, True)]


def test_heartbeats_are_read_once_a_second(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often something is published."""
    monkeypatch.setattr(wire, "SNAPSHOT_VERSION", 2)
    now_s = 0.0
    readers = SnapshotReaders(bench.redis, lambda: now_s)
    assert readers.version() == 2
    bench.beat("old")
    assert readers.version() == 2
    now_s = 1.0
    assert readers.version() == 1


def test_who_waits_is_counted_by_heartbeats(bench: Bench) -> None:
    """A name alone is no live proxy: its heartbeat has to be there, as of the last second."""
    now_s = 0.0
    readers = SnapshotReaders(bench.redis, lambda: now_s)
    found = []
    changes: list[Any] = [
        lambda: None,
        lambda: bench.beat("one"),
        lambda: bench.beat("two"),
        lambda: bench.redis.delete(wire.replica_key("one")),
        lambda: bench.redis.zrem(wire.REPLICAS_KEY, "two"),
    ]
    for change in changes:
        change()
        readers.look()
        found.append(readers.several())
    assert found == [False, False, True, False, False]


def test_two_threads_may_look_at_the_same_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither takes the beats that it has read for those of the names that the other one has found."""
    readers = SnapshotReaders(bench.redis)
    execute, meanwhile = Pipeline.execute, iter([readers.look])

    def execute_late(pipeline: Pipeline, *arguments: Any) -> Any:
        for look in meanwhile:
            look()
        return execute(pipeline, *arguments)

    bench.beat("one")
    bench.beat("two")
    monkeypatch.setattr(Pipeline, "execute", execute_late)
    readers.look()
    assert readers.several()


def test_a_heartbeat_that_names_no_version_reads_the_first(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it says: one strange heartbeat must not keep workers from folding."""
    monkeypatch.setattr(wire, "SNAPSHOT_VERSION", 2)
    bench.beat("strange")
    bench.redis.hset(wire.replica_key("strange"), wire.READS_FIELD, "v2")
    assert SnapshotReaders(bench.redis).version() == 1
