"""A log of the version before failures were kept by client and session, as it wrote it, and the ledger that it folded.

The files in `golden_fold/` are never changed.
"""

from pathlib import Path

import msgspec

from service.ledger import wire
from service.ledger.events import RouteEvent
from service.ledger.state import RouteLedger

FILES = Path(__file__).parent / "golden_fold"


def old_log() -> list[RouteEvent]:
    """The events, in stream order."""
    lines = (FILES / "rules_1.events.jsonl").read_bytes().splitlines()
    return [wire.decode_event(line) for line in lines]  # type: ignore[misc]


def old_ledger() -> RouteLedger:
    """The ledger that was folded from them."""
    return msgspec.json.decode((FILES / "rules_1.ledger.json").read_bytes(), type=RouteLedger)


def as_json(ledger: RouteLedger) -> dict[str, object]:
    """A ledger as it is stored."""
    return msgspec.json.decode(wire.encode_ledger(ledger), type=dict[str, object])
