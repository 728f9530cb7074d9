"""`python -m tests.long_suites` (`make test-all`): the suites that are too long for `make test`, one after the other.

Each is a target of the Makefile, with a size so that all of them fit into the limit on two cores. All of them run, also
when one has failed; the last lines say how each ended and how long it took.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import click

SUITE_LIMIT_S = 900.0
LIMIT_S = 45 * 60.0
"""For all of them: what has not ended by then has failed."""


class Suite(NamedTuple):
    """A target of the Makefile, and its variables."""

    target: str
    variables: tuple[str, ...] = ()


class Ended(NamedTuple):
    """How a suite ended."""

    target: str
    ok: bool
    took_s: float


SUITES = (
    Suite("simulate", ("SEEDS=400",)),
    Suite("simulate-faults", ("SEEDS=300",)),
    Suite("chaos", ("SEED=12", "ACTIONS=120", "SECONDS=90")),
    Suite("test-scale", ("ROUNDS=3", "CLIENTS=12")),
    Suite("test-upgrade"),
    Suite("test-claude-code"),
    Suite("fuzz", ("SEED=12", "REQUESTS=15000")),
    Suite("mutate", ("ARGS=--rooms routing,ledger,protocol --count 50 --least 90",)),
    Suite("test-image"),
    Suite("test-install"),
    Suite("test-recipes"),
)


def environment() -> dict[str, str]:
    """The environment without what make was given for the suites as a whole."""
    return {name: value for name, value in os.environ.items() if name not in ("ARGS", "MAKEFLAGS", "MFLAGS")}


def run(suite: Suite, limit_s: float) -> Ended:
    """Run a suite to its end, or to the limit; nothing of it is left then."""
    began_s = time.monotonic()
    command = [os.environ.get("MAKE", "make"), "--no-print-directory", suite.target, *suite.variables]
    process = subprocess.Popen(command, env=environment(), start_new_session=True)
    try:
        status = process.wait(max(0.0, limit_s))
    except subprocess.TimeoutExpired:
        click.echo(f"{suite.target} is given up after {limit_s:.0f} s")
        status = -1
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return Ended(suite.target, status == 0, time.monotonic() - began_s)


def main(names: Sequence[str]) -> int:
    """Run the suites of these names, or all; the exit status."""
    ended: list[Ended] = []
    ends_s = time.monotonic() + LIMIT_S
    wanted = [suite for suite in SUITES if not names or suite.target in names]
    for number, suite in enumerate(wanted, 1):
        click.echo(f"---- {number} of {len(wanted)}: make {' '.join((suite.target, *suite.variables))}")
        ended.append(run(suite, min(SUITE_LIMIT_S, ends_s - time.monotonic())))
    click.echo()
    for each in ended:
        click.echo(f"{each.target:18} {'ok' if each.ok else 'FAILED':7} {each.took_s:5.0f} s")
    click.echo(f"{'all':18} {'':7} {sum(each.took_s for each in ended):5.0f} s")
    return 0 if all(each.ok for each in ended) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
