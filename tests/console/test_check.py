"""`ccproxy check`: would this work? Asked of real sockets on the loopback, and of nobody else."""

import asyncio
import json
import resource
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from service.commands import check
from service.commands.check import (
    balancer_notes,
    check_all,
    check_home,
    check_login,
    check_route,
    is_local,
    is_self,
    reach,
)
from service.commands.finding import Finding
from service.http1.upstream import UpstreamClient
from service.oauth.credentials_file import CredentialsFile
from service.settings import OAuth, Route, Secret, Settings, Timeouts, UpstreamTransport, load
from service.settings.redis_url import redis_address
from tests.support.served import served


@asynccontextmanager
async def listening() -> AsyncIterator[int]:
    """Something that listens on the loopback, on this port, and says nothing."""

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with served(hang_up) as port:
        yield port


@pytest.fixture
async def upstream() -> AsyncIterator[UpstreamClient]:
    """The way to providers."""
    client = UpstreamClient(Timeouts())
    yield client
    await client.close()


@pytest.fixture
def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings without a key."""
    return load(environ={"CCPROXY_HOME": str(tmp_path)})


def route_at(settings: Settings, url: str) -> Route:
    """The first route, with a key and another address."""
    return replace(settings.routes[0], base_url=url, api_key=Secret("k"), off=None)


# -- addresses


async def test_an_address_that_answers_is_good(upstream: UpstreamClient) -> None:
    """A connection is opened and closed; nothing is asked."""
    async with listening() as port:
        finding = await reach("zai", f"http://127.0.0.1:{port}/api", upstream)
    assert finding == Finding("zai", True, f"127.0.0.1:{port} is reachable")


async def test_an_address_that_refuses_is_bad(upstream: UpstreamClient, free_port: int) -> None:
    """With the host and the port, so that one sees which."""
    finding = await reach("zai", f"http://127.0.0.1:{free_port}", upstream)
    assert finding.ok is False
    assert f"127.0.0.1:{free_port} can't be reached" in finding.words


@pytest.mark.parametrize("kind", ["lean", "httpx"])
async def test_nothing_is_sent_to_a_provider(kind: UpstreamTransport) -> None:
    """By either transport, a connection is opened, and closed without a byte."""
    received: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.set_result(await reader.read())
        writer.close()

    async with served(serve) as port:
        client = UpstreamClient(Timeouts(), kind=kind)
        await client.reach(f"http://127.0.0.1:{port}")
        await client.close()
        assert await asyncio.wait_for(received, 10) == b""


async def test_a_check_that_hangs_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are told all the same, and meanwhile what is waited for."""
    monkeypatch.setattr(check, "LONGEST_S", 0.05)
    monkeypatch.setattr(check, "PROGRESS_S", 0.01)
    waited: list[list[str]] = []

    async def hang() -> list[Finding]:
        await asyncio.get_running_loop().create_future()
        return []

    async def answer() -> list[Finding]:
        return [Finding("quick", True, "")]

    found = await check.run_together({"slow": hang(), "quick": answer()}, lambda names: waited.append(list(names)))
    assert found == [Finding("slow", False, "no result within 0 s"), Finding("quick", True, "")]
    assert waited[0] == ["slow"]


# -- routes


async def test_a_route_that_is_off_is_not_asked(settings: Settings, upstream: UpstreamClient) -> None:
    """It is no fault; why it is off is told."""
    assert await check_route(settings.routes[0], settings, upstream) == Finding(
        "anthropic", None, "no key; set ANTHROPIC_API_KEY"
    )


async def test_a_route_with_a_key_and_an_address_is_good(settings: Settings, upstream: UpstreamClient) -> None:
    """Both are there."""
    async with listening() as port:
        assert (await check_route(route_at(settings, f"http://127.0.0.1:{port}"), settings, upstream)).ok


@pytest.fixture
def login(settings: Settings, tmp_path: Path) -> Route:
    """A subscription whose credentials file is where a test puts it."""
    route = route_at(settings, "http://127.0.0.1:1")
    return replace(route, auth="oauth", api_key=Secret(""), credentials_path=str(tmp_path / "c"))


