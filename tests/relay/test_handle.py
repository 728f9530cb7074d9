"""One request through the relay, in memory: attempts, failover, deadlines, clients that leave, verdicts."""

import asyncio
import gzip
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from service.errors import AllThrottled, BadClientKey, NoRoute, NotFound, PromptTooLong, ProviderFailed, Unreachable
from service.http1.upstream import UpstreamError
from service.ledger.events import AttemptStarted, RouteDisabled, TokenCounts
from service.protocol.usage_estimate import prompt_tokens
from tests.support.fake_upstream import FOREVER, MESSAGE, ScriptedResponse, error, reply, stream
from tests.support.relay_harness import (
    ANTHROPIC,
    ANTHROPIC_KEY,
    ASK,
    ONLY_ANTHROPIC,
    STREAM,
    ZAI_KEY,
    MemoryClient,
    RelayFactory,
    parts_of,
)
from tests.support.streams import DELTA, END, START
from tests.support.virtual_time import advance


async def test_a_whole_answer_passes_unchanged(relays: RelayFactory) -> None:
    relay = relays.make()
    client = await relay.ask(ASK, query="beta=true")
    assert (client.status, client.route, client.attempts, client.ended) == (200, "anthropic", 1, True)
    assert client.json == MESSAGE
    assert client.headers[b"content-length"] == b"%d" % len(client.body)
    [sent] = relay.upstream.sent
    assert (sent.method, sent.base_url, sent.target) == ("POST", ANTHROPIC, b"/v1/messages?beta=true")
    assert sent.headers[b"x-api-key"] == ANTHROPIC_KEY.encode()
    assert sent.json == ASK
    [end] = relay.ends
    assert (end.outcome, end.status, end.tokens.input, end.tokens.output, end.final) == ("ok", 200, 7, 9, True)


async def test_the_start_is_recorded_before_the_request_is_sent(relays: RelayFactory) -> None:
    relay = relays.make()
    relay.outbox.acknowledge_s = 0.05
    task = asyncio.create_task(relay.ask(ASK))
    await advance(0.04)
    assert [type(event) for _, event in relay.events] == [AttemptStarted]
    assert relay.upstream.sent == []
    await task
    assert len(relay.upstream.sent) == 1


@pytest.mark.parametrize("body", [ASK, STREAM], ids=["whole", "stream"])
async def test_the_end_is_recorded_before_the_last_bytes_are_sent(
    relays: RelayFactory, body: Mapping[str, Any]
) -> None:
    relay = relays.make()
    relay.outbox.acknowledge_s = 0.05
    relay.upstream.script(stream(START, DELTA, END) if body is STREAM else reply())
    client = MemoryClient()
    seen: list[int] = []
    client.at_end = lambda: seen.append(len(relay.ends))
    await relay.ask(body, client=client)
    assert seen == [1]


FAILURES: dict[str, tuple[ScriptedResponse | UpstreamError, str]] = {
    "refused": (UpstreamError("connect", "refused"), "connect"),
    "reset": (UpstreamError("reset", "broken"), "reset"),
    "silent": (UpstreamError("timeout", "silent"), "timeout"),
    "500": (error(500), "server_error"),
    "502 with a page": (reply(b"<html>", 502, content_type="text/html"), "server_error"),
    "529": (error(529, "overloaded_error"), "overloaded"),
    "429": (error(429, "rate_limit_error", headers={"retry-after": "7200"}), "quota"),
    "401": (error(401, "authentication_error"), "credential"),
    "402": (error(402, "billing_error"), "billing"),
    "a redirect": (reply(b"", 302), "bad_answer"),
    "an empty 200": (reply(b""), "bad_answer"),
    "garbage": (reply(b"garbage"), "bad_answer"),
}
WHOLE_FAILURES = FAILURES | {
    "an error in a 200": (reply({"type": "error", "error": {"type": "overloaded_error"}}), "overloaded"),
    "no message": (reply({"type": "completion"}), "bad_answer"),
    "a stream": (stream(START, DELTA, END), "bad_answer"),
    "broken in the middle": (
        ScriptedResponse(200, [(b"content-type", b"application/json")], (b"{", UpstreamError("reset", "broken"))),
        "reset",
    ),
}
STREAM_ERROR = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"busy"}}\n\n'
STREAM_FAILURES = FAILURES | {
    "an error first": (stream(STREAM_ERROR), "overloaded"),
    "an error behind the start": (stream(START, STREAM_ERROR), "overloaded"),
    "an end before content": (stream(START), "bad_answer"),
    "no events": (stream(b"<html>" + b" " * 4096), "bad_answer"),
    "JSON": (reply(), "bad_answer"),
    "an event without end": (stream(b"event: message_start\ndata: " + b"x" * 20_000_000), "bad_answer"),
    "broken before content": (stream(START, UpstreamError("reset", "broken")), "reset"),
}


