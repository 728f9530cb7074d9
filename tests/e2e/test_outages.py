"""Servers and processes that go away under traffic: no client sees it, nothing is lost, nothing counts twice.

After each outage the whole ledger is held against what the fakes received, from the first test of this file on.
"""

import threading
from collections.abc import Iterator

import pytest

from tests.fakes import reply
from tests.support.installation import Installation, Proxy
from tests.support.ledger_reader import LedgerReader, doubled
from tests.support.messages import ask, client_of
from tests.support.traffic import Traffic
from tests.support.waiting import eventually, settles_to

pytestmark = pytest.mark.e2e

OUTAGE_S = 10.0
"""What is promised: Redis may be away for so long under traffic."""


@pytest.fixture(scope="module")
def storm_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation of its own, whose servers may be hurt."""
    with Installation(tmp_path_factory.mktemp("storm")) as made:
        yield made


@pytest.fixture(scope="module")
def fleet(storm_house: Installation) -> list[Proxy]:
    """Two proxies of one installation."""
    return [storm_house.start_proxy() for _ in range(2)]


@pytest.fixture
def storm(storm_house: Installation, fleet: list[Proxy]) -> Iterator[Installation]:
    """The installation with everything up; and what no test here may bring about."""
    storm_house.mend()
    assert all(proxy.alive for proxy in fleet)
    storm_house.anthropic.script(*(reply.error(529).repeated(3) for _ in range(2)))  # so that both routes have a part
    yield storm_house
    for process in (*fleet, storm_house.worker):
        assert process is None or "Traceback" not in process.text, process.text[-4000:]


@pytest.fixture
def urls(fleet: list[Proxy]) -> list[str]:
    """Where the fleet is."""
    return [proxy.url for proxy in fleet]


def wait(seconds: float) -> None:
    """Let an outage last."""
    threading.Event().wait(seconds)


def check(installation: Installation, traffic: Traffic) -> None:
    """No client saw an error, each answer is on the ledger once, and the ledger is exact."""
    assert traffic.faults == []
    assert doubled(traffic.request_ids) == []
    ledger = LedgerReader(installation)
    ids = set(traffic.request_ids)
    settles_to(ids, lambda: {end["request_id"] for end in ledger.ended(list(ids)) if end["outcome"] == "ok"})
    ledger.check_against({"anthropic": installation.anthropic, "zai": installation.zai})
    nothing: list[object] = []
    settles_to(nothing, lambda: gaps(ledger))


def gaps(ledger: LedgerReader) -> list[object]:
    """Numbers of a replica that the ledger misses."""
    query = """SELECT stream, account.key, account.value->'gaps' FROM ccproxy.checkpoints,
        json_each(state->'heard') AS account WHERE coalesce(json_array_length(account.value->'gaps'), 0) > 0"""
    return list(ledger.rows(query))


def test_the_worker_is_killed(storm: Installation, urls: list[str]) -> None:
    """A worker killed with -9 under traffic, twice, and started again."""
    with Traffic(urls) as traffic:
        for _ in range(2):
            assert storm.worker is not None
            storm.worker.kill()
            traffic.flow(50)
            storm.start_worker()
            traffic.flow(50)
    check(storm, traffic)


def test_redis_is_stopped_for_ten_seconds(storm: Installation, urls: list[str]) -> None:
    """Redis stopped in order, away for ten seconds under traffic, and back."""
    with Traffic(urls) as traffic:
        storm.valkey.stop()
        wait(OUTAGE_S)
        away = traffic.count
        traffic.flow(20)
        storm.valkey.start()
        traffic.flow(50)
    assert away > 50
    check(storm, traffic)


def test_redis_is_killed(storm: Installation, urls: list[str]) -> None:
    """Redis killed with -9 under traffic: what it had not yet written to disk comes again from the proxies."""
    with Traffic(urls) as traffic:
        for _ in range(2):
            storm.valkey.kill()
            traffic.flow(100)
            storm.valkey.start()
            traffic.flow(100)
    check(storm, traffic)


def test_redis_hangs(storm: Installation, urls: list[str]) -> None:
    """A Redis that accepts and never answers holds no client up, and costs no event."""
    with Traffic(urls) as traffic:
        with storm.redis() as redis:
            redis.execute_command("CLIENT", "PAUSE", "3000", "ALL")
        traffic.flow(100)
        wait(3)
        traffic.flow(50)
    check(storm, traffic)


def test_redis_comes_back_empty(storm: Installation, urls: list[str]) -> None:
    """Redis loses everything while it is down: the ledger stands in Postgres, and the rest comes from the proxies."""
    with Traffic(urls) as traffic:
        storm.valkey.kill()
        storm.empty_valkey()
        traffic.flow(100)
        storm.valkey.start()
        traffic.flow(100)
    check(storm, traffic)


def test_postgres_is_stopped(storm: Installation, urls: list[str]) -> None:
    """Postgres stopped for some seconds under traffic: the streams grow, and are folded when it is back."""
    with Traffic(urls) as traffic:
        storm.postgres.stop()
        traffic.flow(100)
        wait(2)
        storm.postgres.start()
        traffic.flow(50)
    check(storm, traffic)


def test_postgres_is_killed(storm: Installation, urls: list[str]) -> None:
    """Postgres killed with -9 in the middle of its work."""
    with Traffic(urls) as traffic:
        storm.postgres.kill()
        traffic.flow(100)
        storm.postgres.start()
        traffic.flow(50)
    check(storm, traffic)


def test_everything_behind_the_proxies_is_away(storm: Installation, urls: list[str]) -> None:
    """Redis, Postgres and the worker all gone: clients are served all the same."""
    assert storm.worker is not None
    with Traffic(urls) as traffic:
        storm.worker.kill()
        storm.postgres.kill()
        storm.valkey.kill()
        traffic.flow(150)
        storm.mend()
        traffic.flow(50)
    check(storm, traffic)


def test_a_proxy_is_killed_while_redis_is_away(storm: Installation) -> None:
    """A proxy killed with -9 has its events on disk; the one that is started on the same home brings them in, once."""
    victim = storm.start_proxy()
    with Traffic([victim.url], clients=2) as before:
        storm.valkey.stop()
        before.flow(50)
    victim.kill()
    assert list((victim.home / "spool").glob("*/*.spool"))
    heir = storm.start_proxy_without_ledger(home=victim.home)
    with Traffic([heir.url], clients=2) as after:
        storm.valkey.start()
        after.flow(50)
    check(storm, before)
    check(storm, after)
    eventually(lambda: not list((victim.home / "spool").glob("*/*.spool")))
    heir.stop()


def test_a_proxy_is_killed_under_traffic(storm: Installation, urls: list[str]) -> None:
    """Of the answers that clients have whole, none is missing, though their proxy and Redis died at the same moment."""
    ledger = LedgerReader(storm)
    victim = storm.start_proxy()
    with Traffic([victim.url], clients=2) as traffic:
        storm.valkey.kill()
        traffic.flow(50)
        victim.kill()
        storm.valkey.start()
        traffic.flow(2)
    assert traffic.faults
    heir = storm.start_proxy(home=victim.home)
    ids = set(traffic.request_ids)
    settles_to(ids, lambda: {end["request_id"] for end in ledger.ended(list(ids))})
    assert doubled(end["request_id"] for end in ledger.ended(list(ids)) if end["outcome"] == "ok") == []
    heir.stop()
    with client_of(urls[0]) as client:
        assert ask(client).status_code == 200
