"""The outbox, on a port that hangs, refuses, and lands what it says has failed."""

import asyncio
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path

import pytest
from msgspec.structs import replace

from service.fleet import outbox as rooms
from service.fleet.outbox import Outbox
from service.fleet.spool import SpoolRecord, adopt, read_segment
from service.ledger.events import Event
from tests.fleet.outbox.conftest import MakeOutbox
from tests.support.outbox_factories import STREAM, ScriptedPort, heard, started
from tests.support.waiting import stays, wait_until


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between tries cost no test its time."""
    monkeypatch.setattr(rooms, "RETRY_S", (0.001, 0.005))


def spooled(tmp_path: Path) -> list[int]:
    """The numbers of the events on disk, in order."""
    return [record.event.seq for path in sorted((tmp_path / "spool").rglob("*.spool")) for record in read_segment(path)]


def numbers(events: Iterable[Event]) -> list[int]:
    return [event.seq for event in events]


async def append_many(outbox: Outbox, number: int, stream: str = STREAM) -> None:
    """So many events at once, from callers of their own."""
    await asyncio.gather(*(outbox.append(stream, started()) for _ in range(number)))


async def test_append_returns_once_the_stream_has_it(make: MakeOutbox) -> None:
    """When `append` has returned, the event stands on the stream, numbered and under the replica's name."""
    port = ScriptedPort()
    outbox = make(port)
    await outbox.start()
    await outbox.append(STREAM, started())
    [event] = port.events()
    assert (event.seq, event.replica, event.spooled) == (1, "r1", False)
    await outbox.stop()


async def test_append_returns_once_the_disk_has_it(make: MakeOutbox, tmp_path: Path) -> None:
    """While the stream is silent, `append` returns when the event is on disk, flagged as spooled."""
    port = ScriptedPort("hang")
    outbox = make(port)
    await outbox.start()
    await outbox.append(STREAM, started())
    assert port.events() == []
    assert spooled(tmp_path) == [1]
    port.release.set()
    await wait_until(lambda: port.seqs() == [1])
    await outbox.stop()


