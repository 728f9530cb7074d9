"""The log for programs: proxies and workers have one form, and each request one line with all of its fields."""

import io
import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from service.ledger.state import RouteLedger
from service.telemetry.log import set_up
from tests.fakes import FakeProvider, Usage, reply
from tests.support.ports import free_port
from tests.support.processes import Command
from tests.support.proxies import (
    ANTHROPIC_KEY,
    ASK,
    STREAM,
    STREAM_BYTES,
    ZAI_KEY,
    Server,
    Serving,
    connected,
    request_bytes,
    server_of,
)
from tests.support.waiting import eventually, wait_until
from workers.fold_job import log_batch
from workers.outage import Outage
from workers.project import Projected

CORE = ("at", "level", "logger", "message")
REQUEST = {
    "request", "client_key", "client", "endpoint", "stream", "verdict", "reason", "status", "error", "route",
    "attempts", "early_head", "model_asked", "model", "input_tokens", "output_tokens", "cache_read_tokens",
    "cache_write_5m_tokens", "cache_write_1h_tokens", "cost_nusd", "first_byte_ms", "first_content_ms", "upstream_id",
    "dropped", "total_ms",
}  # fmt: skip
FAILURE = {
    "request", "route", "attempt", "model_asked", "model", "status", "kind", "scope", "error", "total_ms", "final",
    "words", "opinion",
}  # fmt: skip
KEY = "team-secret-key-0123456789abcdef"
USED = Usage(input=11, output=7, cache_read=5, cache_write_5m=3, cache_write_1h=2)


class Log:
    """What was logged as JSON."""

    def __init__(self) -> None:
        self.out = io.StringIO()
        set_up("debug", "json", self.out)

    def named(self, message: str) -> list[dict[str, Any]]:
        """The lines with this message."""
        lines = [json.loads(line) for line in self.out.getvalue().splitlines()]
        return [line for line in lines if line["message"] == message]

    def one(self, message: str) -> dict[str, Any]:
        """The only line with this message."""
        [line] = self.named(message)
        return line

    async def request(self) -> dict[str, Any]:
        """The line of the only request, once it is there."""
        await wait_until(lambda: self.named("request.ended"))
        return self.one("request.ended")


@pytest.fixture
def log() -> Iterator[Log]:
    """The log; afterwards the loggers are as they were."""
    loggers = [logging.getLogger(name) for name in (None, "ccproxy", "workers")]
    levels, handlers = [each.level for each in loggers], loggers[0].handlers
    yield Log()
    loggers[0].handlers = handlers
    for each, level in zip(loggers, levels, strict=True):
        each.setLevel(level)


@pytest.fixture
def anthropic() -> Iterator[FakeProvider]:
    """Anthropic."""
    with FakeProvider("anthropic", keys={ANTHROPIC_KEY}) as fake:
        yield fake


@pytest.fixture
def zai() -> Iterator[FakeProvider]:
    """Z.AI."""
    with FakeProvider("zai", keys={ZAI_KEY}) as fake:
        yield fake


async def start(server: Server, **providers: FakeProvider) -> Serving:
    """A proxy whose clients need a key."""
    return await server.start(**providers, variables={"PROXY_API_KEYS": f"team:{KEY}"})  # type: ignore[arg-type]


def check(line: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """The line of a request has all fields, of these values, and no secret."""
    assert set(line) == {*CORE, *REQUEST}
    assert {name: line[name] for name in wanted} == wanted
    assert not any(secret in json.dumps(line) for secret in (KEY, ANTHROPIC_KEY, ZAI_KEY))
    assert line["total_ms"] >= 0


@pytest.mark.parametrize("body", [ASK, STREAM], ids=["whole", "streamed"])
async def test_an_answered_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Log, anthropic: FakeProvider, body: dict[str, Any]
) -> None:
    """Who asked, what was served, by which route, what it used and cost, and how long it took."""
    async with server_of(tmp_path, monkeypatch) as server:
        served = await start(server, anthropic=anthropic)
        anthropic.script(reply.message("hello", usage=USED))
        answer = await served.ask(body, headers={"x-api-key": KEY})
        line = await log.request()
        [(_, ended)] = served.ends
    assert ended.cost_nusd
    check(line, {
        "level": "ok", "request": answer.headers["x-ccproxy-request-id"], "client_key": "team", "client": None,
        "endpoint": "messages", "stream": body is STREAM, "verdict": "ok", "reason": None, "status": 200, "error": None,
        "route": "anthropic", "attempts": 1, "model_asked": ASK["model"], "model": ASK["model"],
        "input_tokens": 11, "output_tokens": 7, "cache_read_tokens": 5, "cache_write_5m_tokens": 3,
        "cache_write_1h_tokens": 2, "cost_nusd": ended.cost_nusd, "first_byte_ms": ended.first_byte_ms,
    })  # fmt: skip
    assert (line["first_content_ms"] is not None) == (body is STREAM)
    assert log.named("attempt.failed") == []


async def test_a_request_that_went_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Log, anthropic: FakeProvider, zai: FakeProvider
) -> None:
    """Each failure has a line with its kind and scope; the request's line tells of the route that served it."""
    async with server_of(tmp_path, monkeypatch) as server:
        served = await start(server, anthropic=anthropic, zai=zai)
        anthropic.script(reply.error(529, message="over\nloaded"))
        await served.ask(STREAM, headers={"x-api-key": KEY})
        line = await log.request()
    check(line, {"verdict": "ok", "route": "zai", "attempts": 2, "model_asked": ASK["model"], "status": 200})
    assert line["model"] != ASK["model"]
    failure = log.one("attempt.failed")
    assert set(failure) == {*CORE, *FAILURE}
    told = {
        name: failure[name] for name in ("level", "request", "route", "attempt", "status", "kind", "scope", "final")
    }
    assert told == {
        "level": "warn", "request": line["request"], "route": "anthropic", "attempt": 1, "status": 529,
        "kind": "overloaded", "scope": "provider", "final": False,
    }  # fmt: skip


