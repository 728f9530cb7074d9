"""`/metrics` through the real server: the agreed names, what they count, and who may read them."""

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service import auth_throttle as brake
from service.ledger.events import Event
from tests.fakes import FakeProvider, Usage, reply
from tests.support.event_factories import failed
from tests.support.proxies import ASK, STREAM, Server, Serving
from tests.support.waiting import wait_for_answer

NAMES = {
    "ccproxy_requests", "ccproxy_request_refusals", "ccproxy_attempts", "ccproxy_failovers", "ccproxy_circuit_state",
    "ccproxy_route_available", "ccproxy_route_state", "ccproxy_quota_used_tokens", "ccproxy_quota_limit_tokens",
    "ccproxy_quota_overshoot_tokens", "ccproxy_tokens", "ccproxy_cost_usd", "ccproxy_unpriced",
    "gen_ai_server_time_to_first_token_seconds", "gen_ai_server_request_duration_seconds",
    "ccproxy_added_latency_seconds", "ccproxy_requests_in_flight", "ccproxy_outbox_pending_events",
    "ccproxy_spool_events", "ccproxy_info",
}  # fmt: skip
"""Dashboards and alerts use these; those of the fleet need Redis."""
TOKEN = "metrics-token-marked-0123456789"


async def read(served: Serving) -> dict[str, dict[tuple[str, ...], float]]:
    """Sample name -> label values, by the labels' names -> value."""
    answer = await served.http.get("/metrics")
    assert answer.status_code == 200, answer.text
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(answer.text):
        found.setdefault(family.name, {})
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


def counted(series: dict[tuple[str, ...], float]) -> dict[tuple[str, ...], float]:
    """The series of a counter that have counted anything."""
    return {labels: value for labels, value in series.items() if value}


async def test_counters_start_at_zero(server: Server, anthropic: FakeProvider, zai: FakeProvider) -> None:
    """`increase()` and `rate()` do not see the first count of a series that appears with it."""
    served = await server.start(anthropic=anthropic, zai=zai, variables={"PROXY_API_KEYS": "ann:key-of-ann-0123456789"})
    first = await read(served)
    anthropic.script(reply.error(401))
    assert (await served.ask()).status_code == 401
    assert (await served.ask(headers={"x-api-key": "key-of-ann-0123456789"})).status_code == 200
    second = await read(served)
    for name in ("ccproxy_requests_total", "ccproxy_request_refusals_total", "ccproxy_attempts_total"):
        assert counted(second[name])
        assert first[name].keys() == second[name].keys()
        assert not counted(first[name])
    assert second["ccproxy_attempts_total"]["credential", "failed", "anthropic"] == 1
    assert second["ccproxy_request_refusals_total"].keys() >= {("key_spent",), ("foreign_origin",), ("rate_limited",)}
    assert {route for _, _, route in first["ccproxy_attempts_total"]} == {"anthropic", "zai"}


async def test_a_route_is_in_one_state(server: Server, anthropic: FakeProvider) -> None:
    """A route without a credential is off, which is told apart from one that fails."""
    served = await server.start(anthropic=anthropic)
    anthropic.script(reply.error(429, retry_after_s=40))
    assert (await served.ask()).status_code == 429
    found = (await read(served))["ccproxy_route_state"]
    assert counted(found) == {("anthropic", "waiting"): 1, ("subscription", "off"): 1, ("zai", "off"): 1}
    assert ("anthropic", "healthy") in found


async def test_without_redis_none_is_down(server: Server, anthropic: FakeProvider) -> None:
    """Where none is configured there is nothing to be alerted about."""
    served = await server.start(anthropic=anthropic)
    assert "ccproxy_redis_up" not in await read(served)


