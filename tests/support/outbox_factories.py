"""Events, and a stream port that does as it is told: hangs, refuses, lands and then times out, answers late."""

import asyncio
from collections import deque
from collections.abc import Sequence
from itertools import count
from typing import Literal

from redis.exceptions import ConnectionError as RedisConnectionError

from service.fleet.clock import Clock
from service.fleet.spool import SpoolRecord
from service.ledger.events import AttemptEnded, AttemptStarted, Event
from service.ledger.state import Heard
from service.ledger.wire import decode_entry

Behaviour = Literal["answer", "refuse", "land and fail", "hang", "land and hang"]
STREAM = "anthropic"

clock = Clock()
numbers = count(1)


def started(*, replica: str = "", seq: int = 0) -> AttemptStarted:
    """An attempt begins."""
    number = next(numbers)
    return AttemptStarted(
        event_id=clock.new_id(), at_ms=clock.now_ms(), request_id=f"q-{number}", replica=replica, seq=seq
    )


def ended() -> AttemptEnded:
    """An attempt has ended well."""
    at_ms = clock.now_ms()
    return AttemptEnded(
        event_id=clock.new_id(),
        at_ms=at_ms,
        attempt_id=clock.new_id(),
        request_id="q",
        started_at_ms=at_ms,
        outcome="ok",
    )


def record(seq: int, *, stream: str = STREAM, replica: str = "r1") -> SpoolRecord:
    """A record of the spool."""
    return SpoolRecord(stream, started(replica=replica, seq=seq))


def heard(high: int, *gaps: tuple[int, int], stream: str = STREAM, replica: str = "r1") -> dict[str, dict[str, Heard]]:
    """What a snapshot of one stream has heard of one replica."""
    return {stream: {replica: Heard(high=high, gaps=list(gaps))}}


class ScriptedPort:
    """The streams in memory. Each append takes the next behaviour of the script, else `usual`."""

    def __init__(self, *script: Behaviour) -> None:
        self.script = deque(script)
        self.usual: Behaviour = "answer"
        self.entries: list[tuple[str, list[Event]]] = []
        self.tried: list[list[tuple[str, list[Event]]]] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.release = asyncio.Event()

    async def append(self, entries: Sequence[tuple[str, bytes]]) -> None:
        """As the script says; a hanging append goes on when `release` is set."""
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await self._append([(stream, events_of(value)) for stream, value in entries])
        finally:
            self.in_flight -= 1

    async def _append(self, entries: list[tuple[str, list[Event]]]) -> None:
        behaviour = self.script.popleft() if self.script else self.usual
        self.tried.append(entries)
        await asyncio.sleep(0)
        if behaviour == "refuse":
            raise RedisConnectionError("refused")
        if behaviour in ("land and fail", "land and hang"):
            self.entries += entries
        if behaviour in ("hang", "land and hang"):
            await self.release.wait()
        if behaviour == "land and fail":
            raise RedisConnectionError("timed out")
        if behaviour != "land and hang":
            self.entries += entries

    def events(self, stream: str = STREAM) -> list[Event]:
        """All that stands on a stream, in its order."""
        return [event for name, events in self.entries if name == stream for event in events]

    def seqs(self, stream: str = STREAM) -> list[int]:
        """Their numbers."""
        return [event.seq for event in self.events(stream)]


def events_of(value: bytes) -> list[Event]:
    """An entry's events; each must be decodable, and all of one replica."""
    decoded = decode_entry(value)
    events = [event for event in decoded if not hasattr(event, "reason") or hasattr(event, "event_id")]
    assert len(events) == len(decoded)
    found: list[Event] = events  # type: ignore[assignment]
    assert len({event.replica for event in found}) == 1
    return found
