"""Whose fault an error is, by its words, its status and its endpoint: from the provider's answer to the next route.

Many words and statuses on a relay in memory; the reported cases themselves, over sockets, are in `tests.faults`.
"""

import asyncio
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from service.errors import ProxyError
from service.http1.upstream import UpstreamError
from service.routing.rank import RoutingRequest, rank
from tests.support.fake_upstream import FOREVER, ScriptedResponse, SentRequest, error, reply, stream
from tests.support.relay_harness import ANTHROPIC, BOTH, MODEL, ZAI, RelayFactory, RelayHarness
from tests.support.streams import DELTA, END, START
from tests.support.virtual_time import JumpingLoop, advance

CIRCUITS = BOTH | {"CIRCUIT_BREAKER_ENABLED": "true"}
TWO_KEYS = f"""
[[routes]]
id = "first"
provider = "anthropic"
api_key = "sk-ant-api03-first-aaaaaaaa"
base_url = "https://first.test"

[[routes]]
id = "second"
provider = "anthropic"
api_key = "sk-ant-api03-second-aaaaaaa"
base_url = "https://second.test"

[[routes]]
id = "zai"
provider = "zai"
api_key = "zai-in-memory-bbbbbbbbbbbbbbbbbbbb"
base_url = "{ZAI}"
"""
NO_ROUTES = {"API_RETRY_DELAY_MS": "1"}


def body_of(words: str = "hi", **more: Any) -> dict[str, Any]:
    """A request for a message."""
    return {"model": MODEL, "max_tokens": 64, "messages": [{"role": "user", "content": words}]} | more


def in_stream(error_type: str, words: str) -> ScriptedResponse:
    """An error inside a 200."""
    data = msgspec.json.encode({"type": "error", "error": {"type": error_type, "message": words}})
    return stream(b"event: error\ndata: " + data + b"\n\n")


def answers(
    relay: RelayHarness, response: ScriptedResponse | UpstreamError, base_url: str = "", marker: bytes = b""
) -> None:
    """From now on a provider, or all, answer so to requests with this marker; well to all others."""

    def respond(sent: SentRequest) -> ScriptedResponse | UpstreamError | None:
        if sent.base_url.startswith(base_url) and marker in sent.body:
            return response
        return stream(START, DELTA, END) if b'"stream":true' in sent.body else None

    relay.upstream.respond = respond


def recover(relay: RelayHarness) -> None:
    """From now on all answer well."""
    answers(relay, reply(), "none")


def sent_to(relay: RelayHarness) -> list[str]:
    """Whom each request went to."""
    return [sent.base_url for sent in relay.upstream.sent]


def route_for(relay: RelayHarness, client: str | None, ramp_sample: float = 0.999) -> tuple[str, str, bool, bool]:
    """The route that a client's message would take now, and whether as a probe, or because others are worse."""
    request = RoutingRequest(model=MODEL, client=client, ramp_sample=ramp_sample)
    relay.watcher.view.accounts = relay.credentials.accounts
    policy, now_ms = relay.settings.policy, relay.clock.now_ms()
    first = rank(request, relay.settings.routes, relay.watcher.view, policy, now_ms)[0]
    return first.route.id, first.skip_reason, first.probe, first.deprioritized


# -- an account's state

STATES = [
    "This organization has been disabled.",
    "Your organisation has been suspended. Contact support.",
    "Your account is suspended.",
    "This workspace has been archived.",
    "Your subscription has expired.",
    "The API key has been deactivated.",
    "Your credit balance is too low to access the Anthropic API.",
    "You are out of credits.",
    "You're out of extra usage.",
    "You have reached your specified API usage limits. You will regain access on 2036-12-01 at 00:00 UTC.",
    "Third-party clients may not use this plan.",
    "This credential is only authorized for use with Claude Code and cannot be used for other API requests.",
    "OAuth token has been revoked. Please obtain a new token.",
    "您的账户已被锁定,请联系客服。",
    "您的套餐已到期。",
    "账户余额不足,请充值。",
    "已达到 5 小时的使用上限。",
]