def write_login(route: Route, left_s: int, refresh: str = "r") -> None:
    """A log-in whose token lives for so long."""
    expires_at_ms = int(time.time() + left_s) * 1000
    tokens = {"accessToken": "a-secret-token", "refreshToken": refresh, "expiresAt": expires_at_ms}
    Path(route.credentials_path).write_text(json.dumps({"claudeAiOauth": tokens}))


def test_a_subscription_needs_its_file(settings: Settings, login: Route) -> None:
    """With a log-in in it, unless there is a static token, or other hosts that share theirs."""
    assert check_login(login, settings) == (
        False,
        f"{login.credentials_path} does not exist; log in with Claude Code",
    )
    Path(login.credentials_path).write_text("{}")
    assert check_login(login, settings)[0] is False
    Path(login.credentials_path).write_text('{"claudeAi')
    is_good, words = check_login(login, settings)
    assert (is_good, "log in with Claude Code" in words) == (False, True)
    assert check_login(replace(login, api_key=Secret("t")), settings)[0]
    sharing = replace(settings, redis_url=redis_address("redis://h").value, oauth=OAuth(share_key=Secret("k" * 32)))
    assert check_login(login, sharing)[0]


@pytest.mark.parametrize(
    ("left_s", "refresh", "writable", "is_good", "words"),
    [
        (3630, "r", True, True, "valid for 60 minutes; refreshed by the proxy"),
        (-5, "r", True, True, "has expired; refreshed by the proxy"),
        (3630, "", True, True, "can't refresh it: there is no refresh token"),
        (-5, "", True, False, "can't refresh it: there is no refresh token"),
        (3630, "r", False, True, "can't refresh it: the file is not writable"),
        (-5, "r", False, False, "can't refresh it: the file is not writable"),
    ],
)
def test_a_log_in_is_told_as_it_is(
    settings: Settings,
    login: Route,
    monkeypatch: pytest.MonkeyPatch,
    left_s: int,
    refresh: str,
    writable: bool,  # noqa: FBT001 - a column of the table above
    is_good: bool,  # noqa: FBT001 - likewise
    words: str,
) -> None:
    """How long its token lives, who refreshes it, and no word of the token."""
    write_login(login, left_s, refresh)
    monkeypatch.setattr(CredentialsFile, "can_write", lambda _: writable)
    found = check_login(login, settings)
    assert found[0] is is_good
    assert words in found[1]
    assert "a-secret-token" not in found[1]


async def test_a_subscription_needs_its_address_as_well(
    settings: Settings, login: Route, free_port: int, upstream: UpstreamClient
) -> None:
    """Both are told."""
    write_login(login, 3600)
    async with listening() as port:
        finding = await check_route(replace(login, base_url=f"http://127.0.0.1:{port}"), settings, upstream)
    assert finding.ok
    assert finding.words.startswith(f"127.0.0.1:{port} is reachable; its token is valid for")
    assert not (await check_route(replace(login, base_url=f"http://127.0.0.1:{free_port}"), settings, upstream)).ok


async def test_a_route_to_oneself_is_a_loop(settings: Settings, upstream: UpstreamClient) -> None:
    """By whatever name of this machine; settings alone can't tell all of them."""
    for host in ("127.0.0.1", "localhost"):
        url = f"http://{host}:{settings.port}"
        assert await is_self(url, settings)
        assert "is this proxy itself" in (await check_route(route_at(settings, url), settings, upstream)).words


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://192.0.2.1:4181"])
async def test_another_address_is_no_loop(settings: Settings, url: str) -> None:
    """Another port, or another machine."""
    assert not await is_self(url, settings)


def test_an_address_is_local_where_it_can_be_bound() -> None:
    """The loopback is, a documentation address is not, what is no address is not."""
    assert is_local(socket.AF_INET, "127.0.0.1")
    assert not is_local(socket.AF_INET, "192.0.2.1")
    assert not is_local(socket.AF_INET, "256.1.1.1")


# -- the home


def test_a_home_has_a_place(tmp_path: Path) -> None:
    """There, or where it can be made."""
    assert check_home(tmp_path).ok
    assert check_home(tmp_path / "a" / "b").ok


def test_a_file_is_no_home(tmp_path: Path) -> None:
    """Neither it nor anything below it; the mend is named."""
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        finding = check_home(place)
        assert (finding.ok, "CCPROXY_HOME" in finding.words) == (False, True)