@pytest.mark.parametrize("name", WHOLE_FAILURES)
async def test_a_failure_of_a_whole_answer_is_made_good_on_the_next_route(relays: RelayFactory, name: str) -> None:
    relay = relays.make()
    failure, kind = WHOLE_FAILURES[name]
    relay.upstream.script(failure)
    client = await relay.ask(ASK)
    assert (client.status, client.route, client.attempts) == (200, "zai", 2)
    assert client.json == MESSAGE
    assert relay.ended == [("anthropic", "failed", kind), ("zai", "ok", "")]
    assert [end.final for end in relay.ends] == [False, True]
    assert relay.upstream.sent[1].headers[b"authorization"] == b"Bearer " + ZAI_KEY.encode()


@pytest.mark.parametrize("name", STREAM_FAILURES)
async def test_a_failure_before_content_is_made_good_on_the_next_route(relays: RelayFactory, name: str) -> None:
    relay = relays.make()
    failure, kind = STREAM_FAILURES[name]
    relay.upstream.script(failure, stream(START, DELTA, END))
    client = await relay.ask(STREAM)
    assert (client.status, client.route, client.attempts) == (200, "zai", 2)
    assert client.body == START + DELTA + END
    assert relay.ended == [("anthropic", "failed", kind), ("zai", "ok", "")]


async def test_json_for_a_stream_counts_what_it_used(relays: RelayFactory) -> None:
    relay = relays.make()
    relay.upstream.script(reply(), stream(START, DELTA, END))
    await relay.ask(STREAM)
    assert (relay.ends[0].tokens.input, relay.ends[0].tokens.output) == (7, 9)


async def test_a_stale_connection_is_tried_again_at_once(relays: RelayFactory) -> None:
    relay = relays.make()
    relay.upstream.script(UpstreamError("stale_socket", "closed"))
    client = await relay.ask(ASK)
    assert (client.route, client.attempts) == ("anthropic", 2)
    assert [end.scope for end in relay.ends] == ["", ""]


async def test_a_model_that_is_missing_is_replaced_on_the_same_route(relays: RelayFactory) -> None:
    relay = relays.make()
    relay.upstream.script(error(404, "not_found_error", "model: claude-opus-5-5"))
    client = await relay.ask(ASK)
    models = [sent.json["model"] for sent in relay.upstream.sent]
    assert client.attempts == 2
    assert models[0] == ASK["model"]
    assert models[0] != models[1]


# -- credentials


async def test_a_refused_token_with_a_successor_is_tried_again(relays: RelayFactory) -> None:
    relay = relays.make()
    relay.credentials.tokens["anthropic"] = ["old-token-aaaaaaaa", "new-token-bbbbbbbb"]
    relay.upstream.script(error(401, "authentication_error", "old-token-aaaaaaaa is expired"))
    client = await relay.ask(ASK)
    assert (client.route, client.attempts) == ("anthropic", 2)
    assert [sent.headers[b"x-api-key"] for sent in relay.upstream.sent] == [
        b"old-token-aaaaaaaa",
        b"new-token-bbbbbbbb",
    ]
    first = relay.ends[0]
    assert (first.kind, first.scope, first.final) == ("credential", "", False)
    assert "old-token" not in first.message


async def test_a_refused_token_without_a_successor_is_the_routes_failure(relays: RelayFactory) -> None:
    relay = relays.make()
    relay.credentials.tokens["anthropic"] = ["only-token"]
    relay.upstream.script(error(401, "authentication_error"))
    client = await relay.ask(ASK)
    assert client.route == "zai"
    assert relay.ends[0].scope == "credential"


