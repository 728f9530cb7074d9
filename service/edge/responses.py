"""Sends responses over ASGI, and formats errors in Anthropic's shape."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from litestar.types import ASGIApp, Receive, Scope, Send
from msgspec import Struct

from service.errors import MethodNotAllowed, ProviderFailed, ProxyError

if TYPE_CHECKING:
    from service.relay import ClientRequest

JSON = (b"content-type", b"application/json")
EVENT_STREAM = b"text/event-stream"
UNBUFFERED = (b"x-accel-buffering", b"no")
"""Has nginx, and what understands its header, pass events on as they come."""
PASSING = frozenset((408, 429, 503, 504, 529))
"""Statuses of what may be over soon: in a stream, clients retry nothing but an overload."""
UNTRUSTED_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"sandbox; default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
"""On every response of the Messages API: content from a provider or a user's file must never run in the dashboard's
origin, whatever its content type."""
DEFAULT_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)
"""On every other response, unless its handler has set them."""


class OwnError(Struct, frozen=True):
    """For the log: an error of the proxy itself, and the address of the client that gets it."""

    status: int
    message: str
    client: str


class AsgiResponseWriter:
    """One answer. Every answer says which request it is, which route gave it and how many were tried.

    For the log: `request`, once its head was read, and the `error` of the proxy itself, if it answers with one.
    """

    def __init__(self, send: Send, request_id: str) -> None:
        self.started = False
        self.early = False
        self.committed = False
        self.ended = False
        self.broken = False
        self.status = 0
        self.streams = False
        self.route = ""
        self.attempts = 0
        self.dropped: tuple[str, ...] = ()
        self.dropped_messages = 0
        self.request: ClientRequest | None = None
        self.error: OwnError | None = None
        self.request_id = request_id
        self._send: Any = send

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Begin an answer with its head, unless that has gone; `request-id` is the provider's, else our own."""
        if not self.early:
            own = [(b"x-ccproxy-attempts", b"%d" % self.attempts)]
            if self.route:
                own.append((b"x-ccproxy-route", self.route.encode()))
            if self.dropped:
                own.append((b"x-ccproxy-dropped", ", ".join(self.dropped).encode()))
            await self._send_head(status, headers, own)
        self.committed = True

    async def start_early(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Send the head of an event stream; it can't tell the route, or the provider's id."""
        await self._send_head(200, headers, [])
        self.early = True

    async def _send_head(
        self, status: int, headers: Sequence[tuple[bytes, bytes]], own: list[tuple[bytes, bytes]]
    ) -> None:
        named = dict(headers)
        request_id = self.request_id.encode()
        own += [(b"x-ccproxy-request-id", request_id), *UNTRUSTED_HEADERS]
        if self.dropped_messages:
            own.append((b"x-ccproxy-truncated", b"%d messages" % self.dropped_messages))
        if b"request-id" not in named:
            own.append((b"request-id", request_id))
        self.streams = named.get(b"content-type", b"").startswith(EVENT_STREAM)
        if self.streams:
            own.append(UNBUFFERED)
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, *own]})
        self.started = True
        self.status = status

    async def write(self, data: bytes) -> None:
        """Send a part of the body."""
        if data:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """Send the last part of the body, together with its end."""
        await self._send({"type": "http.response.body", "body": data, "more_body": False})
        self.ended = True

    async def fail(self, error: ProxyError) -> None:
        """Send an error of the proxy. Within a stream it becomes an event, possibly after a partial one; any other
        response that has begun is aborted, which the client notices."""
        if self.started:
            self.broken = True
            if self.streams and not self.ended:
                await self.end(error_event(error, self.request_id))
            return
        body = error_body(error, self.request_id)
        await self.start(error.status, [JSON, (b"content-length", b"%d" % len(body)), *error_headers(error)])
        await self.end(body)


def with_default_headers(app: ASGIApp) -> ASGIApp:
    """Wrap an application to add `DEFAULT_HEADERS`."""

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_defaults(message: Any) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                missing = [header for header in DEFAULT_HEADERS if header[0] not in given]
                message["headers"] = [*message["headers"], *missing]
            await send(message)

        await app(scope, receive, send_with_defaults)

    return handle


def error_headers(error: ProxyError) -> list[tuple[bytes, bytes]]:
    """Return an error's own headers: those about retries, and what it passes on from a provider."""
    headers = list(error.headers)
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after_s))
    if error.should_retry is not None:
        headers.append((b"x-should-retry", b"true" if error.should_retry else b"false"))
    if isinstance(error, MethodNotAllowed) and error.allowed:
        headers.append((b"allow", error.allowed.encode()))
    return headers


def error_body(error: ProxyError, request_id: str) -> bytes:
    """Return the error envelope of the Messages API."""
    return enveloped(object_of_error(error), request_id)


def error_event(error: ProxyError, request_id: str) -> bytes:
    """Return an error as an event of a stream, where neither a status nor a header says what is worth a retry. It may
    follow a part of another event."""
    fields = object_of_error(error)
    if error.status in PASSING:
        fields["type"] = "overloaded_error"
    if wait_s := dict(error.headers).get(b"retry-after", b"").decode("latin-1"):
        fields["message"] += f" (retry after {wait_s} s)"
    return b"\n\nevent: error\ndata: " + enveloped(fields, request_id) + b"\n\n"


def object_of_error(error: ProxyError) -> dict[str, Any]:
    """Return the error object of an envelope."""
    if isinstance(error, ProviderFailed) and error.fields:
        return dict(error.fields)
    fields: dict[str, Any] = {"type": error.type, "message": error.message}
    if error.details:
        fields["details"] = error.details
    return fields


def enveloped(fields: dict[str, Any], request_id: str) -> bytes:
    """Return an error object in its envelope."""
    return msgspec.json.encode({"type": "error", "error": fields, "request_id": request_id})
