"""A reader's folder: a recipe's files and packages, and its commands typed there. Not here: what they should do."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from tests.recipes.packages import environment, node, node_modules
from tests.support import claude_code
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tests.recipes.page import Recipe

RUN_S = 200
PASSED_ON = ("LANG", "TMPDIR")
OF_THE_TEST = {
    # Nothing is asked of other hosts, and nothing of its own is updated.
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
    "OPENCODE_DISABLE_AUTOUPDATE": "1",
    "OPENCODE_DISABLE_MODELS_FETCH": "1",
    # Claude Code refuses some modes to root without it.
    "IS_SANDBOX": "1",
}


class Said(NamedTuple):
    """How commands ended, and what they printed."""

    status: int
    out: str
    errors: str

    def check(self, seen: str) -> None:
        """They ended well, and printed this, whatever the white space."""
        assert self.status == 0, self
        assert seen.split()
        assert " ".join(seen.split()) in " ".join(self.out.split()), self


class Workspace:
    """A folder with a recipe's files, where some programs are on the PATH; what still runs at the end is ended."""

    def __init__(
        self, folder: Path, recipe: Recipe, programs: Mapping[str, Path], variables: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.recipe = recipe
        self._groups: list[int] = []
        for name, text in recipe.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        home = folder / "home"
        home.mkdir()
        path = os.pathsep.join(map(str, self._path(dict(programs))))
        self.environ = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        self.environ |= OF_THE_TEST | {"HOME": str(home), "PATH": path} | dict(variables or {})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for group in self._groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGTERM)
                eventually(partial(is_gone, group))

    def type(self, commands: Iterable[str], **variables: str) -> Said:
        """What commands say, typed one after the other until one fails. What they left in the background runs on."""
        shell = subprocess.Popen(
            ["/bin/bash", "-e", "-c", "\n".join(commands)],
            cwd=self.folder,
            env=self.environ | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        self._groups.append(shell.pid)
        with shell:
            try:
                out, errors = shell.communicate(timeout=RUN_S)
            except BaseException:
                os.killpg(shell.pid, signal.SIGKILL)
                raise
        return Said(shell.returncode, out, errors)

    def _path(self, programs: dict[str, Path]) -> Iterable[Path]:
        """Where programs are found: those given, the recipe's packages, the machine's."""
        folder = self.folder / "programs"
        yield from (folder, self.folder / "bin")
        if names := self.recipe.packages("pip"):
            yield environment(names) / "bin"
        if names := self.recipe.packages("npm"):
            modules = node_modules(names)
            (self.folder / "node_modules").symlink_to(modules)
            programs |= {"node": node(), "opencode": opencode(modules)}
        yield from (Path("/usr/bin"), Path("/bin"))
        folder.mkdir()
        for name, program in programs.items():
            (folder / name).symlink_to(program)


def installed_programs() -> dict[str, Path]:
    """What recipes take for installed: this checkout's command, and Claude Code."""
    return {"claude": claude_code.install(), "ccproxy": Path(sys.executable).with_name("ccproxy")}


def machines_program(name: str) -> Path:
    """A program of the machine, or of the development environment."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert found, f"{name} is not installed"
    return Path(found)


def opencode(modules: Path) -> Path:
    """Its binary, which a script that we don't run would link."""
    machine = claude_code.MACHINES.get(platform.machine().lower(), platform.machine())
    return modules / f"opencode-{sys.platform}-{machine}" / "bin" / "opencode"


def is_gone(group: int) -> bool:
    """Whether a group of processes has ended."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False