async def test_a_refresh_may_not_outlast_the_deadline(relays: RelayFactory) -> None:
    relay = relays.make(ONLY_ANTHROPIC)
    relay.credentials.tokens["anthropic"] = ["old", "new"]
    relay.credentials.refresh_s = 60
    relay.upstream.script(error(401, "authentication_error"))
    with pytest.raises(Unreachable):
        await relay.ask(ASK, deadline_ms=5_000)
    assert relay.ended == [("anthropic", "failed", "credential")]


async def test_a_client_that_leaves_during_a_refresh_is_recorded(relays: RelayFactory) -> None:
    relay = relays.make()
    relay.credentials.tokens["anthropic"] = ["old", "new"]
    relay.credentials.refresh_s = 60
    relay.upstream.script(error(401, "authentication_error"))
    await leave(asyncio.create_task(relay.ask(ASK)), after_s=1)
    [end] = relay.ends
    assert (end.outcome, end.kind, end.scope, end.final) == ("failed", "credential", "", True)


async def test_a_route_without_a_credential_is_never_asked(
    relays: RelayFactory, caplog: pytest.LogCaptureFixture
) -> None:
    relay = relays.make()
    relay.credentials.missing["anthropic"] = "log in again"
    client = await relay.ask(ASK)
    assert (client.route, client.attempts) == ("zai", 2)
    assert {route for route, _ in relay.events} == {"zai"}
    relay.credentials.missing["zai"] = "no key"
    with pytest.raises(Unreachable) as raised:
        await relay.ask(ASK)
    assert "Anthropic does not accept the API key and Z.AI does not accept the API key;" in raised.value.message
    assert "anthropic: log in again; zai: no key" in caplog.text


THINKING = ASK | {
    "messages": [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "sig-of-another"}]},
        {"role": "user", "content": "go on"},
    ]
}
BAD_SIGNATURE = error(400, "invalid_request_error", "messages.1.content.0: Invalid `signature` in `thinking` block")


@pytest.mark.parametrize("padding", [0, 1_000_000], ids=["small", "large"])
async def test_refused_signatures_are_left_out_from_then_on(relays: RelayFactory, padding: int) -> None:
    relay = relays.make(ONLY_ANTHROPIC)
    relay.upstream.script(BAD_SIGNATURE)
    body = THINKING | {"system": "x" * padding}
    client = await relay.ask(body)
    assert (client.status, client.attempts) == (200, 2)
    await relay.ask(body)
    assert [b"sig-of-another" in sent.body for sent in relay.upstream.sent] == [True, False, False]


# -- deadlines


@pytest.mark.parametrize("body", [ASK, STREAM], ids=["whole", "stream"])
@pytest.mark.parametrize("silent", [stream(head_s=FOREVER), stream(START, FOREVER)], ids=["head", "content"])
async def test_the_clients_deadline_ends_the_wait(
    relays: RelayFactory, body: Mapping[str, Any], silent: ScriptedResponse
) -> None:
    relay = relays.make(ONLY_ANTHROPIC)
    relay.upstream.script(silent)
    with pytest.raises(Unreachable) as raised:
        await relay.ask(body, deadline_ms=5_000)
    assert (raised.value.status, raised.value.type) == (504, "timeout_error")
    [end] = relay.ends
    assert (end.kind, end.scope, end.total_ms) == ("deadline", "", 5_000)


async def test_a_silent_provider_that_had_its_time_is_at_fault(relays: RelayFactory) -> None:
    relay = relays.make(ONLY_ANTHROPIC)
    relay.upstream.script(stream(head_s=FOREVER))
    with pytest.raises(Unreachable):
        await relay.ask(STREAM, deadline_ms=600_000)
    assert (relay.ends[0].kind, relay.ends[0].scope, relay.ends[0].total_ms) == ("timeout", "route", 600_000)


@pytest.mark.parametrize(("body", "limit_ms"), [(STREAM, 30_000), (ASK, 300_000)], ids=["stream", "whole"])
async def test_a_head_is_waited_for_less_while_another_route_is_left(
    relays: RelayFactory, body: Mapping[str, Any], limit_ms: int
) -> None:
    """A stream for the first byte's limit, a whole answer for half of what is left."""
    relay = relays.make(first_byte_ms=30_000)
    answer = stream(START, DELTA, END, head_s=40) if body is STREAM else reply(head_s=40)
    relay.upstream.script(stream(head_s=FOREVER), answer)
    client = await relay.ask(body, deadline_ms=600_000)
    assert (client.status, client.route) == (200, "zai")
    assert (relay.ends[0].kind, relay.ends[0].total_ms) == ("timeout", limit_ms)


