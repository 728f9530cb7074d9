"""Safe terminal output: everything that a command prints goes through here, so that untrusted text is always escaped.

`echo` prints a line, `echo_json` a value for scripts, `SafeConsole` and `Text` tables and colours: rich, without its
markup. An escape sequence, a line break or `[red]` in a text is shown, not interpreted (`safe_text`). Not here: the log
(`log`), and what is printed.
"""

import os
from collections.abc import Iterable
from traceback import format_exception
from types import TracebackType
from typing import Any, Self

import click
import msgspec
import rich.text
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.style import Style

from service.telemetry.safe_text import visible, visible_json

PIPE_WIDTH = 10_000
"""Wider than any table; tables take what they need."""


def colour() -> bool | None:
    """Return click's colour option: None to detect the terminal, False if NO_COLOR is set."""
    return False if os.environ.get("NO_COLOR") else None


def echo(line: str = "", *, mark: str = "", err: bool = False) -> None:
    """Print one line. `mark` is printed before it unescaped, with the colours of `click.style`: never untrusted
    text."""
    click.echo(f"{mark}{visible(line)}", err=err, color=colour())


def echo_json(value: object) -> None:
    """Print a value as one line of JSON."""
    click.echo(visible_json(msgspec.json.encode(value).decode()))


def echo_own(text: str, *, end: str = "\n") -> None:
    """Print lines that are escaped already, or contain no untrusted text."""
    click.echo(text + end, nl=False)


def show_exception(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Print an uncaught exception like Python does, with its message escaped; for `sys.excepthook`."""
    for line in "".join(format_exception(kind, error, traceback)).splitlines():
        echo(line, err=True)


class Text(rich.text.Text):
    """Styled text for a `SafeConsole`: one line, escaped."""

    def __init__(self, text: str = "", style: str | Style = "", **options: Any) -> None:
        super().__init__(visible(text), style, **options)

    def append(self, text: "rich.text.Text | str", style: str | Style | None = None) -> Self:
        """Append text, or styled text."""
        super().append(visible(text) if isinstance(text, str) else text, style)
        return self


class SafeConsole(Console):
    """A rich console without markup, emoji names and highlighting, that prints no control characters.

    A pipe has no edge: nothing is wrapped or cut there, unless `width` is given.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False} | options)
        if not self.is_terminal and "width" not in options:
            self.width = PIPE_WIDTH

    def render_str(self, text: str, **options: Any) -> rich.text.Text:
        """Convert a plain string, such as a table's cell, to one line of text."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render segments; escapes text that did not come through `Text`."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield segment._replace(text="\n".join(map(visible, segment.text.split("\n"))))
