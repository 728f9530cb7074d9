"""A 4xx that no rule knows is tried once on another account of the same provider, which says whose fault it is."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from service.http1.upstream import UpstreamError
from service.ledger.events import AttemptEnded, AttemptStarted
from service.settings import Route
from tests.support.fake_upstream import FOREVER, MESSAGE, ScriptedResponse, error, reply, stream
from tests.support.relay_harness import ASK, STREAM, MemoryClient, RelayFactory, RelayHarness
from tests.support.streams import DELTA, END, START
from tests.support.virtual_time import advance

FIRST, SECOND = "https://first.test", "https://second.test"
ROUTE = '[[routes]]\nid = "{id}"\nprovider = "{provider}"\nbase_url = "https://{id}.test"\napi_key = "{key}"\n{more}\n'
WORDS = "Not while the moon is full"
ANSWERS = {"whole": reply(), "stream": stream(START, DELTA, END)}
BODIES: dict[str, Mapping[str, Any]] = {"whole": ASK, "stream": STREAM}


def routes(*, second_key: str = "second-key", third: str = "zai", more: str = "") -> str:
    """Two accounts of one provider, and another provider behind them."""
    return (
        ROUTE.format(id="first", provider="anthropic", key="first-key", more="")
        + ROUTE.format(id="second", provider="anthropic", key=second_key, more=more)
        + ROUTE.format(id="third", provider=third, key="third-key", more="")
    )


def refusal(message: str = WORDS, status: int = 400, error_type: str = "invalid_request_error") -> ScriptedResponse:
    """An error whose words no rule knows."""
    return error(status, error_type, message)


def stream_refusal(message: str = WORDS) -> ScriptedResponse:
    """The same inside a stream, before any content."""
    data = f'{{"type":"error","error":{{"type":"invalid_request_error","message":"{message}"}}}}'
    return stream(START, f"event: error\ndata: {data}\n\n".encode())


REFUSALS = {"whole": refusal(), "stream": stream_refusal()}


def asked(relay: RelayHarness) -> list[str]:
    """The providers that were asked, in order."""
    return [sent.base_url for sent in relay.upstream.sent]


def kept(relay: RelayHarness) -> list[tuple[str, bool, bool]]:
    """Of each end on the ledger: its route, whether its words count, and whether it was the request's last."""
    ends = [(route, event) for route, event in relay.events if isinstance(event, AttemptEnded)]
    return [(route, bool(event.words), event.final) for route, event in ends]


@pytest.mark.parametrize("kind", BODIES)
async def test_an_answer_is_the_clients(relays: RelayFactory, kind: str) -> None:
    """The other account answers: the first one's words count against it."""
    relay = relays.make({}, routes())
    relay.upstream.script(REFUSALS[kind], base_url=FIRST)
    relay.upstream.script(ANSWERS[kind], base_url=SECOND)
    client = await relay.ask(BODIES[kind])
    assert (client.status, client.route, client.attempts) == (200, "second", 2)
    assert relay.ended == [("second", "ok", ""), ("first", "failed", "bad_request")]
    assert kept(relay) == [("second", False, True), ("first", True, False)]
    assert asked(relay) == [FIRST, SECOND]


@pytest.mark.parametrize("kind", BODIES)
async def test_the_same_refusal_confirms(relays: RelayFactory, kind: str) -> None:
    """The first error is the client's, as it came; neither account's words count, and no other provider is asked."""
    relay = relays.make({}, routes())
    relay.upstream.script(REFUSALS[kind], base_url=FIRST)
    relay.upstream.script(refusal("Nor here", 422), base_url=SECOND)
    client = await relay.ask(BODIES[kind])
    assert (client.status, client.route, client.attempts) == (400, "first", 2)
    assert client.json["error"] == {"type": "invalid_request_error", "message": WORDS}
    assert kept(relay) == [("second", False, True), ("first", False, False)]
    assert asked(relay) == [FIRST, SECOND]


NO_OPINIONS: dict[str, ScriptedResponse | UpstreamError] = {
    "throttled": error(429, "rate_limit_error", headers={"retry-after": "30"}),
    "broken": error(500),
    "overloaded": error(529, "overloaded_error"),
    "without the model": error(404, "not_found_error", "model: claude-opus-5-5"),
    "without credit": error(400, "invalid_request_error", "Your credit balance is too low"),
    "refused": UpstreamError("connect", "refused"),
}


@pytest.mark.parametrize("name", NO_OPINIONS)
@pytest.mark.parametrize("kind", BODIES)
async def test_anything_else_is_no_opinion(relays: RelayFactory, kind: str, name: str) -> None:
    """The first error is the client's, as it came; its words count, and nobody else is asked."""
    relay = relays.make({}, routes())
    relay.upstream.script(REFUSALS[kind], base_url=FIRST)
    relay.upstream.script(NO_OPINIONS[name], base_url=SECOND)
    client = await relay.ask(BODIES[kind])
    assert (client.status, client.route) == (400, "first")
    assert client.json["error"]["message"] == WORDS
    assert kept(relay) == [("second", False, True), ("first", True, False)]
    assert asked(relay) == [FIRST, SECOND]


