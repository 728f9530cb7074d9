"""The newest lines of this process's log in memory, and who follows them, as the original proxy showed them.

Bounded: 500 lines, 8 followers, and so many lines waiting for each; who is too slow misses lines. Nothing here is more
than what the log says anyway: no prompt, answer or secret.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime

from service.errors import NoRoute
from service.telemetry.log import Listener, LogLine, level_name, single_line

KEPT_LINES = 500
MOST_FOLLOWERS = 8
QUEUED_LINES = 500
LINE_CHARS = 2_000

Line = dict[str, str]


class TooManyFollowers(NoRoute):
    """As many follow already as one process serves."""


class LogBuffer(Listener):
    """Keeps the newest lines."""

    def __init__(self) -> None:
        super().__init__()
        self._said: deque[LogLine] = deque(maxlen=KEPT_LINES)
        self._followers: set[asyncio.Queue[Line]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def attach(self) -> None:
        """Keep lines from now on."""
        self._loop = asyncio.get_running_loop()
        logging.getLogger("ccproxy").addHandler(self)

    def detach(self) -> None:
        """Keep no more."""
        logging.getLogger("ccproxy").removeHandler(self)

    def hear(self, said: LogLine) -> None:
        """Take a line; from whatever thread."""
        self._said.append(said)
        if self._followers and self._loop:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody follows
                self._loop.call_soon_threadsafe(self._tell, line_of(said))

    @property
    def lines(self) -> list[Line]:
        """The newest lines, oldest first; worded when they are asked for, which is seldom."""
        return [line_of(said) for said in self._said]

    def _tell(self, line: Line) -> None:
        for queue in self._followers:
            with contextlib.suppress(asyncio.QueueFull):
                queue.put_nowait(line)

    @contextlib.contextmanager
    def followed(self) -> Iterator[asyncio.Queue[Line]]:
        """Yield the lines from now on. Raises TooManyFollow."""
        if len(self._followers) >= MOST_FOLLOWERS:
            raise TooManyFollowers(
                f"{MOST_FOLLOWERS} log followers are connected already; close a page", retry_after_s=30
            )
        queue: asyncio.Queue[Line] = asyncio.Queue(QUEUED_LINES)
        self._followers.add(queue)
        try:
            yield queue
        finally:
            self._followers.discard(queue)


def line_of(said: LogLine) -> Line:
    """Return a line in the original's three fields."""
    return {
        "timestamp": datetime.fromtimestamp(said.at_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": level_name(said.level).lower(),
        "message": single_line(said)[:LINE_CHARS],
    }
