"""Faults planted on purpose: each takes one protection out of the real code, and the simulation has to notice."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

from service.fleet.outbox import Outbox, QueuedEvent, acknowledge
from service.ledger.events import PriceChange, ResourceUsed, TokenCounts
from service.ledger.state import Ledger, ResourceTotal, Usage
from service.ledger.usage_lines import plus
from tests.simulation.redis_model import Data
from workers.consume import EntryBatch, StreamSource, read_batch
from workers.project import Projected, Projector, SortedBatch
from workers.store import Checkpoint


def checkpoint_outside(projector: Projector, stream: str, step: Any) -> Projected | None:
    """Rows and projections are committed first, and the checkpoint in a transaction of its own."""
    store, late = projector.store, list[Checkpoint]()
    with patch.object(store, "save_checkpoint", late.append):
        projected = in_turn(projector, stream, step)
    for checkpoint in late:
        with store.transaction():
            store.lock_checkpoint(stream)
            store.save_checkpoint(checkpoint)
    return projected


in_turn = Projector._with_lock


def everything_is_fresh(
    _projector: Projector, _checkpoint: Checkpoint, _ledger: Ledger, records: list[Any]
) -> SortedBatch:
    """No event was ever seen before."""
    return SortedBatch(records, [], [])


def trim_by_length(data: Data, events_key: str, _stream_id: str, kept: int) -> None:
    """The newest entries stay, folded or not; the rest goes."""
    data.xtrim(events_key, maxlen=kept)


def same_epoch(streams: StreamSource, stream: str, run_id: str, stream_id: str) -> EntryBatch:
    """Another run of Redis is read, and nobody is told that it is another."""
    batch = read_batch(streams, stream, run_id, stream_id)
    return batch._replace(replaced=batch.replaced and not run_id)


def kept_is_forgotten(_outbox: Outbox, *, is_first: bool = False) -> None:
    """Redis is another one, and nothing is appended again."""


async def promised_too_early(outbox: Outbox, batch: dict[str, list[QueuedEvent]]) -> None:
    """Callers are told before the append, not after it."""
    for part in batch.values():
        for kept in part:
            acknowledge(kept)
    await send(outbox, batch)


def whole_total(total: ResourceTotal, event: ResourceUsed) -> TokenCounts:
    """Each reading of a running total is booked as if nothing had been read before."""
    return plus(total.booked, event.tokens)


def price_beside_the_old(change: PriceChange) -> Usage:
    """A new price counts beside the one before."""
    return Usage(cost_nusd=change.cost_nusd or 0)


send = Outbox._send

Switch = Callable[[], contextlib.AbstractContextManager[Any]]
FAULTS: dict[str, list[Switch]] = {
    "checkpoint-outside-the-transaction": [lambda: patch.object(Projector, "_with_lock", checkpoint_outside)],
    "dedupe-removed": [
        lambda: patch.object(Projector, "_sort", everything_is_fresh),
        lambda: patch("tests.simulation.postgres_model.Database.unique_ids", new=False),
    ],
    "trim-by-maxlen": [lambda: patch("tests.simulation.redis_model.trim_rule", trim_by_length)],
    "overlay-without-heard": [lambda: patch("service.fleet.overlay.has_heard", lambda *_: False)],
    "publish-without-its-fence": [lambda: patch("tests.simulation.redis_model.fence_rule", lambda *_: 1)],
    "epoch-not-raised": [lambda: patch("workers.project.read_batch", same_epoch)],
    "checkpoint-not-locked": [lambda: patch("tests.simulation.postgres_model.Database.holder", lambda *_: None)],
    "nothing-appended-again": [lambda: patch.object(Outbox, "redis_changed", kept_is_forgotten)],
    "totals-booked-as-usage": [lambda: patch("service.ledger.running_totals.highest_with", whole_total)],
    "prices-added-up": [lambda: patch("service.ledger.fold.difference_of", price_beside_the_old)],
    "promised-before-it-is-appended": [lambda: patch.object(Outbox, "_send", promised_too_early)],
}
"""By name, what is changed in the code. What Postgres and Lua do for us is changed in their models."""


@contextlib.contextmanager
def planted(name: str | None) -> Iterator[None]:
    """The code with this fault, or without any."""
    with contextlib.ExitStack() as stack:
        for switch in FAULTS[name] if name else ():
            stack.enter_context(switch())
        yield
