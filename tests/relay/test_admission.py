"""What a route admits, as the client sees it: nothing of it, while another route or a slot is left."""

import asyncio
import time
from collections.abc import Callable

import pytest

from service.ledger.state import ReplicaHealth, RouteLedger, Usage
from service.relay.plain_words import format_time
from tests.fakes import FakeProvider, reply
from tests.support.proxies import ASK, Server

LIMITED = {"ANTHROPIC_CONCURRENCY": "1"}


async def under_way(fake: FakeProvider) -> None:
    """The provider has a request that it does not answer."""
    await fake.wait_until_async(lambda: bool(fake.requests))


async def test_a_full_route_is_passed_over(server: Server, anthropic: FakeProvider, zai: FakeProvider) -> None:
    """While its only slot is taken, the next request goes to the next route."""
    served = await server.start(anthropic=anthropic, zai=zai, variables=LIMITED)
    anthropic.script(reply.message().pausing(600))
    first = asyncio.create_task(served.ask(ASK))
    await under_way(anthropic)
    second = await served.ask(ASK)
    assert second.headers["x-ccproxy-route"] == "zai"
    assert (await first).headers["x-ccproxy-route"] == "anthropic"
    assert (await served.ask(ASK)).headers["x-ccproxy-route"] == "anthropic"


async def test_a_slot_is_waited_for(server: Server, anthropic: FakeProvider) -> None:
    """With no other route the second request takes the slot of the first."""
    served = await server.start(anthropic=anthropic, variables=LIMITED)
    anthropic.script(reply.message().pausing(300))
    answers = await asyncio.gather(served.ask(ASK), served.ask(ASK))
    assert [answer.status_code for answer in answers] == [200, 200]
    assert {end.outcome for _, end in served.ends} == {"ok"}


async def test_a_slot_that_stays_taken_is_a_429(server: Server, anthropic: FakeProvider) -> None:
    """The client is told to come back in a second; no attempt was made, and none is on the ledger."""
    served = await server.start(anthropic=anthropic, variables=LIMITED)
    anthropic.script(reply.hang("request"))
    first = asyncio.create_task(served.ask(ASK))
    await under_way(anthropic)
    second = await served.ask(ASK)
    assert (second.status_code, second.headers["retry-after"], second.headers["x-should-retry"]) == (429, "1", "true")
    assert "is busy with other requests; try again in 1 second, at " in second.json()["error"]["message"]
    assert len(anthropic.requests) == 1
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)


async def test_a_client_that_goes_frees_its_slot(server: Server, anthropic: FakeProvider) -> None:
    """What an aborted attempt held is free for the next."""
    served = await server.start(anthropic=anthropic, variables=LIMITED)
    anthropic.script(reply.hang("request"), reply.message())
    first = asyncio.create_task(served.ask(ASK))
    await under_way(anthropic)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert (await served.ask(ASK)).status_code == 200


async def test_a_route_that_did_not_admit_leaves_the_other_its_time(
    server: Server, anthropic: FakeProvider, zai: FakeProvider
) -> None:
    """With the first one full, the second is the last: its head is waited for as long as the client waits."""
    served = await server.start(anthropic=anthropic, zai=zai, variables=LIMITED, first_byte_ms=300)
    anthropic.script(reply.message().pausing(1_500))
    zai.script(reply.slow(600))
    first = asyncio.create_task(served.ask(ASK))
    await under_way(anthropic)
    second = await served.ask()
    assert (second.status_code, second.headers["x-ccproxy-route"]) == (200, "zai")
    assert (await first).status_code == 200


def spent() -> RouteLedger:
    """A ledger whose week is used up."""
    return RouteLedger(hours={int(time.time() // 3600): Usage(attempts=1, input=2_000)})


def just_tripped() -> RouteLedger:
    """A ledger by which another replica's circuit has opened now."""
    now_ms = int(time.time() * 1000)
    return RouteLedger(
        health={"other": ReplicaHealth(5, 5, opened_ms=now_ms, last_failure_ms=now_ms, last_failure_id="x")}
    )


@pytest.mark.parametrize("changed", [spent, just_tripped])
async def test_what_happens_while_a_route_is_tried_counts_for_the_next(
    server: Server, anthropic: FakeProvider, zai: FakeProvider, changed: Callable[[], RouteLedger]
) -> None:
    """The second route was good when the request came. It is spent, or open for the fleet, when its turn comes."""
    served = await server.start(
        anthropic=anthropic,
        zai=zai,
        variables={
            "ZAI_WEEKLY_LIMIT": "1000",
            "CIRCUIT_BREAKER_ENABLED": "true",
            "CIRCUIT_BREAKER_COOLDOWN_MS": "60000",
        },
        first_byte_ms=500,
    )
    anthropic.script(reply.hang("request"))
    asked = asyncio.create_task(served.ask())
    await under_way(anthropic)
    served.parts.watcher.view.routes["zai"] = changed()
    answer = await asked
    assert answer.status_code >= 400
    assert zai.requests == []


async def test_a_quota_with_too_little_left_is_spent(server: Server, anthropic: FakeProvider) -> None:
    """While nothing is under way: the client learns of the reset and gives up, status and dashboard say so, too."""
    served = await server.start(anthropic=anthropic, variables={"ANTHROPIC_WEEKLY_LIMIT": "2000"})
    assert (await served.ask(ASK)).status_code == 200
    refused = await served.ask(ASK | {"max_tokens": 100_000})
    assert (refused.status_code, refused.headers["x-should-retry"]) == (429, "false")
    [status] = [one for one in served.parts.watcher.route_statuses() if one.route == "anthropic"]
    assert (status.state, status.quota, status.until_ms) == ("quota_spent", "spent", status.resets_at_ms)
    wait_s = int(refused.headers["retry-after"])
    assert abs(status.resets_at_ms / 1000 - served.parts.clock.now_ms() / 1000 - wait_s) < 30
    message = refused.json()["error"]["message"]
    assert "Anthropic has less left of its weekly limit than this request may use; try again in" in message
    assert f"at {format_time(status.resets_at_ms)}" in message
    assert len(anthropic.requests) == 1
    assert (await served.ask(ASK)).status_code == 200
    [status] = [one for one in served.parts.watcher.route_statuses() if one.route == "anthropic"]
    assert status.state != "quota_spent"
