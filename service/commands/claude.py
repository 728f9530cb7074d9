"""`ccproxy claude`: configures Claude Code for the proxy, restores its settings, or starts it. Not here: its files."""

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from service.commands import with_settings
from service.commands.claude_settings import (
    BASE_URL,
    ClaudeError,
    claude_home,
    env_of,
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
from service.settings import port_of
from service.telemetry.terminal import echo

PROBE_S = 2.0
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
def setup_claude(*, url: str | None, key: str | None, keep_login: bool, project: bool, dry_run: bool) -> None:
    """Write the proxy's address into Claude Code's settings; everything else in them is kept."""
    path = path_of(project=project)
    with errors_as_messages():
        made = set_up(path, required_variables(url, key, keep_login=keep_login), dry_run=dry_run)
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
        env = required_variables(url, key, keep_login=keep_login)
        warn_if_unreachable(env[BASE_URL])
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


def warn_if_unreachable(url: str) -> None:
    """Warn about whatever prevents Claude Code from reaching the proxy."""
    home = claude_home(os.environ)
    for path in (user_settings(home), project_settings(Path.cwd())):
        other = env_of(read(path).settings).get(BASE_URL)
        if other not in (None, url):
            echo(f"{path} sets {BASE_URL} to {other}, which overrides this command's address.", err=True)
    try:
        socket.create_connection((urlsplit(url).hostname or "", port_of(url)), timeout=PROBE_S).close()
    except OSError:
        echo(f"Nothing is listening at {url} yet; start the proxy with `ccproxy up`.", err=True)


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
