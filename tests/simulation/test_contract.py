"""The models are honest: the same scripts, over them and over the real servers, come out the same."""

import asyncio
from collections.abc import Callable
from random import Random
from threading import Event as Stopping
from typing import Any

import msgspec
import psycopg
import pytest

from service.app import open_redis as open_async
from service.fleet.stream_writer import RedisPort
from service.ledger import wire
from service.ledger.events import AttemptEnded, Event
from service.ledger.state import ReplicaHealth, Usage
from tests.simulation.clients import AsyncRedis, Weather
from tests.simulation.conftest import ModelServers, RealServers, Servers
from tests.support.stream_factories import NOON_MS, STREAM, ended, spooled, started
from tests.support.waiting import wait_for_answer
from workers import consume, publish
from workers.consume import NO_ENTRY, Streams
from workers.outage import Outage
from workers.project import Projected, Projector
from workers.publish import Publisher
from workers.store import Cell, Checkpoint, Rejected, Row, SkippedSeq, Store
from workers.ticker import Ticker
from workers.wake import WAKE_MS, WakeQueue

CELL = Cell(496_944, "m1", "alice")


class Refused(Exception):
    """What a script breaks a transaction with."""


def add(redis: Any, *events: Event, stream: str = STREAM) -> str:
    """Append one entry, as a proxy does."""
    redis.sadd(wire.STREAMS_KEY, stream)
    entry_id: bytes = redis.xadd(wire.events_key(stream), {wire.ENTRY_FIELD: wire.encode_entry(events)})
    return entry_id.decode()


def row_of(event: AttemptEnded, position: int = 1) -> Row:
    """A row with this event."""
    body = wire.encode_event(event).decode()
    return Row(event.event_id, STREAM, position, "attempt_ended", event.at_ms, "1-0", 1, "q", body, bytes(32))


def add_rows(store: Store, *rows: Row) -> None:
    """Insert rows of the stream."""
    with store.adding_events(STREAM, [row.event_id for row in rows]) as add_row:
        for row in rows:
            add_row(row)


def locked(store: Store) -> Checkpoint:
    """The stream's checkpoint, ours."""
    checkpoint = store.lock_checkpoint(STREAM)
    assert checkpoint is not None
    return checkpoint


def test_entries_are_read_from_any_id_in_order(servers: Servers) -> None:
    """Pages begin with the id that was asked for; a stream that is not there has none."""
    redis = servers.redis()
    streams = Streams(redis)
    assert (streams.page(STREAM, NO_ENTRY).entries, streams.last_id(STREAM)) == ([], NO_ENTRY)
    first, second, third = (add(redis, ended(number)) for number in range(3))
    assert [entry.stream_id for entry in streams.page(STREAM, second).entries] == [second, third]
    assert streams.last_id(STREAM) == third
    assert redis.xrange(wire.events_key(STREAM), f"({first}", "+", 1)[0][0] == second.encode()
    assert redis.xread({wire.events_key(STREAM): third}, count=1) in ({}, None)
    news = redis.xread({wire.events_key(STREAM): first}, count=1)
    assert [(key.decode(), [entry[0].decode() for entry in found]) for key, found in news.items()] == [
        (wire.events_key(STREAM), [second])
    ]
    assert redis.xlen(wire.events_key(STREAM)) == 3


def test_another_run_has_another_id(servers: Servers) -> None:
    """A server that came back says so, and has lost what it lost."""
    redis = servers.redis()
    add(redis, ended(1))
    before = Streams(redis).page(STREAM, NO_ENTRY)
    servers.empty_redis()
    after = Streams(servers.redis()).page(STREAM, NO_ENTRY)
    assert (len(before.entries), len(after.entries)) == (1, 0)
    assert before.run_id != after.run_id


def test_a_wake_up_waits_once_until_it_expires(servers: Servers) -> None:
    """The guard is set once, taken away by the job, and gone by itself when the job has died."""
    called: list[str] = []

    class Queue:
        def enqueue_call(self, _job: str, args: tuple[str], **_options: Any) -> None:
            called.append(args[0])

    queue: Any = Queue()
    wake = WakeQueue(servers.redis(), queue)
    assert [wake.enqueue(STREAM), wake.enqueue(STREAM)] == [True, False]
    wake.clear_guard(STREAM)
    assert wake.enqueue(STREAM)
    servers.pass_ms(WAKE_MS)
    assert wake.enqueue(STREAM)
    assert called == [STREAM] * 3


