"""`ccproxy check --live`: one smallest request to each route that is on, through the product's own code.

A relay of its own has one route at a time, and of Redis the tokens alone that hosts share, so that nothing falls over
and the running proxy is not involved; what was used is booked on the ledger afterwards. Not here: the checks that send
nothing (`check`).
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from redis.exceptions import RedisError

from service.app import Parts, open_redis
from service.commands.finding import Finding
from service.errors import ProxyError
from service.fleet.control_stream import operator
from service.ledger.events import AttemptEnded, Event, TokenCounts, Window
from service.private_files import opener
from service.relay.client import ClientRequest
from service.settings import Route, Settings
from service.version import product_version

MODEL = "claude-haiku-4-5"
"""The cheapest model of Anthropic; other providers are asked for what their map has for it."""
BODY: dict[str, Any] = {"model": MODEL, "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}
DEADLINE_MS = 30_000
READ_PREFIXES = ("anthropic-ratelimit-", "retry-after", "x-ratelimit-")
COST_WORDS = "about 10 tokens in and 1 out each, far below a cent; a subscription counts it in its windows"


class LiveResult(Struct, frozen=True, kw_only=True):
    """What a provider answered. No text of request or answer is kept. `limits` are headers about limits by name;
    `cost_nusd` is None where there is no price; `booked`: the ledger has it."""

    route: str
    provider: str
    outcome: str
    status: int = 0
    kind: str = ""
    scope: str = ""
    model_sent: str = ""
    model_served: str = ""
    tokens: TokenCounts = TokenCounts()
    cost_nusd: int | None = None
    price_version: str = ""
    windows: dict[str, Window] = {}
    limits: dict[str, str] = {}
    unread: tuple[str, ...] = ()
    total_ms: int = 0
    attempts: int = 0
    booked: bool = False
    words: str = ""


class LiveClient:
    """The client's end: keeps the head of the answer alone."""

    def __init__(self) -> None:
        self.started = self.early = self.committed = self.broken = False
        self.route = ""
        self.attempts = 0
        self.dropped: tuple[str, ...] = ()
        self.headers: Sequence[tuple[bytes, bytes]] = ()

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:  # noqa: ARG002 - the protocol's
        """Keep the head."""
        self.started = self.committed = True
        self.headers = headers

    async def start_early(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Keep the head; only streams have an early one."""
        self.headers = headers

    async def write(self, data: bytes) -> None:
        """Discard a part of the body."""

    async def end(self, data: bytes = b"") -> None:
        """Discard the rest."""


def live_routes(settings: Settings) -> list[Route]:
    """Return the routes that would be asked."""
    return [route for route in settings.routes if not route.off]


def announcement(settings: Settings) -> str:
    """Say what will be sent, and what it costs."""
    names = ", ".join(route.id for route in live_routes(settings))
    return f"sending one request to each of {names}: {COST_WORDS}" if names else "no route is on; nothing is sent"


async def check_live(settings: Settings, redis_url: str | None) -> list[LiveResult]:
    """Ask each route that is on, all at once."""
    return list(await asyncio.gather(*(ask(route, settings, redis_url) for route in live_routes(settings))))


async def ask(route: Route, settings: Settings, redis_url: str | None) -> LiveResult:
    """Ask one route."""
    policy = replace(settings.policy, max_retries=0)
    tokens = open_redis(redis_url) if redis_url else None
    with tempfile.TemporaryDirectory(prefix="ccproxy-live-") as home:
        parts = Parts(replace(settings, routes=(route,), policy=policy, redis_url=None, home=Path(home)), tokens)
        events: list[Event] = []
        parts.outbox.listeners.append(lambda _, event: events.append(event))
        client, words = LiveClient(), ""
        await parts.start()
        try:
            request = live_request(parts)
            parts.relay.check_access(request)
            await parts.relay.handle(request, client)
        except ProxyError as error:
            words = error.message
        finally:
            await parts.stop()
            if tokens:
                await tokens.aclose()
    is_booked = await asyncio.to_thread(book, route.id, events, redis_url)
    return result_of(route, events, client, words, is_booked=is_booked)


def live_request(parts: Parts) -> ClientRequest:
    """Return the smallest request, under this product's own name."""
    body = msgspec.json.encode(BODY)
    headers = {
        "content-type": "application/json",
        "anthropic-version": "2023-06-01",
        "user-agent": f"ccproxy-check/{product_version()}",
    }
    return ClientRequest(
        request_id=parts.clock.new_request_id(),
        method="POST",
        path="/v1/messages",
        headers=[(name.encode(), value.encode()) for name, value in headers.items()],
        body=body,
        plain=body,
        endpoint="messages",
        model=MODEL,
        max_tokens=1,
        deadline_ms=DEADLINE_MS,
    )


def book(route: str, events: Sequence[Event], redis_url: str | None) -> bool:
    """Append the attempts to the ledger; false if there is no Redis that takes them."""
    if not events or not redis_url:
        return False
    try:
        with operator(redis_url) as opened:
            opened.record(route, events)
    except (RedisError, OSError):
        return False
    return True


def result_of(route: Route, events: Sequence[Event], client: LiveClient, words: str, *, is_booked: bool) -> LiveResult:
    """Return what is worth keeping of the events and the head."""
    ended = [event for event in events if isinstance(event, AttemptEnded)]
    if not ended:
        return LiveResult(route=route.id, provider=route.provider.id, outcome="failed", words=words or "not sent")
    last = ended[-1]
    head = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in client.headers}
    return LiveResult(
        route=route.id,
        provider=route.provider.id,
        outcome=last.outcome,
        status=last.status,
        kind=last.kind,
        scope=last.scope,
        model_sent=last.model_sent,
        model_served=last.model_served or last.model_sent,
        tokens=last.tokens,
        cost_nusd=last.cost_nusd,
        price_version=last.price_version,
        windows=last.windows,
        limits={name: value for name, value in head.items() if name.startswith(READ_PREFIXES)},
        unread=last.unread,
        total_ms=last.total_ms,
        attempts=len(ended),
        booked=is_booked,
        words=last.message or words,
    )


