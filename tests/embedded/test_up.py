"""`up` as a process of its own, with trivial children: what it starts, says, survives, and leaves behind."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from service.embedded import folder, up
from service.embedded.screen import Screen
from service.settings import load
from tests.embedded.processes import is_alive, pids_in
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
FAKE_UP = Path(__file__).with_name("fake_up.py")
SERVES = "echo $$ >> {pids}; echo ready; exec sleep 600"
STUBBORN = "trap '' TERM; sleep 600 & echo $$ $! >> {pids}; echo ready; while :; do wait; done"


class Up:
    """Starts `up` on one home as often as the test wants, and ends whatever is left of it."""

    def __init__(self, folder_: Path) -> None:
        self.home = folder_ / "home"
        self.pids = folder_ / "pids"
        self.port = folder.choose_port(folder_ / "port")
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *children: dict[str, Any]) -> subprocess.Popen[str]:
        about = [
            {**child, "script": child["script"].format(pids=self.pids)} if "script" in child else child
            for child in children
        ]
        process = subprocess.Popen(
            [sys.executable, FAKE_UP, self.home, str(self.port), json.dumps(about)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env=os.environ
            | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}", "PYTHONUNBUFFERED": "1"},
        )
        self._started.append(process)
        return process

    def serves(self) -> bool:
        """Whether the last one started is up; not when it has ended."""
        last = self._started[-1]
        return eventually(lambda: self.record() is not None or last.poll() is not None) and last.poll() is None

    def record(self) -> dict[str, Any] | None:
        text = folder.read(self.home / "run.json")
        return None if text is None else json.loads(text)

    def all_gone(self) -> bool:
        return eventually(lambda: not any(is_alive(pid) for pid in pids_in(self.pids)))

    def end(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()
        for pid in pids_in(self.pids):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit status and all that was said."""
    said, _ = process.communicate(timeout=60)
    return process.returncode, said


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Up]:
    """An `up` that has not been started."""
    made = Up(tmp_path)
    yield made
    made.end()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_up_in_order_and_leaves_nothing(fake: Up, name: str) -> None:
    """Ctrl-C, SIGTERM and a closed terminal: exit status 0, no process, no run.json, and what was said is plain."""
    process = fake.start({"name": "one", "script": SERVES}, {"name": "two", "script": SERVES})
    assert fake.serves()
    record = fake.record()
    assert record is not None
    assert (record["pid"], record["proxy_url"]) == (process.pid, f"http://127.0.0.1:{fake.port}")
    assert stat.S_IMODE((fake.home / "run.json").stat().st_mode) == 0o600
    process.send_signal(signal.Signals[name])
    status, said = finish(process)
    assert status == 0
    assert len(pids_in(fake.pids)) == 2
    assert fake.all_gone()
    assert fake.record() is None
    assert "✓ one (" in said
    assert f"export ANTHROPIC_BASE_URL=http://127.0.0.1:{fake.port}\n" in said
    assert "\x1b" not in said
    assert "\r" not in said


def test_the_death_of_up_ends_all_its_children_and_theirs(fake: Up) -> None:
    """Kill -9 of `up`: nothing is left, not even of a child that ignores SIGTERM and has children of its own."""
    process = fake.start({"name": "one", "script": SERVES}, {"name": "two", "script": STUBBORN})
    assert fake.serves()
    process.kill()
    assert len(pids_in(fake.pids)) == 3
    assert fake.all_gone()


def test_the_death_of_up_ends_the_servers_and_the_next_start_finds_them_as_they_were(fake: Up) -> None:
    """Kill -9 with real servers: both go, and `up` comes back on the same data and the same ports."""
    servers = [{"name": "Valkey"}, {"name": "Postgres"}]
    process = fake.start(*servers)
    assert fake.serves()
    notes = [fake.home / name / note for name in ("postgres", "valkey") for note in ("pid", "port", "password")]
    before = [folder.read(note) for note in notes]
    process.kill()
    finish(process)
    assert eventually(lambda: not any(is_alive(int(pid or 0)) for pid in (before[0], before[3])))
    process = fake.start(*servers)
    assert eventually(lambda: (fake.record() or {}).get("pid") == process.pid)
    after = [folder.read(note) for note in notes]
    assert [text for text, note in zip(after, notes, strict=True) if note.name != "pid"] == [
        text for text, note in zip(before, notes, strict=True) if note.name != "pid"
    ]
    process.send_signal(signal.SIGINT)
    assert finish(process)[0] == 0
    assert not any(is_alive(int(pid or 0)) for pid in (after[0], after[3]))


