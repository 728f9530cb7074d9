"""A subscription's token that the provider refuses before its time is replaced within the request."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import FakeProvider, reply
from tests.support.proxies import STREAM_BYTES, Server, Serving, connected, request_bytes
from tests.support.subscriptions import HOUR_MS, OLD_REFRESH, log_in, refreshes
from tests.support.waiting import wait_until


@pytest.fixture
def subscription() -> Iterator[FakeProvider]:
    """A provider that refuses the access token, though it has not expired, and takes the refresh token."""
    with FakeProvider("subscription", keys=set(), refresh_tokens={OLD_REFRESH}) as fake:
        yield fake


async def start(server: Server, fake: FakeProvider, path: Path, zai: FakeProvider | None = None) -> Serving:
    """A proxy with the subscription first."""
    return await server.start(
        zai=zai,
        variables={
            "CLAUDE_CREDENTIALS_PATH": str(log_in(path / ".credentials.json", left_ms=HOUR_MS)),
            "CLAUDE_SUBSCRIPTION_BASE_URL": fake.base_url,
            "CLAUDE_OAUTH_REFRESH_URL": fake.base_url + "/v1/oauth/token",
            "CLIENT_CREDENTIALS": "never",
        },
    )


async def test_the_attempt_is_repeated_on_its_route(
    server: Server, subscription: FakeProvider, zai: FakeProvider, tmp_path: Path
) -> None:
    """Once, with the new token; no other route is tried, and the refusal is nobody's fault."""
    served = await start(server, subscription, tmp_path, zai)
    answer = await served.ask()
    assert (answer.status_code, answer.headers["x-ccproxy-attempts"]) == (200, "2")
    assert [(route, end.outcome, end.kind, end.scope) for route, end in served.ends] == [
        ("subscription", "failed", "credential", ""),
        ("subscription", "ok", "", ""),
    ]
    assert refreshes(subscription) == 1


async def test_the_route_stays_in_use(server: Server, subscription: FakeProvider, tmp_path: Path) -> None:
    """While the repeated request is still being answered, others are answered as well."""
    served = await start(server, subscription, tmp_path)
    subscription.script(reply.message().pausing(1_000, "message_start"))
    first = asyncio.create_task(served.ask())
    await subscription.wait_until_async(lambda: len(subscription.requests_to("/v1/messages")) == 2)
    answer = await served.ask()
    assert (answer.status_code, answer.headers["x-ccproxy-attempts"]) == (200, "1")
    assert not first.done()
    assert (await first).status_code == 200


async def test_a_refusal_without_a_successor_lets_the_route_rest(
    server: Server, subscription: FakeProvider, zai: FakeProvider, tmp_path: Path
) -> None:
    """The log-in has ended: the next route answers, and the next request does not try in vain."""
    subscription.oauth.refresh_tokens.clear()
    served = await start(server, subscription, tmp_path, zai)
    assert (await served.ask()).headers["x-ccproxy-route"] == "zai"
    assert [(route, end.scope) for route, end in served.ends] == [("subscription", "credential"), ("zai", "")]
    assert (await served.ask()).headers["x-ccproxy-attempts"] == "1"


async def test_a_client_that_goes_meanwhile_leaves_no_open_attempt(
    server: Server, subscription: FakeProvider, tmp_path: Path
) -> None:
    """The refused attempt ends on the ledger, though nobody waits for its repetition; the route need not rest."""
    subscription.oauth.wait_ms = 1_000
    served = await start(server, subscription, tmp_path)
    async with connected(served) as wire:
        await wire.send(request_bytes(STREAM_BYTES, headers="anthropic-version: 2023-06-01\r\n"))
        await subscription.wait_until_async(lambda: refreshes(subscription) == 1)
    await wait_until(lambda: not served.open_attempts())
    assert [(end.outcome, end.status, end.scope) for _, end in served.ends] == [("failed", 401, "")]
