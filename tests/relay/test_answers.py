"""What the client is told: the provider's own words about its request, ours about all else; never a secret."""

import gzip
import re
from typing import Literal

import msgspec
import pytest

from tests.fakes import FakeProvider, reply
from tests.fakes.reply import WORDINGS_400
from tests.support.proxies import ANTHROPIC_KEY, ASK, ASK_BYTES, STREAM, ZAI_KEY, Server


@pytest.mark.parametrize("wording", ["prompt_too_long", "beta", "system_role"])
async def test_the_clients_own_fault_comes_back_as_it_is(
    server: Server, anthropic: FakeProvider, zai: FakeProvider, wording: str
) -> None:
    """A 400 is answered at once with the provider's body, byte for byte: no other route is asked."""
    served = await server.start(anthropic=anthropic, zai=zai)
    anthropic.script(reply.bad_request(wording))
    answer = await served.ask()
    assert answer.status_code == 400
    assert WORDINGS_400[wording] in answer.json()["error"]["message"]
    assert answer.headers["request-id"] == answer.json()["request_id"]
    assert zai.requests == []


async def test_a_page_about_the_clients_fault_is_told_in_words(server: Server, anthropic: FakeProvider) -> None:
    """Even a 413 that is a page is the request's own fault, and keeps its status."""
    served = await server.start(anthropic=anthropic)
    anthropic.script(reply.html(413))
    answer = await served.ask()
    told = answer.json()["error"]
    assert (answer.status_code, told["type"]) == (413, "request_too_large")
    assert told["message"].startswith("Anthropic found the request too large, with status 413 (request id ")


@pytest.mark.parametrize("status", [401, 402, 403])
@pytest.mark.parametrize("body", [STREAM, ASK], ids=["stream", "whole"])
async def test_a_routes_credential_is_never_the_clients_401(
    server: Server, anthropic: FakeProvider, zai: FakeProvider, status: int, body: dict[str, object]
) -> None:
    """With every route's credential refused, the client gets neither 401 nor 403."""
    served = await server.start(anthropic=anthropic, zai=zai)
    for fake in (anthropic, zai):
        fake.script(reply.error(status))
    answer = await served.ask(body)
    assert answer.status_code in (502, 503)
    assert answer.json()["type"] == "error"


async def test_an_error_never_shows_a_credential(
    server: Server, anthropic: FakeProvider, zai: FakeProvider, caplog: pytest.LogCaptureFixture
) -> None:
    """A provider that quotes the key in its refusal is quoted to nobody: not to the client, the ledger or the log."""
    caplog.set_level("DEBUG", "ccproxy")
    served = await server.start(anthropic=anthropic, zai=zai)
    anthropic.script(reply.error(401, message=f"invalid x-api-key: {ANTHROPIC_KEY}"))
    zai.script(reply.error(401, message=f"no such key: {ZAI_KEY}"))
    answer = await served.ask()
    told = answer.text + str(answer.headers) + str(served.events) + caplog.text
    for key in (ANTHROPIC_KEY, ZAI_KEY):
        assert key not in told
    assert "invalid x-api-key" in caplog.text


