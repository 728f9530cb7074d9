"""Sends one request to a provider and returns the response as bytes. Uses `client`, or httpx's own transport where an
HTTP proxy is configured or the settings require it; tests may use any httpx transport. There is no httpx client and no
retry.

Not here: what a failure means (`routing`), what the bytes mean (`protocol.tap`, `providers.error_facts`).
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol
from urllib.request import getproxies

import httpx

from service.egress import Proxy, UnusableCertificates, UnusableProxy, proxy_for, tls_context
from service.http1.client import Http1Transport, HttpTimeouts
from service.http1.connection import StaleSocket
from service.http1.connector import SOCKET_OPTIONS
from service.http1.request_head import CONTROLS, METHODS, base_of, target_under
from service.ledger.events import FailureKind
from service.protocol.content_coding import BadEncoding, ResponseDecoder, response_decoder
from service.settings import Timeouts, UpstreamTransport

LIMITS = httpx.Limits(max_connections=1_000, max_keepalive_connections=100, keepalive_expiry=30)
"""Limits of httpx's transport; `pool` has those of our own, and the reasons."""

Headers = Sequence[tuple[bytes, bytes]]
Content = bytes | AsyncIterator[bytes]
FAILURES = (httpx.TransportError, ssl.SSLError, UnusableProxy, UnusableCertificates, httpx.InvalidURL)


class UpstreamError(Exception):
    """The connection or the protocol failed: there is no response, or no more of it."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class ResponseBody(Protocol):
    """A response's body from either transport. Both raise httpx.TransportError."""

    joined: bool
    """Parts that arrived together may be returned as one."""

    @property
    def at_end(self) -> bool:
        """True if the whole body was read."""

    async def chunk(self) -> bytes:
        """Return the next part, b"" at the end."""

    def allow_silence(self) -> None:
        """Wait without limit between parts from now on."""

    async def close(self) -> None:
        """Return the connection to the pool, or close it if the body was not read to its end."""


class UpstreamResponse:
    """A response whose head has arrived. `close` must be called; chunks are decoded if `decoded` is true.

    The body is read chunk by chunk, without a generator, which would cost more than a chunk does.
    """

    def __init__(self, status: int, headers: Headers, body: ResponseBody) -> None:
        self.status = status
        self.headers = headers
        """Names in lower case."""
        self._named = dict(reversed(headers))
        """Of a repeated header the first."""
        self._body = body
        self._decoder: ResponseDecoder | None = None

    @property
    def content_type(self) -> str:
        """The media type in lower case, without parameters."""
        return self._named.get(b"content-type", b"").split(b";")[0].strip().lower().decode("latin-1")

    @property
    def decoded(self) -> bool:
        """True if the content encoding is removed."""
        return self._decoder is not None

    @property
    def at_end(self) -> bool:
        """True if the whole body was read."""
        return self._body.at_end

    def decode(self) -> None:
        """Remove the content encoding from now on, if it is known."""
        if b"content-encoding" in self._named:
            encodings = [value for name, value in self.headers if name == b"content-encoding"]
            self._decoder = response_decoder(b", ".join(encodings).decode("latin-1"))

    def join(self) -> None:
        """Allow chunks that arrived together to be returned as one, which is cheaper to forward."""
        self._body.joined = True

    def allow_silence(self) -> None:
        """Wait without limit between chunks from now on. A dead connection is noticed by TCP's own probes."""
        self._body.allow_silence()

    async def chunk(self) -> bytes:
        """Return the next part of the body, b"" at its end. Raises UpstreamError."""
        try:
            return await (self._decoded(self._decoder) if self._decoder else self._body.chunk())
        except BadEncoding as error:
            raise UpstreamError("bad_answer", str(error)) from None
        except httpx.TransportError as error:
            raise UpstreamError(*failure_of(error)) from None

    async def read(self, limit_bytes: int) -> bytes:
        """Return the whole body; raises UpstreamError, also if it exceeds the limit."""
        self.join()
        parts: list[bytes] = []
        size = 0
        while chunk := await self.chunk():
            size += len(chunk)
            if size > limit_bytes:
                raise UpstreamError("bad_answer", f"the response is larger than {limit_bytes} bytes")
            parts.append(chunk)
        return b"".join(parts)

    async def close(self) -> None:
        """Return the connection to the pool, or close it if the body was not read to its end."""
        await self._body.close()

    async def _decoded(self, decoder: ResponseDecoder) -> bytes:
        """Return the next decoded part; an encoded part may yield none or several."""
        while True:
            while decoder.pending:
                await asyncio.sleep(0)  # yield to other tasks, since nothing was waited for
                if data := decoder.more():
                    return data
            if not (part := await self._body.chunk()):
                return decoder.finish()
            if data := decoder.feed(part):
                return data


