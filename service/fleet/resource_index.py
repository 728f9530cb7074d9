"""Index of resources (batches, files, sessions, agents and the like): the route each lives on, and its owner.

Redis holds the index for all replicas; this process caches the entries it saw, for outages of Redis. Values are "route
event_id owner"; those of earlier versions have no owner. Not here: access rules (`relay.ownership`).
"""

import asyncio
import contextlib
from collections import OrderedDict

from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import RedisError

from service.ledger.ids import time_of_id_ms
from service.ledger.wire import resource_key

MAX_RESOURCES = 10_000
"""Maximum resources in memory, about 2 MB."""
TTL_S = 40 * 24 * 3600
"""Longer than Anthropic keeps batch results (29 days)."""
SHORT_LIVED = ("msgbatch_", "msg_", "container_")
"""Ids of what Anthropic deletes by itself: batches, messages of threads, containers."""
LASTING_TTL_S = 400 * 24 * 3600
"""Everything else stays until it is deleted: files, agents, environments, memory stores. Each look-up begins this time
anew. Without an entry a resource has no owner: where several owners share an account, not even its own can access it.
"""
ID_CHARS = 128
"""No provider's id is longer; longer ones are treated as unknown."""

REDIS_TIMEOUT_S = 0.25
"""Timeout of Redis for moving resources, which are looked up with each request; after it, the cached entry counts."""


class ResourceHome(Struct, frozen=True):
    """The route on which a resource lives, the id of the event that recorded it, and its owner ("" if unknown).

    A session has no owner; there stands what else is known of its last answer (`relay.session_affinity`).
    """

    route: str
    event_id: str
    owner: str = ""


class IndexAway(Exception):
    """Redis is unavailable, and this process has not seen the resource."""


class ResourceIndex:
    """Looks up and records where resources live."""

    def __init__(self, redis: Redis | None) -> None:
        self._redis = redis
        self._known: OrderedDict[str, ResourceHome] = OrderedDict()

    async def bind(self, resource_id: str, home: ResourceHome) -> ResourceHome:
        """Record a resource for all replicas; the first record wins. Returns the winning one."""
        known = self._known.get(resource_id)
        if known:
            return known
        if self._redis is not None:
            with contextlib.suppress(RedisError, OSError):
                ttl_s = ttl_of(resource_id)
                first = await self._redis.set(resource_key(resource_id), value_of(home), ex=ttl_s, nx=True, get=True)
                home = home_of(first) or home
        return self._remember(resource_id, home)

    async def move(self, resource_id: str, home: ResourceHome, ttl_s: int) -> None:
        """Record the new home of a moving resource, for `ttl_s`."""
        known = self._known.get(resource_id)
        if known and (known.route, known.owner) == (home.route, home.owner) and not is_old(known, home, ttl_s):
            return
        self._remember(resource_id, home)
        if self._redis is not None:
            with contextlib.suppress(RedisError, OSError):
                await self._redis.set(resource_key(resource_id), value_of(home), ex=ttl_s)

    def cached(self, resource_id: str, since_ms: int) -> ResourceHome | None:
        """Return a moving resource's home as this process knows it, if it was recorded after `since_ms`."""
        known = self._known.get(resource_id)
        return known if known and time_of_id_ms(known.event_id) >= since_ms else None

    async def moved_to(self, resource_id: str, since_ms: int) -> ResourceHome | None:
        """Return a moving resource's home if it was recorded after `since_ms`: another replica may have moved it.

        While Redis is unavailable, returns the cached home.
        """
        if self._redis is not None:
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(REDIS_TIMEOUT_S):
                    found = home_of(await self._redis.get(resource_key(resource_id)))
                self._known.pop(resource_id, None)
                return self._remember(resource_id, found) if found else None
        return self.cached(resource_id, since_ms)

    async def home_of(self, resource_id: str, *, needs_owner: bool = False) -> ResourceHome | None:
        """Return a resource's home; None if it is unknown. Raises IndexAway if that can't be determined.

        If an owner is needed and not cached, Redis is read again: `ccproxy ledger owners` adds owners there.
        """
        known = self._known.get(resource_id)
        is_enough = known is not None and (not needs_owner or bool(known.owner))
        if is_enough or self._redis is None or len(resource_id) > ID_CHARS:
            return known
        try:
            found = home_of(await self._redis.getex(resource_key(resource_id), ex=ttl_of(resource_id)))
        except (RedisError, OSError):
            raise IndexAway from None
        return self._remember(resource_id, found) if found else None

    def _remember(self, resource_id: str, home: ResourceHome) -> ResourceHome:
        self._known[resource_id] = home
        self._known.move_to_end(resource_id)
        if len(self._known) > MAX_RESOURCES:
            self._known.popitem(last=False)
        return home


def ttl_of(resource_id: str) -> int:
    """How long a resource is remembered, in seconds."""
    return TTL_S if resource_id.startswith(SHORT_LIVED) else LASTING_TTL_S


def is_old(known: ResourceHome, home: ResourceHome, ttl_s: int) -> bool:
    """True if a moving resource's entry should be refreshed before it expires."""
    return time_of_id_ms(home.event_id) - time_of_id_ms(known.event_id) > ttl_s * 250


def value_of(home: ResourceHome) -> str:
    """Encode a home for Redis."""
    return f"{home.route} {home.event_id} {home.owner}" if home.owner else f"{home.route} {home.event_id}"


def home_of(value: object) -> ResourceHome | None:
    """Decode a home; an owner's name may contain spaces."""
    text = value.decode() if isinstance(value, bytes) else str(value or "")
    route, event_id, owner = (*text.split(" ", 2), "", "", "")[:3]
    return ResourceHome(route, event_id, owner) if event_id else None
