"""Fields that a route can't keep: which route gets the request, and what the client, the log and the ledger say."""

from collections.abc import Mapping
from typing import Any

import pytest

from service.errors import FieldUnsupported, ProviderFailed
from tests.fakes import FakeProvider, reply
from tests.support import fake_upstream
from tests.support.fake_upstream import error, stream
from tests.support.proxies import Server
from tests.support.relay_harness import ANTHROPIC, ASK, BOTH, STREAM, MemoryClient, RelayFactory, RelayHarness
from tests.support.streams import DELTA, END, START

ONLY_ZAI = {name: value for name, value in BOTH.items() if not name.startswith("ANTHROPIC")}
OVERLOADED = error(529, "overloaded_error", "busy")
GUARDED = {"safeguards": [{"type": "dangerous_tool_use"}]}
SCHEMA = {"output_config": {"format": {"type": "json_schema", "schema": {}}}}
WAYS = pytest.mark.parametrize("ask", [ASK, STREAM], ids=["whole", "stream"])


def answer(ask: Mapping[str, Any]) -> fake_upstream.ScriptedResponse:
    """A provider's answer, as asked for."""
    return stream(START, DELTA, END) if ask is STREAM else fake_upstream.reply()


async def served(relay: RelayHarness, body: Mapping[str, Any], **fields: Any) -> MemoryClient:
    """A client whose request was answered."""
    client = await relay.ask(body, **fields)
    assert client.status == 200
    return client


@WAYS
async def test_safeguards_are_dropped_when_no_other_route_is_left(
    relays: RelayFactory, caplog: pytest.LogCaptureFixture, ask: Mapping[str, Any]
) -> None:
    relay = relays.make()
    relay.upstream.script(OVERLOADED, answer(ask))
    client = await served(relay, {**ask, **GUARDED})
    assert (client.route, client.dropped) == ("zai", ("safeguards",))
    first, second = relay.upstream.sent
    assert (first.json["safeguards"], "safeguards" in second.json) == (GUARDED["safeguards"], False)
    assert [(end.outcome, end.dropped) for end in relay.ends] == [("failed", ()), ("ok", ("safeguards",))]
    assert "Z.AI does not get: safeguards" in caplog.text


async def test_a_hint_that_goes_is_reported_without_a_warning(
    relays: RelayFactory, caplog: pytest.LogCaptureFixture
) -> None:
    relay = relays.make(ONLY_ZAI)
    body = {**ASK, "service_tier": "auto", "output_config": {"effort": "low"}, "context_management": {"edits": []}}
    client = await served(relay, body)
    assert client.dropped == ("context_management", "output_config.effort", "service_tier")
    assert relay.ends[0].dropped == client.dropped
    assert "does not get" not in caplog.text


async def test_a_session_leaves_a_route_that_drops_its_safeguards(relays: RelayFactory) -> None:
    """In the middle of a turn, too, as soon as another would be tried; what is merely left out moves nobody."""
    relay = relays.make()
    relay.upstream.script(OVERLOADED)
    turns: list[tuple[dict[str, Any], bool]] = [(GUARDED, False), ({"service_tier": "auto"}, True), (GUARDED, True)]
    routes = [
        (await served(relay, {**ASK, **fields}, session_id="s1", mid_turn=mid_turn)).route for fields, mid_turn in turns
    ]
    assert routes == ["zai", "zai", "anthropic"]


@WAYS
@pytest.mark.parametrize(
    ("fields", "name"),
    [
        (SCHEMA, "output_config.format"),
        ({"container": "container_1"}, "container"),
        ({"mcp_servers": []}, "mcp_servers"),
        ({"tool_choice": {"type": "any"}}, "tool_choice.forced"),
        ({**GUARDED, **SCHEMA}, "output_config.format"),
    ],
)
async def test_without_a_route_that_keeps_a_field_the_error_names_it(
    relays: RelayFactory, ask: Mapping[str, Any], fields: dict[str, Any], name: str
) -> None:
    relay = relays.make(ONLY_ZAI)
    with pytest.raises(FieldUnsupported) as raised:
        await relay.ask({**ask, **fields})
    assert raised.value.message.startswith(f"capability_rejected: {name} (Z.AI can't do what it asks for")
    assert (raised.value.status, raised.value.should_retry, relay.upstream.sent) == (400, False, [])


@WAYS
async def test_a_route_that_keeps_the_field_has_its_own_troubles(relays: RelayFactory, ask: Mapping[str, Any]) -> None:
    """They will be over, and then the request can be served as it is: it is worth another try."""
    relay = relays.make()
    relay.upstream.script(OVERLOADED)
    with pytest.raises(ProviderFailed) as raised:
        await relay.ask({**ask, **SCHEMA})
    assert (raised.value.status, raised.value.type) == (529, "overloaded_error")
    assert "Z.AI can't do what a field of the request asks for" in raised.value.message
    assert [sent.base_url for sent in relay.upstream.sent] == [ANTHROPIC]


async def test_other_compatible_providers_know_a_forced_choice(relays: RelayFactory) -> None:
    toml = '[providers.own]\nbase_url = "https://own.test"\n[[routes]]\nid = "own"\nprovider = "own"\napi_key = "k"'
    relay = relays.make({}, toml)
    client = await served(relay, {**ASK, "tool_choice": {"type": "any"}})
    assert (client.dropped, relay.upstream.sent[0].json["tool_choice"]) == ((), {"type": "any"})


async def test_the_answer_says_what_was_dropped(server: Server, anthropic: FakeProvider, zai: FakeProvider) -> None:
    """In a header, whole and streamed; nothing where nothing was dropped."""
    made = await server.start(anthropic=anthropic, zai=zai)
    anthropic.script(reply.error(529).repeated(3))
    for body in (ASK, STREAM):
        assert (await made.ask({**body, **GUARDED})).headers["x-ccproxy-dropped"] == "safeguards"
    assert "x-ccproxy-dropped" not in (await made.ask(ASK)).headers
    assert "x-ccproxy-dropped" not in (await made.ask({**ASK, **GUARDED})).headers
