"""When the first route fails before content has gone out, the call succeeds on the next; else the truth is told."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import anthropic
import httpx
import pytest

from tests.fakes import FakeProvider, Reply, Usage, reply
from tests.support.installation import ANTHROPIC_KEY, ZAI_KEY, Installation
from tests.support.ledger_reader import LedgerReader
from tests.support.messages import (
    ASK,
    GLM,
    HEADERS,
    HI,
    MODEL,
    STREAM,
    TOOLS,
    ask,
    client_of,
    deltas,
    error_of,
    event_names,
    way,
)

pytestmark = pytest.mark.e2e

FAILURES: dict[str, Reply | None] = {
    "529": reply.error(529),
    "429": reply.error(429),
    "500": reply.error(500),
    "503": reply.error(503),
    "502 with HTML": reply.html(502),
    "refused": None,
    "reset": reply.reset("request"),
    "closed": reply.fin("headers"),
    "error first": reply.stream_error("start"),
    "empty 200": reply.empty(),
    "HTML 200": reply.html(200),
    "garbage": reply.garbage(),
}
STREAM_FAILURES: dict[str, Reply] = {
    "ping, then error": reply.stream_error("start", prelude=("ping",)),
    "comment, then error": reply.stream_error("start", prelude=("comment",)),
    "another error first": reply.stream_error("start", "api_error", "Internal server error"),
    "error after message_start": reply.stream_error("message_start"),
    "reset after message_start": reply.reset("message_start"),
    "end after message_start": reply.message().cut("end", "message_start"),
    "end before content": reply.message().cut("end", "content_block_start"),
    "JSON for a stream": reply.json_for_stream(),
    "stream as text/plain": reply.wrong_content_type(),
}
JSON_FAILURES: dict[str, Reply] = {
    "cut in the middle": reply.truncated(),
    "reset in the middle": reply.reset("bytes", 100),
    "a stream for JSON": reply.stream_for_json(),
    "an error with 200": reply.json({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
}


@contextmanager
def failing(fake: FakeProvider, failure: Reply | None) -> Iterator[None]:
    """The provider fails once in this way; None: it refuses connections."""
    if failure is not None:
        fake.script(failure)
    with fake.refusing() if failure is None else nullcontext():
        yield


def check_zai_answered(
    installation: Installation, ledger: LedgerReader, answer: httpx.Response, *, refused: bool
) -> None:
    """Two attempts: the first route once, then Z.AI with its own model name; both in the ledger."""
    assert way(answer) == (200, "zai", "2"), answer.text
    assert len(installation.anthropic.requests) == (0 if refused else 1)
    [request] = installation.zai.requests
    assert (request.path, request.json["model"]) == ("/api/anthropic/v1/messages", GLM)
    first, second = ledger.wait_for_ends(answer.headers["x-ccproxy-request-id"], 2)
    assert (first["route"], first["outcome"], first.get("final")) == ("anthropic", "failed", False)
    assert (second["route"], second["outcome"], second["model_sent"]) == ("zai", "ok", GLM)


@pytest.mark.parametrize("failure", FAILURES)
def test_a_call_succeeds_from_the_next_route(
    http: httpx.Client, installation: Installation, ledger: LedgerReader, sdk: anthropic.Anthropic, failure: str
) -> None:
    """A call for JSON gets Z.AI's answer whole, raw and through the SDK."""
    installation.zai.script(reply.message("from zai", usage=Usage(input=8, output=2)).repeated(2))
    with failing(installation.anthropic, FAILURES[failure]):
        check_zai_answered(installation, ledger, ask(http), refused=FAILURES[failure] is None)
    with failing(installation.anthropic, FAILURES[failure]):
        message = sdk.messages.create(model=MODEL, max_tokens=64, messages=HI)
    assert [block.text for block in message.content if block.type == "text"] == ["from zai"]
    assert (message.usage.input_tokens, message.usage.output_tokens) == (8, 2)


