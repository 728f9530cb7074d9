"""The one-liners of docs/redis-keys.md, each run by a shell, with redis-cli where there is one."""

import os
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import msgspec
import pytest

from service.ledger import wire
from tests.support.installation import Installation, Proxy
from tests.support.ledger_reader import LedgerReader
from tests.support.messages import ask
from tests.support.processes import ROOT, run
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

EVENTS, ROUTE = "'ccproxy:{anthropic}:events'", "'ccproxy:{anthropic}:route'"
READ_ROUTE = f"redis-cli -p $PORT hgetall {ROUTE}"
READ_FIELDS = "redis-cli -p $PORT hmget 'ccproxy:{zai}:route' state used_tokens limit_tokens"
READ_SNAPSHOT = "redis-cli -p $PORT get 'ccproxy:{anthropic}:snapshot'"
READ_STREAMS = "redis-cli -p $PORT smembers ccproxy:streams"
READ_LENGTH = f"redis-cli -p $PORT xlen {EVENTS}"
READ_LAST = f"redis-cli -p $PORT xrevrange {EVENTS} + - count 1"
READ_NEXT = f"redis-cli -p $PORT xread block 10000 streams {EVENTS} $"
READ_LAG = (
    """redis-cli -p $PORT eval_ro "return #redis.call('xrange', KEYS[1], '('..redis.call('hget', KEYS[2], """
    f"""'stream_id'), '+')" 2 {EVENTS} {ROUTE}"""
)
READ_REPLICAS = "redis-cli -p $PORT --scan --pattern 'ccproxy:replica:*'"
READ_SETTINGS = f"{READ_REPLICAS} | xargs -I@ redis-cli -p $PORT hget @ settings | sort | uniq -c"

Cli = Callable[[str], list[str]]


@pytest.fixture(params=["redis-cli", "redis-py"] if shutil.which("redis-cli") else ["redis-py"])
def cli(request: pytest.FixtureRequest, installation: Installation, proxy: Proxy, tmp_path: Path) -> Cli:  # noqa: ARG001 - a proxy beats
    """Runs a line in a shell, as the documentation has it; the lines of its answer."""
    path = os.environ["PATH"]
    if request.param == "redis-py":
        stand_in = tmp_path / "redis-cli"
        stand_in.write_text(
            f'#!/bin/sh\nexec "{sys.executable}" "{ROOT}/tests/e2e/redis_cli.py" "$@"\n', encoding="utf-8"
        )
        stand_in.chmod(0o700)
        path = f"{tmp_path}:{path}"
    password = (installation.valkey.place / "password").read_text(encoding="utf-8").strip()
    environ = {"PATH": path, "PORT": str(installation.valkey.port), "REDISCLI_AUTH": password}

    def run_line(line: str) -> list[str]:
        done = subprocess.run(
            ["/bin/sh", "-c", line], env=environ, capture_output=True, text=True, timeout=30, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), line
        assert "ERR" not in done.stdout, line
        return done.stdout.splitlines()

    return run_line


@pytest.fixture
def told(http: httpx.Client, ledger: LedgerReader) -> httpx.Response:
    """An answer that the ledger has."""
    answer = ask(http)
    ledger.wait_for_ends(answer.headers["x-ccproxy-request-id"])
    ledger.settle()
    return answer


def pairs(answer: list[str]) -> dict[str, str]:
    """A hash as redis-cli prints it: names and values in turn."""
    return dict(zip(answer[::2], answer[1::2], strict=True))


@pytest.mark.usefixtures("told")
def test_a_route(cli: Cli, ledger: LedgerReader) -> None:
    """The hash has the state, the week's tokens, and where its ledger is."""
    counted = ledger.route_totals()["anthropic"]

    def told() -> dict[str, str]:  # by this test's proxy; others that live have other settings
        found = pairs(cli(READ_ROUTE))
        return found if (found["attempts"], found["state"]) == (str(counted.attempts), "healthy") else {}

    route = eventually(told)
    assert route["route"] == "anthropic"
    assert int(route["output_tokens"]) == counted.usage.output
    assert int(route["position"]) > 0 < int(route["epoch"])
    assert len(cli(READ_FIELDS)) == 3


@pytest.mark.usefixtures("told")
def test_a_snapshot(cli: Cli, ledger: LedgerReader) -> None:
    """It is one line of JSON, as of the checkpoint."""
    [line] = cli(READ_SNAPSHOT)
    snapshot = msgspec.json.decode(line)
    assert snapshot["version"] == wire.SNAPSHOT_VERSION
    assert snapshot["position"] == ledger.number("SELECT position FROM ccproxy.checkpoints WHERE stream = 'anthropic'")


def test_the_streams(cli: Cli, told: httpx.Response) -> None:
    """Which there are, how long one is, and its last event."""
    assert {"anthropic", "control"} <= {*cli(READ_STREAMS), "control"}
    assert int(cli(READ_LENGTH)[0]) > 0
    stream_id, field, value = cli(READ_LAST)
    assert re.fullmatch(r"\d+-\d+", stream_id)
    assert (field, wire.decode_entry(value.encode())[-1]) == (wire.ENTRY_FIELD, last_end(value, told))


