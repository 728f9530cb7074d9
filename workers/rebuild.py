"""Makes a stream's projections anew from its event rows and puts them in the place of the live ones, under traffic.

Most is read without any lock; only what came meanwhile is read, and the cells that differ are written, while the
checkpoint is ours. The epoch rises, which tells workers to forget what they hold in memory, and proxies to take the
snapshot. Not here: telling the proxies (`publish`), and judging the rows (`verify`): faulty ones are refused unless the
operator insists.
"""

from typing import NamedTuple

from workers.archive import Archive
from workers.project import state_of
from workers.recount import Fault, Progress, Recount

NEAR_ROWS = 2_000
"""So few rows are read under the lock; what came in before is read without."""
MOST_ROUNDS = 20
"""Traffic that comes in faster than it is recounted has to wait in the end."""


class Rebuilt(NamedTuple):
    """A stream whose projections were made anew, or were not because of these faults."""

    stream: str
    events: int
    epoch: int
    faults: tuple[Fault, ...] = ()


def rebuild(archive: Archive, stream: str, progress: Progress = lambda _: None, *, force: bool = False) -> Rebuilt:
    """Rebuild a stream's projections. Raises psycopg.Error, and LookupError when there is no such stream."""
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
        dead, quarantined = archive.put_aside_counts(stream)
        # With `force`, what is missing stays missing: the chain goes on from the checkpoint's own place and hash.
        after = before._replace(
            epoch=before.epoch + 1, state=state_of(recount.ledger), dead=dead, quarantined=quarantined
        )
        archive.save_checkpoint(after)
    return Rebuilt(stream, recount.events, after.epoch)
