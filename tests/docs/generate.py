"""Writes all that is generated (`make docs`): pages of settings, commands and the wire, and example settings."""

from __future__ import annotations

from tests.docs.cli_page import CLI_PAGE, cli_page
from tests.docs.settings_pages import ENV_EXAMPLE, SETTINGS_PAGE, env_docker_example, env_example, with_settings
from tests.docs.wire_page import WIRE_PAGE, wire_page
from tests.support.containers import ENV_DOCKER_EXAMPLE

if __name__ == "__main__":
    SETTINGS_PAGE.write_text(with_settings(SETTINGS_PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    CLI_PAGE.write_text(cli_page(), encoding="utf-8")
    WIRE_PAGE.write_text(wire_page(), encoding="utf-8")
    ENV_EXAMPLE.write_text(env_example(), encoding="utf-8")
    ENV_DOCKER_EXAMPLE.write_text(env_docker_example(ENV_DOCKER_EXAMPLE.read_text(encoding="utf-8")), encoding="utf-8")
