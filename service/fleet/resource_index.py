"""Which route made which batch, file, container or thread, and for whom, so that later requests for it go there.

Redis holds the index for all replicas; this process remembers what it saw itself, for when Redis is away. Its values
are "route event_id owner"; those of earlier versions have no owner. Not here: who may use what (`relay.ownership`).
"""

import asyncio
import contextlib
from collections import OrderedDict

from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import RedisError

from service.ledger.ids import time_of_id_ms
from service.ledger.wire import resource_key

KEPT = 10_000
"""Resources remembered in memory, about 2 MB."""
TTL_S = 40 * 24 * 3600
"""Longer than Anthropic keeps batch results (29 days)."""
FILE_TTL_S = 400 * 24 * 3600
"""Files stay until they are deleted. One that is forgotten is nobody's: where several owners share an account, even its
own owner can't reach it."""
ID_CHARS = 128
"""No provider's id is longer; a longer one is known to nobody."""

ANSWER_S = 0.25
"""What moves is asked for with each request; one that Redis keeps waiting for longer goes by what is known here."""


class ResourceHome(Struct, frozen=True):
    """Where a resource lives, the id of the event by which this became known, and whose it is ("": nobody knows)."""

    route: str
    event_id: str
    owner: str = ""


class IndexAway(Exception):
    """The index can't be read now, and this process has not seen the resource itself."""


class ResourceIndex:
    """The index of resources."""

    def __init__(self, redis: Redis | None) -> None:
        self._redis = redis
        self._known: OrderedDict[str, ResourceHome] = OrderedDict()

    async def bind(self, resource_id: str, home: ResourceHome) -> ResourceHome:
        """Note where a resource lives, for all replicas; whoever was first is right."""
        known = self._known.get(resource_id)
        if known:
            return known
        if self._redis is not None:
            with contextlib.suppress(RedisError, OSError):
                ttl_s = FILE_TTL_S if resource_id.startswith("file_") else TTL_S
                first = await self._redis.set(resource_key(resource_id), value_of(home), ex=ttl_s, nx=True, get=True)
                home = home_of(first) or home
        return self._remember(resource_id, home)

    async def move(self, resource_id: str, home: ResourceHome, ttl_s: int) -> None:
        """Note where something lives from now on, for a while."""
        known = self._known.get(resource_id)
        if known and known.route == home.route and not is_old(known, home, ttl_s):
            return
        self._remember(resource_id, home)
        if self._redis is not None:
            with contextlib.suppress(RedisError, OSError):
                await self._redis.set(resource_key(resource_id), value_of(home), ex=ttl_s)

    async def moved_to(self, resource_id: str, since_ms: int) -> ResourceHome | None:
        """Where something that moves is by now, if that was told after a moment: another replica may have moved it.

        With Redis away it is where this process saw it last.
        """
        if self._redis is not None:
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(ANSWER_S):
                    found = home_of(await self._redis.get(resource_key(resource_id)))
                self._known.pop(resource_id, None)
                return self._remember(resource_id, found) if found else None
        known = self._known.get(resource_id)
        return known if known and time_of_id_ms(known.event_id) >= since_ms else None

    async def home_of(self, resource_id: str, *, needs_owner: bool = False) -> ResourceHome | None:
        """Where a resource lives; None when nobody knows. Raises IndexAway when nobody can tell.

        Where its owner is needed and not known here, Redis is asked again: `ccproxy ledger owners` adds owners there.
        """
        known = self._known.get(resource_id)
        is_enough = known is not None and (not needs_owner or bool(known.owner))
        if is_enough or self._redis is None or len(resource_id) > ID_CHARS:
            return known
        try:
            found = home_of(await self._redis.get(resource_key(resource_id)))
        except (RedisError, OSError):
            raise IndexAway from None
        return self._remember(resource_id, found) if found else None

    def _remember(self, resource_id: str, home: ResourceHome) -> ResourceHome:
        self._known[resource_id] = home
        self._known.move_to_end(resource_id)
        if len(self._known) > KEPT:
            self._known.popitem(last=False)
        return home


def is_old(known: ResourceHome, home: ResourceHome, ttl_s: int) -> bool:
    """Whether what is known of something that moves should be told again, before its time is over."""
    return time_of_id_ms(home.event_id) - time_of_id_ms(known.event_id) > ttl_s * 250


def value_of(home: ResourceHome) -> str:
    """A home as it lies in Redis."""
    return f"{home.route} {home.event_id} {home.owner}" if home.owner else f"{home.route} {home.event_id}"


def home_of(value: object) -> ResourceHome | None:
    """The home of such a value; an owner's name may have blanks."""
    text = value.decode() if isinstance(value, bytes) else str(value or "")
    route, event_id, owner = (*text.split(" ", 2), "", "", "")[:3]
    return ResourceHome(route, event_id, owner) if event_id else None
