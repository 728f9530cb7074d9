"""The soak: the proxy with everything on, 300,000 requests or 30 minutes, whichever comes first; does anything grow?

    python -m bench.soak [--requests 300000] [--minutes 30]

The load changes with each turn: whole answers, bursts, paced streams, large and small bodies, and clients that leave in
the middle. After each turn the relaying process's memory, descriptors and threads are read, at rest. Printed: the slope
of its memory for 100,000 requests (least squares, behind the warm-up), what the other processes hold, and what is still
open when all is quiet. It ends with 1 when the slope is above SLOPE_MB or a descriptor was leaked.
"""

import argparse
import contextlib
import itertools
import os
import sys
import tempfile
import time
from pathlib import Path

from msgspec import Struct

from bench import processes
from bench.load import Job
from bench.scenarios import LARGE, SMALL
from bench.servers import Loader, free_port, say, stand_in
from bench.targets import Missing, Place, Target, cache_folder, ccproxy
from bench.traffic import Kind

SLOPE_MB = 1.0
PER = 100_000
WARM_SHARE = 0.25
"""Of the requests: allocators and caches fill up meanwhile."""
TURN = 4_000
TURN_S = 60.0
REST_S = 2.0
QUIET_S = 80.0
"""Behind the proxy's own keep-alive towards clients (75 s) and providers (30 s)."""
SPARE_DESCRIPTORS = 8
TURNS: tuple[tuple[Kind, int, int, int], ...] = (
    ("json", LARGE, 16, 0),
    ("sse", LARGE, 16, 0),
    ("sse", SMALL, 64, 7),
    ("json", SMALL, 16, 0),
    ("paced", SMALL, 64, 5),
)
"""Kind, bytes of the body, open at once, and how often a client leaves."""


class Reading(Struct, frozen=True):
    """The proxy at rest, after so many requests."""

    requests: int
    rss_mb: float
    descriptors: int
    threads: int


def main() -> int:
    """Load, read, judge."""
    parser = argparse.ArgumentParser(prog="soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=300_000)
    parser.add_argument("--minutes", type=float, default=30)
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ccproxy-soak-")))
        folder.chmod(0o755)
        upstream = stack.enter_context(stand_in())
        loader = Loader()
        stack.callback(loader.stop)
        try:
            target = ccproxy(Place(upstream, free_port(), folder, cache_folder()))
        except Missing as error:
            say(str(error))
            return 1
        stack.callback(target.stop)
        time.sleep(REST_S)
        first = read(target, 0)
        readings = soaked(target, loader, given.requests, time.monotonic() + given.minutes * 60)
        say(f"waiting {QUIET_S:.0f} s for idle connections to go ...")
        time.sleep(QUIET_S)
        last = read(target, readings[-1].requests)
        return judged(first, readings, last, target)


def soaked(target: Target, loader: Loader, most: int, until: float) -> list[Reading]:
    """A reading after each turn."""
    readings: list[Reading] = []
    done = errors = 0
    for kind, size, at_once, leave_every in itertools.cycle(TURNS):
        job = Job(
            port=target.port, path=target.path, headers=target.headers, kind=kind, body_bytes=size,
            open_at_once=at_once, seconds=TURN_S, most=min(TURN, most - done), leave_every=leave_every,
        )  # fmt: skip
        figures = loader.run(job)
        done += figures.done + figures.left
        errors += figures.errors
        time.sleep(REST_S)
        readings.append(read(target, done))
        now = readings[-1]
        say(
            f"{done:8,} requests  {now.rss_mb:7.1f} MB  {now.descriptors} descriptors  {now.threads} threads  "
            f"{errors} errors {figures.error[:60]}"
        )
        if done >= most or time.monotonic() > until or not figures.done:
            return readings
    return readings


def read(target: Target, requests: int) -> Reading:
    """The relaying process now."""
    pid = target.own_pids()[0]
    return Reading(
        requests, target.own_usage().rss_mb, len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))
    )


def judged(first: Reading, readings: list[Reading], last: Reading, target: Target) -> int:
    """Print the verdict; the exit status."""
    warm = [each for each in readings if each.requests >= readings[-1].requests * WARM_SHARE]
    slope = slope_of(warm) * PER
    leaked = last.descriptors - first.descriptors
    everything = processes.usage(processes.tree(target.process.pid)).rss_mb if target.process else 0.0
    print(f"{readings[-1].requests:,} requests")
    print(f"memory of the proxy: {first.rss_mb:.1f} MB at first, {last.rss_mb:.1f} at last; of all {everything:.0f}")
    print(f"slope behind the warm-up: {slope:+.2f} MB for {PER:,} requests (bound {SLOPE_MB})")
    print(f"descriptors: {first.descriptors} at first, {last.descriptors} at last")
    print(f"threads: {first.threads} at first, {last.threads} at last")
    return 0 if slope <= SLOPE_MB and leaked <= SPARE_DESCRIPTORS else 1


def slope_of(readings: list[Reading]) -> float:
    """MB a request, by least squares."""
    if len(readings) < 2:
        return 0.0
    mean_x = sum(each.requests for each in readings) / len(readings)
    mean_y = sum(each.rss_mb for each in readings) / len(readings)
    spread = sum((each.requests - mean_x) ** 2 for each in readings)
    return sum((each.requests - mean_x) * (each.rss_mb - mean_y) for each in readings) / spread


if __name__ == "__main__":
    sys.exit(main())
