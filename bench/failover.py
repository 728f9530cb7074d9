"""Measures failover and quotas over three real proxies on one Redis. `make bench-failover`, ROUNDS= for more.

- Trips: the first route dies under load. How late do attempts still begin there after the fleet's circuit has opened?
  Read from the events, which carry fleet time. And does the provider ever see more than one probe at a time?
- Quota: a hundred streams use up a week's limit of about a thousand requests whose sizes spread tenfold. How much of
  it is exceeded, how much is left?
- Quota with a crash: the same, and one proxy is killed when two thirds are used. Does anything stay blocked?

It starts everything itself in a temporary folder, and leaves nothing behind. Not here: any assertion.
"""

import asyncio
import contextlib
import os
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import msgspec

from bench.progress import show_figure
from service.ledger import wire
from service.ledger.events import AttemptEnded, AttemptStarted, Event
from service.settings import CircuitPolicy
from tests.fakes import Usage, reply
from tests.support.installation import Installation, Proxy
from tests.support.ledger_reader import LedgerReader

ROUNDS = int(os.environ.get("ROUNDS") or 8)
CLIENTS = 12
STREAMS = 100
QUOTA_REQUESTS = 1_000
CLOCK_MS = 2
"""How far fleet time and the provider's clock may lie apart on one machine."""
LEAST_TOKENS, MOST_TOKENS = 300, 3_000
OPEN_MS = 2_000
ASK = {"model": "claude-opus-4-8", "max_tokens": MOST_TOKENS, "messages": [{"role": "user", "content": "hi"}]}
BREAKING = {"CIRCUIT_BREAKER_ENABLED": "true", "CIRCUIT_BREAKER_COOLDOWN_MS": str(OPEN_MS), "LOG_LEVEL": "warn"}
PATIENCE_S = 90.0


@contextlib.asynccontextmanager
async def clients(proxies: Sequence[Proxy], count: int, *, pause_s: float, stream: bool) -> AsyncIterator[list[int]]:
    """So many clients that ask one after the other, each request by a proxy of chance; the statuses they got."""
    statuses: list[int] = []
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=count)

    async def ask_on(http: httpx.AsyncClient) -> None:
        while True:
            try:
                answer = await http.post(f"{random.choice(proxies).url}/v1/messages", json=ASK | {"stream": stream})  # noqa: S311 - no secret
                statuses.append(answer.status_code)
            except httpx.TransportError:
                statuses.append(0)
            await asyncio.sleep(pause_s if statuses[-1] == 200 else 0.15)

    async with httpx.AsyncClient(trust_env=False, timeout=60, limits=limits) as http:
        tasks = [asyncio.create_task(ask_on(http)) for _ in range(count)]
        try:
            yield statuses
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def events_of(installation: Installation, route: str) -> list[Event]:
    """All events of a route, by their time."""
    with contextlib.closing(installation.redis()) as redis:
        entries: Any = redis.xrange(wire.events_key(route))
    told = [event for _, fields in entries for event in wire.decode_entry(fields[wire.ENTRY_FIELD.encode()])]
    return sorted((event for event in told if not isinstance(event, wire.Undecodable)), key=lambda event: event.at_ms)


def serving(installation: Installation, since_ms: int) -> int:
    """Return the number of replicas with a response of the first route, probes aside, since then."""
    ended = [event for event in events_of(installation, "anthropic") if isinstance(event, AttemptEnded)]
    return len({e.replica for e in ended if e.started_at_ms > since_ms and e.outcome == "ok" and not e.probe})


def fleet_trip_ms(events: Sequence[Event], since_ms: int) -> int | None:
    """When the second of three replicas had five failures in a row: then the fleet's circuit is open."""
    in_row: dict[str, int] = defaultdict(int)
    for event in events:
        if isinstance(event, AttemptEnded) and event.at_ms >= since_ms:
            in_row[event.replica] = 0 if event.outcome == "ok" else in_row[event.replica] + 1
            if sum(count >= CircuitPolicy().trip_failures for count in in_row.values()) >= 2:
                return event.at_ms
    return None


