"""The product itself starts with what each pod is given: its commands run, up to what needs a server."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from click.testing import CliRunner
from psycopg.conninfo import conninfo_to_dict

from service.cli import main
from service.settings import SECRETS, Settings, load_for_workers
from service.settings.quantities import exact
from service.settings.redis_url import place_of
from tests.deploy.chart import COMPONENTS, Case, Container, of_kind, placed, pods, secret, started
from tests.deploy.chart_cases import CASES, EXAMPLES, OWN, PODS
from workers.postgres_address import direct_postgres_of, postgres_of

if TYPE_CHECKING:
    from pathlib import Path

Enter = Callable[[Container], None]
NAMES_A_FILE = re.compile(r"(?:^|[=:])(/[\w./-]+)")
PORT = 4181


class Reached(Exception):
    """A command has got through its options and settings; the next step needs a server."""

    def __init__(self, *what: Any) -> None:
        super().__init__(*what)
        self.what = what


@pytest.fixture(autouse=True)
def no_servers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Commands end where they would connect or listen, in a folder without `.env`."""

    def reached(*what: Any, **_named: Any) -> NoReturn:
        raise Reached(*what)

    monkeypatch.setattr("service.proxy.serve_forever", reached)
    monkeypatch.setattr("service.multiprocess.serve_together", reached)
    monkeypatch.setattr("service.fleet.control_stream.operator", reached)
    monkeypatch.setattr("workers.worker_command.WorkerProcess", reached)
    monkeypatch.setattr("workers.cli.connect", reached)
    monkeypatch.setattr("workers.worker_command.set_up", lambda *_: None)
    monkeypatch.setattr("workers.worker_command.keep_own_variables", lambda: None)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def enter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Enter:
    """Give this process the variables and files of a container; its folders lie below a temporary one."""

    def give(container: Container) -> None:
        environ = placed(container, tmp_path)
        for name in list(os.environ):
            monkeypatch.delenv(name)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)

    return give


def reached_by(words: list[str]) -> tuple[Any, ...]:
    """What a command was about to do. The assertion's message is what it said instead."""
    assert words[0] == "ccproxy"
    done = CliRunner().invoke(main, words[1:])
    assert isinstance(done.exception, Reached), f"{words}: {done.output or done.exception!r}"
    return done.exception.what


