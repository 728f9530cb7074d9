"""However a log is cut into entries, batches and workers, Postgres says what the ledger's fold says of the whole."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.ledger import fold, ids, wire
from service.ledger.events import AttemptEnded, RouteEvent, TokenCounts
from service.ledger.state import RouteLedger
from tests.support.event_factories import logs as ledger_logs
from tests.support.server_fixtures import empty
from tests.support.stream_factories import NOON_MS, STREAM, append, append_raw, ended, spooled, started
from tests.workers.conftest import Bench
from workers.rebuild import rebuild
from workers.store import Cell

Log: TypeAlias = list[list[list[RouteEvent]]]
"""Batches of entries of events."""
HOURS = st.sampled_from([0, 1, 30, fold.KEPT_HOURS - 1, fold.KEPT_HOURS + 40])
SCOPES = st.sampled_from([("ok", "", ""), ("failed", "server_error", "provider"), ("failed", "throttle", "throttle")])


@st.composite
def events(draw: st.DrawFn) -> RouteEvent:
    """One event of a route, somewhere within three weeks."""
    at_ms = NOON_MS + draw(HOURS) * fold.HOUR_MS + draw(st.integers(0, 20_000))
    replica, seq = draw(st.sampled_from(["r1", "r2"])), draw(st.integers(1, 30))
    if draw(st.booleans()):
        return started(seq, at_ms=at_ms, replica=replica)
    outcome, kind, scope = draw(SCOPES)
    tokens = TokenCounts(
        input=draw(st.integers(0, 9)), output=draw(st.integers(0, 9)), cache_write_1h=draw(st.integers(0, 9))
    )
    event = ended(
        seq,
        at_ms=at_ms,
        replica=replica,
        outcome=outcome,
        kind=kind,
        scope=scope,
        tokens=tokens,
        model_sent=draw(st.sampled_from(["m1", "m2"])),
        cost_nusd=draw(st.sampled_from([None, 7])),
    )
    return spooled(event) if draw(st.booleans()) else event


@st.composite
def logs(draw: st.DrawFn) -> Log:
    """Batches of entries of events, with events that come again in any later place."""
    drawn = draw(st.lists(events(), min_size=1, max_size=12))
    once = [numbered(event, number) for number, event in enumerate(drawn)]
    log = [*once, *draw(st.lists(st.sampled_from(once), max_size=6))]
    batches: Log = []
    while log:
        batch: list[list[RouteEvent]] = []
        for _ in range(draw(st.integers(1, 3))):
            size = draw(st.integers(1, 4))
            entry, log = log[:size], log[size:]
            if entry:
                batch.append(entry)
        batches.append(batch)
    return batches


def numbered(event: RouteEvent, number: int) -> RouteEvent:
    """The event under an id that does not depend on what was drawn before it."""
    event_id = ids.uuid7(event.at_ms, number)
    if isinstance(event, AttemptEnded):
        return msgspec.structs.replace(event, event_id=ids.ended_id(event_id), attempt_id=event_id, request_id="q")
    return msgspec.structs.replace(event, event_id=event_id)


def distinct(log: Sequence[RouteEvent]) -> list[RouteEvent]:
    """Each event where it stands first."""
    return list({event.event_id: event for event in log}.values())


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(logs(), st.lists(st.booleans(), min_size=20, max_size=20))
def test_cutting_a_log_changes_nothing(bench: Bench, batches: Log, restarts: list[bool]) -> None:
    """Batches, duplicates and workers that come anew leave ledger, usage and chain as one fold makes them."""
    bench.redis.flushall()
    empty(bench.postgres)
    projector = bench.new_projector()
    for batch, restart in zip(batches, restarts, strict=False):
        for entry in batch:
            append(bench.redis, entry)
        projector = bench.new_projector() if restart else projector
        projected = projector.project(STREAM)
    log = distinct([event for batch in batches for entry in batch for event in entry])
    whole = msgspec.to_builtins(fold.fold_route(RouteLedger(), log))
    anew = bench.new_projector().project(STREAM)
    for store in bench.stores:
        store.close()
    assert projected is not None
    assert anew is not None
    assert msgspec.to_builtins(projected.ledger) == whole
    assert msgspec.to_builtins(anew.ledger) == whole
    assert usage_in(bench) == usage_of(log)
    bench.check_chain()


def usage_in(bench: Bench) -> dict[Cell, tuple[int, int, int, int]]:
    """Usage as Postgres has it, also of the hours that a ledger no longer keeps."""
    cells = bench.projector.store.usage_since(STREAM, -1, 0)
    return {cell: (usage.attempts, usage.input, usage.cache_write_1h, usage.cost_nusd) for cell, usage in cells}


def usage_of(log: Sequence[RouteEvent]) -> dict[Cell, tuple[int, int, int, int]]:
    """Usage as the events say."""
    cells: dict[Cell, tuple[int, int, int, int]] = {}
    for event in log:
        if isinstance(event, AttemptEnded):
            cell = Cell(event.at_ms // fold.HOUR_MS, event.model_sent, event.client_key)
            attempts, tokens, written, cost = cells.get(cell, (0, 0, 0, 0))
            cells[cell] = (
                attempts + 1,
                tokens + event.tokens.input,
                written + event.tokens.cache_write_1h,
                cost + (event.cost_nusd or 0),
            )
    return cells


GARBAGE = [
    b"no json",
    b'[{"type":"unheard_of","replica":"r1","seq":2,"at_ms":1}]',
    b'[{"type":"unheard_of","replica":"r8","seq":40}]',
]


@st.composite
def troubled(draw: st.DrawFn) -> list[list[bytes]]:
    """Batches of entries: what several replicas wrote, cut anywhere, with garbage and contradictions in between."""
    log = draw(ledger_logs())
    for event in draw(st.lists(st.sampled_from(log), max_size=3)) if log else ():
        log.insert(draw(st.integers(0, len(log))), msgspec.structs.replace(event, at_ms=event.at_ms + 1, seq=99))
    entries = []
    while log:
        size = draw(st.integers(1, 5))
        entries.append(wire.encode_entry(log[:size]))
        log = log[size:]
    for raw in draw(st.lists(st.sampled_from(GARBAGE), max_size=4)):
        entries.insert(draw(st.integers(0, len(entries))), raw)
    batches = []
    while entries:
        size = draw(st.integers(1, 4))
        batches.append(entries[:size])
        entries = entries[size:]
    return batches


def state_in(bench: Bench) -> Any:
    """All that follows from a stream: its ledger as a new worker reads it, its cells, its health."""
    projector = bench.new_projector()
    projected = projector.project(STREAM)
    projector.store.close()
    assert projected is not None
    health = bench.rows("SELECT * FROM ccproxy.route_health ORDER BY replica")
    cells = bench.rows("SELECT * FROM ccproxy.usage_hourly ORDER BY hour, model, client_key")
    return msgspec.to_builtins(projected.ledger), projected.position, [(*row[:4], *row[5:]) for row in cells], health


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(troubled(), st.data())
def test_a_replay_makes_the_same_ledger(bench: Bench, batches: list[list[bytes]], data: st.DataObject) -> None:
    """From its rows a stream is recounted to what stands, with all that was put aside on the way; a rebuild changes
    nothing; and what is appended again, in any order, changes nothing either."""
    bench.redis.flushall()
    empty(bench.postgres)
    projector = bench.new_projector()
    for batch in batches:
        for raw in batch:
            append_raw(bench.redis, raw)
        projector.project(STREAM)
    stands = state_in(bench)
    assert bench.verify().differences == ()
    archive = bench.new_archive()
    rebuild(archive, STREAM)
    archive.close()
    assert state_in(bench) == stands
    for raw in data.draw(st.permutations([raw for batch in batches for raw in batch])):
        append_raw(bench.redis, raw)
    projector.project(STREAM)
    projector.store.close()
    assert state_in(bench) == stands
    assert bench.verify().differences == ()
