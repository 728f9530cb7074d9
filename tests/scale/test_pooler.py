"""Workers fold through a transaction pooler, which gives each transaction any connection: PgBouncer with two."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from service.embedded.folder import is_free
from service.embedded.managed_process import ManagedProcess
from tests.support.installation import Installation
from tests.support.ledger_reader import LedgerReader
from tests.support.messages import STREAM, ask, client_of
from tests.support.ports import free_port
from tests.support.processes import run
from tests.support.servers import STOP_S, program
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e
CONFIGURATION = """\
[databases]
ccproxy = host=127.0.0.1 port={postgres} dbname={name} user={name} password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
admin_users = anybody
pool_mode = transaction
default_pool_size = 2
server_round_robin = 1
"""


class Pooled(Installation):
    """An installation whose workers reach Postgres through the pooler, but for what needs a session."""

    pooler_port = 0

    @property
    def addresses(self) -> dict[str, str]:
        """Where the servers are; the installation's first worker comes before the pooler."""
        if not self.pooler_port:
            return super().addresses
        pooled = f"postgresql://anybody@127.0.0.1:{self.pooler_port}/ccproxy"
        return super().addresses | {"DATABASE_URL": pooled, "DATABASE_DIRECT_URL": self.postgres.url}


@contextmanager
def pooler(installation: Pooled) -> Iterator[None]:
    """PgBouncer, as the account that Postgres runs as: it refuses root too."""
    place, port = installation.postgres.place, free_port()
    parts = psycopg.conninfo.conninfo_to_dict(installation.postgres.url)
    file = place / "pgbouncer.ini"
    file.write_text(
        CONFIGURATION.format(port=port, postgres=parts["port"], name=parts["user"], password=parts["password"])
    )
    with (installation.folder / "pgbouncer.log").open("wb") as output:
        command = [program("pgbouncer", "pgbouncer"), file]
        process = ManagedProcess(command, account=installation.postgres.account, output=output.fileno())
    try:
        eventually(lambda: not is_free("127.0.0.1", port) or process.poll() is not None)
        installation.pooler_port = port
        yield
    finally:
        process.stop(STOP_S)


def test_the_ledger_is_exact_behind_a_pooler(tmp_path: Path) -> None:
    """Two workers fold at once through two connections that they share; what is counted is exact, and is proved."""
    with Pooled(tmp_path) as installation, pooler(installation):
        assert installation.worker is not None
        installation.worker.stop()
        with installation.start_worker() as first:
            second = installation.start_worker()
            proxy = installation.start_proxy()
            with client_of(proxy.url) as client:
                assert {ask(client, STREAM).status_code for _ in range(30)} == {200}
            LedgerReader(installation).check_against({"anthropic": installation.anthropic})
            status, said = run(
                "ledger", "verify", home=installation.folder / "verify", variables=installation.addresses
            )
            assert status == 0, said
            assert not any("ERROR" in worker.text or "lost" in worker.text for worker in (first, second))
            assert pooled_transactions(installation) > 0, "nobody came through the pooler"


def pooled_transactions(installation: Pooled) -> int:
    """What PgBouncer says that it has passed on."""
    with psycopg.connect(
        f"postgresql://anybody@127.0.0.1:{installation.pooler_port}/pgbouncer", autocommit=True
    ) as connection:
        rows = psycopg.ClientCursor(connection).execute("SHOW STATS_TOTALS").fetchall()
    return sum(int(row[1]) for row in rows if row[0] == "ccproxy")
