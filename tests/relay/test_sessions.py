"""Sessions: where they stay, when they go back, and what a move costs."""

from collections.abc import Mapping
from typing import Any

import pytest

from service.fleet.resource_index import ResourceHome
from service.http1.upstream import UpstreamError
from service.ledger.events import TokenCounts
from service.ledger.price import cost_nusd
from tests.fakes import FakeProvider, reply
from tests.support import fake_upstream
from tests.support.proxies import Server
from tests.support.relay_harness import ANTHROPIC, ASK, BOTH, MODEL, ONLY_ANTHROPIC, RelayFactory, RelayHarness
from tests.support.virtual_time import advance
from tests.support.waiting import wait_for_answer

DOWN = fake_upstream.error(500)
KEYS = """
[[routes]]
id = "first"
provider = "anthropic"
base_url = "https://first.test"
api_key = "sk-ant-api03-first-key-aaaaaaaaaaaa"

[[routes]]
id = "second"
provider = "anthropic"
base_url = "https://second.test"
api_key = "sk-ant-api03-second-key-bbbbbbbbbbb"

[[routes]]
id = "zai"
provider = "zai"
base_url = "https://zai.test"
api_key = "zai-in-memory-bbbbbbbbbbbbbbbbbbbb"
"""
CALL = {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "ls", "input": {}}]}
RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "a"}]}
THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "c2ln"}
ANSWER = {"role": "assistant", "content": "so"}
REMINDER = {"role": "system", "content": "remember"}
HELLO = ASK["messages"][0]


def thoughtful(*further: Any) -> dict[str, Any]:
    """A conversation whose model has thought."""
    answer = {"role": "assistant", "content": [THOUGHT, {"type": "text", "text": "hello"}]}
    return ASK | {"messages": [HELLO, answer, *(further or [HELLO])]}


async def turn(relay: RelayHarness, body: Mapping[str, Any] = ASK, **fields: Any) -> str:
    """The route that answers a request of the session `s1`."""
    client = await relay.ask(body, **({"session_id": "s1"} | fields))
    assert client.status == 200
    return client.route


def moves(relay: RelayHarness) -> list[tuple[str, str]]:
    """Where answers came from before, and what was lost."""
    return [(end.moved_from, end.lost) for end in relay.ends if end.outcome == "ok"]


async def test_a_session_goes_back_from_another_providers_model_with_the_users_next_turn(relays: RelayFactory) -> None:
    """While tools run, the model that asked for them goes on; another session begins on the first route."""
    relay = relays.make()
    relay.upstream.script(DOWN)
    assert [await turn(relay), await turn(relay, mid_turn=True), await turn(relay, mid_turn=True)] == ["zai"] * 3
    assert await turn(relay, session_id="s2", mid_turn=True) == "anthropic"
    assert [await turn(relay), await turn(relay, mid_turn=True)] == ["anthropic"] * 2
    assert moves(relay) == [("", ""), ("", ""), ("", ""), ("", ""), ("zai", "cache"), ("", "")]


async def test_a_session_stays_with_a_key_that_serves_the_same_model(relays: RelayFactory) -> None:
    """Its prompt cache is there, and nothing is gained by going back."""
    relay = relays.make({}, KEYS)
    relay.upstream.script(fake_upstream.error(529))
    assert [await turn(relay), await turn(relay), await turn(relay, mid_turn=True)] == ["second"] * 3
    relay.upstream.script(fake_upstream.error(529), base_url="https://second.test")
    assert [await turn(relay), await turn(relay)] == ["first"] * 2
    assert moves(relay) == [("", ""), ("", ""), ("", ""), ("second", "cache"), ("", "")]


async def test_without_affinity_every_request_takes_the_first_route(relays: RelayFactory) -> None:
    """Also between a tool's call and its result; and nobody knows of moves."""
    relay = relays.make(BOTH | {"SESSION_AFFINITY": "false"})
    relay.upstream.script(DOWN)
    assert [await turn(relay), await turn(relay, mid_turn=True)] == ["zai", "anthropic"]
    assert moves(relay) == [("", ""), ("", "")]


async def test_models_of_a_session_have_caches_of_their_own(relays: RelayFactory) -> None:
    """What Claude Code asks of a smaller model beside the conversation is no move of it."""
    relay = relays.make()
    small = ASK | {"model": "claude-haiku-4-5"}
    assert [await turn(relay), await turn(relay, small), await turn(relay)] == ["anthropic"] * 3
    relay.upstream.script(DOWN)
    assert await turn(relay, small) == "zai"
    assert await turn(relay, mid_turn=True) == "anthropic"
    assert moves(relay) == [("", "")] * 3 + [("anthropic", "cache"), ("", "")]


