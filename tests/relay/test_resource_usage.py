"""Running totals through the relay, in memory: sessions, threads and dreams, polled alone, in lists and in events."""

from typing import Any

import msgspec
import pytest

from service.fleet.resource_index import ResourceHome
from service.ledger.events import ResourceUsed, TokenCounts
from service.ledger.state import Usage
from tests.support.fake_upstream import reply, stream
from tests.support.relay_harness import ONLY_ANTHROPIC, RelayFactory, RelayHarness

MODEL = "claude-opus-4-8"
MADE = "2026-11-20T10:00:00Z"
ROUTE = "anthropic"
POLL: dict[str, Any] = {"method": "GET", "endpoint": "other", "client_key": "ann"}


def usage(tokens: int, **more: Any) -> dict[str, Any]:
    """So many tokens in, and a tenth out."""
    return {"input_tokens": tokens, "output_tokens": tokens // 10, "cache_read_input_tokens": 0, **more}


def session(name: str, tokens: int, **more: Any) -> dict[str, Any]:
    """A session as the provider shows it."""
    agent = {"type": "agent", "model": {"id": MODEL, "speed": "standard"}}
    return {"type": "session", "id": name, "agent": agent, "created_at": MADE, "usage": usage(tokens, **more)}


def thread(name: str, of: str, tokens: int, agent: dict[str, Any] | None = None) -> dict[str, Any]:
    """A thread of a session."""
    agent = agent or {"type": "agent", "model": {"id": MODEL}}
    return {"type": "session_thread", "id": name, "session_id": of, "agent": agent, "usage": usage(tokens)}


def dream(name: str, tokens: int, of: str | None = None) -> dict[str, Any]:
    """A dream, perhaps with the session that runs it."""
    model = {"id": MODEL, "speed": "standard"}
    told = {"type": "dream", "id": name, "model": model, "created_at": MADE, "session_id": of}
    return told | {"usage": usage(tokens, cache_creation_input_tokens=5)}


async def poll(relay: RelayHarness, path: str, answer: dict[str, Any], **fields: Any) -> None:
    """Read something."""
    relay.upstream.script(reply(answer))
    await relay.ask(b"", path, **(POLL | fields))


def totals(relay: RelayHarness) -> list[ResourceUsed]:
    """The readings that became events."""
    return [event for _, event in relay.events if isinstance(event, ResourceUsed)]


def booked(relay: RelayHarness) -> Usage:
    """All that is booked on the route."""
    return relay.watcher.view.used(ROUTE, 0)


async def test_polls_of_a_session_are_booked_once(relays: RelayFactory) -> None:
    """As what it has grown, at the model's price, to whoever read it first; the polls themselves used nothing."""
    relay = relays.make(ONLY_ANTHROPIC)
    for tokens in (1_000, 1_000, 1_500, 1_500, 1_200):
        await poll(relay, "/v1/sessions/sesn_01", session("sesn_01", tokens), client_key=f"ann{tokens}")
    assert [event.tokens.input for event in totals(relay)] == [1_000, 1_500]
    used = booked(relay)
    assert (used.attempts, used.input, used.output, used.cost_nusd) == (5, 1_500, 150, 1_500 * 5_000 + 150 * 25_000)
    assert {event.cost_nusd for event in relay.ends} == {0}
    assert relay.watcher.view.used_by_key("ann1000", ROUTE, 0).input == 1_500


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/v1/sessions", {"data": [session("sesn_01", 40), session("sesn_02", 60)], "has_more": False}),
        ("/v1/dreams", {"data": [dream("drm_01", 40), dream("drm_02", 60)]}),
        ("/v1/sessions/sesn_01/threads", {"data": [thread("sthr_1", "sesn_01", 40), thread("sthr_2", "sesn_01", 60)]}),
        ("/v1/sessions/sesn_01", session("sesn_01", 100)),
        ("/v1/sessions/sesn_01/threads/sthr_1", thread("sthr_1", "sesn_01", 100)),
        ("/v1/dreams/drm_01", dream("drm_01", 100)),
        (
            "/v1/sessions/sesn_01/events",
            {"data": [{"type": "session.usage", "id": "evt_1", "usage": usage(70)},
                      {"type": "span.model_request_end", "id": "evt_2", "model_usage": usage(70)},
                      {"type": "session.usage", "id": "evt_3", "usage": usage(100)}]},
        ),
    ],
    ids=["sessions", "dreams", "threads", "a session", "a thread", "a dream", "events"],
)  # fmt: skip
async def test_whatever_shows_a_total_is_read(relays: RelayFactory, path: str, answer: dict[str, Any]) -> None:
    """One resource, a list, or the events of a session: a hundred tokens, however often."""
    relay = relays.make(ONLY_ANTHROPIC)
    for _ in range(3):
        await poll(relay, path, answer)
    assert (booked(relay).input, booked(relay).output) == (100, 10)


async def test_a_thread_is_within_its_session(relays: RelayFactory) -> None:
    """So is a dream within the session that runs it: nothing counts twice, and nothing is left out."""
    relay = relays.make(ONLY_ANTHROPIC)
    advisor = {"type": "advisor", "model": "claude-fable-5"}
    await poll(relay, "/v1/sessions/sesn_01/threads/sthr_1", thread("sthr_1", "sesn_01", 30))
    await poll(relay, "/v1/sessions/sesn_01/threads/sthr_2", thread("sthr_2", "sesn_01", 20, advisor))
    await poll(relay, "/v1/sessions/sesn_01", session("sesn_01", 100))
    await poll(relay, "/v1/dreams/drm_01", dream("drm_01", 50, of="sesn_02"))
    await poll(relay, "/v1/sessions/sesn_02", session("sesn_02", 50))
    assert booked(relay).input == 150
    by_model = {model: sum(cell.input for cell in by_key.values())
                for by in relay.watcher.view.ledger(ROUTE).usage.values() for model, by_key in by.items()}  # fmt: skip
    assert (by_model[MODEL], by_model["claude-fable-5"]) == (130, 20)


