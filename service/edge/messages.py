"""`/v1/*` as a plain ASGI handler, because the framework's conveniences cost more than the relay itself.

It reads a request, passes it to the relay, and converts exceptions to Anthropic's shape. A body is read only after its
client was authenticated and some route could serve it. If the client disconnects, the request's task is cancelled. So
are requests still in progress when this process has to stop; their clients get an error.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from litestar.types import ASGIApp, Receive, Scope, Send

from service.auth_throttle import AuthThrottle
from service.drain import Drain
from service.edge.body_memory import BodyMemory, MemoryShare
from service.edge.body_reader import ClientDisconnected, take_body
from service.edge.key_limits import KeyGuard
from service.edge.keys import CallerIdentity, Keyring
from service.edge.request_cycle import DISCARD, LEAVING
from service.edge.request_log import log_request
from service.edge.request_parser import client_request_of, deadline_ms
from service.edge.request_target import RequestTarget, target_in
from service.edge.responses import AsgiResponseWriter, OwnError
from service.edge.traffic import Traffic, verdict_of
from service.errors import BadClientKey, ProxyError, Stopping
from service.relay import ClientRequest, Relay
from service.relay.client import forget_body

log = logging.getLogger("ccproxy.edge")

SLOW_BODY_MS = 1_000
"""A client whose body takes longer is authenticated again: otherwise requests begun with a valid key, and held back,
would still be served long after its revocation. A revocation reaches every proxy within this time."""


def messages_app(
    relay: Relay,
    keyring: Keyring,
    key_guard: KeyGuard,
    throttle: AuthThrottle,
    drain: Drain,
    traffic: Traffic,
    memory: BodyMemory,
) -> ASGIApp:
    """Return the handler of everything under /v1."""
    settings, clock = relay.settings, relay.clock

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        request_id = clock.new_request_id()
        reply = AsgiResponseWriter(send, request_id)
        target = target_in(scope)
        arrived_ms = clock.now_ms()
        refused: tuple[str, str] | None = None
        traffic.begin()
        try:
            await answer(scope, receive, reply, target, arrived_ms)
        except ClientDisconnected:
            pass  # the log and the counters have it as aborted
        except ProxyError as error:
            discard_body(scope, reply.request)
            refused = await refuse(error, address_of(scope), throttle, reply)
        except Exception:
            log.exception("request.failed", extra={"request": request_id})
            await fail(reply, address_of(scope))
        finally:
            verdict, reason = refused or verdict_of(reply, None)
            traffic.end(target.endpoint, verdict, reason)
            if reply.early:
                traffic.end_early(verdict)
            log_request(reply, target.endpoint, verdict, reason, arrived_ms, clock.now_ms)

    async def answer(
        scope: Scope, receive: Receive, reply: AsgiResponseWriter, target: RequestTarget, arrived_ms: int
    ) -> None:
        client = keyring.identify(scope["headers"])
        if client.key_id:
            throttle.accept(address_of(scope), client.key_id)
        named = dict(scope["headers"])
        request = client_request_of(scope, named, settings, client, target, reply.request_id, arrived_ms)
        reply.request = request
        relay.check_access(request)
        if client.key:
            await key_guard.check(client.key_id, client.key, request)
        share = MemoryShare(memory, client.key_id if client.shared else "")  # a sole owner shares with nobody
        try:
            await take_body(request, receive, named, settings, share)
            client = await reauthenticate(client, request, keyring, key_guard, clock.now_ms())
            request.deadline_ms = deadline_ms(named, settings, stream=request.stream)
            reply.dropped_messages = request.dropped_messages
            if client.key is None:
                await run_until_disconnect(
                    relay.handle(request, reply), watcher_of(scope, receive, reply, request), drain
                )
                return
            async with key_guard.admit(client.key_id, client.key, request):
                await run_until_disconnect(
                    relay.handle(request, reply), watcher_of(scope, receive, reply, request), drain
                )
        finally:
            share.close()

    return handle


async def fail(reply: AsgiResponseWriter, client: str) -> None:
    """Tell a client that got nothing yet of a fault of our own."""
    if not reply.committed:
        error = ProxyError("internal error; the proxy's log has the details under this request id")
        reply.error = OwnError(error.status, error.message, client)
        await reply.fail(error)


async def reauthenticate(
    client: CallerIdentity, request: ClientRequest, keyring: Keyring, key_guard: KeyGuard, now_ms: int
) -> CallerIdentity:
    """Authenticate the client again after a slow body. Raises ClientError if its key is no longer valid."""
    if now_ms - request.arrived_ms <= SLOW_BODY_MS:
        return client
    client = keyring.identify(request.headers)
    if client.key:
        await key_guard.check(client.key_id, client.key, request)
    return client


async def refuse(error: ProxyError, client: str, brake: AuthThrottle, reply: AsgiResponseWriter) -> tuple[str, str]:
    """Send an error and return how it counts. Drops the exception's traceback, whose frames hold the body, while the
    client may be slow."""
    error.__traceback__ = error.__context__ = None
    reply.error = OwnError(error.status, error.message, client)
    shown = await brake.delay_failure(client, error) if isinstance(error, BadClientKey) else error
    await reply.fail(shown)
    return verdict_of(reply, shown)


def discard_body(scope: Scope, request: ClientRequest | None) -> None:
    """Have nothing kept of a body, read or not: a refusal may be held back, or its client be slow."""
    if request:
        forget_body(request)
    extensions: Any = scope.get("extensions") or {}
    if DISCARD in extensions:
        extensions[DISCARD]()


def address_of(scope: Scope) -> str:
    """Return the client's address, from the connection or a trusted proxy."""
    client = scope.get("client")
    return str(client[0]) if client else ""


