"""The service after what happens to services: a crash, a reboot, an upgrade, a log rotation. No answer goes missing."""

from __future__ import annotations

import json
import sys
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from service.embedded import folder
from tests.fakes import FakeProvider
from tests.install.services import ByHand, Runner, UserSystemd, missing
from tests.support.ports import free_port
from tests.support.traffic import Traffic
from tests.support.waiting import eventually, settles_to
from tests.support.wheels import Home, tool

if TYPE_CHECKING:
    from collections.abc import Iterator

RUNNERS: dict[str, type[ByHand | UserSystemd]] = {"by hand": ByHand} | ({} if missing() else {"systemd": UserSystemd})
KEY = "sk-ant-api03-owner-marked-service-aaa"
BACK_S = 90.0
MORE = 20


class Served:
    """A service, its clients, and what the ledger should say."""

    def __init__(self, runner: Runner, state: Path, port: int, traffic: Traffic) -> None:
        self.runner = runner
        self.state = state
        self.port = port
        self.traffic = traffic

    def serves(self) -> None:
        """Wait until clients have got more answers, of a service that is completely up."""
        eventually(lambda: self.runner.pid() and (self.state / "run.json").exists() and self.is_ready(), BACK_S)
        wanted = len(self.traffic.answered) + MORE
        eventually(lambda: len(self.traffic.answered) >= wanted, BACK_S)

    def is_ready(self) -> bool:
        """Whether the proxy is ready."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    def missing(self) -> set[str]:
        """Requests whose answer is complete, and of which the ledger has no end."""
        url = json.loads((self.state / "run.json").read_text(encoding="utf-8"))["database_url"]
        with psycopg.connect(url) as connection:
            rows = connection.execute("SELECT request_id FROM ccproxy.events WHERE type = 'attempt_ended'").fetchall()
        return set(self.traffic.request_ids) - {request_id for (request_id,) in rows}


@pytest.fixture(params=RUNNERS)
def runner(request: pytest.FixtureRequest, home: Home) -> Iterator[Runner]:
    """Each that this machine can have."""
    made: Runner = RUNNERS[request.param](home)
    yield made
    made.end()


@pytest.fixture
def home(wheel: Path, tmp_path: Path) -> Home:
    """The wheel, installed by `uv tool install`."""
    made = Home(tmp_path / "home", wheel, Path(sys.executable))
    made.uv_tool_install()
    del made.environ["CCPROXY_HOME"]
    return made


def test_whether_a_real_systemd_runs_the_service_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\nThe service is run by {' and by '.join(RUNNERS)}. {missing()}", end="")  # noqa: T201 - what the run says
    assert "by hand" in RUNNERS


@pytest.mark.timeout(400)
def test_a_service_serves_again_and_loses_nothing(runner: Runner, home: Home) -> None:
    """Installed, killed, rebooted, upgraded, its logs rotated, under traffic: each answer is in the ledger, once."""
    place, port = home.folder / "proxy", free_port()
    state = home.folder / ".local" / "state" / "ccproxy"
    place.mkdir()
    with FakeProvider("anthropic", keys={KEY}) as provider:
        settings = {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": provider.base_url, "PROXY_PORT": str(port)}
        (place / ".env").write_text("".join(f"{name}='{value}'\n" for name, value in settings.items()))
        runner.install(place)
        with Traffic([f"http://127.0.0.1:{port}"], clients=2) as traffic:
            served = Served(runner, state, port, traffic)
            served.serves()
            first = runner.pid()
            runner.kill()
            served.serves()
            assert runner.pid() != first
            rotate_logs(state / "logs")
            served.serves()
            runner.reboot()
            served.serves()
            home.run(tool("uv"), "tool", "install", "--quiet", "--reinstall", "--python", home.python, str(home.wheel))
            runner.install(place)
            served.serves()
        settles_to(0, lambda: len(served.missing()))
        assert len(set(traffic.request_ids)) == len(traffic.request_ids) >= 5 * MORE
        runner.ccproxy("ledger", "verify", folder=place)


def rotate_logs(logs: Path) -> None:
    """Let the logs grow too long, and be emptied as `up` does it, while their writers go on."""
    for log in logs.glob("*.log"):
        with log.open("ab") as file:
            file.write(b"x\n" * folder.MAX_LOG_BYTES)
        folder.rotate(log)
        assert log.stat().st_size < folder.MAX_LOG_BYTES