def last_end(value: str, told: httpx.Response) -> wire.Decoded:
    """The last event of an entry, which is the end of what was asked."""
    event = wire.decode_entry(value.encode())[-1]
    assert getattr(event, "request_id", "") == told.headers["x-ccproxy-request-id"]
    return event


def test_events_that_the_streams_have_no_more(told: httpx.Response, installation: Installation) -> None:
    """`ccproxy events` asks the workers for them; each is shown once, whatever was trimmed."""
    request = told.headers["x-ccproxy-request-id"]
    with installation.redis() as redis:
        for keep in (1, 0):
            for stream in redis.smembers(wire.STREAMS_KEY):
                redis.xtrim(wire.events_key(stream.decode()), maxlen=keep)
            for asked in (("--request", request), ("--since", "1h"), ("-n", "2000"), ("--type", "attempt_ended")):
                code, text = run("events", "--json", *asked, home=installation.folder, variables=installation.addresses)
                views = [msgspec.json.decode(line) for line in text.splitlines()]
                ids = [view["event_id"] for view in views]
                assert (code, len(ids)) == (0, len(set(ids))), asked
                assert [view["type"] for view in views if view["request_id"] == request][-1] == "attempt_ended", asked


def test_the_next_event(cli: Cli, http: httpx.Client) -> None:
    """Whoever waits is told as it happens."""
    stop = threading.Event()

    def ask_on() -> None:
        while not stop.wait(0.2):
            ask(http)

    asking = threading.Thread(target=ask_on)
    asking.start()
    try:
        name, *_, value = cli(READ_NEXT)
    finally:
        stop.set()
        asking.join()
    assert name == wire.events_key("anthropic")
    assert wire.decode_entry(value.encode())


@pytest.mark.usefixtures("told")
def test_the_lag(cli: Cli, installation: Installation, http: httpx.Client) -> None:
    """Entries that are not folded yet: none when all is well, and as many as come while Postgres is away."""
    assert cli(READ_LAG) == ["0"]
    assert installation.worker is not None
    installation.worker.stop()
    ask(http)
    assert int(cli(READ_LAG)[0]) >= 1
    installation.start_worker()
    eventually(lambda: cli(READ_LAG) == ["0"])


def test_replicas_and_whether_they_agree(cli: Cli, installation: Installation, proxy: Proxy) -> None:
    """Each live proxy beats; one line a setting, so that a second line is a proxy that is set otherwise."""
    digest = beat_of(installation, proxy)["settings"]
    assert re.fullmatch("[0-9a-f]{12}", digest)
    assert wire.REPLICA_PREFIX in cli(READ_REPLICAS)[0]
    with installation.redis() as redis:  # of proxies that other tests have killed; the living beat again
        redis.delete(*redis.scan_iter(match=f"{wire.REPLICA_PREFIX}*"))
    eventually(lambda: settings_told(cli)[digest])
    alike, other = installation.launch(), installation.launch({"ZAI_WEEKLY_LIMIT": "1000000"})
    others = beat_of(installation, other)["settings"]
    assert others != digest == beat_of(installation, alike)["settings"]
    eventually(lambda: settings_told(cli)[digest] >= 2)  # `alike`, and the one whose beat came again
    assert settings_told(cli)[others] == 1
    said = run(
        "status", home=installation.folder / "status", variables=installation.addresses | installation.upstreams
    )[1]
    assert "settings  differ between replicas" in said
    assert f"-{other.process.pid}-" in said.partition("settings  differ")[2]
    other.stop()
    alike.stop()
    eventually(lambda: not settings_told(cli)[others])
    with installation.redis() as redis:
        eventually(lambda: not list(redis.scan_iter(match=f"{wire.REPLICA_PREFIX}*-{alike.process.pid}-*")))


def settings_told(cli: Cli) -> Counter[str]:
    """How many live proxies have which settings, as the documentation counts them."""
    return Counter({digest: int(number) for number, digest in (line.split() for line in cli(READ_SETTINGS))})


def beat_of(installation: Installation, proxy: Proxy) -> dict[str, str]:
    """A proxy's heartbeat."""
    with installation.redis() as redis:

        def found() -> dict[str, str]:
            for key in redis.scan_iter(match=f"{wire.REPLICA_PREFIX}*-{proxy.process.pid}-*"):
                beat = {name.decode(): value.decode() for name, value in redis.hgetall(key).items()}
                return beat if beat.get("settings") else {}
            return {}

        return eventually(found)


def test_every_line_of_the_documentation_runs(cli: Cli, http: httpx.Client) -> None:
    """Whatever docs/redis-keys.md says to ask, Redis answers."""
    text = (ROOT / "docs" / "redis-keys.md").read_text(encoding="utf-8")
    lines = [line for line in re.findall(r"^(redis-cli .*)$", text, re.MULTILINE) if "xread" not in line]
    assert len(lines) >= 5
    ask(http)
    for line in lines:
        cli(line)
