"""The laws of proof: a sound ledger passes, whatever was changed is named, and a rebuild mends projections."""

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from threading import Thread
from typing import Any

import msgspec
import psycopg
import pytest

from service.ledger import wire
from service.ledger.events import FOLD_RULES, BatchItemUsed, ClientKeyIssued, Event
from service.ledger.state import RouteLedger
from tests.support.old_log import old_log
from tests.support.stream_factories import NOON_MS, STREAM, append, append_raw, ended, many, new_id, started
from tests.workers.conftest import Bench
from workers import cli, page_reader, recount
from workers.check import trouble_words
from workers.rebuild import rebuild
from workers.recount import Recount

Run = Callable[..., tuple[int, str]]


def fill(bench: Bench, number: int = 6) -> None:
    """Some events, folded."""
    append(bench.redis, many(number))
    bench.new_publisher().publish(bench.project())


def found(bench: Bench, stream: str = STREAM) -> list[tuple[str, str]]:
    """What differs, and where."""
    return [(one.what, one.name) for one in bench.verify(stream).differences]


def test_a_sound_ledger_has_no_differences(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all that makes folding hard: open attempts, failures, waits, batches, garbage, contradictions, pages."""
    monkeypatch.setattr(recount, "PAGE_ROWS", 2)
    monkeypatch.setattr(recount, "STEP_PAGES", 2)
    event = ended(1)
    append(bench.redis, [event, started(2), ended(4, outcome="failed", kind="throttle", scope="throttle", status=429)])
    append(bench.redis, [ended(5, outcome="failed", kind="server_error", scope="provider", replica="r2")])
    bench.project()
    append_raw(bench.redis, b'[{"type":"unheard_of","event_id":"x","at_ms":1,"replica":"r1","seq":3}]')
    append(bench.redis, [msgspec.structs.replace(event, status=500, seq=6)])
    append(bench.redis, [item(7), item(8)])
    bench.project()
    append(bench.redis, many(9, "r3"))
    bench.project()
    report = bench.verify()
    assert report.differences == ()
    assert (report.from_position, report.position, report.events) == (0, 14, 14)
    assert (bench.count("dead_letters"), bench.count("quarantine"), bench.count("asides")) == (1, 1, 3)


def item(seq: int) -> BatchItemUsed:
    """An item of a batch, read under this number."""
    return BatchItemUsed(
        event_id="01a08a2e-0000-7000-8000-000000000001",
        at_ms=NOON_MS,
        replica="r1",
        seq=seq,
        batch_id="b",
        custom_id="c",
    )


def test_control_is_proved_too(bench: Bench) -> None:
    """Keys and limits stand in the checkpoint's state, and nowhere else."""
    key = ClientKeyIssued(event_id=new_id(), at_ms=NOON_MS, key_id="k1", name="Alice", sha256="0" * 64)
    append(bench.redis, [key], wire.CONTROL)
    bench.project(wire.CONTROL)
    assert bench.verify(wire.CONTROL).ok
    bench.execute("UPDATE ccproxy.checkpoints SET state = replace(state::text, 'Alice', 'Mallory')::json")
    assert found(bench, wire.CONTROL) == [("state", "keys k1")]


MEDDLINGS = [
    ("DELETE FROM ccproxy.events WHERE position = 3", ("event", "position 3")),
    ("DELETE FROM ccproxy.events WHERE position IN (2, 3, 4)", ("event", "positions 2 to 4")),
    ("DELETE FROM ccproxy.events WHERE position >= 5", ("event", "positions 5 to 6")),
    (
        "UPDATE ccproxy.events SET body = replace(body::text, 'alice', 'mallory')::json WHERE position = 4",
        ("event", "position 4"),
    ),
    ("UPDATE ccproxy.events SET body = '{}' WHERE position = 4", ("event", "position 4")),
    ("UPDATE ccproxy.events SET hash = 'x' WHERE position = 6", ("event", "position 6")),
    ("UPDATE ccproxy.events SET at_ms = 1 WHERE position = 2", ("event", "position 2")),
    (
        "UPDATE ccproxy.events SET request_id = repeat('_', length(request_id)) WHERE position = 2",
        ("event", "position 2"),
    ),
    ("UPDATE ccproxy.events SET request_id = '%%' WHERE position = 2", ("event", "position 2")),
    ("UPDATE ccproxy.events SET type = 'attempt_lost' WHERE position = 1", ("event", "position 1")),
    ("UPDATE ccproxy.usage_hourly SET input = input + 1", ("usage", "2026-09-10T00:00Z claude-sonnet-4-5 alice")),
    ("DELETE FROM ccproxy.usage_hourly", ("usage", "2026-09-10T00:00Z claude-sonnet-4-5 alice")),
    (
        "INSERT INTO ccproxy.usage_hourly VALUES ('anthropic', '2026-09-10', 'm', '', 0, 1,0,0,0, 0,0,0,0,0, 0,0)",
        ("usage", "2026-09-10T00:00Z m (no key)"),
    ),
    ("UPDATE ccproxy.route_health SET account = '{\"failures_in_row\": 9}'", ("health", "r1")),
    ("DELETE FROM ccproxy.route_health", ("health", "r1")),
    ("UPDATE ccproxy.checkpoints SET hash = 'x'", ("checkpoint", "hash")),
    ("UPDATE ccproxy.checkpoints SET position = position - 1", ("checkpoint", "position")),
    ("UPDATE ccproxy.checkpoints SET state = '{}'", ("state", "heard r1")),
    ("UPDATE ccproxy.checkpoints SET state = '[]'", ("state", "whole")),
    ("UPDATE ccproxy.checkpoints SET dead = 5", ("count", "dead")),
    ("DELETE FROM ccproxy.checkpoints", ("checkpoint", STREAM)),
]


@pytest.mark.parametrize(("statement", "difference"), MEDDLINGS, ids=[statement for statement, _ in MEDDLINGS])
def test_what_was_changed_is_named(bench: Bench, statement: str, difference: tuple[str, str]) -> None:
    """Rows by position, cells by their key, the rest by its part; every fault of a row is named for that row alone."""
    fill(bench)
    bench.execute(statement)
    differences = found(bench)
    assert difference in differences
    if difference[0] == "event":
        assert {name for what, name in differences if what == "event"} == {difference[1]}
    else:
        assert {what for what, _ in differences} <= {difference[0], "state"}


@pytest.fixture
def long_stream(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A stream that processes of their own read, in pages."""
    monkeypatch.setattr(recount, "PAGE_ROWS", 25)
    monkeypatch.setattr(recount, "STEP_PAGES", 2)
    monkeypatch.setattr(page_reader, "FEW_ROWS", 0)
    fill(bench, 400)
    return bench


ROWS_CHANGED = [
    (
        "UPDATE ccproxy.events SET body = replace(body::text, 'alice', 'mallory')::json WHERE position = 20",
        [20],
    ),
    ("UPDATE ccproxy.events SET at_ms = at_ms + 1 WHERE position = 70", [70]),
    ("DELETE FROM ccproxy.events WHERE position = 150", [150]),
    ("DELETE FROM ccproxy.events WHERE position = 201", [201]),
    (
        """INSERT INTO ccproxy.events
        SELECT (left(event_id::text, 32) || 'ffff')::uuid, stream, position, type, at_ms, stream_id, epoch, request_id,
            body, hash FROM ccproxy.events WHERE position = 260""",
        [260, 260],
    ),
    ("UPDATE ccproxy.events SET hash = sha256(hash) WHERE position = 333", [333, 334]),
    ("UPDATE ccproxy.events SET request_id = repeat('_', length(request_id)) WHERE position = 399", [399]),
]


def test_each_changed_row_of_a_long_stream_is_named(long_stream: Bench) -> None:
    """Changed, missing, doubled, at the edges of pages and within them; the rows between are sound."""
    assert long_stream.verify().differences == ()
    for statement, _ in ROWS_CHANGED:
        long_stream.execute(statement)
    named_rows = [name for what, name in found(long_stream) if what == "event"]
    assert named_rows == [f"position {position}" for _, positions in ROWS_CHANGED for position in positions]


def test_a_total_that_is_off_by_one_is_found_in_a_long_stream(long_stream: Bench) -> None:
    """And what it should be is told."""
    long_stream.execute("UPDATE ccproxy.usage_hourly SET cost_nusd = cost_nusd + 1")
    (difference,) = long_stream.verify().differences
    assert (difference.what, difference.stands, difference.should) == ("usage", "cost_nusd=400001", "cost_nusd=400000")


def test_numbers_skipped_in_a_long_stream_are_heard_in_their_order(long_stream: Bench) -> None:
    """Garbage and contradictions between the pages leave their numbers where a worker has heard them."""
    for seq in (401, 450, 451):
        append_raw(long_stream.redis, b'[{"type":"unheard_of","event_id":"x","at_ms":1,"replica":"r1","seq":%d}]' % seq)
        append(long_stream.redis, [ended(seq + 1), ended(seq + 3)])
        long_stream.project()
    assert long_stream.verify().differences == ()
    assert long_stream.count("asides") == 3


def test_an_interrupt_is_the_callers_alone(long_stream: Bench) -> None:
    """A terminal's Ctrl-C reaches each process. One that reads says nothing of it, not even while it starts."""
    with page_reader.reader_process(long_stream.address, [page_reader.Span(STREAM, 0, 10)]) as pipe:
        [child] = multiprocessing.active_children()
        os.kill(child.pid or 0, signal.SIGINT)
        assert page_reader.receive(pipe).events


def test_a_process_that_cannot_read_says_why(bench: Bench) -> None:
    """An error of Postgres in another process is one here."""
    spans = [page_reader.Span(STREAM, 0, 10)]
    address = bench.address._replace(url=f"{bench.postgres.url}_missing")
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        list(page_reader.read_in_parallel(address, spans))


def test_an_error_of_a_process_keeps_its_kind(bench: Bench) -> None:
    """What a statement met is no failed login, and has another mend."""
    url = psycopg.conninfo.make_conninfo(bench.postgres.url, dbname="postgres")
    address = bench.address._replace(url=url)
    with pytest.raises(psycopg.errors.UndefinedTable) as caught:
        list(page_reader.read_in_parallel(address, [page_reader.Span(STREAM, 0, 10)]))
    assert trouble_words(caught.value, address, "DATABASE_URL") == (
        'relation "ccproxy.events" does not exist; run `ccproxy migrate`; '
        "if DATABASE_URL names a pooler, set DATABASE_DIRECT_URL to Postgres itself"
    )


def test_a_position_that_stands_twice_is_named(bench: Bench) -> None:
    """And so is the one that is missing for it."""
    fill(bench)
    bench.execute("UPDATE ccproxy.events SET position = 3 WHERE position = 4")
    assert [name for what, name in found(bench) if what == "event"] == ["position 3", "position 4"]


def test_a_whole_chain_made_anew_is_found(bench: Bench) -> None:
    """Who rewrites all hashes behind a change can't rewrite the checkpoint's unnoticed."""
    fill(bench)
    bench.execute("UPDATE ccproxy.events SET body = replace(body::text, 'alice', 'mallory')::json WHERE position = 2")
    bench.execute(
        """WITH RECURSIVE chain AS (
            SELECT 0::bigint AS position, decode(repeat('00', 32), 'hex') AS hash
            UNION ALL
            SELECT e.position, sha256(c.hash || convert_to(e.body::text, 'UTF8'))
            FROM chain c JOIN ccproxy.events e ON e.position = c.position + 1
        ) UPDATE ccproxy.events e SET hash = c.hash FROM chain c WHERE c.position = e.position"""
    )
    differences = found(bench)
    assert ("checkpoint", "hash") in differences
    assert [what for what, _ in differences if what == "event"] == []


def test_many_faults_are_counted_and_few_are_named(bench: Bench) -> None:
    """A table that was overwritten does not fill the screen, nor the memory."""
    fill(bench, 200)
    bench.execute("UPDATE ccproxy.events SET request_id = 'another'")
    report = bench.verify()
    assert (len(report.differences), report.more) == (50, 150)


def test_the_command_says_what_differs_and_ends_with_1(bench: Bench, command: Run) -> None:
    """0 and a sentence when all is well; a table or JSON when it is not."""
    fill(bench)
    assert command(cli.ledger, "verify")[0] == 0
    status, output = command(cli.ledger, "verify", "--json", "--stream", STREAM)
    assert (status, json.loads(output)["ok"]) == (0, True)
    bench.execute("UPDATE ccproxy.usage_hourly SET output = 0")
    status, output = command(cli.ledger, "verify")
    assert status == 1
    assert "output=0" in output
    assert "output=30" in output
    status, output = command(cli.ledger, "verify", "--json")
    (difference,) = json.loads(output)["streams"][0]["differences"]
    assert (status, difference["stands"], difference["should"]) == (1, "output=0", "output=30")


def test_verify_is_exact_while_traffic_goes_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is folded meanwhile is not seen, and makes no difference."""
    monkeypatch.setattr(recount, "PAGE_ROWS", 2)
    fill(bench)
    original = Recount.read

    def read(self: Recount, upto: int, *arguments: Any) -> None:
        append(bench.redis, [ended(7)])
        bench.project()
        original(self, upto, *arguments)

    monkeypatch.setattr(Recount, "read", read)
    assert bench.verify().differences == ()
    assert bench.attempts() == 7


PROJECTIONS = [
    "UPDATE ccproxy.usage_hourly SET input = 1, model = 'other'",
    "DELETE FROM ccproxy.usage_hourly",
    "DELETE FROM ccproxy.route_health",
    "UPDATE ccproxy.route_health SET account = '{}', replica = 'r9'",
    "UPDATE ccproxy.checkpoints SET state = '{}', dead = 4",
    "UPDATE ccproxy.checkpoints SET state = '[]'",
]


@pytest.mark.parametrize("damage", PROJECTIONS)
def test_a_rebuild_mends_every_projection(bench: Bench, command: Run, damage: str) -> None:
    """And proxies take it, and workers that hold the damage in memory forget it."""
    fill(bench)
    before = bench.snapshot()
    bench.execute(damage)
    assert command(cli.ledger, "rebuild")[0] == 0
    assert bench.verify().ok
    after = bench.snapshot()
    assert before is not None
    assert after is not None
    assert (after.epoch, after.position) == (before.epoch + 1, before.position)
    assert wire.decode_ledger(STREAM, after.ledger) == wire.decode_ledger(STREAM, before.ledger)
    append(bench.redis, [ended(7)])
    assert bench.project().position == bench.attempts() == 7
    assert bench.verify().ok


def test_a_worker_forgets_what_it_held_of_cells_that_were_wrong(bench: Bench) -> None:
    """Its next snapshot has the rebuilt cells, also those that lie below its own position."""
    fill(bench)
    bench.execute("UPDATE ccproxy.usage_hourly SET input = 1000")
    worker = bench.new_projector()
    damaged = worker.project(STREAM)
    rebuild(bench.new_archive(), STREAM)
    mended = worker.project(STREAM)
    assert damaged is not None
    assert mended is not None
    assert [sum(usage.input for usage in hours_of(each.ledger)) for each in (damaged, mended)] == [1_000, 60]


def hours_of(ledger: Any) -> list[Any]:
    """The sums of hours."""
    assert isinstance(ledger, RouteLedger)
    return list(ledger.hours.values())


def test_a_rebuild_goes_on_under_traffic(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is folded while it reads is caught up with; workers fold until the short moment of the swap."""
    fill(bench)
    bench.execute("DELETE FROM ccproxy.usage_hourly")
    original = Recount.read
    rounds = []

    def read(self: Recount, upto: int, *arguments: Any) -> None:
        original(self, upto, *arguments)
        rounds.append(upto)
        if len(rounds) == 1:
            append(bench.redis, [ended(seq) for seq in range(7, 20)])
            bench.project()

    monkeypatch.setattr(Recount, "read", read)
    rebuild(bench.new_archive(), STREAM)
    assert rounds[-1] == 19
    assert (bench.attempts(), bench.verify().ok) == (19, True)


def test_a_rebuild_waits_for_the_worker_that_has_the_stream(bench: Bench) -> None:
    """And the other way round: a worker that finds it rebuilt goes on from there."""
    fill(bench)
    store = bench.new_projector().store
    thread = Thread(target=rebuild, args=(bench.new_archive(), STREAM))
    with store.transaction():
        assert store.lock_checkpoint(STREAM)
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
    thread.join()
    assert bench.verify().ok


def test_faulty_rows_are_not_rebuilt_from_unless_asked(bench: Bench, command: Run) -> None:
    """They are evidence, and the projections may be the better witness."""
    fill(bench)
    bench.execute("DELETE FROM ccproxy.events WHERE position = 2")
    status, _ = command(cli.ledger, "rebuild")
    assert (status, bench.attempts()) == (1, 6)
    status, _ = command(cli.ledger, "rebuild", "--force")
    assert (status, bench.attempts()) == (0, 5)
    append(bench.redis, [ended(7)])
    assert bench.project().position == 7
    assert {what for what, _ in found(bench)} == {"event"}


def test_an_unknown_stream_is_named_beside_the_known(bench: Bench, command: Run) -> None:
    """A typing mistake is not a clean ledger."""
    fill(bench)
    assert command(cli.ledger, "verify", "--stream", "antropic")[0] == 1


def named(numbers: range, **fields: Any) -> list[Event]:
    """Attempts with a model each of a client's invention."""
    return [ended(seq, model_sent=f"model-{seq}", **fields) for seq in numbers]


def test_invented_names_are_bounded_and_proved(bench: Bench) -> None:
    """From the rule on: what was folded before it stays as it was, whichever worker folds on, and a rebuild agrees."""
    append(bench.redis, named(range(1, 101)))
    bench.project()
    append(bench.redis, named(range(101, 150), fold_rules=FOLD_RULES))
    bench.project()
    append(bench.redis, named(range(150, 250), at_ms=NOON_MS + 3_600_000, fold_rules=FOLD_RULES))
    bench.project()
    bench.projector = bench.new_projector()  # another process goes on
    append(bench.redis, named(range(250, 300), at_ms=NOON_MS + 3_600_000, fold_rules=FOLD_RULES))
    bench.project()
    models = [model for (model,) in bench.rows("SELECT model FROM ccproxy.usage_hourly ORDER BY hour, model")]
    assert len(models) == 100 + 1 + 64 + 1
    attempts = bench.rows("SELECT sum(attempts), sum(cost_nusd) FROM ccproxy.usage_hourly")
    assert attempts == [(299, 299_000)], "all of them count and cost"
    assert bench.verify().differences == ()
    archive = bench.new_archive()
    assert not rebuild(archive, STREAM).faults
    assert bench.verify().differences == ()


def test_old_events_are_proved_beside_new_ones(bench: Bench) -> None:
    """Failures that an earlier version wrote, then those that are kept by account, client and session: a worker that
    folds on, a recount and a rebuild agree."""
    append(bench.redis, old_log())
    bench.project()
    assert bench.verify().differences == ()
    bench.projector = bench.new_projector()  # of the newer version
    fields: dict[str, Any] = {"account": "a1", "body": "b1", "session_id": "s1", "fold_rules": FOLD_RULES}
    refused = {"kind": "bad_request", "scope": "request", "status": 400, "words": "w1"}
    failures: list[dict[str, Any]] = [
        refused,
        {"kind": "timeout", "scope": "route"},
        {"kind": "quota", "scope": "quota", "status": 429},
    ]
    later = [
        ended(101 + number, at_ms=NOON_MS + 900_000 + number, replica="r3", outcome="failed", **(fields | failure))
        for number, failure in enumerate(failures * 3)
    ]
    append(bench.redis, later)
    bench.project()
    assert bench.verify().differences == ()
    assert not rebuild(bench.new_archive(), STREAM).faults
    assert bench.verify().differences == ()
