"""The wheel, built once, and what it runs on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.install.interpreters import VERSIONS, Interpreter, found
from tests.support.wheels import ROOT, Home, build_wheel

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
    return build_wheel(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture
def home_on(wheel: Path, tmp_path: Path) -> Callable[[Interpreter], Home]:
    """New homes."""
    made: list[Home] = []

    def new(interpreter: Interpreter) -> Home:
        assert interpreter.path
        made.append(Home(tmp_path / f"home-{len(made)}", wheel, interpreter.path))
        return made[-1]

    return new
