"""What Redis loses before a worker has folded it is noticed, said, and appended again; who may not use it is named."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis.asyncio import Redis

from service.app import open_redis
from service.embedded.valkey import Valkey
from service.fleet import snapshots as rooms
from service.fleet import stream_loss
from service.fleet.stream_loss import StreamLoss
from service.ledger import wire
from service.ledger.state import Heard
from service.problems import ProblemCode
from tests.fleet.snapshots.conftest import Post, control_ledger, route_ledger
from tests.support.outbox_factories import ended
from tests.support.waiting import stays, wait_for_answer, wait_until

KEY = wire.events_key("anthropic")
MakePost = Callable[..., Post]


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds are short, so that no test waits for one."""
    monkeypatch.setattr(rooms, "TICK_S", 0.05)
    monkeypatch.setattr(stream_loss, "AGAIN_S", 0.2)


def problems(post: Post) -> list[ProblemCode]:
    """What is wrong with a proxy."""
    return [problem.code for problem in post.outbox.problems.current]


async def seqs_on(redis: Redis) -> list[int]:
    """The numbers of the events on the stream, in its order."""
    entries: Any = await redis.xrange(KEY)
    found = [event for _, fields in entries for event in wire.decode_entry(fields[wire.ENTRY_FIELD.encode()])]
    return [event.seq for event in found if not isinstance(event, wire.Undecodable)]


async def append(post: Post, count: int) -> None:
    """Append so many events, and let the watcher look at the stream."""
    for _ in range(count):
        await post.outbox.append("anthropic", ended())
    await wait_until(lambda: post.watcher._losses._last_entries.get("anthropic", "-") != "-")


async def evict(redis: Redis) -> None:
    """Have Redis drop keys, as one does that is full."""
    await redis.config_set("maxmemory-policy", "allkeys-lru")
    await redis.config_set("maxmemory", "1")
    await redis.get("any")
    try:

        async def is_gone() -> bool:
            return not await redis.exists(KEY)

        await wait_for_answer(is_gone)
    finally:
        await redis.config_set("maxmemory", "0")
        await redis.config_set("maxmemory-policy", "noeviction")


LOSSES: dict[str, Callable[[Redis], Any]] = {
    "DEL": lambda redis: redis.delete(KEY),
    "FLUSHALL": lambda redis: redis.flushall(),
    "eviction": evict,
}


