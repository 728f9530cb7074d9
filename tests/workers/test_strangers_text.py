"""Strangers' text in what people read: hostile names in the ledger, shown by the real commands.

The names hold what a terminal obeys (C0, C1, DEL, escape sequences), what reorders or hides text (bidi, zero-width,
tags), rich's markup, line breaks, and the beginnings of a spreadsheet's formulas.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import logging
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from service.cli import main
from service.ledger import wire
from service.ledger.events import ClientKeyIssued, RouteDisabled
from service.telemetry.log import Lines, lines_in
from service.telemetry.safe_text import csv_cell, visible, visible_json
from service.telemetry.terminal import show_exception
from tests.support.stream_factories import NOON_MS, STREAM, append, append_raw, ended, new_id, started

if TYPE_CHECKING:
    from tests.workers.conftest import Bench

ROOT = Path(__file__).parents[2]
CONTROLS = "".join(map(chr, (*range(1, 32), *range(127, 160))))
HIDDEN = (
    "\u200b\u200d\u200e\u200f\u202a\u202e\u2028\u2029\u2060\u2066\u2069"
    "\ufeff\u00ad\u061c\u3164\ufe0f\U000e0041\U000e0100"
)
FORGED = "\n[12:00:00] [OK] all is well"
SEQUENCES = "\x1b[2J\x1b]0;title\x07\x1b[31mred\x9b31m\x1b]8;;http://evil.example\x1b\\link"
MARKUP = "[red]r[/red][link=http://evil.example]l[/link][/]:smile:"
HOSTILE = f"=cmd{SEQUENCES}{MARKUP}{FORGED}{HIDDEN}{CONTROLS}end"
BAD = re.compile(rf"[^\x20-\x7e\u00a1-\U0010ffff]|[{HIDDEN}\u202a-\u202e\u2066-\u2069]")
PATIENCE_S = 60.0


def faults(text: str) -> set[str]:
    """The characters that must not be there."""
    return {repr(char) for char in BAD.findall(text.replace("\n", ""))}


@pytest.fixture
def hostile(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bench:
    """A ledger in which strangers wrote everything that they may write, and more."""
    fields: dict[str, Any] = {"model_sent": HOSTILE, "model_asked": HOSTILE, "client_key": HOSTILE}
    failed = fields | {"outcome": "failed", "status": 500, "kind": "reset", "message": HOSTILE, "scope": "route"}
    append(bench.redis, [started(1), ended(2, **fields), ended(3, **failed)])
    append_raw(bench.redis, b"\x1b[2Jgarbage" + HOSTILE.encode())
    key = ClientKeyIssued(
        event_id=new_id(), at_ms=NOON_MS, replica="r\x1b[31m", seq=1, key_id="k\x1b[2J\u202e", name=HOSTILE,
        sha256="0" * 64, models=(HOSTILE,), by=HOSTILE,
    )  # fmt: skip
    off = RouteDisabled(event_id=new_id(), at_ms=NOON_MS, replica="r\x1b[31m", seq=2, route=STREAM, reason=HOSTILE)
    append(bench.redis, [key, off], wire.CONTROL)
    bench.new_publisher().publish(bench.project())
    bench.new_publisher().publish(bench.project(wire.CONTROL))
    monkeypatch.chdir(tmp_path)
    logs = tmp_path / "home" / "logs"
    logs.mkdir(parents=True)
    (logs / "postgres.log").write_bytes(f"LOG: {HOSTILE}".encode() + b"\n\ta tab\xff\n")
    settings = {"CCPROXY_HOME": tmp_path / "home", "REDIS_URL": bench.valkey.url, "DATABASE_URL": bench.postgres.url}
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))
    return bench


USAGE = ("usage", "--since", "2026-09-01", "--until", "2026-10-01", "--by", "model,key")
COMMANDS = (
    USAGE,
    ("events", "-n", "100", "--starts"),
    ("status",),
    ("keys", "list"),
    ("logs",),
    ("ledger", "dead"),
    ("ledger", "verify"),
    ("check",),
    ("routes", "disable", STREAM, "--reason", HOSTILE),
    ("routes", "enable", HOSTILE),
    ("keys", "revoke", HOSTILE[1:40]),
    ("usage", "--by", HOSTILE),
    ("events", "--since", HOSTILE),
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[:2]).partition("=")[0])
def test_commands_print_strangers_text_as_escapes(hostile: Bench, command: tuple[str, ...]) -> None:  # noqa: ARG001
    """Nothing below a blank but the end of a line, no C1, no bidi, nothing unseen, and no line that was forged."""
    done = CliRunner().invoke(main, list(command))
    assert done.output
    assert faults(done.output) == set()
    assert not any(line.startswith("[12:00:00]") for line in done.output.splitlines())
    assert done.exception is None or isinstance(done.exception, SystemExit)


@pytest.mark.parametrize(
    "command", [(*USAGE, "--json"), ("events", "-n", "100", "--json"), ("status", "--json"), ("keys", "list", "--json"),
                ("ledger", "dead", "--json")], ids=lambda command: command[0]
)  # fmt: skip
def test_json_has_the_text_as_it_is_in_ascii_escapes(hostile: Bench, command: tuple[str, ...]) -> None:  # noqa: ARG001
    """A script gets the very text; a terminal gets no control character."""
    done = CliRunner().invoke(main, list(command), catch_exceptions=False)
    assert faults(done.output) == set()
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found
    assert done.exit_code == 0
    if command[0] in ("usage", "keys"):
        assert json.dumps(HOSTILE) in json.dumps(found)


def test_csv_is_no_formula(hostile: Bench) -> None:  # noqa: ARG001
    """A name that begins a formula is text to a spreadsheet; numbers stay numbers; nothing controls a terminal."""
    done = CliRunner().invoke(main, [*USAGE, "--csv"], catch_exceptions=False)
    assert faults(done.output) == set()
    [row] = csv.DictReader(io.StringIO(done.output))
    assert row["model"] == row["key"] == "'" + visible(HOSTILE)
    assert (row["attempts"], row["cost_usd"]) == ("2", "0.000002000")


def test_a_real_terminal_is_not_driven(hostile: Bench) -> None:  # noqa: ARG001
    """On a pty only our own colours go out: bold and the like, never a sequence of the name's."""
    reader, writer = pty.openpty()
    environ = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"}
    environ.pop("NO_COLOR", None)
    command = [sys.executable, "-P", "-m", "service.cli", *USAGE]
    process = subprocess.Popen(
        command, stdin=writer, stdout=writer, stderr=writer, env=environ | {"PYTHONPATH": str(ROOT)}
    )
    os.close(writer)
    text = read_all(reader).decode().replace("\r\n", "\n")
    assert process.wait(PATIENCE_S) == 0
    assert "\x1b[1m" in text
    assert faults(re.sub(r"\x1b\[[0-9;]*m", "", text)) == set()
    assert "\x1b[31mred" not in text
    assert "=cmd" in text


