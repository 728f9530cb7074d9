"""The ledger is as exact on a Redis Cluster, behind Sentinel and over TLS as on one server, and after a loss there."""

from pathlib import Path

import pytest
from redis import Redis

from service.ledger import wire
from service.redis_client.factory import open_sync
from tests.support.installation import Installation
from tests.support.ledger_reader import LedgerReader
from tests.support.messages import STREAM, ask, client_of
from tests.support.processes import run
from tests.support.topologies import Cluster, Secured, Sentinel
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e
TOPOLOGIES: list[type[Cluster | Sentinel | Secured]] = [Cluster, Sentinel, Secured]


class Elsewhere(Installation):
    """An installation whose ledger lies elsewhere; the queue is on its own Valkey."""

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(folder)
        self.url = url

    @property
    def addresses(self) -> dict[str, str]:
        """Where the servers are."""
        return {"REDIS_URL": self.url, "RQ_REDIS_URL": self.valkey.url, "DATABASE_URL": self.postgres.url}

    def redis(self) -> Redis:
        """A client for the test itself."""
        return open_sync(self.url, socket_timeout=5, legacy_responses=False)


@pytest.mark.parametrize("kind", TOPOLOGIES, ids=lambda kind: kind.__name__.lower())
def test_the_ledger_is_exact_on(kind: type[Cluster | Sentinel | Secured], tmp_path: Path) -> None:
    """Requests are answered while a server is lost, and each attempt and token is counted once."""
    with kind(tmp_path) as topology, Elsewhere(tmp_path / "installation", topology.url) as installation:
        proxy, ledger = installation.start_proxy(), LedgerReader(installation)
        with client_of(proxy.url) as client:
            assert [ask(client, STREAM).status_code for _ in range(4)] == [200] * 4
            ledger.check_against({"anthropic": installation.anthropic})
            [replica] = ledger.status()["replicas"]
            assert replica["address"] == f"127.0.0.1:{proxy.port}"
            topology.nodes[0].kill()
            assert [ask(client, STREAM).status_code for _ in range(4)] == [200] * 4
            if not isinstance(topology, Sentinel):
                topology.nodes[0].start()
            eventually(lambda: is_back(installation))
            assert ask(client, STREAM).status_code == 200
            ledger.check_against({"anthropic": installation.anthropic})
        status, said = run(
            "check", home=installation.folder / "check", variables=installation.addresses | installation.upstreams
        )
        assert status == 0, said
        assert "topology-password" not in said + proxy.text + str(installation.worker and installation.worker.text)


def is_back(installation: Elsewhere) -> bool:
    """Whether Redis takes writes again."""
    try:
        with installation.redis() as redis:
            return bool(redis.set(wire.resource_key("back"), b"1", ex=1))
    except Exception:  # noqa: BLE001 - whatever it is, it is not back
        return False
