"""The outbox with a real Valkey, as the proxy opens it."""

import asyncio
from typing import Any

from redis.asyncio import Redis

from service.embedded.valkey import Valkey
from service.ledger.wire import ENTRY_FIELD, STREAMS_KEY, events_key
from service.outbox import RedisPort
from tests.outbox.conftest import MakeOutbox
from tests.outbox.making import STREAM, events_of, eventually, started


async def seqs(redis: Redis, stream: str = STREAM) -> list[int]:
    """The numbers on a stream, in its order."""
    entries: Any = await redis.xrange(events_key(stream))
    return [event.seq for _, fields in entries for event in events_of(fields[ENTRY_FIELD.encode()])]


async def test_events_stand_on_the_stream_and_the_stream_is_named(make: MakeOutbox, redis: Redis) -> None:
    """What was acknowledged is there, in order, few entries hold many events, and workers find the stream's name."""
    outbox = make(RedisPort(redis))
    await outbox.start()
    await asyncio.gather(*(outbox.append(STREAM, started()) for _ in range(100)))
    assert await seqs(redis) == list(range(1, 101))
    assert await redis.xlen(events_key(STREAM)) < 10
    assert await redis.smembers(STREAMS_KEY) == {STREAM.encode()}
    await outbox.stop()


async def test_a_redis_that_goes_and_comes_back_has_everything(make: MakeOutbox, redis: Redis, valkey: Valkey) -> None:
    """Killed and started again, Redis holds every event, those from before and from meanwhile."""
    outbox = make(RedisPort(redis))
    await outbox.start()
    await asyncio.gather(*(outbox.append(STREAM, started()) for _ in range(5)))
    valkey.kill()
    await asyncio.gather(*(outbox.append(STREAM, started()) for _ in range(5)))
    await eventually(lambda: outbox.away)
    await outbox.append(STREAM, started())
    valkey.start()
    await eventually(lambda: not outbox.away and not outbox.pending)
    outbox.redis_changed()
    await eventually(lambda: not outbox.pending)
    assert set(await seqs(redis)) == set(range(1, 12))
    await outbox.stop()


async def test_a_redis_that_refuses_writes_is_away(make: MakeOutbox, redis: Redis) -> None:
    """A Redis that answers with an error (here a key of another kind) holds up no event, and loses none."""
    await redis.set(events_key(STREAM), "no stream")
    outbox = make(RedisPort(redis))
    await outbox.start()
    await outbox.append(STREAM, started())
    assert outbox.pending == 1
    await redis.delete(events_key(STREAM))
    await eventually(lambda: not outbox.pending)
    assert await seqs(redis) == [1]
    await outbox.stop()
