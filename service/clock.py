"""Fleet time and fresh ids. The one place of the service that reads a clock for events.

Fleet time is Redis TIME, sampled at connect and each minute, carried on by the local monotonic clock. Corrections are
slewed, so that it never goes back; until the first sample it is the local time.
"""

import os
import time

from service.ledger.ids import format_uuid

SLEW_RATIO = 0.1
"""A correction may make fleet time run at most a tenth faster or slower."""
STEP_MS = 1_000
"""A clock that is behind by more than this is set forward at once: waits and circuits need the right minute."""


class Clock:
    """Unix time in milliseconds, the same in all processes of the fleet."""

    def __init__(self) -> None:
        self._last_monotonic_ms = _monotonic_ms()
        self._now_ms = time.time() * 1000
        self._behind_ms = 0.0
        self._sampled = False

    def now_ms(self) -> int:
        """Fleet time."""
        monotonic_ms = _monotonic_ms()
        elapsed_ms = monotonic_ms - self._last_monotonic_ms
        self._last_monotonic_ms = monotonic_ms
        slew_ms = max(-SLEW_RATIO * elapsed_ms, min(SLEW_RATIO * elapsed_ms, self._behind_ms))
        self._behind_ms -= slew_ms
        self._now_ms += elapsed_ms + slew_ms
        return int(self._now_ms)

    def sample(self, fleet_ms: float) -> None:
        """Take note of Redis TIME, already corrected by half of the round trip."""
        behind_ms = fleet_ms - self.now_ms()
        if behind_ms > STEP_MS or not self._sampled:
            self._now_ms += max(0.0, behind_ms)
            behind_ms = min(0.0, behind_ms)
        self._behind_ms = behind_ms
        self._sampled = True

    def new_id(self) -> str:
        """A fresh UUIDv7."""
        random = int.from_bytes(os.urandom(10), "big")
        bits = self.now_ms() << 80 | 0x7 << 76 | (random >> 62 & 0xFFF) << 64 | 0b10 << 62 | random & (1 << 62) - 1
        return format_uuid(bits)

    def new_request_id(self) -> str:
        """A fresh id of a client's request, short enough for a log line: time and chance, 18 hexadecimal digits."""
        return f"{self.now_ms():011x}{int.from_bytes(os.urandom(4), 'big') >> 4:07x}"


def _monotonic_ms() -> float:
    return time.monotonic() * 1000
