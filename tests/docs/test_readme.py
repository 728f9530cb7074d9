"""README and the files beside it say what is there: settings, commands, targets, keys, and examples that work."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest

from service.cli import main
from service.ledger import wire
from service.settings import ANTHROPIC, VARIABLES, ZAI, Provider, load
from tests.docs.settings_pages import (
    ENV_DOCKER_EXAMPLE,
    ENV_EXAMPLE,
    README,
    ROOT,
    env_docker_example,
    env_example,
    with_settings,
)
from tests.fakes import FakeProvider

if TYPE_CHECKING:
    from pathlib import Path

TEXT = README.read_text(encoding="utf-8")
KEYS_OF_ROUTES = (wire.events_key, wire.snapshot_key, wire.route_key)
LOCKS = ("requirements.lock", "requirements-dev.lock")

# Spelled in parts, so that this file does not find itself.
MACHINE_PATHS = re.compile("|".join(("/" + "root/", "/" + "work/", "/" + "home/[a-z]", "/" + "Users/[A-Za-z]")))
REGISTRIES = re.compile(
    "|".join(("pypi" + r"\.org", "python" + "hosted", "npm" + r"js\.", "--(extra-)?index" + "-url"))
)


def blocks(language: str) -> list[str]:
    """The code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


def test_settings_are_those_of_the_code() -> None:
    """README's tables and .env.example are what `make docs` writes, so that every variable stands in both."""
    assert with_settings(TEXT) == TEXT, "run `make docs`"
    assert ENV_EXAMPLE.read_text(encoding="utf-8") == env_example(), "run `make docs`"
    docker = ENV_DOCKER_EXAMPLE.read_text(encoding="utf-8")
    assert docker == env_docker_example(docker), "run `make docs`"


def test_env_example_has_every_variable_once() -> None:
    """In the order of VARIABLES, each commented out, so that the file changes nothing before it is edited."""
    found = re.findall(r"^#([A-Z][A-Z0-9_]*)=", ENV_EXAMPLE.read_text(encoding="utf-8"), re.MULTILINE)
    assert found == [variable.name for variable in VARIABLES]


