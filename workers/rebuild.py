"""Rebuilds a stream's projections from its event rows and swaps them in, under traffic.

Most rows are read without a lock; only the newest rows are read, and only differing cells written, while the checkpoint
is locked. The epoch rises, so that workers discard their cached ledgers and proxies accept the snapshot. Not here:
publishing (`publish`) and verification (`verify`): faulty rows are refused unless forced.
"""

from typing import NamedTuple

from workers.archive import Archive
from workers.project import state_of
from workers.recount import Fault, Progress, Recount

NEAR_ROWS = 2_000
"""At most so many rows are read under the lock; those before are read without it."""
MOST_ROUNDS = 20
"""After so many rounds, traffic that outpaces the recount has to wait for the lock."""


class Rebuilt(NamedTuple):
    """Result of a rebuild; not done if there are faults and it was not forced."""

    stream: str
    events: int
    epoch: int
    faults: tuple[Fault, ...] = ()


def rebuild(archive: Archive, stream: str, progress: Progress = lambda _: None, *, force: bool = False) -> Rebuilt:
    """Rebuild a stream's projections. Raises psycopg.Error, and LookupError if there is no such stream."""
    recount = Recount(archive, stream)
    for _ in range(MOST_ROUNDS):
        last = archive.last_position(stream)
        recount.read(last, progress)
        if archive.last_position(stream) - recount.position <= NEAR_ROWS:
            break
    with archive.connection.transaction():
        before = archive.await_checkpoint(stream)
        if before is None:
            raise LookupError(stream)
        recount.read(before.position, progress)
        recount.expect(before.position)
        if recount.faults and not force:
            return Rebuilt(stream, recount.events, before.epoch, tuple(recount.faults))
        archive.swap(stream, recount.health)
        dead, quarantined = archive.set_aside_counts(stream)
        # With `force`, missing rows stay missing: the chain continues from the checkpoint's position and hash.
        after = before._replace(
            epoch=before.epoch + 1, state=state_of(recount.ledger), dead=dead, quarantined=quarantined
        )
        archive.save_checkpoint(after)
    return Rebuilt(stream, recount.events, after.epoch)