async def test_it_returns_neither_before_the_stream_nor_before_the_disk(
    make: MakeOutbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a silent stream and a slow disk `append` waits: nothing may be relied upon yet."""
    port = ScriptedPort("hang")
    outbox = make(port)
    written = asyncio.Event()
    loop, fsync = asyncio.get_running_loop(), os.fsync

    def slow(handle: int) -> None:
        asyncio.run_coroutine_threadsafe(written.wait(), loop).result(20)
        fsync(handle)

    monkeypatch.setattr(rooms, "ACKNOWLEDGE_S", 0.001)
    monkeypatch.setattr(os, "fsync", slow)
    await outbox.start()
    append = asyncio.create_task(outbox.append(STREAM, started()))
    await wait_until(lambda: outbox.pending and not outbox._to_disk and outbox.queues[STREAM].pending[0].to_disk)
    await stays(lambda: not append.done())
    written.set()
    await append
    port.release.set()
    await outbox.stop()


async def test_numbers_have_no_gap_and_keep_their_order(make: MakeOutbox) -> None:
    """Each stream counts for itself, from 1; the streams hold the numbers in order and without a gap."""
    port = ScriptedPort()
    outbox = make(port)
    await outbox.start()
    await asyncio.gather(append_many(outbox, 300), append_many(outbox, 200, "zai"))
    assert port.seqs() == list(range(1, 301))
    assert port.seqs("zai") == list(range(1, 201))
    await outbox.stop()


async def test_one_append_is_in_flight_and_what_gathers_goes_together(make: MakeOutbox) -> None:
    """However many callers there are, appends never overlap, and the next one takes all that came meanwhile."""
    port = ScriptedPort("hang")
    outbox = make(port)
    await outbox.start()
    first = asyncio.create_task(outbox.append(STREAM, started()))
    await wait_until(lambda: port.in_flight)
    rest = asyncio.gather(append_many(outbox, 50), append_many(outbox, 20, "zai"))
    await asyncio.sleep(0)
    port.release.set()
    await asyncio.gather(first, rest)
    assert port.most_in_flight == 1
    assert [[(name, len(events)) for name, events in entries] for entries in port.tried] == [
        [(STREAM, 1)],
        [(STREAM, 50), ("zai", 20)],
    ]
    await outbox.stop()


async def test_an_entry_has_a_bound(make: MakeOutbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """No entry holds more than the bound, however much has gathered."""
    monkeypatch.setattr(rooms, "BATCH_EVENTS", 7)
    port = ScriptedPort()
    outbox = make(port)
    await outbox.start()
    await append_many(outbox, 50)
    assert max(len(events) for _, events in port.entries) == 7
    assert port.seqs() == list(range(1, 51))
    await outbox.stop()


@pytest.mark.parametrize("doubt", ["refuse", "land and fail"])
async def test_after_a_doubt_it_begins_at_the_oldest(make: MakeOutbox, doubt: str) -> None:
    """After an append of unknown end the oldest event is sent again first; only a landed one stands there twice."""
    port = ScriptedPort("answer", doubt, doubt)  # type: ignore[arg-type]
    outbox = make(port)
    await outbox.start()
    for _ in range(3):
        await outbox.append(STREAM, started())
    await wait_until(lambda: not outbox.pending and not outbox.away)
    landed = port.seqs()
    assert sorted(set(landed)) == [1, 2, 3]
    assert landed[0] == 1
    assert landed[-1] == 3
    assert (len(landed) > 3) == (doubt == "land and fail")
    await outbox.stop()


async def test_without_doubt_nothing_stands_twice(make: MakeOutbox) -> None:
    """Where no append failed or was late, every event stands on its stream once."""
    port = ScriptedPort()
    outbox = make(port)
    await outbox.start()
    await append_many(outbox, 500)
    await outbox.stop()
    assert port.seqs() == list(range(1, 501))


async def test_while_redis_is_away_answers_wait_for_the_disk_alone(make: MakeOutbox, tmp_path: Path) -> None:
    """Known to be away, Redis is not waited for: every event is on disk, and on the stream when Redis is back."""
    port = ScriptedPort()
    port.usual = "refuse"
    outbox = make(port)
    await outbox.start()
    await append_many(outbox, 20)
    await wait_until(lambda: outbox.away)
    await append_many(outbox, 20)
    assert sorted(set(spooled(tmp_path))) == list(range(1, 41))
    port.usual = "answer"
    await wait_until(lambda: not outbox.pending)
    assert sorted(set(port.seqs())) == list(range(1, 41))
    assert all(event.spooled for event in port.events() if event.seq > 20), "it waited, and says so"
    await outbox.stop()


async def test_many_events_are_written_to_disk_in_parts(make: MakeOutbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a loss, all that was kept may go to disk; at once it would hold up requests."""
    monkeypatch.setattr(rooms, "DISK_EVENTS", 3)
    outbox, parts = make(ScriptedPort("refuse")), list[int]()
    write = outbox._spool.append

    def count(records: Sequence[SpoolRecord]) -> None:
        parts.append(len(records))
        write(records)

    monkeypatch.setattr(outbox._spool, "append", count)
    await outbox.start()
    await append_many(outbox, 10)
    await wait_until(lambda: sum(parts) == 10)
    assert max(parts) == 3
    await outbox.stop()


async def test_heard_events_are_let_go_and_the_others_stay(make: MakeOutbox) -> None:
    """What no snapshot has heard is handed out, in order; what one has heard is not kept."""
    outbox = make(ScriptedPort())
    await outbox.start()
    await append_many(outbox, 6)
    assert numbers(outbox.unacknowledged(STREAM)) == [1, 2, 3, 4, 5, 6]
    await outbox.discard_acknowledged(heard(2))
    assert numbers(outbox.unacknowledged(STREAM)) == [3, 4, 5, 6]
    await outbox.discard_acknowledged(heard(5, (3, 3)))
    assert 3 in numbers(outbox.unacknowledged(STREAM)), "a gap was not heard"
    await outbox.discard_acknowledged(heard(9, replica="r2"))
    await outbox.discard_acknowledged({})
    assert 6 in numbers(outbox.unacknowledged(STREAM))
    await outbox.discard_acknowledged(heard(6))
    assert numbers(outbox.unacknowledged(STREAM)) == []
    assert list(outbox.unacknowledged("nobody")) == []
    await outbox.stop()


async def test_the_oldest_event_that_no_snapshot_includes_is_told(make: MakeOutbox) -> None:
    """Of all streams, on them or still on the way: how far behind the workers are, as health says."""
    port = ScriptedPort("answer", "answer", "hang")
    outbox = make(port)
    told = [outbox.oldest_unacknowledged_ms]
    await outbox.start()
    for number, stream in enumerate((STREAM, "zai", STREAM)):
        await outbox.append(stream, replace(started(), at_ms=5_000 + number))
    assert outbox.pending == 1
    for known in ({}, heard(1), heard(1, stream="zai")):
        await outbox.discard_acknowledged(known)
        told.append(outbox.oldest_unacknowledged_ms)
    assert told == [None, 5_000, 5_001, 5_002]
    port.release.set()
    await outbox.stop()


async def test_a_stream_that_redis_has_lost_is_appended_again(make: MakeOutbox) -> None:
    """What no snapshot includes of it, in order, and counted."""
    port = ScriptedPort()
    outbox = make(port)
    await outbox.start()
    await append_many(outbox, 4)
    assert [outbox.has_kept(STREAM, seq) for seq in (0, 1, 4)] == [False, True, True]
    await outbox.discard_acknowledged(heard(2))
    assert [outbox.has_kept(STREAM, seq) for seq in (2, 3)] == [False, True]
    port.entries.clear()
    assert outbox.stream_lost(STREAM) == 2
    await wait_until(lambda: port.seqs() == [3, 4])
    assert outbox.resent == {"redis_replaced": 0, "stream_lost": 2}
    await outbox.discard_acknowledged(heard(4))
    assert not outbox.has_kept(STREAM, 4)
    assert not outbox.has_kept("nobody", 4)
    await outbox.stop()


async def test_another_redis_gets_all_that_was_not_heard(make: MakeOutbox) -> None:
    """When Redis turns out to be another one, every unheard event is appended again, in order, before newer ones."""
    port = ScriptedPort()
    outbox = make(port)
    await outbox.start()
    await append_many(outbox, 5)
    await outbox.discard_acknowledged(heard(2))
    port.entries.clear()
    outbox.redis_changed()
    await outbox.append(STREAM, started())
    await wait_until(lambda: len(port.seqs()) >= 4)
    assert port.seqs() == [3, 4, 5, 6]
    assert outbox.resent == {"redis_replaced": 3, "stream_lost": 0}
    await outbox.stop()


async def test_another_redis_noticed_under_an_append_loses_nothing(make: MakeOutbox) -> None:
    """Redis changing while an append is under way: the kept events go to the new one, and so does the one in flight."""
    port = ScriptedPort("answer", "answer", "hang")
    outbox = make(port)
    await outbox.start()
    await outbox.append(STREAM, started())
    await outbox.append(STREAM, started())
    last = asyncio.create_task(outbox.append(STREAM, started()))
    await wait_until(lambda: port.in_flight)
    port.entries.clear()
    outbox.redis_changed()
    port.release.set()
    await last
    await wait_until(lambda: {1, 2, 3} <= set(port.seqs()) and not outbox.pending)
    assert numbers(outbox.unacknowledged(STREAM)) == [1, 2, 3]
    await outbox.stop()


async def test_an_adopted_spool_goes_up_once_and_goes_when_heard(make: MakeOutbox, tmp_path: Path) -> None:
    """The events of a process that is gone are appended once, as they are, and its folder goes when they were heard."""
    away = ScriptedPort()
    away.usual = "refuse"
    gone = make(away, "gone")
    await gone.start()
    await append_many(gone, 3)
    await gone.stop()
    port = ScriptedPort()
    outbox = make(port, "next")
    await outbox.start()
    assert outbox.streams == {STREAM}, "its snapshot is to be read, whatever routes there are"
    await wait_until(lambda: len(port.seqs()) >= 3)
    await outbox.append(STREAM, started())
    assert [(event.replica, event.seq, event.spooled) for event in port.events()] == [
        ("gone", 1, True),
        ("gone", 2, True),
        ("gone", 3, True),
        ("next", 1, False),
    ]
    await outbox.discard_delivered(heard(2, replica="gone"))
    assert (tmp_path / "spool" / "gone").exists()
    await outbox.discard_delivered(heard(3, replica="gone"))
    assert not (tmp_path / "spool" / "gone").exists()
    await outbox.stop()


async def test_an_adopted_spool_waits_for_redis(make: MakeOutbox, tmp_path: Path) -> None:
    """Adopted while Redis is away, the events are appended once it is back; until heard they stay on disk."""
    away = ScriptedPort()
    away.usual = "refuse"
    gone = make(away, "gone")
    await gone.start()
    await append_many(gone, 3)
    await gone.stop()
    port = ScriptedPort("refuse", "refuse", "refuse")
    outbox = make(port, "next")
    await outbox.start()
    await wait_until(lambda: sorted(port.seqs()) == [1, 2, 3])
    await outbox.stop()
    assert len(adopt(tmp_path / "spool", tmp_path / "own")) == 1, "let go of at the stop, for the next one to adopt"


async def test_memory_is_bounded_while_redis_is_away(
    make: MakeOutbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the bound events lie on disk alone; when Redis is back all of them reach the stream."""
    monkeypatch.setattr(rooms, "KEPT_EVENTS", 10)
    monkeypatch.setattr(rooms, "BATCH_EVENTS", 4)
    port = ScriptedPort()
    port.usual = "refuse"
    outbox = make(port)
    await outbox.start()
    for _ in range(60):
        await outbox.append(STREAM, started())
    await outbox.append(STREAM, started())
    assert outbox.pending <= 12
    assert sorted(set(spooled(tmp_path))) == list(range(1, 62))
    port.usual = "answer"
    await wait_until(lambda: set(port.seqs()) == set(range(1, 62)) and not outbox.away)
    assert len(outbox.queues[STREAM].sent) <= 10
    await outbox.stop()


async def test_memory_is_bounded_while_the_workers_are_away(
    make: MakeOutbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unheard events beyond the bound are on disk; another Redis gets those too."""
    monkeypatch.setattr(rooms, "KEPT_EVENTS", 10)
    port = ScriptedPort()
    outbox = make(port)
    await outbox.start()
    for _ in range(50):
        await outbox.append(STREAM, started())
    await wait_until(lambda: len(list(outbox.unacknowledged(STREAM))) == 10)
    assert sorted(set(spooled(tmp_path))) == list(range(1, 41))
    port.entries.clear()
    outbox.redis_changed()
    await wait_until(lambda: set(port.seqs()) == set(range(1, 51)))
    await outbox.discard_delivered(heard(50))
    assert spooled(tmp_path) == []
    await outbox.stop()


async def test_what_comes_while_the_disk_is_read_back_is_not_left_behind(
    make: MakeOutbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events that arrive while the spool is being read back reach the stream without a further event to push them."""
    monkeypatch.setattr(rooms, "KEPT_EVENTS", 5)
    port = ScriptedPort()
    port.usual = "refuse"
    outbox = make(port)
    await outbox.start()
    for _ in range(20):
        await outbox.append(STREAM, started())
    loop, late = asyncio.get_running_loop(), count()

    def read_slowly(path: Path) -> Iterator[SpoolRecord]:
        for _ in range(0 if next(late) else 12):
            asyncio.run_coroutine_threadsafe(outbox.append(STREAM, started()), loop).result(20)
        yield from read_segment(path)

    monkeypatch.setattr(rooms, "read_segment", read_slowly)
    port.usual = "answer"
    await wait_until(lambda: set(port.seqs()) == set(range(1, 33)) and not outbox.pending)
    await outbox.stop()


async def test_a_full_disk_holds_up_no_answer_and_loses_nothing(
    make: MakeOutbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis away and the disk full: answers go on, events stay in memory beyond its bound, and none is lost."""
    monkeypatch.setattr(rooms, "KEPT_EVENTS", 5)
    port = ScriptedPort()
    port.usual = "refuse"
    outbox = make(port)
    await outbox.start()
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", full)
    for _ in range(30):
        await outbox.append(STREAM, started())
    assert outbox.pending == 30
    assert spooled(tmp_path) == []
    monkeypatch.setattr(os, "fsync", fsync)
    await wait_until(lambda: set(spooled(tmp_path)) == set(range(1, 31)))
    port.usual = "answer"
    await wait_until(lambda: set(port.seqs()) == set(range(1, 31)))
    await outbox.stop()


def full(_handle: int) -> None:
    """A disk that takes nothing."""
    raise OSError(28, "No space left on device")


async def test_stopping_with_a_full_disk_still_stops(
    make: MakeOutbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With neither Redis nor a disk the stop says what it could not write, and ends."""
    port = ScriptedPort()
    port.usual = "refuse"
    outbox = make(port)
    await outbox.start()
    monkeypatch.setattr(os, "fsync", full)
    await outbox.append(STREAM, started())
    await outbox.stop()
    assert "spool.write_failed" in caplog.text


async def test_stop_sends_what_is_pending(make: MakeOutbox) -> None:
    """What has gathered when the process stops still reaches the stream."""
    port = ScriptedPort("hang")
    outbox = make(port)
    await outbox.start()
    appends = asyncio.gather(*(outbox.append(STREAM, started()) for _ in range(5)))
    await wait_until(lambda: port.in_flight)
    stop = asyncio.create_task(outbox.stop())
    port.release.set()
    await asyncio.gather(stop, appends)
    assert port.seqs() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("usual", ["refuse", "hang", "land and hang"])
async def test_stop_spools_what_it_cannot_send(make: MakeOutbox, tmp_path: Path, usual: str) -> None:
    """What does not get through by the limit is on disk when `stop` returns, and every caller has its answer."""
    port = ScriptedPort()
    port.usual = usual  # type: ignore[assignment]
    outbox = make(port)
    await outbox.start()
    appends = [asyncio.create_task(outbox.append(STREAM, started())) for _ in range(5)]
    await wait_until(lambda: port.tried)
    await outbox.stop(limit_s=0.02)
    await asyncio.gather(*appends)
    [orphan] = adopt(tmp_path / "spool", tmp_path / "own")
    assert set(spooled(tmp_path)) == {1, 2, 3, 4, 5}
    orphan.release()


async def test_stop_waits_for_what_is_on_its_way_to_the_disk(make: MakeOutbox, tmp_path: Path) -> None:
    """Events that were handed to the disk and not yet written when the stop comes are written."""
    port = ScriptedPort()
    port.usual = "refuse"
    outbox = make(port)
    await outbox.start()
    await outbox.append(STREAM, started())
    assert outbox.away
    appends = [asyncio.create_task(outbox.append(STREAM, started())) for _ in range(20)]
    await asyncio.sleep(0)  # they are handed over, nothing is written
    await outbox.stop()
    await asyncio.gather(*appends)
    assert set(spooled(tmp_path)) == set(range(1, 22))


async def test_a_caller_that_is_cancelled_loses_no_event(make: MakeOutbox) -> None:
    """The client's going cancels the waiting, not the event."""
    port = ScriptedPort("hang")
    outbox = make(port)
    await outbox.start()
    append = asyncio.create_task(outbox.append(STREAM, started()))
    await wait_until(lambda: port.in_flight)
    append.cancel()
    with pytest.raises(asyncio.CancelledError):
        await append
    port.release.set()
    await wait_until(lambda: port.seqs() == [1])
    await outbox.stop()


async def test_without_redis_events_are_told_and_nothing_is_kept(make: MakeOutbox, tmp_path: Path) -> None:
    """Without a Redis there is no ledger beyond this process: events are numbered and told, and cost no memory."""
    outbox = make(None)
    told: list[tuple[str, Event]] = []
    outbox.listeners.append(lambda stream, event: told.append((stream, event)))
    await outbox.start()
    await append_many(outbox, 3)
    assert [(stream, event.seq, event.replica) for stream, event in told] == [(STREAM, n, "r1") for n in (1, 2, 3)]
    assert outbox.pending == 0
    await outbox.stop()
    assert not (tmp_path / "spool").exists()


async def test_each_event_is_told_before_anybody_waits(make: MakeOutbox) -> None:
    """Listeners are called at once, with the number, so that the view counts what is still on its way."""
    port = ScriptedPort("hang")
    outbox = make(port)
    told: list[int] = []
    outbox.listeners.append(lambda _, event: told.append(event.seq))
    await outbox.start()
    append = asyncio.create_task(outbox.append(STREAM, started()))
    await asyncio.sleep(0)
    assert told == [1]
    port.release.set()
    await append
    await outbox.stop()


async def test_one_stream_that_fails_holds_up_no_other_for_good(make: MakeOutbox) -> None:
    """After a failed append of several streams, all of them get through."""
    port = ScriptedPort("refuse", "land and fail")
    outbox = make(port)
    await outbox.start()
    await asyncio.gather(append_many(outbox, 5), append_many(outbox, 5, "zai"))
    await wait_until(lambda: not outbox.pending)
    assert set(port.seqs()) == set(port.seqs("zai")) == {1, 2, 3, 4, 5}
    await outbox.stop()


async def test_a_disk_that_hangs_at_the_stop_holds_up_nobody(make: MakeOutbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """With Redis away and a disk that never answers, the stop ends, and every caller has its answer."""
    monkeypatch.setattr(rooms, "DISK_LIMIT_S", 0.05)
    let_go = threading.Event()
    monkeypatch.setattr(os, "fsync", lambda _: let_go.wait(20))
    port = ScriptedPort()
    port.usual = "refuse"
    outbox = make(port)
    await outbox.start()
    append = asyncio.create_task(outbox.append(STREAM, started()))
    await wait_until(lambda: outbox.away)
    await outbox.stop()
    await append
    let_go.set()
