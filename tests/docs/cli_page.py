"""`docs/cli.md`, made from the commands themselves: each with its usage, its help and its options."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING

import click

from service.cli import main
from tests.docs.pages import DOCS

if TYPE_CHECKING:
    from collections.abc import Iterator

CLI_PAGE = DOCS / "cli.md"
HEAD = """\
# Commands

<!-- Generated from the commands' help by `make docs`. Don't edit. -->

After `make up` in a checkout, the command is `.venv/bin/ccproxy`. Every command takes `-h` or `--help`.
Shell completion: [`ccproxy completion`](#ccproxy-completion).
"""


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command and sub-command with its full name, parents first."""
    yield from _below("ccproxy", main)


def _below(name: str, group: click.Group) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group, info_name=name)
    for child in group.list_commands(context):
        command = group.get_command(context, child)
        if command is None or command.hidden:
            continue
        yield f"{name} {child}", command
        if isinstance(command, click.Group):
            yield from _below(f"{name} {child}", command)


def cli_page() -> str:
    """The whole page."""
    found = list(commands())
    rows = [f"| [`{name}`](#{name.replace(' ', '-')}) | {cell(summary(command))} |" for name, command in found]
    table = "\n".join(["| command | what it does |", "|---|---|", *rows])
    return "\n".join([HEAD, table, "", *(section(name, command) for name, command in found)])


def section(name: str, command: click.Command) -> str:
    """One command."""
    level = "##" if name.count(" ") == 1 else "###"
    context = click.Context(command, info_name=name)
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    parts = [f"{level} {name}", prose(command.help or ""), f"```text\n{usage}\n```", options(command, context)]
    parts.append(prose(command.epilog or ""))
    return "\n\n".join(part for part in parts if part) + "\n"


def summary(command: click.Command) -> str:
    """The first sentence of a command's help."""
    return prose(command.help or "").split("\n\n")[0]


def prose(text: str) -> str:
    """Help as Markdown: paragraphs as one line each; what click must not rewrap is code."""
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(text)) if text else []
    return "\n\n".join(
        f"```text\n{inspect.cleandoc(paragraph.removeprefix(chr(8)))}\n```"
        if paragraph.startswith("\b")
        else " ".join(paragraph.split())
        for paragraph in paragraphs
    )


def options(command: click.Command, context: click.Context) -> str:
    """A table of a command's options, "" when it has none but --help."""
    records = [
        record
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option)
        and "--help" not in parameter.opts
        and (record := parameter.get_help_record(context))
    ]
    rows = [f"| `{names.replace('|', chr(92) + '|')}` | {cell(meaning)} |" for names, meaning in records]
    return "\n".join(["| option | meaning |", "|---|---|", *rows]) if rows else ""


def cell(text: str) -> str:
    """Text for a table's cell."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
