"""Every token of every call stands in Postgres exactly, and in `ccproxy status --json`."""

from collections.abc import Iterator

import httpx
import pytest

from tests.fakes import FakeProvider, Served, Usage, reply
from tests.support.installation import Installation, Proxy
from tests.support.ledger_reader import Cell, Counted, LedgerReader, added
from tests.support.messages import ASK, GLM, STREAM, ask, client_of, way
from tests.support.waiting import settles_to

pytestmark = pytest.mark.e2e

ALICE, BOB = "alice-key-0123456789", "bob-key-0123456789ab"
ALL_KINDS = Usage(input=21, output=9, cache_read=700, cache_write_5m=50, cache_write_1h=3)
STATUS_KINDS = {
    "input_tokens": "input",
    "output_tokens": "output",
    "cache_read_tokens": "cache_read",
    "cache_write_5m_tokens": "cache_write_5m",
    "cache_write_1h_tokens": "cache_write_1h",
}


@pytest.fixture(scope="module")
def keyed_proxy(shared_installation: Installation) -> Iterator[Proxy]:
    """A proxy with two clients."""
    made = shared_installation.start_proxy({"PROXY_API_KEYS": f"alice:{ALICE},bob:{BOB}"})
    yield made
    made.stop()


@pytest.fixture
def keyed(installation: Installation, keyed_proxy: Proxy) -> Iterator[httpx.Client]:  # noqa: ARG001 - the installation is made ready first
    """A client of it."""
    with client_of(keyed_proxy.url) as client:
        yield client


def served_to(answer: httpx.Response, *fakes: FakeProvider) -> Served:
    """What a fake put on the wire for this answer."""
    return next(
        served for fake in fakes for served in fake.served if served.message_id and served.message_id in answer.text
    )


def test_tokens_per_route_model_and_client(
    keyed: httpx.Client, installation: Installation, ledger: LedgerReader
) -> None:
    """JSON and SSE, Anthropic and Z.AI, two models, two clients: each cell of the ledger has exactly its tokens."""
    ledger.settle()
    before = ledger.usage()
    installation.anthropic.script(reply.message(usage=ALL_KINDS).repeated(2))
    wanted: dict[Cell, Counted] = {}
    for turn, (key_id, key) in enumerate((("alice", ALICE), ("bob", BOB)) * 2):
        for model in ("claude-opus-5-5", "claude-haiku-4-6"):
            for body in (ASK, STREAM):
                if turn >= 2:
                    installation.anthropic.script(reply.error(529))
                answer = ask(keyed, body | {"model": model}, {"x-api-key": key})
                assert way(answer) == (200, ("anthropic", "zai")[turn >= 2], ("1", "2")[turn >= 2])
                served = served_to(answer, installation.anthropic, installation.zai)
                add(wanted, Cell(answer.headers["x-ccproxy-route"], served.model or "", key_id), usage=served.usage)
                if turn >= 2:
                    add(wanted, Cell("anthropic", model, key_id), failed=1)
    assert sum((one.usage for one in installation.zai.served), Usage()).input > 0
    settles_to(wanted, lambda: added(before, ledger.usage()))
    ledger.settle()
    assert added(before, ledger.usage()) == wanted
    assert {cell.model for cell in wanted if cell.route == "zai"} == {GLM, "glm-4.5-air"}
    ledger.check_sound()


def add(cells: dict[Cell, Counted], cell: Cell, *, failed: int = 0, usage: Usage | None = None) -> None:
    """One more attempt."""
    cells[cell] = cells.get(cell, Counted()).plus(Counted(1, failed, 0, usage or Usage()))


@pytest.mark.parametrize("body", [ASK, STREAM], ids=["json", "stream"])
def test_the_four_kinds_stand_apart(
    http: httpx.Client, installation: Installation, ledger: LedgerReader, body: dict[str, object]
) -> None:
    """Input, output, cache reads, and cache writes of five minutes and of an hour are five different numbers."""
    installation.anthropic.script(reply.message(usage=ALL_KINDS))
    [end] = ledger.wait_for_ends(ask(http, body).headers["x-ccproxy-request-id"])
    assert end["tokens"] == {"input": 21, "output": 9, "cache_read": 700, "cache_write_5m": 50, "cache_write_1h": 3}
    assert (end["outcome"], end["status"], end.get("final", True)) == ("ok", 200, True)