async def test_a_stream_that_gets_no_answer_is_seen_while_it_waits(server: Server, anthropic: FakeProvider) -> None:
    """Until its first byte; a whole answer may take minutes, and says nothing."""
    served = await server.start(anthropic=anthropic)

    async def wait_s() -> float:
        return (await read(served))["ccproxy_first_byte_wait_seconds"][()]

    async def waits() -> bool:
        return await wait_s() > 0.2

    async def waits_no_more() -> bool:
        return await wait_s() == 0

    anthropic.default = reply.hang()
    for body, is_seen in ((ASK, False), (STREAM, True)):
        asked = asyncio.create_task(served.ask(body))
        anthropic_got = len(anthropic.requests)
        await asyncio.to_thread(anthropic.wait_for, anthropic_got + 1)
        if is_seen:
            await wait_for_answer(waits)
        assert (await wait_s() > 0) is is_seen
        asked.cancel()
        await asyncio.wait({asked})
        await wait_for_answer(waits_no_more)
    anthropic.default = reply.hang("content_block_delta")
    async with served.http.stream("POST", "/v1/messages", json=STREAM) as answer:
        await anext(answer.aiter_bytes())
        assert await wait_s() == 0


async def test_a_failover_is_counted_once(server: Server, anthropic: FakeProvider, zai: FakeProvider) -> None:
    """One request, two attempts, one failover; the tokens are those of the answer."""
    served = await server.start(anthropic=anthropic, zai=zai)
    anthropic.script(reply.error(529))
    assert (await served.ask()).status_code == 200
    found = await read(served)
    assert found.keys() >= NAMES
    assert counted(found["ccproxy_requests_total"]) == {("messages", "ok"): 1}
    assert counted(found["ccproxy_attempts_total"]) == {
        ("overloaded", "failed", "anthropic"): 1,
        ("", "ok", "zai"): 1,
    }
    assert counted(found["ccproxy_failovers_total"]) == {("anthropic", "zai"): 1}
    event = served.ends[-1][1]
    assert found["ccproxy_tokens_total"][event.model_sent, "zai", "output"] == event.tokens.output
    assert found["ccproxy_quota_used_tokens"][("zai",)] == event.tokens.input + event.tokens.output
    assert found["ccproxy_added_latency_seconds_count"] == {(): 1}
    assert found["ccproxy_requests_in_flight"] == {(): 0}


async def test_what_has_no_price_is_counted_by_model(server: Server, anthropic: FakeProvider) -> None:
    """It is in no cost, so that it has a counter of its own; what failed without an answer used nothing."""
    served = await server.start(anthropic=anthropic)
    assert (await served.ask({**ASK, "model": "claude-unheard-of"})).status_code == 200
    anthropic.script(reply.error(400, "invalid_request_error", "max_tokens: too many"))
    assert (await served.ask({**ASK, "model": "claude-unheard-of"})).status_code == 400
    found = await read(served)
    assert counted(found["ccproxy_unpriced_total"]) == {("claude-unheard-of", "anthropic"): 1}
    assert "ccproxy_cost_usd_total" not in found


async def test_estimated_tokens_have_a_counter(server: Server, anthropic: FakeProvider) -> None:
    """From zero on: an answer without usage, whose tokens are a guess."""
    served = await server.start(anthropic=anthropic)
    assert (await read(served))["ccproxy_estimated_tokens_total"] == {("anthropic",): 0}
    assert (await served.ask()).status_code == 200
    assert counted((await read(served))["ccproxy_estimated_tokens_total"]) == {}
    anthropic.script(reply.message(usage=Usage(input=0, output=0)))
    assert (await served.ask()).status_code == 200
    tokens = served.ends[-1][1].tokens
    assert (await read(served))["ccproxy_estimated_tokens_total"] == {("anthropic",): tokens.input + tokens.output}