async def test_a_move_to_another_model_loses_the_thoughts(relays: RelayFactory) -> None:
    """Once: as the conversation goes on there, they are still missing, but no move is the reason."""
    relay = relays.make()
    assert await turn(relay) == "anthropic"
    relay.upstream.script(DOWN)
    assert [await turn(relay, thoughtful()), await turn(relay, thoughtful(), mid_turn=True)] == ["zai"] * 2
    assert moves(relay)[1:] == [("anthropic", "cache,thoughts"), ("", "")]
    assert b"hm" not in relay.upstream.sent[2].body


@pytest.mark.parametrize("size", [1, 300_000])
async def test_thoughts_that_the_next_route_rejects_are_lost(relays: RelayFactory, size: int) -> None:
    """Another account can't check their signatures: they are left out, in large bodies too."""
    relay = relays.make({}, KEYS)
    body = thoughtful(HELLO | {"content": "x" * size})
    assert await turn(relay, body) == "first"
    bad = fake_upstream.error(400, "invalid_request_error", "messages.1.content.0: Invalid `signature` in `thinking`")
    relay.upstream.script(DOWN, bad)
    assert [await turn(relay, body), await turn(relay, body)] == ["second"] * 2
    assert moves(relay) == [("", ""), ("first", "cache,thoughts"), ("", "")]


async def test_another_model_of_the_same_route_has_another_cache(relays: RelayFactory) -> None:
    """The session did not move, but what answers it has changed; and so it is with another account."""
    relay = relays.make()
    assert await turn(relay) == "anthropic"
    [key] = [key for key in relay.resources._known if key.startswith("session:")]
    home = relay.resources._known[key]
    for owner in ("another-account claude-opus-5-5", " another-model", ""):
        relay.resources._known[key] = ResourceHome(home.route, home.event_id, owner)
        assert await turn(relay) == "anthropic"
    assert moves(relay) == [("", ""), ("", "cache"), ("", "cache"), ("", "")]


async def test_what_follows_a_move_is_not_lost_with_it(relays: RelayFactory) -> None:
    """Only answers say so: a failure on the way has nothing to lose."""
    relay = relays.make({}, KEYS)
    assert await turn(relay) == "first"
    relay.upstream.script(DOWN, DOWN)
    assert await turn(relay) == "zai"
    assert [(end.outcome, end.moved_from, end.lost) for end in relay.ends] == [
        ("ok", "", ""),
        ("failed", "", ""),
        ("failed", "", ""),
        ("ok", "first", "cache"),
    ]


