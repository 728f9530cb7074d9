"""`ccproxy events` against a real Valkey: what is shown of the past, what is left out, and what comes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from io import StringIO
from itertools import count
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from redis import Redis
from rich.console import Console

from service.cli import main
from service.commands.events import row
from service.console.event_text import view_of
from service.embedded.valkey import Valkey
from service.ledger import ids, wire
from service.ledger.events import AttemptEnded, AttemptStarted, ControlEvent, RouteDisabled, RouteEvent, TokenCounts

PATIENCE_S = 60
NOW_MS = int(time.time() * 1000)
numbers = count(1)


def started(number: int) -> AttemptStarted:
    """An attempt of request `q<number>` begins."""
    return AttemptStarted(event_id=id_of(number), at_ms=NOW_MS, request_id=f"q{number}", model_sent="claude-sonnet-5")


def ended(number: int, **fields: Any) -> AttemptEnded:
    """It ended, well unless `fields` say otherwise."""
    values: dict[str, Any] = {"outcome": "ok", "status": 200, "model_sent": "claude-sonnet-5", "client_key": "alice"}
    return AttemptEnded(
        event_id=ids.ended_id(id_of(number)),
        attempt_id=id_of(number),
        request_id=f"q{number}",
        started_at_ms=NOW_MS,
        tokens=TokenCounts(1_000, 20),
        total_ms=1_500,
        **({"at_ms": NOW_MS} | values | fields),
    )


def id_of(number: int) -> str:
    """The id of an attempt."""
    return ids.uuid7(NOW_MS, number)


def append(redis: Redis, stream: str, *events: RouteEvent | ControlEvent) -> None:
    """An entry of a replica."""
    redis.sadd(wire.STREAMS_KEY, stream)
    field: Any = {wire.ENTRY_FIELD: wire.encode_entry(events)}
    redis.xadd(wire.events_key(stream), field, id=f"{NOW_MS}-{next(numbers)}")  # all streams in one order


FAILED = ended(
    2, outcome="failed", kind="overloaded", scope="provider", status=529, message="Overloaded", final=False,
    client_key="bob", model_sent="claude-haiku-4-5",
)  # fmt: skip


@pytest.fixture
def environ(valkey: Valkey, redis: Redis, tmp_path: Path) -> dict[str, str]:
    """A shell's variables; three requests and a command have happened."""
    append(redis, "anthropic", started(1), ended(1))
    append(redis, "anthropic", started(2), FAILED)
    append(redis, "zai", ended(3, at_ms=NOW_MS - 7_200_000))
    disabled = RouteDisabled(event_id=id_of(9), at_ms=NOW_MS, route="zai", by="cli ann", reason="too dear")
    append(redis, wire.CONTROL, disabled)
    return {"REDIS_URL": valkey.url, "CCPROXY_HOME": str(tmp_path), "NO_COLOR": "1"}


def run(environ: dict[str, str], *arguments: str) -> Result:
    return CliRunner().invoke(main, ["events", *arguments], env=environ)


def requests_of(environ: dict[str, str], *arguments: str) -> list[str]:
    """The requests whose events are shown; of a command, its type."""
    result = run(environ, "--json", *arguments)
    assert result.exit_code == 0, result.output
    views = [msgspec.json.decode(line) for line in result.stdout.splitlines()]
    return [view["request_id"] or view["type"] for view in views]


def test_what_happened_is_told_oldest_first(environ: dict[str, str]) -> None:
    """A line each: when, which request, where, what, and whose key or command it was."""
    lines = run(environ).stdout.splitlines()
    assert [line.split(maxsplit=1)[1] for line in lines] == [
        "q1                 anthropic    answered 200, 1,000→20 tokens, 1.50 s (alice)",
        "q2                 anthropic    overloaded 529: Overloaded; failed over (bob)",
        "q3                 zai          answered 200, 1,000→20 tokens, 1.50 s (alice)",
        "zai          zai disabled: too dear (cli ann)",
    ]


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ((), ["q1", "q2", "q3", "route_disabled"]),
        (("-n", "2"), ["q3", "route_disabled"]),
        (("-n", "0"), []),
        (("--route", "zai"), ["q3", "route_disabled"]),
        (("--route", "zai", "--route", "anthropic", "--outcome", "ok"), ["q1", "q3"]),
        (("--outcome", "failed"), ["q2"]),
        (("--key", "alice"), ["q1", "q3"]),
        (("--model", "claude-haiku-*"), ["q2"]),
        (("--request", "q2"), ["q2", "q2"]),
        (("--type", "route_disabled"), ["route_disabled"]),
        (("--since", "1h"), ["q1", "q2", "route_disabled"]),
        (("--since", "2000-01-01"), ["q1", "q2", "q3", "route_disabled"]),
        (("--starts", "--route", "anthropic"), ["q1", "q1", "q2", "q2"]),
    ],
)
def test_filters_hold_together(environ: dict[str, str], arguments: tuple[str, ...], shown: list[str]) -> None:
    """Each narrows what is shown; starts are shown when they are asked for."""
    assert requests_of(environ, *arguments) == shown