@pytest.mark.parametrize("words", STATES)
@pytest.mark.parametrize("error_type", ["invalid_request_error", "permission_error"])
async def test_an_accounts_state_is_known_with_whatever_status(
    relays: RelayFactory, words: str, error_type: str
) -> None:
    """Rules for words hold for statuses and for errors inside streams alike; the next request asks elsewhere."""
    for status in (200, 400, 402, 403, 404, 422, 429):
        relay = relays.make(CIRCUITS)
        answers(relay, in_stream(error_type, words) if status == 200 else error(status, error_type, words), ANTHROPIC)
        clients = [await relay.ask(body_of(stream=True)) for _ in range(2)]
        assert [(client.status, client.route, client.attempts) for client in clients] == [
            (200, "zai", 2),
            (200, "zai", 1),
        ], status


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ({"code": 1113, "msg": "Insufficient balance", "success": False}, "billing"),
        ({"code": 500, "msg": "账户余额不足,请充值。", "success": False}, "billing"),
        ({"code": 1308, "msg": "已达到 5 小时的使用上限。"}, "quota"),
        ({"message": "This organization has been disabled."}, "credential"),
        ({"code": 500, "msg": "404 NOT_FOUND", "success": False}, "bad_answer"),
    ],
)
async def test_an_error_of_another_shape_behind_a_200_is_known(
    relays: RelayFactory, told: dict[str, Any], kind: str, *, is_stream: bool
) -> None:
    """Whole, also where a stream was asked for; in words that no rule knows it is an answer that can't be read."""
    relay = relays.make(CIRCUITS)
    answers(relay, reply(msgspec.json.encode(told)), ANTHROPIC)
    clients = [await relay.ask(body_of(stream=is_stream)) for _ in range(2)]
    attempts = 2 if kind == "bad_answer" else 1
    assert [(client.route, client.attempts) for client in clients] == [("zai", 2), ("zai", attempts)]
    assert relay.ends[0].kind == kind


async def test_a_new_api_key_is_not_held_by_what_the_old_one_met(relays: RelayFactory) -> None:
    """The ledger remembers whose cool-down it is; another key begins without."""
    old = relays.make(CIRCUITS)
    answers(old, error(401, "authentication_error", "invalid x-api-key"), ANTHROPIC)
    assert (await old.ask()).route == "zai"
    new = relays.make(CIRCUITS | {"ANTHROPIC_API_KEY": "sk-ant-api03-another-cccccccccccc"})
    same = relays.make(CIRCUITS)
    for relay in (new, same):
        relay.watcher.view.routes |= old.watcher.view.routes
        relay.watcher.view.accounts = relay.credentials.accounts
    assert [(await relay.ask()).route for relay in (same, new)] == ["zai", "anthropic"]


# -- other endpoints

ELSEWHERE = [
    ("GET", "/v1/organizations/cost_report", "other"),
    ("DELETE", "/v1/models/claude-opus-5-5", "models"),
    ("GET", "/v1/files", "files"),
    ("POST", "/v1/messages/batches", "batches"),
    ("POST", "/v1/organizations/invites", "other"),
]


@pytest.mark.parametrize(("method", "path", "endpoint"), ELSEWHERE)
@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 429, 500, 529])
async def test_no_answer_of_another_endpoint_takes_messages_away(
    relays: RelayFactory, method: str, path: str, endpoint: str, status: int
) -> None:
    """It is relayed as it came, ten times; nothing rests, and no token is refreshed."""
    relay = relays.make(CIRCUITS)
    relay.credentials.tokens["anthropic"] = ["token", "refreshed"]
    words = "This organization has been disabled."
    answers(relay, error(status, "some_error", words))
    for _ in range(10):
        client = await relay.ask(b"", path, method=method, endpoint=endpoint)
        assert (client.status, client.route, client.attempts) == (status, "anthropic", 1)
        assert client.json["error"]["message"] == words
    recover(relay)
    assert (await relay.ask()).route == "anthropic"
    assert relay.upstream.sent[-1].headers[b"x-api-key"] == b"token"


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 429, 500, 529])
async def test_no_answer_of_count_tokens_takes_messages_away(relays: RelayFactory, status: int) -> None:
    """It has limits and permissions of its own."""
    relay = relays.make(CIRCUITS)
    answers(relay, error(status, "some_error", "This organization has been disabled."))
    for _ in range(6):
        with suppress(ProxyError):
            client = await relay.ask(body_of(), "/v1/messages/count_tokens", endpoint="count_tokens")
            assert client.status >= 400
    recover(relay)
    assert (await relay.ask()).route == "anthropic"


# -- wrong bodies

