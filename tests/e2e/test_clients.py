"""Clients through the proxy: Anthropic's SDK does all that it does without one, and what it sends arrives unchanged."""

from typing import Any

import anthropic
import httpx
import pytest

from tests.fakes import FakeProvider, Text, Thinking, ToolUse, Usage, reply
from tests.fakes.vendors import CLAUDE_MODELS
from tests.support.installation import ANTHROPIC_KEY, ZAI_KEY, Installation, Proxy
from tests.support.messages import ASK, HEADERS, HI, MODEL, OWN_HEADERS, STREAM, TOOLS, ask, event_names, usage_of, way

pytestmark = pytest.mark.e2e
USAGE = Usage(input=21, output=9, cache_read=7, cache_write_5m=5, cache_write_1h=3)
ODD_BODY = (
    '{ "stream": false,\n\t"model" : "claude-opus-5-5", "max_tokens": 6.0e1, "unknown_field": {"ä": [1.0, 1e2, null]},'
    ' "messages": [{"role": "system", "content": "mid"}, {"content": "naïve \\u65e5 日本語 🙂", "role": "user"}] }\r\n'
).encode()


def test_create_gives_the_message_and_its_usage(sdk: anthropic.Anthropic, anthropic_fake: FakeProvider) -> None:
    """messages.create gives the provider's message, with exactly its usage and its request id."""
    anthropic_fake.script(reply.message("naïve 🙂", usage=USAGE))
    message = sdk.messages.create(model=MODEL, max_tokens=64, messages=HI)
    assert [block.text for block in message.content if block.type == "text"] == ["naïve 🙂"]
    assert usage_of(message.usage) == USAGE
    assert message._request_id == anthropic_fake.served[0].request_id


def test_stream_gives_thinking_text_and_tools(sdk: anthropic.Anthropic, anthropic_fake: FakeProvider) -> None:
    """messages.stream gives every block as the provider sent it, signature and tool arguments included."""
    arguments = {"file_path": "note ä.txt", "limit": 3}
    anthropic_fake.script(
        reply.message(blocks=(Thinking("why?"), Text("naïve 🙂"), ToolUse("Read", arguments)), usage=USAGE)
    )
    with sdk.messages.stream(
        model=MODEL, max_tokens=2048, messages=HI, tools=TOOLS, thinking={"type": "enabled", "budget_tokens": 1024}
    ) as stream:
        message = stream.get_final_message()
    thinking, text, tool = message.content
    assert (thinking.type, text.type, tool.type) == ("thinking", "text", "tool_use")
    assert thinking.type == "thinking"
    assert (thinking.thinking, thinking.signature[:14]) == ("why?", "sig-anthropic-")
    assert text.type == "text"
    assert text.text == "naïve 🙂"
    assert tool.type == "tool_use"
    assert tool.input == arguments
    assert (message.stop_reason, usage_of(message.usage)) == ("tool_use", USAGE)
    sent = anthropic_fake.requests[0].json
    assert (sent["thinking"], sent["tools"]) == ({"type": "enabled", "budget_tokens": 1024}, TOOLS)


def test_a_tool_round_trip(sdk: anthropic.Anthropic, anthropic_fake: FakeProvider) -> None:
    """An answer goes back as history, thinking and tool result with it, and the provider takes it as its own."""
    anthropic_fake.script(
        reply.message(blocks=(Thinking("why?"), ToolUse("Read", {"file_path": "a"}))), reply.message("done")
    )
    first = sdk.messages.create(model=MODEL, max_tokens=64, messages=HI, tools=TOOLS)
    [tool] = [block for block in first.content if block.type == "tool_use"]
    history: list[Any] = [
        *HI,
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": tool.id, "content": "it says hi"}]},
    ]
    last = sdk.messages.create(model=MODEL, max_tokens=64, messages=history, tools=TOOLS)
    assert [block.text for block in last.content if block.type == "text"] == ["done"]


def test_count_tokens_and_models(sdk: anthropic.Anthropic) -> None:
    """count_tokens comes from the provider; the list of models is joined over the routes, in pages and one by one."""
    assert sdk.messages.count_tokens(model=MODEL, messages=HI).input_tokens > 0
    names = [model.id for model in sdk.models.list(limit=3)]
    assert len(names) == len(set(names))
    of_the_provider = set(CLAUDE_MODELS)
    assert {name for name in names if name.startswith("claude")} == of_the_provider
    assert any(name.startswith("glm") for name in names)
    assert {sdk.models.retrieve(name).id for name in (names[0], names[-1])} == {names[0], names[-1]}
    with pytest.raises(anthropic.NotFoundError):
        sdk.models.retrieve("claude-none")


