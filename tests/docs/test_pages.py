"""The documentation is complete and true: links, commands, settings, metrics, keys, examples, generated pages."""

from __future__ import annotations

import re
import shlex
import tomllib
from typing import TYPE_CHECKING

import click
import pytest

from service.cli import main
from service.commands.claude_settings import BACKENDS, FEATURE_VARIABLES
from service.console import revoked_sessions as ended
from service.ledger import wire
from service.ledger.price_list import Price
from service.settings import SECRETS, VARIABLES, ModelLimits
from service.settings.failure_rules import FailureRule, WindowRule
from service.settings.files import File, ProviderFile, RouteFile
from tests.docs.cli_page import CLI_PAGE, cli_page, commands
from tests.docs.pages import DOCS, README, ROOT, anchors, blocks, links, name_of, pages, prose_of, text_of
from tests.docs.settings_pages import SETTINGS_PAGE, with_settings
from tests.docs.wire_page import WIRE_PAGE, wire_page
from tests.support.metric_names import METRICS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from msgspec import Struct

MOST_BYTES_OF_AN_IMAGE = 200_000
MOST_README_LINES = 200
HELP = ("-h", "--help")
EXTERNAL = ("http://", "https://", "mailto:")
PAGES = pages()
FOREIGN_VARIABLES = {
    "ANTHROPIC_AUTH_TOKEN", "NODE_ENV", "NO_PROXY", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_SERVICE_NAME",
    *BACKENDS, *FEATURE_VARIABLES,
}  # fmt: skip
"""Of Claude Code, of the original proxy, and of the libraries that read them."""
REDIS_KEYS = DOCS / "redis-keys.md"
OBSERVABILITY = DOCS / "observability.md"
MAKE = re.compile(r"(?:^|[|&;(]\s*|`)(?:\S+=\S+ |env -u \S+ )*make ([a-z][a-z-]*)", re.MULTILINE)
CCPROXY = re.compile(r"(?:^|[ `(])(?<!helm install )(?:\.venv/bin/)?(ccproxy [a-z][^`\n|;)]*)", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_works(page: Path) -> None:
    """Files and anchors exist; no link leads out of the project by a relative path."""
    assert [link for link in links(page) if not link.startswith(EXTERNAL) and not leads_somewhere(page, link)] == []


def leads_somewhere(page: Path, link: str) -> bool:
    """Whether a relative link's file and anchor exist, within the project."""
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.exists() or ROOT not in (target, *target.parents):
        return False
    return not anchor or anchor in anchors(target)


def test_every_page_is_in_the_index() -> None:
    """Each page of docs/ can be reached from its index, each decision from theirs."""
    for index in (DOCS / "README.md", DOCS / "decisions" / "README.md"):
        linked = {(index.parent / link.partition("#")[0]).resolve() for link in links(index)}
        assert {page for page in index.parent.glob("*.md") if page != index} <= linked


def test_generated_pages_are_up_to_date() -> None:
    """They are what `make docs` writes."""
    assert text_of(CLI_PAGE) == cli_page(), "run `make docs`"
    assert with_settings(text_of(SETTINGS_PAGE)) == text_of(SETTINGS_PAGE), "run `make docs`"
    assert text_of(WIRE_PAGE) == wire_page(), "run `make docs`"


def test_every_command_is_named() -> None:
    """Each command and sub-command has a heading."""
    headings = set(re.findall(r"^#+ (ccproxy .+)$", text_of(CLI_PAGE), re.MULTILINE))
    assert headings == {name for name, _ in commands()}


def test_every_setting_is_named() -> None:
    """Each has a row in the tables."""
    rows = re.findall(r"^\| `([A-Z_0-9]+)` \|", text_of(SETTINGS_PAGE), re.MULTILINE)
    assert rows == [variable.name for variable in VARIABLES]


def test_every_key_of_the_toml_file_is_named() -> None:
    """Each table and each key that is not an error there."""
    tables: list[type[Struct]] = [File, RouteFile, ProviderFile, Price, ModelLimits, FailureRule, WindowRule]
    keys = {key for table in tables for key in table.__struct_fields__}
    assert keys - set(re.findall(r"\w+", text_of(DOCS / "toml.md"))) == set()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_variables_in_prose_exist(page: Path) -> None:
    """What a page names in capitals is a setting, a variable of docker-compose.yml, or one of another program's."""
    known = {variable.name for variable in VARIABLES} | {f"{name}_FILE" for name in SECRETS} | FOREIGN_VARIABLES
    of_compose = set(re.findall(r"^#([A-Z_]+)=", text_of(ROOT / ".env.docker.example"), re.MULTILINE))
    named = set(re.findall(r"`([A-Z][A-Z0-9]*_[A-Z0-9_]+)`", text_of(page)))
    assert named - known - of_compose == set()


def test_the_security_page_is_about_settings_that_exist() -> None:
    """What it names in capitals is a setting, or a variable of docker-compose.yml; no bound and no list is left out."""
    known = {variable.name for variable in VARIABLES}
    of_compose = set(re.findall(r"^#([A-Z_]+)=", text_of(ROOT / ".env.docker.example"), re.MULTILINE))
    named = set(re.findall(r"`([A-Z][A-Z0-9]*_[A-Z0-9_]+)`", text_of(DOCS / "security.md")))
    assert named <= known | of_compose
    bounds = {name for name in known if name.startswith(("MAX_", "ALLOWED_"))}
    assert bounds - named == set(), "docs/security.md has a table of bounds"


def test_the_security_page_and_the_policy_are_linked() -> None:
    """A reporter finds one from README, and the other from there."""
    assert "SECURITY.md" in links(ROOT / "README.md")
    assert "docs/security.md" in links(ROOT / "SECURITY.md")


def test_every_metric_is_named() -> None:
    """The table has each metric with its labels, and no other."""
    rows = re.findall(r"^\| `(\w+)` \| \w+ \|([^|]*)\|", text_of(OBSERVABILITY), re.MULTILINE)
    expected = {name.removesuffix("_bucket"): labels - {"le"} for name, labels in METRICS.items()}
    assert {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows} == expected


def test_every_dependency_is_named() -> None:
    """Each package that pyproject.toml asks for has a reason, and no other has."""
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))
    wanted = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["otlp"]]
    wanted += [entry for group in project["dependency-groups"].values() for entry in group if isinstance(entry, str)]
    names = {re.split(r"[^\w.-]", entry, maxsplit=1)[0] for entry in wanted}
    cells = re.findall(r"^\| ([a-z][\w, -]*) \|", text_of(DOCS / "dependencies.md"), re.MULTILINE)
    assert {name for cell in cells if cell != "package" for name in cell.split(", ")} == names


