"""The wheel, built once, and what it runs on."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.install.installs import ROOT, WHEEL_VERSION, Home
from tests.install.interpreters import VERSIONS, Interpreter, found

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each interpreter that is to be had; a test of its own says which are not."""
    if "interpreter" in metafunc.fixturenames:
        here = [one for one in map(found, VERSIONS) if one.path]
        metafunc.parametrize("interpreter", here, ids=[one.version for one in here], scope="session")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, as a release that no registry has."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    environ = os.environ | {"SETUPTOOLS_SCM_PRETEND_VERSION": WHEEL_VERSION}
    subprocess.run(command, cwd=ROOT, env=environ, check=True, capture_output=True)
    [built] = folder.iterdir()
    return built


@pytest.fixture
def home_on(wheel: Path, tmp_path: Path) -> Callable[[Interpreter], Home]:
    """New homes."""
    made: list[Home] = []

    def new(interpreter: Interpreter) -> Home:
        made.append(Home(tmp_path / f"home-{len(made)}", wheel, interpreter))
        return made[-1]

    return new
