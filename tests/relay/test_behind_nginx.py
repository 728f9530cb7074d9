"""A stream whose content is late, behind a real nginx that cuts what is silent, to Anthropic's SDK.

Time is scaled: nginx cuts after 2 s instead of 60, the head goes after 1 instead of 45, content comes after 3 instead
of 90. The same with the real times is in `tests/claude_code`.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anthropic as anthropic_sdk
import pytest

from tests.fakes import FakeProvider, Reply, reply
from tests.support.messages import HI, MODEL
from tests.support.nginx import nginx
from tests.support.proxies import ASK, Server, Serving
from tests.support.streams import DELTA, END, SSE, START

SHORT = ("proxy_read_timeout 2s", "proxy_set_header Host $host")
WAYS = {
    "as it comes": (),
    "as one sets it up": ("proxy_http_version 1.1", 'proxy_set_header Connection ""', "proxy_buffering off"),
}
LATE = reply.raw(START + DELTA + END, content_type=SSE).pausing(3_000, "bytes", len(START))


def late(fault: Reply, wait_ms: int = 1_500) -> Reply:
    """What comes behind the head."""
    return fault.pausing(wait_ms)


@contextmanager
def behind(served: Serving, folder: Path, *directives: str) -> Iterator[str]:
    with nginx(folder, served.proxy.settings.port, *SHORT, *directives) as url:
        yield url


@asynccontextmanager
async def sdk(url: str) -> AsyncIterator[anthropic_sdk.AsyncAnthropic]:
    """It repeats what is worth it, as by default."""
    async with anthropic_sdk.AsyncAnthropic(base_url=url, api_key="k", max_retries=2) as client:
        yield client


async def text_of(url: str) -> str:
    """What the SDK's stream helper makes of an answer."""
    async with sdk(url) as client, client.messages.stream(model=MODEL, max_tokens=64, messages=HI) as stream:
        message = await stream.get_final_message()
    assert message.stop_reason == "end_turn"
    return "".join(block.text for block in message.content if block.type == "text")


@pytest.mark.parametrize("way", WAYS)
async def test_late_content_arrives(server: Server, anthropic: FakeProvider, tmp_path: Path, way: str) -> None:
    """By its early head; without it nginx answers 504, and the provider is left and paid."""
    served = await server.start(anthropic=anthropic, head_after_ms=1_000, ping_ms=1_000)
    anthropic.script(LATE)
    with behind(served, tmp_path, *WAYS[way]) as url:
        assert await text_of(url) == "naïve"
    assert served.told == [("anthropic", "ok", "")]
    assert served.ends[0][1].early_head


async def test_without_an_early_head_it_is_cut(server: Server, anthropic: FakeProvider, tmp_path: Path) -> None:
    """So that the test above would fail."""
    served = await server.start(anthropic=anthropic, head_after_ms=0)
    anthropic.script(LATE)
    with behind(served, tmp_path) as url:
        answer = await served.http.post(f"{url}/v1/messages", json=ASK | {"stream": True})
    assert answer.status_code == 504
    assert "nginx" in answer.text


async def test_a_failover_behind_the_head_arrives(
    server: Server, anthropic: FakeProvider, zai: FakeProvider, tmp_path: Path
) -> None:
    """Two routes that take longer than nginx waits, together and with the head in between; the SDK asks once."""
    served = await server.start(anthropic=anthropic, zai=zai, head_after_ms=1_000, ping_ms=500)
    anthropic.script(late(reply.error(529)))
    zai.script(reply.raw(START + DELTA + END, content_type=SSE).pausing(2_000, "bytes", len(START)))
    with behind(served, tmp_path) as url:
        assert await text_of(url) == "naïve"
    assert served.told == [("anthropic", "failed", "overloaded"), ("zai", "ok", "")]


FAILURES: dict[str, tuple[Reply, str, str]] = {
    "overloaded": (late(reply.error(529)), "overloaded_error", "is overloaded"),
    "throttled": (late(reply.error(429, retry_after_s=40)), "overloaded_error", "try again in 40 seconds"),
    "its own fault": (late(reply.bad_request("messages: no")), "invalid_request_error", "messages: no"),
    "server error": (late(reply.error(500)), "api_error", "had an internal error"),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_the_sdk_raises_a_failure_behind_the_head_and_repeats_nothing(
    server: Server, anthropic: FakeProvider, name: str
) -> None:
    """Whatever it would have made of the status: an error inside a 200 is final for it, and has the error's type."""
    fault, error_type, words = FAILURES[name]
    served = await server.start(anthropic=anthropic, head_after_ms=500)
    anthropic.script(fault)
    with pytest.raises(anthropic_sdk.APIStatusError) as raised:
        await text_of(served.url)
    assert raised.value.status_code == 200
    assert raised.value.type == error_type
    assert words in str(raised.value)
    assert len(anthropic.requests) == 1
