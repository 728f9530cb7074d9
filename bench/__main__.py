"""The bench: `make bench`. Targets in turn, interleaved in rounds, one stand-in and one client for all.

    python -m bench [--quick] [--targets direct,nginx,ccproxy] [--rounds 4] [--seconds 4] [--out FOLDER]

Processor time counts all processes of a target, user and system, and for the proxy its own process apart as well. What
was measured goes to FOLDER: `bench.json` (every sample), `bench.md` (the tables, also printed) and `bench.svg`.
"""

import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from bench.report import Sample, chart, tables
from bench.scenarios import ALL, MAIN, QUICK, STEADY_RATE, Scenario
from bench.servers import Loader, free_port, say, stand_in
from bench.targets import ROOT, TARGETS, Missing, Place, Target, cache_folder

SETTLE_S = 0.7
"""After a load: what a target does behind an answer (its ledger, its logs) counts as well."""
WARM_UP_S = 1.0


class Options(Struct, frozen=True):
    """The options of a run."""

    names: Sequence[str]
    scenarios: Sequence[Scenario]
    rounds: int
    seconds: float
    out: Path


def main() -> int:
    """Measure, print, write down."""
    options = read_options()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ccproxy-bench-")))
        folder.chmod(0o755)
        upstream = stack.enter_context(stand_in())
        loader = Loader()
        stack.callback(loader.stop)
        targets, missing = started(options.names, upstream, folder, stack)
        samples = measured(options, targets, loader)
    write_down(options, samples, missing, {target.name: target.version for target in targets if target.version})
    return 0


def read_options() -> Options:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="2 rounds of 1.5 s of the main loads")
    parser.add_argument("--targets", default=",".join(TARGETS), help="comma-separated, of " + ", ".join(TARGETS))
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench")
    given = parser.parse_args()
    names = [name for name in given.targets.split(",") if name]
    if unknown := [name for name in names if name not in TARGETS]:
        parser.error(f"no such target: {', '.join(unknown)}")
    if "direct" not in names:
        names.insert(0, "direct")  # what is added is added to it
    return Options(
        names,
        QUICK if given.quick else ALL,
        given.rounds or (2 if given.quick else 4),
        given.seconds or (1.5 if given.quick else 4.0),
        given.out,
    )


def started(
    names: Sequence[str], upstream: int, folder: Path, stack: contextlib.ExitStack
) -> tuple[list[Target], dict[str, str]]:
    """The targets that can be had, and why the others can't."""
    found, missing = [], {}
    for name in names:
        say(f"starting {name} ...")
        place = Place(upstream, free_port(), folder / name, cache_folder())
        place.folder.mkdir(mode=0o755)
        try:
            target = TARGETS[name](place)
        except Missing as error:
            missing[name] = str(error)
            say(f"  without {name}: {error}")
            continue
        stack.callback(target.stop)
        found.append(target)
    return found, missing


def measured(options: Options, targets: Sequence[Target], loader: Loader) -> list[Sample]:
    """All samples: in each round each scenario on each target in turn."""
    samples: list[Sample] = []
    fast = {target.name: warm_up(target, loader) for target in targets}
    for number in range(1, options.rounds + 1):
        for scenario in options.scenarios:
            for target in targets:
                sample = one_sample(scenario, target, loader, options.seconds, fast=fast[target.name])
                samples.append(sample)
                say(f"round {number}/{options.rounds}  {scenario.name:28} {target.name:20} {sample.line}")
    return samples


def warm_up(target: Target, loader: Loader) -> bool:
    """A first load, which is not counted; whether the target can do the steady rate."""
    figures = loader.run(MAIN[1].job(target, WARM_UP_S, fast=True))
    figures = loader.run(MAIN[0].job(target, WARM_UP_S, fast=True))
    if not figures.done:
        say(f"  {target.name} gives no whole answer: {figures.error}")
    return figures.done / (figures.seconds or 1) > 1.3 * STEADY_RATE


def one_sample(scenario: Scenario, target: Target, loader: Loader, seconds: float, *, fast: bool) -> Sample:
    """One load, and what the target used for it."""
    before, own_before = target.usage(), target.own_usage()
    figures = loader.run(scenario.job(target, seconds, fast=fast))
    if target.process:
        time.sleep(SETTLE_S)
    after, own_after = target.usage(), target.own_usage()
    done = figures.done or 1
    return Sample.of(
        scenario.name,
        target.name,
        figures,
        cpu_ms=(after.seconds - before.seconds) / done * 1000,
        own_cpu_ms=(own_after.seconds - own_before.seconds) / done * 1000,
        rss_mb=after.rss_mb,
        own_rss_mb=own_after.rss_mb,
    )


def write_down(options: Options, samples: list[Sample], missing: dict[str, str], versions: dict[str, str]) -> None:
    """Tables, plot and raw samples."""
    options.out.mkdir(parents=True, exist_ok=True)
    names = [scenario.name for scenario in options.scenarios]
    text = "\n".join(
        [
            f"{datetime.now(UTC):%Y-%m-%d}, {machine()}.",
            f"{options.rounds} rounds of {options.seconds:g} s, targets in turn; medians, least and greatest.",
            "",
            *tables(samples, names),
            *(f"Not measured: {name} ({why})" for name, why in missing.items()),
            "Versions: " + (", ".join(versions.values()) or "-"),
        ]
    )
    (options.out / "bench.md").write_text(text + "\n")
    (options.out / "bench.svg").write_text(chart(samples, [scenario.name for scenario in MAIN]))
    (options.out / "bench.json").write_text(json.dumps(msgspec.to_builtins(samples)))
    print(text)
    say(f"written to {options.out}")


def machine() -> str:
    """Return a description of this machine."""
    cores = len(os.sched_getaffinity(0))
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return f"{cores} cores of {model}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