async def test_a_request_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Log, anthropic: FakeProvider
) -> None:
    """A provider's error that is passed on is a warning, with the status that the client saw."""
    async with server_of(tmp_path, monkeypatch) as server:
        served = await start(server, anthropic=anthropic)
        anthropic.script(reply.error(400, message="max_tokens: too many"))
        answer = await served.ask(ASK, headers={"x-api-key": KEY})
        line = await log.request()
    assert answer.status_code == 400
    check(line, {"level": "warn", "verdict": "client_error", "status": 400, "route": "anthropic", "attempts": 1})


async def test_a_request_whose_client_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Log, anthropic: FakeProvider
) -> None:
    """What was used until then is in the line."""
    async with server_of(tmp_path, monkeypatch) as server:
        served = await start(server, anthropic=anthropic)
        anthropic.script(reply.message(usage=USED).cut("hang", "message_start", 1))
        async with connected(served) as wire:
            await wire.send(request_bytes(STREAM_BYTES, headers=f"x-api-key: {KEY}\r\n"))
            await anthropic.wait_until_async(lambda: bool(anthropic.served) and anthropic.served[0].events_sent > 0)
        line = await log.request()
    check(line, {
        "level": "info", "client_key": "team", "stream": True, "verdict": "aborted", "status": None, "error": None,
        "route": "anthropic", "attempts": 1, "model_asked": ASK["model"], "model": ASK["model"], "input_tokens": 11,
        "first_content_ms": None,
    })  # fmt: skip


@pytest.mark.parametrize(
    ("headers", "body", "status", "reason"),
    [
        pytest.param({"x-api-key": "wrong-key-of-a-stranger"}, ASK, 401, "unknown_key", id="unknown key"),
        pytest.param({"x-api-key": KEY}, {"model": 5}, 400, None, id="no request"),
    ],
)
async def test_a_request_that_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Log, anthropic: FakeProvider,
    headers: dict[str, str], body: dict[str, Any], status: int, reason: str | None,
) -> None:  # fmt: skip
    """The line says why, and from where it came; no attempt was made."""
    async with server_of(tmp_path, monkeypatch) as server:
        served = await start(server, anthropic=anthropic)
        answer = await served.ask(body, headers=headers)
        line = await log.request()
    assert answer.status_code == status
    check(line, {
        "level": "warn", "client_key": "team" if reason is None else "", "client": "127.0.0.1", "status": status,
        "verdict": "client_error" if reason is None else "refused", "reason": reason, "route": None, "attempts": 0,
        "model": None, "input_tokens": 0, "output_tokens": 0, "cost_nusd": 0, "first_byte_ms": None,
        "error": answer.json()["error"]["message"],
    })  # fmt: skip
    assert "wrong-key" not in log.out.getvalue()


async def test_a_request_that_the_connection_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Log, anthropic: FakeProvider
) -> None:
    """One that is refused before anything reads it has the same line."""
    async with server_of(tmp_path, monkeypatch) as server:
        served = await start(server, anthropic=anthropic)
        await served.ask(ASK, headers={"host": "evil.example"})
        line = await log.request()
    check(line, {"level": "warn", "verdict": "refused", "reason": "foreign_host", "client": "127.0.0.1"})


def test_lines_of_workers(log: Log) -> None:
    """What workers fold, and what fails them, stands in fields as well."""
    projected = Projected("zai", 2, 41, "1788999000000-0", "run", RouteLedger(), moved=True, full=False, folded=3)
    log_batch(projected, 0.0123)
    outage = Outage("fold", stream="zai")
    outage.mark_down(ValueError("no\nnumber"), traceback=True)
    outage.mark_up()
    batch, lost, found = log.one("stream.folded"), log.one("fold.lost"), log.one("fold.found")
    assert set(batch) == {*CORE, "stream", "epoch", "position", "folded", "lag_ms", "ms", "full"}
    assert (batch["stream"], batch["position"], batch["folded"], batch["ms"]) == ("zai", 41, 3, 12)
    assert batch["lag_ms"] >= 0
    assert set(lost) == {*CORE, "error", "stream", "exception"}
    assert (lost["level"], lost["error"], lost["stream"], found["stream"]) == ("warn", "no number", "zai", "zai")
    log_batch(projected._replace(moved=False), 0.1)
    assert len(log.named("stream.folded")) == 1


def test_both_programs_write_the_same_form(tmp_path: Path) -> None:
    """Each line of a proxy and of a worker is an object that begins with the same four keys."""
    nowhere = f"127.0.0.1:{free_port()}"
    variables = {
        "LOG_FORMAT": "json",
        "PROXY_PORT": str(free_port()),
        "ANTHROPIC_API_KEY": ANTHROPIC_KEY,
        "REDIS_URL": f"redis://{nowhere}/0",
        "DATABASE_URL": f"postgresql://nobody@{nowhere}/none?connect_timeout=2",
    }
    for program, message in (("serve", "proxy.started"), ("worker", "postgres.lost")):
        with Command(program, home=tmp_path / program, variables=variables) as running:
            eventually(lambda running=running, message=message: message in running.text)  # type: ignore[misc]
            running.stop()
            lines = [msgspec.json.decode(line, type=dict[str, Any]) for line in running.text.splitlines()]
        assert message in {line["message"] for line in lines}
        for line in lines:
            assert tuple(line)[:4] == CORE
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["at"])
            assert line["level"] in ("debug", "info", "ok", "warn", "error")
            assert line["logger"].startswith("ccproxy.")
