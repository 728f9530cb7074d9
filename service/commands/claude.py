"""`ccproxy claude`: configures Claude Code for the proxy, restores its settings, or starts it. Not here: its files."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import httpx

from service.commands import with_settings
from service.commands.claude_outcome import (
    SHELL,
    VariableSource,
    is_on,
    look_up,
    managed_folder,
    mends,
    obstacles,
    settings_paths,
    sources,
    with_source,
)
from service.commands.claude_settings import (
    BASE_URL,
    FEATURES,
    ClaudeError,
    claude_home,
    has_login,
    original_of,
    project_settings,
    read,
    restore,
    set_up,
    user_settings,
    variables,
)
from service.embedded.run_file import running
from service.embedded.screen import proxy_url
from service.telemetry.terminal import echo, echo_json

PROBE_S = 2.0
NOT_UP = "No proxy answers at {url} yet; start it with `ccproxy up`."
RESTORED = {
    "nothing": "{path} was not set up; nothing to restore.",
    "pristine": "{path} is restored.",
    "removed": "{path} is removed: it did not exist before the set-up.",
    "merged": "{path}: the previous variables are restored; other changes since the set-up are kept.",
}
Command = Callable[..., Any]


@click.group()
def claude() -> None:
    """Point Claude Code at the proxy, restore its settings, or start it."""


def connection_options(command: Command) -> Command:
    """Add the connection options to a command."""
    options = (
        click.option("--url", metavar="URL", help="The proxy's address; default: from the settings."),
        click.option(
            "--key", metavar="KEY", prompt=True, prompt_required=False, hide_input=True,
            help="A client key of the proxy; prompts for it if no value is given.",
        ),
        click.option("--keep-login", is_flag=True, help="Send the key in addition to Claude Code's own login."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


project_option = click.option("--project", is_flag=True, help="Only for the project in the current folder.")
dry_option = click.option("--dry-run", is_flag=True, help="Only print what would change.")


@claude.command("setup")
@connection_options
@project_option
@dry_option
@click.option(
    "--with",
    "features",
    multiple=True,
    type=click.Choice([*FEATURES, "none"]),
    help="Turn on what Claude Code leaves off behind a base URL; may be repeated. Default: asks in a terminal.",
)
def setup_claude(
    *, url: str | None, key: str | None, keep_login: bool, project: bool, dry_run: bool, features: tuple[str, ...]
) -> None:
    """Write the proxy's address into Claude Code's settings; everything else in them is kept.

    Exits with 1 if Claude Code would still not reach the proxy, and says what is in the way.
    """
    path = path_of(project=project)
    with errors_as_messages():
        wanted = required_variables(url, key, keep_login=keep_login)
        seen = with_source(seen_by_claude(os.environ), str(path), wanted)
        asked = features or (() if dry_run or original_of(path).exists() else asked_features())
        written = (
            wanted | mends(seen, wanted[BASE_URL]) | {FEATURES[name][0]: "1" for name in asked if name in FEATURES}
        )
        made = set_up(path, written, dry_run=dry_run)
    for change in made:
        echo(change.words)
    if not made:
        echo(f"{path} already points to the proxy.")
    elif dry_run:
        echo(f"Dry run: {path} is not changed.")
    else:
        echo(
            f"{path} is updated; the previous version is in {original_of(path).name}. "
            "`ccproxy claude restore` restores it."
        )
    check_outcome(with_source(seen, str(path), written), wanted)


def asked_features() -> tuple[str, ...]:
    """Ask for what Claude Code leaves off behind a base URL; in a script, nothing is asked."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return ()
    echo("Claude Code leaves some of its features off behind a base URL:")
    return tuple(name for name, (_, text) in FEATURES.items() if click.confirm(f"  {name}: {text}?", default=False))


def check_outcome(seen: list[VariableSource], wanted: Mapping[str, str]) -> None:
    """Say what keeps Claude Code from the proxy, and exit with 1 in that case."""
    found = obstacles(seen, wanted)
    for obstacle in found:
        echo(obstacle.text, err=True)
    warn_if_down(wanted[BASE_URL])
    if found:
        raise SystemExit(1)


