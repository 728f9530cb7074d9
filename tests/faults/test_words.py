"""What a developer reads in the SDK's `error.message` when no route has answered, and when an error is in no shape.

Not here: which status and which type it has (`test_matrix`).
"""

import re
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from anthropic import APIStatusError, AsyncAnthropic

from service.relay.plain_words import is_technical
from tests.fakes import FakeProvider, reply
from tests.faults.test_cases import subscription, with_subscription
from tests.faults.test_matrix import MODEL, PLAIN
from tests.support.proxies import STREAM, Server, Serving

__all__ = ["subscription"]

STREAMS = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
HOURS_S = 3 * 3_600
SSE = "text/event-stream"


async def error_of(served: Serving, *, stream: bool, model: str = MODEL) -> APIStatusError:
    """The SDK's error."""
    asked: dict[str, Any] = {"model": model, "max_tokens": 64, "messages": [{"role": "user", "content": "hi"}]}
    http = httpx2.AsyncClient(trust_env=False, verify=PLAIN)
    async with AsyncAnthropic(base_url=served.url, api_key="placeholder", max_retries=0, http_client=http) as client:
        with pytest.raises(APIStatusError) as raised:
            await client.messages.create(**asked, stream=stream)
    error = raised.value
    assert not is_technical(words_of(error))
    return error


def words_of(error: APIStatusError) -> str:
    """What the error says."""
    body: Any = error.body
    assert (body["type"], body["error"]["type"]) == ("error", error.type)
    return str(body["error"]["message"])


def matches(words: str, pattern: str) -> None:
    """The whole sentence, up to the request's id."""
    assert re.fullmatch(f"No provider can answer this request: {pattern} \\(request id \\w+\\)", words), words


@STREAMS
async def test_all_overloaded(server: Server, anthropic: FakeProvider, zai: FakeProvider, stream: bool) -> None:  # noqa: FBT001
    served = await server.start(anthropic=anthropic, zai=zai)
    anthropic.default, zai.default = reply.error(529, headers={"request-id": "req_up"}), reply.zai_error(1305)
    error = await error_of(served, stream=stream)
    assert (error.status_code, error.type, error.request_id) == (529, "overloaded_error", "req_up")
    matches(words_of(error), "Anthropic is overloaded and Z.AI is overloaded; try again in a moment")


@STREAMS
@pytest.mark.parametrize(
    ("wait_s", "until", "again"),
    [
        (30, "is limiting requests for \\d+ seconds", "try again in \\d+ seconds, at \\d\\d:\\d\\d:\\d\\d UTC"),
        (HOURS_S, "has reached its limit until \\w{3} [-0-9]{10} \\d\\d:\\d\\d UTC", "try again in 3 hours, at .* UTC"),
    ],
    ids=["short", "long"],
)
async def test_all_throttled(
    server: Server,
    anthropic: FakeProvider,
    zai: FakeProvider,
    wait_s: int,
    until: str,
    again: str,
    stream: bool,  # noqa: FBT001
) -> None:
    """At the first request, and at those that find both routes waiting."""
    served = await server.start(anthropic=anthropic, zai=zai)
    anthropic.default = zai.default = reply.error(429, retry_after_s=wait_s)
    for _ in range(2):
        error = await error_of(served, stream=stream)
        assert (error.status_code, error.type) == (429, "rate_limit_error")
        assert error.response.headers["x-should-retry"] == ("true" if wait_s <= 60 else "false")
        assert wait_s - 5 <= int(error.response.headers["retry-after"]) <= wait_s
        matches(words_of(error), f"Anthropic {until} and Z.AI {until}; {again}")
    assert len(anthropic.requests) == 1


@STREAMS
async def test_a_login_that_has_expired_beside_a_provider_that_is_away(
    server: Server,
    subscription: FakeProvider,
    tmp_path: Path,
    stream: bool,  # noqa: FBT001
) -> None:
    gone = {"ZAI_API_KEY": "zai-key-of-nobody", "ZAI_BASE_URL": "http://127.0.0.1:9"}
    served = await with_subscription(server, subscription, tmp_path, variables=gone)
    subscription.default = reply.error(401)
    error = await error_of(served, stream=stream)
    matches(
        words_of(error),
        "Claude subscription can't be used because its login has expired and Z.AI could not be reached; "
        "try again in a moment",
    )
    assert error.status_code == 502


