"""Examples in the documentation and the example settings work as they stand."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from service.ledger import wire
from service.settings import ANTHROPIC, VARIABLES, ZAI, Provider, load
from tests.docs.pages import DOCS, ROOT, blocks, text_of
from tests.docs.settings_pages import ENV_EXAMPLE, env_docker_example, env_example
from tests.fakes import FakeProvider
from tests.support.containers import ENV_DOCKER_EXAMPLE

if TYPE_CHECKING:
    from pathlib import Path

KEYS_OF_ROUTES = (wire.events_key, wire.snapshot_key, wire.route_key)


def test_the_example_settings_are_up_to_date() -> None:
    """They are what `make docs` writes, so that every variable is in them."""
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


def test_redis_keys_are_those_of_the_ledger() -> None:
    """What the examples ask of Redis are keys that the code writes."""
    known = {key(route) for key in KEYS_OF_ROUTES for route in ("anthropic", "zai")}
    known |= {wire.STREAMS_KEY, f"{wire.REPLICA_PREFIX}*"}
    named = {key.strip("'") for key in re.findall(r"'?ccproxy:[^\s]+", "".join(blocks(DOCS / "redis-keys.md", "sh")))}
    assert named == known - {key("zai") for key in KEYS_OF_ROUTES if key is not wire.route_key}


def test_the_toml_example_loads(tmp_path: Path) -> None:
    """All its routes are there, in order, and on once they have their keys."""
    (example,) = blocks(DOCS / "toml.md", "toml")
    file = tmp_path / "ccproxy.toml"
    file.write_text(example, encoding="utf-8")
    names = re.findall(r'api_key_env = "(\w+)"', example)
    settings = load(file, dict.fromkeys(names, "a-key") | {"CCPROXY_HOME": str(tmp_path)})
    assert [route.id for route in settings.routes] == ["work", "own", "subscription", "zai", "house"]
    assert [route.off for route in settings.routes] == [None] * 5
    assert settings.policy.warning_percent == 85
    assert settings.prices.models["house-large"].speeds[""][0].rates.output == 8 * 10**9


@pytest.mark.parametrize("provider", [ANTHROPIC, ZAI], ids=lambda provider: provider.id)
def test_model_maps_are_told_as_they_are(provider: Provider) -> None:
    """Each pattern of the built-in maps, and what it becomes."""
    section = text_of(DOCS / "routing.md").partition("## Models")[2].partition("###")[0]
    names = {*provider.model_map, *provider.model_map.values()}
    assert {name for name in names if f"`{name}`" not in section} == set()


def test_the_python_example_runs(tmp_path: Path) -> None:
    """As it stands, but for the provider's address and a free port."""
    (example,) = blocks(DOCS / "embedding.md", "python")
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
