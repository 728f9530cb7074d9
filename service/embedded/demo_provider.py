"""The demo's providers: three in one process, with placeholder answers and scripted failures.

`/anthropic`, `/subscription` and `/zai` each implement as much of the Messages API as the demo needs. Not for tests,
whose fakes fail in many more ways; these failures show newcomers what the proxy handles.
"""

import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from itertools import accumulate, islice
from typing import Any, Literal, NamedTuple

import msgspec
import uvicorn

from service.telemetry.terminal import echo

Trouble = Literal["", "overloaded", "throttled", "broken_start", "broken_off"]
Message = dict[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]

HOST = "127.0.0.1"
MAX_BODY_BYTES = 1 << 20
WORDS = ("This ", "is ", "an ", "answer ", "of ", "the ", "demo. ", "Nobody ", "has ", "thought ", "about ", "it. ")
CHUNK_S = 0.03
THROTTLE_S = 6
BROKEN_AFTER: dict[Trouble, int] = {"broken_start": 1, "broken_off": 7}
"""Events sent before a stream's error."""


class DemoPhase(NamedTuple):
    """A phase of the script: which route fails in which way, and the description."""

    seconds: float
    words: str
    troubles: Mapping[str, Trouble] = {}


SCRIPT = (
    DemoPhase(12, "all providers answer; requests go to Anthropic, the first route"),
    DemoPhase(9, "Anthropic is overloaded (529): the subscription takes over", {"anthropic": "overloaded"}),
    DemoPhase(22, "Anthropic has recovered, and its weekly quota runs low: from 90 % on, other routes go first"),
    DemoPhase(9, "the subscription is throttled (429): Z.AI takes over", {"subscription": "throttled"}),
    DemoPhase(10, "the subscription has recovered"),
    DemoPhase(
        9, "streams of the subscription break before any content: Z.AI takes over", {"subscription": "broken_start"}
    ),
    DemoPhase(12, "all providers have recovered"),
    DemoPhase(6, "a stream breaks in the middle: its client gets an error event", {"subscription": "broken_off"}),
)
ENDS = tuple(accumulate(phase.seconds for phase in SCRIPT))


def phase_at(seconds: float) -> DemoPhase:
    """Return the phase at a time after the start; the script repeats."""
    place = seconds % ENDS[-1]
    return next(phase for phase, end in zip(SCRIPT, ENDS, strict=True) if place < end)