@STREAMS
async def test_a_model_that_nobody_has(
    server: Server,
    anthropic: FakeProvider,
    zai: FakeProvider,
    stream: bool,  # noqa: FBT001
) -> None:
    """Asked for again, nobody is asked; the error stays the same."""
    served = await server.start(anthropic=anthropic, zai=zai)
    anthropic.default = reply.error(404, message="model: claude-nine")
    zai.default = reply.zai_error(1211)
    for _ in range(2):
        error = await error_of(served, stream=stream, model="claude-nine")
        assert (error.status_code, error.type) == (404, "not_found_error")
        offers = "does not offer the model claude-nine"
        matches(words_of(error), f"Anthropic {offers} and Z.AI {offers}; trying again won't help until that changes")


@pytest.mark.parametrize("body", [b"", reply.HTML, b"upstream connect error: 10.0.0.1:443", b'{"error":"no"}', b"[1]"])
@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 429, 502, 503])
async def test_no_error_is_shown_in_another_shape(
    server: Server, anthropic: FakeProvider, status: int, body: bytes
) -> None:
    """Whatever a provider, or a machine before it, sends: the SDK finds an error with a sentence."""
    served = await server.start(anthropic=anthropic)
    anthropic.default = reply.raw(body, status=status, content_type="text/html").with_headers({"request-id": "req_up"})
    error = await error_of(served, stream=status % 2 == 0)
    assert "request id " in words_of(error)
    assert body == b"" or body.decode() not in error.response.text


@pytest.mark.parametrize("path", ["/v1/files", "/v1/organizations/usage"])
@pytest.mark.parametrize("body", [b"", reply.HTML, b'{"message":"no"}'])
@pytest.mark.parametrize("status", [401, 403, 404, 413, 503])
async def test_other_endpoints_keep_status_and_wait(
    server: Server, anthropic: FakeProvider, status: int, body: bytes, path: str
) -> None:
    """Their errors too get Anthropic's shape; what the provider said about retries stays."""
    served = await server.start(anthropic=anthropic)
    headers = {"retry-after": "17", "request-id": "req_up"}
    error = reply.raw(body, status=status, content_type="text/html").with_headers(headers)
    anthropic.script(error.when(path).forever())
    answer = await served.http.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert (answer.headers["retry-after"], answer.headers["request-id"]) == ("17", "req_up")
    assert answer.headers.get("x-should-retry") == ("false" if status in (401, 403) else None)
    assert answer.json()["error"]["message"].startswith("Anthropic ")
    assert len(anthropic.requests) == 1


@pytest.mark.parametrize(
    "data",
    [b'{"error":{"code":"1234","message":"10.0.0.1:80"}}', b"<html>", b'{"type":"error"}'],
    ids=["zai", "page", "bare"],
)
async def test_an_error_behind_content_is_told_in_words(server: Server, anthropic: FakeProvider, data: bytes) -> None:
    """The content before it stays, and the stream ends with an error event in Anthropic's shape."""
    served = await server.start(anthropic=anthropic)
    anthropic.script(reply.message("hello").cut("end", "content_block_stop"))
    whole = (await served.ask(STREAM)).content
    kept = whole[: whole.index(b"event: error")]
    anthropic.script(reply.raw(kept + b"event: error\ndata: " + data + b"\n\n", content_type=SSE))
    answer = await served.ask(STREAM)
    assert answer.content.startswith(kept)
    last = answer.content.removeprefix(kept)
    assert last.startswith(b"event: error\ndata: {")
    error = msgspec.json.decode(last.partition(b"data: ")[2])["error"]
    assert error["message"].startswith("The answer is incomplete: Anthropic ")
    assert not is_technical(error["message"])
