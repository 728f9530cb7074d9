"""The view: the newest snapshot, own events over it, control events at once; and it outlives Redis."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from service.embedded.valkey import Valkey
from service.fleet import snapshots as rooms
from service.fleet.overlay import apply_resets, overlay_in_steps
from service.fleet.snapshots import Watcher
from service.ledger import wire
from service.ledger.events import (
    CircuitReset,
    ClientKeyIssued,
    Event,
    QuotaLimitChanged,
    RequestRefused,
    RouteDisabled,
    RouteEnabled,
)
from service.ledger.wire import CONTROL
from service.routing.route_status import RouteStatus
from service.version import product_version
from tests.fleet.snapshots.conftest import Post, control_ledger, route_ledger
from tests.support.outbox_factories import clock, ended, started
from tests.support.waiting import wait_for_answer, wait_until

MakePost = Callable[..., Post]


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds are short, so that no test waits for one."""
    monkeypatch.setattr(rooms, "TICK_S", 0.05)


def disabled(seq: int = 1, *, replica: str = "op", route: str = "anthropic") -> RouteDisabled:
    """An operator disables a route."""
    return RouteDisabled(event_id=clock.new_id(), at_ms=clock.now_ms(), replica=replica, seq=seq, route=route)


def enabled(seq: int = 2, *, replica: str = "op", route: str = "anthropic") -> RouteEnabled:
    """And enables it again."""
    return RouteEnabled(event_id=clock.new_id(), at_ms=clock.now_ms(), replica=replica, seq=seq, route=route)


# -- snapshots


async def put(post: Post, *events: Event, stream: str = "anthropic") -> str:
    """Events of other replicas, on their stream; the entry's id."""
    entry = await post.redis.xadd(wire.events_key(stream), {wire.ENTRY_FIELD: wire.encode_entry(events)})
    assert isinstance(entry, bytes)
    return entry.decode()


async def test_a_start_folds_what_no_snapshot_includes(make_post: MakePost) -> None:
    """Ready is who knows the end of each stream, each event once; a later snapshot replaces what it includes, and one
    of another epoch all of it."""
    post = make_post()
    first = replace(ended(), replica="r0", seq=1)
    folded = await put(post, first)
    await post.publish(route_ledger(1, heard={"r0": {"high": 1}}), position=1, stream_id=folded)
    other = replace(ended(), replica="r0", seq=2)
    second = await put(post, other)
    await put(post, first, other)
    await put(post, replace(ended(), replica="r0", seq=3))
    await put(post, replace(ended(), replica="r9", seq=1), stream="zai")
    await post.start()
    await wait_until(post.watcher.ready.is_set)
    assert (post.attempts(), post.attempts("zai")) == (3, 1)
    await post.publish(route_ledger(2, heard={"r0": {"high": 2}}), position=2, stream_id=second)
    await wait_until(lambda: post.watcher.snapshots["anthropic"].position == 2)
    assert post.attempts() == 3
    await post.publish(route_ledger(2, heard={"r0": {"high": 2}}), epoch=2, position=2)
    await wait_until(lambda: post.watcher.snapshots["anthropic"].epoch == 2)
    assert post.attempts() == 2


async def test_own_events_are_no_tail(make_post: MakePost) -> None:
    """What a process appends while it starts counts once."""
    post = make_post()
    await post.outbox.start()
    await post.outbox.append("anthropic", ended())
    await post.watcher.start()
    await wait_until(post.watcher.ready.is_set)
    assert post.attempts() == 1


async def test_a_second_proxy_tells_the_workers(make_post: MakePost) -> None:
    """Workers hear of it by an entry without events on the operators' stream; the only proxy has nobody to tell."""
    one = make_post("r1")
    await one.start()
    await wait_until(one.watcher.ready.is_set)
    assert await one.redis.xlen(wire.events_key(CONTROL)) == 0
    two = make_post("r2")
    await two.start()
    await wait_until(two.watcher.ready.is_set)
    entries: Any = await one.redis.xrange(wire.events_key(CONTROL))
    assert [fields for _, fields in entries] == [{b"e": b"[]"}]


