"""`ccproxy check`: would this work? Asked of real sockets on the loopback, and of nobody else."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from service.console.check import Finding, check_all, check_home, check_place, check_route, is_local, is_self, port_at
from service.settings import Route, Secret, Settings, load


@asynccontextmanager
async def listening() -> AsyncIterator[int]:
    """Something that listens on the loopback, on this port, and says nothing."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


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


async def test_an_address_that_answers_is_good() -> None:
    """A connection is opened and closed; nothing is asked."""
    async with listening() as port:
        finding = await check_place("zai", f"http://127.0.0.1:{port}/api")
    assert finding == Finding("zai", True, f"127.0.0.1:{port} answers")


async def test_an_address_that_refuses_is_bad(free_port: int) -> None:
    """With the host and the port, so that one sees which."""
    finding = await check_place("zai", f"http://127.0.0.1:{free_port}")
    assert finding.ok is False
    assert f"127.0.0.1:{free_port} can't be reached" in finding.words


async def test_a_server_without_tls_is_no_https() -> None:
    """What does not speak TLS where it must is not reached."""
    async with listening() as port:
        assert (await check_place("zai", f"https://127.0.0.1:{port}")).ok is False


@pytest.mark.parametrize("url", ["http://host:port", "postgresql://u:hunter2@h:1,h2:2/db", "redis://:hunter2@[::1"])
async def test_an_address_that_is_none_is_a_finding(url: str) -> None:
    """Not a traceback, and no word of its password."""
    finding = await check_place("x", url)
    assert finding.ok is False
    assert "hunter2" not in finding.words


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("http://h", 80),
        ("https://h", 443),
        ("https://h:8443", 8443),
        ("redis://h", 6379),
        ("rediss://h", 6379),
        ("postgresql://h/db", 5432),
        ("postgres://u:p@h:5433/db", 5433),
    ],
)
def test_every_kind_of_address_has_its_port(url: str, port: int) -> None:
    """The one it names, else the usual one of its kind."""
    assert port_at(url) == port


# -- routes


async def test_a_route_that_is_off_is_not_asked(settings: Settings) -> None:
    """It is no fault; why it is off is told."""
    assert await check_route(settings.routes[0], settings) == Finding(
        "anthropic", None, "no key; set ANTHROPIC_API_KEY"
    )


async def test_a_route_with_a_key_and_an_address_is_good(settings: Settings) -> None:
    """Both are there."""
    async with listening() as port:
        assert (await check_route(route_at(settings, f"http://127.0.0.1:{port}"), settings)).ok


async def test_a_subscription_needs_its_file(settings: Settings, tmp_path: Path) -> None:
    """One that can be read, unless there is a token."""
    async with listening() as port:
        url = f"http://127.0.0.1:{port}"
        route = replace(route_at(settings, url), auth="oauth", api_key=Secret(""), credentials_path=str(tmp_path / "c"))
        finding = await check_route(route, settings)
        assert (finding.ok, "log in with Claude Code" in finding.words) == (False, True)
        (tmp_path / "c").write_text("{}")
        assert (await check_route(route, settings)).ok
        assert (await check_route(replace(route, credentials_path="/none", api_key=Secret("t")), settings)).ok


async def test_a_route_to_oneself_is_a_loop(settings: Settings) -> None:
    """By whatever name of this machine; settings alone can't tell all of them."""
    for host in ("127.0.0.1", "localhost"):
        url = f"http://{host}:{settings.port}"
        assert await is_self(url, settings)
        assert "is this proxy itself" in (await check_route(route_at(settings, url), settings)).words


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
        findings = await check_all(settings, f"redis://127.0.0.1:{port}/0", None)
    assert [(finding.what, finding.ok) for finding in findings] == [
        ("home", True),
        ("notice", None),
        ("anthropic", True),
        ("subscription", None),
        ("zai", False),
        ("redis", True),
        ("postgres", None),
    ]
    assert "DATABASE_URL" in findings[-1].words