@pytest.mark.parametrize("quoting", ["own fault", "trouble", "first event", "late event"])
async def test_an_error_that_is_relayed_shows_no_credential(
    server: Server, anthropic: FakeProvider, quoting: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An answer that goes to the client as it came, or to the log, goes without the owner's key."""
    caplog.set_level("DEBUG", "ccproxy")
    served = await server.start(anthropic=anthropic)
    words = f"what was sent: {ANTHROPIC_KEY}"
    anthropic.script(
        {
            "own fault": reply.error(400, message=words),
            "trouble": reply.error(500, message=words),
            "first event": reply.stream_error("start", text=words),
            "late event": reply.stream_error("content", text=words),
        }[quoting]
    )
    answer = await served.ask()
    assert "what was sent: ***" in answer.text + caplog.text
    assert ANTHROPIC_KEY not in answer.text + caplog.text


async def test_an_error_inside_a_200_becomes_an_answer(server: Server, anthropic: FakeProvider) -> None:
    """It came as an event of a stream; the client gets JSON that says so, with the status that belongs to it."""
    served = await server.start(anthropic=anthropic)
    anthropic.script(reply.stream_error("start"))
    answer = await served.ask()
    assert (answer.status_code, answer.json()["error"]["type"]) == (529, "overloaded_error")
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("shape", ["anthropic", "bare", "typed", "message"])
async def test_an_error_of_another_shape_is_told_in_the_apis(
    server: Server, zai: FakeProvider, shape: Literal["anthropic", "bare", "typed", "message"]
) -> None:
    """Z.AI's errors have several; clients look for one, and for types that are words."""
    served = await server.start(zai=zai)
    zai.script(reply.zai_error(1234, shape=shape))
    answer = await served.ask()
    told = answer.json()
    assert (answer.status_code, told["type"], told["error"]["type"]) == (500, "error", "api_error")
    assert told["error"]["message"].startswith("No provider can answer this request: Z.AI had an internal error; ")


async def test_a_redirection_is_not_passed_on(server: Server, anthropic: FakeProvider) -> None:
    """Clients would follow it, with their credential; without its place it means nothing to them."""
    served = await server.start(anthropic=anthropic)
    anthropic.script(reply.error(307, headers={"location": "https://elsewhere.example"}))
    assert (await served.ask()).status_code == 502


@pytest.mark.parametrize("status", [500, 502, 503])
async def test_a_page_of_a_machine_in_between_is_told_in_the_apis_shape(
    server: Server, anthropic: FakeProvider, status: int
) -> None:
    """HTML from a failing provider becomes an error in Anthropic's shape, with its status."""
    served = await server.start(anthropic=anthropic)
    anthropic.script(reply.html(status))
    answer = await served.ask()
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == "api_error"
    assert answer.headers["content-type"] == "application/json"


async def test_a_spent_route_tells_the_true_wait(server: Server, anthropic: FakeProvider) -> None:
    """A long 429 of the only route: the true retry-after, and no use in trying."""
    served = await server.start(anthropic=anthropic)
    anthropic.script(reply.error(429, retry_after_s=7200))
    answer = await served.ask()
    assert answer.status_code == 429
    assert 7100 <= int(answer.headers["retry-after"]) <= 7200
    assert answer.headers["x-should-retry"] == "false"
    assert re.search(r"until \w{3} \d{4}-\d{2}-\d{2} \d{2}:\d{2} UTC", answer.json()["error"]["message"])
    again = await served.ask()
    assert again.status_code == 429
    assert len(anthropic.requests) == 1


async def test_every_answer_says_who_gave_it(server: Server, anthropic: FakeProvider) -> None:
    """Route, attempts and the request's id stand on good answers and on errors; `request-id` always."""
    served = await server.start(anthropic=anthropic)
    anthropic.script(reply.message(), reply.error(400), reply.error(500), reply.reset())
    for _ in range(4):
        headers = (await served.ask()).headers
        assert {"x-ccproxy-request-id", "x-ccproxy-attempts", "x-ccproxy-route", "request-id"} <= set(headers)


async def test_headers_on_the_wire_are_those_that_may_travel(
    server: Server, anthropic: FakeProvider, zai: FakeProvider
) -> None:
    """Up: no cookie, no hop-by-hop, no client's key, one credential; back: none of the provider's machinery."""
    served = await server.start(anthropic=anthropic, zai=zai, variables={"PROXY_API_KEYS": "ann:proxy-key-of-ann"})
    sent = {
        "cookie": "session=secret",
        "x-forwarded-for": "10.0.0.1",
        "x-api-key": "proxy-key-of-ann",
        "authorization": "Bearer proxy-key-of-ann",
        "anthropic-beta": "a-2026,b-2026",
        "x-claude-code-session-id": "0b0e7e5e-0000-4000-8000-000000000000",
        "te": "trailers",
        "connection": "x-claude-hop, keep-alive",
        "x-claude-hop": "1",
    }
    anthropic.script(reply.message(), reply.error(529))
    answer = await served.ask(headers=sent)
    await served.ask(headers=sent)
    up, across = anthropic.requests[0], zai.requests[0]
    for request in (up, across):
        names = {name.lower() for name, _ in request.headers}
        assert not names & {"cookie", "x-forwarded-for", "te", "x-claude-hop", "x-ccproxy-key"}
        assert "proxy-key-of-ann" not in str(request.headers)
    assert (up.header("x-api-key"), up.header("authorization")) == (ANTHROPIC_KEY, None)
    assert up.header("anthropic-beta") == "a-2026,b-2026"
    assert (across.header("authorization"), across.header("x-api-key")) == (f"Bearer {ZAI_KEY}", None)
    assert across.header("anthropic-beta") is None
    assert not set(answer.headers) & {"cf-ray", "via", "anthropic-organization-id", "server", "connection"}
    assert [event.client_key for _, event in served.ends] == ["ann"] * 3


async def test_the_body_goes_up_byte_for_byte(server: Server, anthropic: FakeProvider) -> None:
    """Blanks, key order, escapes and unknown fields reach Anthropic as they came."""
    body = b'{ "stream" : false,\n\t"model":"claude-opus-5-5", "max_tokens":1,"x":{"b":1,"a":"\\u00e9"},"messages":[]}'
    served = await server.start(anthropic=anthropic)
    await served.http.post(
        "/v1/messages?beta=true&x=%20+%2F", content=body, headers={"content-type": "application/json"}
    )
    [request] = anthropic.requests
    assert (request.body, request.query) == (body, "beta=true&x=%20+%2F")


async def test_a_body_that_cant_be_read_goes_to_no_provider(
    server: Server, anthropic: FakeProvider, zai: FakeProvider
) -> None:
    """What is no JSON, or of an odd kind, could be read otherwise there; it is refused in Anthropic's shape."""
    served = await server.start(anthropic=anthropic, zai=zai)
    odd = b'{"model":7,"stream":"yes","max_tokens":"many","container":[1],"thread":3}'
    not_text = b'{"model":"claude-opus-5-5","messages":[{"file_id": "\xff\xfe"}]}'
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        for body in (b"", b"{", b"\xff\xfe", b"null", b"[]", odd, not_text):
            answer = await served.http.post(path, content=body)
            assert answer.status_code == 400, body[:80]
            assert answer.json()["error"]["type"] == "invalid_request_error"
    assert anthropic.requests == zai.requests == []


async def test_count_tokens_stays_with_the_models_family(
    server: Server, anthropic: FakeProvider, zai: FakeProvider
) -> None:
    """Counting fails over to no other vendor, and its failure closes no route for messages."""
    served = await server.start(
        anthropic=anthropic,
        zai=zai,
        variables={"CIRCUIT_BREAKER_ENABLED": "true", "CIRCUIT_BREAKER_COOLDOWN_MS": "60000"},
    )
    anthropic.script(reply.error(500).when("/v1/messages/count_tokens").repeated(8))
    for _ in range(8):
        answer = await served.http.post("/v1/messages/count_tokens", json=ASK)
        assert answer.status_code >= 400
    assert zai.requests == []
    assert (await served.ask()).headers["x-ccproxy-route"] == "anthropic"


async def test_compressed_requests_go_up_as_they_came(server: Server, anthropic: FakeProvider) -> None:
    """A body with a content encoding is read along, and goes to Anthropic with its own bytes and header."""
    body = gzip.compress(ASK_BYTES)
    served = await server.start(anthropic=anthropic)
    answer = await served.http.post("/v1/messages", content=body, headers={"content-encoding": "gzip"})
    assert answer.status_code == 200
    assert (anthropic.requests[0].body, anthropic.requests[0].header("content-encoding")) == (body, "gzip")
    assert served.ends[0][1].model_asked == msgspec.json.decode(ASK_BYTES)["model"]


async def test_without_a_route_that_counts_the_client_estimates(server: Server, zai: FakeProvider) -> None:
    """With other vendors' routes alone counting is a 404, so that the client estimates; nobody else is asked."""
    served = await server.start(zai=zai)
    answer = await served.http.post("/v1/messages/count_tokens", json=ASK)
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found_error")
    assert zai.requests == []
