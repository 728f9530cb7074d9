"""A request takes no more steps than it did: calls and bytecodes, which no load of the machine changes."""

import json
import os
import subprocess
import sys

import pytest

from bench.steps import python_version, written
from bench.targets import ROOT

ROOM = 1.05
"""What a change may add unnoticed. More has to be wanted: `make bench-steps ARGS=--write`."""


def test_a_request_takes_no_more_steps_than_were_written_down() -> None:
    bounds = written(python_version())
    if not bounds:
        pytest.skip(f"the steps of Python {python_version()} were never written down")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-m", "bench.steps", "--json"],
        capture_output=True, cwd=ROOT, env=environment, timeout=100, check=True,
    )  # fmt: skip
    found = json.loads(ran.stdout.splitlines()[-1])
    assert set(found) == set(bounds)
    for scenario, steps in found.items():
        assert steps["calls"] <= bounds[scenario].calls * ROOM, scenario
        assert steps["bytecodes"] <= bounds[scenario].bytecodes * ROOM, scenario
