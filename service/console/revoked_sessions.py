"""Revoked sessions until their expiry: known here at once, and to the whole fleet through Redis. While Redis is
unavailable a session is revoked only on the proxy where it was ended.

Not here: sessions themselves (`auth`).
"""

import asyncio
import contextlib
import time

from redis.asyncio import Redis
from redis.exceptions import RedisError

KEY_PREFIX = "ccproxy:session-over:"
WAIT_S = 0.5
"""Maximum wait for Redis."""


class RevokedSessions:
    """Stores revoked sessions by a digest."""

    def __init__(self, redis: Redis | None) -> None:
        self._redis = redis
        self._here: dict[str, float] = {}

    async def add(self, session: str, expires_s: float) -> None:
        """Revoke a session."""
        now_s = time.time()
        self._here = {one: until_s for one, until_s in self._here.items() if until_s > now_s} | {session: expires_s}
        if self._redis is not None:
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(WAIT_S):
                    await self._redis.set(KEY_PREFIX + session, b"1", ex=max(1, int(expires_s - now_s) + 1))

    async def has(self, session: str) -> bool:
        """True if the session is revoked."""
        if session in self._here:
            return True
        if self._redis is not None:
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(WAIT_S):
                    return bool(await self._redis.exists(KEY_PREFIX + session))
        return False