class UpstreamClient:
    """The transports of a process: our own, and httpx's for each proxy in the environment."""

    def __init__(
        self, timeouts: Timeouts, transport: httpx.AsyncBaseTransport | None = None, *, kind: UpstreamTransport = "lean"
    ) -> None:
        connect_s, idle_s = timeouts.connect_ms / 1000, timeouts.idle_ms / 1000
        # Until the head, the plan's deadline is the limit; after it, the time between chunks.
        self._waits = HttpTimeouts(connect_s=connect_s, pool_s=connect_s, write_s=idle_s, chunk_s=idle_s)
        self._lean = Http1Transport() if kind == "lean" and transport is None else None
        self._given = transport
        self._by_proxy: dict[str, httpx.AsyncBaseTransport] = {}
        self._proxies = getproxies()

    async def open(
        self, method: str, base_url: str, target: bytes, headers: Headers, content: Content
    ) -> UpstreamResponse:
        """Send a request to a target (path and query) below a fixed base URL, and wait for the response's head. The two
        are never joined and parsed as a URL. Raises UpstreamError."""
        try:
            proxy = proxy_for(base_url, self._proxies) if self._proxies and not self._given else None
            if self._lean and not proxy:
                answer = await self._lean.open(method, base_url, target, headers, content, self._waits)
                return UpstreamResponse(answer.status, answer.headers, answer)
            return await self._open_httpx(proxy, method, base_url, target, headers, content)
        except FAILURES as error:
            raise upstream_error(error) from None

    async def reach(self, base_url: str) -> None:
        """Open a connection as a request would, TLS and proxy included, and send no request. Raises UpstreamError."""
        try:
            proxy = proxy_for(base_url, self._proxies)
            if self._lean and not proxy:
                await self._lean.reach(base_url, self._waits)
                return
            timeout = dict.fromkeys(("connect", "read", "write", "pool"), self._waits.connect_s)
            request = httpx.Request("GET", base_url, extensions={"timeout": timeout, "trace": stop_before_request})
            with suppress(Reached):
                await self._transport(proxy).handle_async_request(request)
        except FAILURES as error:
            raise upstream_error(error) from None

    async def close(self) -> None:
        """Close all connections."""
        for transport in self._by_proxy.values():
            await transport.aclose()
        self._by_proxy.clear()
        if self._lean:
            await self._lean.aclose()

    async def _open_httpx(
        self, proxy: Proxy | None, method: str, base_url: str, target: bytes, headers: Headers, content: Content
    ) -> UpstreamResponse:
        if method not in METHODS:
            raise httpx.LocalProtocolError("unsupported method")
        waits, trace = self._waits, Trace()
        timeout = {"connect": waits.connect_s, "read": waits.head_s, "write": waits.write_s, "pool": waits.pool_s}
        _, prefix = base_of(base_url)
        whole = target_under(target, prefix)
        extensions: dict[str, Any] = {"timeout": timeout, "trace": trace}
        if not proxy:  # byte for byte; httpcore would send it to an HTTP proxy too, instead of the origin
            extensions["target"] = whole
        request = httpx.Request(
            method,
            httpx.URL(base_url, raw_path=whole),
            headers=list(headers),
            content=content,
            extensions=extensions,
        )
        try:
            response = await self._transport(proxy).handle_async_request(request)
        except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
            words = str(error)
            if isinstance(error, httpx.RemoteProtocolError):
                words = words.partition(":")[0]  # the colon is followed by received data
            raise type(error)(words) if trace.connected else StaleSocket(words) from None
        if fault := fault_in(response):
            await response.aclose()
            raise httpx.RemoteProtocolError(fault)
        timeout["read"] = waits.chunk_s  # the transport reads this dictionary again when it starts reading the body
        lowered = [(name.lower(), value) for name, value in response.headers.raw]
        return UpstreamResponse(response.status_code, lowered, HttpxBody(response, timeout))

    def _transport(self, proxy: Proxy | None) -> httpx.AsyncBaseTransport:
        if self._given:
            return self._given
        url = proxy.url if proxy else ""
        if url not in self._by_proxy:
            self._by_proxy[url] = httpx.AsyncHTTPTransport(
                limits=LIMITS, retries=0, verify=tls_context(), proxy=url or None, socket_options=SOCKET_OPTIONS
            )
        return self._by_proxy[url]


