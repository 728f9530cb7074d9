"""The way back to the client, over ASGI; and errors in Anthropic's shape."""

from collections.abc import Sequence
from typing import Any

import msgspec
from litestar.types import ASGIApp, Receive, Scope, Send

from service.errors import ProxyError

JSON = (b"content-type", b"application/json")
EVENT_STREAM = b"text/event-stream"


class AsgiReply:
    """One answer. Every answer says which request it is, which route gave it and how many were tried."""

    def __init__(self, send: Send, request_id: str) -> None:
        self.started = False
        self.ended = False
        self.broken = False
        self.status = 0
        self.streams = False
        self.route = ""
        self.attempts = 0
        self.dropped_messages = 0
        self._send: Any = send
        self._request_id = request_id

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Send the head; `request-id` is the provider's, else our own."""
        named = dict(headers)
        request_id = self._request_id.encode()
        own = [(b"x-ccproxy-request-id", request_id), (b"x-ccproxy-attempts", b"%d" % self.attempts)]
        if self.dropped_messages:
            own.append((b"x-ccproxy-truncated", b"%d messages" % self.dropped_messages))
        if self.route:
            own.append((b"x-ccproxy-route", self.route.encode()))
        if b"request-id" not in named:
            own.append((b"request-id", request_id))
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, *own]})
        self.started = True
        self.status = status
        self.streams = named.get(b"content-type", b"").startswith(EVENT_STREAM)

    async def write(self, data: bytes) -> None:
        """Send a part of the body."""
        if data:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """The body is complete with its last part; both go in one piece."""
        await self._send({"type": "http.response.body", "body": data, "more_body": False})
        self.ended = True

    async def fail(self, error: ProxyError) -> None:
        """An error of our own. In the middle of a stream it is an event, after what may be half of one; any other
        answer that has begun stays cut, which the client sees."""
        if self.started:
            if self.streams and not self.ended:
                await self.end(b"\n\nevent: error\ndata: " + error_body(error, self._request_id) + b"\n\n")
            return
        body = error_body(error, self._request_id)
        await self.start(error.status, [JSON, (b"content-length", b"%d" % len(body)), *error_headers(error)])
        await self.end(body)


def refusal(error: ProxyError, request_id: str) -> ASGIApp:
    """The answer to a request that the connection itself refuses."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - nothing of it matters
        await AsgiReply(send, request_id).fail(error)

    return answer


def error_headers(error: ProxyError) -> list[tuple[bytes, bytes]]:
    """When to try again, and whether to."""
    headers = []
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after_s))
    if error.should_retry is not None:
        headers.append((b"x-should-retry", b"true" if error.should_retry else b"false"))
    return headers


def error_body(error: ProxyError, request_id: str) -> bytes:
    """Anthropic's envelope."""
    told: dict[str, Any] = {"type": error.type, "message": error.message}
    if error.details:
        told["details"] = error.details
    return msgspec.json.encode({"type": "error", "error": told, "request_id": request_id})