@pytest.mark.parametrize(("geo", "thousandths"), [("global", 1_000), ("us", 1_100)])
async def test_a_move_costs_what_is_read_anew(relays: RelayFactory, geo: str, thousandths: int) -> None:
    """At the price of the model that reads it, where it reads it: without the answer, and without what a cache had;
    nothing otherwise."""
    relay = relays.make({}, KEYS)
    usage = {
        "input_tokens": 10,
        "output_tokens": 99,
        "cache_read_input_tokens": 50,
        "cache_creation_input_tokens": 1_000,
        "inference_geo": geo,
    }
    answer = fake_upstream.reply(fake_upstream.MESSAGE | {"model": MODEL, "usage": usage})
    relay.upstream.script(answer, DOWN, answer)
    assert [await turn(relay), await turn(relay)] == ["first", "second"]
    read_anew = TokenCounts(input=10, cache_write_5m=1_000)
    read_anew_nusd = cost_nusd(read_anew, MODEL, relay.settings.prices)
    assert read_anew_nusd
    assert [end.move_cost_nusd for end in relay.ends] == [0, 0, read_anew_nusd * thousandths // 1_000]


async def test_a_session_is_forgotten_with_its_cache(relays: RelayFactory) -> None:
    relay = relays.make({}, KEYS)
    relay.upstream.script(DOWN)
    assert await turn(relay) == "second"
    await advance(3_601)
    assert await turn(relay) == "first"
    assert moves(relay) == [("", ""), ("", "")]


@pytest.mark.parametrize(
    ("variables", "replicas", "fields", "asks"),
    [
        (ONLY_ANTHROPIC, 2, {}, [False, False]),
        (BOTH, 2, {"session_id": ""}, [False, False]),
        (BOTH, 2, {}, [True, True]),
        (BOTH, 1, {}, [True, False]),
    ],
    ids=["one route", "no session", "several proxies", "one proxy"],
)
async def test_redis_is_asked_only_where_its_answer_may_matter(
    relays: RelayFactory,
    monkeypatch: pytest.MonkeyPatch,
    variables: Mapping[str, str],
    replicas: int,
    fields: dict[str, Any],
    asks: list[bool],
) -> None:
    """Not with a single route, and not for what this proxy knows if it is the only one."""
    relay = relays.make(variables)
    relay.watcher.redis_up, relay.watcher.replicas = True, replicas
    asked: list[str] = []

    async def moved_to(resource_id: str, since_ms: int) -> ResourceHome | None:
        asked.append(resource_id)
        return relay.resources.cached(resource_id, since_ms)

    monkeypatch.setattr(relay.resources, "moved_to", moved_to)
    found = []
    for _ in range(2):
        await turn(relay, **fields)
        found.append(bool(asked))
        asked.clear()
    assert found == asks


class SharedValues:
    """As much of Redis as sessions need."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    async def get(self, key: str) -> bytes | None:
        return self.values.get(key)

    async def set(self, key: str, value: str, **_: Any) -> None:
        self.values[key] = value.encode()


async def test_several_proxies_agree_where_a_session_is(relays: RelayFactory) -> None:
    """Also when one of them saw it elsewhere before: what tools bring goes where they were called."""
    shared: Any = SharedValues()
    one, other = relays.make(), relays.make()
    for relay in (one, other):
        relay.resources._redis = shared
        relay.watcher.redis_up, relay.watcher.replicas = True, 2
    assert await turn(one) == "anthropic"
    other.upstream.script(DOWN)
    assert await turn(other) == "zai"
    assert await turn(one, mid_turn=True) == "zai"
    assert await turn(one) == "anthropic"
    assert await turn(other, mid_turn=True) == "anthropic"
    assert moves(one) == [("", ""), ("", ""), ("zai", "cache")]
    assert moves(other) == [("anthropic", "cache"), ("", "")]


@pytest.mark.parametrize("failure", [DOWN, UpstreamError("connect", "refused")], ids=["500", "refused"])
@pytest.mark.parametrize("others", [0, 1, 10], ids=["alone", "with one other", "in a team"])
@pytest.mark.parametrize("begin_s", [20, 27, 35])
async def test_a_session_is_back_two_turns_after_an_outage(
    relays: RelayFactory, failure: Any, others: int, begin_s: int
) -> None:
    """A minute without the first provider: the session asks each 20 s, others between; its circuit opens late."""
    relay = relays.make(BOTH | {"CIRCUIT_BREAKER_ENABLED": "true"})
    routes: dict[int, str] = {}
    for second in range(0, 180, 2):
        relay.upstream._scripts.clear()
        if begin_s <= second < begin_s + 60:
            relay.upstream.script(failure, base_url=ANTHROPIC)
        if second % 20 == 0:
            routes[second] = await turn(relay, thoughtful(), client_key="alice")
            assert await turn(relay, thoughtful(), client_key="alice", mid_turn=True) == routes[second]
        for number in range(others):
            if (second + 2 * number) % 20 == 10:
                await turn(relay, client_key=f"other-{number}", session_id=f"other-{number}")
        await advance(2)
    assert (routes[0], routes[40]) == ("anthropic", "zai")
    later = [route for second, route in routes.items() if second >= begin_s + 60]
    assert set(later[1:]) == {"anthropic"}, routes


async def test_a_session_over_sockets_goes_back_after_an_outage(
    server: Server, anthropic: FakeProvider, zai: FakeProvider
) -> None:
    """Whole bodies, as the edge reads them: results of tools stay where the tools were called."""
    served = await server.start(anthropic=anthropic, zai=zai)
    anthropic.script(reply.error(500))
    headers = {"X-Claude-Code-Session-Id": "s1"}

    async def route(*messages: Any) -> str:
        answer = await served.ask(ASK | {"messages": [HELLO, *messages]}, headers=headers)
        assert answer.status_code == 200
        return str(answer.headers["x-ccproxy-route"])

    assert [await route(), await route(CALL, RESULT), await route(CALL, RESULT, REMINDER)] == ["zai"] * 3
    assert [await route(CALL, RESULT, ANSWER, HELLO), await route(CALL, RESULT)] == ["anthropic"] * 2


async def test_a_session_over_sockets_is_back_with_its_own_probe_and_stays(
    server: Server, anthropic: FakeProvider, zai: FakeProvider
) -> None:
    """With a circuit that opens and closes soon; also while the route takes but a share of other requests."""
    circuit = {"ENABLED": "true", "DEGRADED_THRESHOLD": "1", "UNAVAILABLE_THRESHOLD": "2", "COOLDOWN_MS": "400"}
    variables = {f"CIRCUIT_BREAKER_{name}": value for name, value in circuit.items()}
    served = await server.start(anthropic=anthropic, zai=zai, variables=variables)
    anthropic.script(reply.error(500), reply.error(500))
    headers = {"X-Claude-Code-Session-Id": "s1"}

    async def route(*messages: Any) -> str:
        answer = await served.ask(ASK | {"messages": [HELLO, *messages]}, headers=headers)
        assert answer.status_code == 200
        return str(answer.headers["x-ccproxy-route"])

    async def is_back() -> bool:
        assert await route(CALL, RESULT) == "zai"
        return await route() == "anthropic"

    assert [await route(), await route(), await route()] == ["zai"] * 3
    assert len(anthropic.requests) == 2, "the circuit is open"
    await wait_for_answer(is_back)
    assert [await route() for _ in range(8)] == ["anthropic"] * 8
