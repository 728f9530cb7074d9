"""docker-compose.yml and what it mounts: the published schema, the promises, and every variable, both ways."""

from __future__ import annotations

import os
import re
import subprocess
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from service.edge.forwarded import is_in
from service.settings import SECRETS, VARIABLES, Secret, load
from service.settings.invoice import FOR_INVOICE
from tests.deploy.image import ROOT, stages, variables
from tests.deploy.judges import DEPLOY, judged, packaged
from tests.support.containers import DOCKER_MARK, ENV_DOCKER_EXAMPLE, FIXED_IN_CONTAINERS, container_defaults
from tests.support.servers import program

if TYPE_CHECKING:
    from pathlib import Path

FILE = ROOT / "docker-compose.yml"
TEXT = re.sub(r"^ *#.*", "", FILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("cc-proxy", "cc-worker", "cc-migrate")
KNOWN = {variable.name for variable in VARIABLES}
IMAGE = variables(stages((DEPLOY / "Dockerfile").read_text(encoding="utf-8"))[-1])
SOURCES = re.findall(r"source: (\S+)|- (\./[^:\s]+):", TEXT)


def interpolated(text: str) -> set[str]:
    """The variables that Compose itself replaces; `$$` is a dollar."""
    return set(re.findall(r"\$\{([A-Z_]+)", text.replace("$$", "")))


def with_defaults(text: str) -> str:
    """A text as Compose makes it where no variable is set."""
    text = text.replace("$$", "\0")
    while (made := re.sub(r"\$\{[A-Z_]+(?::-([^${}]*))?\}", r"\1", text)) != text:
        text = made
    return text.replace("\0", "$")


def composed(folder: Path, environ: dict[str, str]) -> dict[str, Any]:
    """What a real Compose makes of the file in this environment. It asks Podman for its version, and no more."""
    podman = folder / "podman"
    podman.write_text("#!/bin/sh\necho podman version 5.0.0\n", encoding="utf-8")
    podman.chmod(0o755)
    environ = environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    command = [str(packaged("podman-compose")), "--file", str(FILE), "config"]
    done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    services: dict[str, Any] = yaml.safe_load(done.stdout)["services"]
    return services


def explained() -> dict[str, str]:
    """The variables of the first part of .env.docker.example, with what they are said to be by default."""
    by_hand = ENV_DOCKER_EXAMPLE.read_text(encoding="utf-8").partition(DOCKER_MARK)[0]
    return dict(re.findall(r"^#([A-Z_]+)=(.*)$", by_hand, re.MULTILINE))


def test_the_defaults_are_those_that_are_explained(tmp_path: Path) -> None:
    """With every variable set as the example says, Compose makes the same of it as with none."""
    assert composed(tmp_path, explained()) == composed(tmp_path, {})


def test_variables_do_what_they_are_for(tmp_path: Path) -> None:
    """Ports, the address they are published on, numbers, versions, names, and the file on the host."""
    found = composed(
        tmp_path,
        {
            "BIND_ADDRESS": "192.0.2.1",
            "HOST_PROXY_PORT": "5001",
            "PROXY_PORT": "5002",
            "ADMINER_PORT": "5003",
            "PROXY_REPLICAS": "7",
            "POSTGRES_VERSION": "17",
            "DB_CONTAINER_NAME": "ours",
            "CLAUDE_CREDENTIALS_FILE": "/a folder/x.json",
        },
    )
    assert found["cc-balancer"]["ports"] == ["192.0.2.1:5001:4181"]
    assert found["cc-migrate"]["environment"]["PUBLISHED_PORT"] == "5001"
    assert found["cc-adminer"]["ports"] == ["127.0.0.1:5003:8080"]
    opened = composed(tmp_path, {"TOOLS_BIND_ADDRESS": "192.0.2.1"})
    assert (opened["cc-db"]["ports"], opened["cc-balancer"]["ports"]) == (
        ["192.0.2.1:5432:5432"],
        ["127.0.0.1:4181:4181"],
    )
    assert int(found["cc-proxy"]["deploy"]["replicas"]) == 7
    assert (found["cc-db"]["image"], found["cc-db"]["container_name"]) == ("postgres:17-alpine", "ours")
    assert "/a folder/x.json" in [volume["source"] for volume in found["cc-proxy"]["volumes"] if "source" in volume]
    assert composed(tmp_path, {"PROXY_PORT": "5002"})["cc-balancer"]["ports"] == ["127.0.0.1:5002:4181"]


@pytest.mark.parametrize("version", ["15.18", "18"])
def test_every_major_of_postgres_keeps_its_data_in_the_volume(tmp_path: Path, version: str) -> None:
    """From 18 on the image's default is another folder: it would not start, or not see what 15 has written."""
    found = composed(tmp_path, {"POSTGRES_VERSION": version})["cc-db"]
    assert f"postgres_data:{found['environment']['PGDATA']}" in found["volumes"]


def test_the_published_schema_is_content() -> None:
    """Compose's own, and that of what is left when the variables are replaced."""
    judged(packaged("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", FILE)


def test_services_go_by_the_names_that_users_know() -> None:
    """Those of the original, and ours beside them."""
    assert {"cc-proxy", "cc-db", "cc-adminer"} < set(SERVICES)
    assert {"cc-balancer", "cc-worker", "cc-migrate", "cc-redis"} < set(SERVICES)
    assert {name for name, service in SERVICES.items() if service.get("profiles") == ["monitoring"]} == {
        "cc-prometheus",
        "cc-grafana",
    }


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_ports_are_published_on_the_loopback(name: str) -> None:
    """Until BIND_ADDRESS says otherwise for clients, and TOOLS_BIND_ADDRESS for all that is not theirs."""
    variable = "BIND_ADDRESS" if name == "cc-balancer" else "TOOLS_BIND_ADDRESS"
    ports = [with_defaults(port) for port in SERVICES[name].get("ports", ())]
    assert all(port.startswith("127.0.0.1:") for port in ports), ports
    assert all(f"${{{variable}:-" in port for port in SERVICES[name].get("ports", ()))


def test_known_ports_and_versions_are_the_originals() -> None:
    """4181, 5432, 8080, Postgres 15."""
    found = {name: [with_defaults(port) for port in service.get("ports", ())] for name, service in SERVICES.items()}
    assert found["cc-balancer"] == ["127.0.0.1:4181:4181"]
    assert found["cc-db"] == ["127.0.0.1:5432:5432"]
    assert found["cc-adminer"] == ["127.0.0.1:8080:8080"]
    assert with_defaults(SERVICES["cc-db"]["image"]).startswith("postgres:15.")


@pytest.mark.parametrize("name", OURS)
def test_nothing_stands_over_the_env_file(name: str) -> None:
    """A setting that Compose interpolates under `environment` would silently be its default without --env-file."""
    values = SERVICES[name]["environment"].values()
    asked = {variable for value in values for variable in interpolated(str(value))}
    assert asked & KNOWN <= {"PROXY_PORT"}, "PROXY_PORT is the published port, which only Compose knows"
    own = (
        "${PROXY_ENV_FILE:-.env.docker}" if name == "cc-proxy" else "${WORKER_ENV_FILE:-${PROXY_ENV_FILE:-.env.docker}}"
    )
    assert [entry["path"] for entry in SERVICES[name]["env_file"]] == ["deploy/compose.env", own]
    assert with_defaults(own) == ".env.docker"


@pytest.mark.parametrize("name", OURS)
def test_our_containers_can_do_little(name: str) -> None:
    """No root, nothing to write on but what is mounted, no privilege."""
    service = SERVICES[name]
    assert with_defaults(service["user"]) == "10001:10001"
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_container_can_do_little(name: str) -> None:
    """No capability, no way to more; nothing to write on, but for the two that write into their own folders."""
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("read_only", False) is (name not in ("cc-adminer", "cc-grafana"))
    assert "privileged" not in service


@pytest.mark.parametrize("name", sorted(set(SERVICES) - {*OURS, "cc-secrets"}))
def test_images_have_an_exact_version(name: str) -> None:
    """Three numbers (Postgres counts two); a digest may stand behind them."""
    image = with_defaults(SERVICES[name]["image"])
    assert re.fullmatch(r"\S+:v?\d+\.\d+(\.\d+)?(-alpine)?", image), image
    assert image.count(".") >= (1 if name == "cc-db" else 2)


def test_a_digest_can_be_given(tmp_path: Path) -> None:
    """Where the version stands, and as a whole image for Postgres."""
    digest = f"@sha256:{'0' * 64}"
    given = {"REDIS_VERSION": f"7.2.16-alpine{digest}", "POSTGRES_IMAGE": f"postgres:15.18-alpine{digest}"}
    found = composed(tmp_path, given)
    assert found["cc-redis"]["image"] == f"redis:7.2.16-alpine{digest}"
    assert found["cc-db"]["image"] == f"postgres:15.18-alpine{digest}"


def test_only_what_is_scaled_has_no_name_of_its_own() -> None:
    """A container's name is there once, so that Compose refuses to scale what has one."""
    assert [name for name in ("cc-proxy", "cc-worker") if "container_name" in SERVICES[name]] == []
    assert with_defaults(SERVICES["cc-db"]["container_name"]) == "cc-db"
    assert with_defaults(SERVICES["cc-proxy"]["deploy"]["replicas"]) == "2"


def test_redis_forgets_nothing_by_itself() -> None:
    """Each second to disk, and an error where memory is full, never an eviction."""
    command = " ".join(SERVICES["cc-redis"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command
    assert "ports" not in SERVICES["cc-redis"]


def test_a_stopped_proxy_may_finish_its_answers(tmp_path: Path) -> None:
    """Docker waits longer than the drain lasts."""
    drain = load(environ=IMAGE | container_defaults() | {"CCPROXY_HOME": str(tmp_path)}).drain
    minutes = int(SERVICES["cc-proxy"]["stop_grace_period"].removesuffix("m"))
    assert minutes * 60_000 >= drain.delay_ms + drain.limit_ms + 30_000
    assert SERVICES["cc-balancer"]["stop_grace_period"] == SERVICES["cc-proxy"]["stop_grace_period"]


@pytest.mark.parametrize("address", ["172.17.0.1", "192.168.96.3", "10.0.1.4", "fd4d:6169::2"])
def test_the_balancer_is_believed(address: str, tmp_path: Path) -> None:
    """It says where a request came from, out of whichever network Docker gives to it; nobody else reaches a proxy."""
    trusted = load(environ=IMAGE | container_defaults() | {"CCPROXY_HOME": str(tmp_path)}).trusted_proxies
    assert is_in(ip_address(address), trusted)
    assert not is_in(ip_address("203.0.113.7"), trusted)
    assert "ports" not in SERVICES["cc-proxy"]


def test_what_is_mounted_is_there() -> None:
    """Files of the project; where one is missing, Docker would make a folder of that name."""
    paths = {with_defaults(next(filter(None, pair))) for pair in SOURCES}
    assert len(paths) >= 6
    assert [path for path in paths if path.startswith("./") and not (ROOT / path).exists()] == []


def test_the_defaults_let_the_proxy_start(tmp_path: Path) -> None:
    """Without any .env.docker: keys of the ledger, Redis next door, no route that the owner did not ask for."""
    address = "redis://default:made-up@cc-redis:6379/0"
    (tmp_path / "url").write_text(address)
    assert SERVICES["cc-proxy"]["environment"]["REDIS_URL_FILE"] == "/run/ccproxy/redis/url"
    own = {"CCPROXY_HOME": str(tmp_path), "REDIS_URL_FILE": str(tmp_path / "url")}
    settings = load(environ=IMAGE | container_defaults() | own)
    assert settings.ledger_keys
    assert settings.redis_url == Secret(address)
    elsewhere = "redis://elsewhere/0"
    assert load(environ=IMAGE | container_defaults() | own | {"REDIS_URL": elsewhere}).redis_url == Secret(elsewhere)
    assert [route.id for route in settings.routes if route.off is None] == []


def test_the_workers_find_the_database(tmp_path: Path) -> None:
    """By its name, with the password from the file; DATABASE_URL in .env.docker goes first."""
    (tmp_path / "db-password").write_text("pass word")
    given = {name: with_defaults(str(value)) for name, value in SERVICES["cc-worker"]["environment"].items()}
    assert given["DB_PASSWORD_FILE"] == "/run/ccproxy/database/password"
    given |= {"DB_PASSWORD_FILE": str(tmp_path / "db-password"), "CCPROXY_HOME": str(tmp_path)}
    given.pop("REDIS_URL_FILE")
    # What the original's .env.docker says must not come between.
    older = {"DB_PASSWORD": "postgres", "DB_HOST": "localhost"}
    assert load(environ=older | given, to_serve=False).database_url == Secret(
        "postgresql://postgres:pass%20word@cc-db:5432/claude_proxy"
    )
    elsewhere = "postgresql://u:p@elsewhere/db"
    assert load(environ=given | {"DATABASE_URL": elsewhere}, to_serve=False).database_url == Secret(elsewhere)


def test_every_variable_of_compose_is_explained_and_every_explained_one_is_read() -> None:
    """The first part of .env.docker.example; of the second, the balancer has to know the path prefix."""
    assert set(explained()) == interpolated(TEXT) - {"PROXY_BASE_PATH"}


def test_every_setting_is_explained_and_every_explained_one_is_read() -> None:
    """The second part, with but those that the image or docker-compose.yml say."""
    settings = ENV_DOCKER_EXAMPLE.read_text(encoding="utf-8").partition(DOCKER_MARK)[2]
    shown = re.findall(r"^#([A-Z][A-Z0-9_]*)=", settings, re.MULTILINE)
    assert sorted(shown) == sorted(KNOWN - FIXED_IN_CONTAINERS)
    said = IMAGE.keys() | SERVICES["cc-proxy"]["environment"].keys() | SERVICES["cc-worker"]["environment"].keys()
    only_up = {"CCPROXY_POSTGRES_BIN", "CCPROXY_REDIS_BIN"}
    assert said & KNOWN | only_up | FOR_INVOICE == FIXED_IN_CONTAINERS


def test_the_containers_own_variables_are_settings() -> None:
    """What deploy/compose.env says means something."""
    assert set(container_defaults()) <= KNOWN
    assert "DB_PASSWORD" in SECRETS


def test_the_balancer_is_content_with_its_configuration() -> None:
    """HAProxy itself says so."""
    judged(program("haproxy", "haproxy"), "-c", "-q", "-f", DEPLOY / "haproxy" / "haproxy.cfg")