def test_a_transaction_is_seen_after_its_commit_alone(servers: Servers) -> None:
    """What fails leaves nothing; what is open is seen by its own session."""
    one, other = servers.store(), servers.store()
    one.open_checkpoint(STREAM)
    event = ended(1)
    with pytest.raises(Refused), one.transaction():  # noqa: PT012 - what is done before it is what is undone
        changed = locked(one)._replace(position=1, state=b'{"newest_ms":1}')
        add_rows(one, row_of(event))
        one.add_usage(STREAM, 1, {CELL: Usage(attempts=1)})
        one.save_checkpoint(changed)
        assert [known.event_id for known in one.known_events(STREAM, [event.event_id])] == [event.event_id]
        assert one.usage_since(STREAM, 0, 0) == [(CELL, Usage(attempts=1))]
        with other.transaction():
            assert other.known_events(STREAM, [event.event_id]) == []
            assert other.usage_since(STREAM, -1, 0) == []
        raise Refused
    with other.transaction():
        assert locked(other).position == 0
        assert other.known_events(STREAM, [event.event_id]) == []
    with one.transaction():
        one.save_checkpoint(locked(one)._replace(position=1, run_id="r", stream_id="1-1", epoch=3, dead=2))
    with other.transaction():
        assert locked(other)[1:5] == (3, "r", "1-1", 1)


def test_one_worker_at_a_time_has_a_checkpoint(servers: Servers) -> None:
    """Others pass on at once, until the transaction ends or its connection breaks; one that is unknown is nobody's."""
    one, other = servers.store(), servers.store()
    one.open_checkpoint(STREAM)
    one.open_checkpoint("zai")
    with one.transaction():
        assert locked(one).epoch == 0
        with other.transaction():
            assert other.lock_checkpoint(STREAM) is None
            assert other.lock_checkpoint("zai") is not None
            assert other.lock_checkpoint("nowhere") is None
    with other.transaction():
        locked(other)
    with pytest.raises(Refused), one.transaction():  # noqa: PT012 - likewise
        locked(one)
        raise Refused
    with other.transaction():
        locked(other)
    assert one.streams() == [STREAM, "zai"]


def test_a_broken_transaction_begins_another_generation(servers: Servers) -> None:
    """Whoever remembers something of a connection can see that it is another one."""
    store = servers.store()
    store.open_checkpoint(STREAM)
    generation = store.generation
    with pytest.raises(Refused), store.transaction():
        raise Refused
    store.open_checkpoint(STREAM)
    assert store.generation == generation + 1


def test_an_id_is_one_row(servers: Servers) -> None:
    """Postgres itself refuses a second row with an event's id."""
    store, event = servers.store(), ended(1)
    with store.transaction():
        add_rows(store, row_of(event))
    with pytest.raises(psycopg.errors.UniqueViolation), store.transaction():
        add_rows(store, row_of(event, 2))
    with store.transaction():
        assert [known.stream for known in store.known_events(STREAM, [event.event_id])] == [STREAM]


def test_usage_adds_up_and_tells_what_moved(servers: Servers) -> None:
    """Cells add up; those that were added to after a position, in hours that are kept, are told."""
    store = servers.store()
    old = CELL._replace(hour=CELL.hour - 500)
    with store.transaction():
        store.add_usage(STREAM, 3, {CELL: Usage(attempts=1, input=5, cost_nusd=7), old: Usage(attempts=1)})
        store.add_usage(STREAM, 5, {CELL: Usage(attempts=1, input=6, lost=-1)})
    with store.transaction():
        both = Usage(attempts=2, input=11, cost_nusd=7, lost=-1)
        assert sorted(store.usage_since(STREAM, -1, 0)) == [(old, Usage(attempts=1)), (CELL, both)]
        assert store.usage_since(STREAM, 3, 0) == [(CELL, both)]
        assert store.usage_since(STREAM, 5, 0) == []
        assert store.usage_since(STREAM, -1, CELL.hour) == [(CELL, both)]
        assert store.usage_since("zai", -1, 0) == []


