"""What providers say of their limits, from the wire to the next request's route."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.fakes import FakeProvider, reply
from tests.support.proxies import ASK, Server

HAIKU = ASK | {"model": "claude-haiku-4-6"}
RESET = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=2)


async def test_a_window_of_some_models_holds_those_alone(
    server: Server, anthropic: FakeProvider, zai: FakeProvider
) -> None:
    """Its 429 is invisible; later requests for the model don't try the route before the reset, and others do."""
    served = await server.start(anthropic=anthropic, zai=zai)
    anthropic.script(reply.unified_limit(window="7d_oi"))
    routes = [(await served.ask(body)).headers["x-ccproxy-route"] for body in (ASK, ASK, HAIKU)]
    assert routes == ["zai", "zai", "anthropic"]
    assert served.told[0] == ("anthropic", "failed", "quota")
    refused = served.ends[0][1]
    assert (refused.holds, refused.windows["7d_oi"].status) == ("opus", "rejected")
    assert refused.retry_at_ms == refused.windows["7d_oi"].resets_at_ms


async def test_paid_overage_is_an_answer_and_a_warning(
    server: Server, anthropic: FakeProvider, zai: FakeProvider
) -> None:
    """`rejected` on a 200 is kept; from then on the others go first, and the route is still there behind them."""
    served = await server.start(anthropic=anthropic, zai=zai)
    anthropic.script(reply.unified_limit(window="5h", status=200))
    zai.script(reply.message(), reply.error(500))
    routes = [(await served.ask(ASK)).headers["x-ccproxy-route"] for _ in range(3)]
    assert routes == ["anthropic", "zai", "anthropic"]


async def test_a_throttle_within_open_windows_is_no_quota(
    server: Server, anthropic: FakeProvider, zai: FakeProvider
) -> None:
    """The resets of its windows come with every answer, and lengthen no wait."""
    served = await server.start(anthropic=anthropic, zai=zai)
    allowed = {"anthropic-ratelimit-unified-status": "allowed", "anthropic-ratelimit-unified-reset": "4000000000"}
    anthropic.script(reply.error(429, headers=allowed, retry_after_s=7))
    await served.ask(ASK)
    end = served.ends[0][1]
    assert (end.kind, end.scope) == ("throttle", "throttle")
    assert 0 < end.retry_at_ms - end.at_ms <= 7_000


@pytest.mark.parametrize("shape", ["anthropic", "bare", "typed", "message"])
async def test_zais_windows_are_in_its_errors(server: Server, zai: FakeProvider, shape: str) -> None:
    """In each of their shapes, until the stamp, which is Beijing's."""
    served = await server.start(zai=zai)
    zai.script(reply.zai_error(1308, shape=shape, reset=RESET))  # type: ignore[arg-type]
    answer = await served.ask(ASK)
    assert answer.status_code == 429
    end = served.ends[0][1]
    assert (end.kind, end.windows["5h"].status) == ("quota", "rejected")
    assert end.windows["5h"].resets_at_ms == end.retry_at_ms == int(RESET.timestamp() * 1000)
    assert (await served.ask(ASK)).status_code == 429
    assert len(served.ends) == 1


async def test_counting_tokens_holds_no_message(server: Server, anthropic: FakeProvider) -> None:
    """Its throttle is its own."""
    served = await server.start(anthropic=anthropic)
    anthropic.script(reply.error(429, retry_after_s=600).when("/v1/messages/count_tokens"))
    counted = await served.http.post("/v1/messages/count_tokens", json=ASK)
    assert counted.status_code == 429
    assert (await served.ask(ASK)).status_code == 200


async def test_a_rule_of_ones_own_is_followed(
    server: Server, anthropic: FakeProvider, zai: FakeProvider, tmp_path: Path
) -> None:
    """From the file to the route: what a house's machine says is a throttle here."""
    rules = tmp_path / "rules.toml"
    rules.write_text('[[failures]]\nstatus = [418]\nwords = ["teapot"]\nkind = "throttle"\nscope = "throttle"\n')
    served = await server.start(anthropic=anthropic, zai=zai, variables={"CCPROXY_CONFIG": str(rules)})
    anthropic.script(reply.error(418, message="I am a Teapot"))
    assert (await served.ask(ASK)).headers["x-ccproxy-route"] == "zai"
    assert served.told[0] == ("anthropic", "failed", "throttle")