async def test_without_another_account_the_error_is_shown(relays: RelayFactory) -> None:
    """Another provider, and the same key once more, have no opinion: neither is asked."""
    relay = relays.make({}, routes(second_key="first-key"))
    relay.upstream.script(refusal())
    client = await relay.ask(ASK)
    assert (client.status, client.attempts) == (400, 1)
    assert kept(relay) == [("first", True, True)]
    assert asked(relay) == [FIRST]


async def test_words_that_point_into_the_request_need_no_opinion(relays: RelayFactory) -> None:
    relay = relays.make({}, routes())
    relay.upstream.script(refusal("messages.0.content: at least one block is required"))
    client = await relay.ask(ASK)
    assert (client.status, client.attempts) == (400, 1)
    assert kept(relay) == [("first", False, True)]


@pytest.mark.parametrize("third", ["anthropic", "zai"])
async def test_an_opinion_is_asked_once(relays: RelayFactory, third: str) -> None:
    """After an account without an opinion there is no third one."""
    relay = relays.make({}, routes(third=third))
    relay.upstream.script(refusal(), error(500))
    assert (await relay.ask(ASK)).status == 400
    assert asked(relay) == [FIRST, SECOND]


async def test_an_account_that_is_not_admitted_has_no_opinion(relays: RelayFactory) -> None:
    """With all its slots in use, the other account is passed over: the refusal was the request's last attempt."""
    relay = relays.make({}, routes(more="concurrency = 1"))
    relay.upstream.script(refusal(), refusal(), base_url=FIRST)
    relay.upstream.script(reply(head_s=60), base_url=SECOND)
    busy = asyncio.create_task(relay.ask(ASK))
    await advance(0.1)
    client = await relay.ask(ASK)
    assert (client.status, client.route, client.attempts) == (400, "first", 1)
    assert kept(relay) == [("first", True, True)]
    assert (await busy).json == MESSAGE


async def test_the_refusal_has_the_time_at_which_it_ended(relays: RelayFactory) -> None:
    relay = relays.make({}, routes())
    relay.upstream.script(refusal(), base_url=FIRST)
    relay.upstream.script(reply(head_s=7), base_url=SECOND)
    await relay.ask(ASK)
    opinion, first = relay.ends
    assert (first.at_ms, first.total_ms) == (first.started_at_ms, 0)
    assert opinion.at_ms - first.at_ms == 7_000


STALE: dict[str, ScriptedResponse | UpstreamError] = {
    "token": error(401, "authentication_error", "OAuth token has expired"),
    "connection": UpstreamError("stale_socket", "closed"),
}


@pytest.mark.parametrize("stale", STALE)
@pytest.mark.parametrize("kind", BODIES)
async def test_a_stale_opinion_is_asked_once_more(relays: RelayFactory, kind: str, stale: str) -> None:
    """A token that was refreshed since, or a connection that had gone, says nothing of the request."""
    relay = relays.make({}, routes())
    relay.credentials.tokens["second"] = ["old", "new"]
    relay.upstream.script(REFUSALS[kind], base_url=FIRST)
    relay.upstream.script(STALE[stale], ANSWERS[kind], base_url=SECOND)
    client = await relay.ask(BODIES[kind])
    assert (client.status, client.route, client.attempts) == (200, "second", 3)
    assert asked(relay) == [FIRST, SECOND, SECOND]
    assert kept(relay) == [("second", False, False), ("second", False, True), ("first", True, False)]
    assert [end.opinion for end in relay.ends] == ["", "", "answered"]
    assert relay.watcher.view.ledger("second").waits == {}


@pytest.mark.parametrize("stale", STALE)
async def test_a_stale_opinion_that_refuses_then_confirms(relays: RelayFactory, stale: str) -> None:
    """The request is at fault, and the client gets its first error."""
    relay = relays.make({}, routes())
    relay.credentials.tokens["second"] = ["old", "new"]
    relay.upstream.script(refusal(), base_url=FIRST)
    relay.upstream.script(STALE[stale], refusal("Nor here", 422), base_url=SECOND)
    client = await relay.ask(ASK)
    assert (client.status, client.route, client.json["error"]["message"]) == (400, "first", WORDS)
    assert [end.opinion for end in relay.ends] == ["", "", "confirmed"]
    assert not any(end.words for end in relay.ends)


