"""The settings as `docs/settings.md`, `.env.example` and `.env.docker.example` show them, made from
`service.settings.VARIABLES`.

`make docs` (`generate`) writes them; a test fails when they are out of date. The first part of `.env.docker.example`,
which Docker Compose itself reads, is written by hand.
"""

from __future__ import annotations

import re
import textwrap
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from service.settings import VARIABLES, Variable
from tests.support.containers import DOCKER_MARK, FIXED_IN_CONTAINERS, container_defaults

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
SETTINGS_PAGE = ROOT / "docs" / "settings.md"
ENV_EXAMPLE = ROOT / ".env.example"
BEGIN, END = "<!-- settings: make docs writes this part -->", "<!-- end of settings -->"
WIDTH = 118

# A group begins with the variable named here, and goes on until the next one does.
GROUPS = {
    "PROXY_HOST": "The proxy and its clients",
    "ANTHROPIC_API_KEY": "Route `anthropic`",
    "CLAUDE_SUBSCRIPTION_ENABLED": "Route `subscription`",
    "ZAI_API_KEY": "Route `zai`",
    "QUOTA_WARNING_THRESHOLD": "Choosing routes and models",
    "API_TIMEOUT_MS": "Waits and limits",
    "CIRCUIT_BREAKER_ENABLED": "Circuits",
    "CONTEXT_WINDOW_ENABLED": "Context window",
    "REDIS_URL": "Redis and Postgres",
    "LOG_LEVEL": "Log",
    "CCPROXY_HOME": "Places",
    "SSL_CERT_FILE": "Network (read from the environment alone)",
}
IN_CONTAINERS = {"REDIS_URL": "cc-redis, with its password"}
"""Defaults that docker-compose.yml gives by way of a file."""
HEAD = """\
# Every setting of Claude Code Proxy. Copy this file to .env, and uncomment what you want to change: .env is read from
# the folder in which ccproxy is started, and what the environment says goes first. docs/settings.md explains more.
"""


def groups() -> Iterator[tuple[str, list[Variable]]]:
    """The variables in their order, under their headings."""
    rest = list(VARIABLES)
    while rest:
        title = GROUPS[rest[0].name]
        group = [rest[0], *takewhile(lambda variable: variable.name not in GROUPS, rest[1:])]
        rest = rest[len(group) :]
        yield title, group


def settings_tables() -> str:
    """The tables between the two marks."""
    tables = []
    for title, group in groups():
        rows = [f"| `{name}` | {f'`{default}`' if default else ''} | {meaning} |" for name, default, meaning in group]
        tables.append("\n".join([f"## {title}", "", "| variable | default | meaning |", "|---|---|---|", *rows]))
    return "\n\n".join([BEGIN, *tables, END])


def env_example() -> str:
    """The file `.env.example`."""
    parts = [HEAD]
    for title, group in groups():
        parts.append(f"# ---- {title.replace('`', '')}\n")
        parts += [entry(variable) for variable in group]
    return "\n".join(parts)


def env_docker_example(by_hand: str) -> str:
    """The file `.env.docker.example`, of its part written by hand and the variables that containers take."""
    head, mark, _ = by_hand.partition(DOCKER_MARK)
    assert mark, ".env.docker.example has lost its mark"
    defaults = container_defaults() | IN_CONTAINERS
    parts = [head.rstrip("\n"), "", mark]
    for title, group in groups():
        found = [variable for variable in group if variable.name not in FIXED_IN_CONTAINERS]
        if found:
            parts.append(f"# ---- {title.replace('`', '')}\n")
            parts += [
                entry(variable._replace(default=defaults.get(variable.name, variable.default))) for variable in found
            ]
    return "\n".join(parts)


def entry(variable: Variable) -> str:
    """One variable: what it means, then the variable itself, with its default where that is a value."""
    name, default, meaning = variable
    value = "" if " " in default or default == "from DB_*" else default
    words = f"{meaning} (default: {default})" if default and not value else meaning
    comment = textwrap.fill(words, WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
    return f"{comment}\n#{name}={value}\n"


def with_settings(text: str) -> str:
    """A page with the part between the marks written again."""
    found = re.search(f"{re.escape(BEGIN)}.*{re.escape(END)}", text, re.DOTALL)
    assert found, f"the page has lost its marks {BEGIN} and {END}"
    return text[: found.start()] + settings_tables() + text[found.end() :]
