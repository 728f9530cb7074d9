"""Terminal commands, a module per group, loaded on demand.

They join `ccproxy` as entry points, like those of the workers. Shared functions are here. Not here: data (`console`,
`fleet`).
"""

from pathlib import Path

import click

from service.errors import SettingsError
from service.settings import Settings, load

config_option = click.option(
    "--config", type=click.Path(path_type=Path), help="TOML file with settings; overrides CCPROXY_CONFIG."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def with_settings(path: Path | None, *, to_serve: bool = False) -> Settings:
    """Load the settings; an error ends the command with its message."""
    try:
        return load(path, to_serve=to_serve)
    except SettingsError as error:
        raise click.ClickException(error.message) from None
