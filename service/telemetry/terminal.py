"""Safe terminal output: everything that a command prints goes through here, so that untrusted text is always escaped.

`echo` prints a line, `echo_json` a value for scripts. An escape sequence or a line break in a text is shown, not
interpreted (`safe_text`). Not here: tables (`safe_console`), the log (`log`), and what is printed.
"""

import os
from traceback import format_exception
from types import TracebackType

import click
import msgspec

from service.telemetry.safe_text import visible, visible_json


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
