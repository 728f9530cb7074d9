"""The terminal's commands against a real Valkey and real files: routes, status, logs, completion."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from redis import Redis

from service.cli import main
from service.commands.logs import Followed
from service.commands.routes import tokens_of
from service.embedded.valkey import Valkey
from service.fleet.control_stream import Operator, read_control
from service.ledger import wire
from service.ledger.events import Forgotten, QuotaLimitChanged, RouteDisabled, RouteReset
from service.ledger.state import RouteLedger, Wait, WindowTold
from service.settings import load

PATIENCE_S = 60


class Terminal:
    """A shell whose settings name the test's Valkey."""

    def __init__(self, url: str, home: Path) -> None:
        self.environ = {"REDIS_URL": url, "CCPROXY_HOME": str(home), "NO_COLOR": "1", "ZAI_API_KEY": "k"}

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, arguments, env=self.environ)

    def ok(self, *arguments: str) -> str:
        result = self.run(*arguments)
        assert result.exit_code == 0, result.output
        return result.stdout.strip()

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """A command of its own that goes on until it is told to end."""
        command = [sys.executable, "-m", "service.cli", *arguments]
        return subprocess.Popen(
            command, env=os.environ | self.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )


@pytest.fixture
def terminal(valkey: Valkey, redis: Redis, tmp_path: Path) -> Terminal:  # noqa: ARG001 - emptied for us
    return Terminal(valkey.url, tmp_path)


@pytest.fixture
def following() -> Iterator[list[subprocess.Popen[str]]]:
    """Commands that are interrupted at the end, and must then end well."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 0
        assert process.stdout
        process.stdout.close()


def line_of(process: subprocess.Popen[str], word: str) -> str:
    """The next line that has a word."""
    found: list[str] = []
    out = process.stdout
    assert out
    reader = Thread(target=lambda: found.extend(next((line,) for line in out if word in line)), daemon=True)
    reader.start()
    reader.join(PATIENCE_S)
    assert found, f"no line with {word!r}"
    return found[0]


def events_on(redis: Redis, stream: str) -> list[wire.Decoded]:
    """A stream's events in Redis."""
    entries: Any = redis.xrange(wire.events_key(stream))
    return [event for _, fields in entries for event in wire.decode_entry(fields[b"e"])]


def commands_on(redis: Redis) -> list[wire.Decoded]:
    """The operators' events in Redis."""
    return events_on(redis, wire.CONTROL)


def test_a_limit_of_an_operator_is_shown_as_one(terminal: Terminal) -> None:
    """Where it differs from the settings: in the status, for people and scripts, and by `check`."""
    terminal.environ |= {"ZAI_WEEKLY_LIMIT": "20M", "ZAI_BASE_URL": "http://127.0.0.1:9"}
    words = "an operator set the weekly limit to 1,500,000 tokens; in the settings it is 20,000,000 tokens"
    terminal.ok("routes", "limit", "zai", "1.5M")
    assert f"zai: {words}" in terminal.ok("status")
    [zai] = [route for route in json.loads(terminal.ok("status", "--json"))["routes"] if route["route"] == "zai"]
    assert (zai["limit_tokens"], zai["limit_source"], zai["configured_tokens"]) == (1_500_000, "operator", 20_000_000)
    assert f"zai {words}" in terminal.run("check").output
    for limit in ("20M", "settings"):
        terminal.ok("routes", "limit", "zai", limit)
        assert "an operator set" not in terminal.ok("status")
        assert "an operator set" not in terminal.run("check").output
    terminal.ok("routes", "limit", "zai", "0")
    assert "zai: an operator set the weekly limit to none;" in terminal.ok("status")