def test_every_redis_key_is_named() -> None:
    """Whatever the code writes is part of the contract."""
    keys = {key("route") for key in route_keys()}
    keys |= {wire.STREAMS_KEY, wire.CHANGES_CHANNEL, wire.REPLICAS_KEY, wire.WORKERS_KEY, wire.FINGERPRINT_KEY}
    keys |= {wire.replica_key("REPLICA"), wire.resource_key("ID"), f"{ended.KEY_PREFIX}ID"}
    rows = re.findall(r"^\| `(ccproxy:\S+)` \|", text_of(REDIS_KEYS), re.MULTILINE)
    assert sorted(rows) == sorted(keys)


def route_keys() -> list[Callable[[str], str]]:
    """The functions that name a route's keys."""
    others = ("replica_key", "resource_key")
    return [key for name, key in vars(wire).items() if name.endswith("_key") and name not in others]


def test_the_readme_is_short() -> None:
    """A front page is read in a minute."""
    assert len(text_of(README).splitlines()) <= MOST_README_LINES


def test_targets_exist() -> None:
    """Each `make` that a page or .ci/run runs is a target; what everybody needs is named."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    texts = [*map(code_of, PAGES), (ROOT / ".ci" / "run").read_text(encoding="utf-8")]
    named = {target for text in texts for target in MAKE.findall(text)}
    assert {"up", "dev", "test", "lock", "docs"} <= named <= targets


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_source_files_exist(page: Path) -> None:
    """Each file of the project that a page names by its path is there."""
    named = re.findall(r"`((?:service|workers|tests|bench|deploy|\.ci)/[\w./-]*)`", prose_of(page))
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_names_in_source_files_exist(page: Path) -> None:
    """What a page says to be "in" one of these files is defined there."""
    named = re.findall(r"`(\w+)` in `((?:service|workers|tests|bench)/[\w./-]*)`", prose_of(page))
    missing = [
        (name, path)
        for name, path in named
        if not re.search(rf"^(?:async def|def|class) {name}\b|^{name}\b.* = ", (ROOT / path).read_text(), re.MULTILINE)
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_examples_exist(page: Path) -> None:
    """Each `ccproxy` that a page names is a command, and has the options that it is given."""
    if page == CLI_PAGE:
        return
    lines = CCPROXY.findall(code_of(page).replace("\\\n", " "))
    wrong = [line for line in lines if not is_command(line.split(" #")[0])]
    assert wrong == []


def code_of(page: Path) -> str:
    """A page's shell blocks, and what stands in backticks."""
    return "\n".join([*blocks(page, "sh"), *(f"`{code}`" for code in re.findall(r"`([^`\n]+)`", prose_of(page)))])


def is_command(line: str) -> bool:
    """Whether a line names a command of `ccproxy` and options that it has."""
    words = shlex.split(line, posix=True)[1:]
    command: click.Command = main
    while words and isinstance(command, click.Group):
        found = command.get_command(click.Context(command), words[0])
        if found is None:
            return words[0] == "--version" or words[0] in HELP or (command is not main and words[0].startswith("-"))
        command = found
        words = words[1:]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    given = [word.partition("=")[0] for word in words[: words.index("--") if "--" in words else None]]
    return all(word in known or word in HELP for word in given if word.startswith("-"))


def test_images_are_small() -> None:
    """A page loads quickly."""
    images = [file for file in (DOCS / "images").iterdir() if file.is_file()]
    assert images
    assert [file.name for file in images if file.stat().st_size > MOST_BYTES_OF_AN_IMAGE] == []
    shown = {(page.parent / link).resolve() for page in PAGES for link in links(page) if "/images/" in f"/{link}"}
    assert shown == set(images), "an image that no page shows"
