"""The commands beyond starting things: each group in a module of its own, loaded when it is asked for.

They join `ccproxy` as entry points, as the workers' do. Here: what they share. Not here: facts and screens (`console`).
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
    """The settings; an error in them ends the command with its message."""
    try:
        return load(path, to_serve=to_serve)
    except SettingsError as error:
        raise click.ClickException(error.message) from None