async def test_a_providers_sum_in_dollars_counts(relays: RelayFactory) -> None:
    """It covers searches and running time, too; of a thread it would be rounded once more, and does not."""
    relay = relays.make(ONLY_ANTHROPIC)
    for cents in ("187", "187", "200"):
        cost = {"list_cost": {"amount": cents, "currency": "USD"}, "active_seconds": 12.5}
        await poll(relay, "/v1/sessions/sesn_01", session("sesn_01", 1_000, **cost))
    assert booked(relay).cost_nusd == 2 * 10**9
    assert totals(relay)[0].active_ms == 12_500
    for amount in ("-1", "1e3", "", "9" * 30, None):
        await poll(relay, "/v1/sessions/s2", session("s2", 1, list_cost={"amount": amount, "currency": "USD"}))
    assert {event.cost_nusd for event in totals(relay)[2:]} == {None}


async def test_the_events_of_a_session_are_read_as_they_pass(relays: RelayFactory) -> None:
    """Unchanged, however they are cut; usage of single requests is within the totals."""
    relay = relays.make(ONLY_ANTHROPIC)
    told = [
        {"type": "session.usage", "id": "evt_1", "usage": usage(70)},
        {"type": "span.model_request_end", "id": "evt_2", "model_usage": usage(1_000)},
        {"type": "session.usage", "id": "evt_3", "usage": usage(100, list_cost={"amount": "3", "currency": "USD"})},
    ]
    body = b"".join(b"event: x\ndata: %b\n\n" % msgspec.json.encode(event) for event in told)
    relay.upstream.script(stream(*[body[place : place + 50] for place in range(0, len(body), 50)]))
    client = await relay.ask(b"", "/v1/sessions/sesn_01/events/stream", **POLL)
    assert client.body == body
    assert (booked(relay).input, booked(relay).cost_nusd) == (100, 3 * 10**7)


async def test_a_session_that_another_route_has_stays_there(relays: RelayFactory) -> None:
    """Its growth is kept in one place, whichever route shows it."""
    relay = relays.make(ONLY_ANTHROPIC)
    await relay.resources.bind("sesn_01", ResourceHome("other", relay.clock.new_id()))
    for _ in range(2):
        await poll(relay, "/v1/sessions/sesn_01", session("sesn_01", 100))
    assert [route for route, event in relay.events if isinstance(event, ResourceUsed)] == ["other"]


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/v1/agents/agent_01", {"type": "agent", "id": "agent_01", "usage": usage(100)}),
        ("/v1/messages/batches/msgbatch_01", {"type": "message_batch", "id": "msgbatch_01", "usage": usage(100)}),
        ("/v1/files/file_01", session("file_01", 100)),
        ("/v1/organizations/usage_report/messages", {"data": [session("sesn_01", 100)]}),
        ("/v1/sessionsx", session("sesn_01", 100)),
        ("/v1/sessions/sesn_01", {"type": "session", "id": "sesn_01", "usage": None}),
        ("/v1/sessions/sesn_01", {"type": "session", "id": 7, "usage": usage(100)}),
        ("/v1/sessions/sesn_01", {"type": "session", "id": "x" * 200, "usage": usage(100)}),
        ("/v1/sessions/sesn_01/threads/sthr_1", thread("sthr_1", "", 100)),
        ("/v1/sessions/sesn_01", {"type": ["session"], "id": "sesn_01", "usage": {"input_tokens": "9"}, "data": 7}),
    ],
)
async def test_other_usage_that_is_read_counts_nothing(relays: RelayFactory, path: str, answer: dict[str, Any]) -> None:
    """A field of that name in an answer to a GET is the usage of other requests, or nobody's."""
    relay = relays.make(ONLY_ANTHROPIC)
    endpoint = "batches" if "batches" in path else "files" if "files" in path else "other"
    await poll(relay, path, answer, endpoint=endpoint)
    assert (booked(relay).input, booked(relay).output, totals(relay)) == (0, 0, [])
    assert relay.ends[0].tokens == TokenCounts()


async def test_a_list_of_several_owners_counts_what_it_shows(relays: RelayFactory) -> None:
    """What a list hides from its reader is not charged to them."""
    relay = relays.make(ONLY_ANTHROPIC)
    await relay.resources.bind("sesn_01", ResourceHome(ROUTE, relay.clock.new_id(), "Ann"))
    await relay.resources.bind("sesn_02", ResourceHome(ROUTE, relay.clock.new_id(), "Bob"))
    answer = {"data": [session("sesn_01", 40), session("sesn_02", 60)]}
    await poll(relay, "/v1/sessions", answer, shared=True, owner="Ann")
    assert booked(relay).input == 40


async def test_an_unknown_field_of_a_total_is_told(relays: RelayFactory) -> None:
    relay = relays.make(ONLY_ANTHROPIC)
    await poll(relay, "/v1/sessions/sesn_01", session("sesn_01", 100, hologram_tokens=4))
    assert totals(relay)[0].unread == ("hologram_tokens",)
    assert list(relay.watcher.view.ledger(ROUTE).unread) == ["hologram_tokens"]