def test_env_example_is_valid_when_uncommented(tmp_path: Path) -> None:
    """The defaults that it shows are accepted, and are the defaults."""
    text = re.sub(r"^#([A-Z])", r"\1", ENV_EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    pairs = [line.partition("=") for line in text.splitlines() if re.match("[A-Z]", line)]
    variables = {name: value for name, _, value in pairs} | {"CCPROXY_HOME": str(tmp_path)}
    # These three mean something by being set at all.
    for name in ("CLAUDE_CREDENTIALS_PATH", "REDIS_URL", "DB_HOST", "DB_PORT", "DB_NAME", "DB_USER", "DB_PASSWORD"):
        del variables[name]
    assert load(environ=variables) == load(environ={"CCPROXY_HOME": str(tmp_path)})


def test_every_command_is_named() -> None:
    """The table of commands is the list of commands."""
    table = re.findall(r"^\| `ccproxy ([a-z-]+)` \|", TEXT, re.MULTILINE)
    assert sorted(table) == main.list_commands(click.Context(main))


def test_targets_exist() -> None:
    """Every `make` that README or .ci/run runs names a target."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    commands = "\n".join([*blocks("sh"), *re.findall(r"`(make [^`\n]+)`", TEXT)])
    commands += (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    named = set(re.findall(r"^(?:\S+=\S+ |env -u \S+ )*make ([a-z-]+)", commands, re.MULTILINE))
    assert {"up", "dev", "test", "lock", "docs"} <= named <= targets


def test_redis_keys_are_those_of_the_ledger() -> None:
    """What README asks of Redis are keys that the code writes."""
    known = {key(route) for key in KEYS_OF_ROUTES for route in ("anthropic", "zai")}
    known |= {wire.STREAMS_KEY, f"{wire.REPLICA_PREFIX}*"}
    named = {key.strip("'") for key in re.findall(r"'?ccproxy:[^\s]+", "".join(blocks("sh")))}
    assert named == known - {key("zai") for key in KEYS_OF_ROUTES if key is not wire.route_key}


def test_the_toml_example_loads(tmp_path: Path) -> None:
    """All its routes are there, in order, and on once they have their keys."""
    (example,) = blocks("toml")
    file = tmp_path / "ccproxy.toml"
    file.write_text(example, encoding="utf-8")
    names = re.findall(r'api_key_env = "(\w+)"', example)
    settings = load(file, dict.fromkeys(names, "a key") | {"CCPROXY_HOME": str(tmp_path)})
    assert [route.id for route in settings.routes] == ["work", "own", "subscription", "zai", "house"]
    assert [route.off for route in settings.routes] == [None] * 5
    assert settings.policy.warning_percent == 85
    assert settings.prices.prices["house-large"].output == 8


@pytest.mark.parametrize("provider", [ANTHROPIC, ZAI], ids=lambda provider: provider.id)
def test_model_maps_are_told_as_they_are(provider: Provider) -> None:
    """Each pattern of the built-in maps, and what it becomes."""
    section = TEXT.partition("### Models")[2].partition("###")[0]
    names = {*provider.model_map, *provider.model_map.values()}
    assert {name for name in names if f"`{name}`" not in section} == set()


def test_the_python_example_runs(tmp_path: Path) -> None:
    """As it stands, but for the provider's address and a free port."""
    (example,) = blocks("python")
    with FakeProvider("anthropic", keys={"sk-ant-..."}) as fake, socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        taken.close()
        example = example.replace('api_key="sk-ant-..."', f'api_key="sk-ant-...", base_url="{fake.base_url}"')
        example = example.replace("port=4190", f"port={port}")
        environ = {"HOME": str(tmp_path), "PATH": os.defpath}
        command = [sys.executable, "-W", "error", "-c", example]
        done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert any(line.startswith("claude-opus") for line in done.stdout.splitlines()), done.stdout
        assert len(fake.requests_to("/v1/messages")) >= 1


def test_links_lead_somewhere() -> None:
    """Files that README names by a link exist."""
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_have_a_hash_for_every_package_and_no_address(lock: str) -> None:
    """A lock installs the same bytes from whatever registry the machine is set to."""
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert "://" not in text
    packages = re.split(r"\n(?=[a-z])", text.strip())
    assert [package.split()[0] for package in packages if "--hash=sha256:" not in package] == []


def test_the_development_lock_has_all_that_runs() -> None:
    """In the same versions: what is tested is what is installed."""
    run, develop = (
        set(re.findall(r"^[a-z0-9-]+==\S+", (ROOT / lock).read_text(encoding="utf-8"), re.MULTILINE)) for lock in LOCKS
    )
    assert run < develop


@pytest.mark.parametrize(("what", "pattern"), [("machine", MACHINE_PATHS), ("registry", REGISTRIES)])
def test_no_file_knows_a_machine_or_a_registry(what: str, pattern: re.Pattern[str]) -> None:
    """A path of one developer's machine, or a registry's address, is of no use to anybody else."""
    found = [
        f"{name}: {line.strip()}"
        for name in project_files()
        for line in (ROOT / name).read_text(encoding="utf-8", errors="replace").splitlines()
        if pattern.search(line)
    ]
    assert found == [], what


def project_files() -> list[str]:
    """The files of the project: those that git tracks, or, where there is no git, those of its folders."""
    git = shutil.which("git")
    if git and (ROOT / ".git").exists():
        answer = subprocess.run([git, "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            return [name for name in answer.stdout.splitlines() if (ROOT / name).is_file()]
    folders = ("service", "workers", "tests", ".ci")
    paths = [*ROOT.glob("*.*"), *(path for folder in folders for path in (ROOT / folder).rglob("*.*"))]
    return [str(path.relative_to(ROOT)) for path in paths if path.is_file() and path.suffix != ".pyc"]