async def test_tokens_are_those_of_the_models_that_served(server: Server, anthropic: FakeProvider) -> None:
    """Line by line; a field of the usage that nobody counts has a counter, by its name."""
    served = await server.start(anthropic=anthropic)
    advice = {"type": "advisor_message", "model": "claude-opus-4-8", "input_tokens": 30, "output_tokens": 4}
    usage = {"input_tokens": 2, "output_tokens": 1, "iterations": [advice], "hologram_tokens": 7}
    text = [{"type": "text", "text": "hello"}]
    answer = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-haiku-4-5", "content": text}
    anthropic.script(reply.json(answer | {"usage": usage}))
    assert (await served.ask(ASK)).status_code == 200
    found = await read(served)
    tokens = {key[0]: value for key, value in found["ccproxy_tokens_total"].items() if key[2] == "input"}
    assert tokens == {"claude-haiku-4-5": 2, "claude-opus-4-8": 30}
    assert counted(found["ccproxy_unread_usage_total"]) == {("hologram_tokens", "anthropic"): 1}
    assert served.parts.watcher.route_statuses()[0].unread_usage.keys() == {"hologram_tokens"}


async def test_early_heads_are_counted_by_outcome(server: Server, anthropic: FakeProvider) -> None:
    """Content in time is none; a failure behind the head is not what its status says."""
    served = await server.start(anthropic=anthropic, head_after_ms=100)
    anthropic.script(
        reply.message(), reply.slow(300), reply.error(529).pausing(300), reply.bad_request("no").pausing(300)
    )
    for _ in range(4):
        assert (await served.ask()).status_code == 200
    found = await read(served)
    assert counted(found["ccproxy_early_heads_total"]) == {("ok",): 1, ("provider_error",): 1, ("client_error",): 1}
    assert found["ccproxy_requests_total"][("messages", "ok")] == 2


async def test_what_no_rule_knows_and_cool_downs_are_counted(server: Server, anthropic: FakeProvider) -> None:
    """Errors by route alone, cool-downs by whose they are; never a word of an error."""
    served = await server.start(anthropic=anthropic)
    anthropic.script(reply.error(400, "invalid_request_error", "The flux is out of phase"))
    assert (await served.ask()).status_code == 400
    found = await read(served)
    assert counted(found["ccproxy_unknown_errors_total"]) == {("anthropic",): 1}
    assert found["ccproxy_second_opinions"] == {}
    assert found["ccproxy_cool_down_seconds"] == {}
    anthropic.script(reply.error(429, retry_after_s=40))
    assert (await served.ask()).status_code == 429
    [(owner, left_s)] = (await read(served))["ccproxy_cool_down_seconds"].items()
    account = served.ends[-1][1].account
    assert sorted(owner) == sorted(("anthropic", account, "messages", "throttle"))
    assert len(account) == 16
    assert 0 < left_s <= 40
    assert "flux" not in (await served.http.get("/metrics")).text


async def test_second_opinions_are_counted_by_outcome(server: Server, anthropic: FakeProvider) -> None:
    """By the route that failed first."""
    served = await server.start(anthropic=anthropic)
    for event in (failed(opinion="confirmed", final=False), failed(opinion="none", words="aabb")):
        served.parts.metrics.record_event("anthropic", event)
    found = await read(served)
    assert counted(found["ccproxy_second_opinions_total"]) == {("confirmed", "anthropic"): 1, ("none", "anthropic"): 1}
    assert counted(found["ccproxy_unknown_errors_total"]) == {("anthropic",): 1}


