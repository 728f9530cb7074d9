"""Passes the body of a response on as it comes: files, results of batches, and whatever unknown endpoints answer.

- Each chunk is sent at once. With a known length, the chunk that completes the body is held back until the ledger has
  the attempt's end; without one, the end itself is.
- An event stream may be silent for as long as the provider likes, since some wait for a person. In a silence the client
  gets a comment (between events alone), so that balancers keep the connection and a client that is gone is noticed.

Not here: messages (`streams`, `responses`), and what is recorded of a body (`responses`).
"""

import asyncio
import math
from collections.abc import AsyncGenerator, Sequence

from service.http1.upstream import UpstreamResponse
from service.relay.client import ResponseWriter
from service.tasks import cancel_and_wait

EVENT_STREAM = "text/event-stream"
COMMENT = b": ping\n\n"
EVENT_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")


class BodyPassthrough:
    """Sends the parts of a body. `held` is what completes it, to be sent with its end."""

    def __init__(self, response: ResponseWriter, head: Sequence[tuple[bytes, bytes]]) -> None:
        self.held = b""
        self._response = response
        self._left: float = int(dict(head).get(b"content-length", b"-1"))
        if self._left < 0:
            self._left = math.inf

    async def write(self, part: bytes) -> None:
        """Send a part, or hold it back if it completes the body."""
        self._left -= len(part)
        if self._left > 0:
            await self._response.write(part)
        else:
            self.held += part


def parts_of(upstream: UpstreamResponse, ping_s: float) -> AsyncGenerator[bytes, None]:
    """The parts of a body as they come; in the silences of an event stream, comments. Raises UpstreamError."""
    return parts_of_events(upstream, ping_s) if upstream.content_type == EVENT_STREAM else parts_of_body(upstream)


async def parts_of_body(upstream: UpstreamResponse) -> AsyncGenerator[bytes, None]:
    """The parts of a body as they come."""
    while part := await upstream.chunk():
        yield part


async def parts_of_events(upstream: UpstreamResponse, ping_s: float) -> AsyncGenerator[bytes, None]:
    """The parts of an event stream as they come, and comments in its silences."""
    upstream.allow_silence()
    between_events = True
    coming = asyncio.ensure_future(upstream.chunk())
    try:
        while True:
            await asyncio.wait({coming}, timeout=ping_s)
            if coming.done():
                if not (part := coming.result()):
                    return
                between_events = part.endswith(EVENT_ENDS)
                yield part
                coming = asyncio.ensure_future(upstream.chunk())
            elif between_events:
                yield COMMENT
    finally:
        await cancel_and_wait({coming})
