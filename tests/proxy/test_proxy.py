"""The programmatic face: it serves from `start` to `stop`, says what is in its way, and leaves nothing behind."""

import asyncio
import socket
from pathlib import Path

import httpx
import pytest

from service import ClaudeCodeProxy, ProviderConfig, ProxyConfig
from service import proxy as running
from service.edge import connection as connections
from service.errors import ProxyError, SettingsError
from tests.fakes import FakeProvider, reply
from tests.support.ports import free_port
from tests.support.proxies import ASK


async def test_it_serves_from_start_to_stop(tmp_path: Path) -> None:
    """Between start and stop requests are answered; before and after, connections are refused."""
    with FakeProvider("anthropic", keys={"sk-ant-key"}) as fake:
        proxy = ClaudeCodeProxy(
            ProxyConfig(
                port=free_port(),
                home=str(tmp_path),
                anthropic=ProviderConfig(api_key="sk-ant-key", base_url=fake.base_url),
                log_level="silent",
            )
        )
        async with httpx.AsyncClient(base_url=proxy.url, trust_env=False) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get("/livez")
            await proxy.start()
            assert (await client.post("/v1/messages", json=ASK)).json()["type"] == "message"
            await proxy.stop()
            with pytest.raises(httpx.TransportError):
                await client.get("/livez")
            await proxy.start()
            assert (await client.get("/livez")).status_code == 200
            await proxy.stop()
            await proxy.stop()


async def test_a_client_that_says_nothing_is_shown_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection without a request is held for a while, not for good."""
    monkeypatch.setattr(running, "LOOK_S", 0.1)
    monkeypatch.setattr(connections, "HEAD_S", 0.01)
    proxy = ClaudeCodeProxy(ProxyConfig(port=free_port(), home=str(tmp_path), log_level="silent"))
    await proxy.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.settings.port)
    async with asyncio.timeout(20):
        assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    await proxy.stop()


async def test_a_taken_address_is_said_so(tmp_path: Path) -> None:
    """An address that is taken raises ProxyError with the mend, and leaves no socket open."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        proxy = ClaudeCodeProxy(ProxyConfig(port=taken.getsockname()[1], home=str(tmp_path)))
        with pytest.raises(ProxyError, match="PROXY_PORT"):
            await proxy.start()


def test_a_loop_onto_itself_is_refused(tmp_path: Path) -> None:
    """A provider that is this proxy itself is refused before it serves."""
    port = free_port()
    with pytest.raises(SettingsError, match="itself"):
        ClaudeCodeProxy(
            ProxyConfig(
                port=port,
                home=str(tmp_path),
                anthropic=ProviderConfig(api_key="k", base_url=f"http://127.0.0.1:{port}"),
            )
        )


async def test_two_proxies_live_beside_each_other(tmp_path: Path) -> None:
    """Two in one program share nothing but the program."""
    with FakeProvider("anthropic") as fake:
        proxies = [
            ClaudeCodeProxy(
                ProxyConfig(
                    port=free_port(),
                    home=str(tmp_path / name),
                    anthropic=ProviderConfig(api_key="k", base_url=fake.base_url),
                )
            )
            for name in ("one", "two")
        ]
        await asyncio.gather(*(proxy.start() for proxy in proxies))
        fake.script(reply.error(529))
        async with httpx.AsyncClient(trust_env=False) as client:
            answers = [await client.post(f"{proxy.url}/v1/messages", json=ASK) for proxy in proxies]
        assert [answer.status_code for answer in answers] == [529, 200]
        await asyncio.gather(*(proxy.stop() for proxy in proxies))
