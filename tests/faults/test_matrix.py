"""Every fault, with and without a stream, of the first route and of all, over both transports: what the client got
through the real SDK, which routes were tried, what the ledger counted, and which circuit or wait moved.
"""

import ssl
from typing import Any

import httpx2
import pytest
from anthropic import APIError, APIStatusError, AsyncAnthropic

from service.ledger.state import RouteLedger
from tests.fakes import FakeProvider, Usage, reply
from tests.faults.faults import FAULTS, ZAI, Fault, ZaiMeaning
from tests.support.proxies import Server, Serving

MODEL = "claude-opus-5-5"
GLM = "glm-5.2"
REAL_CIRCUITS = {"CIRCUIT_BREAKER_ENABLED": "true", "CIRCUIT_BREAKER_COOLDOWN_MS": "60000", "LOG_LEVEL": "warn"}
SHORT: dict[str, Any] = {"first_byte_ms": 400, "idle_ms": 400}
"""Time-outs that a silence meets within a test; nothing but silence is that slow."""
PATIENCE = {"X-Stainless-Timeout": "1.6"}
"""The client's own patience: half of it ends the silence of a first route that is asked for a whole answer, all of it
that of the last route."""
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Reading certificates that nobody needs would be most of a test's time."""
SILENT = {"slow headers", "slow first byte", "silent mid-stream"}


TRANSPORTS = pytest.mark.parametrize("transport", ["lean", "httpx"])


async def ask(served: Serving, *, stream: bool, model: str = MODEL, silent: bool = False) -> str | tuple[int, str]:
    """The text of the answer, or its error as the SDK tells it: status and type."""
    asked: dict[str, Any] = {"model": model, "max_tokens": 64, "messages": [{"role": "user", "content": "hi"}]}
    headers = PATIENCE if silent else {}
    http = httpx2.AsyncClient(trust_env=False, verify=PLAIN)
    async with AsyncAnthropic(base_url=served.url, api_key="placeholder", max_retries=0, http_client=http) as client:
        try:
            if stream:
                async with client.messages.stream(**asked, extra_headers=headers) as events:
                    message = await events.get_final_message()
            else:
                message = await client.messages.create(**asked, extra_headers=headers)
        except APIStatusError as error:
            return error.status_code, str(error.type)
        except APIError as error:
            raise AssertionError(f"no error that a client can read: {error!r}") from None
    assert message.stop_reason is not None
    [block] = message.content
    assert block.type == "text"
    return block.text


def moved(ledger: RouteLedger) -> set[str]:
    """What has moved in a route's state."""
    found = {"circuit"} if any(health.failures_in_row for health in ledger.health.values()) else set()
    found |= {name.rpartition("/")[2].partition(":")[0] for name in ledger.waits}
    return found | ({"model"} if ledger.missing_models else set())


def check_ledger(served: Serving, fakes: dict[str, FakeProvider]) -> None:
    """Each attempt that went up is counted once, with the tokens of the answers that were told."""
    for route, fake in fakes.items():
        ledger = served.parts.watcher.view.ledger(route)
        usage = list(ledger.hours.values())
        ended = [end for name, end in served.ends if name == route]
        assert sum(cell.attempts for cell in usage) == len(ended)
        assert sum(cell.failed for cell in usage) == sum(end.outcome == "failed" for end in ended)
        assert len(fake.requests) <= len(ended)
        good = [end.tokens for end in ended if end.outcome == "ok"]
        whole = wholly_served(fake, len(good))
        assert sorted((u.input, u.output) for u in whole)[: len(good)] == sorted((t.input, t.output) for t in good)
        assert not ledger.open


def wholly_served(fake: FakeProvider, least: int) -> list[Usage]:
    """The usage of the answers that went out whole; the fake notes that a moment after the client has its last byte."""
    fake.wait_until(lambda: sum(answer.complete for answer in fake.served) >= least)
    return [answer.usage for answer in fake.served if answer.complete]


def expected_moves(fault: Fault, *, failed: bool) -> set[str]:
    return {fault.moved} if failed and fault.moved else set()


@TRANSPORTS
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("name", FAULTS)
async def test_the_first_route_fails(
    server: Server,
    anthropic: FakeProvider,
    zai: FakeProvider,
    name: str,
    stream: bool,  # noqa: FBT001
    transport: str,
) -> None:
    """Before content the client notices nothing; after it, it learns the truth; its own fault it is told at once."""
    fault = FAULTS[name]
    served = await start(server, fault, anthropic, zai, transport)
    zai.default = reply.message("from the other route")
    anthropic.default = fault.reply
    answer = await ask(served, stream=stream, silent=name in SILENT)
    shown = fault.stream if stream else fault.whole
    failed = shown is not None
    ends_here = not failed or fault.final or (stream and fault.late)
    if ends_here:
        assert answer == shown or (not failed and isinstance(answer, str))
        assert [route for route, *_ in served.told] == ["anthropic"]
    else:
        assert answer == "from the other route"
        assert [route for route, *_ in served.told] == ["anthropic", "zai"]
        assert served.told[1][1] == "ok"
    if failed:
        end = served.ends[0][1]
        assert (end.outcome, end.kind, end.scope) == ("failed", fault.kind, fault.scope)
    assert moved(served.parts.watcher.view.ledger("anthropic")) == expected_moves(fault, failed=failed)
    assert moved(served.parts.watcher.view.ledger("zai")) == set()
    check_ledger(served, {"anthropic": anthropic, "zai": zai})


