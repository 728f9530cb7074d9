"""`ccproxy init`: writes the first `.env` from three questions, asked in a terminal only.

Not here: what the settings mean (`settings`), and Claude Code's files (`claude_settings`).
"""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import click

from service.errors import SettingsError
from service.private_files import opener
from service.settings import Settings, from_variables
from service.settings.variables import SECRETS
from service.telemetry.terminal import echo


class RouteChoice(NamedTuple):
    """A route that can be turned on with one variable; without `value`, the variable is a key to ask for."""

    words: str
    variable: str
    value: str = ""


ROUTES: Final[Mapping[str, RouteChoice]] = {
    "anthropic": RouteChoice("Anthropic's API, with a key", "ANTHROPIC_API_KEY"),
    "subscription": RouteChoice(
        "your own Claude subscription, with Claude Code's login", "CLAUDE_SUBSCRIPTION_ENABLED", "true"
    ),
    "zai": RouteChoice("Z.AI, with a key", "ZAI_API_KEY"),
}
CHOSEN = (*SECRETS, "CLAUDE_SUBSCRIPTION_ENABLED", "CCPROXY_CONFIG")
"""Whoever has set one of these has chosen already: credentials, addresses of servers, a file."""
KEY = re.compile(r"[!-&(-\[\]-~]+")
"""Printable ASCII without quotes and backslashes: what an HTTP header and a line of `.env` hold as it is."""
IN_A_SCRIPT = (
    "`ccproxy init` asks in a terminal. In a script, set variables instead, in the environment or in .env: "
    "{names}; .env.example and docs/settings.md have all of them"
)
HEAD = (
    "# Made by `ccproxy init`. Read by ccproxy where it is started in this folder; docs/settings.md has all settings.\n"
)


@click.command()
def init() -> None:
    """Ask which routes to use, with which keys, and write .env; in a terminal only."""
    if not in_terminal():
        raise click.UsageError(IN_A_SCRIPT.format(names=", ".join(route.variable for route in ROUTES.values())))
    path = Path(".env").absolute()
    if path.exists() and not click.confirm(f"{path} exists. Replace it? What it says now is lost."):
        raise click.ClickException(f"{path} is left as it is; edit it, or start in another folder")
    if write_answers(path):
        point_claude_here()
    echo("`ccproxy up` starts everything; `ccproxy check` looks at what is set.")


def in_terminal() -> bool:
    """True if somebody can be asked."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def is_first_run(settings: Settings, config: Path | None) -> bool:
    """True if nothing is set yet, in no place, and nothing has run before."""
    if config or any({name, f"{name}_FILE"} & os.environ.keys() for name in CHOSEN) or Path(".env").exists():
        return False
    return not settings.home.exists() or not any(settings.home.iterdir())


def write_answers(path: Path) -> bool:
    """Ask, and write what was answered; return whether Claude Code is to use the proxy."""
    variables = asked_variables(asked_routes())
    try:
        from_variables(variables)
    except SettingsError as error:
        raise click.ClickException(error.message) from None
    wants_claude = click.confirm("Point Claude Code at this proxy?")
    try:
        write(path, variables)
    except OSError as error:
        raise click.ClickException(f"{path} can't be written: {error.strerror}") from None
    echo(f"{path} is written, for you alone to read.")
    return wants_claude


def point_claude_here() -> None:
    """Do what `ccproxy claude setup` does; what is in the way of it is said, and is no failure of ours."""
    from service.commands.claude import setup_claude

    try:
        click.get_current_context().invoke(setup_claude, features=("none",))
    except SystemExit:
        echo("Claude Code would not reach the proxy yet; `ccproxy claude status` shows why.", err=True)


def asked_routes() -> Sequence[str]:
    """Ask for routes; none is an answer too."""
    echo("Routes are tried in this order; when one fails or is used up, the next one serves:")
    for name, route in ROUTES.items():
        echo(f"  {name:13} {route.words}")
    none = "none: clients' own credentials are passed through to Anthropic"
    return click.prompt(
        f"Which routes, comma-separated? Enter for {none}", "", show_default=False, value_proc=routes_of
    )


def routes_of(answer: str) -> Sequence[str]:
    """Return the routes that an answer names, in their order. Raises click.UsageError."""
    named = {word for word in re.split(r"[\s,]+", answer.strip().lower()) if word}
    unknown = sorted(named - ROUTES.keys())
    if unknown:
        raise click.UsageError(f"there is no route {unknown[0]!r}; there are {', '.join(ROUTES)}")
    return [name for name in ROUTES if name in named]


def asked_variables(routes: Sequence[str]) -> dict[str, str]:
    """Ask for the keys of routes, without showing them; return the variables of all."""
    found = {}
    for name in routes:
        route = ROUTES[name]
        found[route.variable] = route.value or click.prompt(
            f"{route.variable} (is not shown)", hide_input=True, value_proc=key_of
        )
    return found


def key_of(answer: str) -> str:
    """Return a key as it was typed or pasted. Raises click.UsageError."""
    key = answer.strip()
    if not KEY.fullmatch(key):
        raise click.UsageError("a key has no spaces, quotes, backslashes or characters beyond ASCII; was it cut off?")
    return key


def write(path: Path, variables: Mapping[str, str]) -> None:
    """Write variables for their owner alone. Raises OSError."""
    lines = [f"{name}='{value}'\n" for name, value in variables.items()]
    with open(path, "w", encoding="utf-8", opener=opener) as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(HEAD + "".join(lines))
