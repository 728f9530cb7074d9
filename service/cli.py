"""The command `ccproxy`. Sub-commands of the workers join as entry points, so that neither house imports the other."""

import sys
from importlib.metadata import entry_points, version
from pathlib import Path

import click
from msgspec.structs import replace

from service.errors import SettingsError
from service.settings import Settings, load

GROUP = "ccproxy.commands"
DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"


class Commands(click.Group):
    """Own commands, and those that other packages bring."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, sorted."""
        return sorted({*super().list_commands(ctx), *(point.name for point in entry_points(group=GROUP))})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command by name; a foreign one is loaded only when it is asked for, or help lists it."""
        own = super().get_command(ctx, cmd_name)
        if own:
            return own
        found = next(iter(entry_points(group=GROUP, name=cmd_name)), None)
        command = found.load() if found else None
        return command if isinstance(command, click.Command) else None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("claude-code-proxy"), prog_name="ccproxy")
def main() -> None:
    """Relay Claude Code and every Messages API client along a chain of routes, and keep an exact ledger of it."""


def with_settings(path: Path | None) -> Settings:
    """The settings; an error in them ends the command with its message."""
    try:
        return load(path)
    except SettingsError as error:
        raise click.ClickException(error.message) from None


config_option = click.option(
    "--config", type=click.Path(path_type=Path), help="TOML file of settings, instead of CCPROXY_CONFIG."
)


@main.command()
@config_option
def up(config: Path | None) -> None:
    """Start everything on this machine: Postgres, Valkey, a worker and the proxy."""
    from service.embedded.up import run

    sys.exit(run(with_settings(config)))


@main.command()
@config_option
def serve(config: Path | None) -> None:
    """Serve the proxy alone; Redis is at REDIS_URL, workers run elsewhere."""
    from service.proxy import serve_forever

    settings = with_settings(config)
    sys.exit(serve_forever(replace(settings, redis_url=settings.redis_url or DEFAULT_REDIS_URL)))


if __name__ == "__main__":
    main()