def read_all(descriptor: int) -> bytes:
    """What comes until the other side is closed."""
    text, give_up_at_s = b"", time.monotonic() + PATIENCE_S
    try:
        while time.monotonic() < give_up_at_s:
            if select.select([descriptor], [], [], 1.0)[0]:
                piece = os.read(descriptor, 65_536)
                if not piece:
                    break
                text += piece
    except OSError:
        pass  # Linux says so that the other side is closed
    finally:
        os.close(descriptor)
    return text


def test_a_fault_of_our_own_is_reported_with_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    """Even a traceback drives no terminal."""
    show_exception(ValueError, ValueError(HOSTILE), None)
    said = capsys.readouterr().err
    assert faults(said) == set()
    assert "ValueError: =cmd" in said


def test_a_workers_log_has_escapes() -> None:
    """The message in one line, a traceback indented below it."""
    failure = ValueError(HOSTILE)
    record = logging.LogRecord("ccproxy", logging.ERROR, "", 0, "%s", (HOSTILE,), (ValueError, failure, None))
    first, *more = Lines(coloured=False)(lines_in(record)).splitlines()
    assert faults(first + "".join(more)) == set()
    assert first.endswith("end")
    assert more
    assert all(line.startswith("  ") for line in more)


@pytest.mark.parametrize("char", [*CONTROLS, *HIDDEN, "\x00", "\ud800", "\u202b", "\u2067"], ids=ascii)
def test_each_character_is_escaped(char: str) -> None:
    """In text and in JSON, where it keeps its meaning."""
    assert faults(visible(f"a{char}b")) == set()
    assert visible(f"a{char}b").startswith("a\\")
    encoded = visible_json(json.dumps(f"a{char}b", ensure_ascii=False))
    assert faults(encoded) == set()
    assert json.loads(encoded) == f"a{char}b"


@pytest.mark.parametrize("text", ["claude-opus-4-8", "Zoë's 鍵 → 5 %", "模型", "a\\nb", "🙂"])
def test_what_is_seen_stays(text: str) -> None:
    """Names in any script are shown as they are."""
    assert visible(text) == text
    assert visible_json(text) == text


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+1", "'=1+1"), ("+1+1", "'+1+1"), ("-1+1", "'-1+1"), ("@SUM(A1)", "'@SUM(A1)"), ("\t=1", "'\\t=1"),
        ("\r=1", "'\\r=1"), (" =1", "' =1"), ("＝1", "'＝1"), ("-0.50", "-0.50"), ("+7", "+7"), (-3, -3),  # noqa: RUF001
        (None, None), ("a=b", "a=b"), ('"x",y', '"x",y'),
    ],
)  # fmt: skip
def test_cells(value: object, cell: object) -> None:
    """Formulas get an apostrophe, numbers none."""
    assert csv_cell(value) == cell


ALLOWED = {
    ("service/telemetry/terminal.py", "click.echo"),
    ("service/telemetry/safe_console.py", "rich.console.Console"),
    ("service/telemetry/safe_console.py", "rich.text"),
    ("service/commands/status.py", "rich.text.Text"),  # reads back what a SafeConsole has drawn
    (
        "service/embedded/child_bootstrap.py",
        "sys.stderr.write",
    ),  # a script before the program, which imports nothing of ours
}


def test_nothing_prints_beside_the_filter() -> None:
    """No `print`, `click.echo`, `sys.stdout.write`, and no console or text of rich's own, outside of `terminal`."""
    found = set()
    for folder in ("service", "workers"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            found |= {(name, what) for what in printers(ast.parse(path.read_text(encoding="utf-8")))}
    assert found == ALLOWED


def printers(tree: ast.AST) -> set[str]:
    """What in a module could print."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in ("print", "click.echo", "click.secho", "click.echo_via_pager") or re.fullmatch(
                r"sys\.(__)?std(out|err)(__)?\.(buffer\.)?write(lines)?", name
            ):
                found.add(name)
        elif isinstance(node, ast.ImportFrom) and node.module in ("rich.console", "rich.text", "rich", "click"):
            names = {alias.name for alias in node.names} & {"Console", "Text", "print", "echo", "secho", "inspect"}
            found |= {f"{node.module}.{name}" for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("rich")}
        elif isinstance(node, ast.keyword) and node.arg == "markup" and ast.unparse(node.value) == "True":
            found.add("markup=True")
    return found