def test_a_batch_up_to_its_results(sdk: anthropic.Anthropic, proxy: Proxy, anthropic_fake: FakeProvider) -> None:
    """A batch is made, ends, and its results are fetched at an absolute URL, which leads back through the proxy."""
    params: Any = {"model": MODEL, "max_tokens": 5, "messages": HI}
    batch = sdk.messages.batches.create(requests=[{"custom_id": name, "params": params} for name in "ab"])
    ended = sdk.messages.batches.retrieve(batch.id)
    assert ended.results_url == f"{proxy.url}/v1/messages/batches/{batch.id}/results"
    assert [(line.custom_id, line.result.type) for line in sdk.messages.batches.results(batch.id)] == [
        ("a", "succeeded"),
        ("b", "succeeded"),
    ]
    assert batch.id in [each.id for each in sdk.messages.batches.list()]
    assert {request.credential for request in anthropic_fake.requests} == {ANTHROPIC_KEY}


def test_a_batch_stays_where_it_was_made(installation: Installation, sdk: anthropic.Anthropic) -> None:
    """Another proxy of the fleet finds a batch on the route that made it, though that is not its first."""
    batch = sdk.messages.batches.create(requests=[{"custom_id": "a", "params": ASK}])  # type: ignore[typeddict-item]
    routes = installation.own_routes(("other", "anthropic", "sk-ant-none"), ("anthropic", "anthropic", ANTHROPIC_KEY))
    second = installation.start_proxy(routes)
    with anthropic.Anthropic(base_url=second.url, api_key="placeholder", max_retries=0) as client:
        assert client.messages.batches.retrieve(batch.id).id == batch.id


def test_files_go_up_and_come_down(sdk: anthropic.Anthropic, anthropic_fake: FakeProvider) -> None:
    """A file's bytes arrive and come back unharmed."""
    content = bytes(range(256)) * 1000
    made = sdk.beta.files.upload(file=("ä.bin", content, "application/octet-stream"))
    assert sdk.beta.files.download(made.id).read() == content
    sdk.beta.files.delete(made.id)
    assert {request.credential for request in anthropic_fake.requests} == {ANTHROPIC_KEY}


@pytest.mark.parametrize("body", [ODD_BODY, ODD_BODY.replace(b"false", b"true")], ids=["json", "stream"])
def test_a_request_arrives_as_it_was_sent(http: httpx.Client, anthropic_fake: FakeProvider, body: bytes) -> None:
    """Body bytes, query, version and betas reach the provider unchanged."""
    headers = HEADERS | {
        "content-type": "application/json",
        "anthropic-version": "2026-10-21",
        "anthropic-beta": "one-2025-01-01,two-2026-02-02",
        "anthropic-workspace-id": "wrkspc_1",
        "x-claude-code-session-id": "11111111-2222-4333-8444-555555555555",
        "x-stainless-lang": "js",
        "user-agent": "claude-cli/2.1.330 (external, sdk-cli)",
    }
    answer = http.post("/v1/messages?beta=true&x=%20a", content=body, headers=headers)
    assert way(answer) == (200, "anthropic", "1")
    [request] = anthropic_fake.requests
    assert (request.path, request.query) == ("/v1/messages", "beta=true&x=%20a")
    assert request.body == body
    replaced = {"x-api-key": ANTHROPIC_KEY}
    for name, value in (headers | replaced).items():
        assert request.header(name) == value, name
    assert request.header("content-length") == str(len(body))


def test_an_answer_comes_as_it_was_sent(http: httpx.Client, anthropic_fake: FakeProvider) -> None:
    """The provider's bytes reach the client unchanged, JSON and stream, with the headers that clients read."""
    odd = (
        b'{"type": "message",  "id":"msg_1", "content":[ ], "usage":{"input_tokens": 3,"output_tokens":1}, "x": 1e3}\n'
    )
    stream = (
        b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":3}}     }\n\n'
        b': a comment\nevent: content_block_delta\r\ndata: {"type":"content_block_delta","delta":{"text":"a"}}\r\n\r\n'
        b'event: new_kind\ndata: {"type":"new_kind"}\n\nevent: message_delta\ndata: {"type":"message_delta",'
        b'"usage":{"output_tokens":7}}\n\nevent: message_stop\ndata: {"type":"message_stop" }\n\n'
    )
    headers = {"retry-after": "1", "anthropic-ratelimit-requests-remaining": "7", "cf-ray": "x", "set-cookie": "a=b"}
    anthropic_fake.script(
        reply.raw(odd, content_type="application/json").with_headers(headers),
        reply.raw(stream, content_type="text/event-stream; charset=utf-8"),
    )
    answer = ask(http)
    assert answer.content == odd
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["anthropic-ratelimit-requests-remaining"] == "7"
    assert answer.headers["request-id"] == anthropic_fake.served[0].request_id
    assert not {"set-cookie", "cf-ray", "connection"} & set(answer.headers)
    assert ask(http, STREAM).content == stream


