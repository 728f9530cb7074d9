"""What a request costs at the rates of real life: `make bench-rates`. Open loop, each process of a target apart.

    python -m bench.rates [--rates 0,1,10,100,500] [--bodies 2000,60000] [--kinds json] [--rounds 3] [--seconds 12]
                          [--targets nginx,ccproxy] [--checkout FOLDER ...] [--out FOLDER]

Processor time is that of all processes of a target, user and system, from the load's begin until what it left behind is
done; rate 0 is a target at rest, in percent of a core. `--checkout` measures another checkout of this project (with its
`.venv`) beside this one, in turn with it. Not here: saturation and added latency (`bench`).
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import cast

import msgspec
from msgspec import Struct

from bench import processes
from bench.__main__ import machine
from bench.load import Job
from bench.report import spread
from bench.servers import Loader, free_port, say, stand_in
from bench.targets import ROOT, TARGETS, Missing, Place, Target, cache_folder, ccproxy_of
from bench.traffic import Kind

SETTLE_S = 2.0
"""After a load: the ledger, the log and what was put off count as well."""
WARM_UP_S = 1.0
WARM_UP_RATE = 50.0
REST_S = 3.0
"""After the start and the first requests, before anything is measured."""
ROLES = (" serve", " worker", "valkey", "postgres")
"""Words of the command lines of our processes, in the order of the columns; all others are the supervisor's."""
NAMES = {" serve": "proxy", " worker": "worker", "valkey": "Valkey", "postgres": "Postgres", "": "other"}


class Options(Struct, frozen=True):
    """The options of a run."""

    rates: Sequence[float]
    bodies: Sequence[int]
    kinds: Sequence[Kind]
    rounds: int
    seconds: float
    targets: Sequence[str]
    checkouts: Sequence[Path]
    out: Path


class Load(Struct, frozen=True):
    """An open loop; at rate 0, none."""

    rate: float
    kind: Kind = "json"
    body_bytes: int = 0

    @property
    def name(self) -> str:
        """As the report says it."""
        if not self.rate:
            return "at rest"
        return f"{'JSON' if self.kind == 'json' else 'SSE'} {self.body_bytes // 1000} KB, {self.rate:g}/s"


class Sample(Struct, frozen=True):
    """What a load cost: processor ms for each request, or for each second at rest, by process."""

    load: str
    target: str
    at_rest: bool
    done: int
    errors: int
    first_p50: float | None
    first_p99: float | None
    by_role: dict[str, float]

    @property
    def total(self) -> float:
        """All processes."""
        return sum(self.by_role.values())


def main() -> int:
    """Measure, print, write down."""
    options = read_options()
    samples: list[Sample] = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ccproxy-rates-")))
        folder.chmod(0o755)
        upstream = stack.enter_context(stand_in())
        loader = Loader()
        stack.callback(loader.stop)
        targets = list(start(options, upstream, folder, stack))
        for target in targets:
            loader.run(job(Load(WARM_UP_RATE, options.kinds[0], options.bodies[0]), target, WARM_UP_S))
        time.sleep(REST_S)
        for number in range(1, options.rounds + 1):
            for load in loads(options):
                for target in targets:
                    sample = measure(load, target, loader, options.seconds)
                    samples.append(sample)
                    say(f"round {number}/{options.rounds}  {load.name:20} {target.name:20} {line_of(sample)}")
    write_down(options, samples)
    return 0


def read_options() -> Options:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench.rates", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rates", default="0,1,10,100,500", help="requests a second, comma-separated; 0 is at rest")
    parser.add_argument("--bodies", default="2000,60000", help="bytes of a request, comma-separated")
    parser.add_argument("--kinds", default="json", help="json, sse, or both")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--targets", default="nginx,ccproxy", help="comma-separated, of " + ", ".join(TARGETS))
    parser.add_argument("--checkout", type=Path, action="append", default=[], help="another checkout to compare with")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench")
    given = parser.parse_args()
    return Options(
        [float(rate) for rate in given.rates.split(",")],
        [int(size) for size in given.bodies.split(",")],
        cast("list[Kind]", given.kinds.split(",")),
        given.rounds,
        given.seconds,
        [name for name in given.targets.split(",") if name],
        given.checkout,
        given.out,
    )


def loads(options: Options) -> Iterator[Load]:
    """All loads of a round."""
    for rate in options.rates:
        if not rate:
            yield Load(0)
            continue
        for kind in options.kinds:
            for size in options.bodies:
                yield Load(rate, kind, size)