WRONG = [
    "messages.1.role: Input should be 'user' or 'assistant'",
    "max_tokens: 200000 > 128000, which is the maximum allowed number of output tokens for this model",
    "prompt is too long: 213462 tokens > 200000 maximum",
    "Unexpected value(s) `effort-2025-11-24` for the `anthropic-beta` header.",
    "context_management: Extra inputs are not permitted",
    "The request body is not valid JSON",
    "Could not process image",
    "claude-opus-5-5 does not support this",
    "Output blocked by content filtering policy",
    "Streaming is required for operations that may take longer than 10 minutes",
    "Grammar compilation timed out.",
]


@pytest.mark.parametrize("is_varied", [True, False], ids=["varied", "identical"])
@pytest.mark.parametrize("words", WRONG)
@pytest.mark.parametrize("in_a_stream", [False, True], ids=["400", "stream"])
async def test_wrong_bodies_never_leave_for_another_provider(
    relays: RelayFactory, words: str, *, is_varied: bool, in_a_stream: bool
) -> None:
    """A buggy script, alone on the proxy: it gets its error each time, and the next good request goes as ever."""
    relay = relays.make(CIRCUITS)
    failing = in_stream("invalid_request_error", words) if in_a_stream else error(400, "invalid_request_error", words)
    answers(relay, failing, marker=b"wrong")
    for number in range(12):
        client = await relay.ask(body_of(f"wrong {number * is_varied}", stream=in_a_stream), client_key="script")
        assert (client.status, client.route, client.attempts) == (400, "anthropic", 1)
    assert (await relay.ask(client_key="script")).route == "anthropic"
    assert set(sent_to(relay)) == {ANTHROPIC}


async def test_wrong_bodies_in_words_that_nobody_knows_stay_while_others_use_the_route(relays: RelayFactory) -> None:
    """With two accounts a second opinion is asked each time; no other provider ever is."""
    relay = relays.make(NO_ROUTES, TWO_KEYS)
    answers(relay, error(400, "invalid_request_error", "Certainly not."), marker=b"wrong")
    await relay.ask(client_key="bob")
    for number in range(12):
        client = await relay.ask(body_of(f"wrong {number}"), client_key="script")
        assert (client.status, client.json["error"]["message"]) == (400, "Certainly not.")
    assert (await relay.ask(client_key="script")).route == "first"
    assert set(sent_to(relay)) == {"https://first.test", "https://second.test"}


async def test_wrong_bodies_without_a_second_account_stay_as_well(relays: RelayFactory) -> None:
    """While others use the route, one client's errors are its own."""
    only = relays.make(CIRCUITS)
    answers(only, error(400, "invalid_request_error", "Certainly not."), marker=b"wrong")
    await only.ask(client_key="bob")
    for number in range(12):
        assert (await only.ask(body_of(f"wrong {number}"), client_key="script")).status == 400
    assert set(sent_to(only)) == {ANTHROPIC}


UNKNOWN_WORDS = [
    "Farewell.",
    "Votre organisation a été désactivée. Écrivez à support@anthropic.com.",
    "この組織は停止されました。詳しくは https://support.anthropic.com/messages をご覧ください。",
    "Compte clos (voir console.anthropic.com/settings).",
    "Your team is under review, i.e. nobody may use it.",
]


@pytest.mark.parametrize("words_of_error", UNKNOWN_WORDS)
async def test_an_account_closed_in_words_that_nobody_knows_is_left(relays: RelayFactory, words_of_error: str) -> None:
    """After three bodies of two clients; it is tried again after a while, and a good answer brings it back.

    An address to write to, or where to read on, is no path into the request.
    """
    relay = relays.make(CIRCUITS)
    answers(relay, error(400, "invalid_request_error", words_of_error), ANTHROPIC)
    for client_key, words in (("alice", "a"), ("alice", "b"), ("bob", "b")):  # two bodies
        assert (await relay.ask(body_of(words), client_key=client_key)).status == 400
    assert (await relay.ask(body_of("c"), client_key="bob")).status == 400
    assert [(await relay.ask(client_key=key)).route for key in ("alice", "bob", "carol")] == ["zai"] * 3
    recover(relay)
    await advance(relay.settings.policy.credential_wait_ms / 1000 + 1)
    assert [(await relay.ask(client_key=key)).route for key in ("alice", "bob")] == ["anthropic", "anthropic"]