async def test_a_second_of_much_load_is_not_counted_at_once(
    server: Server, anthropic: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would hold up the requests of that moment; of few, many are."""
    served = await server.start(anthropic=anthropic)
    monkeypatch.setattr("service.console.metrics.NOTED_EVENTS", 7)
    metrics, recorded, counts = served.parts.metrics, list[Event](), list[int]()
    monkeypatch.setattr(metrics.attempts, "add", lambda *_: counts.append(len(recorded)))
    for event in (failed() for _ in range(20)):
        recorded.append(event)
        metrics.record_event("anthropic", event)
    assert counts == [7] * 7 + [14] * 7


async def test_how_requests_end_is_told_apart(server: Server, anthropic: FakeProvider) -> None:
    """Refused, the client's fault, the provider's fault, throttled."""
    served = await server.start(
        anthropic=anthropic, variables={"PROXY_API_KEYS": "ann:key-of-ann-0123456789", "API_MAX_RETRIES": "0"}
    )
    key = {"x-api-key": "key-of-ann-0123456789"}
    anthropic.script(reply.error(400), reply.error(500))
    assert (await served.ask()).status_code == 401
    assert (await served.ask(headers=key)).status_code == 400
    assert (await served.ask(headers=key)).status_code == 500
    found = await read(served)
    assert counted(found["ccproxy_requests_total"]) == {
        ("messages", "refused"): 1,
        ("messages", "client_error"): 1,
        ("messages", "provider_error"): 1,
    }
    assert counted(found["ccproxy_request_refusals_total"]) == {("unknown_key",): 1}


async def test_a_stream_that_breaks_is_no_answer(server: Server, anthropic: FakeProvider) -> None:
    """After commit the head said 200; what became of it counts: told as an error, cut, or left by the client."""
    served = await server.start(anthropic=anthropic)
    anthropic.script(reply.truncated(), reply.stream_error(after="content"), reply.hang("content_block_delta"))
    for _ in range(2):
        assert b"event: error" in (await served.ask()).content
    async with served.http.stream("POST", "/v1/messages", json=STREAM) as answer:
        await anext(answer.aiter_bytes())

    async def none_in_flight() -> bool:
        return (await read(served))["ccproxy_requests_in_flight"] == {(): 0}

    await wait_for_answer(none_in_flight)
    assert counted((await read(served))["ccproxy_requests_total"]) == {
        ("messages", "provider_error"): 2,
        ("messages", "aborted"): 1,
    }


async def test_whoever_asks_too_often_is_counted(
    server: Server, anthropic: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong keys beyond those that are kept waiting, and the admin API."""
    monkeypatch.setattr(brake, "HELD", 0)
    served = await server.start(anthropic=anthropic, variables={"PROXY_API_KEYS": "ann:key-of-ann-0123456789"})
    served.parts.brake.note_failure("127.0.0.1")
    for _ in range(brake.FREE_TRIES - 1):
        assert (await served.ask()).status_code == 401
    answer = await served.ask()
    assert (answer.status_code, answer.json()["error"]["type"]) == (429, "rate_limit_error")
    access = served.parts.console.access
    access.set_admin_token("admin-token-0123456789")
    access._left = -1e9
    answer = await served.http.get("/admin/api/routes", headers={"authorization": "Bearer admin-token-0123456789"})
    assert answer.status_code == 429
    assert counted((await read(served))["ccproxy_request_refusals_total"]) == {
        ("unknown_key",): brake.FREE_TRIES - 1,
        ("rate_limited",): 2,
    }


async def test_model_names_are_bounded(server: Server, anthropic: FakeProvider) -> None:
    """Clients invent model names; labels are bounded."""
    served = await server.start(anthropic=anthropic)
    for number in range(100):
        served.parts.metrics._model(f"made-up-{number}")
    assert served.parts.metrics._model("made-up-3") == "made-up-3"
    assert served.parts.metrics._model("one more") == "other"


async def test_who_may_read(server: Server, anthropic: FakeProvider) -> None:
    """The loopback, unless it forwards for others; with a token set, whoever shows it."""
    served = await server.start(anthropic=anthropic)
    assert (await served.http.get("/metrics")).status_code == 200
    assert (await served.http.get("/metrics", headers={"x-forwarded-for": "10.0.0.9"})).status_code == 401
    guarded = await server.start(anthropic=anthropic, variables={"METRICS_TOKEN": TOKEN})
    assert (await guarded.http.get("/metrics")).status_code == 401
    assert (await guarded.http.get("/metrics", headers={"authorization": "Bearer wrong"})).status_code == 401
    answer = await guarded.http.get("/metrics", headers={"authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200
    assert TOKEN not in answer.text
