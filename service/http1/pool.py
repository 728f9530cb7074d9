"""Connection pool: a request gets an idle connection, a new one, or the next one released.

Rules
- A connection serves one request at a time. The most recently used one is reused first, so that others can expire.
- Connections are limited, per origin and in total: beyond, requests wait in FIFO order.
- Idle connections expire, before a provider's load balancer drops them; closed ones are removed at once.
- A slot is taken from before a connection is opened until it is closed or the attempt fails.

Not here: bytes (`connection`), sockets (`connector`). Nothing is retried here; the failover plan does that.
"""

import asyncio
from collections import Counter, deque
from contextlib import suppress

import httpx
from msgspec import Struct

from service.http1.connection import UpstreamConnection
from service.http1.connector import Connector
from service.http1.request_head import Origin

CLOSE_S = 1.0
"""Closed sockets are gone in the event loop's next iteration; nothing waits for longer."""


class Limits(Struct, frozen=True):
    """Maximum connections: in total, per origin (so that a hanging one leaves room), and idle."""

    overall: int = 1_000
    per_origin: int = 800
    idle: int = 200
    idle_s: float = 30.0


class PoolWaiter(Struct, eq=False):
    """A waiting request. Its future resolves to a connection, or to None: a free slot."""

    origin: Origin
    given: "asyncio.Future[UpstreamConnection | None]"


class Pool:
    """The connections of a process, on one event loop."""

    def __init__(self, limits: Limits, dialer: Connector) -> None:
        self._limits = limits
        self._dialer = dialer
        self._standing: set[UpstreamConnection] = set()
        self._closed = False
        self._room_taken: Counter[Origin] = Counter()
        self._idle: dict[Origin, dict[UpstreamConnection, None]] = {}
        self._idle_count = 0
        self._line: deque[PoolWaiter] = deque()
        self._sweeper: asyncio.TimerHandle | None = None

    async def acquire(self, origin: Origin, connect_s: float | None, wait_s: float | None) -> UpstreamConnection:
        """Return a connection for one request. Raises httpx.PoolTimeout, httpx.ConnectTimeout or httpx.ConnectError."""
        connection = self._idle_connection(origin)
        if connection is None and not self._reserve_slot(origin):
            connection = await self._wait_in_queue(origin, wait_s)
        return connection or await self._new(origin, connect_s)

    def release(self, connection: UpstreamConnection) -> None:
        """Release a connection: it serves the next request, or is closed."""
        reusable = connection.finish()
        if connection not in self._standing:
            return
        if not reusable:
            self._forget(connection)
            return
        if not connection.idle_since:
            self._dialer.remember_session(connection)
        self._assign_or_keep(connection)

    async def close(self) -> None:
        """Close all connections, including those being opened; waiting requests fail."""
        self._closed = True
        for turn in self._line:
            if not turn.given.done():
                turn.given.set_exception(httpx.PoolTimeout("the proxy is stopping"))
        standing = list(self._standing)
        for connection in standing:
            self._forget(connection)
            connection.abort()
        if self._sweeper:
            self._sweeper.cancel()
            self._sweeper = None
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                for connection in standing:
                    await connection.wait_closed()

    # -- idle connections

    def _idle_connection(self, origin: Origin) -> UpstreamConnection | None:
        """Return the most recently used idle connection to an origin, or None."""
        kept = self._idle.get(origin)
        while kept:
            connection, _ = kept.popitem()
            self._idle_count -= 1
            if connection.usable:
                return connection
            self._forget(connection)
        return None

    def _assign_or_keep(self, connection: UpstreamConnection) -> None:
        """Pass the connection or its slot to the next waiter, or keep it idle."""
        waiting = [turn for turn in self._line if not turn.given.done()]
        alike = [turn for turn in waiting if turn.origin == connection.origin]
        if alike:
            alike[0].given.set_result(connection)
        elif self._idle_count >= self._limits.idle or (waiting and self._is_full()):
            self._drop(connection)
        else:
            self._keep(connection)

    def _keep(self, connection: UpstreamConnection) -> None:
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle.setdefault(connection.origin, {})[connection] = None
        self._idle_count += 1
        if self._sweeper is None:
            self._sweeper = loop.call_later(self._limits.idle_s, self._sweep)

    def _sweep(self) -> None:
        """Close expired idle connections, and schedule the next sweep."""
        self._sweeper = None
        loop = asyncio.get_running_loop()
        too_old = loop.time() - self._limits.idle_s
        for connection in [each for kept in self._idle.values() for each in kept if each.idle_since <= too_old]:
            self._drop(connection)
        self._idle = {origin: kept for origin, kept in self._idle.items() if kept}
        if self._idle:
            oldest = min(next(iter(kept)).idle_since for kept in self._idle.values())
            self._sweeper = loop.call_at(oldest + self._limits.idle_s, self._sweep)

    # -- slots

    def _reserve_slot(self, origin: Origin) -> bool:
        """Reserve a slot for a new connection; an idle one elsewhere is closed if necessary."""
        if self._room_taken[origin] >= self._limits.per_origin:
            return False
        if self._is_full():
            self._give_up_one()  # its slot may have gone to a waiter
            if self._is_full():
                return False
        self._room_taken[origin] += 1
        return True

    def _is_full(self) -> bool:
        return self._room_taken.total() >= self._limits.overall

    def _give_up_one(self) -> None:
        idle = [next(iter(kept)) for kept in self._idle.values() if kept]
        if idle:
            self._drop(min(idle, key=lambda connection: connection.idle_since))

    def _drop(self, connection: UpstreamConnection) -> None:
        connection.abort()
        self._forget(connection)

    def _forget(self, connection: UpstreamConnection) -> None:
        """Remove a closed connection and free its slot."""
        if connection not in self._standing:
            return
        self._standing.discard(connection)
        kept = self._idle.get(connection.origin, {})
        if connection in kept:
            del kept[connection]
            self._idle_count -= 1
        self._release_slot(connection.origin)

    def _release_slot(self, origin: Origin) -> None:
        self._room_taken[origin] -= 1
        if not self._room_taken[origin]:
            del self._room_taken[origin]
        for turn in self._line:
            if not turn.given.done() and self._reserve_slot(turn.origin):
                turn.given.set_result(None)
                return

    async def _new(self, origin: Origin, connect_s: float | None) -> UpstreamConnection:
        """Open a connection in the reserved slot."""
        try:
            connection = await self._dialer.connect(origin, connect_s, lambda: UpstreamConnection(origin, self._forget))
        except BaseException:
            self._release_slot(origin)
            raise
        if self._closed:
            connection.abort()
            self._release_slot(origin)
            raise httpx.ConnectError("the proxy is stopping")
        self._standing.add(connection)
        return connection

    # -- queue

    async def _wait_in_queue(self, origin: Origin, wait_s: float | None) -> UpstreamConnection | None:
        """Wait in the queue; what arrives after the timeout is returned. Raises httpx.PoolTimeout."""
        turn = PoolWaiter(origin, asyncio.get_running_loop().create_future())
        self._line.append(turn)
        try:
            async with asyncio.timeout(wait_s):
                return await turn.given
        except TimeoutError:
            self._take_back(turn)
            raise httpx.PoolTimeout("all connections are in use") from None
        except asyncio.CancelledError:
            self._take_back(turn)
            raise
        finally:
            self._line.remove(turn)

    def _take_back(self, turn: PoolWaiter) -> None:
        if turn.given.cancelled() or turn.given.exception():
            return
        if connection := turn.given.result():
            self._assign_or_keep(connection)
        else:
            self._release_slot(turn.origin)