@pytest.mark.parametrize("failure", [*FAILURES, *STREAM_FAILURES])
def test_a_stream_succeeds_from_the_next_route(
    http: httpx.Client, installation: Installation, ledger: LedgerReader, sdk: anthropic.Anthropic, failure: str
) -> None:
    """A stream is Z.AI's alone, from its first event to its last, raw and through the SDK."""
    scripted = {**FAILURES, **STREAM_FAILURES}[failure]
    installation.zai.script(reply.message("from zai", usage=Usage(input=8, output=2)).repeated(2))
    with failing(installation.anthropic, scripted):
        answer = ask(http, STREAM)
    check_zai_answered(installation, ledger, answer, refused=scripted is None)
    names = event_names(answer.content)
    assert (names.count("message_start"), names.count("error"), names[-1]) == (1, 0, "message_stop")
    assert deltas(answer.content) == "from zai"
    with (
        failing(installation.anthropic, scripted),
        sdk.messages.stream(model=MODEL, max_tokens=64, messages=HI) as stream,
    ):
        message = stream.get_final_message()
    assert [block.text for block in message.content if block.type == "text"] == ["from zai"]
    assert (message.usage.input_tokens, message.usage.output_tokens) == (8, 2)


@pytest.mark.parametrize("failure", JSON_FAILURES)
def test_an_answer_is_whole_or_another_routes(
    http: httpx.Client, installation: Installation, ledger: LedgerReader, failure: str
) -> None:
    """An answer in one piece that is broken never reaches the client."""
    installation.anthropic.script(JSON_FAILURES[failure])
    check_zai_answered(installation, ledger, ask(http), refused=False)


def test_tools_and_thinking_survive_the_change_of_route(sdk: anthropic.Anthropic, installation: Installation) -> None:
    """A history that Anthropic made, thinking and tool use in it, is one that Z.AI takes; and back again."""
    installation.anthropic.script(
        reply.tool_use("Read", {"file_path": "a"}, text="I'll read."),
        reply.error(529),
        reply.thinking("hm", "back at Anthropic"),
    )
    installation.zai.script(reply.tool_use("Read", {"file_path": "b"}, tool_id="call_123", text="And another."))
    history: list[Any] = list(HI)
    for result in ("one", "two"):
        message = sdk.messages.create(model=MODEL, max_tokens=64, messages=history, tools=TOOLS)
        [tool] = [block for block in message.content if block.type == "tool_use"]
        history += [
            {"role": "assistant", "content": message.content},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": tool.id, "content": result}]},
        ]
    last = sdk.messages.create(model=MODEL, max_tokens=64, messages=history, tools=TOOLS)
    assert [block.text for block in last.content if block.type == "text"] == ["back at Anthropic"]
    assert (len(installation.anthropic.requests), len(installation.zai.requests)) == (3, 1)


@pytest.mark.parametrize("body", [ASK, STREAM], ids=["json", "stream"])
def test_the_clients_own_fault_is_answered_at_once(
    http: httpx.Client, installation: Installation, body: dict[str, Any]
) -> None:
    """A 400 comes back byte for byte after one attempt, and no other vendor gets to see the request."""
    told = b'{"type": "error",  "error":{"type":"invalid_request_error","message":"prompt is too long: 2 > 1"} , "x":1}'
    installation.anthropic.script(reply.raw(told, status=400, content_type="application/json"))
    answer = ask(http, body)
    assert way(answer) == (400, "anthropic", "1")
    assert answer.content == told
    assert answer.headers["content-type"] == "application/json"
    assert (len(installation.anthropic.requests), installation.zai.requests) == (1, [])


@pytest.mark.parametrize("status", [400, 413, 422])
def test_the_sdk_sees_its_own_fault(sdk: anthropic.Anthropic, installation: Installation, status: int) -> None:
    """A 4xx of the request's own making is the SDK's exception with the provider's words and request id."""
    installation.anthropic.script(reply.error(status, message="the provider's words"))
    with pytest.raises(anthropic.APIStatusError, match="the provider's words") as caught:
        sdk.messages.create(model=MODEL, max_tokens=64, messages=HI)
    assert caught.value.status_code == status
    assert caught.value.request_id == installation.anthropic.served[0].request_id
    assert installation.zai.requests == []


