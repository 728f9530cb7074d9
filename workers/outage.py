"""Says once that something has gone, and once that it is back: an outage of an hour is two lines, not thousands."""

import logging
from threading import Lock

log = logging.getLogger("ccproxy.worker")


class Outage:
    """The state of one thing that may go away, shared by all threads that use it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = Lock()
        self._away = False

    def mark_down(self, error: BaseException, *, traceback: bool = False) -> None:
        """The thing failed with this error."""
        with self._lock:
            first, self._away = not self._away, True
        if first:
            message = " ".join(str(error).split()) or type(error).__name__
            log.warning("%s.lost error=%r", self.name, message, exc_info=error if traceback else None)

    def mark_up(self) -> None:
        """The thing answered."""
        with self._lock:
            was_away, self._away = self._away, False
        if was_away:
            log.info("%s.found", self.name)
