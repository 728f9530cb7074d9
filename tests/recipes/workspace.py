"""A reader's folder: a recipe's files and packages, and its commands typed there. Not here: what they should do."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.recipes.packages import environment, node, node_modules
from tests.support import claude_code

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tests.recipes.page import Recipe

RUN_S = 100
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


class Workspace:
    """A folder with a recipe's files, and the programs that its commands are about on the PATH."""

    def __init__(self, folder: Path, recipe: Recipe, variables: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.recipe = recipe
        for name, text in recipe.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        home = folder / "home"
        home.mkdir()
        self.environ = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        self.environ |= OF_THE_TEST | {"HOME": str(home), "PATH": os.pathsep.join(self._path())} | dict(variables or {})

    def type(self, commands: Iterable[str]) -> Said:
        """What commands say, typed one after the other until one fails; nothing of them runs on afterwards."""
        shell = subprocess.Popen(
            ["/bin/bash", "-e", "-c", "\n".join(commands)],
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        with shell:
            try:
                out, errors = shell.communicate(timeout=RUN_S)
            except BaseException:
                os.killpg(shell.pid, signal.SIGKILL)
                raise
        return Said(shell.returncode, out, errors)

    def _path(self) -> list[str]:
        """This checkout's commands come last: the recipe's own Python comes first."""
        programs = self.folder / "programs"
        programs.mkdir()
        (programs / "claude").symlink_to(claude_code.install())
        (programs / "ccproxy").symlink_to(Path(sys.executable).with_name("ccproxy"))
        found = [str(programs)]
        if names := self.recipe.packages("pip"):
            found.append(str(environment(names) / "bin"))
        if names := self.recipe.packages("npm"):
            modules = node_modules(names)
            (self.folder / "node_modules").symlink_to(modules)
            (programs / "node").symlink_to(node())
            if "opencode-ai" in names:
                (programs / "opencode").symlink_to(opencode(modules))
        return [*found, "/usr/bin", "/bin"]


def opencode(modules: Path) -> Path:
    """Its binary, which a script that we don't run would link."""
    machine = claude_code.MACHINES.get(platform.machine().lower(), platform.machine())
    return modules / f"opencode-{sys.platform}-{machine}" / "bin" / "opencode"
