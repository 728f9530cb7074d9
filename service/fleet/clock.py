"""Fleet time and new ids. The only place in the service that reads a clock for events.

Fleet time is Redis TIME, sampled on connect and each minute, advanced by the local monotonic clock; until the first
sample it is local time.

Rules
- The first sample is adopted as it is, even backwards, as long as no id was made.
- After that time never goes back. A clock that is behind steps forward, or is slewed if the difference is small.
- A clock that is ahead is slewed; one that is far ahead runs at half speed, so that waits still end (a day's difference
  takes two; a restart adopts the right time at once).
"""

import os
import time
from datetime import UTC, datetime

from service.ledger.ids import REQUEST_TIME_DIGITS, uuid7

NS_PER_MS = 1_000_000
SLEW_RATIO = 0.1
"""Maximum slew: fleet time runs at most a tenth faster or slower."""
STEP_MS = 1_000
"""A clock behind by more than this steps forward: waits and circuits need the right minute."""
LEAD_RATIO = 0.5
"""Slowdown of a clock that is ahead by more than STEP_MS."""
LAST_MS = 253_402_300_799_000
"""The end of the year 9999, the last that Python's datetime supports."""


class Clock:
    """Unix time in milliseconds, the same in all processes of the fleet."""

    def __init__(self) -> None:
        self._ahead_of_monotonic_ms = time.time() * 1000 - time.monotonic_ns() / NS_PER_MS
        """Fleet time minus the monotonic clock."""
        self._behind_ms = 0.0
        self._slewed_at_ms = 0.0
        """On the monotonic clock."""
        self._sampled = False
        self._made_ids = False

    @property
    def ahead_ms(self) -> float:
        """Return the milliseconds by which fleet time is still ahead of Redis."""
        return max(0.0, -self._behind_ms)

    def now_ms(self) -> int:
        """Return fleet time."""
        monotonic_ms = time.monotonic_ns() / NS_PER_MS
        if self._behind_ms:
            self._slew(monotonic_ms)
        return int(monotonic_ms + self._ahead_of_monotonic_ms)

    def skew_ms(self) -> int:
        """Return how far this machine's clock is ahead of fleet time."""
        return int(time.time() * 1000) - self.now_ms()

    def _slew(self, monotonic_ms: float) -> None:
        """Apply a part of the outstanding correction."""
        elapsed_ms = monotonic_ms - self._slewed_at_ms
        self._slewed_at_ms = monotonic_ms
        slower = LEAD_RATIO if self.ahead_ms > STEP_MS else SLEW_RATIO
        slew_ms = max(-slower * elapsed_ms, min(SLEW_RATIO * elapsed_ms, self._behind_ms))
        self._behind_ms -= slew_ms
        self._ahead_of_monotonic_ms += slew_ms

    def sample(self, fleet_ms: float) -> None:
        """Adopt a sample of Redis TIME, already corrected by half of the round trip."""
        behind_ms = fleet_ms - self.now_ms()
        is_first, self._sampled = not self._sampled, True
        if behind_ms > STEP_MS or (is_first and (behind_ms > 0 or not self._made_ids)):
            self._ahead_of_monotonic_ms += behind_ms
            behind_ms = 0.0
        self._behind_ms, self._slewed_at_ms = behind_ms, time.monotonic_ns() / NS_PER_MS

    def new_id(self) -> str:
        """Return a new UUIDv7."""
        self._made_ids = True
        return uuid7(self.now_ms(), int.from_bytes(os.urandom(10)))

    def new_request_id(self) -> str:
        """Return a new request id, short enough for a log line: 18 hexadecimal digits of time and random bits."""
        self._made_ids = True
        return f"{self.now_ms():0{REQUEST_TIME_DIGITS}x}{int.from_bytes(os.urandom(4)) >> 4:07x}"


def utc_of(at_ms: int) -> datetime:
    """Convert Unix milliseconds to a datetime, clamped to the range of the calendar."""
    return datetime.fromtimestamp(min(max(at_ms, 0), LAST_MS) / 1000, UTC)
