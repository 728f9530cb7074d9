"""Comparison of hand-written parts with the libraries that could replace them: `python -m bench.alternatives`.

Processor time of one request's share in each, in rounds that take turns: events to Redis, counters.
What gains less than 3 % of a request goes; what stays has a page in `docs/decisions/`.
"""

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop
from prometheus_client import CollectorRegistry, Counter, Histogram

from bench.standin import Connection as StandIn
from bench.steps import Client, started
from bench.traffic import KEY, Kind, body, request
from service.app import open_redis
from service.embedded.valkey import Valkey
from service.fleet.clock import Clock
from service.fleet.stream_writer import PipelinedStreamPort, RedisPort
from service.ledger.events import AttemptEnded, AttemptStarted, TokenCounts
from service.ledger.wire import encode_entry
from service.telemetry.counters import BufferedCounter, BufferedHistogram

ROUNDS = 10
REQUESTS = 500
BOUNDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
Work = Callable[[], Awaitable[None]]


async def compare(title: str, ways: dict[str, Work]) -> None:
    """Print the median processor time per request of each way, and of the difference to the first."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for work in ways.values():
        await work()
    for _ in range(ROUNDS):
        for name, work in ways.items():
            started_s = time.process_time()
            await work()
            found[name].append((time.process_time() - started_s) / REQUESTS * 1e6)
    print(title)
    own = statistics.median(next(iter(found.values())))
    for name, times in found.items():
        median = statistics.median(times)
        print(f"  {name:32} {median:7.1f} µs   {median - own:+7.1f} µs   (from {min(times):.1f} to {max(times):.1f})")


def events() -> tuple[AttemptStarted, AttemptEnded]:
    """The two events of a request."""
    clock = Clock()
    begun = AttemptStarted(event_id=clock.new_id(), at_ms=clock.now_ms(), request_id="q", model_sent="claude-opus-5-5")
    tokens = TokenCounts(input=1_200, output=300)
    ended = AttemptEnded(
        event_id=clock.new_id(), at_ms=clock.now_ms(), attempt_id=begun.event_id, request_id="q", started_at_ms=1,
        model_asked="claude-opus-5-5", model_sent="claude-opus-5-5", tokens=tokens, total_ms=1_240, cost_nusd=5,
        outcome="ok", status=200, endpoint="messages",
    )  # fmt: skip
    return begun, ended


async def appends(url: str) -> None:
    """Two appends a request, one after the other."""
    entries = [[("anthropic", encode_entry([event]))] for event in events()]
    redis = open_redis(url)

    def through(port: RedisPort | PipelinedStreamPort) -> Work:
        async def work() -> None:
            for _ in range(REQUESTS):
                for entry in entries:
                    await port.append(entry)

        return work

    ways = {"own connection": through(PipelinedStreamPort(redis, 2.0)), "redis-py": through(RedisPort(redis))}
    await compare("Events to Redis", ways)
    await redis.aclose()


async def counts() -> None:
    """Counters of one request: four counters with five increments, and three histograms."""
    registry = CollectorRegistry()
    labels = ("anthropic", "claude-opus-5-5", "input")
    kept = BufferedCounter("a", "a", ("route", "model", "type"), registry)
    spread = BufferedHistogram("b", "b", ("route",), BOUNDS, registry)
    counter = Counter("c", "c", ("route", "model", "type"), registry=registry)
    histogram = Histogram("d", "d", ("route",), buckets=BOUNDS, registry=registry)

    async def own() -> None:
        for _ in range(REQUESTS):
            for _ in range(5):
                kept.add(labels)
            for _ in range(3):
                spread.add(labels[:1], 1.2)
        kept.flush()
        spread.flush()

    async def direct() -> None:
        for _ in range(REQUESTS):
            for _ in range(5):
                counter.labels(*labels).inc()
            for _ in range(3):
                histogram.labels(*labels[:1]).observe(1.2)

    shared = "shared by processes" if "PROMETHEUS_MULTIPROC_DIR" in os.environ else "in one process"
    await compare(f"Counters, {shared}", {"own": own, "prometheus_client": direct})


async def requests(home: Path) -> None:
    """Whole requests, with their client and the stand-in for the provider: more than what the proxy itself takes."""
    loop = asyncio.get_running_loop()
    provider = await loop.create_server(StandIn, "127.0.0.1", 0)
    proxy = await started(home, f"http://127.0.0.1:{provider.sockets[0].getsockname()[1]}")
    _, client = await loop.create_connection(Client, "127.0.0.1", proxy.settings.port)
    authority = f"127.0.0.1:{proxy.settings.port}"

    def asking(kind: Kind) -> Work:
        data = request(authority, "/v1/messages", {"x-api-key": KEY}, body(2_000, kind))

        async def work() -> None:
            for _ in range(REQUESTS):
                await client.ask(data)

        return work

    await compare("A whole request of 2 KB", {"JSON": asking("json"), "stream": asking("sse")})
    client.close()
    await proxy.stop()
    provider.close()


async def main() -> None:
    """All of them."""
    with tempfile.TemporaryDirectory(prefix="ccproxy-bench-") as folder, Valkey(Path(folder)) as valkey:
        await requests(Path(folder) / "home")
        await appends(valkey.url)
    await counts()


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
