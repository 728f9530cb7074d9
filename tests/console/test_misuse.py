"""Errors of use: every command ends with one line that names the mistake, whatever is wrong around it.

Not here: what `check` finds (`test_installations`), and that no password is shown (`test_marked_passwords`).
"""

import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from service.cli import main

ARGUMENTS = {
    "keys issue": ["x"], "keys limit": ["x", "--concurrency", "1"], "keys revoke": ["x"], "routes disable": ["zai"],
    "routes enable": ["zai"], "routes limit": ["zai", "5M"], "ledger reprice": ["--since", "1d"], "backup": ["out"],
    "restore": ["there"], "completion": ["bash"],
}  # fmt: skip
SERVERS = {"serve", "up", "worker", "demo", "init"}
"""Commands that go on, or ask: with settings that load they would not end here."""
WITHOUT_SETTINGS = {"completion", "claude", "claude run", "claude restore", "demo", "init"}
"""They need none, so that nothing is wrong for them."""
AWAY = {"REDIS_URL": "redis://127.0.0.1:1", "DATABASE_URL": "postgresql://u@127.0.0.1:1/x", "RQ_REDIS_URL": ""}
NEEDS_NO_SERVER = WITHOUT_SETTINGS | {
    "check", "doctor", "admin token", "prices", "prices update", "logs", "claude setup", "claude status", "reconcile",
    "restore",
}  # fmt: skip


def leaves(group: click.Group, names: tuple[str, ...] = ()) -> Iterator[str]:
    """The names of all commands that do something."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from leaves(command, (*names, name))
            if command.invoke_without_command:
                yield " ".join((*names, name))
        else:
            yield " ".join((*names, name))


COMMANDS = sorted(name for name in leaves(main) if not name.startswith("service "))
"""Service managers are asked without settings."""


def a_file(folder: Path) -> dict[str, str]:
    (folder / "file").write_text("x")
    return {"CCPROXY_HOME": str(folder / "file")}


def below_a_file(folder: Path) -> dict[str, str]:
    return {"CCPROXY_HOME": str(Path(a_file(folder)["CCPROXY_HOME"]) / "home")}


def a_bad_file(folder: Path) -> dict[str, str]:
    (folder / "bad.toml").write_text("[[routes]\n")
    return {"CCPROXY_CONFIG": str(folder / "bad.toml")}


def bad_prices(folder: Path) -> dict[str, str]:
    (folder / "prices.toml").write_text("made = no date\n")
    return {"CCPROXY_PRICES": str(folder / "prices.toml")}


MISTAKES: dict[str, tuple[Callable[[Path], dict[str, str]], str]] = {
    "a home that is a file": (a_file, "CCPROXY_HOME"),
    "a home below a file": (below_a_file, "can't be read (Not a directory); set CCPROXY_HOME"),
    "no home folder": (lambda _: {"CCPROXY_HOME": "~/x"}, "CCPROXY_HOME: this user has no home folder"),
    "a wrong file": (a_bad_file, "bad.toml:"),
    "no such file": (lambda _: {"CCPROXY_CONFIG": "/nonexistent"}, "correct CCPROXY_CONFIG or --config"),
    "a wrong price list": (bad_prices, "prices.toml"),
    "a number that is none": (lambda _: {"DB_CONNECTION_TIMEOUT_MS": "many"}, "'many' is not a number"),
    "an address that is none": (lambda _: {"REDIS_URL": "redis:/x"}, "REDIS_URL:"),
}


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own, which has a file to restore; this user has no home."""

    def nobody(_: int) -> None:
        raise KeyError

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    (tmp_path / "there").write_text("no backup")


def run(command: str, environ: dict[str, str], *arguments: str) -> Result:
    """A command with what it needs."""
    given = arguments or ARGUMENTS.get(command, ())
    return CliRunner().invoke(main, (*command.split(), *given), env={"NO_COLOR": "1"} | environ)


def is_one_line(result: Result, words: str) -> bool:
    """True if the command has ended with an error of use; its usage may stand before it."""
    lines = result.stderr.splitlines()
    errors = [line for line in lines if line.startswith("Error: ")]
    is_short = len(errors) == 1 and words in errors[0] and len(lines) <= 4
    return isinstance(result.exception, SystemExit) and result.exit_code in (1, 2) and is_short


