"""`GET /v1/models`: the lists of all routes that a client may use, joined, in time."""

import asyncio
from typing import Any

import pytest

from tests.fakes import FakeProvider, reply
from tests.support.client_keys import issue, shown
from tests.support.fake_upstream import FOREVER, ScriptedResponse, error
from tests.support.fake_upstream import reply as answer
from tests.support.proxies import Server, Serving
from tests.support.relay_harness import BOTH, RelayFactory

MODELS = "/v1/models?limit=1000"
CLAUDE = {"id": "claude-opus-5-5", "type": "model", "display_name": "Opus", "max_tokens": 64_000}
GLM = {"id": "glm-5.2", "object": "model"}


def ids(page: Any) -> list[str]:
    """The models of a page."""
    return [entry["id"] for entry in page["data"]]


async def listed(relays: RelayFactory, first: ScriptedResponse, second: ScriptedResponse, **fields: Any) -> Any:
    """What a client gets while both routes answer so."""
    relay = relays.make(BOTH)
    relay.upstream.script(first, base_url=BOTH["ANTHROPIC_BASE_URL"])
    relay.upstream.script(second, base_url=BOTH["ZAI_BASE_URL"])
    return await relay.ask(b"", "/v1/models", endpoint="models", method="GET", query="limit=1000", **fields), relay


async def test_the_lists_of_all_routes_are_joined(relays: RelayFactory) -> None:
    """Each entry as its provider has it, with a name for people; each route's attempt is on the ledger."""
    client, relay = await listed(relays, answer({"data": [CLAUDE]}), answer({"data": [GLM, CLAUDE]}))
    assert client.status == 200
    assert ids(client.json) == ["claude-opus-5-5", "glm-5.2"]
    assert [entry["display_name"] for entry in client.json["data"]] == ["Opus", "GLM 5.2"]
    assert client.json["data"][0]["max_tokens"] == 64_000
    assert client.json["has_more"] is False
    assert sorted(relay.ended) == [("anthropic", "ok", ""), ("zai", "ok", "")]
    assert {sent.target for sent in relay.upstream.sent} == {b"/v1/models?limit=1000"}


@pytest.mark.parametrize("status", [401, 429, 500, 529])
async def test_a_route_that_fails_is_left_out(relays: RelayFactory, status: int) -> None:
    """The others' models are there."""
    client, relay = await listed(relays, error(status), answer({"data": [GLM]}))
    assert (client.status, ids(client.json)) == (200, ["glm-5.2"])
    assert ("anthropic", "failed") in [entry[:2] for entry in relay.ended]


async def test_a_route_that_is_silent_is_left_out_in_time(relays: RelayFactory) -> None:
    """Claude Code waits for 3 seconds."""
    began_s = asyncio.get_running_loop().time()
    client, relay = await listed(relays, answer({"data": [CLAUDE]}, head_s=FOREVER), answer({"data": [GLM]}))
    assert asyncio.get_running_loop().time() - began_s < 3
    assert ids(client.json) == ["glm-5.2"]
    assert ("anthropic", "failed", "deadline") in relay.ended


@pytest.mark.parametrize("none", [error(404), error(405), answer(b"<html>", content_type="text/html")])
async def test_who_offers_no_list_has_the_known_models(relays: RelayFactory, none: ScriptedResponse) -> None:
    """By the prices, and by the provider's own map."""
    client, _ = await listed(relays, answer({"data": [CLAUDE]}), none)
    assert {"claude-opus-5-5", "glm-5.2", "glm-4.5-air"} <= set(ids(client.json))
    assert all(entry["display_name"] for entry in client.json["data"])


async def test_without_any_list_the_first_error_is_shown(relays: RelayFactory) -> None:
    """As it came."""
    client, _ = await listed(relays, error(429, "rate_limit_error", "slowly"), error(500))
    assert (client.status, client.json["error"]["message"]) == (429, "slowly")


async def test_a_key_sees_what_it_may_use(relays: RelayFactory) -> None:
    """Models of its list alone."""
    lists = answer({"data": [CLAUDE]}), answer({"data": [GLM]})
    client, _ = await listed(relays, *lists, only_models=("glm-*",))
    assert ids(client.json) == ["glm-5.2"]


async def ask_models(served: Serving, path: str = MODELS, **more: Any) -> Any:
    """A request as Claude Code sends it."""
    return await served.http.get(path, **more)


async def test_one_model_of_the_joined_list(server: Server, anthropic: FakeProvider, zai: FakeProvider) -> None:
    """Is found on whichever route; one that nobody lists is the first route's to answer."""
    served = await server.start(anthropic=anthropic, zai=zai)
    all_ids = ids((await ask_models(served)).json())
    assert any("claude" in name for name in all_ids)
    glm = next(name for name in all_ids if name.startswith("glm"))
    assert (await ask_models(served, f"/v1/models/{glm}")).json()["id"] == glm
    assert (await ask_models(served, "/v1/models/nowhere-1")).status_code == 404
    assert (await served.http.head("/v1/models")).content == b""
    assert (await ask_models(served, "/v1/models?limit=nothing")).status_code == 400


async def test_a_single_account_answers_as_it_is(server: Server, anthropic: FakeProvider) -> None:
    """Byte for byte, whatever it is asked."""
    served = await server.start(anthropic=anthropic)
    anthropic.script(reply.raw(b'{"data": [ ], "new":1}', content_type="application/json").when("/v1/models"))
    assert (await ask_models(served)).content == b'{"data": [ ], "new":1}'


async def test_a_key_with_models_asks_for_others_in_vain(server: Server, anthropic: FakeProvider) -> None:
    """Neither in the list nor by name, and nobody is asked for them."""
    served = await server.start(anthropic=anthropic, variables={"PROXY_API_KEYS": "ledger"})
    key, _ = issue(served, models=("claude-haiku-*",))
    found = ids((await ask_models(served, headers=shown(key))).json())
    assert found
    assert all("haiku" in name for name in found)
    seen = len(anthropic.requests)
    assert (await ask_models(served, "/v1/models/claude-opus-5-5", headers=shown(key))).status_code == 404
    assert len(anthropic.requests) == seen
    assert (await ask_models(served, f"/v1/models/{found[0]}", headers=shown(key))).json()["id"] == found[0]