# -- what stands before the proxy


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, None),
        ({"TRUSTED_PROXIES": "10.0.0.0/8"}, "answers in one piece may have no byte for 600 s"),
        ({"PROXY_HOST": "192.0.2.1", "PROXY_API_KEYS": "k" * 32, "API_TIMEOUT_MS": "90000"}, "no byte for 90 s"),
        ({"TRUSTED_PROXIES": "10.0.0.0/8", "API_HEAD_AFTER_MS": "0"}, "streams, and answers in one piece"),
        ({"TRUSTED_PROXIES": "10.0.0.0/8", "API_HEAD_AFTER_MS": "60000"}, "streams, and answers in one piece"),
    ],
)
def test_what_a_balancer_has_to_wait_for_is_named(tmp_path: Path, variables: dict[str, str], words: str | None) -> None:
    """Where there may be one; it is no fault."""
    findings = balancer_notes(load(environ={"CCPROXY_HOME": str(tmp_path), **variables}))
    assert [finding.ok for finding in findings] == ([] if words is None else [None])
    for finding in findings:
        assert str(words) in finding.words
        assert "nginx: proxy_read_timeout" in finding.words


# -- all of it


async def test_findings_come_in_the_order_of_mending(tmp_path: Path, free_port: int) -> None:
    """Home, notices, routes in their order, then what the ledger needs; what `up` brings by itself is no fault."""
    async with listening() as port:
        settings = load(
            environ={
                "CCPROXY_HOME": str(tmp_path),
                "NODE_ENV": "production",
                "ANTHROPIC_API_KEY": "k",
                "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{port}",
                "ZAI_API_KEY": "k",
                "ZAI_BASE_URL": f"http://127.0.0.1:{free_port}",
            }
        )
        findings = await check_all(settings, f"redis://127.0.0.1:{port}/0")
    assert [(finding.what, finding.ok) for finding in findings] == [
        ("home", True),
        ("notice", None),
        ("anthropic", True),
        ("subscription", None),
        ("zai", False),
        ("redis", False),
        ("postgres", None),
    ]
    assert "DATABASE_URL" in findings[-1].words


def test_a_port_for_root_alone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody else could not start the proxy there."""

    class Forbidding(socket.socket):
        def bind(self, _: object) -> None:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket, "socket", Forbidding)
    [found] = check.check_listening(load(environ={"CCPROXY_HOME": str(tmp_path), "PROXY_PORT": "443"}))
    assert (found.ok, found.words) == (False, "port 443 is for root only; set PROXY_PORT to 1024 or higher")


def test_an_address_of_another_machine_is_named(tmp_path: Path) -> None:
    """The proxy could not start there; a port that is in use is no fault, as the proxy may be running."""
    foreign = {"PROXY_HOST": "203.0.113.9", "PROXY_API_KEYS": "a-key-of-this-client"}
    [found] = check.check_listening(load(environ={"CCPROXY_HOME": str(tmp_path)} | foreign))
    assert (found.ok, found.words.endswith("set PROXY_HOST to an address of this machine")) == (False, True)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert check.check_listening(load(environ={"CCPROXY_HOME": str(tmp_path), "PROXY_PORT": port})) == []


async def test_without_a_route_the_way_of_clients_credentials_is_checked(tmp_path: Path, free_port: int) -> None:
    """They alone are served then, and nobody else would notice that there is no way; with a route, or if clients'
    credentials are never passed through, nothing goes there."""
    there = {"CCPROXY_HOME": str(tmp_path), "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{free_port}"}

    async def ways(**more: str) -> list[tuple[bool | None, bool]]:
        found = await check_all(load(environ=there | more), None)
        return [(one.ok, "can't be reached" in one.words) for one in found if one.what == "clients"]

    assert await ways() == [(False, True)]
    assert await ways(CLIENT_CREDENTIALS="never") == []
    assert await ways(ANTHROPIC_API_KEY="key") == []
    async with listening() as port:
        assert await ways(ANTHROPIC_BASE_URL=f"http://127.0.0.1:{port}") == [(True, False)]


def test_a_disk_without_room_is_named(tmp_path: Path) -> None:
    """A file can still be created there, and nothing be written to it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    try:
        found = check_home(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not found.ok
    assert "make room there, or set CCPROXY_HOME" in found.words
    assert check_home(tmp_path).ok