@pytest.mark.parametrize("status", [400, 403, 418])
@pytest.mark.parametrize("page", [b"<title>The requested URL was rejected</title>", b"Blocked: message body"])
async def test_a_page_does_not_point_into_the_request(relays: RelayFactory, status: int, page: bytes) -> None:
    """It is from something before the API, such as a company's proxy, whose words for parts of a request are others."""
    relay = relays.make(CIRCUITS)
    answers(relay, reply(page, status, content_type="text/html"), ANTHROPIC)
    for client_key, words in (("alice", "a"), ("alice", "b"), ("bob", "c")):
        with suppress(ProxyError):
            await relay.ask(body_of(words), client_key=client_key)
    assert [(await relay.ask(client_key=key)).route for key in ("alice", "bob", "carol")] == ["zai"] * 3


# -- an account's words, written by a client

ECHOES = [
    (404, "model: {}", "the account has been disabled"),
    (403, "Your key may not use {}", "credit balance is too low"),
    (400, "bad value '{}' given", "' organization has been disabled '"),
    (400, "Unexpected value(s) `{}` for it", "x` organization has been disabled `y"),
    (400, "No model {} for this account", "it has been disabled"),
    (400, "unknown model {}", "余额不足"),
    (400, "unknown model {}", "you are out of extra usage"),
    (400, "unknown model {}", "the oauth token has been revoked"),
    (400, "{}: Extra inputs are not permitted", "organization has been disabled"),
]


WRITTEN = [
    (place, *echo)
    for place in ("model", "name", "header", "escaped")
    for echo in ECHOES
    if place == "model" or (echo[0] == 400 and (place != "header" or echo[2].isascii()))
]
"""A 404 repeats nothing but the model; and no header reaches a provider that is not ASCII."""


@pytest.mark.parametrize(("place", "status", "message", "words"), WRITTEN)
async def test_a_client_that_writes_an_accounts_words_closes_nothing(
    relays: RelayFactory, place: str, status: int, message: str, words: str
) -> None:
    """What a provider repeats of a request tells nothing about its account, quoted or not, and however it was sent."""
    relay = relays.make(CIRCUITS)
    await relay.ask(client_key="bob")
    error_type = "not_found_error" if status == 404 else "invalid_request_error"
    answers(relay, error(status, error_type, message.format(words)), marker=b"alice")
    body = msgspec.json.encode(body_of("alice") | {"model": {"model": words}.get(place, MODEL)})
    if place == "name":
        body = msgspec.json.encode(body_of("alice") | {words: 1})
    elif place == "escaped":
        text = "".join(f"\\u{ord(letter):04x}" for letter in words)
        body = body.replace(b"{", b'{"user":"' + text.encode() + b'",', 1)
    header = words.encode() if place == "header" else b"x"
    headers = [(b"content-type", b"application/json"), (b"anthropic-beta", b"a-beta, " + header)]
    with suppress(ProxyError):
        await relay.ask(body, client_key="alice", model=words if place == "model" else MODEL, headers=headers)
    assert route_for(relay, "bob") == ("anthropic", "", False, False)


CHANGED = [
    ("organization  has\t been disabled", "organization has been disabled"),
    ("a name\norganization has been disabled", r"a name\norganization has been disabled"),
    ("a \\ organization has been disabled", r"a \\ organization has been disabled"),
]


@pytest.mark.parametrize(("written", "told"), CHANGED, ids=["blanks", "line", "backslash"])
async def test_words_that_a_provider_repeats_in_another_form_close_nothing(
    relays: RelayFactory, written: str, told: str
) -> None:
    """With other blanks, or escaped."""
    relay = relays.make(CIRCUITS)
    await relay.ask(client_key="bob")
    answers(relay, error(400, "invalid_request_error", f"unknown value {told}"), marker=b"alice")
    with suppress(ProxyError):
        await relay.ask(body_of("alice", user=written), client_key="alice")
    assert route_for(relay, "bob") == ("anthropic", "", False, False)


async def test_words_that_a_provider_repeats_of_a_query_close_nothing(relays: RelayFactory) -> None:
    """The query is the client's as well."""
    relay = relays.make(CIRCUITS)
    await relay.ask(client_key="bob")
    answers(relay, error(400, "invalid_request_error", "unknown query organization has been disabled"), marker=b"alice")
    with suppress(ProxyError):
        await relay.ask(body_of("alice"), client_key="alice", query="beta=organization+has%20been+disabled")
    assert route_for(relay, "bob") == ("anthropic", "", False, False)


