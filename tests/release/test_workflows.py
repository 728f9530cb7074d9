"""The workflows of `.github/`: their schema, and that `make` does the work. Not here: actionlint (`tests.install`)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.release.checkouts import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def workflow(name: str) -> dict[str, Any]:
    """A workflow's content."""
    content: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8"))
    return content


def test_they_have_the_schema() -> None:
    checker = Path(sys.executable).with_name("check-jsonschema")
    command = [str(checker), "--builtin-schema", "vendor.github-workflows", *map(str, WORKFLOWS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_each_supported_python_is_tested() -> None:
    """Those of the classifiers."""
    matrix = workflow("test.yml")["jobs"]["test"]["strategy"]["matrix"]
    classified = [
        line.split("::")[-1].strip(' ",')
        for line in (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
        if "Programming Language :: Python :: 3." in line
    ]
    assert matrix["python"] == classified


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_may_do_no_more_than_it_needs(path: Path) -> None:
    """Reading, unless a job says otherwise; no secret of its own, and nothing of an event in a shell's text."""
    content = workflow(path.name)
    assert content["permissions"] == {"contents": "read"}
    runs = [step["run"] for job in content["jobs"].values() for step in job["steps"] if "run" in step]
    assert not [run for run in runs if "${{ github." in run]
    assert "secrets." not in path.read_text(encoding="utf-8")
    makes = [word for run in runs for word in run.split("&&") if "make " in word]
    targets = {word.split()[1] for word in makes}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(f"\n{target}: " in makefile for target in targets)