def spans_at_provider(probes: Sequence[AttemptEnded], arrivals_ms: Sequence[float]) -> list[tuple[float, int]]:
    """Return when each probe came to the provider, and when it ended; its event starts before it has the lease."""
    left, spans = sorted(arrivals_ms), []
    for probe in sorted(probes, key=lambda probe: probe.at_ms):
        arrived_ms = next(ms for ms in left if probe.started_at_ms - CLOCK_MS <= ms <= probe.at_ms + CLOCK_MS)
        left.remove(arrived_ms)
        spans.append((arrived_ms, probe.at_ms))
    return spans


def overlapping(spans: Sequence[tuple[float, int]]) -> int:
    """Return the number of spans that began during another one."""
    ordered = sorted(spans)
    return sum(later[0] < earlier[1] - CLOCK_MS for earlier, later in pairwise(ordered))


async def until(true: Any, what: str) -> None:
    """Wait until something holds."""
    end_s = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > end_s:
            raise SystemExit(f"waited {PATIENCE_S:.0f} s in vain: {what}")
        await asyncio.sleep(0.05)


async def measure_trips(installation: Installation) -> None:
    """The first route dies and comes back, ROUNDS times."""
    proxies = [installation.start_proxy(BREAKING) for _ in range(3)]
    rounds: list[tuple[int, list[Event]]] = []
    installation.zai.default = reply.message()
    async with clients(proxies, CLIENTS, pause_s=0.02, stream=True) as statuses:
        for _ in range(ROUNDS):
            installation.anthropic.default = reply.message()
            back_ms = time.time_ns() // 1_000_000
            await until(lambda back_ms=back_ms: serving(installation, back_ms) >= len(proxies), "all serve by it again")
            before = len(installation.anthropic.requests)
            await until(
                lambda before=before: len(installation.anthropic.requests) > before + 300, "the route serves again"
            )
            mark_ms = time.time_ns() // 1_000_000
            installation.anthropic.default = reply.error(500)
            await asyncio.sleep(3 * OPEN_MS / 1000)
            told = events_of(installation, "anthropic")  # now: of what is folded the stream keeps but a tail
            rounds.append((mark_ms, [event for event in told if event.at_ms >= mark_ms]))
    late: list[int] = []
    spans: list[tuple[float, int]] = []
    since_boot_ms = (time.time() - time.monotonic()) * 1000
    arrivals_ms = [request.received_s * 1000 + since_boot_ms for request in installation.anthropic.requests]
    for mark_ms, told in rounds:
        trip_ms = fleet_trip_ms(told, mark_ms)
        if trip_ms is None:
            raise SystemExit("the circuit did not open")
        probes = [event for event in told if isinstance(event, AttemptEnded) and event.probe]
        spans += spans_at_provider(probes, arrivals_ms)
        known = {probe.attempt_id for probe in probes}
        late += [
            event.at_ms - trip_ms
            for event in told
            if isinstance(event, AttemptStarted)
            and trip_ms < event.at_ms < trip_ms + OPEN_MS
            and event.event_id not in known
        ]
    late.sort()
    p99 = late[len(late) * 99 // 100] if late else 0
    show_figure(
        "attempts after the fleet's trip",
        f"p99 {p99} ms, last {late[-1] if late else 0} ms, {len(late)} in {ROUNDS} trips",
        "at most 250 ms",
        ok=p99 <= 250,
    )
    show_figure("probes", f"{len(spans)}, at once: {overlapping(spans)}", "one at a time", ok=not overlapping(spans))
    failed = sum(status != 200 for status in statuses)
    show_figure(
        "what clients saw meanwhile", f"{len(statuses):,} requests, {failed} failed", "none failed", ok=not failed
    )
    for proxy in proxies:
        proxy.stop()


def sizes(count: int, seed: int) -> list[int]:
    """Tokens of answers, spread evenly in proportion between the least and ten times that."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    return [int(LEAST_TOKENS * 10 ** chance.random()) for _ in range(count)]


async def measure_quota(installation: Installation, *, crash: bool) -> None:
    """A hundred streams use a limit up; with `crash` one of the proxies is killed on the way."""
    tokens = sizes(4 * QUOTA_REQUESTS, seed=7 + crash)
    limit = sum(tokens[:QUOTA_REQUESTS])
    route = "crashed" if crash else "limited"
    installation.anthropic.reset()
    installation.anthropic.script(
        *(reply.message(usage=Usage(input=0, output=size)).pausing(300, "content_block_delta") for size in tokens)
    )
    with tempfile.NamedTemporaryFile("w", suffix=".toml", dir=installation.folder) as config:
        config.write(
            f'[[routes]]\nid = "{route}"\nprovider = "anthropic"\nbase_url = "{installation.anthropic.base_url}"\n'
            f'api_key_env = "ANTHROPIC_API_KEY"\nweekly_tokens = {limit}\n'
        )
        config.flush()
        variables = {"CCPROXY_CONFIG": config.name, "QUOTA_WARNING_THRESHOLD": "100", "LOG_LEVEL": "warn"}
        proxies = [installation.start_proxy(variables) for _ in range(3)]
        async with clients(proxies, STREAMS, pause_s=0, stream=True) as statuses:
            if crash:
                await until(lambda: used(installation, route) > limit * 2 / 3, "two thirds are used")
                dead = proxies.pop(0)
                dead.kill()
            await until(lambda: is_idle(statuses), "the limit is used up")
            if crash:  # what the dead one held is free after half a minute, and its attempts are closed after that
                await asyncio.sleep(40)
                await until(lambda: is_idle(statuses), "the limit is used up")
        await until(lambda: open_attempts(installation, route) == 0, "all attempts have ended")
        taken = used(installation, route)
        name = "quota, a proxy killed on the way" if crash else f"quota, {STREAMS} streams"
        over, left = max(0, taken - limit) / limit, max(0, limit - taken) / limit
        served = sum(status == 200 for status in statuses)
        show_figure(
            name,
            f"overshoot {over:.2%}, unused {left:.2%}, {served:,} answers",
            "0.5 % and 2 %",
            ok=over <= 0.005 and left <= 0.02,
        )
        for proxy in proxies:
            proxy.stop()


def is_idle(statuses: Sequence[int]) -> bool:
    """Return true if nobody was served lately."""
    return len(statuses) > 10 * STREAMS and not any(status == 200 for status in statuses[-10 * STREAMS :])


def used(installation: Installation, route: str) -> int:
    """Tokens used on a route, in Postgres."""
    query = "SELECT coalesce(sum(input + output), 0) FROM ccproxy.usage_hourly WHERE route = %s"
    return LedgerReader(installation).number(query, route)


def open_attempts(installation: Installation, route: str) -> int:
    """Attempts of a route that have not ended, by its newest snapshot."""
    with contextlib.closing(installation.redis()) as redis:
        raw = redis.get(wire.snapshot_key(route))
    snapshot = wire.decode_snapshot(raw) if isinstance(raw, bytes) else None
    return len(msgspec.json.decode(snapshot.ledger).get("open", {})) if snapshot else 0


async def run() -> None:
    """All measurements, one after the other."""
    with tempfile.TemporaryDirectory(prefix="ccproxy-bench-") as folder, Installation(Path(folder)) as installation:
        print(f"{os.cpu_count()} cores, {sys.version.split()[0]}, three proxies, one worker")
        await measure_trips(installation)
        await measure_quota(installation, crash=False)
        await measure_quota(installation, crash=True)


if __name__ == "__main__":
    asyncio.run(run())
