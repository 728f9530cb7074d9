"""Measures what the table in `docs/sizing.md` says, on real servers: `make bench-sizing`, REQUESTS= for another size.

Requests of one proxy for a second of its own processor's time, events that one worker folds in a second, the memory of
both, what Redis holds, and what Postgres grows by. Each speed is the median of rounds, beside the least and the most of
them: on a machine that others use as well they lie far apart. Sizes are those of REQUESTS, extrapolated to a million.
Not here: latency (`bench`), lag and catching up (`bench.ledger`), any assertion.
"""

import contextlib
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from bench import processes
from bench.ledger import Bench, append, history
from bench.load import Job
from bench.scenarios import LARGE, SMALL
from bench.servers import Loader, free_port, say, stand_in
from bench.targets import Place, Target, cache_folder, ccproxy
from bench.traffic import Kind
from workers.fold_job import FoldJob
from workers.store import connect

REQUESTS = int(os.environ.get("REQUESTS") or 50_000)
ROUNDS = 5
ROUND_S = 4.0
REST_S = 2.0
AT_ONCE = 16
EVENTS_OF_A_REQUEST = 2
MILLION = 1_000_000
LOADS: tuple[tuple[str, Kind, int], ...] = (
    ("whole answers, 2 kB asked", "json", SMALL),
    ("streams, 60 kB asked", "sse", LARGE),
)
SIZES = """
SELECT sum(pg_total_relation_size(oid)) FILTER (WHERE relname ~ '^events_'),
       sum(pg_total_relation_size(oid)) FILTER (WHERE relname !~ '^events_')
  FROM pg_class WHERE relnamespace = 'ccproxy'::regnamespace AND relkind = 'r'
"""


def main() -> None:
    """Measure, print a table."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ccproxy-sizing-")))
        folder.chmod(0o755)
        print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {platform.machine()}, {REQUESTS:,} requests")
        print("| what | measured | least to most of the rounds |\n|---|---|---|")
        measure_proxy(folder / "proxy", stack)
        with Bench(folder / "ledger") as bench:
            measure_ledger(bench)


def row(what: str, measured: str, spread: str = "") -> None:
    """A line of the table."""
    print(f"| {what} | {measured} | {spread} |", flush=True)


def rate_row(what: str, rates: list[float], unit: str) -> None:
    """A speed: the median of rounds, and how far they lie apart."""
    row(what, f"{statistics.median(rates):,.0f} {unit}", f"{min(rates):,.0f} to {max(rates):,.0f}")


# -- a proxy


def measure_proxy(folder: Path, stack: contextlib.ExitStack) -> None:
    """`ccproxy up` under load: requests for a second of the proxy's processor, and memory."""
    folder.mkdir(mode=0o755)
    upstream = stack.enter_context(stand_in())
    loader = Loader()
    stack.callback(loader.stop)
    target = ccproxy(Place(upstream, free_port(), folder, cache_folder()))
    try:
        for name, kind, size in LOADS:
            rates = list(rounds(target, loader, kind, size))
            rate_row(f"a proxy, {name}", rates, "requests/s and core")
        row("memory of a proxy process", f"{target.own_usage().rss_mb:.0f} MB")
        row("memory of a worker", f"{memory_of(target, ' worker'):.0f} MB")
    finally:
        target.stop()


def rounds(target: Target, loader: Loader, kind: Kind, size: int) -> Iterator[float]:
    """Requests for a second of the proxy's processor time, round by round, behind one that warms up."""
    for number in range(ROUNDS + 1):
        before_s = target.own_usage().seconds
        job = Job(
            port=target.port, path=target.path, headers=target.headers, kind=kind, body_bytes=size,
            open_at_once=AT_ONCE, seconds=ROUND_S,
        )  # fmt: skip
        figures = loader.run(job)
        if figures.errors:
            raise SystemExit(f"{figures.errors} requests failed: {figures.error}")
        time.sleep(REST_S)  # what it does behind an answer counts as well
        used_s = target.own_usage().seconds - before_s
        say(f"{kind}, round {number}: {figures.done:,} requests, {used_s:.2f} s of the processor")
        if number:
            yield figures.done / used_s


def memory_of(target: Target, word: str) -> float:
    """The resident memory of the target's largest process of this name, in MB."""
    family = processes.tree(target.process.pid) if target.process else []
    found = [processes.usage([pid]).rss_mb for pid in family if word in processes.command_of(pid)]
    return max(found, default=0.0)


# -- the ledger


def measure_ledger(bench: Bench) -> None:
    """One worker folds the events of REQUESTS requests, a part in each round; then what they have left behind."""
    shift = bench.shift()
    shift.fold("sizing")
    redis_bytes = used_bytes(bench)
    events_bytes, other_bytes = table_bytes(bench)
    part = REQUESTS * EVENTS_OF_A_REQUEST // ROUNDS
    made = history(bench.number)
    waiting: list[float] = []
    rates: list[float] = []
    folded = 0
    for _ in range(ROUNDS):
        empty_bytes = used_bytes(bench)
        append(bench.redis, "sizing", list(islice(made, part)))
        waiting.append((used_bytes(bench) - empty_bytes) / part)
        folded += part
        rates.append(part / fold_to(bench, shift, folded))
    shift.projector.store.close()
    rate_row("the fold of one route, one worker", rates, "events/s")
    row("events of a request", f"{EVENTS_OF_A_REQUEST}")
    per_million = MILLION * EVENTS_OF_A_REQUEST
    row("Redis, while a million requests wait for the fold", size(statistics.median(waiting) * per_million))
    row(f"Redis, once {REQUESTS:,} are folded (bounded)", size(used_bytes(bench) - redis_bytes))
    events_after, other_after = table_bytes(bench)
    grown = (events_after - events_bytes) / REQUESTS * MILLION
    row("Postgres, events of a million requests, indexes too", size(grown))
    row(f"Postgres, all else after {REQUESTS:,} (bounded)", size(other_after - other_bytes))


def fold_to(bench: Bench, shift: FoldJob, position: int) -> float:
    """Seconds until the published snapshot is there."""
    begun_s = time.perf_counter()
    while bench.position("sizing") < position:
        shift.fold("sizing")
    return time.perf_counter() - begun_s


def used_bytes(bench: Bench) -> int:
    """Return the bytes that Redis holds."""
    info: Any = bench.redis.info("memory")
    return int(info["used_memory"])


def table_bytes(bench: Bench) -> tuple[int, int]:
    """Return the size on disk of the weekly partitions with their indexes, and of all other tables."""
    with connect(bench.address) as connection:
        found = connection.execute(SIZES).fetchone() or (0, 0)
    return int(found[0] or 0), int(found[1] or 0)


def size(count: float) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


if __name__ == "__main__":
    main()
