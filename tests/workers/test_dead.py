"""The laws of what is put aside: kept, counted, shown, heard, and read again by a version that can."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from service.ledger import wire
from service.ledger.events import BatchItemUsed, Event, RouteReset
from service.ledger.state import RouteLedger
from tests.support.stream_factories import NOON_MS, STREAM, append, append_raw, ended, many, new_id
from tests.workers.conftest import Bench
from workers import cli

Run = Callable[..., tuple[int, str]]


def unread(monkeypatch: pytest.MonkeyPatch, replica: str) -> None:
    """Be an older version, which can't read what this replica writes."""
    original = wire.decode_entry

    def decode_entry(value: bytes) -> list[wire.Decoded]:
        return [unread_by(replica, decoded) for decoded in original(value)]

    monkeypatch.setattr(wire, "decode_entry", decode_entry)


def unread_by(replica: str, decoded: wire.Decoded) -> wire.Decoded:
    """What is left of an event of this replica."""
    if isinstance(decoded, wire.Undecodable) or decoded.replica != replica:
        return decoded
    return wire.Undecodable(wire.encode_event(decoded), "too new")


def counts(bench: Bench) -> list[bytes | None]:
    """What operators read in Redis."""
    return bench.redis.hmget(wire.route_key(STREAM), ["dead", "quarantined"])  # type: ignore[return-value]


def test_what_was_put_aside_is_counted_for_operators(bench: Bench) -> None:
    """Once each, in the route's hash, as soon as the batch is published."""
    event = ended(1)
    append(bench.redis, [event])
    append_raw(bench.redis, b"garbage")
    append_raw(bench.redis, b"garbage")
    bench.new_publisher().publish(bench.project())
    assert counts(bench) == [b"1", b"0"]
    append(bench.redis, [msgspec.structs.replace(event, status=1), msgspec.structs.replace(event, status=2)])
    append_raw(bench.redis, b"other garbage")
    bench.new_publisher().publish(bench.project())
    assert counts(bench) == [b"2", b"2"]


def heard(bench: Bench, replica: str = "r1") -> tuple[int, list[tuple[int, int]]]:
    """How far a replica is heard, and which of its numbers are not, as a new worker has it."""
    projected = bench.new_projector().project(STREAM)
    assert projected is not None
    account = projected.ledger.heard[replica]
    return account.high, account.gaps


def told(seq: int) -> BatchItemUsed:
    """One item of one batch, told under this number."""
    event_id = "01a08a2e-0000-7000-8000-000000000001"
    return BatchItemUsed(event_id=event_id, replica="r1", seq=seq, batch_id="b", custom_id="c", at_ms=NOON_MS + seq)


@pytest.mark.parametrize(
    "aside",
    [
        pytest.param(
            b'[{"type":"unheard_of","event_id":"x","at_ms":1,"replica":"r1","seq":2}]', id="of a newer version"
        ),
        pytest.param(wire.encode_entry([ended(2, model_sent="nul\0")]), id="unfit to be folded"),
        pytest.param(b'[{"type":"attempt_ended","replica":"r1","seq":2,"at_ms":4611686018427387904}]', id="of no time"),
    ],
)
def test_a_dead_letter_is_heard(bench: Bench, aside: bytes) -> None:
    """Its replica need not keep it: it lies safe in Postgres. Also for workers that come later, and proved."""
    append(bench.redis, [ended(1)])
    append_raw(bench.redis, aside)
    append(bench.redis, [ended(3)])
    bench.project()
    assert heard(bench) == (3, [])
    assert bench.verify().ok


def test_a_contradiction_is_heard(bench: Bench) -> None:
    """As is a fact that was told before, under another number; that one is no contradiction."""
    event = ended(1)
    append(bench.redis, [event, told(2)])
    bench.project()
    append(bench.redis, [msgspec.structs.replace(event, status=500, seq=3), told(4), ended(5)])
    assert (bench.project().quarantined, heard(bench)) == (1, (5, []))
    assert bench.verify().ok


def test_a_number_that_cannot_be_read_stays_a_gap(bench: Bench) -> None:
    """Nothing is guessed, and a number out of range closes nothing."""
    append(bench.redis, [ended(1)])
    for raw in (b'[{"replica":"r1","seq":"2"}]', b'[{"replica":"r1","seq":-2}]', b'[{"replica":7,"seq":2}]', b"\xff"):
        append_raw(bench.redis, raw)
    append(bench.redis, [ended(3)])
    bench.project()
    assert heard(bench) == (3, [(2, 2)])


def test_asides_alone_move_the_state(bench: Bench) -> None:
    """A batch of nothing else is heard all the same, once."""
    append(bench.redis, [ended(1)])
    bench.project()
    append_raw(bench.redis, b'[{"type":"unheard_of","replica":"r1","seq":2}]')
    assert bench.project().position == 1
    assert heard(bench) == (2, [])
    assert bench.verify().ok


