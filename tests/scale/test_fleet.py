"""Many replicas: a rolling restart breaks nothing, a kill breaks only what it must, and the ledger is exact.

The kill comes first: its attempts are closed half a minute later, and meanwhile everything is restarted.
`make test-scale` restarts everything more often, under more clients.
"""

import os
from typing import NamedTuple

import pytest

from tests.fakes import reply
from tests.scale.fleet import Fleet
from tests.scale.load import SLOWLY, Asked, Load
from tests.support.messages import GLM
from tests.support.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
ROUNDS = int(os.environ.get("SCALE_ROUNDS", "1"))
CLIENTS = int(os.environ.get("SCALE_CLIENTS", "6"))
SLOW = 6
TRIES = 4
"""The balancer chooses: on a busy machine six streams may all be on the other proxies."""
LOST_S = 90.0
"""A heartbeat is gone after 30 s, two looks see it; and this machine may be slow."""


class Killed(NamedTuple):
    """What was under way when a proxy was killed, and which of it was its own."""

    asked: list[Asked]
    own: set[str]


@pytest.fixture(scope="module")
def killed(fleet: Fleet) -> Killed:
    """A proxy is killed with -9 while streams are under way, and started again."""
    fleet.installation.zai.script(reply.drip(400).when(body=SLOWLY).forever())
    with Load(fleet.balancer.url, 0) as load:
        asked = load.begin_slow(3 * SLOW, GLM)
        fleet.proxies["proxy1"].kill()
        load.stop()
    fleet.start("proxy1")
    fleet.wait_for_all()
    return Killed(asked, {one.request_id for one in asked if one.served_by == "proxy1"})


def test_a_kill_breaks_only_its_own_streams(killed: Killed) -> None:
    """The clients of its streams see an error, the others nothing."""
    assert {one.request_id for one in killed.asked if one.error} == killed.own
    assert 0 < len(killed.own) < len(killed.asked)


@pytest.mark.usefixtures("killed")
def test_a_rolling_restart_breaks_nothing(fleet: Fleet) -> None:
    """Every proxy and every worker is restarted while clients stream: no request fails, no token is lost or doubled."""
    fake = fleet.installation.anthropic
    fake.script(reply.drip(250).when(body=SLOWLY).forever())
    retried = fleet.balancer.retried()
    with Load(fleet.balancer.url, CLIENTS) as load:
        for _ in range(ROUNDS):
            for name in fleet.workers:
                fleet.restart_worker(name)
            for name in fleet.ports:
                under_way = (asked.served_by for _ in range(TRIES) for asked in load.begin_slow(SLOW))
                assert name in under_way, "nothing is under way on what is restarted"
                fleet.restart(name)
        load.stop()
    assert load.failed == []
    assert {asked.served_by for asked in load.asked} == set(fleet.ports)
    assert {asked.kind for asked in load.asked} == {"whole", "stream", "slow"}
    assert fleet.balancer.retried() == retried, "the balancer hid a failure"
    assert len(fake.requests) == len(load.asked), "an attempt was repeated"
    fleet.ledger.check_against({"anthropic": fake})
    fleet.verify()


def test_what_a_kill_left_open_is_closed(fleet: Fleet, killed: Killed) -> None:
    """Half a minute after the kill, through all restarts: its attempts are closed as lost, each other one ended once,
    and `verify` finds nothing."""
    eventually(lambda: lost(fleet) == killed.own, patience_s=LOST_S)
    ends = fleet.ledger.ended([one.request_id for one in killed.asked])
    assert sorted(end["request_id"] for end in ends) == sorted({one.request_id for one in killed.asked} - killed.own)
    assert {end["outcome"] for end in ends} == {"ok"}
    fleet.ledger.settle()
    fleet.ledger.check_sound()
    fleet.verify()


def lost(fleet: Fleet) -> set[str]:
    """The requests with attempts that were closed as lost."""
    return {row[0] for row in fleet.ledger.rows("SELECT request_id FROM ccproxy.events WHERE type = 'attempt_lost'")}