async def test_after_commit_the_deadline_no_longer_counts(relays: RelayFactory) -> None:
    relay = relays.make()
    relay.upstream.script(stream(START, DELTA, 100.0, END))
    client = await relay.ask(STREAM, deadline_ms=5_000)
    assert client.body.endswith(END)


async def test_the_deadline_holds_over_all_routes(relays: RelayFactory) -> None:
    relay = relays.make()
    relay.upstream.script(stream(START, FOREVER))
    with pytest.raises(Unreachable):
        await relay.ask(STREAM, deadline_ms=5_000)
    assert len(relay.upstream.sent) == 1


# -- clients that leave


async def leave(task: "asyncio.Task[MemoryClient]", after_s: float) -> None:
    """The client leaves after a while."""
    await advance(after_s)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


PROMPT_TOKENS = prompt_tokens(msgspec.json.encode(STREAM))
REFUSED = ScriptedResponse(400, ((b"content-type", b"application/json"),), (b"{", FOREVER))


@pytest.mark.parametrize(
    ("body", "response", "tokens"),
    [
        pytest.param(STREAM, stream(head_s=FOREVER), (PROMPT_TOKENS, 0), id="before the head of a stream"),
        pytest.param(STREAM, stream(FOREVER), (PROMPT_TOKENS, 0), id="before its first event"),
        pytest.param(STREAM, stream(START, FOREVER), (7, 1), id="before content"),
        pytest.param(STREAM, stream(START, *[DELTA] * 20, FOREVER), (7, 51), id="behind content"),
        pytest.param(ASK, reply(head_s=FOREVER), (PROMPT_TOKENS, 64), id="before the end of a whole answer"),
    ],
)
async def test_what_a_client_that_leaves_has_used_is_recorded(
    relays: RelayFactory, body: Mapping[str, Any], response: ScriptedResponse, tokens: tuple[int, int]
) -> None:
    """What was not reported by then is estimated, and marked: from what was streamed, or the prompt; of a whole answer
    the mean of all, at most the request's maximum."""
    relay = relays.make()
    relay.upstream.script(response)
    await leave(asyncio.create_task(relay.ask(body)), after_s=1)
    [end] = relay.ends
    assert (end.outcome, end.kind, end.final, end.total_ms) == ("aborted", "", True, 1_000)
    assert (end.tokens.input, end.estimated) == (tokens[0], True)
    assert end.tokens.output == pytest.approx(tokens[1], rel=0.05)
    assert len(relay.upstream.sent) == 1


async def test_a_request_whose_deadline_has_passed_is_estimated_like_one_whose_client_left(
    relays: RelayFactory,
) -> None:
    relay = relays.make()
    relay.upstream.script(stream(head_s=FOREVER))
    with pytest.raises(Unreachable):
        await relay.ask(STREAM, deadline_ms=5_000)
    [end] = relay.ends
    assert (end.kind, end.tokens.input, end.estimated) == ("deadline", PROMPT_TOKENS, True)


async def test_a_stream_that_breaks_is_charged_for_what_has_passed(relays: RelayFactory) -> None:
    relay = relays.make()
    relay.upstream.script(stream(START, *[DELTA] * 20))
    await relay.ask(STREAM)
    [end] = relay.ends
    assert (end.outcome, end.tokens.input, end.estimated) == ("failed", 7, True)
    assert end.tokens.output == pytest.approx(51, rel=0.05)


async def test_what_was_answered_in_full_is_no_estimate(relays: RelayFactory) -> None:
    relay = relays.make()
    relay.upstream.script(stream(START, DELTA, END))
    await relay.ask(STREAM)
    assert not relay.ends[0].estimated


