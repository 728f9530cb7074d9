"""A first start, without Docker: the scripts of the one-shot services run for real, and their key opens the proxy."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError

from tests.deploy.test_compose import SERVICES, with_defaults
from tests.support.installation import Installation
from tests.support.messages import ask, client_of
from tests.support.metric_names import METRICS
from tests.support.ports import free_port
from tests.support.processes import environment
from tests.support.servers import program
from tests.support.waiting import eventually


def script(service: str) -> str:
    """What the shell of a service is told."""
    command: list[str] = SERVICES[service]["command"]
    assert command[:2] == ["sh", "-ec"]
    return with_defaults(command[2])


def run(text: str, environ: dict[str, str]) -> str:
    """What a script says, in an environment in which `python` and `ccproxy` are ours."""
    environ |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["/bin/sh", "-ec", text], env=environ, capture_output=True, text=True, check=False, timeout=90
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_services_share_is_made_up_once(tmp_path: Path) -> None:
    """Unless a password is given; what is there stays what it is."""
    for name in ("database", "metrics", "redis"):
        (tmp_path / name).mkdir()
    text = script("cc-secrets").replace("/run/ccproxy", str(tmp_path))
    password, token = tmp_path / "database" / "password", tmp_path / "metrics" / "token"
    run(text, {"POSTGRES_PASSWORD": ""})
    made = password.read_text(), token.read_text()
    assert all(re.fullmatch("[0-9a-f]{48}", one) for one in made)
    assert made[0] != made[1]
    run(text, {"POSTGRES_PASSWORD": ""})
    assert (password.read_text(), token.read_text()) == made
    run(text, {"POSTGRES_PASSWORD": "of $my own"})
    assert (password.read_text(), token.read_text()) == ("of $my own", made[1])


@pytest.mark.parametrize("password", ["", "own: '\"\\@/ ü$x"], ids=["made up", "given"])
def test_redis_asks_for_a_password(tmp_path: Path, password: str) -> None:
    """A real Redis, started as Compose starts it: without it nothing, with the proxy's address all."""
    for name in ("database", "metrics", "redis", "data"):
        (tmp_path / name).mkdir()
    run(script("cc-secrets").replace("/run/ccproxy", str(tmp_path)), {"REDIS_PASSWORD": password})
    service = SERVICES["cc-redis"]
    port = free_port()
    command = [part.replace("/run/ccproxy", str(tmp_path)) for part in service["command"]]
    command[0] = str(program("redis-server", "redis-server"))
    server = subprocess.Popen(
        [*command, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path / "data")],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        kind, check = service["healthcheck"]["test"]
        check = with_defaults(check).replace("/run/ccproxy", str(tmp_path)).replace("redis-cli", f"redis-cli -p {port}")
        assert kind == "CMD-SHELL"
        eventually(lambda: subprocess.run(["/bin/sh", "-c", check], capture_output=True, check=False).returncode == 0)
        address = (tmp_path / "redis" / "url").read_text().replace("cc-redis:6379", f"127.0.0.1:{port}")
        with Redis.from_url(address) as redis:
            assert redis.ping()
        with Redis(port=port) as redis, pytest.raises(AuthenticationError):
            redis.ping()
        (tmp_path / "redis" / "password").write_text("another")
        assert subprocess.run(["/bin/sh", "-c", check], capture_output=True, check=False).returncode != 0
    finally:
        server.kill()
        server.wait()


def test_the_first_start_issues_a_key_that_opens_the_proxy(tmp_path: Path) -> None:
    """Once: the line can be pasted; a second start says nothing; without the key nobody comes in."""
    text = script("cc-migrate")
    with Installation(tmp_path) as installation:
        environ = environment(tmp_path / "migrate", installation.addresses | {"PUBLISHED_PORT": "4181"})
        found = re.search(
            r"^export ANTHROPIC_BASE_URL=(\S+) ANTHROPIC_AUTH_TOKEN=(\S+)$", run(text, environ), re.MULTILINE
        )
        assert found
        assert found[1] == "http://127.0.0.1:4181"
        assert "ANTHROPIC_AUTH_TOKEN" not in run(text, environ)
        proxy = installation.start_proxy({"PROXY_API_KEYS": "ledger", "CLIENT_CREDENTIALS": "never"})
        with client_of(proxy.url) as client:
            assert ask(client, headers={"x-api-key": found[2]}).status_code == 200
            assert ask(client, headers={"x-api-key": found[2][:-1] + "#"}).status_code == 401
            told = client.get("/metrics")
        assert told.status_code == 200
        check_metrics(told.text)


def check_metrics(text: str) -> None:
    """The metrics of a real proxy are those that rules and board are written for, label for label."""
    types = dict(re.findall(r"^# TYPE (\S+) (\w+)$", text, re.MULTILINE))
    named = {f"{name}_bucket" if kind == "histogram" else name for name, kind in types.items() if is_ours(name)}
    assert named == set(METRICS)
    for name, labels in re.findall(r"^(\w+)\{([^}]*)\} ", text, re.MULTILINE):
        if name in METRICS:
            assert set(re.findall(r'(\w+)="', labels)) == METRICS[name], name


def is_ours(name: str) -> bool:
    """Not the time at which a counter began, nor what the library says of Python."""
    return name.startswith(("ccproxy_", "gen_ai_")) and not name.endswith("_created")
