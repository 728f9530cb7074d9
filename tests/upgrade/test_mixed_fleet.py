"""`make test-upgrade`: this version and an earlier one side by side, under traffic, restarted in both orders.

The schema is migrated first, under traffic; nothing is stopped or waited for in between. Whatever folds and whoever
serves, no client sees an error, each token counts once, and at the end the recount agrees. Of answers with lines, an
earlier worker keeps what it knows: their sums, for the model that was asked.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import reply
from tests.support.installation import Installation, Proxy
from tests.support.ledger_reader import LedgerReader
from tests.support.messages import client_of
from tests.support.older_versions import BEFORE_LINES, tree_of
from tests.support.processes import run
from tests.support.traffic import Traffic
from tests.support.waiting import settles_to

OLD, NEW = "old", "new"
SESSION = "sesn_00000001"
ASKED, ADVISOR = "claude-sonnet-4-6", "claude-opus-4-8"
ADVICE = {"type": "advisor_message", "model": ADVISOR, "input_tokens": 1_000, "output_tokens": 7}
ADVISED = {
    "id": "msg_advised",
    "type": "message",
    "role": "assistant",
    "model": ASKED,
    "content": [{"type": "text", "text": "advised"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 2, "output_tokens": 5, "iterations": [ADVICE]},
}
PRICES = f'[prices."{ASKED}"]\ninput = 9\noutput = 90\ncache_read = 0\ncache_write_5m = 0\ncache_write_1h = 0\n'


class MixedInstallation(Installation):
    """An installation whose processes are of either version."""

    def __init__(self, folder: Path, older: Path) -> None:
        super().__init__(folder)
        self.older = older
        self.version = OLD

    @property
    def addresses(self) -> dict[str, str]:
        """Where the servers are, and the code of the version that is started now."""
        code = {"PYTHONPATH": str(self.older)} if self.version == OLD else {}
        return super().addresses | code

    def start(self, version: str) -> Proxy:
        """A proxy of a version."""
        self.version = version
        return self.start_proxy()

    def migrate(self) -> None:
        """Migrate the schema to this version, as one does before its first worker."""
        self.version = NEW
        status, said = run("migrate", home=self.folder / "migrate", variables=self.addresses)
        assert status == 0, said

    def replace_worker(self, version: str) -> None:
        """A worker of another version, beside the one that is there until it works; then that one ends."""
        before, self.version = self.worker, version
        self.start_worker()
        if before is not None:
            before.stop()


@pytest.fixture
def mixed(tmp_path: Path) -> Iterator[MixedInstallation]:
    """An installation of the earlier version."""
    older = tree_of(BEFORE_LINES, tmp_path / "older")
    if older is None:
        pytest.skip(f"the history does not reach back to {BEFORE_LINES[:7]}; fetch it (`git fetch --unshallow`)")
    with MixedInstallation(tmp_path / "fleet", older) as made:
        yield made


def poll(proxy: Proxy) -> None:
    """Look at the session."""
    with client_of(proxy.url) as client:
        assert client.get(f"/v1/sessions/{SESSION}").status_code == 200


def ask_advised(mixed: MixedInstallation, proxy: Proxy) -> None:
    """Get an answer on which another model gave advice."""
    mixed.anthropic.script(reply.json(ADVISED).when(body="advised"))
    body = {"model": ASKED, "max_tokens": 9, "messages": [{"role": "user", "content": "advised"}]}
    headers = {"x-claude-code-session-id": "advised"}
    with client_of(proxy.url) as client:
        assert client.post("/v1/messages", json=body, headers=headers).status_code == 200


@pytest.mark.parametrize("first", ["workers", "proxies"])
def test_a_fleet_is_upgraded_under_traffic(mixed: MixedInstallation, first: str) -> None:
    """Workers first, or proxies first; the earlier version comes back in between, as a proxy. Its workers run on over
    the newer schema until they are replaced, but do not start on it."""
    sessions, ledger = mixed.anthropic.resources.sessions, LedgerReader(mixed)
    sessions[SESSION] = 1_000
    older = [mixed.start(OLD) for _ in range(2)]
    with Traffic([older[1].url], clients=2) as throughout:
        mixed.migrate()
        if first == "workers":
            mixed.replace_worker(NEW)
        newer = [mixed.start(NEW) for _ in range(2)]
        with Traffic([proxy.url for proxy in newer], clients=2) as later:
            for proxy in (*older, *newer):
                poll(proxy)
                ask_advised(mixed, proxy)
            older[0].stop()
            sessions[SESSION] = 3_000
            poll(newer[0])
            back = mixed.start(OLD)
            poll(back)
            if first == "proxies":
                settles_to(len(older) + len(newer), lambda: len(ledger.rows(ADVISED_EVENTS)))
                mixed.replace_worker(NEW)
            sessions[SESSION] = 4_000
            for proxy in (*newer, back):
                poll(proxy)
                ask_advised(mixed, proxy)
            later.flow()
        assert later.faults == []
        mixed.replace_worker(NEW)
        throughout.flow()
    assert throughout.faults == []
    mixed.version = NEW
    check(mixed, ledger)
    assert verify(mixed) == 0
    (mixed.folder / "verify").mkdir(exist_ok=True)
    (mixed.folder / "verify" / "ccproxy.toml").write_text(PRICES, encoding="utf-8")
    assert command(mixed, "reprice", "--since", "1d")[0] == 0
    ledger.settle()
    assert verify(mixed) == 0
    query = "SELECT sum(input)::bigint FROM ccproxy.usage_hourly WHERE model = %s"
    from_newer = sum("lines" in body for (body,) in ledger.rows(ADVISED_EVENTS))
    assert from_newer == (4 if first == "workers" else 2)
    assert ledger.rows(query, ADVISOR) == [(1_000 * from_newer,)]


ADVISED_EVENTS = "SELECT body FROM ccproxy.events WHERE type = 'attempt_ended' AND body->>'session_id' = 'advised'"


def command(mixed: MixedInstallation, *arguments: str) -> tuple[int, str]:
    """A command about the ledger, of this version."""
    return run("ledger", *arguments, home=mixed.folder / "verify", variables=mixed.addresses)


def verify(mixed: MixedInstallation) -> int:
    """How a recount ends."""
    return command(mixed, "verify")[0]


def check(mixed: MixedInstallation, ledger: LedgerReader) -> None:
    """All that the fakes served is on the ledger, once, with the session's total, and advice as far as the proxy that
    passed it knew of it."""
    ledger.settle()
    fakes = (mixed.anthropic, mixed.zai)
    served = sum(one.usage.input for fake in fakes for one in fake.served)
    advised = ledger.rows(ADVISED_EVENTS)
    served += sum(body["tokens"]["input"] for (body,) in advised)
    wanted = [(sum(len(fake.requests) for fake in fakes), served + mixed.anthropic.resources.sessions[SESSION])]
    query = "SELECT sum(attempts)::bigint, sum(input)::bigint FROM ccproxy.usage_hourly"
    settles_to(wanted, lambda: ledger.rows(query))
    ledger.settle()
    assert ledger.rows(query) == wanted
    ledger.check_sound()