def test_a_request_that_only_the_other_vendor_refuses(http: httpx.Client, installation: Installation) -> None:
    """After an overload, another vendor's 400 means only that it can't take this request: the overload is shown."""
    installation.anthropic.script(reply.error(529))
    installation.zai.script(reply.zai_error(1210))
    answer = ask(http)
    assert answer.status_code == 529
    assert way(answer)[2] == "2"
    assert error_of(answer)["type"] == "overloaded_error"


def test_a_model_that_one_provider_lacks(http: httpx.Client, installation: Installation) -> None:
    """A 404 of the model is made good on the next route, and remembered."""
    body = ASK | {"model": "claude-of-tomorrow"}
    installation.anthropic.script(reply.model_not_found("claude-of-tomorrow"))
    assert way(ask(http, body)) == (200, "zai", "2")
    assert way(ask(http, body)) == (200, "zai", "1")
    assert len(installation.anthropic.requests) == 1


@pytest.mark.parametrize("body", [ASK, STREAM], ids=["json", "stream"])
def test_a_routes_bad_credential_is_never_the_clients(installation: Installation, body: dict[str, Any]) -> None:
    """401, 402 and 403 of the owner's keys are passed over; with nothing else left, the client gets none of them."""
    names = ["refused", "unpaid", "forbidden"]
    faults = dict(zip(names, (reply.error(401), reply.error(402), reply.error(403)), strict=True))
    suffix = "stream" if body is STREAM else "json"
    routes = [(f"{name}-{suffix}", "anthropic", f"sk-ant-{name}") for name in names]
    installation.anthropic.keys = {f"sk-ant-{name}" for name in names}
    proxy = installation.start_proxy(installation.own_routes(*routes, (f"zai-{suffix}", "zai", ZAI_KEY)))
    installation.anthropic.script(*(fault.when(credential=f"sk-ant-{name}") for name, fault in faults.items()))
    with client_of(proxy.url) as client:
        assert way(ask(client, body)) == (200, f"zai-{suffix}", "4")
        installation.zai.script(reply.zai_error(1001))
        answer = ask(client, body)
        assert answer.status_code not in (401, 402, 403)
        assert error_of(answer)["type"] not in ("authentication_error", "permission_error", "billing_error")
        assert len(installation.anthropic.requests) == 3, "a refused credential is not tried again at once"


@pytest.mark.parametrize(
    "broken",
    [
        reply.reset("content_block_delta"),
        reply.fin("content_block_delta"),
        reply.stream_error("content"),
        reply.message().cut("end", "content_block_delta"),
        reply.no_message_stop(),
    ],
    ids=["reset", "closed", "error event", "clean end", "no message_stop"],
)
def test_no_failover_once_committed(
    http: httpx.Client, installation: Installation, ledger: LedgerReader, sdk: anthropic.Anthropic, broken: Reply
) -> None:
    """A stream that breaks after content ends with an error event, the SDK raises, no second route is spliced in."""
    installation.anthropic.script(broken.repeated(2))
    answer = ask(http, STREAM)
    assert way(answer) == (200, "anthropic", "1")
    names = event_names(answer.content)
    assert (names[0], names[-1], names.count("message_start")) == ("message_start", "error", 1)
    assert "message_stop" not in names
    assert answer.content.endswith(b"\n\n")
    with (
        pytest.raises(anthropic.APIStatusError),
        sdk.messages.stream(model=MODEL, max_tokens=64, messages=HI) as stream,
    ):
        stream.get_final_message()
    assert installation.zai.requests == []
    [end] = ledger.wait_for_ends(answer.headers["x-ccproxy-request-id"])
    assert (end["outcome"], end["tokens"]["input"]) == ("failed", installation.anthropic.served[0].usage.input)


