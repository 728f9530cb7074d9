"""Drops whole weeks of events that are older than the operator wants to keep, and closes the books on them.

What was folded from them stays: a closing balance for each stream (position, hash, state, cells), from which `verify`
and `rebuild` begin. All of one week happens in one transaction, or nothing. Operators' events are never dropped. Not
here: refusing events that come later for a dropped week (`project` does, by the checkpoint's `kept_from`).

An event lies in the week of its id, which may be long before it was folded: a balance reaches to the last position that
the week has, and rows of other weeks before it are from then on covered by the balance too.
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
    """A stream's rows are not what was folded; they are evidence, and are not dropped."""


def expired_weeks(weeks: list[int], keep_weeks: int, now_ms: int) -> list[int]:
    """The weeks that ended at least `keep_weeks` weeks ago; none when that is 0."""
    first_kept = (now_ms - EPOCH_MONDAY_MS) // WEEK_MS - keep_weeks
    return sorted(week for week in weeks if week < first_kept) if keep_weeks else []


class Retention:
    """Drops what is expired when it is told to look."""

    def __init__(self, opens: Callable[[], Archive], keep_weeks: int, clock: Callable[[], float] = time.time) -> None:
        self.opens = opens
        self.keep_weeks = keep_weeks
        self._clock = clock

    def look(self) -> list[str]:
        """Drop all weeks that are expired; their partitions. Raises psycopg.Error, Damaged."""
        if not self.keep_weeks:
            return []
        archive = self.opens()
        try:
            names = {week_of_partition(name): name for name in archive.partitions()}
            weeks = expired_weeks(list(names), self.keep_weeks, int(self._clock() * 1000))
            return [names[week] for week in weeks if drop_week(archive, week, names[week])]
        finally:
            archive.close()


def drop_week(archive: Archive, week: int, partition: str) -> bool:
    """Close the books on a week and drop it; False when another process is at it, or has done it."""
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
    log.info("retention.dropped partition=%s", partition)
    return True


def recount_streams(archive: Archive, table: str) -> dict[str, Recount]:
    """Recount what has rows in a partition, up to the last of them: nearly all is read before any lock is taken."""
    recounts = {}
    for stream in archive.streams():
        last = archive.last_position(stream, table) if stream != wire.CONTROL else 0
        if last:
            recounts[stream] = Recount(archive, stream)
            recounts[stream].read(last)
    return recounts


def close_stream(archive: Archive, recount: Recount, last: int) -> None:
    """Write down the balance of a stream as of a position, or as of the last balance where that lies behind it."""
    if last > recount.position:
        recount.read(last)
    if recount.position < last or recount.faults:
        place, stands, _ = recount.faults[0] if recount.faults else ("its last rows", "missing", "")
        raise Damaged(f"stream {recount.stream}: {place}: {stands}; run `ccproxy ledger verify`")
    archive.close_stream(recount.stream, recount.balance)
