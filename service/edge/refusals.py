"""Responses to requests that the connection itself rejects: in Anthropic's shape, logged and counted."""

from collections.abc import Callable

from litestar.types import ASGIApp, Receive, Scope, Send
from msgspec import Struct

from service.edge.request_log import log_request
from service.edge.responses import AsgiResponseWriter, OwnError
from service.edge.traffic import Traffic, verdict_of
from service.errors import ProxyError


class Refusals(Struct, frozen=True):
    """Creates the responses to rejected requests."""

    new_request_id: Callable[[], str]
    traffic: Traffic

    def answer_with(self, error: ProxyError) -> ASGIApp:
        """Return an ASGI application that answers with this error."""
        error.with_traceback(None)  # its frames reference the connection

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - ASGI's signature
            reply = AsgiResponseWriter(send, self.new_request_id())
            reply.error = OwnError(error.status, error.message, str((scope.get("client") or ("",))[0]))
            verdict, reason = verdict_of(reply, error)
            self.traffic.begin()
            try:
                await reply.fail(error)
            finally:
                self.traffic.end("other", verdict, reason)
                log_request(reply, "other", verdict, reason)

        return answer
