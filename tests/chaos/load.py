"""Clients that ask without a pause, in a thread of their own, and write down how each request ended; and some that poll
sessions of agents, their threads and dreams, whose usage grows meanwhile.

Every request bears a mark: as its session id, which the ledger keeps, and in its body or its query, which the fakes
keep. What the providers do to it is scripted by that mark before it is sent. Not here: whether that was right
(`audit`).
"""

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, TypeAlias

import httpx
from msgspec import Struct

from tests.fakes import FakeProvider, Reply, reply
from tests.fakes.resources import DREAM, THREAD
from tests.support.messages import HEADERS, MODEL

Kind: TypeAlias = Literal[
    "plain",  # a good answer
    "slow",  # a stream that takes its time
    "overloaded",  # the first provider answers 529: another route
    "late error",  # the first provider's 200 begins with an error: another route
    "reset",  # the first provider's connection breaks before any answer: another route
    "broken",  # the stream breaks off after content: an error event
    "refused",  # all providers answer 529: so does the proxy
    "leaver",  # the client goes in mid-stream
    "poll",  # a look at a session
]
End: TypeAlias = Literal["complete", "error event", "error status", "left", "cut", "broken", "no connection", "hung"]
"""`complete`: the whole answer. `cut`: it ended in order, but not whole. `broken`: the connection broke."""

WEIGHTS: dict[Kind, float] = {
    "plain": 48,
    "slow": 22,
    "overloaded": 8,
    "late error": 4,
    "reset": 4,
    "broken": 4,
    "refused": 3,
    "leaver": 7,
}
WANTED: dict[Kind, tuple[End, ...]] = {
    "plain": ("complete",),
    "slow": ("complete",),
    "overloaded": ("complete",),
    "late error": ("complete",),
    "reset": ("complete",),
    "broken": ("error event",),
    "refused": ("error status",),
    "leaver": ("left",),
    "poll": ("complete",),
}
"""How a request must end, whatever befalls the servers behind the proxies."""
STREAMED = frozenset(("slow", "late error", "broken", "leaver"))
BOUND_S = 30.0
"""No request may take longer: a proxy is frozen for 2.5 s at most, has 10 s to end, and answers are there in one."""
SESSIONS = [f"sesn_{number:08}" for number in range(4)]
VIEWS = (
    "/v1/sessions/{0}",
    "/v1/sessions/{0}/threads/" + THREAD + "{0}",
    "/v1/dreams/" + DREAM + "{0}",
    "/v1/sessions",
)
"""What tells of a session's usage: itself, its thread, its dream, a list."""
POLLERS = 2
PAUSE_S = 0.02
AWAY_S = 0.25
STOP_S = BOUND_S + 15


class Asked(Struct):
    """A request and its end. Times are monotonic seconds; what the headers said is empty when none came."""

    mark: str
    kind: Kind
    proxy: int
    began_s: float
    ended_s: float = 0.0
    end: End = "hung"
    words: str = ""
    request_id: str = ""
    route: str = ""
    attempts: int = 0