def test_routes_are_commanded_by_events(terminal: Terminal, redis: Redis) -> None:
    """Each command is an event with who gave it; what follows is what every proxy reads."""
    assert "zai is disabled: too dear" in terminal.ok("routes", "disable", "zai", "--reason", "too dear")
    assert read_control(redis).disabled == {"zai": "too dear"}
    assert '"state":"disabled"' in terminal.ok("status", "--json")
    terminal.ok("routes", "enable", "zai")
    assert read_control(redis).disabled == {}
    terminal.ok("routes", "limit", "zai", "1.5M")
    assert read_control(redis).limits == {"zai": 1_500_000}
    terminal.ok("routes", "limit", "zai", "settings")
    assert read_control(redis).limits == {}
    assert terminal.ok("routes", "reset").splitlines() == [
        f"{route} is reset: nothing was held against it." for route in ("anthropic", "subscription", "zai")
    ]
    assert set(read_control(redis).resets) == {"anthropic", "subscription", "zai"}
    events = commands_on(redis)
    assert isinstance(events[0], RouteDisabled)
    assert events[0].by.startswith("cli ")
    assert isinstance(events[3], QuotaLimitChanged)
    assert len(events) == 7


def test_a_reset_says_what_it_forgot(terminal: Terminal, redis: Redis) -> None:
    """In the terminal, as JSON, and in the event on the route's own stream; proxies read it from the operators'."""
    at_ms = Operator(redis).now_ms()
    ledger = RouteLedger(
        waits={"throttle": Wait(at_ms=at_ms, until_ms=at_ms + 60_000), "count_tokens/aa/quota": Wait(at_ms=at_ms - 9)},
        windows={"5h": WindowTold(at_ms=at_ms, resets_at_ms=at_ms + 60_000)},
        missing_models={"claude-x": at_ms, "claude-old": 1},
    )
    body = msgspec.Raw(wire.encode_ledger(ledger))
    snapshot = wire.Snapshot(
        version=wire.SNAPSHOT_VERSION, stream="zai", epoch=1, position=7, stream_id="1-1", as_of_ms=at_ms, ledger=body
    )
    redis.set(wire.snapshot_key("zai"), wire.encode_snapshot(snapshot))
    redis.sadd(wire.STREAMS_KEY, "zai")
    words = terminal.ok("routes", "reset", "zai", "zai")
    assert words == "zai is reset: forgot 2 cool-downs, 1 window reading and 1 missing model."
    (event,) = events_on(redis, "zai")
    assert isinstance(event, RouteReset)
    assert (event.by, event.seq) == (commands_on(redis)[0].by, 1)  # type: ignore[union-attr]
    assert event.forgot == Forgotten(cool_downs=2, windows=1, missing_models=1)
    assert read_control(redis).resets["zai"] == event.at_ms
    told = json.loads(terminal.ok("routes", "reset", "--json", "zai"))
    assert told == [
        {"route": "zai", "circuit": "", "cool_downs": 0, "windows": 0, "missing_models": 0, "unknown_errors": 0}
    ]


def test_a_route_that_nobody_has_is_no_route(terminal: Terminal, redis: Redis) -> None:
    """The error names those that are; one that only another proxy has is known by its stream."""
    result = terminal.run("routes", "disable", "zia")
    assert result.exit_code == 1
    assert "available: anthropic, subscription, zai" in result.output
    assert commands_on(redis) == []
    redis.sadd(wire.STREAMS_KEY, "elsewhere")
    terminal.ok("routes", "reset", "elsewhere")


@pytest.mark.parametrize(
    ("text", "tokens"), [("0", 0), ("20M", 20_000_000), ("1.5k", 1_500), ("20_000_000", 20_000_000), ("settings", None)]
)
def test_limits_are_written_as_people_do(text: str, tokens: int | None) -> None:
    """A number, with a letter for its size; 0 is no limit."""
    assert tokens_of(text) == tokens


@pytest.mark.parametrize("text", ["-1", "many", "1e9", "20MB", "99999999G"])
def test_what_is_no_limit_is_told(terminal: Terminal, text: str) -> None:
    """Nothing is written; the mend is named."""
    result = terminal.run("routes", "limit", "zai", "--", text)
    assert result.exit_code == 2
    assert "0 is no limit, `settings` the configured one" in " ".join(result.output.split())


def test_without_redis_the_mend_is_named(terminal: Terminal) -> None:
    """For every command that needs it."""
    terminal.environ["REDIS_URL"] = "redis://:secret@127.0.0.1:1"
    for command in (("routes", "reset"), ("status",)):
        result = terminal.run(*command)
        assert result.exit_code == 1
        assert "start it, or correct REDIS_URL" in result.output
        assert "secret" not in result.output