async def test_what_a_provider_has_refused_costs_nothing(relays: RelayFactory) -> None:
    """Also if the client leaves before it has read why."""
    relay = relays.make()
    relay.upstream.script(REFUSED)
    await leave(asyncio.create_task(relay.ask(STREAM)), after_s=1)
    [end] = relay.ends
    assert (end.outcome, end.tokens, end.estimated) == ("aborted", TokenCounts(), False)


async def test_a_client_that_leaves_while_the_end_is_recorded_ends_once(relays: RelayFactory) -> None:
    relay = relays.make()
    relay.outbox.acknowledge_s = 1.0
    await leave(asyncio.create_task(relay.ask(ASK)), after_s=1.5)
    assert relay.ended == [("anthropic", "ok", "")]


async def test_a_client_that_leaves_while_the_start_is_recorded_ends_its_attempt(relays: RelayFactory) -> None:
    relay = relays.make()
    relay.outbox.acknowledge_s = 1.0
    await leave(asyncio.create_task(relay.ask(ASK)), after_s=0.5)
    assert relay.ended == [("anthropic", "aborted", "")]
    assert relay.upstream.sent == []


async def test_stopping_waits_for_requests_that_were_cancelled(relays: RelayFactory) -> None:
    relay = relays.make()
    relay.upstream.script(stream(START, FOREVER))
    relay.outbox.acknowledge_s = 0.1
    task = asyncio.create_task(relay.ask(STREAM))
    await advance(1)
    task.cancel()
    await relay.relay.stop()
    assert relay.ended == [("anthropic", "aborted", "")]
    with pytest.raises(asyncio.CancelledError):
        await task


# -- admission


ONE_SLOT = f"""
[[routes]]
id = "one"
provider = "anthropic"
base_url = "{ANTHROPIC}"
api_key_env = "ANTHROPIC_API_KEY"
concurrency = 1
"""


async def test_a_full_route_is_waited_for_when_no_other_is_left(relays: RelayFactory) -> None:
    relay = relays.make(ONLY_ANTHROPIC, ONE_SLOT)
    relay.upstream.script(reply(head_s=0.3))
    first, second = await asyncio.gather(relay.ask(ASK), relay.ask(ASK))
    assert (first.status, second.status) == (200, 200)
    assert relay.ends[1].started_at_ms - relay.ends[0].at_ms >= 0


async def test_a_route_that_stays_full_is_not_waited_for_for_long(relays: RelayFactory) -> None:
    relay = relays.make(ONLY_ANTHROPIC, ONE_SLOT)
    relay.upstream.script(reply(head_s=60))
    first = asyncio.create_task(relay.ask(ASK))
    await advance(0.1)
    with pytest.raises(AllThrottled) as raised:
        await relay.ask(ASK)
    assert "Anthropic is busy with other requests; try again in 1 second, at " in raised.value.message
    await first


async def test_a_route_that_is_disabled_meanwhile_is_left_out(relays: RelayFactory) -> None:
    relay = relays.make()
    relay.upstream.script(stream(head_s=FOREVER))
    task = asyncio.create_task(relay.ask(ASK, deadline_ms=10_000))
    await advance(1)
    disabled = RouteDisabled(
        event_id=relay.clock.new_id(), at_ms=relay.clock.now_ms(), route="zai", reason="for repair"
    )
    await relay.outbox.append("control", disabled)
    with pytest.raises(Unreachable) as raised:
        await task
    assert "Anthropic did not answer in time and Z.AI is switched off; try again in a moment" in raised.value.message
    assert len(relay.upstream.sent) == 1


# -- verdicts


async def test_the_requests_own_fault_is_shown_as_it_came(relays: RelayFactory) -> None:
    relay = relays.make()
    relay.upstream.script(error(400, "invalid_request_error", "max_tokens: too large", headers={"request-id": "req_1"}))
    client = await relay.ask(ASK)
    assert (client.status, client.route, client.attempts) == (400, "anthropic", 1)
    assert client.json["error"]["message"] == "max_tokens: too large"
    assert client.headers[b"request-id"] == b"req_1"
    assert relay.ended == [("anthropic", "failed", "bad_request")]


