"""The console of a proxy process: the dependencies of the admin API's handlers.

Not here: the handlers (`admin`, `actions`, `legacy`).
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from litestar.di import NamedDependency
from litestar.params import SkipValidation
from redis.asyncio import Redis
from redis.exceptions import RedisError

from service.auth_throttle import AuthThrottle
from service.console.api_types import EventView, Notice, Overview
from service.console.auth import Access
from service.console.event_text import is_notable
from service.console.fleet_status import FleetReader, FleetStatus
from service.console.live import Feed
from service.console.overview import overview_of
from service.console.reports import ReportClient, queue_url
from service.console.revoked_sessions import RevokedSessions
from service.console.stream_reader import StreamReader
from service.drain import Drain
from service.fleet.clock import Clock
from service.fleet.outbox import Outbox
from service.fleet.snapshots import Watcher
from service.ledger.events import CircuitReset, ControlEvent, Forgotten, RouteReset
from service.ledger.wire import CONTROL
from service.routing.reset import read_forgotten
from service.routing.view import View
from service.settings import Settings
from service.telemetry.log_buffer import LogBuffer

log = logging.getLogger("ccproxy.console")

RECENT = 20


class Console:
    """Dependencies of one process's handlers."""

    def __init__(
        self,
        settings: Settings,
        *,
        redis: Redis | None,
        watcher: Watcher,
        outbox: Outbox,
        clock: Clock,
        brake: AuthThrottle,
        drain: Drain,
        version: str,
        under_way: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self.settings = settings
        self.access = Access(settings, brake, RevokedSessions(redis))
        self.brake = brake
        self.version = version
        self.tail = StreamReader(redis, [route.id for route in settings.routes]) if redis else None
        self.fleet = FleetReader(settings, redis, watcher, outbox)
        self.reports = ReportClient(queue_url(settings))
        self.feed = Feed(self.tail, self.overview, drain)
        self.ring = LogBuffer()
        self._watcher = watcher
        self._outbox = outbox
        self._clock = clock
        self._drain = drain
        self._under_way = under_way

    async def start(self) -> None:
        """Load the stored token and start buffering log lines."""
        try:
            self.access.open()
        except OSError as error:
            words = "the admin API is disabled: set ADMIN_TOKEN, or make CCPROXY_HOME writable"
            log.warning("admin.no_token", extra={"error": str(error), "mend": words})
        self.ring.attach()

    async def stop(self) -> None:
        """Release all resources."""
        self.ring.detach()
        await self.feed.stop()
        await self.fleet.stop()
        self.reports.close()

    @property
    def view(self) -> View:
        """This process's view of the ledgers."""
        return self._watcher.view

    @property
    def draining(self) -> bool:
        """True during a graceful shutdown."""
        return self._drain.begun

    def under_way(self) -> dict[str, int]:
        """Number of requests in progress on this proxy, by key."""
        return dict(self._under_way())

    def now_ms(self) -> int:
        """Return fleet time."""
        return self._clock.now_ms()

    def new_id(self) -> str:
        """Return a new event id."""
        return self._clock.new_id()

    async def overview(self) -> Overview:
        """Return the overview."""
        standing = await self.fleet.status()
        return overview_of(
            self.settings,
            self.view,
            standing,
            await self.recent(),
            now_ms=self.now_ms(),
            version=self.version,
            own_notices=[*self._own_notices(), *self._others_notices(standing)],
        )

    def _others_notices(self, standing: FleetStatus | None) -> list[Notice]:
        """What is wrong with other replicas and with workers, as their heartbeats say."""
        if standing is None:
            return []
        found = [
            Notice(level="problem", code="replica", subject=one.replica, message=f"{one.replica}: {words}")
            for one in standing.status.replicas
            for words in one.problems
            if one.replica != self._outbox.replica
        ]
        return found + [
            Notice(level="problem", code="worker", subject=one.worker, message=f"worker {one.worker}: {words}")
            for one in standing.status.workers
            for words in one.problems
        ]

    def _own_notices(self) -> list[Notice]:
        found = [
            Notice(level="problem", code=problem.code, subject=problem.subject, message=problem.message)
            for problem in self._outbox.problems.current
        ]
        if self._outbox.away:
            words = f"this replica keeps {self._outbox.pending:,} events on its disk, until Redis takes them"
            found.append(Notice(level="problem", code="spooling", subject=self._outbox.replica, message=words))
        if suspects := self.brake.suspects:
            words = f"{suspects} addresses repeatedly sent wrong keys or tokens"
            found.append(Notice(level="warning", code="guessing", message=words))
        return found

    async def recent(self) -> list[EventView]:
        """Return the latest failovers, failures, refusals and commands."""
        if self.tail is None:
            return []
        try:
            page = await self.tail.page(await self.tail.streams(), "", RECENT, is_notable)
        except (RedisError, OSError):
            return []
        return page.events[:RECENT]

    def stamp(self, by: str) -> dict[str, Any]:
        """Return the fields common to all commands."""
        return {"event_id": self.new_id(), "at_ms": self.now_ms(), "by": by}

    async def reset(self, route: str, by: str) -> tuple[CircuitReset, Forgotten]:
        """Reset a route: on its own stream, and for all readers. Returns the command, and what was forgotten."""
        forgot = read_forgotten(route, self.view, self.settings.policy, self.now_ms())
        command = CircuitReset(**self.stamp(by), route=route)
        reset = RouteReset(event_id=self.new_id(), at_ms=command.at_ms, by=by, forgot=forgot)
        await self._outbox.append(route, reset)
        await self.command(command)
        return command, forgot

    async def command(self, event: ControlEvent) -> None:
        """Append an operator's command, and apply it here at once."""
        log.warning(
            "operator.%s", type(event).__name__, extra={"by": getattr(event, "by", ""), "event": event.event_id}
        )
        await self._outbox.append(CONTROL, event)
        try:
            await self._watcher.read_control()
        except (RedisError, OSError):
            log.warning("command.waits", extra={"event": event.event_id})


Desk: TypeAlias = NamedDependency[SkipValidation[Console]]
"""The console as the handlers are given it."""
