"""Whatever Redis does, in whatever order: nothing acknowledged is ever missing from both Redis and disk."""

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.fleet import outbox as rooms
from service.fleet.outbox import Outbox
from service.fleet.spool import read_segment
from service.ledger.events import Event
from service.ledger.fold import acknowledge_seq
from service.ledger.state import Heard
from tests.support.outbox_factories import STREAM, Behaviour, ScriptedPort, clock, started
from tests.support.waiting import wait_until

STEPS = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 6)),
    st.tuples(st.just("usual"), st.sampled_from(["answer", "refuse", "land and fail"])),
    st.tuples(st.just("hear"), st.integers(0, 40)),
    st.tuples(st.just("meanwhile"), st.integers(0, 40)),
    st.tuples(st.just("lose"), st.just(0)),
    st.tuples(st.just("wait"), st.integers(0, 3)),
)


class Bench:
    """An outbox, its Redis, and a ledger that hears what stands on the stream."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = ScriptedPort()
        self.outbox = Outbox(self.port, replica="r1", clock=clock, spool_root=folder)
        self.heard: dict[str, Heard] = {}
        self.hearing: list[asyncio.Task[None]] = []
        self.acknowledged = 0

    async def take(self, step: tuple[str, int | Behaviour]) -> None:
        """One step."""
        match step:
            case ("append", int(number)):
                await asyncio.gather(*(self.outbox.append(STREAM, started()) for _ in range(number)))
                self.acknowledged += number
            case ("usual", "answer" | "refuse" | "land and fail" as usual):
                self.port.usual = usual
            case ("hear", int(number)):
                self.fold(self.port.events()[:number])
                self.hearing.append(asyncio.create_task(self.outbox.discard_acknowledged({STREAM: self.heard})))
                await self.outbox.discard_delivered({STREAM: self.heard})
            case ("meanwhile", int(number)):  # what follows comes while events are discarded
                self.fold(self.port.events()[:number])
                self.hearing.append(asyncio.create_task(self.outbox.discard_delivered({STREAM: self.heard})))
            case ("lose", _):  # an empty Redis in place of the last; the watcher notices
                self.port.entries.clear()
                self.outbox.redis_changed()
            case ("wait", int(number)):
                for _ in range(number):
                    await asyncio.sleep(0)

    def fold(self, events: list[Event]) -> None:
        """A snapshot hears these events."""
        for event in events:
            account = self.heard.get("r1")
            if account is None or not account.has(event.seq):
                acknowledge_seq(self.heard, event)

    def known(self) -> set[int]:
        """The numbers that are somewhere safe: heard, on the stream, or on disk."""
        on_disk = {record.event.seq for path in self.folder.glob("r1/*.spool") for record in read_segment(path)}
        account = self.heard.get("r1", Heard())
        return on_disk | set(self.port.seqs()) | {seq for seq in range(1, account.high + 1) if account.has(seq)}


async def run(steps: list[tuple[str, int | Behaviour]], folder: Path) -> None:
    bench = Bench(folder)
    await bench.outbox.start()
    for step in steps:
        await bench.take(step)
        seqs = [event.seq for event in bench.outbox.unacknowledged(STREAM)]
        kept = set(seqs)
        assert seqs == sorted(kept), "by number, each once"
        assert bench.known() | kept >= set(range(1, bench.acknowledged + 1))
    bench.port.usual = "answer"
    await wait_until(lambda: not bench.outbox.pending and not bench.outbox.away)
    await asyncio.gather(*bench.hearing)
    unheard = {event.seq for event in bench.outbox.unacknowledged(STREAM)}
    assert unheard <= set(bench.port.seqs()), "what no snapshot has heard stands on this Redis"
    assert bench.known() >= set(range(1, bench.acknowledged + 1))
    assert bench.port.most_in_flight <= 1
    await bench.outbox.stop()


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(STEPS, max_size=12), bound=st.sampled_from([3, 10, 1_000]))
def test_nothing_acknowledged_is_ever_lost(steps: list[tuple[str, int | Behaviour]], bound: int) -> None:
    """Refusals, landed failures, another Redis, tidying and a bounded memory, in any order, lose no event."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(rooms, "KEPT_EVENTS", bound)
        patch.setattr(rooms, "BATCH_EVENTS", 4)
        patch.setattr(rooms, "STEP_EVENTS", 1)
        patch.setattr(rooms, "DISK_EVENTS", 3)
        patch.setattr(rooms, "RETRY_S", (0.001,))
        asyncio.run(run(steps, Path(folder)))