def test_what_is_put_aside_is_counted_once(servers: Servers) -> None:
    """The same bytes are one dead letter, and the same number is heard once, in one batch or in two."""
    store = servers.store()
    letters = [Rejected("1-0", b"x", "why"), Rejected("2-0", b"x", "why"), Rejected("3-0", b"y", "why")]
    with store.transaction():
        assert store.add_dead_letters(STREAM, 1, letters) == 2
        assert store.add_dead_letters(STREAM, 1, letters) == 0
    event_id = ended(1).event_id
    forged = [letter._replace(event_id=event_id) for letter in letters]
    with store.transaction():
        assert store.add_quarantined(STREAM, 1, forged[:1]) == 1
        assert store.add_quarantined(STREAM, 1, forged) == 1
        assert store.add_skipped(STREAM, 0, [SkippedSeq("r1", 1, 5), SkippedSeq("r1", 2, 6)]) == [
            SkippedSeq("r1", 1, 5),
            SkippedSeq("r1", 2, 6),
        ]
    with store.transaction():
        assert store.add_skipped(STREAM, 1, [SkippedSeq("r1", 2, 9), SkippedSeq("r2", 1, 7)]) == [
            SkippedSeq("r2", 1, 7)
        ]
        page = store.dead_letters(STREAM, None, 1)
        rest = store.dead_letters(STREAM, page[0], 9)
        assert {letter.raw for letter in (*page, *rest)} == {b"x", b"y"}
        assert store.drop_dead_letters(STREAM, [page[0].digest, b"unknown"]) == 1
        assert store.dead_letters(STREAM, None, 9) == rest


def test_health_is_written_and_forgotten(servers: Servers) -> None:
    """Accounts are replaced; those of replicas that are gone go."""
    store = servers.store()
    with store.transaction():
        store.save_health(STREAM, {"r1": ReplicaHealth(failures_in_row=1), "r2": ReplicaHealth()}, [])
        store.save_health(STREAM, {"r1": ReplicaHealth(failures_in_row=2)}, ["r2", "never-there"])


def test_a_proxys_client_speaks_as_redis_py(both: tuple[ModelServers, RealServers]) -> None:
    """What the outbox and the watcher ask has the same shape; a notice reaches who listens."""
    model, real = both
    weather = Weather(slow=0.0)
    modelled = asyncio.run(told(lambda: AsyncRedis(model.server, weather, Random(1))))  # noqa: S311 - a seed
    assert modelled == asyncio.run(told(lambda: open_async(real.valkey.url)))


async def told(make: Callable[[], Any]) -> list[Any]:
    """All that a proxy asks of Redis, in a form that can be compared."""
    redis = make()
    event = started(1)
    event = msgspec.structs.replace(event, event_id="e1", request_id="q")
    said: list[Any] = []
    async with redis.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.subscribe(wire.CHANGES_CHANNEL)
        await wait_for_answer(lambda: redis.publish(wire.CHANGES_CHANNEL, b"hello"))
        message = None
        while message is None:
            message = await pubsub.get_message(timeout=1.0)
        said.append(message["data"])
    await RedisPort(redis).append([(STREAM, wire.encode_entry([event])), (wire.CONTROL, b"[]")])
    entries = await redis.xrange(wire.events_key(STREAM), min=b"(0-0", max="+", count=10)
    said += [[type(entry), fields] for entry, fields in entries]
    said.append(await redis.xrange(wire.events_key(STREAM), min=b"(" + entries[0][0], max="+", count=10))
    said += [await redis.get(wire.snapshot_key(STREAM)), type((await redis.info("server"))["run_id"])]
    said.append([type(part) for part in await redis.time()])
    pipe = redis.pipeline(transaction=False)
    pipe.hset("h", mapping={"a": 1, "b": "x"})
    pipe.pexpire("h", 30_000)
    pipe.zadd("z", {"r1": 5, "r2": 7, "r3": 9})
    pipe.zadd("z", {"r1": 6})
    pipe.zremrangebyscore("z", "-inf", 6)
    pipe.zcard("z")
    said.append([int(reply) for reply in await pipe.execute()])
    said += [
        await redis.zrem("z", "r2", "none"),
        await redis.smembers(wire.STREAMS_KEY),
        await redis.delete("h", "z", "none"),
    ]
    await redis.aclose()
    return said