def test_status_is_watched(terminal: Terminal, redis: Redis, following: list[subprocess.Popen[str]]) -> None:
    """Each second anew; what an operator does is seen; in a pipe, one page below the other."""
    assert redis.ping()
    following.append(terminal.start("status", "--watch"))
    following.append(terminal.start("status", "--watch", "--json"))
    assert "healthy" in line_of(following[0], "zai")
    assert msgspec.json.decode(line_of(following[1], "zai"))["replicas"] == []
    terminal.ok("routes", "disable", "zai")
    assert line_of(following[0], "disabled")
    assert line_of(following[1], '"disabled"')


def test_logs_are_shown_and_followed(
    terminal: Terminal, tmp_path: Path, following: list[subprocess.Popen[str]]
) -> None:
    """The last lines of each, then what comes; a file that is begun anew is followed on."""
    folder = tmp_path / "logs"
    folder.mkdir()
    worker = folder / "worker.log"
    worker.write_text("one\ntwo\nthree\n")
    (folder / "postgres.log").write_text("ready\n")
    assert terminal.ok("logs", "-n", "2").splitlines() == ["postgres ready", "worker   two", "worker   three"]
    assert terminal.ok("logs", "worker", "-n", "1") == "worker three"
    following.append(terminal.start("logs", "-f", "-n", "1", "worker"))
    assert line_of(following[0], "three")
    with worker.open("a") as file:
        file.write("four\n")
    assert line_of(following[0], "four") == "worker four\n"


def test_a_followed_log_goes_on_in_its_successor(tmp_path: Path) -> None:
    """Put aside, or emptied: nothing is shown twice, nothing is left out; half a line waits for its end."""
    path = tmp_path / "worker.log"
    path.write_text("old\n")
    with Followed(path) as followed:
        check_followed(followed, path)


def check_followed(followed: Followed, path: Path) -> None:
    assert followed.last(5) == ["old"]
    with path.open("a") as file:
        file.write("new\nha")
    assert list(followed.news()) == ["new"]
    with path.open("a") as file:
        file.write("lf\n")
    path.rename(path.with_suffix(".1"))
    assert list(followed.news()) == ["half"]
    path.write_text("first\n")
    assert list(followed.news()) == ["first"]
    path.write_text("")
    assert list(followed.news()) == []
    path.write_text("again\n")
    assert list(followed.news()) == ["again"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("logs",), "`ccproxy up` writes them"), (("logs", "proxy"), "to the terminal"), (("logs", "x"), "no log 'x'")],
)
def test_a_log_that_is_not_there_is_told(
    terminal: Terminal, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    """And where it would be."""
    if len(arguments) > 1:
        (tmp_path / "logs").mkdir()
        (tmp_path / "logs" / "worker.log").touch()
    result = terminal.run(*arguments)
    assert result.exit_code == 1
    assert words in result.output


def test_help_says_what_each_command_does(terminal: Terminal) -> None:
    """In a whole sentence, within 80 columns."""
    shown = terminal.ok("--help")
    assert "..." not in shown.partition("Commands:")[2]
    assert "Restore a backup, fold what Redis has since, and verify the ledger" in " ".join(shown.split())
    assert max(len(line) for line in shown.splitlines()) <= 80


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_are_given_what_they_complete_with(terminal: Terminal, shell: str) -> None:
    """A script that asks this program; commands, options and routes are completed."""
    assert "_CCPROXY_COMPLETE" in terminal.ok("completion", shell)


def test_routes_are_completed(terminal: Terminal) -> None:
    """As bash asks."""
    asked = {"_CCPROXY_COMPLETE": "bash_complete", "COMP_WORDS": "ccproxy routes disable an", "COMP_CWORD": "3"}
    done = subprocess.run(
        [sys.executable, "-c", "from service.cli import main; main(prog_name='ccproxy')"],
        env=os.environ | terminal.environ | asked,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert done.stdout.split() == ["plain,anthropic"]
    assert load(environ=terminal.environ).routes[0].id == "anthropic"