@pytest.mark.parametrize("stale", STALE)
async def test_an_opinion_that_stays_stale_is_none(relays: RelayFactory, stale: str) -> None:
    """It is repeated once, and no third account is asked."""
    relay = relays.make({}, routes(third="anthropic"))
    relay.credentials.tokens["second"] = ["old", "new", "newer"]
    relay.upstream.script(refusal(), base_url=FIRST)
    relay.upstream.script(STALE[stale], STALE[stale], reply(), base_url=SECOND)
    client = await relay.ask(ASK)
    assert (client.status, client.route) == (400, "first")
    assert asked(relay) == [FIRST, SECOND, SECOND]
    assert [end.opinion for end in relay.ends] == ["", "", "none"]


async def test_a_client_that_leaves_during_the_opinion(relays: RelayFactory) -> None:
    """Both attempts are on the ledger, once; the words count, since nobody has said that it was the request."""
    relay = relays.make({}, routes())
    relay.upstream.script(refusal(), base_url=FIRST)
    relay.upstream.script(reply(head_s=FOREVER), base_url=SECOND)
    request = relay.request(ASK)
    relay.relay.check_access(request)
    task = asyncio.create_task(relay.relay.handle(request, MemoryClient()))
    await advance(3)
    assert [type(event) for _, event in relay.events] == [AttemptStarted, AttemptStarted]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert relay.ended == [("second", "aborted", ""), ("first", "failed", "bad_request")]
    assert kept(relay) == [("second", False, True), ("first", True, False)]
    assert relay.ends[1].at_ms == relay.ends[1].started_at_ms
    assert request.last is not None
    assert request.last.route.id == "second"


async def test_a_client_that_leaves_before_the_opinion_is_asked(relays: RelayFactory) -> None:
    """The refusal was the request's last attempt."""
    relay = relays.make({}, routes())
    relay.upstream.script(refusal(), base_url=FIRST)
    of_first = relay.credentials.of

    async def silent(route: Route) -> str:
        if route.id == "second":
            await advance(60)
        return await of_first(route)

    relay.credentials.of = silent  # type: ignore[method-assign]
    request = relay.request(ASK)
    relay.relay.check_access(request)
    task = asyncio.create_task(relay.relay.handle(request, MemoryClient()))
    await advance(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert kept(relay) == [("first", True, True)]


@pytest.mark.parametrize("kind", BODIES)
async def test_an_opinion_beyond_the_deadline_is_none(relays: RelayFactory, kind: str) -> None:
    """The first error is the client's, not that the deadline has passed."""
    relay = relays.make({}, routes())
    relay.upstream.script(REFUSALS[kind], base_url=FIRST)
    relay.upstream.script(reply(head_s=FOREVER), base_url=SECOND)
    client = await relay.ask(BODIES[kind], deadline_ms=5_000)
    assert (client.status, client.route) == (400, "first")
    assert kept(relay) == [("second", False, True), ("first", True, False)]


async def test_an_opinion_that_breaks_after_content_ends_the_stream(relays: RelayFactory) -> None:
    relay = relays.make({}, routes())
    relay.upstream.script(stream_refusal(), base_url=FIRST)
    relay.upstream.script(stream(START, DELTA, UpstreamError("reset", "broken")), base_url=SECOND)
    client = await relay.ask(STREAM)
    assert (client.status, client.broken, client.route) == (200, True, "second")
    assert b"event: error" in client.body
    assert kept(relay) == [("second", False, True), ("first", True, False)]


async def test_a_refusal_after_content_has_no_second_opinion(relays: RelayFactory) -> None:
    """The client has a part of the answer: the stream ends with the error, whose words count."""
    relay = relays.make({}, routes())
    refused = stream_refusal().steps
    relay.upstream.script(stream(START, DELTA, *refused[1:]), base_url=FIRST)
    client = await relay.ask(STREAM)
    assert (client.status, client.broken) == (200, True)
    assert kept(relay) == [("first", True, True)]


async def test_the_same_words_are_the_same_inside_a_stream(relays: RelayFactory) -> None:
    """One fingerprint, whatever way the words came, and whatever was quoted or numbered in them."""
    relay = relays.make({}, routes(second_key="first-key"))
    relay.upstream.script(
        refusal(WORDS + " (12 days, 'one')"), stream_refusal(WORDS + " (7 days, 'two')"), refusal("Not by day")
    )
    for body in (ASK, STREAM, ASK):
        await relay.ask(body)
    first, second, other = (end.words for end in relay.ends)
    assert first == second != other


async def test_three_bodies_of_two_clients_leave_the_account(relays: RelayFactory) -> None:
    """Refused in the same words, and nobody can say that it was the requests: the next one goes elsewhere at once."""
    relay = relays.make({}, routes(second_key="first-key"))
    relay.upstream.script(*[refusal()] * 6, base_url=FIRST)
    for number, client in enumerate(("a", "a", "b")):
        await relay.ask(ASK | {"max_tokens": number + 1}, client_key=client)
    assert (await relay.ask(ASK, client_key="a")).route == "second"