async def test_what_is_trimmed_while_a_snapshot_is_being_adopted_is_not_lost(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers have folded much since the snapshot that this proxy still shows, and since its last look."""
    ends = asyncio.Event()

    def fold(*_: Any) -> Iterator[None]:
        while not ends.is_set():
            yield

    await append(post, 2)
    monkeypatch.setattr(rooms, "overlay_in_steps", fold)
    at_ms, _, count = post.watcher._losses._last_entries["anthropic"].partition("-")
    last = f"{at_ms}-{int(count) + 1}"
    await post.publish(route_ledger(), position=1, stream_id=last)
    await wait_until(post.watcher._adopting["anthropic"].locked)
    async with post.hand.pipeline() as pipe:
        pipe.xadd(KEY, {wire.ENTRY_FIELD: wire.encode_entry(())}, id=last)
        pipe.xtrim(KEY, minid=last, approximate=False)
        await pipe.execute()
    await wait_until(lambda: post.watcher._losses._last_entries["anthropic"] == last)
    assert post.outbox.resent["stream_lost"] == 0
    ends.set()
    await wait_until(lambda: "anthropic" in post.watcher.snapshots)


async def test_what_a_snapshot_has_heard_is_not_lost(post: Post) -> None:
    """After a restart of Redis, which has kept all, events are appended again that the next snapshot includes."""
    await append(post, 2)
    await StreamLoss(post.outbox).look(post.redis, {}, {"anthropic": {"r1": Heard(high=3, gaps=[(2, 2)])}})
    assert post.outbox.resent["stream_lost"] == 0
    await StreamLoss(post.outbox).look(post.redis, {}, {"anthropic": {"r1": Heard(high=3, gaps=[(1, 1)])}})
    assert post.outbox.resent["stream_lost"] == 2


@pytest.mark.parametrize("how", LOSSES)
async def test_what_was_not_folded_is_sent_again(post: Post, how: str, caplog: pytest.LogCaptureFixture) -> None:
    """All of it, in order, whether or not more comes in between; the problem ends when a snapshot has it."""
    await append(post, 5)
    await LOSSES[how](post.redis)
    await post.outbox.append("anthropic", ended())

    async def all_there() -> bool:
        return {*range(1, 7)} <= {*await seqs_on(post.redis)}

    await wait_for_answer(all_there)
    assert "stream_lost" in problems(post)
    assert post.outbox.resent["stream_lost"] >= 5
    await post.publish(route_ledger(6, heard={"r1": {"high": 6}}), position=6)
    await wait_until(lambda: "stream_lost" not in problems(post))
    assert "stream.lost" in caplog.text
    assert "stream.sent" in caplog.text


async def test_a_gap_in_a_snapshot_is_a_loss_too(post: Post) -> None:
    """The stream was lost and begun anew before anybody looked at it; a worker has folded what came later."""
    await append(post, 3)
    await post.publish(route_ledger(1, heard={"r1": {"high": 3, "gaps": [[1, 2]]}}), position=1)

    async def all_there() -> bool:
        return (await seqs_on(post.redis))[3:5] == [1, 2]

    await wait_for_answer(all_there)


async def test_nothing_is_sent_again_while_all_is_there(post: Post) -> None:
    """Not behind a snapshot, not after a trim behind it, and not on a stream where nothing is open."""
    await append(post, 5)
    entries: Any = await post.redis.xrange(KEY)
    third = entries[2][0].decode()
    await post.publish(route_ledger(3, heard={"r1": {"high": 3}}), position=3, stream_id=third)
    await post.redis.xtrim(KEY, minid=third)
    await stays(lambda: not post.outbox.resent["stream_lost"], 0.4)
    await post.publish(route_ledger(5, heard={"r1": {"high": 5}}), position=5, stream_id=entries[4][0].decode())
    await wait_until(lambda: not post.outbox.unacknowledged_count)
    await post.redis.delete(KEY)
    await stays(lambda: not post.outbox.resent["stream_lost"], 0.4)


async def test_nobody_folds(post: Post, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Events that stay unfolded are a problem, and so is a ledger of which nothing was ever published."""
    monkeypatch.setattr(rooms, "UNFOLDED_S", 0.3)
    await post.publish(control_ledger(), stream=wire.CONTROL, position=1)
    await post.outbox.append("anthropic", ended())
    await wait_until(lambda: problems(post) == ["snapshots"])
    await post.publish(route_ledger(1, heard={"r1": {"high": 1}}), position=1)
    await wait_until(lambda: not problems(post))
    assert [record.getMessage() for record in caplog.records if record.name == "ccproxy.problems"] == [
        "snapshots.stopped",
        "snapshots.resumed",
    ]


async def test_nothing_was_ever_published(make_post: MakePost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any traffic: no worker has started, or none gets as far as that."""
    monkeypatch.setattr(rooms, "NO_SNAPSHOT_S", 0.2)
    post = make_post()
    await post.start()
    await wait_until(lambda: problems(post) == ["snapshots"])
    await post.publish(control_ledger(), stream=wire.CONTROL, position=1)
    await wait_until(lambda: not problems(post))


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (("+@all", "-info"), "user u may not run INFO"),
        (("+@all", "-zadd"), "user u may not run ZADD"),
        (("+@read", "+@connection", "+info", "+@pubsub"), "user u may not run"),
        (("+@all", "-subscribe"), "user u may not run SUBSCRIBE"),
    ],
)
async def test_a_user_without_a_right_is_told_once(
    make_post: MakePost, valkey: Valkey, rules: tuple[str, ...], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With the user, the command and the mend, though it fails each second; given the right, it ends by itself."""
    url = valkey.url.replace(valkey.url[len("redis://") :].split("@")[0], "u:pass-of-u-marked")
    post = make_post(variables={"REDIS_URL": url})
    admin: Any = post.redis
    await admin.execute_command("ACL", "SETUSER", "u", "reset", "on", ">pass-of-u-marked", "~*", "&*", *rules)
    post.watcher._redis = client = open_redis(url)
    try:
        with caplog.at_level(logging.INFO, logger="ccproxy"):
            await post.start()
            await wait_until(lambda: "redis" in problems(post))
            [problem] = [one for one in post.outbox.problems.current if one.code == "redis"]
            assert words in problem.message
            assert "allow it: ACL SETUSER u +" in problem.message
            await stays(lambda: caplog.text.count("redis.went_away") == 1, 0.3)
            await admin.execute_command("ACL", "SETUSER", "u", "+@all")
            await wait_until(lambda: "redis" not in problems(post))
        assert caplog.text.count("redis.came_back") == 1
        assert "marked" not in caplog.text + problem.message
    finally:
        await post.watcher.stop()
        await client.aclose()
        await admin.execute_command("ACL", "DELUSER", "u")