async def run_until_disconnect(work: Coroutine[Any, Any, None], watcher: "DisconnectWatcher", drain: Drain) -> None:
    """Run a coroutine until the client disconnects or this process has to stop; then cancel it and wait. Raises
    Stopping if the client still waits for a response."""
    drain.track(watcher.task)
    try:
        await work
    except asyncio.CancelledError:
        if not watcher.taken and not drain.is_over:
            raise  # cancelled by someone else
        watcher.task.uncancel()
        if not watcher.taken:
            raise Stopping("the proxy is shutting down; try again") from None
    finally:
        watcher.stop_watching()
        drain.untrack(watcher.task)


def watcher_of(
    scope: Scope, receive: Receive, reply: AsgiResponseWriter, request: ClientRequest
) -> "DisconnectWatcher":
    """Return the watcher that notices this request's client disconnecting."""
    watcher = DisconnectWatcher(reply)
    if not request.upload:  # an upload reads on, and so notices it by itself
        watcher.watch(scope, receive)
    return watcher


class DisconnectWatcher:
    """Cancels a request's task when its client disconnects before the response is complete."""

    __slots__ = ("_over", "_reply", "_watching", "taken", "task")

    def __init__(self, reply: AsgiResponseWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - requests run in tasks
        self.task = task
        self.taken = False
        self._reply = reply
        self._over = False
        self._watching: asyncio.Task[None] | None = None

    def watch(self, scope: Scope, receive: Receive) -> None:
        """Start watching: by a callback of the server if it supports that; else by a task."""
        extensions: Any = scope.get("extensions") or {}
        if LEAVING in extensions:
            extensions[LEAVING](self._on_disconnect)
        else:
            self._watching = asyncio.create_task(disconnect(receive))
            self._watching.add_done_callback(lambda _: self._on_disconnect())

    def stop_watching(self) -> None:
        """Stop watching; the client may disconnect."""
        self._over = True
        if self._watching:
            self._watching.cancel()

    def _on_disconnect(self) -> None:
        """Handle the disconnect."""
        if not self._over and not self._reply.ended:
            self.taken = True
            self.task.cancel()


async def disconnect(receive: Receive) -> None:
    """Return when the client has disconnected."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
