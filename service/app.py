"""The composition root: constructs and connects all parts. `create_app` returns the ASGI application; its lifespan
starts and stops background tasks."""

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from litestar import Litestar, Request
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.response import Response
from litestar.types import ASGIApp
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from service.auth_throttle import AuthThrottle
from service.console.admin import admin_router, console_of
from service.console.console import Console
from service.console.legacy import legacy_router
from service.console.metrics import Metrics, metrics
from service.console.pages import PAGES
from service.console.safe_json import SafeJson
from service.console.schema import openapi_config
from service.drain import Drain
from service.edge.body_memory import BodyMemory
from service.edge.connection import ConnectionLimits, Shortcut
from service.edge.health import HANDLERS, HealthChecks
from service.edge.key_limits import KeyGuard
from service.edge.keys import Keyring
from service.edge.messages import messages_app
from service.edge.origins import OriginGuard
from service.edge.refusals import Refusals
from service.edge.request_target import not_found
from service.edge.responses import error_body, with_default_headers
from service.edge.traffic import REFUSAL_REASONS, VERDICTS
from service.errors import BodyTooLarge, MethodNotAllowed, ProxyError
from service.fleet.admission import Admission
from service.fleet.clock import Clock
from service.fleet.outbox import Outbox
from service.fleet.resource_index import ResourceIndex
from service.fleet.snapshots import Watcher, redis_failure
from service.fleet.stream_writer import open_port
from service.http1.upstream import UpstreamClient
from service.ledger.state import ControlLedger
from service.oauth.credentials import Credentials
from service.redis_client.factory import open_async
from service.relay import Relay
from service.settings import Settings
from service.telemetry.traces import open_traces
from service.version import product_version

REDIS_TIMEOUT_S = 2.0
CONSOLE_BODY_BYTES = 256 * 1024
"""Limit of requests outside of the Messages API, some of which arrive before authentication; the largest has the ids of
a few hundred dead letters."""
"""An answer that takes Redis longer than this is none; events have gone to disk long before (100 ms)."""


class Parts:
    """The parts of one proxy process."""

    def __init__(self, settings: Settings, tokens: Redis | None = None) -> None:
        """`tokens`: where hosts share a subscription's token, if not in the Redis of the settings."""
        self.clock = clock = Clock()
        self.settings = settings
        self.drain = Drain()
        self.redis = open_redis(settings.redis_url.reveal()) if settings.redis_url else None
        self.outbox = Outbox(
            open_port(self.redis, REDIS_TIMEOUT_S) if self.redis else None,
            replica=new_replica(),
            clock=clock,
            spool_root=settings.home / "spool",
            describe=partial(redis_failure, settings),
        )
        self.watcher = Watcher(self.redis, self.outbox, clock, settings, self.drain)
        self.admission = Admission(
            self.redis,
            replica=self.outbox.replica,
            clock=clock,
            weights=settings.policy.quota.weights,
            ledger_of=self.watcher.view.ledger,
            is_away=lambda: self.outbox.away,
            replicas=lambda: self.watcher.replicas,
            spent=self.watcher.view.spent,
        )
        self.upstream = UpstreamClient(settings.timeouts, kind=settings.upstream_transport)
        self.credentials = Credentials(settings, tokens or self.redis, clock, self.outbox.append)
        self.resources = ResourceIndex(self.redis)
        self.watcher.view.accounts = self.credentials.accounts
        self.relay = Relay(
            settings,
            upstream=self.upstream,
            credentials=self.credentials,
            outbox=self.outbox,
            watcher=self.watcher,
            resources=self.resources,
            admission=self.admission,
            clock=clock,
        )
        self.keyring = Keyring(
            settings.client_keys,
            open_to_all=settings.loopback and not settings.ledger_keys,
            ledger_keys=settings.ledger_keys,
            control=self.control,
        )
        self.brake = AuthThrottle()
        self.memory = BodyMemory(settings.bodies.held_bytes)
        self.gate = KeyGuard(
            lambda: self.watcher.view,
            self.outbox,
            clock,
            quota=settings.policy.quota,
            prices=settings.prices,
            admission=self.admission,
        )
        self.console = Console(
            settings,
            redis=self.redis,
            watcher=self.watcher,
            outbox=self.outbox,
            clock=clock,
            brake=self.brake,
            drain=self.drain,
            version=product_version(),
            under_way=lambda: self.gate.under_way,
        )
        self.metrics = Metrics(
            clock,
            self.watcher,
            self.outbox,
            product_version(),
            settings,
            verdicts=VERDICTS,
            reasons=REFUSAL_REASONS,
            refreshes=lambda: self.credentials.refreshes,
            longest_wait_ms=self.relay.longest_wait_ms,
        )
        self.traces = open_traces(settings, product_version())
        self.outbox.listeners += [self.watcher.fold_own, self.metrics.record_event]
        if self.traces:
            self.outbox.listeners.append(self.traces.record_event)
        self.messages = messages_app(
            self.relay, self.keyring, self.gate, self.brake, self.drain, self.metrics, self.memory
        )
        self.guard = OriginGuard(settings, clock.new_request_id, self.metrics.refuse)
        self.health = HealthChecks(self.watcher, self.outbox, clock, self.drain, settings)

    def control(self) -> ControlLedger | None:
        """The control ledger, None until it was read."""
        return self.watcher.view.control if self.watcher.control_known else None

    async def start(self) -> None:
        """Start background tasks."""
        await self.outbox.start()
        await self.watcher.start()
        await self.credentials.start()
        await self.admission.start()
        await self.console.start()
        await self.metrics.start()

    async def stop(self) -> None:
        """Stop background tasks, after pending events are saved."""
        await self.metrics.stop()
        await self.console.stop()
        await self.relay.stop()
        await self.credentials.stop()
        await self.admission.stop()
        await self.outbox.stop()
        if self.traces:
            await self.traces.stop()
        await self.watcher.stop()
        await self.upstream.close()
        if self.redis is not None:
            await self.redis.aclose()


