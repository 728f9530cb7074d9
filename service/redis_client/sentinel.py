"""redis-py's asyncio client of a primary behind Sentinels, made to close what it has opened.

redis-py closes the connections to the primary alone, and leaves those to the Sentinels open. Not here: when Sentinels
are meant (`factory`).
"""

from typing import Any

from service.redis_client.failures import GuardedRedis


class BehindSentinels(GuardedRedis):
    """The primary that the Sentinels name."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:  # noqa: FBT001 - as in the base class
        """Close the connections to the primary and to the Sentinels."""
        await super().aclose(close_connection_pool)
        pool: Any = self.connection_pool
        for sentinel in pool.sentinel_manager.sentinels:
            await sentinel.aclose()
