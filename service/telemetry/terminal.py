"""Everything that a command prints goes through here, so that no command can forget what strangers may have written.

`echo` prints a line, `echo_json` a value for scripts, `SafeConsole` and `Text` tables and colours: rich, without its
markup. Text is text: an escape sequence, a line break or `[red]` in it is shown, not obeyed (`safe_text`).
Not here: the log (`log`), and what is printed.
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


def colour() -> bool | None:
    """What click is to do about colours: as the terminal can, and none at all where NO_COLOR is set."""
    return False if os.environ.get("NO_COLOR") else None


def echo(line: str = "", *, mark: str = "", err: bool = False) -> None:
    """Print one line. `mark` goes before it as it is, with the colours of `click.style`: never a stranger's text."""
    click.echo(f"{mark}{visible(line)}", err=err, color=colour())


def echo_json(value: object) -> None:
    """Print a value as one line of JSON."""
    click.echo(visible_json(msgspec.json.encode(value).decode()))


def echo_own(text: str, *, end: str = "\n") -> None:
    """Print a text of several lines that has been made safe already, or is all our own."""
    click.echo(text + end, nl=False)


def show_exception(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """For `sys.excepthook`: Python's own report of a fault, whose message may quote strangers."""
    for line in "".join(format_exception(kind, error, traceback)).splitlines():
        echo(line, err=True)


class Text(rich.text.Text):
    """Styled text for a `SafeConsole`: one line, every character seen."""

    def __init__(self, text: str = "", style: str | Style = "", **options: Any) -> None:
        super().__init__(visible(text), style, **options)

    def append(self, text: "rich.text.Text | str", style: str | Style | None = None) -> Self:
        """Add text, or styled text."""
        super().append(visible(text) if isinstance(text, str) else text, style)
        return self


class SafeConsole(Console):
    """A rich console that knows no markup, no emoji names and no highlighting, and prints no control character."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False} | options)

    def render_str(self, text: str, **options: Any) -> rich.text.Text:
        """A plain string, such as a table's cell, as text of one line."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What is about to be printed. The last net: a text that did not come through `Text` is escaped here."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield segment._replace(text="\n".join(map(visible, segment.text.split("\n"))))
