"""What `docker build` and `docker run` would do with the Dockerfile, in a plain folder, without Docker.

`python -m tests.deploy.image` (`make test-image`) runs every line of its build stage, then starts what the image
starts, in the image's environment, and asks its health check. Absolute paths of the image are put below a folder. Not
done here: what makes users and changes the machine (the RUN of the last stage).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
IMAGE_PATHS = re.compile(r"(?<![\w.])/(opt|src|var/lib/ccproxy|srv/ccproxy)\b")
BUILD_S, START_S = 300, 60
VERSION = "9.8.7"
"""What is given as the build argument, and has to be in the image."""
COMMANDS = ("worker", "migrate", "keys", "status", "backup")
"""What containers run besides the proxy: each loads what it needs, and the image lacks what only `up` needs."""


class Line(NamedTuple):
    """One instruction of a Dockerfile, its continuation lines joined."""

    word: str
    rest: str


def stages(text: str) -> list[list[Line]]:
    """The stages of a Dockerfile, each from its FROM on; what stands before the first is left out."""
    bare = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", "", bare)
    lines = [Line(*line.split(None, 1)) for line in joined.splitlines() if line.strip()]
    starts = [number for number, line in enumerate(lines) if line.word == "FROM"]
    return [lines[start:end] for start, end in zip(starts, [*starts[1:], len(lines)], strict=True)]


def variables(lines: list[Line]) -> dict[str, str]:
    """What ENV and ARG of a stage set."""
    pairs = [pair.partition("=") for line in lines if line.word in ("ENV", "ARG") for pair in shlex.split(line.rest)]
    return {name: value for name, equals, value in pairs if equals}


def exec_form(lines: list[Line], word: str) -> list[str]:
    """The arguments of a stage's CMD or HEALTHCHECK, which have to be in the exec form."""
    (rest,) = (line.rest for line in lines if line.word == word)
    arguments: list[str] = json.loads(rest[rest.index("[") :])
    return arguments


class Rehearsal:
    """The image's file system below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.build, self.image = stages(DOCKERFILE.read_text(encoding="utf-8"))

    def placed(self, text: str) -> str:
        """A text with the image's paths below the folder."""
        return IMAGE_PATHS.sub(lambda found: f"{self.folder}{found[0]}", text)

    def run_build_stage(self) -> None:
        """Every COPY and RUN of the build stage, as they stand."""
        place = self.folder
        environ = {name: os.environ[name] for name in ("HOME", "PATH") if name in os.environ}
        environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"
        # The one departure: what the machine has downloaded once is not downloaded again.
        environ |= variables(self.build) | {"PIP_NO_CACHE_DIR": "0", "VERSION": VERSION} | registry()
        for line in self.build:
            if line.word == "WORKDIR":
                place = Path(self.placed(line.rest))
                place.mkdir(parents=True)
            elif line.word == "COPY":
                copy(line.rest.split(), place)
            elif line.word == "RUN":
                command = self.placed(line.rest)
                print(f"RUN {command}", flush=True)  # noqa: T201 - a program's screen
                subprocess.run(["/bin/sh", "-ec", command], cwd=place, env=environ, check=True, timeout=BUILD_S)

    def run_environment(self, more: Mapping[str, str]) -> dict[str, str]:
        """The environment of a container."""
        return {name: self.placed(value) for name, value in variables(self.image).items()} | dict(more)

    @contextmanager
    def started(self, more: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
        """What the image starts, until the block ends; then it is told to stop, as `docker stop` does."""
        environ = self.run_environment(more)
        for name in ("HOME", "CCPROXY_HOME"):
            Path(environ[name]).mkdir(parents=True, exist_ok=True)
        program = subprocess.Popen(
            self.found(exec_form(self.image, "CMD"), environ),
            cwd=environ["CCPROXY_HOME"],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield program
        finally:
            program.terminate()
            program.wait(START_S)

    def healthy(self, more: Mapping[str, str]) -> bool:
        """What the image's health check says."""
        environ = self.run_environment(more)
        command = self.found(exec_form(self.image, "HEALTHCHECK"), environ)
        return subprocess.run(command, env=environ, capture_output=True, check=False, timeout=START_S).returncode == 0

    def run(self, *command: str) -> str:
        """What a command prints in the image's environment."""
        environ = self.run_environment({})
        done = subprocess.run(
            self.found([*command], environ), env=environ, check=True, capture_output=True, text=True, timeout=START_S
        )
        return done.stdout

    @staticmethod
    def found(command: list[str], environ: Mapping[str, str]) -> list[str]:
        """The command with its program as the image's PATH finds it."""
        program = shutil.which(command[0], path=environ["PATH"].partition(":")[0])
        assert program, f"{command[0]} is not in the image"
        return [program, *command[1:]]


def registry() -> dict[str, str]:
    """How this machine reaches its package registry, where that is set by the environment."""
    return {name: value for name, value in os.environ.items() if name.startswith("PIP_")}


def copy(arguments: list[str], place: Path) -> None:
    """A COPY from the context. What the context leaves out is left out here too, as far as it matters: byte code."""
    *sources, target = arguments
    for source in sources:
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, place / target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, place / target)


def main() -> None:
    """Build, start, ask, stop; the exit status says how it went."""
    with tempfile.TemporaryDirectory(prefix="ccproxy-image-") as folder:
        rehearsal = Rehearsal(Path(folder))
        rehearsal.run_build_stage()
        given = {"PROXY_HOST": "127.0.0.1", "PROXY_PORT": str(free_port()), "PROXY_API_KEYS": "0123456789abcdef"}
        for command in COMMANDS:
            rehearsal.run("ccproxy", command, "--help")
        assert rehearsal.run("ccproxy", "--version").endswith(f" {VERSION}\n")
        assert not rehearsal.healthy(given), "healthy before it was started"
        with rehearsal.started(given) as program:
            end = time.monotonic() + START_S
            while not (fine := rehearsal.healthy(given)) and program.poll() is None and time.monotonic() < end:
                time.sleep(0.2)
        log = program.stdout.read() if program.stdout else ""
        assert fine, log
        assert program.returncode == 0, log
    print("The image's lines install, start, answer and stop.")  # noqa: T201 - a program's screen


if __name__ == "__main__":
    main()