async def test_a_missing_model_of_a_tool_is_not_the_requests_model(relays: RelayFactory) -> None:
    """Whoever invents one for a tool takes nobody's model away."""
    relay = relays.make(CIRCUITS)
    await relay.ask(client_key="bob")
    answers(relay, error(404, "not_found_error", "model: invented-9"), marker=b"alice")
    body = body_of("alice", tools=[{"type": "advisor_20260301", "name": "advisor", "model": "invented-9"}])
    client = await relay.ask(body, client_key="alice")
    assert (client.status, client.route, client.json["error"]["message"]) == (404, "anthropic", "model: invented-9")
    assert route_for(relay, "bob") == ("anthropic", "", False, False)
    answers(relay, error(404, "not_found_error", f"model: {MODEL}"), ANTHROPIC)
    assert (await relay.ask(body, client_key="alice")).route == "zai"


async def test_an_accounts_words_are_known_though_the_request_has_some_of_them(relays: RelayFactory) -> None:
    """A tool's parameter, or a prompt about closed accounts, is no echo."""
    relay = relays.make(CIRCUITS)
    answers(relay, error(400, "invalid_request_error", "This organization has been disabled."), ANTHROPIC)
    schema = {"type": "object", "required": ["organization", "account", "limit"]}
    body = body_of("Why do I read: This organization has been disabled.", tools=[{"name": "t", "input_schema": schema}])
    assert (await relay.ask(body)).route == "zai"


# -- clocks that differ

PASSED = {
    "date": ({b"retry-after": b"Wed, 21 Oct 2015 07:28:00 GMT"}, "Slow down.", 10),
    "reset": (
        {b"anthropic-ratelimit-unified-status": b"rejected", b"anthropic-ratelimit-unified-reset": b"1000"},
        "",
        60,
    ),
    "words": ({}, "You are out of extra usage. It resets at 2015-10-21 07:28:00 UTC.", 60),
}


@pytest.mark.parametrize("case", PASSED)
async def test_an_end_that_has_passed_already_is_no_end(relays: RelayFactory, case: str) -> None:
    """Else a provider whose clock is behind would be asked again with each request."""
    headers, words, wait_s = PASSED[case]
    relay = relays.make(CIRCUITS)
    told = error(429, "rate_limit_error", words)
    answers(relay, msgspec.structs.replace(told, headers=[*told.headers, *headers.items()]), ANTHROPIC)
    assert [(await relay.ask()).attempts for _ in range(3)] == [2, 1, 1]
    recover(relay)
    await advance(wait_s + 1)
    assert (await relay.ask()).route == "anthropic"


# -- behind an outage


@pytest.mark.parametrize("answer", ["500", "529", "cut off", "no answer"])
@pytest.mark.parametrize("only_routes", [(), ("anthropic",)], ids=["any route", "one route"])
async def test_a_client_that_goes_on_failing_keeps_nobody_away_behind_an_outage(
    relays: RelayFactory, answer: str, only_routes: tuple[str, ...]
) -> None:
    """Neither as a probe nor as the last resort of a key that may use this route alone: bob is back all the same."""
    relay = relays.make(CIRCUITS, **STALLED)
    answers(relay, error(500, "api_error", "Internal server error"), ANTHROPIC)
    for number in range(8):
        await relay.ask(body_of(f"outage {number}"), client_key=("alice", "bob")[number % 2], session_id=f"s{number}")
    assert route_for(relay, "bob")[0] == "zai"
    answers(relay, ONES_OWN[answer], ANTHROPIC, b"wrong")
    routes = []
    for turn in range(12):
        for number in range(15):
            await advance(1)
            with suppress(ProxyError):
                session, words = f"a{turn}.{number}", f"wrong {turn} {number}"
                await relay.ask(body_of(words), client_key="alice", session_id=session, only_routes=only_routes)
        routes.append((await relay.ask(body_of(f"{turn}"), client_key="bob", session_id="bob")).route)
    assert routes[2:] == ["anthropic"] * 10


# -- one client's requests, and another client's route

