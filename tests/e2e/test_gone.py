"""A client that goes: the provider is let go of at once, and what was used until then is accounted."""

import json
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes import Reply, Usage, reply
from tests.support.installation import Installation, Proxy
from tests.support.ledger_reader import LedgerReader
from tests.support.messages import ASK, HEADERS, STREAM, ask, client_of, event_names
from tests.support.processes import run
from tests.support.waiting import eventually, settles_to

pytestmark = pytest.mark.e2e
WHOLE = 48_000_000
"""More than the kernel's buffers of two connections hold."""
USAGE = Usage(input=33, output=44, cache_read=5)


@pytest.mark.parametrize(
    "silent", [reply.hang("content_block_delta"), reply.drip(50)], ids=["in a silence", "while bytes come"]
)
def test_a_client_that_leaves_mid_stream(
    http: httpx.Client, installation: Installation, ledger: LedgerReader, silent: Reply
) -> None:
    """The upstream connection is closed soon, and the ledger has an aborted attempt with the usage so far."""
    installation.anthropic.script(silent)
    with http.stream("POST", "/v1/messages", json=STREAM, headers=HEADERS) as answer:
        request_id = answer.headers["x-ccproxy-request-id"]
        seen = b""
        for chunk in answer.iter_raw():
            seen += chunk
            if "content_block_delta" in event_names(seen):
                break
    installation.anthropic.wait_until(lambda: installation.anthropic.requests[0].aborted)
    [end] = ledger.wait_for_ends(request_id)
    assert (end["outcome"], end.get("kind", ""), end["status"]) == ("aborted", "", 200)
    assert end["tokens"]["input"] == installation.anthropic.served[0].usage.input > 0
    assert installation.zai.requests == []


@pytest.mark.parametrize("body", [ASK, STREAM], ids=["json", "stream"])
@pytest.mark.parametrize("silent", [reply.hang("request"), reply.hang("headers"), reply.hang("message_start")])
def test_a_client_that_leaves_before_the_answer(
    proxy: Proxy, installation: Installation, ledger: LedgerReader, body: dict[str, object], silent: Reply
) -> None:
    """The same while nothing has come back yet: no other route is tried for nobody."""
    before = len(aborted(ledger))
    installation.anthropic.script(silent)
    with (
        client_of(proxy.url, timeout_s=0.3) as client,
        pytest.raises(httpx.ReadTimeout),
    ):
        ask(client, body)
    installation.anthropic.wait_until(lambda: installation.anthropic.requests[0].client_closed_s is not None)
    installation.anthropic.wait_until(lambda: len(aborted(ledger)) == before + 1, timeout_s=30)
    assert installation.zai.requests == []


@pytest.mark.parametrize("body", [ASK, STREAM], ids=["json", "stream"])
def test_a_client_that_leaves_every_answer_comes_to_its_limit(
    installation: Installation, ledger: LedgerReader, tmp_path: Path, body: dict[str, Any]
) -> None:
    """What it has not waited for is estimated, and counts: 400 words of a stream, or a whole answer."""
    proxy = installation.start_proxy({"PROXY_API_KEYS": "ledger"})
    name = f"leaver-{tmp_path.name}"[:60]
    said = run(
        "keys", "issue", name, "--weekly-tokens", "2000", "--json", home=tmp_path, variables=installation.addresses
    )
    key = json.loads(said[1])

    def leave() -> int:
        installation.anthropic.script(
            reply.message(" word" * 400, usage=USAGE).cut("hang", "content_block_stop" if body is STREAM else "headers")
        )
        with client_of(proxy.url, timeout_s=0.5) as http:
            try:
                return ask(http, body | {"max_tokens": 1_000}, {"x-api-key": key["key"]}).status_code
            except httpx.ReadTimeout:
                return 200

    settles_to(429, leave, patience_s=60)
    ledger.settle()
    query = "SELECT body FROM ccproxy.events WHERE type = 'attempt_ended' AND body->>'client_key' = %s"
    ends = [end for (end,) in ledger.rows(query, key["key_id"])]
    assert all(end["outcome"] == "aborted" and end["estimated"] for end in ends)
    counted = sum(end["tokens"].get("input", 0) + end["tokens"].get("output", 0) for end in ends)
    each = counted / len(ends)
    assert each == pytest.approx(33 + 312 if body is STREAM else 501, rel=0.15)
    assert 2_000 <= counted <= 2_000 + 2 * each


