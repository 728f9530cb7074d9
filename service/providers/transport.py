"""The wire to the providers: one request, one answer, as bytes. Behind httpx's transport interface, so that another
transport (or httpx's MockTransport in tests) can take its place; there is no client and no retry around it.

Not here: what a failure means (`routing`), what the bytes mean (`tap`, `facts`).
"""

import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from service.ledger.events import FailureKind
from service.providers.encodings import AnswerDecoder, BadEncoding, answer_decoder
from service.settings import Timeouts

LIMITS = httpx.Limits(max_connections=1_000, max_keepalive_connections=100, keepalive_expiry=30)
"""More streams than one process can serve well; idle connections go before a provider's balancer drops them."""


class UpstreamError(Exception):
    """The connection or the protocol failed: there is no answer, or no more of it."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Upstream:
    """An answer whose head has come. `close` must be called; chunks come decoded when `decoded` says so."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.headers: Sequence[tuple[bytes, bytes]] = [(name.lower(), value) for name, value in response.headers.raw]
        self._response = response
        encoding = response.headers.get("content-encoding", "").strip()
        self._decoder: AnswerDecoder | None = answer_decoder(encoding) if encoding else None
        self._decoding = False

    @property
    def content_type(self) -> str:
        """The media type alone, in lower case."""
        value = next((value for name, value in self.headers if name == b"content-type"), b"")
        return value.split(b";")[0].strip().lower().decode("latin-1")

    @property
    def decoded(self) -> bool:
        """Whether the content encoding is taken off."""
        return self._decoding

    def decode(self) -> None:
        """From now on give chunks without their content encoding, where it is known."""
        self._decoding = self._decoder is not None

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises UpstreamError."""
        decoder = self._decoder if self._decoding else None
        try:
            async for chunk in self._response.stream:  # type: ignore[union-attr]
                data = decoder.feed(chunk) if decoder else chunk
                if data:
                    yield data
            if decoder and (rest := decoder.finish()):
                yield rest
        except BadEncoding as error:
            raise UpstreamError("bad_answer", str(error)) from None
        except httpx.TransportError as error:
            raise UpstreamError(*failure_of(error, reused=False)) from None

    async def read(self, limit_bytes: int) -> bytes:
        """The whole body; raises UpstreamError, also when it is over the limit."""
        parts: list[bytes] = []
        size = 0
        async for chunk in self.chunks():
            size += len(chunk)
            if size > limit_bytes:
                raise UpstreamError("bad_answer", f"the answer is larger than {limit_bytes} bytes")
            parts.append(chunk)
        return b"".join(parts)

    async def close(self) -> None:
        """Give the connection back, or drop it when the answer is not at its end."""
        await self._response.aclose()


class Wires:
    """The transports of a process: one, or one for each proxy that the environment names."""

    def __init__(self, timeouts: Timeouts, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._timeouts = timeouts
        self._given = transport
        self._by_proxy: dict[str, httpx.AsyncBaseTransport] = {}
        self._proxies = getproxies()

    async def open(
        self, method: str, url: str, headers: Sequence[tuple[bytes, bytes]], content: bytes | AsyncIterator[bytes]
    ) -> Upstream:
        """Send a request and wait for the head of its answer. Raises UpstreamError."""
        trace = Trace()
        connect_s, idle_s = self._timeouts.connect_ms / 1000, self._timeouts.idle_ms / 1000
        timeout: dict[str, float | None] = {"connect": connect_s, "read": None, "write": idle_s, "pool": connect_s}
        try:
            request = httpx.Request(
                method, url, headers=list(headers), content=content, extensions={"timeout": timeout, "trace": trace}
            )
            response = await self._transport(url).handle_async_request(request)
        except httpx.TransportError as error:
            raise UpstreamError(*failure_of(error, reused=not trace.connected)) from None
        except ssl.SSLError as error:
            raise UpstreamError("connect", str(error)) from None
        except httpx.InvalidURL as error:
            raise UpstreamError("bad_request", str(error)) from None
        # Until here the plan's deadline was the bound; from now on it is the silence between chunks. The transport
        # reads this dictionary again when it begins with the body.
        timeout["read"] = idle_s
        return Upstream(response)

    async def close(self) -> None:
        """Close all connections."""
        for transport in self._by_proxy.values():
            await transport.aclose()
        self._by_proxy.clear()

    def _transport(self, url: str) -> httpx.AsyncBaseTransport:
        if self._given:
            return self._given
        proxy = proxy_for(url, self._proxies)
        if proxy not in self._by_proxy:
            try:
                self._by_proxy[proxy] = httpx.AsyncHTTPTransport(limits=LIMITS, retries=0, proxy=proxy or None)
            except (ValueError, ImportError):
                raise UpstreamError("connect", "HTTPS_PROXY names no HTTP proxy, such as http://host:3128") from None
        return self._by_proxy[proxy]


class Trace:
    """Notes whether a connection had to be made: httpcore tells its steps by name."""

    def __init__(self) -> None:
        self.connected = False

    async def __call__(self, name: str, _info: Mapping[str, Any]) -> None:
        """One step of the transport."""
        if name == "connection.connect_tcp.started":
            self.connected = True


def proxy_for(url: str, proxies: Mapping[str, str]) -> str:
    """The HTTP proxy that the environment names for a URL, "" for none."""
    parts = urlsplit(url)
    proxy = proxies.get(parts.scheme) or proxies.get("all") or ""
    if not proxy or proxy_bypass(parts.hostname or ""):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def failure_of(error: httpx.TransportError, *, reused: bool) -> tuple[FailureKind, str]:
    """The one map of the transport's errors. `reused`: the connection had served another request before."""
    message = str(error) or type(error).__name__
    if isinstance(error, (httpx.ConnectTimeout, httpx.ConnectError, httpx.PoolTimeout, httpx.ProxyError)):
        return "connect", message
    if isinstance(error, httpx.TimeoutException):
        return "timeout", message
    if isinstance(error, (httpx.UnsupportedProtocol, httpx.LocalProtocolError)):
        return "bad_request", "the request can't be put on the wire"  # its own words quote headers, and so credentials
    return ("stale_socket" if reused else "reset"), message