def old_version_folds(bench: Bench, events: list[Event]) -> None:
    """Fold as a version that can't read what replica `new` writes."""
    with pytest.MonkeyPatch.context() as patch:
        unread(patch, "new")
        append(bench.redis, events)
        bench.new_publisher().publish(bench.project())


def test_a_newer_worker_reads_dead_letters_when_it_first_has_the_stream(bench: Bench) -> None:
    """They are folded in place, once, count for usage and not for health; what stays unreadable stays."""
    broken: dict[str, Any] = {"outcome": "failed", "kind": "server_error", "scope": "provider"}
    append_raw(bench.redis, b"garbage")
    old_version_folds(bench, [*many(2), ended(1, replica="new"), ended(2, replica="new", **broken)])
    assert (bench.attempts(), counts(bench)) == (2, [b"3", b"0"])
    bench.new_shift(bench.new_projector()).fold(STREAM)
    assert (bench.attempts(), counts(bench)) == (4, [b"1", b"0"])
    assert bench.rows("SELECT replica FROM ccproxy.route_health") == [("r1",)]
    snapshot = bench.snapshot()
    assert snapshot is not None
    assert snapshot.position == 4
    bench.new_shift(bench.new_projector()).fold(STREAM)
    assert bench.attempts() == 4
    assert bench.verify().ok


def test_many_dead_letters_are_read_page_by_page(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, a transaction reads a bounded number."""
    monkeypatch.setattr("workers.project.DEAD_LETTERS_PAGE", 2)
    monkeypatch.setattr("workers.project.BATCH_EVENTS", 3)
    old_version_folds(bench, [ended(seq, replica="new") for seq in range(1, 12)])
    first = bench.new_projector().retry_dead_letters(STREAM)
    assert first is not None
    assert (first.position, first.full) == (4, True)
    bench.new_shift(bench.new_projector()).fold(STREAM)
    assert (bench.attempts(), counts(bench)) == (11, [b"0", b"0"])


def test_a_dead_letter_that_came_again_is_counted_once(bench: Bench) -> None:
    """A proxy of the new version appended it again, a new worker folded it; then the dead letter is a duplicate."""
    event = ended(1, replica="new")
    old_version_folds(bench, [event])
    append(bench.redis, [event])
    bench.new_shift(bench.new_projector()).fold(STREAM)
    assert (bench.attempts(), counts(bench)) == (1, [b"0", b"0"])
    assert bench.verify().ok


def test_the_command_shows_and_replays(bench: Bench, command: Run) -> None:
    """A table, JSON, and a sentence for each stream."""
    assert "There are no dead letters" in command(cli.ledger, "dead")[1]
    assert command(cli.ledger, "dead", "replay") == (0, "There are no dead letters.\n")
    append_raw(bench.redis, b"garbage")
    old_version_folds(bench, [ended(1, replica="new")])
    status, output = command(cli.ledger, "dead")
    assert (status, "too new" in output, "garbage" in output) == (0, True, True)
    rows = json.loads(command(cli.ledger, "dead", "--json", "--limit", "1", "--stream", STREAM)[1])
    assert [row["kind"] for row in rows] == ["dead"]
    assert command(cli.ledger, "dead", "replay") == (0, f"{STREAM}: 1 folded, 1 left\n")
    assert (bench.attempts(), counts(bench)) == (1, [b"1", b"0"])


def test_a_reset_that_an_older_worker_put_aside_is_folded_by_a_newer_one(bench: Bench) -> None:
    """In a mixed fleet it comes late: what is newer than the reset stays, what is older is forgotten."""
    wait: dict[str, Any] = {"outcome": "failed", "kind": "throttle", "scope": "throttle", "status": 429}
    reset = RouteReset(event_id=new_id(NOON_MS + 5), at_ms=NOON_MS + 5, replica="new", seq=1)
    later = ended(2, at_ms=NOON_MS + 600_000, account="a2", fold_rules=2, **wait)
    old_version_folds(bench, [ended(1, account="a1", fold_rules=2, **wait), reset, later])
    assert (held(bench), counts(bench)) == (["messages/a1/throttle", "messages/a2/throttle"], [b"1", b"0"])
    bench.new_shift(bench.new_projector()).fold(STREAM)
    assert (held(bench), counts(bench)) == (["messages/a2/throttle"], [b"0", b"0"])
    assert bench.verify().ok


def held(bench: Bench) -> list[str]:
    """The cool-downs of the published ledger."""
    snapshot = bench.snapshot()
    assert snapshot is not None
    ledger = wire.decode_ledger(STREAM, snapshot.ledger)
    assert isinstance(ledger, RouteLedger)
    return sorted(ledger.waits)