def wrong_of(commands: Iterable[str], environ: dict[str, str], words: str) -> dict[str, tuple[object, str]]:
    """What the commands say that say something else."""
    results = {command: run(command, environ) for command in commands}
    return {
        command: (result.exception, result.stderr)
        for command, result in results.items()
        if not is_one_line(result, words)
    }


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_settings_is_one_line_in_every_command(mistake: str, tmp_path: Path) -> None:
    """With its place."""
    make, words = MISTAKES[mistake]
    own = {"CCPROXY_HOME": str(tmp_path), "CLAUDE_CONFIG_DIR": str(tmp_path), "ANTHROPIC_ADMIN_KEY": "sk-ant-admin01-x"}
    environ = own | AWAY | make(tmp_path)
    assert wrong_of((one for one in COMMANDS if one not in WITHOUT_SETTINGS), environ, words) == {}


def test_servers_that_are_away_are_one_line_in_every_command(tmp_path: Path) -> None:
    """What serves goes on without them."""
    environ = AWAY | {"CCPROXY_HOME": str(tmp_path)}
    assert wrong_of((one for one in COMMANDS if one not in SERVERS | NEEDS_NO_SERVER), environ, "127.0.0.1") == {}


def test_without_a_home_folder_the_home_of_the_proxy_is_enough(tmp_path: Path) -> None:
    """As in a container with a user of its own."""
    assert run("admin token", {"CCPROXY_HOME": str(tmp_path)}).exit_code == 0
    of_claude = ("claude setup", "claude status", "claude restore")
    assert wrong_of(of_claude, {"CCPROXY_HOME": str(tmp_path)}, "set CLAUDE_CONFIG_DIR to a folder") == {}


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("events", ["-n", "many"]), ("events", ["-n", "1.5"]), ("events", ["-n", "99T"]), ("logs", ["-n", "-1"]),
        ("keys issue", ["x", "--weekly-tokens", "5MM"]), ("keys issue", ["x", "--concurrency", "0"]),
        ("keys limit", ["x", "--weekly-cost", "inf"]), ("ledger dead", ["--limit", "0"]),
        ("reconcile", ["--tolerance", "101"]), ("routes limit", ["zai", "1e9"]),
        ("events", ["--since", "yesterday"]), ("events", ["--since", "999999w"]), ("usage", ["--since", "2026-13-01"]),
        ("usage", ["--since", "0001-01-01T00:00+14:00"]), ("usage", ["--until", "999999w"]), ("usage", ["--by", "x"]),
        ("ledger reprice", ["--since", "5"]), ("reconcile", ["--since", "soon"]), ("reconcile", ["--until", "0-0-0"]),
        ("keys issue", ["x", "--expires", "9999-12-31"]), ("keys issue", ["x", "--expires", "1d ago"]),
    ],
)  # fmt: skip
def test_nonsense_is_refused(command: str, arguments: list[str], valkey_environ: dict[str, str]) -> None:
    """Numbers and times; before any server is asked where that is possible."""
    result = run(command, valkey_environ, *arguments)
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == 2, result.output
    assert "Error: " in result.stderr


@pytest.fixture
def valkey_environ(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """A shell whose Redis answers: expiries count from its time."""
    valkey = request.getfixturevalue("valkey")
    return AWAY | {"CCPROXY_HOME": str(tmp_path), "REDIS_URL": valkey.url}


def started(environ: dict[str, str], *command: str) -> subprocess.Popen[str]:
    """A command of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "service.cli", *command],
        env=os.environ | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_pipe_that_closes_ends_quietly(tmp_path: Path) -> None:
    """As `| head` closes it."""
    process = started({"CCPROXY_HOME": str(tmp_path)}, "prices")
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    assert process.wait(60) in (0, 1, -signal.SIGPIPE)
    assert process.stderr.read() == ""
    process.stderr.close()


@pytest.mark.parametrize("command", [["status", "--watch"], ["logs", "--follow"]])
def test_an_interrupt_ends_quietly(command: list[str], tmp_path: Path) -> None:
    """As Ctrl-C sends it."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "worker.log").write_text("127.0.0.1 is away\n")
    process = started(AWAY | {"CCPROXY_HOME": str(tmp_path), "PYTHONUNBUFFERED": "1"}, *command)
    assert process.stdout
    assert "127.0.0.1" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "")
