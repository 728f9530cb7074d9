"""Fleet time and fresh ids. The one place of the service that reads a clock for events.

Fleet time is Redis TIME, sampled at connect and each minute, carried on by the local monotonic clock; until the first
sample it is the local time.

Rules
- The first sample is taken as it is, back as well, as long as no id was made: nothing bears the wrong time yet.
- From then on time never goes back. Who is behind is set forward at once, or slewed where that is a little.
- Who is ahead is slewed; who is far ahead runs at half the speed, so that waits end all the same (a day takes two to
  make good; a restart takes the right time at once).
"""

import os
import time
from datetime import UTC, datetime

from service.ledger.ids import REQUEST_TIME_DIGITS, uuid7

SLEW_RATIO = 0.1
"""A correction may make fleet time run at most a tenth faster or slower."""
STEP_MS = 1_000
"""A clock that is behind by more than this is set forward at once: waits and circuits need the right minute."""
LEAD_RATIO = 0.5
"""One that is ahead by more than STEP_MS loses this part of its speed."""
LAST_MS = 253_402_300_799_000
"""The end of the year 9999: Python's calendar has no later one."""


class Clock:
    """Unix time in milliseconds, the same in all processes of the fleet."""

    def __init__(self) -> None:
        self._last_monotonic_ms = _monotonic_ms()
        self._now_ms = time.time() * 1000
        self._behind_ms = 0.0
        self._sampled = False
        self._made_ids = False

    @property
    def ahead_ms(self) -> float:
        """How far fleet time here is ahead of Redis, as last sampled and not yet made good."""
        return max(0.0, -self._behind_ms)

    def now_ms(self) -> int:
        """Fleet time."""
        monotonic_ms = _monotonic_ms()
        elapsed_ms = monotonic_ms - self._last_monotonic_ms
        self._last_monotonic_ms = monotonic_ms
        self._now_ms += elapsed_ms
        if self._behind_ms:
            self._slew(elapsed_ms)
        return int(self._now_ms)

    def _slew(self, elapsed_ms: float) -> None:
        """Make good a part of what is still wrong."""
        slower = LEAD_RATIO if self.ahead_ms > STEP_MS else SLEW_RATIO
        slew_ms = max(-slower * elapsed_ms, min(SLEW_RATIO * elapsed_ms, self._behind_ms))
        self._behind_ms -= slew_ms
        self._now_ms += slew_ms

    def sample(self, fleet_ms: float) -> None:
        """Take note of Redis TIME, already corrected by half of the round trip."""
        behind_ms = fleet_ms - self.now_ms()
        is_first, self._sampled = not self._sampled, True
        if behind_ms > STEP_MS or (is_first and (behind_ms > 0 or not self._made_ids)):
            self._now_ms += behind_ms
            behind_ms = 0.0
        self._behind_ms = behind_ms

    def new_id(self) -> str:
        """A fresh UUIDv7."""
        self._made_ids = True
        return uuid7(self.now_ms(), int.from_bytes(os.urandom(10)))

    def new_request_id(self) -> str:
        """A fresh id of a client's request, short enough for a log line: time and chance, 18 hexadecimal digits."""
        self._made_ids = True
        return f"{self.now_ms():0{REQUEST_TIME_DIGITS}x}{int.from_bytes(os.urandom(4)) >> 4:07x}"


def utc_of(at_ms: int) -> datetime:
    """A moment (Unix milliseconds) as a date; one that lies outside of the calendar is its first or last year."""
    return datetime.fromtimestamp(min(max(at_ms, 0), LAST_MS) / 1000, UTC)


def _monotonic_ms() -> float:
    return time.monotonic() * 1000
