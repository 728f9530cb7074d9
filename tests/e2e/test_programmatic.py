"""The programmatic face: a proxy inside a Python program, without Redis or a worker."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anthropic
import httpx
import pytest

from service import ClaudeCodeProxy, ProviderConfig, ProxyConfig
from service.errors import ProxyError, SettingsError
from tests.fakes import FakeProvider, reply
from tests.support.messages import ASK, GLM, HI, MODEL, way
from tests.support.ports import free_port

pytestmark = pytest.mark.e2e


@pytest.fixture
def fakes() -> Iterator[tuple[FakeProvider, FakeProvider]]:
    """Anthropic and Z.AI."""
    with FakeProvider("anthropic", keys={"a"}) as one, FakeProvider("zai", keys={"z"}) as other:
        yield one, other


def config(fakes: tuple[FakeProvider, FakeProvider], tmp_path: Path, **more: object) -> ProxyConfig:
    """Both routes, on a free port."""
    one, other = fakes
    fields: dict[str, object] = {
        "port": free_port(),
        "anthropic": ProviderConfig(api_key="a", base_url=one.base_url),
        "zai": ProviderConfig(api_key="z", base_url=other.base_url),
        "home": str(tmp_path),
        "log_level": "silent",
    }
    return ProxyConfig(**(fields | more))  # type: ignore[arg-type]


@asynccontextmanager
async def serving(settings: ProxyConfig) -> AsyncIterator[ClaudeCodeProxy]:
    """A proxy between start and stop."""
    proxy = ClaudeCodeProxy(settings)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()


async def test_it_serves_from_start_to_stop(fakes: tuple[FakeProvider, FakeProvider], tmp_path: Path) -> None:
    """After start requests are answered, with failover; after stop nobody listens; and it can be started again."""
    proxy = ClaudeCodeProxy(config(fakes, tmp_path))
    for _ in range(2):
        await proxy.start()
        async with anthropic.AsyncAnthropic(base_url=proxy.url, api_key="placeholder", max_retries=0) as client:
            assert (await client.messages.create(model=MODEL, max_tokens=9, messages=HI)).content
            fakes[0].script(reply.error(529))
            async with client.messages.stream(model=MODEL, max_tokens=9, messages=HI) as stream:
                assert (await stream.get_final_message()).stop_reason == "end_turn"
        await proxy.stop()
        async with httpx.AsyncClient(trust_env=False) as raw:
            with pytest.raises(httpx.ConnectError):
                await raw.get(proxy.url)
    assert fakes[1].requests[0].json["model"] == GLM


async def test_stopping_twice_or_before_the_start_is_no_error(
    fakes: tuple[FakeProvider, FakeProvider], tmp_path: Path
) -> None:
    """Stop is always allowed."""
    proxy = ClaudeCodeProxy(config(fakes, tmp_path))
    await proxy.stop()
    await proxy.start()
    await proxy.stop()
    await proxy.stop()


async def test_a_model_map_and_codes(fakes: tuple[FakeProvider, FakeProvider], tmp_path: Path) -> None:
    """model_fallback_map applies at once; fallback_on_codes says which statuses change the route."""
    settings = config(
        fakes, tmp_path, model_fallback_map={"claude-opus": "claude-opus-4-8"}, fallback_on_codes=(500, 503)
    )
    async with serving(settings) as proxy, httpx.AsyncClient(base_url=proxy.url, trust_env=False) as client:
        headers = {"anthropic-version": "2023-06-01"}
        answer = await client.post("/v1/messages", json=ASK | {"model": "claude-opus"}, headers=headers)
        assert way(answer) == (200, "anthropic", "1")
        assert fakes[0].requests[0].json["model"] == "claude-opus-4-8"
        fakes[0].script(reply.error(503), reply.error(529))
        assert way(await client.post("/v1/messages", json=ASK, headers=headers)) == (200, "zai", "2")
        assert way(await client.post("/v1/messages", json=ASK, headers=headers)) == (529, "anthropic", "1")


async def test_nothing_is_read_from_the_environment(
    fakes: tuple[FakeProvider, FakeProvider], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the program says holds, whatever is exported around it."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "from-the-environment")
    monkeypatch.setenv("PROXY_API_KEYS", "from-the-environment-0123")
    async with (
        serving(config(fakes, tmp_path)) as proxy,
        httpx.AsyncClient(base_url=proxy.url, trust_env=False) as client,
    ):
        answer = await client.post("/v1/messages", json=ASK, headers={"anthropic-version": "2023-06-01"})
    assert way(answer) == (200, "anthropic", "1")
    assert fakes[0].requests[0].credential == "a"


async def test_what_can_not_work_is_refused(fakes: tuple[FakeProvider, FakeProvider], tmp_path: Path) -> None:
    """A config that can't be used raises where it is given, a taken port where it is started."""
    with pytest.raises(SettingsError, match="PROXY_API_KEYS"):
        ClaudeCodeProxy(config(fakes, tmp_path, host="0.0.0.0"))  # noqa: S104
    settings = config(fakes, tmp_path)
    async with serving(settings):
        with pytest.raises(ProxyError, match="PROXY_PORT"):
            await ClaudeCodeProxy(settings).start()
