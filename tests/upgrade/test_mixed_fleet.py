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
from tests.support.older_versions import (
    BEFORE_LINES,
    THIS_CHECKOUT,
    Version,
    checkout_of,
    installed,
    last_release,
    tree_of,
)
from tests.support.traffic import Traffic
from tests.support.waiting import settles_to
from tests.support.wheels import ROOT, WHEEL_VERSION

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
    """An installation whose processes are of either version, at first of the earlier one."""

    def __init__(self, folder: Path, older: Version, newer: Version = THIS_CHECKOUT) -> None:
        super().__init__(folder)
        self.versions = {OLD: older, NEW: newer}
        self.switch(OLD)

    def switch(self, version: str) -> None:
        """From now on, processes of this version are started."""
        self.version = version
        self.program = self.versions[version].program

    @property
    def addresses(self) -> dict[str, str]:
        """Where the servers are, and the code of the version that is started now."""
        return super().addresses | dict(self.versions[self.version].variables)

    def start(self, version: str) -> Proxy:
        """A proxy of a version."""
        self.switch(version)
        return self.start_proxy()

    def migrate(self) -> None:
        """Migrate the schema to this version, as one does before its first worker."""
        self.switch(NEW)
        self.command("migrate")

    def replace_worker(self, version: str) -> None:
        """A worker of another version, beside the one that is there until it works; then that one ends."""
        before = self.worker
        self.switch(version)
        self.start_worker()
        if before is not None:
            before.stop()


@pytest.fixture
def mixed(tmp_path: Path) -> Iterator[MixedInstallation]:
    """An installation of the earlier version, as a checkout."""
    older = checkout_of(BEFORE_LINES, tmp_path / "older")
    if older is None:
        pytest.skip(f"the history does not reach back to {BEFORE_LINES[:7]}; fetch it (`git fetch --unshallow`)")
    with MixedInstallation(tmp_path / "fleet", older) as made:
        yield made


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> tuple[Version, Version]:
    """The last release and this version, each installed from its wheel, in an environment of its own."""
    folder = tmp_path_factory.mktemp("wheels")
    source = tree_of(last_release(), folder / "source")
    if source is None:
        pytest.skip(f"the history does not reach back to {last_release()}; fetch it (`git fetch --unshallow`)")
    return installed(source, folder / "older"), installed(ROOT, folder / "newer")


@pytest.fixture
def installed_fleet(tmp_path: Path, wheels: tuple[Version, Version]) -> Iterator[MixedInstallation]:
    """An installation of the last release, from its wheel."""
    with MixedInstallation(tmp_path / "fleet", *wheels) as made:
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
    """From a version without lines; with prices that are set afterwards, each model costs what it should."""
    ledger = upgrade(mixed, first)
    home = mixed.folder / "ledger"
    (home / "ccproxy.toml").write_text(PRICES, encoding="utf-8")
    mixed.command("ledger", "reprice", "--since", "1d")
    ledger.settle()
    mixed.command("ledger", "verify")
    query = "SELECT sum(input)::bigint FROM ccproxy.usage_hourly WHERE model = %s"
    from_newer = sum("lines" in body for (body,) in ledger.rows(ADVISED_EVENTS))
    assert from_newer == (4 if first == "workers" else 2)
    assert ledger.rows(query, ADVISOR) == [(1_000 * from_newer,)]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", ["workers", "proxies"])
def test_the_last_release_is_upgraded_from_wheel_to_wheel(installed_fleet: MixedInstallation, first: str) -> None:
    """As users have it: two environments, each with the packages that its version asks for."""
    said = {}
    for version in (OLD, NEW):
        installed_fleet.switch(version)
        said[version] = installed_fleet.command("--version")
    assert WHEEL_VERSION in said[NEW]
    assert said[OLD] != said[NEW]
    installed_fleet.switch(OLD)
    upgrade(installed_fleet, first)


@pytest.mark.timeout(600)
def test_the_way_back_is_a_backup(installed_fleet: MixedInstallation, tmp_path: Path) -> None:
    """Made before the upgrade. The earlier version restores it over the newer schema, folds what Redis has since, and
    goes on: its recount agrees, and all that was served in between counts."""
    file, ledger = str(tmp_path / "before.zip"), LedgerReader(installed_fleet)
    older = installed_fleet.start(OLD)
    with Traffic([older.url], clients=2):
        installed_fleet.command("backup", file)
    older.stop()
    installed_fleet.migrate()
    installed_fleet.replace_worker(NEW)
    newer = installed_fleet.start(NEW)
    # Little, so that Redis has all of it: it keeps about a thousand entries that were folded.
    with Traffic([newer.url], clients=2) as later:
        later.flow()
    assert later.faults == []
    newer.stop()
    ledger.settle()
    newer_worker = installed_fleet.worker
    assert newer_worker is not None
    newer_worker.stop()
    installed_fleet.switch(OLD)
    installed_fleet.command("restore", "--replace", file)
    installed_fleet.start_worker()
    with Traffic([installed_fleet.start(OLD).url], clients=2) as again:
        again.flow()
    assert again.faults == []
    ledger.settle()
    installed_fleet.command("ledger", "verify")
    ledger.check_against({"anthropic": installed_fleet.anthropic, "zai": installed_fleet.zai})


def upgrade(mixed: MixedInstallation, first: str) -> LedgerReader:
    """Workers first, or proxies first; the earlier version comes back in between, as a proxy. Its workers run on over
    the newer schema until they are replaced, but do not start on it. At the end the ledger is exact."""
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
    mixed.switch(NEW)
    check(mixed, ledger)
    mixed.command("ledger", "verify")
    return ledger


ADVISED_EVENTS = "SELECT body FROM ccproxy.events WHERE type = 'attempt_ended' AND body->>'session_id' = 'advised'"


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