def commands(container: Container, folder: Path) -> list[list[str]]:
    """The commands that a container runs: the one, or those of its script, as a shell reads it."""
    if container.command[0] != "sh":
        return [container.command]
    stub = folder / "ccproxy"
    stub.write_text(f'#!/bin/sh\necho "ccproxy $*" >> {folder}/calls\necho a-key\n', encoding="utf-8")
    stub.chmod(0o755)
    environ = {"PATH": f"{folder}:/usr/bin:/bin"}
    said = subprocess.run(container.command, env=environ, capture_output=True, text=True, check=True, timeout=20).stdout
    assert re.search(r"^export ANTHROPIC_BASE_URL=https?://\S+ ANTHROPIC_AUTH_TOKEN=a-key$", said, re.MULTILINE)
    return [line.split() for line in (folder / "calls").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(("case", "component"), PODS)
def test_every_pod_starts(case: str, component: str, enter: Enter, tmp_path: Path) -> None:
    """Its command line is one, its settings are accepted without a notice, its files are where the settings say."""
    container = started(CASES[case], component)
    run = commands(container, tmp_path)
    enter(container)
    for words in run:
        for what in reached_by(words):
            if isinstance(what, Settings):
                assert what.notices == ()
                assert (what.port, what.loopback) == (PORT, False)
    assert {"proxy": [["ccproxy", "serve"]], "worker": [["ccproxy", "worker"]]}.get(component, run) == run
    named = [path for value in container.environ.values() for path in NAMES_A_FILE.findall(value)]
    below = tuple(f"{path.rpartition('/')[0]}/" for path in container.files)
    assert [path for path in named if path.startswith(below) and path not in container.files] == []
    assert container.environ["CCPROXY_HOME"].startswith(tuple(container.writable))


@pytest.mark.parametrize(("case", "component"), PODS)
def test_workers_have_no_secret_of_a_proxys(case: str, component: str) -> None:
    """No key of a provider and no token, whatever the values."""
    environ = started(CASES[case], component).environ
    servers = {"DATABASE_DIRECT_URL", "DATABASE_URL", "DB_PASSWORD", "REDIS_URL", "RQ_REDIS_URL"}
    others = {name for name in SECRETS if name not in servers and environ.get(name, "ledger") != "ledger"}
    others |= {name for name in environ if name.endswith("_KEY")}
    assert component == "proxy" or others == set()


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("case", CASES)
def test_numbers_are_written_as_numbers(case: str, component: str) -> None:
    """In plain digits, as the product reads them; Helm itself would write 2e+07."""
    values = CASES[case].values
    if (case, component) not in PODS:
        return
    environ = started(CASES[case], component).environ
    for name, value in values.get("settings", {}).items():
        if isinstance(value, bool):
            assert environ[name] == str(value).lower()
        elif isinstance(value, int | float):
            assert exact(environ[name]) == exact(repr(value).removesuffix(".0"))


@pytest.mark.parametrize("given", [20_000_000, "20000000", 2e7], ids=["int", "text", "float"])
def test_a_limit_is_what_was_meant(given: object, enter: Enter) -> None:
    """However the values have it, and in a variable of extraEnv too."""
    for values in (
        {"settings": {"ANTHROPIC_WEEKLY_LIMIT": given}},
        {"extraEnv": [{"name": "ANTHROPIC_WEEKLY_LIMIT", "value": given}]},
        {"proxy": {"extraEnv": [{"name": "ANTHROPIC_WEEKLY_LIMIT", "value": given}]}},
    ):
        case = OWN["a secret that is there"]
        enter(started(case._replace(values=case.values | values), "proxy"))
        (settings,) = reached_by(["ccproxy", "serve"])
        assert [route.weekly_tokens for route in settings.routes if route.id == "anthropic"] == [20_000_000]


def test_what_a_component_sets_stands_over_what_all_have() -> None:
    """A variable is there once, annotations and labels too."""
    found = {component: started(OWN["everything"], component).environ["LOG_LEVEL"] for component in COMPONENTS}
    assert found == {"proxy": "debug", "worker": "warn", "migrate": "warn"}
    for pod in pods(OWN["everything"].values).values():
        names = [entry["name"] for entry in pod["containers"][0]["env"]]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_variable_may_name_those_before_it(component: str) -> None:
    """extraEnv stays in its order: Kubernetes knows $(NAME) only below NAME."""
    password = {"name": "PGPASS", "valueFrom": {"secretKeyRef": {"name": "pg", "key": "password"}}}
    address = {"name": "DATABASE_URL", "value": "postgresql://u:$(PGPASS)@postgres/db"}
    name = {"name": "PGAPPNAME", "value": "$(DATABASE_URL)"}
    values = {
        "secrets": {"REDIS_URL": "redis://redis/0"},
        "extraEnv": [password, address],
        component: {"extraEnv": [name]},
    }
    environ = started(Case(values, (secret("pg", password="s3"),)), component).environ
    assert environ["PGAPPNAME"] == environ["DATABASE_URL"] == "postgresql://u:s3@postgres/db"


@pytest.mark.parametrize("component", ["worker", "migrate"])
def test_a_database_of_an_operators_secret(component: str, enter: Enter) -> None:
    """Its address has another name there; the chart's own entry gives way, as a name may stand there once."""
    container = started(EXAMPLES["egress-proxy"], component)
    enter(container)
    assert conninfo_to_dict(postgres_of(load_for_workers()).url)["host"] == "postgres.data"
    names = [entry["name"] for entry in pods(EXAMPLES["egress-proxy"].values)[component]["containers"][0]["env"]]
    assert names.count("DATABASE_URL") == 1


def test_a_teams_connections_are_verified(enter: Enter, tmp_path: Path) -> None:
    """Redis and Postgres are each checked by their CA, from the mounted Secret."""
    for component in COMPONENTS:
        enter(started(EXAMPLES["small-team"], component))
        settings = load_for_workers()
        assert settings.redis_url
        assert settings.redis_url.reveal().startswith("rediss://")
        assert f"ssl_ca_certs={tmp_path}/etc/ccproxy-ca/redis.crt" in settings.redis_url.reveal()
        if component != "proxy":
            parts = conninfo_to_dict(postgres_of(settings).url)
            assert (parts["sslmode"], parts["sslrootcert"]) == (
                "verify-full", f"{tmp_path}/etc/ccproxy-ca/postgres.crt",
            )  # fmt: skip


RESTRICTED = [
    (case, component)
    for case, component in PODS
    if CASES[case].values.get("networkPolicy", {}).get("egress", {}).get("enabled")
]


@pytest.mark.parametrize(("case", "component"), RESTRICTED)
def test_pods_may_connect_to_what_their_settings_name(case: str, component: str, enter: Enter) -> None:
    """By port: DNS and Redis all of them, Postgres no proxy, providers (or the proxy on the way) proxies alone."""
    rules = of_kind(CASES[case].values, "NetworkPolicy", f"-{component}")["spec"]["egress"]
    allowed = {(entry["protocol"], entry["port"]) for rule in rules for entry in rule["ports"]}
    enter(started(CASES[case], component))
    needed = {("UDP", 53), ("TCP", 53)}
    if component == "proxy":
        (settings,) = reached_by(["ccproxy", "serve"])
        needed |= {("TCP", port_of(os.environ.get("HTTPS_PROXY") or route.base_url)) for route in settings.routes}
    else:
        settings = load_for_workers()
        needed |= {("TCP", int(conninfo_to_dict(of(settings).url).get("port") or 5432)) for of in POSTGRES}
    redis = [settings.redis_url, *([settings.rq_redis_url] if settings.rq_redis_url else [])]
    needed |= {("TCP", port) for url in redis for _, port in place_of(url.reveal()).nodes}
    assert needed <= allowed
    assert component != "proxy" or ("TCP", 5432) not in allowed


POSTGRES = (postgres_of, direct_postgres_of)


def port_of(url: str) -> int:
    """The port of an address."""
    found = re.fullmatch(r"(https?)://[^/:]+(?::(\d+))?(?:/.*)?", url)
    assert found, url
    return int(found[2] or {"http": 80, "https": 443}[found[1]])
