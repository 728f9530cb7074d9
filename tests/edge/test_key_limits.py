"""What a key on the ledger may do: through the real server, with a view as workers and operators make it."""

from typing import Any

import pytest

from service.errors import BadClientKey
from service.fleet.admission import Grant
from service.ledger.events import ClientKeyRevoked, RequestRefused
from service.ledger.fold import advance
from service.ledger.price import PriceList
from service.ledger.wire import CONTROL
from service.routing.keys import read_key
from service.settings import QuotaPolicy
from tests.fakes import FakeProvider, reply
from tests.support.client_keys import issue, shown
from tests.support.proxies import ASK, Server, Serving

ASKS = {"PROXY_API_KEYS": "ledger"}
WRONG = BadClientKey("no key of this proxy")


def refusals(served: Serving) -> list[RequestRefused]:
    """The refusals that were written down."""
    return [event for stream, event in served.events if isinstance(event, RequestRefused) and stream == CONTROL]


async def test_an_issued_key_is_served_and_counted(server: Server, anthropic: FakeProvider) -> None:
    """Its id stands in the events; the key itself goes nowhere."""
    served = await server.start(anthropic=anthropic, variables=ASKS)
    key, key_id = issue(served)
    assert (await served.ask(headers=shown(key))).status_code == 200
    assert served.ends[0][1].client_key == key_id
    assert key not in str(anthropic.requests[0].headers)


async def test_a_spent_key_is_refused_until_its_week_ends(server: Server, anthropic: FakeProvider) -> None:
    """429 billing_error, when it may go on, and no use in trying again; what costs nothing goes on."""
    served = await server.start(anthropic=anthropic, variables=ASKS)
    key, key_id = issue(served, weekly_tokens=1)
    assert (await served.ask(headers=shown(key))).status_code == 200
    refused = await served.ask(headers=shown(key))
    assert refused.status_code == 429
    assert refused.json()["error"]["type"] == "billing_error"
    assert "UTC" in refused.json()["error"]["message"]
    assert 0 < int(refused.headers["retry-after"]) <= 7 * 86_400
    assert refused.headers["x-should-retry"] == "false"
    assert len(anthropic.requests) == 1
    counted = await served.http.post("/v1/messages/count_tokens", json=ASK, headers=shown(key))
    assert counted.status_code == 200
    assert [(event.client_key, event.reason) for event in refusals(served)] == [(key_id, "key_spent")]


async def test_a_limit_in_dollars_holds(server: Server, anthropic: FakeProvider) -> None:
    """The cost of what has a price counts."""
    served = await server.start(anthropic=anthropic, variables=ASKS)
    key, _ = issue(served, weekly_cost_nusd=1)
    anthropic.script(reply.message())
    asked = ASK | {"model": "claude-sonnet-4-6"}
    assert (await served.ask(asked, headers=shown(key))).status_code == 200
    assert (await served.ask(asked, headers=shown(key))).status_code == 429


@pytest.mark.parametrize("model", ["claude-opus", "claude-no-such-model"])
async def test_what_has_no_price_is_not_free(server: Server, anthropic: FakeProvider, model: str) -> None:
    """A limit in dollars holds for an alias and a model that the price list lacks: at the dearest price that it may be.
    What is shown as its cost is what is known."""
    served = await server.start(anthropic=anthropic, variables=ASKS)
    key, key_id = issue(served, weekly_cost_nusd=1_000)
    anthropic.script(reply.message())
    asked = ASK | {"model": model}
    assert (await served.ask(asked, headers=shown(key))).status_code == 200
    assert served.ends[0][1].cost_nusd is None
    assert (await served.ask(asked, headers=shown(key))).status_code == 429
    cost = read_key(
        key_id, served.parts.watcher.view.control.keys[key_id], served.parts.watcher.view, QuotaPolicy(), PriceList(),
        served.parts.relay.clock.now_ms(),
    )  # fmt: skip
    assert (cost.state, cost.usage.cost_nusd) == ("ok", 0)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/messages", ASK | {"model": "claude-haiku-4-6"}, 200),
        ("POST", "/v1/messages", ASK, 400),
        ("POST", "/v1/messages", ASK | {"model": ""}, 400),
        ("POST", "/v1/messages/count_tokens", ASK, 400),
        ("POST", "/v1/messages/batches", {"requests": []}, 400),
        ("POST", "/v1/complete", ASK | {"model": "claude-haiku-4-6"}, 400),
        ("GET", "/v1/models", None, 200),
    ],
)
async def test_a_list_of_models_holds_everywhere(
    server: Server, anthropic: FakeProvider, method: str, path: str, body: Any, status: int
) -> None:
    """A model that is not on the list is not asked for, by no endpoint; the client is told, and tries no further."""
    served = await server.start(anthropic=anthropic, variables=ASKS)
    key, _ = issue(served, models=("claude-haiku-*",))
    answer = await served.http.request(method, path, json=body, headers=shown(key))
    assert answer.status_code == status, answer.text
    if status == 400:
        assert answer.json()["error"]["type"] == "policy_blocked"
        assert answer.headers["x-should-retry"] == "false"
        assert anthropic.requests == []