@pytest.mark.parametrize("encoding", ["", "gzip"])
async def test_an_error_inside_a_stream_becomes_an_answer(relays: RelayFactory, encoding: str) -> None:
    """Whatever encoding the stream came in: the error is plain JSON."""
    relay = relays.make(ONLY_ANTHROPIC)
    fault = b'event: error\ndata: {"type":"error","error":{"type":"invalid_request_error","message":"no"}}\n\n'
    headers = {"content-encoding": encoding} if encoding else {}
    relay.upstream.script(stream(gzip.compress(fault) if encoding else fault, headers=headers))
    client = await relay.ask(STREAM)
    assert (client.status, client.headers[b"content-type"]) == (400, b"application/json")
    assert client.json["error"]["type"] == "invalid_request_error"
    assert b"content-encoding" not in client.headers


async def test_a_quoted_credential_is_not_shown(relays: RelayFactory) -> None:
    relay = relays.make()
    relay.upstream.script(error(400, "invalid_request_error", f"bad {ANTHROPIC_KEY}", {"request-id": ANTHROPIC_KEY}))
    client = await relay.ask(ASK)
    assert client.status == 400
    assert ANTHROPIC_KEY.encode() not in client.body + client.headers[b"request-id"]
    assert ANTHROPIC_KEY not in relay.ends[0].message


@pytest.mark.parametrize("body", [b"<html>", b'{"detail": "no"}'], ids=["page", "shape"])
async def test_an_error_in_another_shape_is_put_into_anthropics(relays: RelayFactory, body: bytes) -> None:
    relay = relays.make(ONLY_ANTHROPIC)
    relay.upstream.script(reply(body, 500))
    with pytest.raises(ProviderFailed) as raised:
        await relay.ask(ASK)
    assert (raised.value.status, raised.value.type) == (500, "api_error")
    assert "Anthropic had an internal error; try again in a moment" in raised.value.message


@pytest.mark.parametrize(("wait_s", "should_retry"), [(30, True), (7_200, False)])
async def test_a_throttle_of_all_routes_names_its_wait(relays: RelayFactory, wait_s: int, should_retry: bool) -> None:  # noqa: FBT001
    relay = relays.make()
    throttle = error(429, "rate_limit_error", headers={"retry-after": str(wait_s)})
    relay.upstream.script(throttle, throttle)
    with pytest.raises(AllThrottled) as raised:
        await relay.ask(ASK)
    assert (raised.value.retry_after_s, raised.value.should_retry) == (wait_s, should_retry)


async def test_a_short_throttle_is_waited_for_when_nothing_else_is_left(relays: RelayFactory) -> None:
    relay = relays.make(ONLY_ANTHROPIC)
    for _ in range(20):
        await relay.ask(ASK)  # earns a retry
    relay.upstream.script(error(429, "rate_limit_error", headers={"retry-after": "1"}))
    client = await relay.ask(ASK)
    assert (client.status, client.attempts) == (200, 2)
    assert relay.ends[-1].started_at_ms - relay.ends[-2].at_ms >= 1_000


@pytest.mark.parametrize(
    ("failure", "status", "error_type"),
    [
        (UpstreamError("connect", "refused"), 502, "api_error"),
        (UpstreamError("timeout", "silent"), 504, "timeout_error"),
        (reply(b"busy", 529), 529, "overloaded_error"),
    ],
    ids=["refused", "silent", "overloaded"],
)
async def test_when_every_route_fails_the_error_says_why(
    relays: RelayFactory, failure: ScriptedResponse | UpstreamError, status: int, error_type: str
) -> None:
    relay = relays.make()
    relay.upstream.script(failure, UpstreamError("reset", "broken") if status != 529 else failure)
    with pytest.raises(Unreachable) as raised:
        await relay.ask(STREAM)
    assert (raised.value.status, raised.value.type) == (status, error_type)


async def test_when_every_route_fails_the_error_names_each(relays: RelayFactory) -> None:
    relay = relays.make()
    relay.upstream.script(UpstreamError("connect", "refused"), UpstreamError("reset", "broken"))
    with pytest.raises(Unreachable) as raised:
        await relay.ask(STREAM)
    assert raised.value.message.startswith(
        "No provider can answer this request: Anthropic could not be reached and Z.AI broke off the connection; "
    )


async def test_a_providers_overload_is_shown_when_every_route_fails(relays: RelayFactory) -> None:
    relay = relays.make()
    relay.upstream.script(stream(STREAM_ERROR), stream(STREAM_ERROR))
    with pytest.raises(ProviderFailed) as raised:
        await relay.ask(STREAM)
    assert (raised.value.status, raised.value.type) == (529, "overloaded_error")


