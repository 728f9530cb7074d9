"""Appends entries to the streams in Redis, through redis-py or over a pipelined connection.

Not here: what is appended, and handling of failed appends (`outbox`).
"""

import contextlib
from collections.abc import Collection, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from service.ledger.wire import CHANGES_CHANNEL, CONTROL, CONTROL_NEWS, ENTRY_FIELD, STREAMS_KEY, events_key
from service.redis_client.factory import is_cluster
from service.redis_client.failures import as_redis_error
from service.redis_client.resp_connection import RespConnection, encode_command

FIELD = ENTRY_FIELD.encode()


def open_port(redis: Redis, limit_s: float) -> "RedisPort | PipelinedStreamPort":
    """Return the port for this Redis; on a Cluster, keys lie on several servers, so pipelining goes through
    redis-py."""
    return RedisPort(redis) if is_cluster(redis) else PipelinedStreamPort(redis, limit_s)


class RedisPort:
    """Appends through redis-py, to any kind of Redis."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._announced: set[str] = set()
        """Streams already announced to the workers. If Redis loses the names, the next heartbeat announces them
        again."""

    async def append(self, entries: Sequence[tuple[str, bytes]]) -> None:
        """Append one entry to each stream in one round trip, and announce new streams to the workers. Raises RedisError
        or OSError."""
        streams = {stream for stream, _ in entries}
        if len(entries) == 1 and streams <= self._announced and CONTROL not in streams:
            [(stream, value)] = entries
            await self._redis.xadd(events_key(stream), {ENTRY_FIELD: value})
            return
        pipe = self._redis.pipeline(transaction=False)
        for stream, value in entries:
            pipe.xadd(events_key(stream), {ENTRY_FIELD: value})
        pipe.sadd(STREAMS_KEY, *streams)
        await pipe.execute()
        self._announced |= streams
        await announce_commands(self._redis, streams)


class PipelinedStreamPort:
    """Appends over a pipelined connection to one server, or to the primary behind Sentinels. Fails after `limit_s`."""

    def __init__(self, redis: Redis, limit_s: float) -> None:
        self._redis = redis
        self._limit_s = limit_s
        self._connection: Any = None
        self._resp_connection: RespConnection | None = None
        self._named: set[str] = set()

    async def append(self, entries: Sequence[tuple[str, bytes]]) -> None:
        """See RedisPort.append."""
        line = self._resp_connection
        if line is None or line.is_lost:
            line = self._resp_connection = await self._open()
        streams = {stream for stream, _ in entries}
        commands = [
            encode_command(b"XADD", events_key(stream).encode(), b"*", FIELD, value) for stream, value in entries
        ]
        if new := streams - self._named:
            commands.append(encode_command(b"SADD", STREAMS_KEY.encode(), *(stream.encode() for stream in new)))
        try:
            await line.send(b"".join(commands), len(commands))
        except BaseException:
            line.abort()  # later replies would match no command, and Sentinels may name another primary by now
            raise
        self._named |= new
        await announce_commands(self._redis, streams)

    async def _open(self) -> RespConnection:
        """Open a connection with redis-py and take over its transport."""
        pool: Any = self._redis.connection_pool
        last, self._connection = self._connection, None
        if last is not None:
            await last.disconnect(nowait=True)
            await pool.release(last)
        with as_redis_error():
            self._connection = await pool.get_connection()
        return RespConnection(self._connection._writer.transport, self._limit_s)  # noqa: SLF001 - redis-py has no public access to it


async def announce_commands(redis: Redis, streams: Collection[str]) -> None:
    """Announce operators' commands at once: a revoked key must stop everywhere within a second."""
    if CONTROL in streams:
        with contextlib.suppress(RedisError, OSError):  # proxies also poll each second
            # Outside the pipeline: a Cluster's does not support PUBLISH.
            await redis.publish(CHANGES_CHANNEL, CONTROL_NEWS)