def create_app(parts: Parts) -> ASGIApp:
    """Return the ASGI application of one proxy process except for the Messages API (`shortcut`); its lifespan starts
    and stops the parts."""

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        await parts.start()
        try:
            yield
        finally:
            await parts.stop()

    app: ASGIApp = Litestar(
        route_handlers=[
            *HANDLERS,
            metrics,
            legacy_router(),
            admin_router(),
            *PAGES,
        ],
        lifespan=[lifespan],
        state=State({"health": parts.health, "console": parts.console, "metrics": parts.metrics}),
        dependencies={"console": Provide(console_of, sync_to_thread=False)},
        exception_handlers={HTTPException: answer_error},
        openapi_config=openapi_config(product_version()),
        request_max_body_size=CONSOLE_BODY_BYTES,
        response_class=SafeJson,
        logging_config=None,
    )
    return with_default_headers(parts.guard.wrap(app))


def shortcut(parts: Parts) -> Shortcut:
    """Return the handlers of the Messages API that bypass the framework."""
    settings = parts.settings
    return Shortcut(
        parts.guard.wrap(parts.messages),
        settings.base_path,
        parts.drain,
        Refusals(parts.clock.new_request_id, parts.metrics),
        parts.memory,
        ConnectionLimits(
            head_bytes=settings.max_head_bytes,
            url_bytes=settings.max_url_bytes,
            unread_s=settings.timeouts.idle_ms / 1000,
        ),
    )


def answer_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Convert the framework's errors to Anthropic's shape."""
    shown: ProxyError = ProxyError(error.detail)
    if error.status_code == 404:
        shown = not_found(request.method)
    elif error.status_code == 405:
        shown = MethodNotAllowed(f"{request.url.path} does not support {request.method}")
    elif error.status_code == 413:
        shown = BodyTooLarge(f"the request is larger than {CONSOLE_BODY_BYTES:,} bytes")
    shown.status = error.status_code
    return Response(error_body(shown, ""), status_code=shown.status, media_type="application/json")


def open_redis(url: str) -> Redis:
    """Open a connection pool with short timeouts and without retries."""
    return open_async(
        url,
        legacy_responses=False,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=REDIS_TIMEOUT_S,
        socket_connect_timeout=REDIS_TIMEOUT_S,
        health_check_interval=0,
    )


def new_replica() -> str:
    """Return a unique name for this run of this process; from the local clock, since fleet time is not known yet."""
    return f"{socket.gethostname()[:40]}-{os.getpid()}-{Clock().new_request_id()}"