class HttpxBody:
    """A body from an httpx transport."""

    joined = False
    at_end = False

    def __init__(self, response: httpx.Response, timeout: dict[str, float | None]) -> None:
        self._response = response
        self._timeout = timeout
        self._parts: AsyncIterator[bytes] = aiter(response.stream)  # type: ignore[arg-type]

    def allow_silence(self) -> None:
        """Wait without limit between parts, if none was awaited yet: the transport reads the limit when it starts."""
        self._timeout["read"] = None

    async def chunk(self) -> bytes:
        """Return the next part, b"" at the end."""
        async for part in self._parts:
            if part:
                return part
        return b""

    async def close(self) -> None:
        """Return the connection to the pool, or close it if the body was not read to its end or bytes follow it."""
        drop_if_more_has_come(self._response)
        await self._response.aclose()


def drop_if_more_has_come(response: httpx.Response) -> None:
    """Make a connection unusable if bytes follow its response: they would be taken for the response to the next
    request, possibly another client's. httpcore has no public interface for them."""
    with suppress(AttributeError):  # a transport of another kind
        state = response.stream._httpcore_stream._stream._connection._h11_state  # type: ignore[union-attr]  # noqa: SLF001
        if state.trailing_data[0]:
            state.send_failed()


class Reached(Exception):
    """A connection is open, and nothing was sent on it yet."""


async def stop_before_request(name: str, info: Mapping[str, Any]) -> None:
    """Handle httpcore's trace events: end before a request is sent, other than a proxy's CONNECT."""
    if name.endswith("send_request_headers.started") and info["request"].method != b"CONNECT":
        raise Reached


def upstream_error(error: Exception) -> UpstreamError:
    """Convert what the transports and the reading of proxies raise."""
    if isinstance(error, httpx.TransportError):
        return UpstreamError(*failure_of(error))
    return UpstreamError("bad_request" if isinstance(error, httpx.InvalidURL) else "connect", str(error))


class Trace:
    """httpcore trace callback that records if a new connection was opened."""

    def __init__(self) -> None:
        self.connected = False

    async def __call__(self, name: str, _info: Mapping[str, Any]) -> None:
        """Handle one trace event."""
        if name == "connection.connect_tcp.started":
            self.connected = True


def fault_in(response: httpx.Response) -> str:
    """Return why a response is invalid, "" if it is valid; our own transport's parser checks the same."""
    if response.status_code < 200:
        return "unexpected status 101"
    if response.status_code > 599:
        return "invalid response status"
    if {"content-length", "transfer-encoding"} <= response.headers.keys():
        return "the response has conflicting framing headers"
    if any(value.translate(None, CONTROLS) != value for _, value in response.headers.raw):
        return "control character in a response header"
    return ""


def failure_of(error: httpx.TransportError) -> tuple[FailureKind, str]:
    """Map a transport error to a failure kind and a message."""
    message = str(error) or type(error).__name__
    if isinstance(error, StaleSocket):
        return "stale_socket", message
    if isinstance(error, (httpx.ConnectTimeout, httpx.ConnectError, httpx.PoolTimeout, httpx.ProxyError)):
        return "connect", message
    if isinstance(error, httpx.TimeoutException):
        return "timeout", message
    if isinstance(error, (httpx.UnsupportedProtocol, httpx.LocalProtocolError)):
        return (
            "bad_request",
            "the request can't be sent as HTTP/1.1",
        )  # httpx's message quotes headers, and so credentials
    return "reset", message
