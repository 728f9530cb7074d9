"""Which route made which batch, file, container or thread, so that later requests for it go there.

Redis holds the index for all replicas; this process remembers what it saw itself, for when Redis is away.
"""

import contextlib
from collections import OrderedDict

from redis.asyncio import Redis
from redis.exceptions import RedisError

from service.ledger.wire import resource_key

KEPT = 10_000
"""Resources remembered in memory, about 2 MB."""
TTL_S = 40 * 24 * 3600
"""Longer than Anthropic keeps batch results (29 days)."""


class Resources:
    """The index of resources."""

    def __init__(self, redis: Redis | None) -> None:
        self._redis = redis
        self._known: OrderedDict[str, str] = OrderedDict()

    async def bind(self, resource_id: str, route_id: str) -> None:
        """Note where a resource lives."""
        self._remember(resource_id, route_id)
        if self._redis is not None:
            with contextlib.suppress(RedisError, OSError):
                await self._redis.set(resource_key(resource_id), route_id, ex=TTL_S)

    async def route_of(self, resource_id: str) -> str:
        """The route on which a resource lives, "" when nobody knows."""
        known = self._known.get(resource_id)
        if known:
            return known
        if self._redis is None:
            return ""
        try:
            found = await self._redis.get(resource_key(resource_id))
        except (RedisError, OSError):
            return ""
        if not found:
            return ""
        route_id = found.decode() if isinstance(found, bytes) else str(found)
        self._remember(resource_id, route_id)
        return route_id

    def _remember(self, resource_id: str, route_id: str) -> None:
        self._known[resource_id] = route_id
        self._known.move_to_end(resource_id)
        if len(self._known) > KEPT:
            self._known.popitem(last=False)