STALLED: dict[str, Any] = {"first_byte_ms": 400, "idle_ms": 400}
ONES_OWN: dict[str, ScriptedResponse | UpstreamError] = {
    "a wrong field": error(400, "invalid_request_error", "messages.0.content: the account has been disabled"),
    "a value": error(400, "invalid_request_error", "Unexpected value `organization has been disabled`"),
    "too long": error(413, "request_too_large", "prompt is too long"),
    "unknown words": error(400, "invalid_request_error", "Certainly not."),
    "other unknown words": error(403, "permission_error", "Not today."),
    "unknown status": error(418, "teapot_error", "Short and stout."),
    "an unknown 404": error(404, "not_found_error", "Nothing here."),
    "no words": reply(b"", 400),
    "a page": reply(b"<html>no</html>", 403, content_type="text/html"),
    "one user": error(403, "user_profile_suspended", "this user profile may not"),
    "one link": error(402, "linked_organization_billing", "ask your administrator"),
    "a beta": error(400, "invalid_request_error", "The long context beta is not yet available for this subscription."),
    "unknown words in a stream": in_stream("invalid_request_error", "Certainly not."),
    "another missing model": error(404, "not_found_error", "model: invented-9"),
    "an echo": error(400, "invalid_request_error", "No plan for alice: the account has been disabled"),
    "500": error(500, "api_error", "Internal server error"),
    "529": error(529, "overloaded_error", "Overloaded"),
    "a page of 502": reply(b"<html>no</html>", 502, content_type="text/html"),
    "overloaded in a stream": in_stream("overloaded_error", "Overloaded"),
    "no answer": reply(head_s=FOREVER),
    "no word": stream(0.4, UpstreamError("timeout", "silent")),
    "broken off": stream(START, UpstreamError("reset", "reset by peer")),
    "cut off": UpstreamError("reset", "reset by peer"),
    "empty": stream(),
    "good": reply(),
}
"""What providers answer to one client's requests: about them, or about nobody knows what."""

STEPS = st.tuples(
    st.sampled_from(sorted(ONES_OWN)),
    st.sampled_from(["messages", "messages", "messages", "count_tokens", "other", "models"]),
    st.integers(0, 50),
    st.integers(1, 6),
    st.sampled_from([0, 0, 1, 20, 70]),
    st.booleans(),
)
"""An answer, an endpoint, a session, how often, a pause before, and whether as a stream."""
PATHS = {"messages": "/v1/messages", "count_tokens": "/v1/messages/count_tokens", "models": "/v1/models"}


async def ask_badly(relay: RelayHarness, number: int, endpoint: str, session: int, *, is_stream: bool) -> None:
    """A request of the client that has only trouble; each has another body."""
    body = body_of(f"alice {'more ' * number}", stream=is_stream, model=MODEL if number % 5 else f"invented-{number}")
    fields: dict[str, Any] = {
        "client_key": "alice",
        "session_id": f"s{session}",
        "endpoint": endpoint,
        "deadline_ms": 60_000,
    }
    body["tools"] = [{"name": "advisor", "model": "invented-9"}, {"name": "alice: the account has been disabled"}]
    path = PATHS.get(endpoint, "/v1/organizations")
    with suppress(ProxyError, TimeoutError):
        async with asyncio.timeout(0.1 if number % 7 == 0 else None):  # the client leaves
            await relay.ask(body, path, **fields)


@settings(
    max_examples=60,
    phases=[Phase.explicit, Phase.generate],
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(st.lists(STEPS, max_size=12), st.booleans(), st.booleans())
def test_nothing_that_one_client_meets_moves_another(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[str, str, int, int, int, bool]],
    was_seen: bool,  # noqa: FBT001
    has_two_keys: bool,  # noqa: FBT001
) -> None:
    """Whatever is answered to one client's requests, and however it asks: others' messages go where they went."""

    async def run() -> None:
        factory = RelayFactory(tmp_path_factory.mktemp("relay"))
        variables, toml = (NO_ROUTES, TWO_KEYS) if has_two_keys else (CIRCUITS, "")
        relay = factory.make(variables, toml, **STALLED)
        if was_seen:
            await relay.ask(body_of("bob"), client_key="bob", session_id="bobs")
        before, number = route_for(relay, "bob"), 0
        for answer, endpoint, session, times, pause_s, is_stream in steps:
            await advance(pause_s)
            answers(relay, ONES_OWN[answer], marker=b"alice")
            for _ in range(times):
                number += 1
                await ask_badly(relay, number, endpoint, session if session < 40 else number, is_stream=is_stream)
                assert route_for(relay, "bob") == before
                assert route_for(relay, "bob", 0.0) == before
        client = await relay.ask(body_of("bob"), client_key="bob", session_id="bobs")
        assert (client.status, client.route, client.attempts) == (200, before[0], 1)
        relay.check_closed()

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(run())
