"""Answers to requests that the connection itself refuses: of no handler's, in Anthropic's shape, logged and counted."""

import logging
from collections.abc import Callable

from litestar.types import ASGIApp, Receive, Scope, Send
from msgspec import Struct

from service.edge.responses import AsgiResponseWriter
from service.edge.traffic import Traffic, verdict_of
from service.errors import ProxyError

log = logging.getLogger("ccproxy.edge")


class Refusals(Struct, frozen=True):
    """Makes the answers of refused requests."""

    new_request_id: Callable[[], str]
    traffic: Traffic

    def answer_with(self, error: ProxyError) -> ASGIApp:
        """An ASGI application that answers with this error."""
        error.with_traceback(None)  # whose frames lead to the connection

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - nothing of it is read
            request_id = self.new_request_id()
            client = str((scope.get("client") or ("",))[0])
            log.warning("%s %s", error.status, error.message, extra={"request": request_id, "client": client})
            reply = AsgiResponseWriter(send, request_id)
            self.traffic.begin()
            try:
                await reply.fail(error)
            finally:
                self.traffic.end("other", *verdict_of(reply, error))

        return answer
