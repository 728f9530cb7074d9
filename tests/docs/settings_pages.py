"""The settings as `docs/settings.md`, `.env.example` and `.env.docker.example` show them, made from
`service.settings.VARIABLES`.

`make docs` (`generate`) writes them; a test fails when they are out of date. The first part of `.env.docker.example`,
which Docker Compose itself reads, is written by hand.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from service.settings import SECRETS, VARIABLES, Variable
from service.settings.setting import Section
from tests.support.containers import DOCKER_MARK, FIXED_IN_CONTAINERS, container_defaults

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
SETTINGS_PAGE = ROOT / "docs" / "settings.md"
ENV_EXAMPLE = ROOT / ".env.example"
BEGIN, END = "<!-- settings: make docs writes this part -->", "<!-- end of settings -->"
WIDTH = 118
HEADER = "| variable | default | values | meaning |\n|---|---|---|---|"

IN_CONTAINERS = {"REDIS_URL": "cc-redis, with its password"}
"""Defaults that docker-compose.yml gives by way of a file."""
HEAD = """\
# Every setting of Claude Code Proxy. Copy this file to .env, and uncomment what you want to change: .env is read from
# the folder in which ccproxy is started, and what the environment says goes first. docs/settings.md explains more.
"""


def sections() -> Iterator[tuple[str, list[Variable]]]:
    """The variables in their order, under their headings."""
    for section in Section:
        yield section.value, [variable for variable in VARIABLES if variable.section == section]


def settings_tables() -> str:
    """The tables between the two marks, and the list of secrets behind them."""
    tables = []
    for title, group in sections():
        rows = [row_of(variable) for variable in group]
        tables.append("\n".join([f"## {title}", "", HEADER, *rows]))
    return "\n\n".join([BEGIN, *tables, secrets_in_files(), END])


def row_of(variable: Variable) -> str:
    """A row of the tables."""
    default = f"`{variable.default}`" if variable.default else ""
    return f"| `{variable.name}` | {default} | {variable.allowed} | {variable.meaning} |"


def secrets_in_files() -> str:
    """The section about secrets in files, with their names."""
    names = ", ".join(f"`{name}`" for name in SECRETS)
    text = (
        "Each secret can be in a file instead, as Docker and Kubernetes provide them: "
        "`ANTHROPIC_API_KEY_FILE=/run/secrets/anthropic` is read if `ANTHROPIC_API_KEY` is not set. This works for "
        f"{names}, and the `api_key_env` of a route in the TOML file."
    )
    return "## Secrets in files\n\n" + textwrap.fill(text, 120, break_on_hyphens=False, break_long_words=False)


def env_example() -> str:
    """The file `.env.example`."""
    parts = [HEAD]
    for title, group in sections():
        parts.append(f"# ---- {title.replace('`', '')}\n")
        parts += [entry(variable) for variable in group]
    return "\n".join(parts)


def env_docker_example(by_hand: str) -> str:
    """The file `.env.docker.example`, of its part written by hand and the variables that containers take."""
    head, mark, _ = by_hand.partition(DOCKER_MARK)
    assert mark, ".env.docker.example has lost its mark"
    defaults = container_defaults() | IN_CONTAINERS
    parts = [head.rstrip("\n"), "", mark]
    for title, group in sections():
        found = [variable for variable in group if variable.name not in FIXED_IN_CONTAINERS]
        if found:
            parts.append(f"# ---- {title.replace('`', '')}\n")
            parts += [
                entry(variable._replace(default=defaults.get(variable.name, variable.default))) for variable in found
            ]
    return "\n".join(parts)


def entry(variable: Variable) -> str:
    """One variable: what it means, then the variable itself, with its default where that is a value."""
    name, default, allowed, meaning, *_ = variable
    value = "" if " " in default or default == "from DB_*" else default
    notes = [allowed] if allowed else []
    if default and not value:
        notes.append(f"default: {default}")
    words = f"{meaning} ({'; '.join(notes)})" if notes else meaning
    comment = textwrap.fill(words, WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
    return f"{comment}\n#{name}={value}\n"


def with_settings(text: str) -> str:
    """A page with the part between the marks written again."""
    found = re.search(f"{re.escape(BEGIN)}.*{re.escape(END)}", text, re.DOTALL)
    assert found, f"the page has lost its marks {BEGIN} and {END}"
    return text[: found.start()] + settings_tables() + text[found.end() :]
