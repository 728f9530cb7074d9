"""How long a request may wait: by the client's own limit, for a first byte, for the words of an error."""

import pytest

from service.relay import responses as answers
from tests.fakes import FakeProvider, reply
from tests.support.proxies import ASK, STREAM, Server


@pytest.mark.parametrize("body", [STREAM, ASK], ids=["stream", "whole"])
@pytest.mark.parametrize("when", ["request", "headers", "message_start"])
async def test_the_clients_limit_ends_the_wait(
    server: Server, anthropic: FakeProvider, body: dict[str, object], when: str
) -> None:
    """A provider that is silent beyond X-Stainless-Timeout costs a 504 timeout_error, whatever its limit's form."""
    served = await server.start(anthropic=anthropic)
    anthropic.script(reply.hang(when))  # type: ignore[arg-type]
    answer = await served.ask(body, headers={"X-Stainless-Timeout": "0.4"})
    assert answer.status_code == 504
    assert answer.json()["error"]["type"] == "timeout_error"
    assert [outcome for _, outcome, _ in served.told] == ["failed"]
    await anthropic.wait_until_async(lambda: anthropic.requests[0].client_closed_s is not None)


async def test_the_limit_holds_over_all_routes(server: Server, anthropic: FakeProvider, zai: FakeProvider) -> None:
    """One deadline for the request, not one for each route."""
    served = await server.start(anthropic=anthropic, zai=zai)
    anthropic.script(reply.hang("message_start"))
    answer = await served.ask(headers={"X-Stainless-Timeout": "0.4"})
    assert answer.status_code == 504
    assert zai.requests == []


async def test_the_limit_ends_with_the_content(server: Server, anthropic: FakeProvider) -> None:
    """Once content has come only silence counts, not the client's limit."""
    served = await server.start(anthropic=anthropic)
    anthropic.script(reply.message().pausing(1_000, "content_block_delta"))
    answer = await served.ask(headers={"X-Stainless-Timeout": "0.7"})
    assert "message_stop" in answer.text


@pytest.mark.parametrize("limit", ["", "no number", "-1", "0", "nan", "inf", "99999999", "1e400"])
async def test_an_odd_limit_is_no_limit(server: Server, anthropic: FakeProvider, limit: str) -> None:
    """A limit that is no sensible number leaves the settings' own."""
    served = await server.start(anthropic=anthropic)
    assert (await served.ask(headers={"X-Stainless-Timeout": limit})).status_code == 200


async def test_a_slow_first_byte_goes_to_the_next_route(
    server: Server, anthropic: FakeProvider, zai: FakeProvider
) -> None:
    """While another route is left, a stream's head is waited for no longer than the limit; for the last one, longer."""
    served = await server.start(anthropic=anthropic, zai=zai, first_byte_ms=500)
    anthropic.script(reply.hang("request"))
    zai.script(reply.slow(700))
    answer = await served.ask()
    assert (answer.status_code, answer.headers["x-ccproxy-route"]) == (200, "zai")
    assert served.told == [("anthropic", "failed", "timeout"), ("zai", "ok", "")]
    await anthropic.wait_until_async(lambda: anthropic.requests[0].client_closed_s is not None)


async def test_a_repeated_attempt_is_not_the_last_route(
    server: Server, anthropic: FakeProvider, zai: FakeProvider
) -> None:
    """After a stale connection the route is asked again under the first byte's limit, since another route is left."""
    served = await server.start(anthropic=anthropic, zai=zai, first_byte_ms=500)
    anthropic.script(reply.message(), reply.reset("request"), reply.hang("request"))
    await served.ask()
    answer = await served.ask()
    assert (answer.headers["x-ccproxy-route"], answer.headers["x-ccproxy-attempts"]) == ("zai", "3")


async def test_the_words_of_an_error_hold_up_nothing(
    server: Server, anthropic: FakeProvider, zai: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error whose body never comes is known by its status, and the next route is asked."""
    monkeypatch.setattr(answers, "ERROR_READ_S", 0.05)
    served = await server.start(anthropic=anthropic, zai=zai)
    anthropic.script(reply.error(529).cut("hang", "headers"), reply.error(529).cut("reset", "headers"))
    for _ in range(2):
        served.forget()
        answer = await served.ask()
        assert answer.headers["x-ccproxy-route"] == "zai"
        assert served.told == [("anthropic", "failed", "overloaded"), ("zai", "ok", "")]
