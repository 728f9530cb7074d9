"""The command `ccproxy`: commands that start things or show their state.

Other commands join as entry points: those of `service.commands`, and those of the workers, so that neither package
imports the other.
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click
from msgspec.structs import asdict, replace

from service.commands import config_option, json_option, with_settings
from service.embedded.run_file import DEFAULT_REDIS_URL, running
from service.settings import Settings, SettingsError
from service.settings.redis_url import redis_address
from service.telemetry.safe_text import visible
from service.telemetry.terminal import echo, echo_json, show_exception
from service.version import product_version

GROUP = "ccproxy.commands"
LONGEST_SENTENCE = 200


class Commands(click.Group):
    """Own commands, and those of other packages."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names, sorted."""
        return sorted({*super().list_commands(ctx), *(point.name for point in entry_points(group=GROUP))})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by name; those of other packages are loaded on demand."""
        own = super().get_command(ctx, cmd_name)
        if own:
            return own
        found = next(iter(entry_points(group=GROUP, name=cmd_name)), None)
        command = found.load() if found else None
        return command if isinstance(command, click.Command) else None

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; its errors, and those in the settings, are one message, in which untrusted text is escaped."""
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            error.message = visible(error.message)  # type: ignore[misc]
            raise
        except SettingsError as error:
            raise click.ClickException(visible(str(error))) from None
        except OSError as error:
            if error.filename is None:  # a closed pipe, which click ends quietly, or no error of use
                raise
            raise click.ClickException(visible(f"{error.filename}: {error.strerror}")) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List all commands, each with its whole first sentence, which click would truncate."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, command.get_short_help_str(LONGEST_SENTENCE)) for name, command in commands if command]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(product_version(), prog_name="ccproxy")
def main() -> None:
    """A failover proxy with an exact usage ledger for Claude Code and every Messages API client."""
    sys.excepthook = show_exception


@main.command()
@config_option
@click.pass_context
def up(context: click.Context, config: Path | None) -> None:
    """Start everything on this machine: Postgres, Valkey, a worker and the proxy."""
    from service.commands.init import in_terminal, init, is_first_run
    from service.embedded.up import run

    settings = with_settings(config, to_serve=True)
    if in_terminal() and is_first_run(settings, config):
        context.invoke(init)
        settings = with_settings(config, to_serve=True)
    # For the children, which inherit the environment alone.
    if config:
        os.environ["CCPROXY_CONFIG"] = str(config.absolute())
    for name, value in (("CCPROXY_POSTGRES_BIN", settings.postgres_bin), ("CCPROXY_REDIS_BIN", settings.redis_bin)):
        if value:
            os.environ[name] = value
    sys.exit(run(settings))


@main.command()
@config_option
@click.option("--listener", type=int, hidden=True, help="Inherited listening socket (internal).")
@click.option("--started", type=int, hidden=True, help="Pipe for drain notifications (internal).")
def serve(config: Path | None, listener: int | None, started: int | None) -> None:
    """Run the proxy only; Redis is at REDIS_URL, workers run elsewhere."""
    settings = with_settings(config, to_serve=True)
    settings = replace(settings, redis_url=settings.redis_url or redis_address(DEFAULT_REDIS_URL).value)
    if settings.processes > 1 and listener is None:
        from service.multiprocess import serve_together

        sys.exit(serve_together(settings, config))
    from service.proxy import inherited, serve_forever

    if listener is None or started is None:
        sys.exit(serve_forever(settings))
    announced = started
    sys.exit(serve_forever(settings, inherited(settings, listener), lambda: announce(announced)))


def announce(pipe: int) -> None:
    """Tell the parent process that requests are served."""
    os.write(pipe, b"1")
    os.close(pipe)


@main.command()
@click.option("--live", is_flag=True, help="Send one smallest request to each route, and say what came of it.")
@click.option(
    "--record",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Keep what --live found in this file, without secrets and texts.",
)
@config_option
@json_option
def check(config: Path | None, record: Path | None, *, live: bool, as_json: bool) -> None:
    """Check settings, credentials, and logins to Redis and Postgres. Only --live sends requests to providers."""
    from service.commands.check import check_all
    from service.commands.terminal_views import show_findings
    from service.telemetry.safe_console import SafeConsole

    if record and not live:
        raise click.UsageError("--record needs --live")
    settings = with_settings(config)
    redis_url = settings.redis_url.reveal() if settings.redis_url else running(settings.home).get("redis_url")
    findings = asyncio.run(check_all(settings, redis_url, show_progress))
    if live:
        findings += ask_routes(settings, redis_url, record)
    if as_json:
        echo_json([asdict(finding) for finding in findings])
    else:
        show_findings(findings, SafeConsole())
    sys.exit(any(finding.ok is False for finding in findings))


def ask_routes(settings: Settings, redis_url: str | None, record: Path | None) -> list[Any]:
    """Send a request to each route; return the findings, and keep the results if asked to."""
    from service.commands import check_live

    echo(check_live.announcement(settings), err=True)
    results = asyncio.run(check_live.check_live(settings, redis_url))
    if record:
        try:
            check_live.record(record, results)
        except OSError as error:
            raise click.ClickException(f"{record}: {error.strerror or error}") from None
    return [check_live.finding_of(result) for result in results]


def show_progress(waiting: Sequence[str]) -> None:
    """Say on standard error what is still waited for."""
    echo(f"waiting for {', '.join(waiting)}", err=True)


@main.group()
def admin() -> None:
    """Access to the admin API and the dashboard."""


@admin.command("token")
@config_option
def admin_token(config: Path | None) -> None:
    """Print the admin token: ADMIN_TOKEN, or the one kept in CCPROXY_HOME, created if there is none."""
    from service.console.auth import kept_token

    settings = with_settings(config)
    try:
        echo(settings.admin_token.reveal() or kept_token(settings.home))
    except OSError as error:
        raise click.ClickException(f"{settings.home}: {error.strerror}; set ADMIN_TOKEN or CCPROXY_HOME") from None


if __name__ == "__main__":
    main()