@pytest.mark.parametrize(
    ("first", "second", "status", "error_type"),
    [
        (reply.error(529), reply.error(500), 529, "overloaded_error"),
        (reply.error(500), reply.error(529), 500, "api_error"),
        (reply.reset("request"), reply.error(503), 503, "api_error"),
        (reply.reset("request"), reply.reset("request"), 502, "api_error"),
        (reply.empty(), reply.html(200), 502, "api_error"),
        (reply.error(401), reply.error(529), 529, "overloaded_error"),
    ],
    ids=["529 and 500", "500 and 529", "reset and 503", "resets", "no answers", "credential and 529"],
)
@pytest.mark.parametrize("body", [ASK, STREAM], ids=["json", "stream"])
def test_when_all_routes_fail(
    installation: Installation,
    all_fail_proxy: httpx.Client,
    body: dict[str, Any],
    first: Reply,
    second: Reply,
    status: int,
    error_type: str,
) -> None:
    """The most useful error is shown, in Anthropic's shape, with what was tried."""
    installation.anthropic.script(first.forever())
    installation.zai.script(second.forever())
    answer = ask(all_fail_proxy, body)
    assert answer.status_code == status, answer.text
    assert error_of(answer)["type"] == error_type
    assert int(way(answer)[2]) >= 2


@pytest.fixture
def all_fail_proxy(installation: Installation, request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """A client of the shared proxy; of one with routes of its own where a credential is to be condemned."""
    if "credential" in request.node.callspec.id:
        kind = "s" if "stream" in request.node.callspec.id else "j"
        variables = installation.own_routes(
            (f"bad-{kind}", "anthropic", ANTHROPIC_KEY), (f"busy-{kind}", "zai", ZAI_KEY)
        )
        url = installation.start_proxy(variables).url
    else:
        url = request.getfixturevalue("proxy").url
    with client_of(url) as client:
        yield client


def test_a_wait_of_all_routes_is_told(installation: Installation) -> None:
    """When every route asks for patience, the client is told the shortest true wait, and that waiting pays."""
    variables = installation.own_routes(("slow", "anthropic", ANTHROPIC_KEY), ("slower", "zai", ZAI_KEY))
    proxy = installation.start_proxy(variables)
    installation.anthropic.script(reply.error(429, retry_after_s=20))
    installation.zai.script(reply.error(429, retry_after_s=50))
    with client_of(proxy.url) as client:
        for _ in range(2):  # the second one is not even tried
            answer = ask(client)
            assert (answer.status_code, error_of(answer)["type"]) == (429, "rate_limit_error")
            assert 1 <= int(answer.headers["retry-after"]) <= 20
            assert answer.headers["x-should-retry"] == "true"
    assert (len(installation.anthropic.requests), len(installation.zai.requests)) == (1, 1)


def test_a_long_wait_of_all_routes_is_final(installation: Installation) -> None:
    """A wait that clients give up on anyhow says so at once."""
    variables = installation.own_routes(("spent", "anthropic", ANTHROPIC_KEY), ("gone", "zai", ZAI_KEY))
    proxy = installation.start_proxy(variables)
    installation.anthropic.script(reply.error(429, retry_after_s=7200))
    installation.zai.script(reply.error(429, retry_after_s=9000))
    with client_of(proxy.url) as client:
        answer = ask(client)
    assert (answer.status_code, answer.headers["x-should-retry"]) == (429, "false")
    assert 7000 <= int(answer.headers["retry-after"]) <= 7200


def test_count_tokens_never_asks_another_vendor(http: httpx.Client, installation: Installation) -> None:
    """Counting goes to the model's own family alone: when that fails, the client is told, and estimates."""
    installation.anthropic.script(reply.error(529).when("/v1/messages/count_tokens"))
    answer = ask(http, path="/v1/messages/count_tokens")
    assert answer.status_code >= 400
    assert installation.zai.requests == []


def test_a_stale_connection_costs_nothing(http: httpx.Client, installation: Installation) -> None:
    """A connection that the provider has closed unannounced is noticed, and the route is asked again."""
    installation.anthropic.script(reply.message("one").closing(announced=False))
    assert way(ask(http))[0] == 200
    status, route, _ = way(http.post("/v1/messages", json=ASK, headers=HEADERS))
    assert (status, route) == (200, "anthropic")
