"""One kind of failure for everything that is wrong with Redis: RedisError.

redis-py raises whatever its parser or its callbacks stumble over (ValueError, TypeError, AttributeError, ...)
when the other side does not speak Redis's protocol, and an error of another kind when no node of a Cluster can be
reached. Callers that go on without Redis catch RedisError and OSError, and must not fail for the rest. Not here: which
kind of Redis is meant (`factory`).
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as Unreachable
from redis.exceptions import InvalidResponse, RedisClusterException, RedisError


@contextmanager
def as_redis_error() -> Iterator[None]:
    """Raise RedisError (or OSError, as it comes) for any failure inside: of redis-py, or of reading its answer."""
    try:
        yield
    except (RedisError, OSError):
        raise
    except RedisClusterException as error:
        raise Unreachable(str(error)) from None
    except Exception as error:
        raise InvalidResponse(f"the answer is not one of Redis ({type(error).__name__})") from error


class GuardedRedis(Redis):
    """A client of one server; its commands and pipelines fail with RedisError or OSError alone."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """One command."""
        with as_redis_error():
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def pipeline(self, *args: Any, **options: Any) -> Any:
        """Commands that are sent together."""
        return guarded_pipeline(super().pipeline(*args, **options))


def guarded_pipeline(made: Any) -> Any:
    """A pipeline whose `execute` fails with RedisError or OSError alone."""
    execute: Callable[..., Awaitable[Any]] = made.execute

    async def guarded(*args: Any, **options: Any) -> Any:
        with as_redis_error():
            return await execute(*args, **options)

    made.execute = guarded
    return made
