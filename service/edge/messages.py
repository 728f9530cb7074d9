"""`/v1/*`: a plain ASGI handler, because the framework's conveniences cost more than the relay itself.

It reads a request, hands it to the relay, and turns what that raises into Anthropic's shape. A client that goes is
noticed at once: its request's task is cancelled.
"""

import asyncio
import contextlib
import logging
from typing import Any

from litestar.types import ASGIApp, Receive, Scope, Send

from service.edge.calls import Gone, read_call
from service.edge.keys import Keyring
from service.edge.replies import AsgiReply
from service.errors import ProxyError
from service.relay import Relay

log = logging.getLogger("ccproxy.edge")


def messages_app(relay: Relay, keyring: Keyring) -> ASGIApp:
    """The handler of everything under /v1."""

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        request_id = relay.clock.new_request_id()
        reply = AsgiReply(send, request_id)
        try:
            await answer(scope, receive, reply, request_id)
        except Gone:
            log.debug("client.left", extra={"request": request_id})
        except ProxyError as error:
            log.warning("%s %s", error.status, error.message, extra={"request": request_id})
            await reply.fail(error)
        except Exception:
            log.exception("request.failed", extra={"request": request_id})
            if not reply.started:
                await reply.fail(ProxyError("the proxy failed; its log has the reason under this request's id"))

    async def answer(scope: Scope, receive: Receive, reply: AsgiReply, request_id: str) -> None:
        client = keyring.identify(scope["headers"])
        call = await read_call(scope, receive, relay.settings, client, request_id, relay.clock.now_ms())
        if call.upload:
            await relay.handle(call, reply)
            return
        await while_present(receive, reply, relay.handle(call, reply))

    return handle


async def while_present(receive: Receive, reply: AsgiReply, work: Any) -> None:
    """Do the work for as long as the client is there; when it goes, cancel the work and wait for its end."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(disconnect(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done() and not reply.ended:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    finally:
        watch.cancel()
        if not task.done():
            task.cancel()


async def disconnect(receive: Receive) -> None:
    """Returns when the client has gone."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
