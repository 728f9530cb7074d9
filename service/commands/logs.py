"""`ccproxy logs`: logs of the servers and the worker of `ccproxy up`. Not here: the proxy's own log.

Reads files only; nothing needs to run. `--follow` continues with the new file after a rotation.
"""

import os
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

import click

from service.commands import config_option, with_settings
from service.telemetry.options import NumberOption
from service.telemetry.terminal import echo

POLL_S = 0.2
MAX_LINE_BYTES = 1 << 20
"""Longer lines are shown in parts."""
COLOURS = ("cyan", "magenta", "green", "yellow", "blue")


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("-f", "--follow", is_flag=True, help="Keep printing new lines.")
@click.option(
    "-n", "--lines", default=20, show_default=True, type=NumberOption(0, 100_000), help="Number of past lines."
)
@config_option
def logs(names: tuple[str, ...], lines: int, config: Path | None, *, follow: bool) -> None:
    """Show the logs of `ccproxy up`: worker, postgres, valkey, migrate; default: all."""
    folder = with_settings(config).home / "logs"
    with ExitStack() as stack, suppress(KeyboardInterrupt):
        show([stack.enter_context(Followed(path)) for path in selected_files(folder, names)], lines, follow=follow)


def show(files: "list[Followed]", lines: int, *, follow: bool) -> None:
    """Show the last lines of the files, then new ones."""
    width = max(len(file.name) for file in files)
    marks = {
        file.name: click.style(f"{file.name:<{width}} ", fg=COLOURS[i % len(COLOURS)]) for i, file in enumerate(files)
    }
    for file in files:
        for line in file.last(lines):
            echo(line.expandtabs(), mark=marks[file.name])
    while follow:
        for file in files:
            for line in file.news():
                echo(line.expandtabs(), mark=marks[file.name])
        time.sleep(POLL_S)


def selected_files(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """Return the selected files."""
    there = {path.stem: path for path in sorted(folder.glob("*.log"))}
    if not there:
        raise click.ClickException(f"no logs in {folder}; `ccproxy up` writes them to CCPROXY_HOME")
    for name in names:
        if name == "proxy":
            raise click.ClickException("the proxy logs to the terminal of `ccproxy up` or `ccproxy serve`")
        if name not in there:
            raise click.ClickException(f"no log {name!r}; available: {', '.join(there)}")
    return [there[name] for name in names or there]


class Followed:
    """A log file, read from its end on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.stem
        self._file = path.open("rb")
        self._begun = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def last(self, number: int) -> list[str]:
        """Return the last lines; `news` continues after them."""
        return list(deque(self._lines(), maxlen=number))

    def news(self) -> Iterator[str]:
        """Yield new lines."""
        yield from self._lines()
        if self._is_another():
            self._file.close()
            self._file = self.path.open("rb")
            yield from self._lines()

    def _lines(self) -> Iterator[str]:
        while piece := self._file.readline(MAX_LINE_BYTES):
            self._begun += piece
            if self._begun.endswith(b"\n") or len(self._begun) >= MAX_LINE_BYTES:
                line, self._begun = self._begun, b""
                yield line.decode(errors="replace").rstrip("\n")

    def _is_another(self) -> bool:
        """True if the file was replaced or truncated."""
        try:
            there = self.path.stat()
        except FileNotFoundError:
            return False  # rotated; the new file follows
        here = os.fstat(self._file.fileno())
        if (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino):
            return True
        return there.st_size < self._file.tell()
