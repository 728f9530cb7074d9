"""Both ends of an attack: a client that sends any bytes, and a provider that notes each byte it was sent.

`ByteProvider` reads requests strictly by their framing and answers from a script; what it saw tells what was really
forwarded. Not here: a provider that behaves (`tests.fakes`).
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from tests.support.proxies import Serving
from tests.support.reading import until_read
from tests.support.served import served

LIMIT_S = 20
MESSAGE: dict[str, Any] = {
    "id": "msg_01ByteProvider1",
    "type": "message",
    "role": "assistant",
    "model": "claude-opus-5-5",
    "content": [{"type": "text", "text": "hello"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 10, "output_tokens": 5},
}


class SeenRequest(NamedTuple):
    """A request as its bytes came; header names in lower case."""

    line: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes

    @property
    def method(self) -> bytes:
        return self.line.split(b" ")[0]

    @property
    def target(self) -> bytes:
        return self.line.split(b" ")[1]

    def values(self, name: bytes) -> list[bytes]:
        """All values of a header."""
        return [value for known, value in self.headers if known == name]


class RawResponse(NamedTuple):
    """A response as its bytes came; `body` is all that followed the head, without its framing."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def value(self, name: bytes) -> bytes:
        """The value of a header, b"" when it is missing."""
        return next((value for known, value in self.headers if known == name), b"")

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def answer(
    body: bytes | Mapping[str, Any] = MESSAGE, status: int = 200, content_type: str = "application/json", **headers: str
) -> bytes:
    """A whole answer as bytes; `headers` with `_` for `-`."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} X", f"content-type: {content_type}", f"content-length: {len(raw)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + raw


class ByteProvider:
    """A provider on the loopback; `script` gives the bytes of each answer (None: the connection is cut)."""

    def __init__(self, script: Callable[[SeenRequest], bytes | None]) -> None:
        self.script = script
        self.seen: list[SeenRequest] = []
        self.connections = 0
        self.port = 0

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until the client leaves."""
        self.connections += 1
        try:
            while (said := self.script(await self._read(reader))) is not None:
                writer.write(said)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            await leave(writer)

    async def _read(self, reader: asyncio.StreamReader) -> SeenRequest:
        line, headers = await read_head(reader)
        self.seen.append(SeenRequest(line, headers, await read_framed(reader, headers, until_eof=False)))
        return self.seen[-1]


@asynccontextmanager
async def byte_provider(
    script: Callable[[SeenRequest], bytes | None] = lambda _: answer(),
) -> AsyncIterator[ByteProvider]:
    """A byte-level provider on this loop."""
    made = ByteProvider(script)
    async with served(made.serve, limit=1024 * 1024) as made.port:
        yield made


class RawClient:
    """One connection to a proxy; any bytes may be sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, url: str) -> Self:
        """A connection to the proxy at this URL."""
        parts = urlsplit(url)
        assert parts.hostname
        return cls(*await asyncio.open_connection(parts.hostname, parts.port, limit=4 * 1024 * 1024))

    async def send(self, data: bytes) -> None:
        """Bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    async def until_read(self, served: Serving) -> None:
        """Wait until the proxy has read everything that was sent."""
        await until_read(served.connections, self.reader, self.writer)

    async def receive(self, method: bytes = b"POST") -> RawResponse:
        """The next response. Raises IncompleteReadError when the proxy closes instead."""
        async with asyncio.timeout(LIMIT_S):
            line, headers = await read_head(self.reader)
            status = int(line.split(b" ")[1])
            bodiless = method == b"HEAD" or status in (204, 304) or status < 200
            body = b"" if bodiless else await read_framed(self.reader, headers, until_eof=True)
            return RawResponse(status, headers, body)

    async def ask(self, data: bytes, method: bytes = b"POST") -> RawResponse:
        """Send bytes and read one response."""
        await self.send(data)
        return await self.receive(method)

    async def closed(self, limit_s: float = LIMIT_S) -> bytes:
        """All that still comes until the proxy closes. Raises TimeoutError when it does not."""
        async with asyncio.timeout(limit_s):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    async def close(self) -> None:
        """Leave."""
        await leave(self.writer)


@asynccontextmanager
async def raw_client(url: str) -> AsyncIterator[RawClient]:
    """A connection for one test."""
    client = await RawClient.connect(url)
    try:
        yield client
    finally:
        await client.close()


def request(
    body: bytes | Mapping[str, Any] = b"",
    target: bytes | str = "/v1/messages",
    method: str = "POST",
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """A well-formed request as bytes; a header of `headers` replaces one of the usual ones, "" leaves it out."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = {"host": "127.0.0.1", "content-type": "application/json", "anthropic-version": "2023-06-01"}
    found |= {"content-length": str(len(raw))} | dict(headers or {})
    lines = [f"{name}: {value}" for name, value in found.items() if value]
    start = method.encode() + b" " + (target if isinstance(target, bytes) else target.encode()) + b" HTTP/1.1"
    return b"\r\n".join([start, *(line.encode("latin-1") for line in lines)]) + b"\r\n\r\n" + raw


async def read_head(reader: asyncio.StreamReader) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """The first line and the headers of a message."""
    head = await reader.readuntil(b"\r\n\r\n")
    line, *rest = head[:-4].split(b"\r\n")
    pairs = [header.partition(b":") for header in rest]
    return line, [(name.lower(), value.strip()) for name, _, value in pairs]


async def read_framed(reader: asyncio.StreamReader, headers: list[tuple[bytes, bytes]], *, until_eof: bool) -> bytes:
    """The body, by its framing alone."""
    named = dict(headers)
    if named.get(b"transfer-encoding", b"").lower() == b"chunked":
        parts = []
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            parts.append(await reader.readexactly(size))
            await reader.readexactly(2)
        await reader.readuntil(b"\r\n")
        return b"".join(parts)
    if b"content-length" in named:
        return await reader.readexactly(int(named[b"content-length"]))
    return await reader.read() if until_eof else b""


async def leave(writer: asyncio.StreamWriter) -> None:
    """Close a connection at once, and wait until it is closed."""
    writer.transport.abort()
    with suppress(Exception):
        await writer.wait_closed()