def finding_of(result: LiveResult) -> Finding:
    """Return a result as a line."""
    what = f"live {result.route}"
    if result.outcome != "ok":
        why = " ".join(part for part in (result.kind, f"status {result.status}" if result.status else "") if part)
        return Finding(what, False, f"{why or 'not sent'}: {result.words}")
    cost = "without a price" if result.cost_nusd is None else f"${result.cost_nusd / 1e9:.6f}"
    booked = "booked on the ledger" if result.booked else "not booked: no Redis"
    facts = (
        f"status {result.status} in {result.total_ms} ms",
        result.model_served,
        f"{result.tokens.input} tokens in, {result.tokens.output} out, {cost}, {booked}",
        *(f"window {name} {window_used(window)}" for name, window in result.windows.items()),
        *tokens_left(result),
    )
    return Finding(what, True, ", ".join(facts))


def tokens_left(result: LiveResult) -> list[str]:
    """Describe what the provider says is left."""
    return [
        f"{name.removeprefix('anthropic-ratelimit-')} {value}"
        for name, value in result.limits.items()
        if name.endswith("-remaining")
    ]


def window_used(window: Window) -> str:
    """Describe how far a window is used."""
    return window.status if window.used_ratio is None else f"{window.used_ratio * 100:.0f} % used"


def record(path: Path, results: Sequence[LiveResult]) -> None:
    """Write the results, without the providers' words, to a file for its owner alone. Raises OSError."""
    kept = [replace(result, words="") for result in results]
    content = {"version": product_version(), "at_s": int(time.time()), "routes": kept}
    with open(path, "wb", opener=opener) as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(msgspec.json.format(msgspec.json.encode(content)) + b"\n")
