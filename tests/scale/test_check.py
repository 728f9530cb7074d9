"""`ccproxy check` on a Redis Cluster, behind Sentinel, over TLS, and behind a pooler of Postgres."""

from pathlib import Path

import pytest

from service.commands.check_redis import check_redis
from tests.scale.test_pooler import Pooled, pooler
from tests.scale.test_topologies import TOPOLOGIES
from tests.support.topologies import Cluster, Secured, Sentinel
from workers.check import check_database
from workers.store import PostgresAddress

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("kind", TOPOLOGIES, ids=lambda kind: kind.__name__.lower())
def test_a_redis_of_several_servers_is_green(kind: type[Cluster | Sentinel | Secured], tmp_path: Path) -> None:
    """Each command runs there, and the login is told."""
    with kind(tmp_path) as topology:
        found = check_redis(topology.url)
    assert [finding for finding in found if finding.ok is False] == []
    assert "logged in as " in found[0].words


def test_a_pooler_is_named(tmp_path: Path) -> None:
    """It is right where the server itself is set beside it; else what needs a session is named."""
    with Pooled(tmp_path) as installation, pooler(installation):
        address = PostgresAddress(installation.addresses["DATABASE_URL"], 5)
        assert [ok for _, ok, _ in check_database(address, "DATABASE_URL", has_direct=True)] == [True]
        _, (_, is_right, words) = check_database(address, "DATABASE_URL", has_direct=False)
        assert (is_right, "set DATABASE_DIRECT_URL" in words) == (None, True)
        direct = PostgresAddress(installation.postgres.url, 5)
        assert [ok for _, ok, _ in check_database(direct, "DATABASE_URL", has_direct=False)] == [True]