class Providers:
    """The ASGI application of the providers."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.first_request = asyncio.Event()
        """Set by the first request, which starts the script."""
        self._clock = clock
        self._began_s = 0.0
        self._random = random.Random(7)  # noqa: S311 - generated numbers
        self._answers = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            return
        body = await read_body(receive)
        _, _, rest = scope["path"].partition("/")
        route, _, path = rest.partition("/")
        if path == "v1/messages":
            await self._answer(route, msgspec.json.decode(body), send)
        elif path == "v1/messages/count_tokens":
            await reply(send, 200, {"input_tokens": len(body) // 4})
        elif scope["path"] == "/livez":
            await reply(send, 200, {})
        else:
            await reply(send, 404, error("not_found_error", "not part of the demo"))

    async def _answer(self, route: str, asked: Message, send: Send) -> None:
        if not self.first_request.is_set():
            self.first_request.set()
            self._began_s = self._clock()
        self._answers += 1
        trouble = phase_at(self._clock() - self._began_s).troubles.get(route, "")
        if trouble == "overloaded":
            await reply(send, 529, error("overloaded_error", "Overloaded"))
        elif trouble == "throttled":
            body = error("rate_limit_error", "This request would exceed your rate limit")
            await reply(send, 429, body, {"retry-after": str(THROTTLE_S)})
        elif asked.get("stream"):
            await self._stream(route, asked, trouble, send)
        else:
            usage = self._usage()
            content = [{"type": "text", "text": "".join(WORDS)}]
            body = self._message(asked) | {"content": content, "usage": usage, "stop_reason": "end_turn"}
            await reply(send, 200, body, self._limits(route))

    async def _stream(self, route: str, asked: Message, trouble: Trouble, send: Send) -> None:
        headers = {"content-type": "text/event-stream"} | self._limits(route)
        await send(head(200, headers))
        for event in islice(self._events(asked), BROKEN_AFTER.get(trouble)):
            await send(piece(sse(event)))
            await asyncio.sleep(CHUNK_S)
        if trouble in BROKEN_AFTER:
            await send(piece(sse(error("api_error", "Internal server error"))))
        await send(piece(b"", more=False))

    def _events(self, asked: Message) -> Iterator[Message]:
        usage = self._usage()
        yield {"type": "message_start", "message": self._message(asked) | {"usage": usage | {"output_tokens": 1}}}
        yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        for word in WORDS * self._random.randint(1, 3):
            yield {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}}
        yield {"type": "content_block_stop", "index": 0}
        stop = {"stop_reason": "end_turn", "stop_sequence": None}
        yield {"type": "message_delta", "delta": stop, "usage": {"output_tokens": usage["output_tokens"]}}
        yield {"type": "message_stop"}

    def _message(self, asked: Message) -> Message:
        name = f"msg_demo{self._answers:08}"
        kind = {"id": name, "type": "message", "role": "assistant", "model": asked.get("model", "")}
        return kind | {"content": [], "stop_reason": None, "stop_sequence": None}

    def _usage(self) -> dict[str, int]:
        draw = self._random.randint
        return {
            "input_tokens": draw(200, 1_500),
            "cache_read_input_tokens": draw(5_000, 40_000),
            "cache_creation_input_tokens": draw(0, 3_000),
            "output_tokens": draw(80, 700),
        }

    def _limits(self, route: str) -> dict[str, str]:
        """Return the headers of the subscription's usage windows, which fill slowly."""
        if route != "subscription":
            return {}
        names = ("5h", 0.2, 3), ("7d", 0.35, 100)
        found = {"anthropic-ratelimit-unified-status": "allowed"}
        for name, used, hours in names:
            start = f"anthropic-ratelimit-unified-{name}"
            reset = int(time.time()) // 3600 * 3600 + hours * 3600
            ratio = min(0.8, used + self._answers / 5_000)
            found |= {
                f"{start}-status": "allowed",
                f"{start}-reset": str(reset),
                f"{start}-utilization": f"{ratio:.3f}",
            }
        return found


def sse(event: Message) -> bytes:
    """Encode an event of a stream."""
    return f"event: {event['type']}\ndata: {msgspec.json.encode(event).decode()}\n\n".encode()


async def read_body(receive: Receive) -> bytes:
    """Read a request's body, truncated to the demo's limit."""
    body, more = b"", True
    while more and len(body) < MAX_BODY_BYTES:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


async def reply(send: Send, status: int, body: Message, headers: Mapping[str, str] = {}) -> None:
    """Send a complete JSON response."""
    await send(head(status, {"content-type": "application/json"} | dict(headers)))
    await send(piece(msgspec.json.encode(body), more=False))


def head(status: int, headers: Mapping[str, str]) -> Message:
    """Return the message that starts a response."""
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": pairs}


def piece(body: bytes, *, more: bool = True) -> Message:
    """Return a body message."""
    return {"type": "http.response.body", "body": body, "more_body": more}


def error(kind: str, message: str) -> Message:
    """Return an error in Anthropic's shape."""
    return {"type": "error", "error": {"type": kind, "message": message}}


async def narrate(first_request: asyncio.Event) -> None:
    """Print each phase's description when it begins."""
    await first_request.wait()
    while True:
        for phase in SCRIPT:
            echo(f"  demo  {phase.words}")
            await asyncio.sleep(phase.seconds)


async def serve(port: int) -> None:
    """Serve until stopped."""
    providers = Providers()
    server = uvicorn.Server(uvicorn.Config(providers, host=HOST, port=port, log_level="error", lifespan="off"))
    narrator = asyncio.create_task(narrate(providers.first_request))
    await server.serve()
    narrator.cancel()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
