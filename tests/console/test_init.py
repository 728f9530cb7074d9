"""The laws of `ccproxy init`: it asks in a terminal alone, shows no key, overwrites nothing unasked."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from service.cli import main
from service.commands.init import ROUTES, is_first_run, key_of, routes_of
from service.settings import load, read_dotenv
from tests.support.processes import ROOT
from tests.support.waiting import PATIENCE_S, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEY = "sk-ant-api03-marked-of-the-terminal-aaaa"
TERMINAL = "import fcntl,os,sys,termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"


class Terminal:
    """A command in a terminal of its own: what it shows, and a person who types."""

    def __init__(self, folder: Path, *arguments: str, **variables: str) -> None:
        self.folder = folder
        self.shown = ""
        self._master, slave = os.openpty()
        os.set_blocking(self._master, False)
        environ = {
            "HOME": str(folder),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "TERM": "dumb",
            "CCPROXY_HOME": str(folder / "state"),
        }
        command = [sys.executable, "-m", "service.cli", *arguments]
        self.process = subprocess.Popen(
            [sys.executable, "-c", TERMINAL, *command],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=folder,
            env=environ | variables,
            start_new_session=True,
        )
        os.close(slave)

    def sees(self, text: str) -> bool:
        """Whether it is on the screen behind what was answered last."""
        with suppress(OSError):
            self.shown += os.read(self._master, 65_536).decode(errors="replace")
        return text in self.shown

    def answers(self, question: str, answer: str, *, hidden: bool = False) -> None:
        """Wait for a question, and type the answer."""
        eventually(lambda: self.sees(question) and (not hidden or not self._echoes()))
        self.shown = self.shown.partition(question)[2]
        os.write(self._master, f"{answer}\n".encode())

    def _echoes(self) -> bool:
        """Whether the terminal shows what is typed."""
        flags: int = termios.tcgetattr(self._master)[3]
        return bool(flags & termios.ECHO)

    def ends(self) -> tuple[int, str]:
        """Its exit status, and what it showed behind the last answer."""
        eventually(lambda: self.sees("\x00") or self.process.poll() is not None)
        self.sees("")
        return self.process.wait(PATIENCE_S), self.shown

    def close(self) -> None:
        """End it if it has not."""
        self.process.kill()
        self.process.wait(PATIENCE_S)
        os.close(self._master)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """New terminals in one home."""
    opened: list[Terminal] = []

    def new(*arguments: str, **variables: str) -> Terminal:
        opened.append(Terminal(tmp_path, *arguments, **variables))
        return opened[-1]

    yield new
    for one in opened:
        one.close()


def test_three_answers_make_the_settings(terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    """Routes, a key for each that has one, Claude Code; the key is nowhere but in the file, for its owner alone."""
    asked = terminal("init")
    asked.answers("Which routes", "zai, subscription")
    asked.answers("ZAI_API_KEY (is not shown): ", KEY, hidden=True)
    asked.answers("Point Claude Code at this proxy? [y/N]: ", "y")
    status, said = asked.ends()
    assert status == 0, said
    assert KEY not in said
    path = tmp_path / ".env"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_dotenv(path) == {"CLAUDE_SUBSCRIPTION_ENABLED": "true", "ZAI_API_KEY": KEY}
    claude = json.loads((tmp_path / ".claude" / "settings.json").read_text(encoding="utf-8"))
    assert claude["env"]["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:4181"


def test_what_is_there_is_not_overwritten_unasked(terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    """No is what Enter means; yes closes a file that was open to others."""
    path = tmp_path / ".env"
    path.write_text("PROXY_PORT=4999\n", encoding="utf-8")
    path.chmod(0o644)
    asked = terminal("init")
    asked.answers("exists. Replace it?", "")
    status, said = asked.ends()
    assert (status, path.read_text(encoding="utf-8")) == (1, "PROXY_PORT=4999\n")
    assert "left as it is" in said
    asked = terminal("init")
    asked.answers("exists. Replace it?", "y")
    asked.answers("Which routes", "nowhere")
    asked.answers("there is no route 'nowhere'", "")
    asked.answers("Point Claude Code", "")
    assert asked.ends()[0] == 0
    assert read_dotenv(path) == {}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not (tmp_path / ".claude").exists()


def test_who_gives_up_has_changed_nothing(terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    """Ctrl-C at the last question."""
    asked = terminal("init")
    asked.answers("Which routes", "")
    asked.answers("Point Claude Code at this proxy? [y/N]: ", "\x03")
    assert asked.ends()[0] == 1
    assert not (tmp_path / ".env").exists()


def test_a_script_is_told_what_to_do(tmp_path: Path) -> None:
    """It is not asked, has a status of its own, and names the variables."""
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", "init"],
        cwd=tmp_path, env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
        input="zai\n", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert all(route.variable in done.stderr for route in ROUTES.values())
    assert "ANTHROPIC_API_KEY" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_first_up_in_a_terminal_asks_and_goes_on(terminal: Callable[..., Terminal]) -> None:
    """What was answered applies at once."""
    asked = terminal("up", CCPROXY_REDIS_BIN="/nowhere/valkey-server", CCPROXY_POSTGRES_BIN="/nowhere")
    asked.answers("Which routes", "")
    asked.answers("Point Claude Code", "")
    status, said = asked.ends()
    assert status == 1
    assert "/nowhere" in said


@pytest.mark.parametrize("present", ["nothing", "variable", "file", "toml", "data", "option"])
def test_a_first_run_is_one_with_nothing_set(present: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable, a file, what an earlier run left, or an option: somebody has chosen already."""
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "state"
    settings = load(environ={"CCPROXY_HOME": str(home)})
    if present == "variable":
        monkeypatch.setenv("ZAI_API_KEY", KEY)
    elif present == "file":
        Path(".env").touch()
    elif present in ("toml", "data"):
        home.mkdir()
        (home / ("ccproxy.toml" if present == "toml" else "run.json")).touch()
    config = Path("mine.toml") if present == "option" else None
    assert is_first_run(settings, config) is (present == "nothing")


@pytest.mark.parametrize("answer", ["", "two words", "quo'te", "back\\slash", "ключ", "$(x) `y"])
def test_a_key_that_no_header_could_hold_is_asked_for_again(answer: str) -> None:
    with pytest.raises(click.UsageError):
        key_of(answer)
    assert key_of(f"  {KEY}\t") == KEY


def test_routes_are_named_in_any_order_and_case() -> None:
    assert routes_of(" ZAI anthropic,zai ") == ["anthropic", "zai"]
    assert routes_of("") == []
    assert re.search("init", main.get_help(click.Context(main)))