async def test_of_a_long_tail_the_newest_count(make_post: MakePost, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start does not read all that workers have left: what came last says what is spent or open now."""
    monkeypatch.setattr("service.fleet.tail.PAGE_ENTRIES", 2)
    monkeypatch.setattr("service.fleet.tail.TAIL_EVENTS", 4)
    post = make_post()
    for seq in range(1, 10):
        await put(post, replace(ended(), replica="r0", seq=seq))
    until_ms = clock.now_ms() + 3_600_000
    spent = replace(ended(), outcome="failed", kind="quota", scope="quota", retry_at_ms=until_ms)
    await put(post, replace(spent, replica="r0", seq=10))
    await post.start()
    await wait_until(post.watcher.ready.is_set)
    assert post.attempts() == 4
    assert [wait.until_ms for wait in post.watcher.view.ledger("anthropic").waits.values()] == [until_ms]
    assert post.watcher.view.ledger("anthropic").heard["r0"].gaps == [(1, 6)]


@pytest.mark.parametrize("value", [b"[]", b"{", b'[{"type":"Later"}]'], ids=["empty", "broken", "of a later version"])
async def test_entries_without_events_are_not_read_for_ever(
    make_post: MakePost, monkeypatch: pytest.MonkeyPatch, value: bytes
) -> None:
    """What is no event bounds a tail as well."""
    monkeypatch.setattr("service.fleet.tail.PAGE_ENTRIES", 2)
    monkeypatch.setattr("service.fleet.tail.TAIL_EVENTS", 4)
    post = make_post()
    await put(post, replace(ended(), replica="r0", seq=1))
    for _ in range(9):
        await post.redis.xadd(wire.events_key("anthropic"), {wire.ENTRY_FIELD: value})
    await put(post, replace(ended(), replica="r0", seq=2))
    await post.start()
    await wait_until(post.watcher.ready.is_set)
    assert post.attempts() == 1


async def test_a_stream_of_another_type_holds_up_no_start(make_post: MakePost) -> None:
    """What is no stream has no tail; those of other routes are read."""
    post = make_post()
    await post.redis.set(wire.events_key("anthropic"), b"no stream")
    await put(post, replace(ended(), replica="r0", seq=1), stream="zai")
    await post.start()
    await wait_until(post.watcher.ready.is_set)
    assert post.watcher.redis_up
    assert post.attempts("zai") == 1


async def test_a_published_snapshot_is_taken(post: Post) -> None:
    """A snapshot is in the view soon after its notice, and all the same when the notice was missed."""
    await post.publish(route_ledger(3), position=10)
    await wait_until(lambda: post.attempts() == 3)
    await post.publish(route_ledger(4), position=11, tell=False)
    await wait_until(lambda: post.attempts() == 4)


@pytest.mark.parametrize(
    ("epoch", "position", "taken"),
    [(2, 11, True), (3, 1, True), (2, 10, False), (2, 9, False), (1, 99, False)],
    ids=["later", "greater epoch", "the same again", "older", "older epoch though further"],
)
async def test_the_greater_epoch_and_position_wins(post: Post, epoch: int, position: int, *, taken: bool) -> None:
    """A snapshot counts only if its (epoch, position) is greater than what is known."""
    await post.publish(route_ledger(1), epoch=2, position=10)
    await wait_until(lambda: post.attempts() == 1)
    await post.publish(route_ledger(2), epoch=epoch, position=position)
    await post.watcher._read(post.redis, ["anthropic"])
    assert post.attempts() == (2 if taken else 1)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"version":1}', b"\xff\xfe", b"null"])
async def test_an_unreadable_snapshot_leaves_the_last(post: Post, raw: bytes) -> None:
    """Whatever lies under the key, the last good snapshot stands, and other streams are read."""
    await post.publish(route_ledger(1), position=1)
    await wait_until(lambda: post.attempts() == 1)
    await post.redis.set(wire.snapshot_key("anthropic"), raw)
    await post.publish(route_ledger(5), stream="zai", position=1)
    await wait_until(lambda: post.attempts("zai") == 5)
    assert post.attempts() == 1


async def test_an_unreadable_ledger_leaves_the_last_and_ends_nothing(post: Post) -> None:
    """A good snapshot around a ledger that is none leaves the last one, and the watcher goes on."""
    await post.publish(route_ledger(1), position=1)
    await wait_until(lambda: post.attempts() == 1)
    await post.redis.set(
        wire.snapshot_key("anthropic"),
        b'{"version":1,"stream":"anthropic","epoch":1,"position":2,"stream_id":"0-0","as_of_ms":0,"ledger":[1]}',
    )
    await post.publish(route_ledger(5), stream="zai", position=1)
    await wait_until(lambda: post.attempts("zai") == 5)
    assert post.attempts() == 1
    await post.publish(route_ledger(2), position=3)
    await wait_until(lambda: post.attempts() == 2)
    assert all(not task.done() for task in post.watcher._tasks)


async def test_an_unknown_version_leaves_the_last(post: Post) -> None:
    """A snapshot of a newer version is passed over until one comes that this code knows."""
    await post.publish(route_ledger(1), position=1)
    await wait_until(lambda: post.attempts() == 1)
    await post.publish(route_ledger(9), position=2, version=wire.SNAPSHOT_VERSION + 1)
    await post.publish(route_ledger(5), stream="zai", position=1)
    await wait_until(lambda: post.attempts("zai") == 5)
    assert post.attempts() == 1


async def test_a_missing_snapshot_leaves_the_last(post: Post) -> None:
    """A key that is gone changes nothing of what is known."""
    await post.publish(route_ledger(1), position=1)
    await wait_until(lambda: post.attempts() == 1)
    await post.redis.delete(wire.snapshot_key("anthropic"))
    await post.publish(route_ledger(5), stream="zai", position=1)
    await wait_until(lambda: post.attempts("zai") == 5)
    assert post.attempts() == 1


# -- own events


async def test_own_events_are_in_the_view_at_once(post: Post) -> None:
    """An own event counts before anything is acknowledged, and once."""
    append = asyncio.create_task(post.outbox.append("anthropic", ended()))
    await asyncio.sleep(0)
    assert post.attempts() == 1
    await append
    assert post.attempts() == 1


async def test_own_events_are_laid_over_a_snapshot_once(post: Post) -> None:
    """Those that a snapshot has heard count in it, the others over it; none counts twice."""
    for _ in range(4):
        await post.outbox.append("anthropic", ended())
    assert post.attempts() == 4
    heard = {"r1": {"high": 4, "gaps": [[2, 2]]}, "r2": {"high": 50}}
    await post.publish(route_ledger(100, heard=heard), position=10)
    await wait_until(lambda: "anthropic" in post.watcher.snapshots)
    assert post.attempts() == 101
    await post.publish(route_ledger(105, heard={"r1": {"high": 4}}), position=11)
    await wait_until(lambda: post.watcher.snapshots["anthropic"].position == 11)
    assert post.attempts() == 105
    assert list(post.outbox.unacknowledged("anthropic")) == []


async def test_requests_go_on_while_a_snapshot_is_adopted(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many own events wait, since workers were away: they are discarded and folded in steps. The view before stands
    until all are folded, and what requests and operators bring meanwhile holds in both."""
    monkeypatch.setattr("service.fleet.overlay.STEP_EVENTS", 5)
    monkeypatch.setattr("service.fleet.outbox.STEP_EVENTS", 5)
    await asyncio.gather(*(post.outbox.append("anthropic", ended()) for _ in range(100)))
    await post.publish(route_ledger(50, heard={"r1": {"high": 50}}), position=10)
    async with asyncio.timeout(10):
        while post.outbox.unacknowledged_count == 100:  # noqa: ASYNC110 - each turn of the loop counts
            await asyncio.sleep(0)
    at_ms, seen, appends = clock.now_ms(), list[tuple[int, int]](), list[asyncio.Task[int]]()
    while "anthropic" not in post.watcher.snapshots:
        if len(seen) == 5:
            post.watcher.view.control.resets["anthropic"] = at_ms
            apply_resets(post.watcher.view.routes, post.watcher.view.control.resets)
        appends.append(asyncio.create_task(post.outbox.append("anthropic", ended())))
        await asyncio.sleep(0)
        seen.append((len(appends), post.attempts()))
    assert len(seen) >= 10 + 10, "50 to discard, 50 to fold"
    assert [attempts for _, attempts in seen] == [100 + appended for appended, _ in seen]
    await asyncio.gather(*appends)
    assert post.attempts() == 100 + len(appends)
    assert post.watcher.view.ledger("anthropic").reset_ms == at_ms


async def test_what_fails_after_a_reset_counts_in_the_snapshot_that_was_being_adopted(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reset clears what was before it, and not what came while the rest was folded."""
    await post.outbox.append("anthropic", ended())
    appends = list[asyncio.Task[int]]()

    def fold(*arguments: Any) -> Iterator[None]:
        yield
        if not appends:
            post.watcher.view.control.resets["anthropic"] = at_ms = clock.now_ms()
            apply_resets(post.watcher.view.routes, post.watcher.view.control.resets)
            failed = replace(ended(), started_at_ms=at_ms + 1, outcome="failed", kind="server_error", scope="provider")
            appends.append(asyncio.create_task(post.outbox.append("anthropic", failed)))
        yield
        yield from overlay_in_steps(*arguments)

    monkeypatch.setattr(rooms, "overlay_in_steps", fold)
    await post.publish(route_ledger(), position=10)
    await wait_until(lambda: "anthropic" in post.watcher.snapshots)
    await asyncio.gather(*appends)
    assert post.attempts() == 2
    assert post.watcher.view.ledger("anthropic").health["r1"].failures_in_row == 1


async def test_an_adoption_that_takes_long_holds_up_no_command(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under load it may take seconds. Meanwhile operators' commands act, and others see that this proxy lives."""
    ends, key = asyncio.Event(), wire.replica_key("r1")

    def fold(*_: Any) -> Iterator[None]:
        while not ends.is_set():
            yield

    async def has_beaten() -> bool:
        return await post.hand.hget(key, "at_ms") is not None

    await post.outbox.append("anthropic", ended())
    await wait_until(post.watcher.ready.is_set)
    monkeypatch.setattr(rooms, "overlay_in_steps", fold)
    await post.publish(route_ledger(1), position=1)
    await wait_until(post.watcher._adopting["anthropic"].locked)
    await post.control(disabled())
    await wait_until(lambda: "anthropic" in post.watcher.view.control.disabled)
    await post.publish(control_ledger(), stream=CONTROL, position=1)
    await wait_until(lambda: CONTROL in post.watcher.snapshots)
    await post.hand.delete(key)
    await wait_for_answer(has_beaten)
    assert "anthropic" not in post.watcher.snapshots
    ends.set()
    await wait_until(lambda: "anthropic" in post.watcher.snapshots)


async def test_an_open_attempt_shows_and_goes(post: Post) -> None:
    """An attempt that began is open in the view until its end."""
    attempt = started()
    await post.outbox.append("anthropic", attempt)
    assert list(post.watcher.view.ledger("anthropic").open) == [attempt.event_id]


async def test_what_was_heard_goes_from_the_disk(post: Post, valkey: Valkey) -> None:
    """Spooled events leave the disk once a snapshot has heard them."""
    valkey.kill()
    await post.outbox.append("anthropic", ended())
    assert list(post.outbox._spool.folder.glob("*.spool"))
    valkey.start()
    await wait_until(lambda: not post.outbox.pending)
    await post.publish(route_ledger(1, heard={"r1": {"high": 1}}), position=1)
    await wait_until(lambda: not list(post.outbox._spool.folder.glob("*.spool")))


# -- control events


async def test_control_events_act_without_workers(post: Post) -> None:
    """A disable on the control stream acts though nobody folds it; so does the enable after it."""
    await post.control(disabled(1))
    await wait_until(lambda: "anthropic" in post.watcher.view.control.disabled)
    await post.control(enabled(2))
    await wait_until(lambda: "anthropic" not in post.watcher.view.control.disabled)


async def test_a_new_process_reads_the_control_events_from_before(post: Post, make_post: MakePost) -> None:
    """What operators said before this process began holds for it too, snapshot or not."""
    await post.control(disabled(1))
    later = make_post("r2")
    await later.start()
    await wait_until(later.watcher.ready.is_set)
    assert "anthropic" in later.watcher.view.control.disabled


async def test_control_events_behind_the_snapshot_are_laid_over_it(post: Post) -> None:
    """A control snapshot that lags undoes nothing that came after it; one that caught up replaces it."""
    first = await post.control(disabled(1))
    await wait_until(lambda: post.watcher.view.control.disabled)
    last = await post.control(disabled(2, route="zai"))
    await wait_until(lambda: len(post.watcher.view.control.disabled) == 2)
    heard = {"op": {"high": 1}}
    await post.publish(
        control_ledger(disabled={"anthropic": ""}, heard=heard), stream=CONTROL, position=1, stream_id=first
    )
    await wait_until(lambda: CONTROL in post.watcher.snapshots)
    assert set(post.watcher.view.control.disabled) == {"anthropic", "zai"}
    await post.publish(control_ledger(heard={"op": {"high": 2}}), stream=CONTROL, position=2, stream_id=last)
    await wait_until(lambda: not post.watcher.view.control.disabled)


async def test_a_control_event_that_comes_again_acts_once(post: Post) -> None:
    """An entry that was appended twice, the second time behind a later one, does not undo the later one."""
    first = disabled(1)
    refused = RequestRefused(
        event_id=clock.new_id(), at_ms=1, replica="op", seq=3, request_id="q", client_key="k", reason="cap"
    )
    await post.control(first)
    await post.control(enabled(1, replica="op2"))
    await post.control(first)
    await post.control(refused)
    await post.control(refused)
    await post.control(disabled(2, replica="op2", route="zai"))
    await wait_until(lambda: "zai" in post.watcher.view.control.disabled)
    assert "anthropic" not in post.watcher.view.control.disabled
    assert post.watcher.view.control.refused == {"k": 1}


async def test_foreign_control_entries_stop_nothing(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries without our field, or with bytes that are no events, are passed over, however many."""
    monkeypatch.setattr(rooms, "CONTROL_BATCH", 2)
    key = wire.events_key(CONTROL)
    for fields in ({"x": "y"}, {wire.ENTRY_FIELD: "no json"}, {wire.ENTRY_FIELD: '[{"type":"of_tomorrow"}]'}):
        for _ in range(2):
            await post.redis.xadd(key, fields)  # type: ignore[arg-type]
    await post.control(disabled(1))
    await wait_until(lambda: post.watcher.view.control.disabled)


async def test_every_kind_of_control_event_is_in_the_view(post: Post) -> None:
    """Resets and client keys act the same way."""
    await post.control(
        CircuitReset(event_id=clock.new_id(), at_ms=77, replica="op", seq=1, route="zai"),
        ClientKeyIssued(event_id=clock.new_id(), at_ms=1, replica="op", seq=2, key_id="k1", name="ann", sha256="ab"),
    )
    await wait_until(lambda: post.watcher.view.control.keys)
    assert post.watcher.view.control.resets == {"zai": 77}
    assert post.watcher.view.control.keys["k1"].name == "ann"


# -- Redis itself


async def test_another_redis_is_noticed_and_filled(post: Post) -> None:
    """When the run id changes, all unheard events are appended again."""
    for _ in range(3):
        await post.outbox.append("anthropic", ended())
    await wait_until(lambda: post.watcher._run_id)
    await post.redis.delete(wire.events_key("anthropic"))
    post.watcher._run_id = "another one's"

    async def is_whole() -> bool:
        return await length(post.redis) == 3

    await wait_for_answer(is_whole)


async def length(redis: Redis) -> int:
    """Events on the stream, each counted once."""
    entries: Any = await redis.xrange(wire.events_key("anthropic"))
    found = [event for _, fields in entries for event in wire.decode_entry(fields[wire.ENTRY_FIELD.encode()])]
    return len({event.event_id for event in found if not isinstance(event, wire.Undecodable)})


async def test_it_outlives_redis(post: Post, valkey: Valkey) -> None:
    """While Redis is away the view stands and own events count; when it is back, snapshots and notices come again."""
    await post.publish(route_ledger(1), position=1)
    await wait_until(lambda: post.attempts() == 1)
    valkey.kill()
    await post.outbox.append("anthropic", ended())
    assert post.attempts() == 2
    valkey.start()
    await wait_until(lambda: not post.outbox.pending)
    await post.publish(route_ledger(10, heard={"r1": {"high": 1}}), position=5)
    await wait_until(lambda: post.attempts() == 10)
    assert all(not task.done() for task in post.watcher._tasks)
    key = wire.replica_key("r1")
    await wait_for_answer(lambda: post.hand.exists(key))


async def test_redis_away_at_the_start_makes_ready_all_the_same(
    make_post: MakePost, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without Redis a process becomes ready after a while, and takes the snapshot when Redis comes."""
    monkeypatch.setattr(rooms, "READY_AFTER_S", 0.1)
    valkey.kill()
    post = make_post()
    await post.start()
    assert not post.watcher.ready.is_set()
    await wait_until(post.watcher.ready.is_set)
    valkey.start()
    await asyncio.sleep(0)
    monkeypatch.undo()

    async def published() -> bool:
        with suppress(OSError):
            await post.publish(route_ledger(3), position=1)
            return True
        return False

    await wait_for_answer(published)
    await wait_until(lambda: post.attempts() == 3)


async def test_a_slow_redis_at_the_start_makes_ready_all_the_same(
    make_post: MakePost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while the first round is under way, however long each of its answers takes."""
    monkeypatch.setattr(rooms, "READY_AFTER_S", 0.1)
    post = make_post()
    is_slow = asyncio.Event()

    async def answers_late(*_: object) -> None:
        await is_slow.wait()

    monkeypatch.setattr(post.watcher, "_check_server", answers_late)
    await post.start()
    await wait_until(post.watcher.ready.is_set)
    assert not post.watcher.redis_up


async def test_redis_late_at_the_start_still_brings_the_tail(
    make_post: MakePost, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that served before Redis came folds the end of each stream as soon as it can read it."""
    monkeypatch.setattr(rooms, "READY_AFTER_S", 0.1)
    post = make_post()
    await put(post, replace(ended(), replica="r0", seq=1))
    valkey.kill()
    await post.start()
    await wait_until(post.watcher.ready.is_set)
    assert post.attempts() == 0
    await post.outbox.append("anthropic", ended())
    valkey.start()
    await wait_until(lambda: post.attempts() == 2)


async def test_a_heartbeat_and_the_readings_are_written(post: Post) -> None:
    """Redis shows that this replica lives, with an expiry, and how it reads each route."""
    await wait_until(post.watcher.ready.is_set)
    beat = await post.redis.hgetall(wire.replica_key("r1"))
    assert beat[b"version"] == product_version().encode()
    assert (beat[b"address"], beat[b"draining"]) == (b"127.0.0.1:4181", b"0")
    assert int(beat[b"started_at_ms"]) <= int(beat[b"at_ms"])
    assert {b"pid", b"at_ms", b"pending", b"routes"} <= set(beat)
    assert beat[b"routes"] == b"anthropic,subscription,zai"
    assert 0 < await post.redis.pttl(wire.replica_key("r1")) <= rooms.HEARTBEAT_TTL_MS
    reading = await post.redis.hgetall(wire.route_key("anthropic"))
    assert reading[b"state"] == b"healthy"
    assert reading[b"windows"] == reading[b"waits"] == b"[]"
    assert "sk-ant" not in str(reading)
    await post.control(disabled(1))

    async def is_disabled() -> bool:
        return await post.redis.hget(wire.route_key("anthropic"), "state") == b"disabled"

    await wait_for_answer(is_disabled)


async def test_a_spent_rest_that_another_replica_found_is_in_the_readings(post: Post) -> None:
    """Until it is taken back, or the limit is another one."""
    await post.control(
        QuotaLimitChanged(
            event_id=clock.new_id(), at_ms=clock.now_ms(), replica="op", seq=1, route="anthropic", weekly_tokens=1_000
        )
    )
    await wait_until(lambda: state_of(post).limit_tokens == 1_000)
    note = f"{state_of(post).week_start_ms} 1000"
    await post.redis.set(wire.spent_key("anthropic"), note)
    await wait_until(lambda: state_of(post).state == "quota_spent")
    assert post.watcher.view.spent == {"anthropic": note}
    await post.redis.delete(wire.spent_key("anthropic"))
    await wait_until(lambda: state_of(post).state == "healthy")


def state_of(post: Post) -> RouteStatus:
    """How this process reads the first route."""
    return post.watcher.route_statuses()[0]


async def test_a_host_a_day_ahead_takes_the_fleets_time(make_post: MakePost) -> None:
    """Its clock is set back before it is ready, and its heartbeat says no time to come."""
    post = make_post()
    post.clock._ahead_of_monotonic_ms += 86_400_000
    post.watcher._started_ms = post.clock.now_ms()
    await post.start()
    await wait_until(post.watcher.ready.is_set)
    beat = await post.redis.hgetall(wire.replica_key("r1"))
    assert abs(int(beat[b"at_ms"]) - time.time() * 1000) < 3_600_000
    assert int(beat[b"started_at_ms"]) <= int(beat[b"at_ms"])


async def test_a_clock_that_stays_ahead_is_told(post: Post, caplog: pytest.LogCaptureFixture) -> None:
    """Once events bear its time it can't be set back: the log says so, with the mend."""
    await wait_until(post.watcher.ready.is_set)
    post.clock.new_id()
    post.clock._ahead_of_monotonic_ms += 86_400_000
    post.watcher._sampled_s = 0.0
    await wait_until(lambda: any(record.message == "clock.ahead" for record in caplog.records))


async def test_the_heartbeat_goes_with_its_process(post: Post) -> None:
    """A process that ends in order takes its heartbeat away."""
    await wait_until(post.watcher.ready.is_set)
    await post.stop()
    assert not await post.redis.exists(wire.replica_key("r1"))


async def test_readings_lost_by_redis_are_told_again(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readings that did not change are told again after a while, in case Redis has lost them."""
    await wait_until(post.watcher.ready.is_set)
    monkeypatch.setattr(rooms, "REPUBLISH_S", 0.0)
    await post.redis.delete(wire.route_key("zai"))
    await wait_for_answer(lambda: post.redis.exists(wire.route_key("zai")))


async def test_without_redis_it_is_ready_at_once(post: Post) -> None:
    """A proxy without Redis waits for nobody, and its own events count."""
    post.outbox._port = None
    alone = Watcher(None, post.outbox, post.clock, post.watcher._settings)
    post.outbox.listeners.append(alone.fold_own)
    await alone.start()
    assert alone.ready.is_set()
    await post.outbox.append("anthropic", ended())
    assert sum(usage.attempts for usage in alone.view.ledger("anthropic").hours.values()) == 1
    await alone.stop()


async def test_a_reset_holds_while_all_workers_are_away(make_post: MakePost) -> None:
    """Streams that began before it and fail behind it, also before this proxy has heard of it, open no circuit."""
    post = make_post()
    now_ms = post.clock.now_ms()
    await post.start()

    async def fail() -> None:
        fault: dict[str, Any] = {"outcome": "failed", "kind": "server_error", "scope": "route"}
        await post.outbox.append("anthropic", replace(ended(), started_at_ms=now_ms - 9_000, **fault))

    for _ in range(3):
        await fail()
    reset = CircuitReset(event_id=clock.new_id(), at_ms=now_ms - 1, replica="op", seq=1, route="anthropic")
    await post.control(reset)
    await wait_until(lambda: post.watcher.view.ledger("anthropic").reset_ms == now_ms - 1)
    for _ in range(6):
        await fail()
    assert post.watcher.view.ledger("anthropic").health == {}
    assert post.attempts() == 9