def test_zai_tells_its_usage_last(http: httpx.Client, installation: Installation, ledger: LedgerReader) -> None:
    """Zeros in Z.AI's message_start do not stand for the true figures of its last event."""
    installation.anthropic.script(reply.error(529))
    installation.zai.script(reply.message(usage=Usage(input=30, output=4, cache_read=2)))
    answer = ask(http, STREAM)
    _, end = ledger.wait_for_ends(answer.headers["x-ccproxy-request-id"], 2)
    assert (end["route"], end["tokens"]) == ("zai", {"input": 30, "output": 4, "cache_read": 2})


@pytest.mark.parametrize("chunk_bytes", [1, 7, 1000])
def test_usage_does_not_depend_on_how_bytes_are_cut(
    http: httpx.Client, installation: Installation, ledger: LedgerReader, chunk_bytes: int
) -> None:
    """A stream that comes in pieces of any size is counted, and passed on, as if it came whole."""
    whole = reply.message("naïve 日本語 🙂", usage=ALL_KINDS)
    installation.anthropic.script(whole.in_chunks(chunk_bytes))
    answer = ask(http, STREAM)
    assert "naïve 日本語 🙂" in answer.content.decode()
    [end] = ledger.wait_for_ends(answer.headers["x-ccproxy-request-id"])
    assert end["tokens"] == {"input": 21, "output": 9, "cache_read": 700, "cache_write_5m": 50, "cache_write_1h": 3}


def test_each_attempt_starts_and_ends_once(
    http: httpx.Client, installation: Installation, ledger: LedgerReader
) -> None:
    """A request with two attempts is two starts and two ends, under one request id, with the last one final."""
    installation.anthropic.script(reply.error(500))
    request_id = ask(http).headers["x-ccproxy-request-id"]
    first, second = ledger.wait_for_ends(request_id, 2)
    assert (first["final"], second.get("final", True)) == (False, True)
    assert (first["kind"], first["scope"], first["status"]) == ("server_error", "route", 500)
    query = "SELECT type, count(*), count(DISTINCT event_id) FROM ccproxy.events WHERE request_id = %s GROUP BY type"
    assert sorted(ledger.rows(query, request_id)) == [("attempt_ended", 2, 2), ("attempt_started", 2, 2)]
    starts = "SELECT event_id::text FROM ccproxy.events WHERE request_id = %s AND type = 'attempt_started'"
    assert {first["attempt_id"], second["attempt_id"]} == {row[0] for row in ledger.rows(starts, request_id)}


def test_the_answer_is_on_the_ledger_before_its_end(
    proxy: Proxy, installation: Installation, ledger: LedgerReader
) -> None:
    """Once a client holds the last byte, the attempt's end stands on the stream or on disk: a kill -9 loses nothing."""
    killed = installation.start_proxy()
    with client_of(killed.url) as client:
        ids = [ask(client, STREAM).headers["x-ccproxy-request-id"] for _ in range(5)]
        killed.kill()
    settles_to(5, lambda: len(ledger.ended(ids)))
    assert proxy.alive


def test_status_tells_the_same(proxy: Proxy, installation: Installation, ledger: LedgerReader) -> None:
    """`ccproxy status --json` has the week's tokens of each route exactly, kind by kind, and how far it has read."""
    installation.anthropic.script(reply.message(usage=ALL_KINDS), reply.error(529))
    with client_of(proxy.url) as client:
        for body in (ASK, STREAM, STREAM):
            assert ask(client, body).status_code == 200
    ledger.settle()
    week = "hour >= date_trunc('week', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'"
    wanted: dict[str, Counted] = {}
    for cell, counted in ledger.usage(week).items():
        wanted[cell.route] = wanted.get(cell.route, Counted()).plus(counted)
    settles_to({"anthropic", "zai"}, lambda: {"anthropic", "zai"} & set(wanted))
    settles_to(
        {route: wanted[route] for route in ("anthropic", "zai")},
        lambda: {name: told for name, told in told_by(ledger).items() if name in ("anthropic", "zai")},
    )
    status = ledger.status()
    positions = dict(ledger.rows("SELECT stream, position FROM ccproxy.checkpoints"))
    streams = {stream["stream"]: stream for stream in status["streams"]}
    for name in ("anthropic", "zai"):
        assert (streams[name]["position"], streams[name]["lag"]) == (positions[name], 0)
    [zai] = [route for route in status["routes"] if route["route"] == "zai"]
    assert zai["used_tokens"] == zai["input_tokens"] + zai["output_tokens"]


def told_by(ledger: LedgerReader) -> dict[str, Counted]:
    """What status tells of the routes."""
    return {
        route["route"]: Counted(
            route["attempts"],
            route["failed"],
            route["aborted"],
            Usage(**{kind: route[field] for field, kind in STATUS_KINDS.items()}),
        )
        for route in ledger.status()["routes"]
    }
