"""Maps every failure of a Redis client to RedisError.

redis-py raises whatever its parser or callbacks hit (ValueError, TypeError, AttributeError, ...) when the other side
does not speak Redis's protocol, and another exception when no node of a Cluster is reachable. Callers that continue
without Redis catch RedisError and OSError only. Not here: choosing the client (`factory`).
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as Unreachable
from redis.exceptions import InvalidResponse, RedisClusterException, RedisError


@contextmanager
def as_redis_error() -> Iterator[None]:
    """Raise RedisError (or OSError unchanged) for any failure in the block."""
    try:
        yield
    except (RedisError, OSError):
        raise
    except RedisClusterException as error:
        raise Unreachable(str(error)) from None
    except Exception as error:
        raise InvalidResponse(f"invalid response from Redis ({type(error).__name__})") from error


class GuardedRedis(Redis):
    """Client of one server; its commands and pipelines raise only RedisError or OSError."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run one command."""
        with as_redis_error():
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def pipeline(self, *args: Any, **options: Any) -> Any:
        """Return a guarded pipeline."""
        return guarded_pipeline(super().pipeline(*args, **options))


def guarded_pipeline(made: Any) -> Any:
    """Make a pipeline's `execute` raise only RedisError or OSError."""
    execute: Callable[..., Awaitable[Any]] = made.execute

    async def guarded(*args: Any, **options: Any) -> Any:
        with as_redis_error():
            return await execute(*args, **options)

    made.execute = guarded
    return made
