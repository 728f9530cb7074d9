"""Logs the beginning and the end of an outage, once each, however many errors there are in between."""

import logging
from collections.abc import Callable
from threading import Lock

log = logging.getLogger("ccproxy.worker")


class Outage:
    """Up/down state of one dependency, shared by all threads that use it."""

    def __init__(self, name: str, describe: Callable[[BaseException], str] = str, **fields: object) -> None:
        """`describe` says what an error means, and its mend; `fields` stand in each line."""
        self.name = name
        self._describe = describe
        self._fields = fields
        self._lock = Lock()
        self._away = False
        self._message = ""

    @property
    def problem(self) -> str:
        """What is wrong now, "" if nothing is."""
        subject = "".join(f" {value}" for value in self._fields.values())
        return f"{self.name}{subject}: {self._message}" if self._away else ""

    @property
    def is_down(self) -> bool:
        """True during an outage."""
        return self._away

    def mark_down(self, error: BaseException, *, traceback: bool = False) -> None:
        """Record a failure; logs the first one of an outage."""
        message = " ".join(self._describe(error).split()) or type(error).__name__
        with self._lock:
            first, self._away, self._message = not self._away, True, message
        if first:
            extra = {"error": message, **self._fields}
            log.warning("%s.lost", self.name, extra=extra, exc_info=error if traceback else None)

    def mark_up(self) -> None:
        """Record a success; logs the end of an outage."""
        with self._lock:
            was_away, self._away = self._away, False
        if was_away:
            log.info("%s.found", self.name, extra=self._fields)
