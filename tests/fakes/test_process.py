"""A fake as its own process has the face of the one in a thread, and speaks the same language as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import msgspec
import pytest

from tests.fakes import FakeProcess, Reply, Usage, reply

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADERS = {"x-api-key": "k", "anthropic-version": "2023-06-01"}
ASK = {"model": "claude-opus-5-5", "max_tokens": 5, "messages": [], "stream": True}


@pytest.fixture(scope="module")
def process() -> Iterator[FakeProcess]:
    with FakeProcess("anthropic", "--key", "k") as started:
        yield started


@pytest.fixture
def fake(process: FakeProcess) -> FakeProcess:
    process.reset()
    return process


def ask(fake: FakeProcess) -> httpx.Response:
    return httpx.post(fake.base_url + "/v1/messages", json=ASK, headers=HEADERS, trust_env=False)


def test_a_script_goes_over_and_the_records_come_back(fake: FakeProcess) -> None:
    """Replies, requests and answers cross the process border unharmed."""
    usage = Usage(input=5, output=4, cache_read=3, cache_write_5m=2, cache_write_1h=1)
    fake.script(reply.error(529), reply.message("é", usage=usage).in_chunks(1).compressed("br"))
    assert ask(fake).status_code == 529
    assert "é" in ask(fake).text
    first, second = fake.wait_for(2)
    assert msgspec.json.decode(first.body) == msgspec.json.decode(second.body) == ASK
    assert second.credential == "k"
    assert fake.usage_served == usage


def test_a_process_can_refuse(fake: FakeProcess) -> None:
    """Its control stays reachable while its provider refuses connections."""
    with fake.refusing(), pytest.raises(httpx.ConnectError):
        ask(fake)
    fake.set_default(reply.error(500))
    fake.set_keys(["other"])
    assert ask(fake).status_code == 401
    fake.set_keys(None)
    assert ask(fake).status_code == 500
    assert fake.state.request_count == 2


def test_an_unreadable_script_says_why(fake: FakeProcess) -> None:
    """A script that is not in the language is a 400 that names the place."""
    url = fake.address.control_url + "/script"
    refused = httpx.post(url, json=[{"body": {"type": "nonsense"}}], trust_env=False)
    assert refused.status_code == 400
    assert "nonsense" in refused.json()["error"]
    assert httpx.post(url + "s", json=[], trust_env=False).status_code == 404


@pytest.mark.parametrize(
    "given",
    [
        reply.message("é", thinking="t").forever(),
        reply.tool_use("Read", {"a": [1, {"b": None}]}, text="x"),
        reply.zai_error(1308, number=True, shape="bare"),
        reply.garbage(),
        reply.stream_error("content", prelude=("ping",)).when(body="x", header=("a", "b")),
        reply.hang("events", -2).pausing(3).with_headers({"a": None}),
    ],
)
def test_replies_are_the_same_as_json(given: Reply) -> None:
    """Every reply survives the way to JSON and back."""
    assert msgspec.json.decode(msgspec.json.encode(given), type=Reply) == given