def test_a_second_start_on_the_same_home_names_the_first(fake: Up) -> None:
    """It ends with 1, says which process runs and where it serves, and starts nothing."""
    first = fake.start({"name": "one", "script": SERVES})
    assert fake.serves()
    status, said = finish(fake.start({"name": "one", "script": SERVES}))
    assert status == 1
    assert f"process {first.pid}, serving on http://127.0.0.1:{fake.port}" in said
    assert len(pids_in(fake.pids)) == 1
    assert first.poll() is None


def test_a_home_that_cannot_be_used_names_the_mend(fake: Up) -> None:
    """It ends with 1 and names the setting, without a traceback."""
    (fake.home / "lock").mkdir(parents=True)  # as good as a folder that may not be written: root may write any
    status, said = finish(fake.start({"name": "one", "script": SERVES}))
    assert status == 1
    assert "CCPROXY_HOME" in said
    assert "Traceback" not in said


def test_a_taken_port_is_told_before_anything_starts(fake: Up) -> None:
    """It ends with 1 and names the setting that mends it; no child has run."""
    with socket.create_server(("127.0.0.1", fake.port)):
        status, said = finish(fake.start({"name": "one", "script": SERVES}))
    assert status == 1
    assert "PROXY_PORT" in said
    assert pids_in(fake.pids) == []


def test_a_child_that_dies_is_started_again_while_the_others_go_on(fake: Up) -> None:
    """Kill -9 of one child: it comes back, the terminal says so, and the other is the same process as before."""
    process = fake.start({"name": "one", "script": SERVES}, {"name": "two", "script": SERVES})
    assert fake.serves()
    one, two = sorted(pids_in(fake.pids))
    os.kill(one, signal.SIGKILL)
    assert eventually(lambda: len(pids_in(fake.pids)) == 3)
    assert is_alive(two)
    assert is_alive(pids_in(fake.pids)[-1])
    process.send_signal(signal.SIGTERM)
    status, said = finish(process)
    assert status == 0
    assert "was killed by SIGKILL; restarting in 0.1 s" in said
    assert said.count("Claude Code Proxy is running on") == 1


@pytest.mark.parametrize("once", [False, True], ids=["a server", "migrations"])
def test_a_child_that_cannot_start_ends_up_with_its_log_named(fake: Up, *, once: bool) -> None:
    """Five failed starts: exit status 1, the child, its last words and its log on the terminal, nothing left."""
    broken = {"name": "broken", "script": "echo no such table >&2; exit 3", "once": once}
    process = fake.start({"name": "one", "script": SERVES}, broken)
    status, said = finish(process)
    assert status == 1
    assert "✗ broken exited with status 3. It failed to start 5 times within a minute" in said
    assert "no such table" in said
    assert str(fake.home / "logs" / "broken.log") in said
    assert fake.all_gone()
    assert fake.record() is None


def test_a_second_signal_hastens_the_end(fake: Up) -> None:
    """A child that takes its time is given it at the first Ctrl-C, and none at the second."""
    process = fake.start({"name": "one", "script": STUBBORN, "stop_timeout_s": 3_600})
    assert fake.serves()
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    said: list[str] = []
    while not said or "Stopping" not in said[-1]:
        said.append(process.stdout.readline())
        assert said[-1], "it ended without saying so"
    process.send_signal(signal.SIGINT)
    assert finish(process)[0] == 0
    assert fake.all_gone()


