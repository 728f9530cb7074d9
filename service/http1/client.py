"""HTTP/1.1 transport to the providers, over pooled connections. No cookies, no redirects, no copies, no retries.

`open` is for the hot path: it takes a prepared request and returns the response as it arrives. `handle_async_request`
is httpx's transport interface. Both raise httpx's exceptions; `StaleSocket` is a subclass of httpx.ReadError.

    client (this module) -> pool (which connection) -> connector (opening it)
                         -> request_head (serializing) -> connection (waiting) -> response_parser (parsing)

Not here: HTTP proxies and HTTP/2 (httpx's own transport), redirects, content encodings, meaning of failures.
"""

from collections.abc import AsyncIterator, Sequence

import httpx
from msgspec import Struct

from service.http1.connection import UpstreamConnection
from service.http1.connector import Connector
from service.http1.pool import Limits, Pool
from service.http1.request_head import (
    HeaderPairs,
    Origin,
    base_of,
    origin_of,
    request_head,
    target_under,
    upload_bytes,
)

SLICE_BYTES = 262_144
"""Larger bodies are sent in pieces of this size, so that at most one is in the socket's buffer."""


class HttpTimeouts(Struct, frozen=True):
    """Timeout of each step, in seconds; None waits forever. `write_s` and `chunk_s` restart with each piece."""

    connect_s: float | None = None
    pool_s: float | None = None
    write_s: float | None = None
    head_s: float | None = None
    chunk_s: float | None = None


class HttpResponse:
    """A response whose head has arrived. `close` must be called.

    `joined`: parts that arrived together are returned as one. That saves most of a burst's cost where chunk boundaries
    don't matter.
    """

    __slots__ = ("_chunk_s", "_connection", "_pool", "headers", "joined", "status")

    def __init__(
        self,
        status: int,
        headers: Sequence[tuple[bytes, bytes]],
        connection: UpstreamConnection,
        pool: Pool,
        waits: HttpTimeouts,
    ) -> None:
        self.status = status
        self.headers = headers
        self.joined = False
        self._connection: UpstreamConnection | None = connection
        self._pool = pool
        self._chunk_s = waits.chunk_s

    @property
    def at_end(self) -> bool:
        """True if the whole body was read, so that the connection is back in the pool."""
        return self._connection is None

    def allow_silence(self) -> None:
        """Wait without limit between parts from now on."""
        self._chunk_s = None

    async def chunk(self) -> bytes:
        """Return the next part of the body, b"" at its end. Raises an httpx.TransportError."""
        connection = self._connection
        if connection is None:
            return b""
        while (data := connection.take(joined=self.joined)) is None:
            await connection.wait_for_data(self._chunk_s)
        if connection.at_end:
            self._release()
        return data

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield the parts of the body. Raises an httpx.TransportError."""
        while data := await self.chunk():
            yield data

    async def close(self) -> None:
        """Return the connection to the pool, or close it if the body was not read to its end."""
        self._release()

    def _release(self) -> None:
        """Release the connection as soon as the body was read: forwarding it may take long."""
        if self._connection:
            self._pool.release(self._connection)
            self._connection = None


class Http1Transport(httpx.AsyncBaseTransport):
    """The connections of a process to its providers; belongs to one event loop."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._pool = Pool(limits or Limits(), Connector())

    async def open(
        self,
        method: str,
        base_url: str,
        target: bytes,
        headers: HeaderPairs,
        content: bytes | AsyncIterator[bytes],
        waits: HttpTimeouts,
    ) -> HttpResponse:
        """Send a request to a target below a fixed base URL, and wait for the response's head. Raises
        httpx.TransportError or httpx.InvalidURL."""
        origin, prefix = base_of(base_url)
        return await self._open(method, origin, target_under(target, prefix), headers, content, waits)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """httpx's transport interface."""
        given = request.extensions.get("timeout", {})
        waits = HttpTimeouts(
            given.get("connect"), given.get("pool"), given.get("write"), given.get("read"), given.get("read")
        )
        url = request.url
        origin = origin_of(url.scheme, url.netloc.decode("ascii"))
        content = content_of(request)
        answer = await self._open(
            request.method, origin, target_under(url.raw_path), request.headers.raw, content, waits
        )
        return httpx.Response(answer.status, headers=list(answer.headers), stream=AnswerStream(answer))

    async def reach(self, base_url: str, waits: HttpTimeouts) -> None:
        """Open a connection without sending anything. Raises httpx.TransportError or httpx.InvalidURL."""
        origin, _ = base_of(base_url)
        self._pool.release(await self._pool.acquire(origin, waits.connect_s, waits.pool_s))

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.close()

    async def _open(
        self,
        method: str,
        origin: Origin,
        target: bytes,
        headers: HeaderPairs,
        content: bytes | AsyncIterator[bytes],
        waits: HttpTimeouts,
    ) -> HttpResponse:
        size = len(content) if isinstance(content, bytes) else upload_bytes(headers)
        head = request_head(method, origin, target, headers, size)
        connection = await self._pool.acquire(origin, waits.connect_s, waits.pool_s)
        try:
            is_head = method == "HEAD"
            if isinstance(content, bytes) and len(content) <= SLICE_BYTES:
                connection.send(head, content, is_head=is_head)
            else:
                parts = sliced(content) if isinstance(content, bytes) else framed(content, size)
                connection.upload(head, parts, waits.write_s, is_head=is_head)
            answer = await connection.head(waits.head_s)
        except BaseException:
            self._pool.release(connection)
            raise
        opened = HttpResponse(answer.status, answer.headers, connection, self._pool, waits)
        if connection.at_end:
            await opened.close()
        return opened


class AnswerStream(httpx.AsyncByteStream):
    """A response's body for httpx."""

    def __init__(self, answer: HttpResponse) -> None:
        self._answer = answer

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the parts as they arrive."""
        return self._answer.parts()

    async def aclose(self) -> None:
        """Stop reading."""
        await self._answer.close()


def content_of(request: httpx.Request) -> bytes | AsyncIterator[bytes]:
    """Return a request's body: as bytes if it is complete."""
    try:
        return request.content
    except httpx.RequestNotRead:
        stream = request.stream
    if not isinstance(stream, httpx.AsyncByteStream):
        raise httpx.UnsupportedProtocol("the body can't be read asynchronously")
    return aiter(stream)


async def sliced(body: bytes) -> AsyncIterator[bytes]:
    """Yield a large body in pieces."""
    for start in range(0, len(body), SLICE_BYTES):
        yield body[start : start + SLICE_BYTES]


async def framed(parts: AsyncIterator[bytes], size: int | None) -> AsyncIterator[bytes]:
    """Yield an upload as sent: chunked, or checked against its declared length. Raises httpx.LocalProtocolError."""
    sent = 0
    async for part in parts:
        sent += len(part)
        if size is not None and sent > size:
            break
        if part:
            yield part if size is not None else b"%x\r\n%b\r\n" % (len(part), part)
    if size is None:
        yield b"0\r\n\r\n"
    elif sent != size:
        raise httpx.LocalProtocolError("the upload does not match its content-length")
