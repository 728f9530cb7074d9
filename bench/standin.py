"""The provider in the bench: canned answers, as fast as one process gives them. `python -m bench.standin PORT`.

Not a fake for tests (`tests.fakes` is): it reads nothing but what kind of answer is wanted.
"""

import asyncio
import sys
import time
from typing import cast

import httptools
import uvloop

from bench.traffic import DELTAS, PACED, PACED_EVERY_S, STAMP, burst, closing, delta, json_answer, opening, stream_head

JSON, BURST, HEAD, OPENING, CLOSING = json_answer(), burst(), stream_head(), opening(), closing()
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


class Connection(asyncio.Protocol):
    """Answers one request after the other."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A proxy has connected."""
        self._transport = cast("asyncio.Transport", transport)
        self._parser = httptools.HttpRequestParser(self)
        self._parts: list[bytes] = []
        self._url = b""
        self._left = 0

    def data_received(self, data: bytes) -> None:
        """Bytes of a request."""
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        """A part of the request's path."""
        self._url += url

    def on_body(self, part: bytes) -> None:
        """A part of the body."""
        self._parts.append(part)

    def on_message_complete(self) -> None:
        """The request is whole."""
        data, url = b"".join(self._parts), self._url
        self._parts, self._url = [], b""
        if b"/messages" not in url or b"count_tokens" in url:
            self._transport.write(NOT_FOUND)
        elif b'"stream":true' not in data and b'"stream": true' not in data:
            self._transport.write(JSON)
        elif PACED.encode() in data:
            self._transport.write(HEAD + OPENING)
            self._left = DELTAS
            self._pace()
        else:
            self._transport.write(BURST)

    def _pace(self) -> None:
        if self._transport.is_closing():
            return
        if not self._left:
            self._transport.write(CLOSING)
            return
        self._left -= 1
        self._transport.write(delta(f"{STAMP}{time.monotonic_ns()} "))
        asyncio.get_running_loop().call_later(PACED_EVERY_S, self._pace)


async def serve(port: int) -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port, backlog=2048)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