async def test_a_list_of_routes_holds(server: Server, anthropic: FakeProvider, zai: FakeProvider) -> None:
    """The first route of the chain is passed by, and nothing falls over to it."""
    served = await server.start(anthropic=anthropic, zai=zai, variables=ASKS)
    key, _ = issue(served, routes=("zai",))
    assert (await served.ask(headers=shown(key))).headers["x-ccproxy-route"] == "zai"
    zai.script(reply.error(529), reply.error(529), reply.error(529), reply.error(529), reply.error(529))
    assert (await served.ask(headers=shown(key))).status_code >= 500
    assert anthropic.requests == []


@pytest.mark.parametrize("shape", ["revoked", "expired", "mistyped", "other secret"])
async def test_a_key_that_is_none_is_final(server: Server, anthropic: FakeProvider, shape: str) -> None:
    """401, no use in trying again; it never goes up as if it were a credential."""
    served = await server.start(anthropic=anthropic, variables=ASKS)
    key, key_id = issue(served, expires_at_ms=1 if shape == "expired" else None)
    if shape == "revoked":
        advance(served.parts.watcher.view.control, ClientKeyRevoked(event_id="r", at_ms=1, key_id=key_id))
    key = {"mistyped": key[:-1], "other secret": key[:-8] + "00000000"}.get(shape, key)
    answer = await served.ask(headers={**shown(key), "x-api-key": "sk-ant-own"})
    assert (answer.status_code, answer.headers["x-should-retry"]) == (401, "false")
    assert anthropic.requests == []
    assert len(refusals(served)) == (shape == "expired"), "nobody grows the ledger without a key"


async def test_before_keys_are_known_nobody_is_called_unknown(server: Server, anthropic: FakeProvider) -> None:
    """503 with retry-after, never 401; keys of the settings work."""
    served = await server.start(anthropic=anthropic, variables={"PROXY_API_KEYS": "ledger,ben:key-of-ben-in-settings"})
    key, _ = issue(served)
    served.parts.watcher.control_known = False
    answer = await served.ask(headers=shown(key))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.headers["x-should-retry"] == "true"
    assert (await served.ask(headers=shown("key-of-ben-in-settings"))).status_code == 200


async def test_requests_under_way_have_a_limit(server: Server, anthropic: FakeProvider) -> None:
    """One more than allowed is told to come again soon; a slot is free when its request is over, however it ended."""
    served = await server.start(anthropic=anthropic, variables=ASKS)
    key, key_id = issue(served, concurrency=1)
    held = await served.parts.admission.admit_key(key_id, 1, "another request")
    assert isinstance(held, Grant)
    busy = await served.ask(headers=shown(key))
    assert (busy.status_code, busy.json()["error"]["type"]) == (429, "rate_limit_error")
    assert busy.headers["x-should-retry"] == "true"
    served.parts.admission.release(held)
    anthropic.script(reply.error(400))
    assert (await served.ask(headers=shown(key))).status_code == 400
    assert (await served.ask(headers=shown(key))).status_code == 200
    assert served.parts.gate.under_way == {}


async def test_refusals_do_not_grow_the_ledger(server: Server, anthropic: FakeProvider) -> None:
    """One event a minute for each key and reason, which counts those before it."""
    served = await server.start(anthropic=anthropic, variables=ASKS)
    key, key_id = issue(served, weekly_tokens=0)
    for _ in range(5):
        assert (await served.ask(headers=shown(key))).status_code == 429
    assert [event.count for event in refusals(served)] == [1]
    served.parts.gate._refusals[key_id, "key_spent"].at_ms -= 60_000
    await served.ask(headers=shown(key))
    assert [event.count for event in refusals(served)] == [1, 5]
