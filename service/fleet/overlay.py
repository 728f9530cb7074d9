"""Snapshot plus overlay: ledgers as of now, made of what was published and of the events that it has not heard.

The law, per stream: the result is fold(snapshot, events that are not in its `heard`, by number). A reset of a route,
which all read on the operators' stream, holds before workers have folded it. Pure: who calls hands in what Redis has
answered. Not here: reading Redis (`snapshots` in a proxy, `control_stream` outside of one).
"""

from collections.abc import Collection, Iterable, Iterator, Mapping

import msgspec

from service.ledger.events import ControlEvent, Event, RouteReset
from service.ledger.fold import advance, forget, reset
from service.ledger.state import ControlLedger, Ledger, RouteLedger
from service.ledger.wire import ENTRY_FIELD, Snapshot, decode_entry, decode_ledger, entry_order
from service.routing.view import View

Entries = Iterable[tuple[bytes, Mapping[bytes, bytes]]]
"""The entries that XRANGE returns."""
FIRST = "0-0"
STEP_EVENTS = 200
"""Events folded without a pause: about a millisecond."""


class ControlOverlay:
    """The operators' ledger as of now: a snapshot, and the entries of the operators' stream behind it."""

    def __init__(self) -> None:
        self.ledger = ControlLedger()
        self._folded_to = FIRST
        self._read_to = ""
        self._events: list[tuple[str, ControlEvent]] = []

    @property
    def unread(self) -> str:
        """The start of XRANGE for the entries that were not added yet."""
        return f"({self._read_to or self._folded_to}"

    def take(self, snapshot: Snapshot, ledger: ControlLedger) -> None:
        """Go on from this snapshot, of which `ledger` is the content."""
        folded = entry_order(snapshot.stream_id)
        self._events = [(entry, event) for entry, event in self._events if entry_order(entry) > folded]
        overlay(ledger, [event for _, event in self._events])
        self.ledger, self._folded_to = ledger, snapshot.stream_id

    def add(self, entries: Entries) -> None:
        """Fold these entries, the next ones of the stream."""
        for entry, fields in entries:
            self._read_to = entry.decode()
            decoded = decode_entry(fields.get(ENTRY_FIELD.encode(), b""))
            events = [event for event in decoded if isinstance(event, ControlEvent)]
            self._events += [(self._read_to, event) for event in events]
            overlay(self.ledger, events)

    def restart(self, snapshot: Snapshot | None) -> None:
        """Begin anew at the first entry of another Redis's stream, on top of a snapshot."""
        found = ledger_in(snapshot) if snapshot else None
        self.ledger = found if isinstance(found, ControlLedger) else ControlLedger()
        self._events, self._read_to = [], FIRST


def overlay(ledger: Ledger, events: Collection[Event], reset_ms: int = 0) -> None:
    """Fold the events that the ledger has not heard into it, by number.

    `reset_ms` is the last reset of a route, which its snapshot may not know yet: what that holds is forgotten. If it is
    one of the events, it is folded at its own place instead.
    """
    for _ in overlay_in_steps(ledger, events, reset_ms):
        pass


def overlay_in_steps(ledger: Ledger, events: Collection[Event], reset_ms: int = 0) -> Iterator[None]:
    """Do the same as `overlay`, and yield after each STEP_EVENTS: more of them would hold up all requests of a
    process."""
    if reset_ms and any(is_reset(event, reset_ms) and not has_heard(ledger, event) for event in events):
        reset_ms = 0
    for number, event in enumerate(events, 1):
        if not has_heard(ledger, event):
            if event.at_ms > reset_ms:
                forget_until(ledger, reset_ms)
            advance(ledger, event)
        if not number % STEP_EVENTS:
            yield
    forget_until(ledger, reset_ms)


def is_reset(event: Event, at_ms: int) -> bool:
    """True for a reset of a route at this time or later."""
    return isinstance(event, RouteReset) and event.at_ms >= at_ms


def has_heard(ledger: Ledger, event: Event) -> bool:
    """True if the ledger has folded an event, told by its number."""
    account = ledger.heard.get(event.replica)
    return account is not None and account.has(event.seq)


def forget_until(ledger: Ledger, reset_ms: int) -> None:
    """Reset a route that does not know of this reset yet."""
    if isinstance(ledger, RouteLedger) and reset_ms > ledger.reset_ms:
        forget(ledger, reset_ms, reset_ms)


def apply_resets(routes: Mapping[str, RouteLedger], resets: Mapping[str, int]) -> None:
    """Reset the routes that operators have reset since, as the fold will when the reset is on the route's stream."""
    for route_id, at_ms in resets.items():
        ledger = routes.get(route_id)
        if ledger is not None and at_ms > ledger.reset_ms:
            reset(ledger, at_ms)


def ledger_in(snapshot: Snapshot) -> Ledger | None:
    """The ledger of a snapshot; None when another version wrote it, as if nothing was published yet."""
    try:
        return decode_ledger(snapshot.stream, snapshot.ledger)
    except msgspec.DecodeError:
        return None


def view_of(snapshots: Iterable[Snapshot], control: ControlLedger) -> View:
    """The view of one who has no events of his own: the routes as published, and the operators' ledger as of now."""
    ledgers = {snapshot.stream: ledger_in(snapshot) for snapshot in snapshots}
    routes = {stream: ledger for stream, ledger in ledgers.items() if isinstance(ledger, RouteLedger)}
    return View(routes=routes, control=control)


def age_of(snapshot: Snapshot) -> tuple[int, int, tuple[int, int]]:
    """The order of a stream's snapshots, the newest last; `publish.lua` has the same."""
    return snapshot.epoch, snapshot.position, entry_order(snapshot.stream_id)
