"""The outbox with a real Valkey, as the proxy opens it."""

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from service.embedded.valkey import Valkey
from service.fleet.outbox import StreamPort
from service.fleet.stream_writer import PipelinedStreamPort, RedisPort, open_port
from service.ledger.wire import CHANGES_CHANNEL, CONTROL, CONTROL_NEWS, ENTRY_FIELD, STREAMS_KEY, events_key
from tests.fleet.outbox.conftest import MakeOutbox
from tests.support.outbox_factories import STREAM, events_of, started
from tests.support.waiting import wait_for_answer, wait_until


@pytest.fixture(params=["pool", "line"])
def port(request: pytest.FixtureRequest, redis: Redis) -> StreamPort:
    """Both ways to the streams."""
    return RedisPort(redis) if request.param == "pool" else PipelinedStreamPort(redis, 2.0)


async def seqs(redis: Redis, stream: str = STREAM) -> list[int]:
    """The numbers on a stream, in its order."""
    entries: Any = await redis.xrange(events_key(stream))
    return [event.seq for _, fields in entries for event in events_of(fields[ENTRY_FIELD.encode()])]


async def test_events_stand_on_the_stream_and_the_stream_is_named(
    make: MakeOutbox, port: StreamPort, redis: Redis
) -> None:
    """What was acknowledged is there, in order, few entries hold many events, and workers find the stream's name."""
    outbox = make(port)
    await outbox.start()
    await asyncio.gather(*(outbox.append(STREAM, started()) for _ in range(100)))
    assert await seqs(redis) == list(range(1, 101))
    assert await redis.xlen(events_key(STREAM)) < 10
    assert await redis.smembers(STREAMS_KEY) == {STREAM.encode()}
    await outbox.stop()


async def test_a_redis_that_goes_and_comes_back_has_everything(
    make: MakeOutbox, port: StreamPort, redis: Redis, valkey: Valkey
) -> None:
    """Killed and started again, Redis holds every event, those from before and from meanwhile."""
    outbox = make(port)
    await outbox.start()
    await asyncio.gather(*(outbox.append(STREAM, started()) for _ in range(5)))
    valkey.kill()
    await asyncio.gather(*(outbox.append(STREAM, started()) for _ in range(5)))
    await wait_until(lambda: outbox.away)
    await outbox.append(STREAM, started())
    valkey.start()
    await wait_until(lambda: not outbox.away and not outbox.pending)
    outbox.redis_changed()
    await wait_until(lambda: not outbox.pending)
    assert set(await seqs(redis)) == set(range(1, 12))
    await outbox.stop()


async def test_a_redis_that_refuses_writes_is_away(make: MakeOutbox, port: StreamPort, redis: Redis) -> None:
    """A Redis that answers with an error (here a key of another kind) holds up no event, and loses none."""
    await redis.set(events_key(STREAM), "no stream")
    outbox = make(port)
    await outbox.start()
    await outbox.append(STREAM, started())
    assert outbox.pending == 1
    await redis.delete(events_key(STREAM))
    await wait_until(lambda: not outbox.pending)
    assert await seqs(redis) == [1]
    await outbox.stop()


async def test_a_connection_that_is_cut_is_made_again(make: MakeOutbox, redis: Redis) -> None:
    """A server, or somebody in between, that ends the connection costs no event; one is held, and given back."""
    port = open_port(redis, 2.0)
    outbox = make(port)
    await outbox.start()
    for number in range(1, 4):
        await outbox.append(STREAM, started())
        await wait_until(lambda: not outbox.pending)
        [held] = [client for client in await redis.client_list() if client["cmd"] in ("xadd", "sadd")]
        assert await redis.client_kill(held["addr"])
        assert set(await seqs(redis)) == set(range(1, number + 1))
    await outbox.stop()
    await redis.aclose()
    assert isinstance(port, PipelinedStreamPort)
    assert port._resp_connection
    assert port._resp_connection.is_lost


async def test_operators_events_are_told_of_at_once(port: StreamPort, redis: Redis) -> None:
    """A key that is revoked must stop everywhere within a second; other events come with their snapshots."""
    async with redis.pubsub(ignore_subscribe_messages=True) as heard:
        await heard.subscribe(CHANGES_CHANNEL)
        await wait_for_answer(lambda: redis.publish(CHANGES_CHANNEL, b"first"))
        await port.append([(STREAM, b"[]")])
        await port.append([(CONTROL, b"[]"), (STREAM, b"[]")])
        told = []
        while CONTROL_NEWS not in told:
            message = await heard.get_message(timeout=1.0)
            told += [message["data"]] if message else []
    assert set(told) == {b"first", CONTROL_NEWS}
    assert told.count(CONTROL_NEWS) == 1
    assert [await redis.xlen(events_key(stream)) for stream in (STREAM, CONTROL)] == [2, 1]
    assert await redis.smembers(STREAMS_KEY) == {STREAM.encode(), CONTROL.encode()}
