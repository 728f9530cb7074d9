"""Records what Prometheus sees of an installation under a fault: `python -m tests.alerts.record outage_refused`.

It takes as long as it takes: some minutes each, in real time. Without names, all scenarios, one after the other. Record
again when an alert asks for a metric that a recording lacks (a test says so), or when the product reports otherwise.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import tempfile
from pathlib import Path

import yaml

from tests.alerts.lab import Lab
from tests.alerts.recording import FOLDER, Recording, text_of
from tests.alerts.scenarios import SCENARIOS
from tests.support.processes import ROOT

ALERTS = ROOT / "deploy" / "chart" / "files" / "alerts.yml"
METRIC = re.compile(r"\b(?:ccproxy|gen_ai)_\w+|\bup\b")


def metrics_of(expression: str) -> set[str]:
    """The metrics that an expression asks for."""
    return set(METRIC.findall(expression))


def metrics_of_alerts() -> set[str]:
    """The metrics that any alert asks for."""
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return set().union(*(metrics_of(rule["expr"]) for group in groups for rule in group["rules"]))


def record(name: str, metrics: set[str]) -> Recording:
    """Play a scenario."""
    scenario = SCENARIOS[name]
    with tempfile.TemporaryDirectory() as folder, Lab(Path(folder)) as lab:
        scenario(lab)
        return lab.recording(inspect.getdoc(scenario) or "", metrics)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[*SCENARIOS], metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--to", type=Path, default=FOLDER, help="the folder of the recordings")
    parser.add_argument("--all", action="store_true", help="all metrics, also those that no alert asks for")
    arguments = parser.parse_args()
    arguments.to.mkdir(parents=True, exist_ok=True)
    for name in arguments.names:
        found = record(name, set() if arguments.all else metrics_of_alerts())
        text = text_of(found)
        (arguments.to / f"{name}.txt").write_text(text, encoding="utf-8")
        sys.stdout.write(f"{name}: {found.scrapes} scrapes, {len(found.series)} series, {len(text):,} bytes\n")


if __name__ == "__main__":
    main()
