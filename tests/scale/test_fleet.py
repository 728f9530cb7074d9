"""Many replicas: a rolling restart breaks nothing, a kill breaks only what it must, and the ledger is exact.

`make test-scale` restarts everything more often, under more clients.
"""

import os

import pytest

from tests.e2e.asking import GLM
from tests.e2e.processes import eventually
from tests.fakes import reply
from tests.scale.fleet import Fleet
from tests.scale.load import SLOWLY, Load

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
ROUNDS = int(os.environ.get("SCALE_ROUNDS", "1"))
CLIENTS = int(os.environ.get("SCALE_CLIENTS", "6"))
SLOW = 6
LOST_S = 90.0
"""A heartbeat is gone after 30 s, two looks see it; and this machine may be slow."""


def test_a_rolling_restart_breaks_nothing(fleet: Fleet) -> None:
    """Every proxy and every worker is restarted while clients stream: no request fails, no token is lost or doubled."""
    fake = fleet.house.anthropic
    fake.script(reply.drip(250).when(body=SLOWLY).forever())
    with Load(fleet.balancer.url, CLIENTS) as load:
        for _ in range(ROUNDS):
            for name in fleet.ports:
                slow = load.begin_slow(SLOW)
                assert name in {asked.served_by for asked in slow}, "nothing is under way on what is restarted"
                fleet.restart(name)
            for name in fleet.workers:
                fleet.restart_worker(name)
        load.stop()
    assert load.failed == []
    assert {asked.served_by for asked in load.asked} == set(fleet.ports)
    assert {asked.kind for asked in load.asked} == {"whole", "stream", "slow"}
    assert fleet.balancer.retried() == 0, "the balancer hid a failure"
    assert len(fake.requests) == len(load.asked), "an attempt was repeated"
    fleet.books.check_against({"anthropic": fake})
    fleet.verify()


def test_a_kill_breaks_only_its_own_streams(fleet: Fleet) -> None:
    """A proxy is killed with -9: the clients of its streams see an error, the others nothing; the attempts that it
    leaves open are closed as lost, and `verify` finds nothing."""
    fake = fleet.house.zai
    fake.script(reply.drip(400).when(body=SLOWLY).forever())
    with Load(fleet.balancer.url, 0) as load:
        asked = load.begin_slow(3 * SLOW, GLM)
        fleet.proxies["proxy1"].kill()
        load.stop()
    broken = {one.request_id for one in asked if one.error}
    assert broken == {one.request_id for one in asked if one.served_by == "proxy1"}
    assert 0 < len(broken) < len(asked)
    fleet.start("proxy1")
    eventually(lambda: lost(fleet) == broken, patience_s=LOST_S)
    ends = fleet.books.ended([one.request_id for one in asked])
    assert sorted(end["request_id"] for end in ends) == sorted({one.request_id for one in asked} - broken)
    assert {end["outcome"] for end in ends} == {"ok"}
    fleet.books.settle()
    fleet.books.check_sound()
    fleet.verify()


def lost(fleet: Fleet) -> set[str]:
    """The requests with attempts that were closed as lost."""
    return {row[0] for row in fleet.books.rows("SELECT request_id FROM ccproxy.events WHERE type = 'attempt_lost'")}