def test_a_time_that_is_none_is_told(environ: dict[str, str]) -> None:
    """With what is understood."""
    result = run(environ, "--since", "yesterday")
    assert result.exit_code == 2
    assert "30m" in result.output


def test_a_type_that_no_event_has_is_refused_with_the_list(environ: dict[str, str]) -> None:
    """A misspelt type would show nothing, as if nothing had happened."""
    result = run(environ, "--type", "attempt_ende")
    assert result.exit_code == 2
    assert "attempt_ended" in result.output
    assert "route_disabled" in result.output


def test_that_older_events_are_elsewhere_is_said(environ: dict[str, str], redis: Redis) -> None:
    """Workers have folded some, and none answers; unless all that was asked for is on the streams."""
    append(redis, "subscription", ended(4))
    assert run(environ).stderr == "", "nothing was ever folded"
    redis.set(wire.snapshot_key("anthropic"), b"any")
    for arguments in ((), ("--since", "2000-01-01"), ("--request", "q1"), ("--type", "attempt_lost")):
        result = run(environ, *arguments)
        assert result.stderr.startswith("events before 20"), arguments
        assert "start one with `ccproxy worker`" in result.stderr
    assert run(environ, "-n", "5").stderr == ""
    later = datetime.fromtimestamp(NOW_MS / 1000 + 1, UTC).isoformat()
    assert run(environ, "--since", later).stderr == ""


def test_without_redis_the_mend_is_named(environ: dict[str, str]) -> None:
    """And no password."""
    result = run(environ | {"REDIS_URL": "redis://:secret@127.0.0.1:1"})
    assert (result.exit_code, "start it, or correct REDIS_URL" in result.output, "secret" in result.output) == (
        1,
        True,
        False,
    )


@pytest.fixture
def following(environ: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A terminal that follows; it is interrupted in the end, and ends well."""
    process = subprocess.Popen(
        [sys.executable, "-m", "service.cli", "events", "-f", "-n", "1", "--json"],
        env=os.environ | environ,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) == 0
    assert process.stdout
    process.stdout.close()


def next_of(process: subprocess.Popen[str]) -> str:
    """The request, or the type, of the next event that is shown."""
    found: list[str] = []
    out = process.stdout
    assert out
    reader = Thread(target=lambda: found.append(out.readline()), daemon=True)
    reader.start()
    reader.join(PATIENCE_S)
    assert found, "nothing came"
    view = msgspec.json.decode(found[0])
    return str(view["request_id"] or view["type"])


def test_what_comes_is_followed(following: subprocess.Popen[str], redis: Redis) -> None:
    """Each event once, in its order; of a stream too that begins only now."""
    assert next_of(following) == "route_disabled"
    append(redis, "anthropic", ended(4))
    assert next_of(following) == "q4"
    append(redis, "subscription", ended(5))
    assert next_of(following) == "q5"
    append(redis, "anthropic", started(6), ended(6))
    assert next_of(following) == "q6"


def test_a_line_fits_a_terminal() -> None:
    """80 columns: what is long goes on below its own column."""
    page = StringIO()
    view = view_of("anthropic", msgspec.structs.replace(FAILED, message="Overloaded, try again"))
    assert view
    Console(file=page, width=80, color_system=None).print(row(view))
    first, second = page.getvalue().splitlines()
    assert max(len(first), len(second)) <= 80
    assert first.index("overloaded 529") == second.index("failed over (bob)")