def start(options: Options, upstream: int, folder: Path, stack: contextlib.ExitStack) -> Iterator[Target]:
    """Start the targets, and ccproxy of each other checkout; those that can't be had are left out."""
    starts = [(name, TARGETS[name]) for name in options.targets]
    starts += [(str(checkout), ccproxy_of(checkout)) for checkout in options.checkouts]
    for number, (name, open_target) in enumerate(starts):
        say(f"starting {name} ...")
        place = Place(upstream, free_port(), folder / str(number), cache_folder())
        place.folder.mkdir(mode=0o755)
        try:
            target = open_target(place)
        except Missing as error:
            say(f"  without {name}: {error}")
            continue
        target.name = name
        stack.callback(target.stop)
        yield target


def job(load: Load, target: Target, seconds: float) -> Job:
    """The load for a target."""
    return Job(
        port=target.port,
        path=target.path,
        headers=target.headers,
        kind=load.kind,
        body_bytes=load.body_bytes,
        rate=load.rate,
        seconds=seconds,
    )


def measure(load: Load, target: Target, loader: Loader, seconds: float) -> Sample:
    """One load on one target, and what each of its processes used for it."""
    before = used_ms(target)
    if not load.rate:
        time.sleep(seconds)
        return sample_of(load, target, before, seconds)
    figures = loader.run(job(load, target, seconds))
    time.sleep(SETTLE_S)
    sample = sample_of(load, target, before, figures.done or 1)
    return msgspec.structs.replace(
        sample, done=figures.done, errors=figures.errors, first_p50=figures.first_p50, first_p99=figures.first_p99
    )


def sample_of(load: Load, target: Target, before: dict[str, float], count: float) -> Sample:
    """What was used since, for each of `count`."""
    after = used_ms(target)
    by_role = {role: (after[role] - before.get(role, 0.0)) / count for role in after}
    return Sample(load.name, target.name, not load.rate, 0, 0, None, None, by_role)


def used_ms(target: Target) -> dict[str, float]:
    """Return the processor time of a target's processes so far, by role."""
    used: dict[str, float] = {}
    for pid in processes.tree(target.process.pid) if target.process else []:
        command = processes.command_of(pid)
        role = next((word for word in ROLES if target.own and word in command), "")
        used[NAMES[role]] = used.get(NAMES[role], 0.0) + processes.exact_seconds(pid) * 1000
    return used


def line_of(sample: Sample) -> str:
    """For the progress."""
    parts = "  ".join(f"{role} {used:.2f}" for role, used in sample.by_role.items())
    wrong = f"  {sample.errors} errors" if sample.errors else ""
    return f"{sample.total:7.2f} ms{'/s' if sample.at_rest else ''}   {parts}{wrong}"


# -- the report


def write_down(options: Options, samples: Sequence[Sample]) -> None:
    """The table and the raw samples."""
    options.out.mkdir(parents=True, exist_ok=True)
    text = "\n".join(
        [
            f"{datetime.now(UTC):%Y-%m-%d}, {machine()}.",
            f"{options.rounds} rounds of {options.seconds:g} s, targets in turn; medians, least and greatest.",
            "",
            *table(samples),
        ]
    )
    (options.out / "rates.md").write_text(text + "\n")
    (options.out / "rates.json").write_text(json.dumps(msgspec.to_builtins(samples)))
    print(text)
    say(f"written to {options.out}")


def table(samples: Sequence[Sample]) -> list[str]:
    """A row for each load and target; the ratio is to nginx in the same run."""
    roles = list(NAMES.values())
    lines = [f"| load | target | processor ms/request | times nginx | {' | '.join(roles)} | errors |"]
    lines.append("|---" * (5 + len(roles)) + "|")
    for load, target in dict.fromkeys((sample.load, sample.target) for sample in samples):
        found = [sample for sample in samples if (sample.load, sample.target) == (load, target)]
        cells = [load, target, total_of(found), ratio_of(found, samples), *by_role(found, roles)]
        lines.append(f"| {' | '.join(cells)} | {sum(sample.errors for sample in found)} |")
    return lines


def total_of(found: Sequence[Sample]) -> str:
    """All processes together; at rest, the percentage of a core."""
    if found[0].at_rest:
        return spread([sample.total / 10 for sample in found], 2) + " % of a core"
    return spread([sample.total for sample in found], 2)


def ratio_of(found: Sequence[Sample], samples: Sequence[Sample]) -> str:
    """How many times as much as nginx takes."""
    base = [sample.total for sample in samples if sample.load == found[0].load and sample.target == "nginx"]
    if found[0].at_rest or not base or not median(base):
        return "-"
    return spread([sample.total / median(base) for sample in found], 0)


def by_role(found: Sequence[Sample], roles: Sequence[str]) -> list[str]:
    """The median of each process, in ms for each request, at rest for each second."""
    if all(role in ("other", "") for sample in found for role in sample.by_role):
        return ["-"] * len(roles)
    return [f"{median([sample.by_role.get(role, 0.0) for sample in found]):.2f}" for role in roles]


if __name__ == "__main__":
    sys.exit(main())