class Side:
    """Servers with two workers, for a story that both act out."""

    def __init__(self, servers: Servers) -> None:
        self.servers = servers
        self.redis = servers.redis()
        self.workers = [Projector(servers.store(), Streams(self.redis)) for _ in range(2)]
        self.publisher = Publisher(self.redis, Stopping())
        self.held: Projected | None = None
        self.ticker = Ticker(self.redis, WakeQueue(self.redis, self.redis), list, Outage("redis"))
        self.ticker.seen = {STREAM: NO_ENTRY}

    def project(self, number: int) -> Any:
        """A worker folds the next batch."""
        projected = self.workers[number].project(STREAM)
        assert projected is not None
        self.held = self.held or projected
        plain = msgspec.to_builtins(projected.ledger)
        self.last = projected
        return (projected.epoch, projected.position, projected.moved, projected.dead, projected.quarantined, plain)

    def publish(self) -> Any:
        """The newest ledger is published."""
        return self.publisher.publish(self.last), self.shown()

    def publish_late(self) -> Any:
        """A worker publishes that was long asleep."""
        late, self.held = self.held, None
        return None if late is None else (self.publisher.publish(late), self.shown())

    def shown(self) -> Any:
        """What stands in Redis."""
        mark = self.publisher.published_position(STREAM)
        length = self.redis.xlen(wire.events_key(STREAM))
        return mark and mark[:2], length, self.ticker.settled([STREAM])

    def empty(self) -> None:
        """Redis comes back with nothing."""
        self.servers.empty_redis()
        self.held = None


def test_a_story_has_one_end_in_both_houses(
    both: tuple[ModelServers, RealServers], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Appends, duplicates, forgeries, garbage, batches, two workers, late and trimmed snapshots, an emptied Redis:
    after every act both houses say the same."""
    monkeypatch.setattr(publish, "KEPT_ENTRIES", 4)
    monkeypatch.setattr(consume, "BATCH_ENTRIES", 7)
    monkeypatch.setattr(consume, "PAGE_ENTRIES", 3)
    rng = Random(7)  # noqa: S311 - a seed
    sides = [Side(servers) for servers in both]
    told: list[Any] = [ended(1)]
    for side in sides:
        add(side.redis, told[0])
        side.project(0)
    for number in range(2, 120):
        act = rng.choice(["new", "new", "new", "again", "forged", "garbage", "project", "project", "publish", "late"])
        if number == 60:
            act = "empty"
        events = story(act, number, told, rng)
        worker = rng.randrange(2)
        ends = [perform(side, act, events, worker) for side in sides]
        assert ends[0] == ends[1], (number, act)


def story(act: str, number: int, told: list[Any], rng: Random) -> list[Any]:
    """The events of an act."""
    if act == "new":
        event = ended(number, at_ms=NOON_MS + number * 1_000, replica=rng.choice(["r1", "r2"]))
        told.append(event)
        return [started(number + 1_000), event]
    if act == "again":
        return [spooled(rng.choice(told)), rng.choice(told)]
    if act == "forged":
        return [msgspec.structs.replace(rng.choice(told), status=500, seq=number)]
    return []


def perform(side: Side, act: str, events: list[Any], worker: int) -> Any:
    """One act on these servers, and what can be seen of it."""
    if events:
        add(side.redis, *events)
    elif act == "garbage":
        side.redis.xadd(wire.events_key(STREAM), {wire.ENTRY_FIELD: b'[{"type":"tomorrow","replica":"r3","seq":1}]'})
    elif act == "project":
        return side.project(worker)
    elif act == "publish":
        return side.publish()
    elif act == "late":
        return side.publish_late()
    elif act == "empty":
        side.empty()
    return side.shown()