def test_the_servers_of_the_settings_are_used_instead_of_our_own(tmp_path: Path) -> None:
    """With both URLs no server is started, and the programs get these URLs."""
    settings = load(
        environ={
            "CCPROXY_HOME": str(tmp_path),
            "REDIS_URL": (redis_url := "redis://r:1/0"),
            "DATABASE_URL": (database_url := "postgresql://u:p@d:2/x"),
        }
    )
    processes = up.process_set(settings)
    assert [child.name for child in processes.children] == ["migrations", "worker", "proxy"]
    assert (processes.redis_url(), processes.database_url()) == (redis_url, database_url)
    assert list(tmp_path.iterdir()) == []


def test_our_own_servers_come_first_and_the_proxy_never_waits_for_postgres(tmp_path: Path) -> None:
    """The proxy needs neither Postgres nor the worker; the worker needs all."""
    processes = up.process_set(load(environ={"CCPROXY_HOME": str(tmp_path)}))
    children = {child.name: child for child in processes.children}
    assert list(children) == ["Valkey", "Postgres", "migrations", "worker", "proxy"]
    assert (children["proxy"].needs, children["proxy"].after) == ((), ("Valkey",))
    assert children["worker"].needs == ("Valkey", "Postgres", "migrations")


@pytest.mark.parametrize(
    ("key", "state"),
    [
        pytest.param({"ANTHROPIC_API_KEY": "sk-ant-1"}, "on   https://api.anthropic.com", id="with a key"),
        pytest.param({}, "off  ", id="without a key"),
    ],
)
def test_the_banner_tells_the_state_of_each_route(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: dict[str, str], state: str
) -> None:
    """Routes stand in their order, with the reason why one is off; with none on, whose credential is used instead."""
    settings = load(environ={"CCPROXY_HOME": str(tmp_path), **key})
    Screen().banner(settings, tmp_path / "logs")
    said = capsys.readouterr().out
    for number, route in enumerate(settings.routes, 1):
        assert f"  {number}. {route.title} " in said
        assert (route.off or route.base_url) in said
    assert f"  1. Anthropic{' ' * 16}{state}" in said
    assert ("each client's own is passed through to Anthropic only" in said) == (not key)
    assert str(tmp_path / "logs") in said
    assert "sk-ant" not in said


def test_the_banner_says_where_a_key_comes_from_in_words_that_can_be_typed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [".venv/bin/ccproxy", "up"])
    settings = load(environ={"PROXY_API_KEYS": "ledger", "CCPROXY_HOME": str(tmp_path)})
    Screen().banner(settings, tmp_path / "logs")
    shown = capsys.readouterr().out
    assert "export ANTHROPIC_AUTH_TOKEN=...   (a client key: `.venv/bin/ccproxy keys issue NAME`)" in shown
    assert "(token: `.venv/bin/ccproxy admin token`)" in shown


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"http_proxy": "http://p:1"}, "export NO_PROXY=127.0.0.1 "),
        ({"HTTPS_PROXY": "http://p:1", "no_proxy": "a.example"}, "export NO_PROXY=a.example,127.0.0.1 "),
        ({"ALL_PROXY": "socks5://p:1", "NO_PROXY": "a.example, 127.0.0.1"}, ""),
        ({}, ""),
    ],
)
def test_the_banner_keeps_a_proxy_out_of_the_way(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    line: str,
) -> None:
    """A shell with a proxy would send Claude Code's requests to the loopback there."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    Screen().banner(load(environ={"CCPROXY_HOME": str(tmp_path)}), tmp_path / "logs")
    shown = capsys.readouterr().out
    assert line in shown
    assert ("NO_PROXY" in shown) == bool(line)


def test_on_windows_up_names_the_ways_that_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends with 1 and points to WSL2 and Docker."""
    monkeypatch.setattr(sys, "platform", "win32")
    assert up.run(load(environ={"CCPROXY_HOME": str(tmp_path)})) == 1
    said = capsys.readouterr().err
    assert "WSL2" in said
    assert "Docker" in said