@TRANSPORTS
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("name", FAULTS)
async def test_all_routes_fail(
    server: Server,
    anthropic: FakeProvider,
    zai: FakeProvider,
    name: str,
    stream: bool,  # noqa: FBT001
    transport: str,
) -> None:
    """The client gets the most useful error, in Anthropic's shape, and never a route's own 401 or 403."""
    fault = FAULTS[name]
    served = await start(server, fault, anthropic, zai, transport, all_bad=True)
    anthropic.default = zai.default = fault.reply
    answer = await ask(served, stream=stream, silent=name in SILENT)
    shown = fault.stream if stream else fault.whole
    failed = shown is not None
    assert answer == shown or (not failed and isinstance(answer, str))
    tried = [route for route, *_ in served.told]
    if not failed or fault.final or (stream and fault.late):
        assert tried == ["anthropic"]
    else:
        assert tried[:2] == ["anthropic", "zai"]
        assert len(tried) == 2 + fault.repeats
        assert {(outcome, kind) for _, outcome, kind in served.told} == {("failed", fault.kind)}
    for route in dict.fromkeys(tried):
        assert moved(served.parts.watcher.view.ledger(route)) == expected_moves(fault, failed=failed)
    check_ledger(served, {"anthropic": anthropic, "zai": zai})


async def start(
    server: Server, fault: Fault, anthropic: FakeProvider, zai: FakeProvider, transport: str, *, all_bad: bool = False
) -> Serving:
    """A proxy before both, over this transport, or before places where nobody answers well."""
    places = [
        fault.place(fake) if fault.place and is_bad else fake for fake, is_bad in ((anthropic, True), (zai, all_bad))
    ]
    variables = REAL_CIRCUITS | {"UPSTREAM_TRANSPORT": transport}
    return await server.start(anthropic=places[0], zai=places[1], variables=variables, **SHORT)


# -- Z.AI's own codes


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("code", ZAI)
async def test_each_code_of_zai(
    server: Server,
    anthropic: FakeProvider,
    zai: FakeProvider,
    code: int,
    stream: bool,  # noqa: FBT001
) -> None:
    """As the first route for its own models: what the code means, and the other route where that can help."""
    meaning: ZaiMeaning = ZAI[code]
    served = await server.start(anthropic=anthropic, zai=zai, variables=REAL_CIRCUITS)
    anthropic.default = reply.message("from the other route")
    zai.default = reply.zai_error(code, number=code % 2 == 0)
    answer = await ask(served, stream=stream, model=GLM)
    end = served.ends[0][1]
    assert (served.ends[0][0], end.outcome, end.kind, end.scope) == ("zai", "failed", meaning.kind, meaning.scope)
    if meaning.final:
        assert answer == (400, "invalid_request_error")
        assert [route for route, *_ in served.told] == ["zai"]
    else:
        assert answer == "from the other route"
        assert served.told[-1] == ("anthropic", "ok", "")
    assert moved(served.parts.watcher.view.ledger("zai")) == ({meaning.moved} if meaning.moved else set())
    assert moved(served.parts.watcher.view.ledger("anthropic")) == set()


@pytest.mark.parametrize("code", [code for code, meaning in ZAI.items() if not meaning.final])
async def test_each_code_of_zai_from_the_last_route(
    server: Server, anthropic: FakeProvider, zai: FakeProvider, code: int
) -> None:
    """When nothing else is left: an error in Anthropic's shape, with a wait where waiting helps, and never a 401."""
    meaning = ZAI[code]
    served = await server.start(zai=zai, variables=REAL_CIRCUITS)
    zai.default = reply.zai_error(code)
    answer = await ask(served, stream=True, model=GLM)
    expected: dict[str, tuple[int, str]] = {
        "credential": (502, "api_error"),
        "throttle": (429, "rate_limit_error"),
        "quota": (429, "rate_limit_error"),
    }
    if meaning.scope in expected:
        assert answer == expected[meaning.scope]
    else:
        assert answer in ((400, "invalid_request_error"), (429, "rate_limit_error"), (500, "api_error"),
                          (429, "overloaded_error"))  # fmt: skip
    assert anthropic.requests == []