class Load:
    """Some clients of all proxies, from entering to leaving the block."""

    def __init__(self, urls: Sequence[str], fakes: Mapping[str, FakeProvider], *, seed: int, clients: int) -> None:
        self.asked: list[Asked] = []
        self._urls = urls
        self._fakes = fakes
        self._seed = seed
        self._clients = clients
        self._stopping = threading.Event()
        self._totals = fakes["anthropic"].resources.sessions
        self._totals.update(dict.fromkeys(SESSIONS, 1_000))
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        """Whether requests are still under way."""
        return self._thread.is_alive()

    def tell(self) -> None:
        """Begin no new requests."""
        self._stopping.set()

    def stop(self) -> None:
        """Let the requests in flight end, and no new ones begin."""
        self.tell()
        self._thread.join(STOP_S)

    async def _run(self) -> None:
        clients = [self._client(number) for number in range(self._clients)]
        await asyncio.gather(*clients, *(self._poller(self._clients + number) for number in range(POLLERS)))
        async with self._http() as client:
            await asyncio.gather(*(self._last_look(client, number, name) for number, name in enumerate(SESSIONS)))

    def _http(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(headers=HEADERS, trust_env=False, timeout=BOUND_S)

    async def _client(self, number: int) -> None:
        chance = random.Random(f"{self._seed}/{number}")  # noqa: S311 - a load that can be had again
        async with self._http() as client:
            turn = 0
            while not self._stopping.is_set():
                turn += 1
                [kind] = chance.choices([*WEIGHTS], weights=[*WEIGHTS.values()])
                asked = self._begin(number, turn, kind)
                await self._ask(client, asked, streamed=kind in STREAMED or chance.random() < 0.5)
                await self._end(asked)

    async def _poller(self, number: int) -> None:
        """Look at sessions, whose usage grows now and then, one way and another."""
        chance = random.Random(f"{self._seed}/{number}")  # noqa: S311 - a load that can be had again
        async with self._http() as client:
            turn = 0
            while not self._stopping.is_set():
                turn += 1
                name = chance.choice(SESSIONS)
                self._totals[name] += chance.choice((0, 0, 30))
                asked = self._begin(number, turn, "poll")
                await self._send(client, asked, "GET", chance.choice(VIEWS).format(name))
                await self._end(asked)

    async def _last_look(self, client: httpx.AsyncClient, number: int, name: str) -> None:
        """See what a session has used in the end, when everything is up again."""
        until_s, turn = time.monotonic() + BOUND_S, 0
        while time.monotonic() < until_s:
            turn += 1
            asked = self._begin(100 + number, turn, "poll")
            await self._send(client, asked, "GET", f"/v1/sessions/{name}")
            await self._end(asked)
            if asked.end == "complete":
                return

    def _begin(self, number: int, turn: int, kind: Kind) -> Asked:
        asked = Asked(f"chaos-{number}-{turn:06d}.", kind, (number + turn) % len(self._urls), time.monotonic())
        self.asked.append(asked)
        return asked

    async def _end(self, asked: Asked) -> None:
        asked.ended_s = time.monotonic()
        await asyncio.sleep(AWAY_S if asked.end == "no connection" else PAUSE_S)

    async def _ask(self, client: httpx.AsyncClient, asked: Asked, *, streamed: bool) -> None:
        for route, scripted in scripts(asked.kind).items():
            self._fakes[route].script(scripted.when(body=asked.mark))
        content = [{"role": "user", "content": f"mark {asked.mark}"}]
        body = {"model": MODEL, "max_tokens": 64, "messages": content, "stream": streamed}
        await self._send(client, asked, "POST", "/v1/messages", body)

    async def _send(
        self, client: httpx.AsyncClient, asked: Asked, method: str, path: str, body: dict[str, Any] | None = None
    ) -> None:
        headers = {"x-claude-code-session-id": asked.mark}
        query = "" if body else f"?mark={asked.mark}"
        streamed = bool(body and body["stream"])
        try:
            async with (
                asyncio.timeout(BOUND_S),
                client.stream(method, self._urls[asked.proxy] + path + query, json=body, headers=headers) as answer,
            ):
                await self._read(answer, asked, streamed=streamed)
        except TimeoutError:
            asked.end = "hung"
        except httpx.ConnectError as error:
            asked.end, asked.words = "no connection", repr(error)
        except httpx.TimeoutException as error:
            asked.end, asked.words = "hung", repr(error)
        except httpx.TransportError as error:
            if asked.end != "left":
                asked.end, asked.words = "broken", repr(error)

    async def _read(self, answer: httpx.Response, asked: Asked, *, streamed: bool) -> None:
        named: Mapping[str, str] = answer.headers
        asked.request_id = named.get("x-ccproxy-request-id", "")
        asked.route = named.get("x-ccproxy-route", "")
        with contextlib.suppress(ValueError):
            asked.attempts = int(named.get("x-ccproxy-attempts", "0"))
        content = b""
        async for chunk in answer.aiter_raw():
            content += chunk
            if asked.kind == "leaver" and b"event: content_block_delta" in content:
                asked.end = "left"
                return
        asked.end = end_of(answer.status_code, content, streamed=streamed)
        if asked.end not in WANTED[asked.kind]:
            asked.words = f"{answer.status_code} {content[-300:].decode(errors='replace')}"


def end_of(status: int, content: bytes, *, streamed: bool) -> End:
    """How an answer that came to its end has ended."""
    if status != 200:
        return "error status"
    if not streamed:
        return "complete"
    if b"event: message_stop" in content:
        return "complete"
    return "error event" if b"event: error" in content else "cut"


def scripts(kind: Kind) -> dict[str, Reply]:
    """What the providers do to a request of this kind, where that is not their usual answer."""
    every: dict[Kind, dict[str, Reply]] = {
        "slow": {"anthropic": reply.drip(60)},
        "overloaded": {"anthropic": reply.error(529)},
        "late error": {"anthropic": reply.stream_error("message_start")},
        "reset": {"anthropic": reply.reset("request")},
        "broken": {"anthropic": reply.fin("content_block_delta")},
        "refused": {"anthropic": reply.error(529), "zai": reply.error(529)},
        "leaver": {"anthropic": reply.drip(60)},
    }
    return every.get(kind, {})


def count_by(asked: Sequence[Any], name: str) -> dict[str, int]:
    """How many requests have each value of a field, the most frequent first."""
    found: dict[str, int] = {}
    for one in asked:
        value = str(getattr(one, name))
        found[value] = found.get(value, 0) + 1
    return dict(sorted(found.items(), key=lambda item: -item[1]))
