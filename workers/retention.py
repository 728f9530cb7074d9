"""Drops event weeks older than the retention period, and saves closing balances for them.

What was folded from them stays: a closing balance per stream (position, hash, state, cells), from which `verify` and
`rebuild` start. Each week is dropped in one transaction. Operators' events are never dropped. Not here: rejecting late
events of a dropped week (`project`, by the checkpoint's `kept_from`).

An event belongs to the week of its id, which may be long before it was folded: a balance extends to the last position
in the week, and so also covers earlier rows of other weeks.
"""

import logging
import time
from collections.abc import Callable

import psycopg

from service.ledger import wire
from workers.archive import Archive
from workers.recount import Recount
from workers.store import EPOCH_MONDAY_MS, WEEK_MS, first_id, week_of_partition

log = logging.getLogger("ccproxy.worker")


class Damaged(Exception):
    """A stream's rows differ from what was folded; they are kept as evidence."""


def expired_weeks(weeks: list[int], keep_weeks: int, now_ms: int) -> list[int]:
    """Return the weeks that ended at least `keep_weeks` weeks ago; none if that is 0."""
    first_kept = (now_ms - EPOCH_MONDAY_MS) // WEEK_MS - keep_weeks
    return sorted(week for week in weeks if week < first_kept) if keep_weeks else []


class Retention:
    """Drops expired weeks on each call of `look`."""

    def __init__(
        self, open_archive: Callable[[], Archive], keep_weeks: int, clock: Callable[[], float] = time.time
    ) -> None:
        self.open_archive = open_archive
        self.keep_weeks = keep_weeks
        self._clock = clock

    def drop_expired(self) -> list[str]:
        """Drop all expired weeks and return their partitions. Raises psycopg.Error, Damaged."""
        if not self.keep_weeks:
            return []
        archive = self.open_archive()
        try:
            names = {week_of_partition(name): name for name in archive.partitions()}
            weeks = expired_weeks(list(names), self.keep_weeks, int(self._clock() * 1000))
            return [names[week] for week in weeks if drop_week(archive, week, names[week])]
        finally:
            archive.close()


def drop_week(archive: Archive, week: int, partition: str) -> bool:
    """Save closing balances for a week and drop it; False if another process does, or has done so."""
    table = f"ccproxy.{partition}"
    try:
        recounts = recount_streams(archive, table)
    except psycopg.errors.UndefinedTable:
        return False
    with archive.connection.transaction():
        if not archive.lock_retention() or partition not in archive.partitions():
            return False
        for stream in archive.await_all_checkpoints():
            last = archive.last_position(stream, table) if stream != wire.CONTROL else 0
            if last:
                close_stream(archive, recounts.get(stream) or Recount(archive, stream), last)
        archive.drop_partition(partition, first_id(week + 1))
    log.info("retention.dropped", extra={"partition": partition})
    return True


def recount_streams(archive: Archive, table: str) -> dict[str, Recount]:
    """Recount the streams with rows in a partition up to the last of them, mostly before any lock is taken."""
    recounts = {}
    for stream in archive.streams():
        last = archive.last_position(stream, table) if stream != wire.CONTROL else 0
        if last:
            recounts[stream] = Recount(archive, stream)
            recounts[stream].read(last)
    return recounts


def close_stream(archive: Archive, recount: Recount, last: int) -> None:
    """Save a stream's balance as of a position, or as of the last balance if that is later."""
    if last > recount.position:
        recount.read(last)
    if recount.position < last or recount.faults:
        place, stands, _ = recount.faults[0] if recount.faults else ("its last rows", "missing", "")
        raise Damaged(f"stream {recount.stream}: {place}: {stands}; run `ccproxy ledger verify`")
    archive.close_stream(recount.stream, recount.balance)
