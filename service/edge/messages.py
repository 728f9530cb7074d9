"""`/v1/*`: a plain ASGI handler, because the framework's conveniences cost more than the relay itself.

It reads a request, hands it to the relay, and turns what that raises into Anthropic's shape. A client that goes is
noticed at once: its request's task is cancelled. So is what is still under way when this process has to end; that
client is told.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from litestar.types import ASGIApp, Receive, Scope, Send

from service.brake import Brake
from service.drain import Drain
from service.edge.admit import Gate
from service.edge.calls import Gone, asked_for, read_call
from service.edge.keys import Keyring
from service.edge.replies import AsgiReply
from service.edge.traffic import Traffic, verdict_of
from service.errors import BadClientKey, ProxyError, Stopping
from service.relay import Relay

log = logging.getLogger("ccproxy.edge")


def messages_app(relay: Relay, keyring: Keyring, gate: Gate, brake: Brake, drain: Drain, traffic: Traffic) -> ASGIApp:
    """The handler of everything under /v1."""

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        request_id = relay.clock.new_request_id()
        reply = AsgiReply(send, request_id)
        shown: ProxyError | None = None
        traffic.begin()
        try:
            await answer(scope, receive, reply, request_id)
        except Gone:
            log.debug("client.left", extra={"request": request_id})
        except ProxyError as error:
            client = address_of(scope)
            log.warning("%s %s", error.status, error.message, extra={"request": request_id, "client": client})
            shown = await brake.slow(client, error) if isinstance(error, BadClientKey) else error
            await reply.fail(shown)
        except Exception:
            log.exception("request.failed", extra={"request": request_id})
            if not reply.started:
                await reply.fail(ProxyError("the proxy failed; its log has the reason under this request's id"))
        finally:
            traffic.end(asked_for(scope, relay.settings.base_path), *verdict_of(reply, shown))

    async def answer(scope: Scope, receive: Receive, reply: AsgiReply, request_id: str) -> None:
        client = keyring.identify(scope["headers"])
        call = await read_call(scope, receive, relay.settings, client, request_id, relay.clock.now_ms())
        reply.dropped_messages = call.dropped_messages
        async with gate.admitted(client, call):
            watch = None if call.upload else disconnect(receive)  # an upload reads on, and notices by itself
            await while_wanted(relay.handle(call, reply), reply, watch, drain)

    return handle


def address_of(scope: Scope) -> str:
    """Where a client is: as the connection says, or a trusted proxy before us."""
    client = scope.get("client")
    return str(client[0]) if client else ""


async def while_wanted(
    work: Coroutine[Any, Any, None], reply: AsgiReply, watch: Coroutine[Any, Any, None] | None, drain: Drain
) -> None:
    """Do the work for as long as the client is there (`watch` ends when it goes), and this process may go on; else
    cancel it and wait for its end. Raises Stopping when the client still waits for an answer."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a request runs in one
    leave = Leave(task, reply)
    watching = asyncio.ensure_future(watch) if watch else None
    if watching:
        watching.add_done_callback(leave)
    try:
        with drain.holding(task):
            await work
    except asyncio.CancelledError:
        if not leave.taken and not drain.is_over:
            raise  # somebody else's doing
        task.uncancel()
        if not leave.taken:
            raise Stopping("this proxy is being stopped; ask again") from None
    finally:
        leave.over = True
        if watching:
            watching.cancel()


class Leave:
    """Cancels a request's task when its client goes before the answer is at its end."""

    __slots__ = ("_reply", "_task", "over", "taken")

    def __init__(self, task: asyncio.Task[Any], reply: AsgiReply) -> None:
        self._task = task
        self._reply = reply
        self.over = False
        self.taken = False

    def __call__(self, _: asyncio.Future[None]) -> None:
        """The client has gone."""
        if not self.over and not self._reply.ended:
            self.taken = True
            self._task.cancel()


async def disconnect(receive: Receive) -> None:
    """Returns when the client has gone."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
