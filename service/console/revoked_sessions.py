"""Sessions that were logged out, until they would have ended by themselves: known here at once, and by way of Redis to
every proxy of the fleet. While Redis is away a session is over only where it was ended.

Not here: what a session is (`auth`).
"""

import asyncio
import contextlib
import time

from redis.asyncio import Redis
from redis.exceptions import RedisError

KEY_PREFIX = "ccproxy:session-over:"
WAIT_S = 0.5
"""Nobody who looks waits longer than this for a Redis that is away."""


class RevokedSessions:
    """Remembers sessions by what only they have."""

    def __init__(self, redis: Redis | None) -> None:
        self._redis = redis
        self._here: dict[str, float] = {}

    async def add(self, session: str, expires_s: float) -> None:
        """It is over."""
        now_s = time.time()
        self._here = {one: until_s for one, until_s in self._here.items() if until_s > now_s} | {session: expires_s}
        if self._redis is not None:
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(WAIT_S):
                    await self._redis.set(KEY_PREFIX + session, b"1", ex=max(1, int(expires_s - now_s) + 1))

    async def has(self, session: str) -> bool:
        """Whether it is over."""
        if session in self._here:
            return True
        if self._redis is not None:
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(WAIT_S):
                    return bool(await self._redis.exists(KEY_PREFIX + session))
        return False