@claude.command("status")
@click.option("--url", metavar="URL", help="The proxy's address; default: from the settings.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status_of_claude(*, url: str | None, as_json: bool) -> None:
    """Show whether Claude Code, started here, would reach the proxy. Exits with 1 if not."""
    expected = url or default_url()
    with errors_as_messages():
        seen = seen_by_claude(os.environ)
    address = look_up(seen, BASE_URL)
    found = obstacles(seen, {BASE_URL: expected})
    answers = is_up(expected)
    state = {
        "proxy_url": expected,
        "base_url": address.value if address else None,
        "base_url_from": address.place if address else None,
        "proxy_answers": answers,
        "obstacles": found,
        "features": {name: is_on(look_up(seen, variable)) for name, (variable, _) in FEATURES.items()},
        "reaches_proxy": address is not None and answers and not found,
    }
    if as_json:
        echo_json(state)
    else:
        print_status(state)
    if not state["reaches_proxy"]:
        raise SystemExit(1)


def print_status(state: Mapping[str, Any]) -> None:
    """Print the state for people."""
    for obstacle in state["obstacles"]:
        echo(obstacle.text)
    if state["base_url"] is None:
        echo("Claude Code is not set up; run `ccproxy claude setup`.")
    if not state["proxy_answers"]:
        echo(NOT_UP.format(url=state["proxy_url"]))
    if state["reaches_proxy"]:
        echo(f"Claude Code uses the proxy at {state['base_url']} ({state['base_url_from']}).")
    off = [name for name, on in state["features"].items() if not on]
    if off:
        echo(f"Off: {', '.join(off)}; `ccproxy claude setup --with NAME` turns them on.")


@claude.command("restore")
@project_option
@dry_option
def restore_claude(*, project: bool, dry_run: bool) -> None:
    """Restore Claude Code's settings to what they were before the first `setup`."""
    path = path_of(project=project)
    with errors_as_messages():
        how = restore(path, dry_run=dry_run)
    echo(("Dry run: " if dry_run and how != "nothing" else "") + RESTORED[how].format(path=path))


@claude.command("run", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@connection_options
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run_claude(*, url: str | None, key: str | None, keep_login: bool, arguments: tuple[str, ...]) -> None:
    """Start Claude Code with ARGUMENTS, using the proxy: `ccproxy claude run -- -p "Hello"`."""
    program = shutil.which("claude")
    if program is None:
        raise click.ClickException(
            "`claude` is not on the PATH; install Claude Code (`npm install -g @anthropic-ai/claude-code`)"
        )
    with errors_as_messages():
        wanted = required_variables(url, key, keep_login=keep_login)
        seen = with_source(seen_by_claude(os.environ), SHELL, wanted)
        env = wanted | mends(seen, wanted[BASE_URL])
        for obstacle in obstacles(with_source(seen, SHELL, env), wanted):
            echo(obstacle.text, err=True)
    warn_if_down(wanted[BASE_URL])
    try:
        os.execve(program, [program, *arguments], {**os.environ, **env})  # noqa: S606 - replaces this process
    except OSError as error:
        raise click.ClickException(f"{program} can't be started ({error.strerror})") from None


def required_variables(url: str | None, key: str | None, *, keep_login: bool) -> dict[str, str]:
    """Return the variables that Claude Code needs."""
    if keep_login and not key:
        raise click.UsageError("--keep-login requires --key")
    home = claude_home(os.environ)
    logged_in = has_login(home, read(user_settings(home)).settings, os.environ)
    return variables(url or default_url(), key, logged_in=logged_in, keep_login=keep_login)


def default_url() -> str:
    """Return the proxy's URL, from a running `ccproxy up` or the settings."""
    settings = with_settings(None)
    return running(settings.home).get("proxy_url") or proxy_url(settings)


def seen_by_claude(environ: Mapping[str, str]) -> list[VariableSource]:
    """Return all that Claude Code would read if it were started here. Raises ClaudeError."""
    return sources(settings_paths(claude_home(environ), Path.cwd(), managed_folder()), environ)


def is_up(url: str) -> bool:
    """True if the proxy answers at this address."""
    try:
        return httpx.get(f"{url.rstrip('/')}/livez", timeout=PROBE_S, trust_env=False).is_success
    except (httpx.HTTPError, httpx.InvalidURL):
        return False


def warn_if_down(url: str) -> None:
    """Say so if the proxy does not answer."""
    if not is_up(url):
        echo(NOT_UP.format(url=url), err=True)


def path_of(*, project: bool) -> Path:
    """Return the settings file to change."""
    return project_settings(Path.cwd()) if project else user_settings(claude_home(os.environ))


@contextmanager
def errors_as_messages() -> Iterator[None]:
    """Turn errors of Claude Code's files into error messages of the command."""
    try:
        yield
    except ClaudeError as error:
        raise click.ClickException(str(error)) from None
