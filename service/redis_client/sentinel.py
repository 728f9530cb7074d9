"""redis-py's asyncio client for a primary behind Sentinels, adapted to close all of its connections.

redis-py closes only the connections to the primary, and leaves those to the Sentinels open. Not here: choosing this
client (`factory`).
"""

from typing import Any

from service.redis_client.failures import GuardedRedis


class BehindSentinels(GuardedRedis):
    """Client of the primary that the Sentinels name."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:  # noqa: FBT001 - as in the base class
        """Close the connections to the primary and to the Sentinels."""
        await super().aclose(close_connection_pool)
        pool: Any = self.connection_pool
        for sentinel in pool.sentinel_manager.sentinels:
            await sentinel.aclose()