async def test_a_prompt_that_no_model_holds_is_refused_unasked(relays: RelayFactory) -> None:
    relay = relays.make()
    with pytest.raises(PromptTooLong) as raised:
        await relay.ask(ASK | {"messages": [{"role": "user", "content": "word " * 3_000_000}]})
    assert raised.value.message.startswith("capability_rejected: prompt_too_long (")
    assert relay.upstream.sent == []


async def test_without_any_credential_the_client_is_told_so(relays: RelayFactory) -> None:
    relay = relays.make({})
    with pytest.raises(BadClientKey):
        relay.relay.check_access(relay.request(ASK))
    with pytest.raises(NotFound):
        relay.relay.check_access(relay.request(ASK, endpoint="count_tokens"))


async def test_a_request_that_no_route_takes_is_refused(relays: RelayFactory) -> None:
    relay = relays.make(ONLY_ANTHROPIC)
    disabled = RouteDisabled(event_id=relay.clock.new_id(), at_ms=relay.clock.now_ms(), route="anthropic")
    await relay.outbox.append("control", disabled)
    with pytest.raises(NoRoute) as raised:
        await relay.ask(ASK)
    assert "Anthropic is switched off; trying again won't help until that changes" in raised.value.message


async def test_tokens_that_nobody_counts_are_a_404(relays: RelayFactory) -> None:
    relay = relays.make()
    relay.upstream.script(reply({"input_tokens": 0}), reply(b"garbage"))
    with pytest.raises(NotFound):
        await relay.ask(ASK, "/v1/messages/count_tokens", endpoint="count_tokens")


async def test_a_key_may_be_bound_to_some_routes(relays: RelayFactory) -> None:
    relay = relays.make()
    client = await relay.ask(ASK, only_routes=("zai",))
    assert client.route == "zai"


# -- what else a request may be


async def test_an_upload_is_sent_once(relays: RelayFactory) -> None:
    relay = relays.make(ONLY_ANTHROPIC)
    upload: dict[str, Any] = {"endpoint": "files", "headers": [(b"content-length", b"4")]}
    relay.upstream.script(reply({"id": "file_1", "type": "file"}))
    client = await relay.ask(b"", "/v1/files", upload=parts_of(b"ab", b"cd"), **upload)
    assert client.status == 200
    assert relay.upstream.sent[0].body == b"abcd"
    assert relay.upstream.sent[0].headers[b"content-length"] == b"4"
    relay.upstream.script(UpstreamError("stale_socket", "closed"))
    with pytest.raises(Unreachable) as raised:
        await relay.ask(b"", "/v1/files", upload=parts_of(b"ab"), **upload)
    assert "Anthropic broke off the connection; " in raised.value.message
    assert len(relay.upstream.sent) == 2


async def test_an_attempt_that_is_not_the_usual_one_has_a_line_in_the_log(
    relays: RelayFactory, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure, a second attempt, and a model that is mapped; the request's own line is the edge's."""
    caplog.set_level("INFO", "ccproxy.relay")
    relay = relays.make()
    relay.upstream.script(error(500))
    await relay.ask(ASK)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "← Anthropic 500 | server_error | no"
    assert lines[1].startswith("  model remap: claude-opus-5-5 → glm")
    assert lines[2:] == ["→ Z.AI POST /v1/messages"]


async def test_a_compressed_body_goes_up_as_it_came_if_it_need_not_change(relays: RelayFactory) -> None:
    relay = relays.make()
    headers = [(b"content-type", b"application/json"), (b"content-encoding", b"gzip")]
    plain = msgspec.json.encode(ASK)
    relay.upstream.script(error(500))
    request = relay.request(plain, model=ASK["model"], headers=headers)
    request.body = b"compressed"
    relay.relay.check_access(request)
    await relay.relay.handle(request, MemoryClient())
    first, second = relay.upstream.sent
    assert (first.body, first.headers[b"content-encoding"]) == (b"compressed", b"gzip")
    assert second.json["messages"] == ASK["messages"]
    assert b"content-encoding" not in second.headers
