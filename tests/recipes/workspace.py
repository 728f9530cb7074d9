"""A reader's folder: a recipe's files and packages, and its commands typed there. Not here: what they should do."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from service.embedded.managed_process import ManagedProcess
from tests.recipes.packages import environment, node, node_modules
from tests.support import claude_code

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tests.recipes.page import Recipe

RUN_S = 200
IN_FOLDER = 'cd "$1" && exec >out 2>errors'
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
    """How commands ended (None: they had to be killed), and what they printed."""

    status: int | None
    out: str
    errors: str

    def check(self, seen: str) -> None:
        """They ended well, and printed this, whatever the white space."""
        assert self.status == 0, self
        assert seen.split()
        assert " ".join(seen.split()) in " ".join(self.out.split()), self


class Workspace:
    """A folder with a recipe's files, where some programs are on the PATH."""

    def __init__(
        self, folder: Path, recipe: Recipe, programs: Mapping[str, Path], variables: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.recipe = recipe
        for name, text in recipe.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        home = folder / "home"
        home.mkdir()
        path = os.pathsep.join(map(str, self._path(dict(programs))))
        self.environ = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        self.environ |= OF_THE_TEST | {"HOME": str(home), "PATH": path} | dict(variables or {})

    def type(self, commands: Iterable[str]) -> Said:
        """What commands say, typed one after the other until one fails; what they left running is ended with them."""
        script = "\n".join([IN_FOLDER, *commands])
        process = ManagedProcess(["/bin/bash", "-e", "-c", script, "bash", self.folder], environ=self.environ)
        status = process.wait(RUN_S)
        if status is None:
            process.kill()
        return Said(status, *((self.folder / name).read_text(encoding="utf-8") for name in ("out", "errors")))

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
