"""`make mutate`: plants faults in the pure rooms, one at a time, and runs that room's tests on each.

    python -m tests.mutation [--rooms routing,ledger] [--count 500] [--seed 1] [--jobs 2] [--json]

Mutants are drawn by the seed, each room by its size. One that no test notices survives: a test is missing, or nobody
needs that code. Those that change nothing at all are named in `equivalent.toml`, with the reason. Exits with 1 when one
survives that is not named there.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import click
from msgspec import Struct

from tests.mutation.mutants import Mutant, mutants_of, planted

ROOT = Path(__file__).parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent.toml")
LIMIT_S = 120
"""Ten times what a room's tests take: a mutant that never ends is noticed as well."""
LEFT_OUT = (".*", "__pycache__", "build", "dist", "node_modules")


class Room(Struct, frozen=True):
    """Code that is mutated, and the tests that have to notice."""

    name: str
    code: tuple[str, ...]
    tests: tuple[str, ...]


ROOMS = (
    Room("routing", ("service/routing",), ("tests/routing",)),
    Room("ledger", ("service/ledger",), ("tests/ledger",)),
    Room("protocol", ("service/protocol",), ("tests/protocol",)),
    Room("outbox", ("service/fleet/outbox.py",), ("tests/fleet/outbox",)),
)


class Verdict(Struct, frozen=True):
    """What became of a mutant."""

    room: str
    mutant: Mutant
    killed: bool


@click.command(help=__doc__)
@click.option("--rooms", default="", help=f"Of {', '.join(room.name for room in ROOMS)}; all by default.")
@click.option("--count", default=500, show_default=True, help="Mutants in all.")
@click.option("--seed", default=1, show_default=True, help="Which ones are drawn.")
@click.option("--jobs", default=os.cpu_count() or 1, show_default=True, help="How many run at once.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(rooms: str, count: int, seed: int, jobs: int, *, as_json: bool) -> None:
    """Draw, run, report."""
    chosen = [room for room in ROOMS if not rooms or room.name in rooms.split(",")]
    drawn = draw(chosen, count, random.Random(seed))  # noqa: S311 - reproducible on purpose
    sys.exit(report(run_all(drawn, jobs, quiet=as_json), as_json=as_json))


def draw(rooms: Sequence[Room], count: int, rng: random.Random) -> list[tuple[Room, Mutant]]:
    """Some of all mutants, in the order of their modules."""
    everything = [(room, mutant) for room in rooms for module in modules_of(room)
                  for mutant in mutants_of(module, (ROOT / module).read_text(encoding="utf-8"))]  # fmt: skip
    picked = sorted(rng.sample(range(len(everything)), min(count, len(everything))))
    return [everything[index] for index in picked]


def modules_of(room: Room) -> list[str]:
    """The room's modules, as paths from the root."""
    found = [
        path for code in room.code for path in ([ROOT / code] if code.endswith(".py") else (ROOT / code).glob("*.py"))
    ]
    return sorted(str(path.relative_to(ROOT)) for path in found)


def run_all(drawn: Sequence[tuple[Room, Mutant]], jobs: int, *, quiet: bool) -> list[Verdict]:
    """Run every mutant, each job in a copy of the checkout of its own."""
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ccproxy-mutate-") as folder:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(jobs):
            copies.put(copy_of_checkout(Path(folder) / str(number)))
        for room in {room.name: room for room, _ in drawn}.values():
            copy = copies.get()
            assert passes(room, copy), f"the tests of {room.name} fail without any mutant"
            copies.put(copy)

        def judge(pair: tuple[Room, Mutant]) -> Verdict:
            copy = copies.get()
            try:
                return Verdict(pair[0].name, pair[1], killed=is_killed(*pair, copy))
            finally:
                copies.put(copy)

        verdicts = []
        with ThreadPoolExecutor(jobs) as pool:
            for verdict in pool.map(judge, drawn):
                verdicts.append(verdict)
                if not quiet:
                    show(verdict, len(verdicts), len(drawn), time.monotonic() - began_s)
    return verdicts


def copy_of_checkout(target: Path) -> Path:
    """A checkout to plant faults in."""
    shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(*LEFT_OUT))
    return target


def is_killed(room: Room, mutant: Mutant, copy: Path) -> bool:
    """Whether a test of the room fails on the mutant."""
    path = copy / mutant.module
    text = path.read_text(encoding="utf-8")
    path.write_text(planted(text, mutant), encoding="utf-8")
    try:
        return not passes(room, copy)
    finally:
        path.write_text(text, encoding="utf-8")


def passes(room: Room, copy: Path) -> bool:
    """Whether the room's tests pass; one that does not end fails."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        "--no-header",
        *room.tests,
    ]
    try:
        ended = subprocess.run(command, cwd=copy, env=environment, capture_output=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return False
    return ended.returncode == 0


def show(verdict: Verdict, number: int, total: int, seconds: float) -> None:
    """A line for each survivor; on a terminal, how far it is."""
    is_terminal = sys.stdout.isatty()
    if not verdict.killed:
        click.echo(f"\r\x1b[Ksurvived  {verdict.mutant.title}" if is_terminal else f"survived  {verdict.mutant.title}")
    if is_terminal:
        click.echo(f"\r{number} of {total}, {seconds:.0f} s", nl=False)


def report(verdicts: Sequence[Verdict], *, as_json: bool) -> int:
    """Counts by room, and the exit status."""
    excused = {(entry["module"], entry["function"], entry["before"], entry["after"]) for entry in equivalent()}
    survivors = [verdict for verdict in verdicts if not verdict.killed]
    missing = [
        v for v in survivors if (v.mutant.module, v.mutant.function, v.mutant.before, v.mutant.after) not in excused
    ]
    counts = {
        room: sum(v.killed for v in verdicts if v.room == room) for room in dict.fromkeys(v.room for v in verdicts)
    }
    totals = {room: sum(v.room == room for v in verdicts) for room in counts}
    if as_json:
        rows = {room: {"killed": counts[room], "drawn": totals[room]} for room in counts}
        click.echo(
            json.dumps({"rooms": rows, "survivors": [v.mutant.title for v in survivors], "unexplained": len(missing)})
        )
    else:
        click.echo()
        for room, killed in counts.items():
            click.echo(f"{room:10} {killed} of {totals[room]} killed ({100 * killed / totals[room]:.1f} %)")
        click.echo(f"{len(survivors)} survived, {len(missing)} of them without a reason in {EQUIVALENT.name}")
    return 1 if missing else 0


def equivalent() -> list[dict[str, str]]:
    """The mutants that change nothing, with the reason."""
    found: list[dict[str, str]] = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8")).get("mutants", [])
    return found


if __name__ == "__main__":
    main()
