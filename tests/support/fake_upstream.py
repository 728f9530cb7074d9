"""Providers in memory: what `http1.UpstreamClient` is to the relay, without any socket.

    upstream.script(reply(json_body), reply(529), UpstreamError("connect", "refused"))

Responses are taken in order, for each base URL apart if one is named. A body is a list of steps: bytes that come,
seconds of silence, an error that breaks it off.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from service.http1.upstream import Content, Headers, UpstreamClient, UpstreamError, UpstreamResponse
from service.settings import Timeouts
from tests.support.virtual_time import advance

Step: TypeAlias = bytes | float | Exception
"""Of a body: bytes, seconds of silence, or how it breaks off."""
FOREVER = float("inf")

MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [{"type": "text", "text": "hello"}],
    "usage": {"input_tokens": 7, "output_tokens": 9},
}


class ScriptedResponse(Struct, frozen=True):
    """A response of a fake provider; its head comes after `head_s`."""

    status: int = 200
    headers: Sequence[tuple[bytes, bytes]] = ()
    steps: Sequence[Step] = ()
    head_s: float = 0.0


class SentRequest(Struct, frozen=True):
    """A request as a provider got it."""

    method: str
    base_url: str
    target: bytes
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return msgspec.json.decode(self.body)


class ScriptedBody:
    """A body that comes step by step."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.joined = False
        self.closed = False
        self._steps = deque(steps)

    @property
    def at_end(self) -> bool:
        return not self._steps

    async def chunk(self) -> bytes:
        assert not self.closed
        while self._steps:
            step = self._steps.popleft()
            if isinstance(step, bytes):
                return step
            if isinstance(step, Exception):
                raise step
            await pause(step)
        return b""

    def allow_silence(self) -> None:
        """Silences here have no limit of their own."""

    async def close(self) -> None:
        self.closed = True


class FakeUpstream(UpstreamClient):
    """Providers that answer as they are told to, and with a message when they are told nothing."""

    def __init__(self) -> None:
        super().__init__(Timeouts())
        self.sent: list[SentRequest] = []
        self.bodies: list[ScriptedBody] = []
        self.respond: Callable[[SentRequest], ScriptedResponse | UpstreamError | None] = lambda _: None
        """Decides by the request, where nothing is scripted."""
        self._scripts: defaultdict[str, deque[ScriptedResponse | UpstreamError]] = defaultdict(deque)

    def script(self, *responses: ScriptedResponse | UpstreamError, base_url: str = "") -> None:
        """The next responses, of whichever provider or of one."""
        self._scripts[base_url].extend(responses)

    async def open(
        self, method: str, base_url: str, target: bytes, headers: Headers, content: Content
    ) -> UpstreamResponse:
        body = content if isinstance(content, bytes) else b"".join([part async for part in content])
        self.sent.append(SentRequest(method, base_url, target, dict(headers), body))
        script = self._scripts[base_url] or self._scripts[""]
        response = script.popleft() if script else self.respond(self.sent[-1]) or reply()
        if isinstance(response, UpstreamError):
            raise response
        await pause(response.head_s)
        self.bodies.append(ScriptedBody(response.steps))
        return UpstreamResponse(response.status, response.headers, self.bodies[-1])

    @property
    def all_closed(self) -> bool:
        """Whether every response was closed."""
        return all(body.closed for body in self.bodies)


async def pause(for_s: float) -> None:
    """Silence."""
    if for_s == FOREVER:
        await asyncio.get_running_loop().create_future()
    elif for_s:
        await advance(for_s)


def reply(
    body: Mapping[str, Any] | bytes | None = None,
    status: int = 200,
    *,
    content_type: str = "application/json",
    headers: Mapping[str, str] | None = None,
    head_s: float = 0.0,
) -> ScriptedResponse:
    """A response in one piece; a message, when nothing is said."""
    data = body if isinstance(body, bytes) else msgspec.json.encode(MESSAGE if body is None else body)
    named = {"content-type": content_type, "content-length": str(len(data)), **(headers or {})}
    return ScriptedResponse(status, encoded(named), (data,) if data else (), head_s)


def stream(
    *steps: Step, content_type: str = "text/event-stream", headers: Mapping[str, str] | None = None, head_s: float = 0.0
) -> ScriptedResponse:
    """A response that comes step by step."""
    return ScriptedResponse(200, encoded({"content-type": content_type, **(headers or {})}), steps, head_s)


def error(
    status: int, error_type: str = "api_error", message: str = "no", headers: Mapping[str, str] | None = None
) -> ScriptedResponse:
    """An error in Anthropic's shape."""
    body = {"type": "error", "error": {"type": error_type, "message": message}}
    return reply(body, status, headers=headers)


def encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Headers as they come from the wire."""
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]
