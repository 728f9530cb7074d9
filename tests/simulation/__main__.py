"""`python -m tests.simulation`: run seeds on all cores, and show the one that fails.

Sets of strings have an order of their own in every Python process; it is fixed here, so that a seed says everything.
"""

import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait

import click

from tests.simulation.faults import FAULTS
from tests.simulation.seeds import run

CHUNK = 8
"""Seeds that a process does in one go."""
TOLD = 400
"""Seeds after which a line says how far it is."""


def failures(seeds: range, fault: str | None, jobs: int) -> Iterator[tuple[int, str]]:
    """How many seeds are done, and what was broken, as it comes."""
    chunks = iter([seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK)])
    done = 0
    pool = ProcessPoolExecutor(jobs)
    try:
        running: dict[Future[str], range] = {}
        while True:
            while len(running) < 2 * jobs and (chunk := next(chunks, None)) is not None:
                running[pool.submit(run, chunk, fault)] = chunk
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                done += len(running.pop(future))
                yield done, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def simulate_all(seeds: range, jobs: int) -> int:
    """Run seeds until one fails; the exit status."""
    began_s = time.monotonic()
    for done, broken in failures(seeds, None, jobs):
        if broken:
            seed = broken.split(":")[0].removeprefix("seed ")
            click.echo(f"{broken}\n\nAgain: make simulate SEEDS=1 FIRST={seed}", err=True)
            return 1
        if done == len(seeds) or done % TOLD == 0:
            took_s = time.monotonic() - began_s
            click.echo(f"{done} of {len(seeds)} seeds, {done / took_s:.1f}/s")
    return 0


def show_faults(names: list[str], seeds: range) -> int:
    """Plant each fault, and count the seeds until it is noticed; the exit status."""
    status = 0
    for name in names:
        for count, seed in enumerate(seeds, 1):
            if broken := run(range(seed, seed + 1), name):
                click.echo(f"{name}: caught after {count} seeds: {broken.splitlines()[0]}")
                break
        else:
            click.echo(f"{name}: NOT caught by {len(seeds)} seeds")
            status = 1
    return status


@click.command()
@click.option("--seeds", default=300, show_default=True, help="How many seeds.")
@click.option("--first", default=1, show_default=True, help="The first of them.")
@click.option("--jobs", default=os.cpu_count() or 1, help="Processes; one for each core.")
@click.option("--fault", "faults", multiple=True, type=click.Choice(["all", *FAULTS]), help="Plant it: must be caught.")
def main(seeds: int, first: int, jobs: int, faults: tuple[str, ...]) -> None:
    """Simulate the fleet."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(  # noqa: S606 - ourselves
            sys.executable,
            [sys.executable, "-m", "tests.simulation", *sys.argv[1:]],
            os.environ | {"PYTHONHASHSEED": "0"},
        )
    chosen = range(first, first + seeds)
    if faults:
        sys.exit(show_faults([*FAULTS] if "all" in faults else list(faults), chosen))
    sys.exit(simulate_all(chosen, jobs))


if __name__ == "__main__":
    main()
