"""What is wrong with this process now: each problem is logged once when it begins, and once when it ends.

Health, `/metrics` and the dashboard read it. What only concerns a route's credential is a notice of the route
(`oauth.credentials`), so that other processes know of it, too. Not here: finding problems, and mending them.
"""

import logging
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import msgspec
from msgspec import Struct
from msgspec.structs import replace

log = logging.getLogger("ccproxy.problems")

ProblemCode = Literal["redis", "eviction", "snapshots", "stream_lost", "spool", "task"]
CODES: tuple[ProblemCode, ...] = get_args(ProblemCode)


class ProblemText(NamedTuple):
    """What everybody may read of a problem, and the names of the log lines of its beginning and end."""

    words: str
    began: str
    ended: str


TEXTS: dict[ProblemCode, ProblemText] = {
    "redis": ProblemText(
        "Redis can't be read: limits and the state of routes are out of date", "redis.went_away", "redis.came_back"
    ),
    "eviction": ProblemText("Redis may drop events when it is full", "redis.evicts", "redis.keeps"),
    "snapshots": ProblemText(
        "no worker folds this proxy's events: limits and the state of routes are out of date",
        "snapshots.stopped",
        "snapshots.resumed",
    ),
    "stream_lost": ProblemText(
        "Redis has lost events that no worker had folded: this proxy sends its own again", "stream.lost", "stream.sent"
    ),
    "spool": ProblemText("events can't be written to disk", "spool.write_failed", "spool.written"),
    "task": ProblemText("a background task fails and is started again", "task.failed", "task.recovered"),
}


WRITING = "append"
"""The source that sees what is written to Redis."""
NOT_WRITTEN = "Redis can't be used: events are kept on disk"


class ProcessProblem(Struct, frozen=True):
    """A problem that holds. `subject` is the stream or task concerned, "" for the whole process; `message` says what is
    wrong and how it is mended, for operators: it may name addresses and users, never a secret. `sources` see it."""

    code: ProblemCode
    subject: str
    message: str
    since_ms: int
    sources: frozenset[str] = frozenset()

    @property
    def words(self) -> str:
        """What everybody may read. What Redis refuses to give is another thing than what it refuses to take."""
        return NOT_WRITTEN if self.code == "redis" and WRITING in self.sources else TEXTS[self.code].words


class Problems:
    """The problems of one process. A problem that several sources see ends when the last one sees its end."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._held: dict[tuple[ProblemCode, str], ProcessProblem] = {}

    @property
    def current(self) -> tuple[ProcessProblem, ...]:
        """What is wrong now, the oldest first."""
        return tuple(self._held.values())

    def has(self, code: ProblemCode) -> bool:
        """True while a problem of this code holds."""
        return any(held == code for held, _ in self._held)

    def as_json(self) -> bytes:
        """What is wrong now, in the words for operators."""
        return msgspec.json.encode([problem.message for problem in self.current])

    def begin(
        self,
        code: ProblemCode,
        message: str,
        *,
        subject: str = "",
        source: str = "",
        traceback: BaseException | None = None,
    ) -> None:
        """Note a problem, or that it still holds, and why it does now."""
        held = self._held.get((code, subject))
        if held:
            self._held[code, subject] = replace(held, message=message, sources=held.sources | {source})
            return
        self._held[code, subject] = ProcessProblem(code, subject, message, self._now_ms(), frozenset({source}))
        extra = {"subject": subject} if subject else {}
        log.warning(TEXTS[code].began, extra={**extra, "why": message}, exc_info=traceback)

    def end(self, code: ProblemCode, *, subject: str = "", source: str = "") -> None:
        """Note that a source no longer sees a problem."""
        held = self._held.get((code, subject))
        if held is None or source not in held.sources:
            return
        left = held.sources - {source}
        if left:
            self._held[code, subject] = replace(held, sources=left)
            return
        del self._held[code, subject]
        extra: dict[str, object] = {"subject": subject} if subject else {}
        log.warning(TEXTS[code].ended, extra={**extra, "after_ms": self._now_ms() - held.since_ms})
