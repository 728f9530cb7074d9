"""Verifies the projections: recounts everything from the event rows and lists the differences.

It reads each stream from one snapshot of the database, so that it is exact under traffic, and changes nothing. Not
here: repair (`rebuild`) and output (`terminal_views`).
"""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from service.ledger import wire
from service.ledger.state import Usage
from workers.archive import Archive, CellDifference
from workers.project import state_of
from workers.recount import Progress, Recount
from workers.store import USAGE_FIELDS, Checkpoint

MOST_DIFFERENCES = 50
"""Maximum listed per stream and kind; the count covers all."""
LONGEST = 200
"""Maximum characters shown of a value."""


class Difference(Struct, frozen=True):
    """A difference from the recount. `what`: event, checkpoint, usage, health, state or count."""

    what: str
    name: str
    stands: str
    should: str


class StreamReport(Struct, frozen=True):
    """Findings for one stream. Events up to `from_position` are covered by the closing balance alone."""

    stream: str
    from_position: int
    position: int
    events: int
    differences: tuple[Difference, ...]
    more: int = 0

    @property
    def ok(self) -> bool:
        """True if there are no findings."""
        return not self.differences


def verify(archive: Archive, stream: str, progress: Progress = lambda _: None) -> StreamReport:
    """Recount a stream and compare. Raises psycopg.Error."""
    with archive.snapshot():
        checkpoint = archive.checkpoint(stream)
        recount = Recount(archive, stream)
        last = max(archive.last_position(stream), checkpoint.position if checkpoint else 0)
        recount.read(last, progress)
        recount.expect(last)
        found = list(differences_of(archive, recount, checkpoint))
    faults = [Difference("event", *fault) for fault in recount.faults]
    differences = (*faults[:MOST_DIFFERENCES], *found)
    return StreamReport(
        stream=stream,
        from_position=recount.began_at,
        position=recount.position,
        events=recount.events,
        differences=differences,
        more=recount.fault_count - len(faults[:MOST_DIFFERENCES]),
    )


def differences_of(archive: Archive, recount: Recount, checkpoint: Checkpoint | None) -> Iterator[Difference]:
    """Yield the projections that differ from the recount."""
    stream = recount.stream
    if checkpoint is None:
        yield Difference("checkpoint", stream, "missing", f"position {recount.position}")
        return
    if checkpoint.position < recount.position:
        yield Difference("checkpoint", "position", str(checkpoint.position), str(recount.position))
    elif checkpoint.position == recount.position and checkpoint.hash != recount.hash:
        yield Difference("checkpoint", "hash", checkpoint.hash.hex(), recount.hash.hex())
    for cell in archive.usage_differences(stream, MOST_DIFFERENCES):
        yield usage_difference(cell)
    yield from entries_that_differ("health", plain(archive.health(stream)), plain(recount.health))
    yield from state_differences(stream, checkpoint.state, state_of(recount.ledger))
    counts = zip(("dead", "quarantined"), checkpoint[6:8], archive.set_aside_counts(stream), strict=True)
    for name, stands, should in counts:
        if stands != should:
            yield Difference("count", name, str(stands), str(should))


def usage_difference(cell: CellDifference) -> Difference:
    """Return the counts in which a cell differs."""
    name = f"{cell.hour} {cell.model or '(no model)'} {cell.client_key or '(no key)'}"
    if cell.stored is None or cell.expected is None:
        return Difference("usage", name, counts_of(cell.stored, USAGE_FIELDS), counts_of(cell.expected, USAGE_FIELDS))
    fields = [field for field in USAGE_FIELDS if getattr(cell.stored, field) != getattr(cell.expected, field)]
    return Difference("usage", name, counts_of(cell.stored, fields), counts_of(cell.expected, fields))


def counts_of(usage: Usage | None, fields: list[str] | tuple[str, ...]) -> str:
    """Format some counts of a cell; omits zeros if all are requested."""
    if usage is None:
        return "missing"
    counts = [
        f"{field}={getattr(usage, field)}" for field in fields if fields is not USAGE_FIELDS or getattr(usage, field)
    ]
    return " ".join(counts) or "all 0"


def state_differences(stream: str, stands: bytes, should: bytes) -> Iterator[Difference]:
    """Yield the differences of the checkpoint's state, part by part."""
    try:
        ledger = wire.decode_state(stream, stands)
    except (msgspec.DecodeError, wire.NewerState) as error:
        yield Difference("state", "whole", f"unreadable: {error}", "a ledger")
        return
    parts, others = plain(ledger), plain(wire.decode_state(stream, should))
    for part in sorted(parts.keys() | others.keys()):
        part_found, part_expected = parts.get(part), others.get(part)
        if isinstance(part_found, dict) or isinstance(part_expected, dict):
            yield from entries_that_differ("state", part_found or {}, part_expected or {}, prefix=f"{part} ")
        elif part_found != part_expected:
            yield Difference("state", part, shown(part_found), shown(part_expected))


def entries_that_differ(
    what: str, stands: dict[str, Any], should: dict[str, Any], prefix: str = ""
) -> Iterator[Difference]:
    """Yield the first few entries in which two mappings differ."""
    names = [name for name in sorted(stands.keys() | should.keys()) if stands.get(name) != should.get(name)]
    for name in names[:MOST_DIFFERENCES]:
        yield Difference(what, f"{prefix}{name}", shown(stands.get(name)), shown(should.get(name)))


def plain(value: Any) -> dict[str, Any]:
    """Return a value as JSON would represent it, so that order does not matter."""
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(value))
    return found


def shown(value: Any) -> str:
    """Format a value for people."""
    if value is None:
        return "missing"
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