@pytest.mark.parametrize(
    "shown",
    [
        {"x-api-key": "a"},
        {"authorization": "Bearer b"},
        {"x-api-key": "a", "authorization": "Bearer b"},
        {"x-api-key": "sk-ant-api03-somebody-elses"},
        {},
    ],
    ids=["x-api-key", "bearer", "both", "a real key", "none"],
)
def test_the_owners_credential_replaces_the_clients(
    http: httpx.Client, anthropic_fake: FakeProvider, shown: dict[str, str]
) -> None:
    """Whatever credential the client shows, in either header, the provider sees the owner's alone."""
    answer = http.post("/v1/messages", json=ASK, headers={"anthropic-version": "2023-06-01", **shown})
    assert way(answer) == (200, "anthropic", "1")
    [request] = anthropic_fake.requests
    assert (request.credential_kind, request.credential) == ("x-api-key", ANTHROPIC_KEY)


def test_zai_is_told_nothing_but_the_request(http: httpx.Client, installation: Installation) -> None:
    """Towards another vendor go its own key and the request: no betas, session, machine, or key of Anthropic's."""
    installation.anthropic.script(reply.error(529))
    headers = {
        "anthropic-beta": "one-2025-01-01",
        "x-claude-code-session-id": "11111111-2222-4333-8444-555555555555",
        "x-stainless-os": "Linux",
        "cookie": "a=b",
        "user-agent": "claude-cli/2.1.330 (external, sdk-cli)",
    }
    assert way(ask(http, ASK, headers)) == (200, "zai", "2")
    [request] = installation.zai.requests
    assert (request.credential_kind, request.credential) == ("bearer", ZAI_KEY)
    sent = {name.lower() for name, _ in request.headers}
    assert sent & {"anthropic-beta", "x-claude-code-session-id", "x-stainless-os", "cookie", "x-api-key"} == set()
    assert request.header("user-agent") == headers["user-agent"]
    assert ANTHROPIC_KEY not in str(request.headers) + request.body.decode()


def test_every_answer_names_its_request_and_route(http: httpx.Client, anthropic_fake: FakeProvider) -> None:
    """Good and bad, JSON, stream and counting: each answer says its id, its route and its attempts. What is told of
    models is joined over two routes, and names none."""
    answers = [
        ask(http),
        ask(http, STREAM),
        ask(http, path="/v1/messages/count_tokens"),
        http.get("/v1/models", headers=HEADERS),
        http.get(f"/v1/models/{MODEL}", headers=HEADERS),
        http.get("/v1/nothing/of/the/kind", headers=HEADERS),
    ]
    anthropic_fake.script(reply.bad_request("no"))
    answers.append(ask(http))
    joined = [answers.pop(3), answers.pop(3)]
    assert [(way(answer)[1:], answer.status_code) for answer in joined] == [((None, "2"), 200)] * 2
    assert [way(answer)[1:] for answer in answers] == [("anthropic", "1")] * 5
    assert [answer.status_code for answer in answers] == [200, 200, 200, 404, 400]
    assert len({answer.headers["x-ccproxy-request-id"] for answer in (*joined, *answers)}) == 7
    own = http.post("/v1/messages/%2e%2e/x", headers=HEADERS)
    assert own.status_code == 404
    assert [name for name in OWN_HEADERS if not own.headers.get(name)] == []


def test_streams_are_not_buffered(http: httpx.Client, anthropic_fake: FakeProvider) -> None:
    """The first content reaches the client while the provider has not yet sent the rest."""
    anthropic_fake.script(reply.hang("content_block_delta"))
    with http.stream("POST", "/v1/messages", json=STREAM, headers=HEADERS) as answer:
        seen = b""
        for chunk in answer.iter_raw():
            seen += chunk
            if "content_block_delta" in event_names(seen):
                break
    assert anthropic_fake.served[0].ended in ("hang", "client_gone")
    anthropic_fake.wait_until(lambda: anthropic_fake.requests[0].aborted)