def aborted(ledger: LedgerReader) -> list[object]:
    """All aborted attempts."""
    query = "SELECT event_id FROM ccproxy.events WHERE body->>'outcome' = 'aborted' AND stream = 'anthropic'"
    return [row[0] for row in ledger.rows(query)]


def test_a_client_that_reads_slowly_holds_the_provider_back(
    http: httpx.Client, installation: Installation, ledger: LedgerReader
) -> None:
    """Back-pressure reaches the provider, and in the end the answer is whole and counted."""
    installation.anthropic.script(reply.message("0123456789abcdef" * 3_000_000, usage=USAGE))
    size = 0
    with http.stream("POST", "/v1/messages", json=STREAM, headers=HEADERS) as answer:
        chunks = answer.iter_raw()
        size += len(next(chunks))
        threading.Event().wait(0.3)
        sent = installation.anthropic.served[0].body_bytes_sent
        assert sent < WHOLE, "the proxy has read on though nobody took it"
        size += sum(len(chunk) for chunk in chunks)
    assert size > WHOLE
    [end] = ledger.wait_for_ends(answer.headers["x-ccproxy-request-id"])
    assert (end["outcome"], end["tokens"]) == ("ok", {"input": 33, "output": 44, "cache_read": 5})


def test_aborted_attempts_move_no_circuit(http: httpx.Client, installation: Installation, ledger: LedgerReader) -> None:
    """Clients that go away say nothing about the route."""
    for _ in range(6):
        installation.anthropic.script(reply.hang("content_block_delta"))
        with http.stream("POST", "/v1/messages", json=STREAM, headers=HEADERS) as answer:
            next(answer.iter_raw())
    installation.anthropic.wait_until(lambda: all(request.aborted for request in installation.anthropic.requests))
    assert ask(http).headers["x-ccproxy-route"] == "anthropic"
    ledger.settle()
    [reading] = [route for route in ledger.status()["routes"] if route["route"] == "anthropic"]
    assert reading["aborted"] >= 6
    assert reading["failures_in_row"] == 0


EARLY = {"API_HEAD_AFTER_MS": "200"}


def test_a_client_that_leaves_behind_an_early_head(installation: Installation, ledger: LedgerReader) -> None:
    """It has a status and pings, and no content: the attempt is aborted, and the ledger says that the head had gone."""
    proxy = installation.start_proxy(EARLY)
    installation.anthropic.script(reply.hang("message_start"))
    with client_of(proxy.url) as client, client.stream("POST", "/v1/messages", json=STREAM, headers=HEADERS) as answer:
        request_id = answer.headers["x-ccproxy-request-id"]
        assert next(answer.iter_raw()).startswith(b"event: ping\n")
    installation.anthropic.wait_until(lambda: installation.anthropic.requests[0].aborted)
    [end] = ledger.wait_for_ends(request_id)
    assert (end["outcome"], end["early_head"]) == ("aborted", True)
    assert installation.zai.requests == []


def test_a_proxy_that_is_killed_behind_an_early_head(installation: Installation, ledger: LedgerReader) -> None:
    """Its client sees a broken answer, not the end of one; the attempt stands on the ledger as begun."""
    proxy = installation.start_proxy(EARLY)
    installation.anthropic.script(reply.hang("message_start"))
    with client_of(proxy.url) as client, client.stream("POST", "/v1/messages", json=STREAM, headers=HEADERS) as answer:
        request_id = answer.headers["x-ccproxy-request-id"]
        parts = answer.iter_raw()
        assert next(parts).startswith(b"event: ping\n")
        proxy.kill()
        with pytest.raises(httpx.RemoteProtocolError):
            list(parts)
    query = "SELECT count(*) FROM ccproxy.events WHERE type = 'attempt_started' AND body->>'request_id' = %s"
    eventually(lambda: ledger.number(query, request_id) == 1)
    assert ledger.ended([request_id]) == []
