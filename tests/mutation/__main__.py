"""`make mutate`: plant faults in the pure packages, one at a time, and run that package's tests on each.

    python -m tests.mutation [--rooms routing,ledger] [--within service/routing/quota] [--count 500] [--seed 1] [--json]

Mutants are drawn by the seed, from each room by its size. One that no test notices survives: a test is missing, or
nobody needs that code. Those that change nothing at all are listed in `equivalent.toml`, with the reason. The exit
status is 1 when more survive that are not listed there than `--least` allows: by default none may.
"""

import json
import os
import random
import sys
import time
import tomllib
from collections.abc import Iterable, Sequence
from multiprocessing import get_context
from pathlib import Path

import click
from msgspec import Struct

from tests.mutation.mutants import Mutant, mutants_of, planted
from tests.mutation.sandbox import ROOT, import_libraries, passes

EQUIVALENT = Path(__file__).with_name("equivalent.toml")


class Room(Struct, frozen=True):
    """Code that is mutated, and the tests that have to notice: files, or folders with their files."""

    name: str
    code: tuple[str, ...]
    tests: tuple[str, ...]


ROOMS = (
    Room("routing", ("service/routing",), ("tests/routing",)),
    Room("ledger", ("service/ledger",), ("tests/ledger",)),
    Room("protocol", ("service/protocol",), ("tests/protocol",)),
    Room(
        "outbox",
        ("service/fleet/outbox.py",),
        ("tests/fleet/outbox/test_outbox.py", "tests/fleet/outbox/test_outbox_properties.py"),
    ),
)


class Verdict(Struct, frozen=True):
    """What became of a mutant."""

    room: str
    mutant: Mutant
    killed: bool


@click.command(help=__doc__)
@click.option("--rooms", default="", help=f"Of {', '.join(room.name for room in ROOMS)}; all by default.")
@click.option("--within", default="", help="Only modules whose paths begin so, such as service/routing/quota.")
@click.option("--count", default=500, show_default=True, help="Mutants in all.")
@click.option("--seed", default=1, show_default=True, help="Which ones are drawn.")
@click.option("--jobs", default=min(2, os.cpu_count() or 1), show_default=True, help="How many run at once.")
@click.option("--least", default=100.0, show_default=True, help="Percent that has to be killed, or listed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(rooms: str, within: str, count: int, seed: int, jobs: int, least: float, *, as_json: bool) -> None:
    """Draw, run, report."""
    os.nice(10)
    chosen = [room for room in ROOMS if not rooms or room.name in rooms.split(",")]
    drawn = draw(chosen, count, random.Random(seed), within)  # noqa: S311 - reproducible on purpose
    sys.exit(report(run_all(drawn, jobs, quiet=as_json), least, as_json=as_json))


def draw(rooms: Sequence[Room], count: int, rng: random.Random, within: str = "") -> list[tuple[Room, Mutant]]:
    """Some of all mutants, in the order of their modules."""
    everything = [
        (room, mutant)
        for room in rooms
        for module in files_of(room.code, "*.py")
        if module.startswith(within)
        for mutant in mutants_of(module, text_of(module))
    ]
    picked = sorted(rng.sample(range(len(everything)), min(count, len(everything))))
    return [everything[index] for index in picked]


def files_of(places: Iterable[str], pattern: str) -> list[str]:
    """These files, and those of these folders that fit the pattern; as paths from the root."""
    roots = [ROOT / place for place in places]
    found = [path for root in roots for path in (root.glob(pattern) if root.is_dir() else [root])]
    return sorted(str(path.relative_to(ROOT)) for path in found)


def text_of(path: str) -> str:
    """The text of a file."""
    return (ROOT / path).read_text(encoding="utf-8")


def run_all(drawn: Sequence[tuple[Room, Mutant]], jobs: int, *, quiet: bool) -> list[Verdict]:
    """Run every mutant, some at once; the verdicts come in the order of the mutants."""
    began_s = time.monotonic()
    import_libraries()
    for room in {room.name: room for room, _ in drawn}.values():
        assert passes([room_tests(room)]), f"the tests of {room.name} fail without any mutant"
    verdicts = []
    with get_context("fork").Pool(jobs) as pool:
        for verdict in pool.imap(judge, drawn):
            verdicts.append(verdict)
            if not quiet:
                show(verdict, len(verdicts), len(drawn), time.monotonic() - began_s)
    return verdicts


def judge(pair: tuple[Room, Mutant]) -> Verdict:
    """Run the room's tests on a mutant, those of its module first."""
    room, mutant = pair
    groups = by_nearness(mutant.module, room_tests(room))
    return Verdict(room.name, mutant, killed=not passes(groups, mutant.module, planted(text_of(mutant.module), mutant)))


def room_tests(room: Room) -> list[str]:
    """The room's files of tests."""
    return files_of(room.tests, "test_*.py")


def by_nearness(module: str, files: Sequence[str]) -> list[list[str]]:
    """The files that import the module, the one of its own name first; then the others. Empty groups are left out."""
    name = module.removesuffix(".py").replace("/", ".")
    near = sorted((file for file in files if name in text_of(file)), key=lambda file: Path(module).stem not in file)
    return [group for group in (near, [file for file in files if file not in near]) if group]


def show(verdict: Verdict, number: int, total: int, seconds: float) -> None:
    """A line for each survivor; on a terminal, how far it is."""
    is_terminal = sys.stdout.isatty()
    if not verdict.killed:
        click.echo(f"\r\x1b[Ksurvived  {verdict.mutant.title}" if is_terminal else f"survived  {verdict.mutant.title}")
    if is_terminal:
        click.echo(f"\r{number} of {total}, {seconds:.0f} s", nl=False)


def report(verdicts: Sequence[Verdict], least_percent: float, *, as_json: bool) -> int:
    """Print counts by room; return the exit status."""
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
    return 1 if 100 * len(missing) > (100 - least_percent) * len(verdicts) else 0


def equivalent() -> list[dict[str, str]]:
    """The mutants that change nothing, with the reason."""
    found: list[dict[str, str]] = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8")).get("mutants", [])
    return found


if __name__ == "__main__":
    main()
