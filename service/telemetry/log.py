"""The log of proxies and workers: lines for people, in colours on a terminal, or one JSON object a line.

What happened has a name and fields (`redis.lost`, `error=...`). JSON has them as they are. People read a sentence where
there is one (`LogEvent`), else the name and the fields.

Not here: what is worth a line. No prompt, answer or secret is ever handed to a logger.
"""

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from datetime import UTC, datetime
from time import time
from typing import Literal, NamedTuple, TextIO

import msgspec
from msgspec import Struct

from service.settings import LogLevel
from service.telemetry.safe_text import visible, visible_json

OK = 25
"""Between info and warn: an answer."""
LEVELS: dict[LogLevel, int] = {"debug": 10, "info": 20, "warn": 30, "error": 40, "silent": 100}
NAMES = {logging.DEBUG: "DEBUG", logging.INFO: "INFO", OK: "OK", logging.WARNING: "WARN", logging.ERROR: "ERROR"}
COLOURS = {logging.DEBUG: 90, logging.INFO: 36, OK: 32, logging.WARNING: 33, logging.ERROR: 31}
PLAIN = logging.Formatter()
TRACEBACK_INDENT = "  "
"""So that no line of an exception's message looks like a line of the log."""
ABOUT_THE_REQUEST = ("request", "route")
"""Said elsewhere in the line."""
PLAIN_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def set_up(level: LogLevel, form: Literal["text", "json"], stream: TextIO = sys.stdout) -> None:
    """Send this process's log to a stream."""
    disable_unused_record_fields()
    root = logging.getLogger()
    root.handlers = [handler_of(form, stream)]
    root.setLevel(logging.WARNING)
    for name in ("ccproxy", "workers"):
        logging.getLogger(name).setLevel(LEVELS[level])
    if level == "silent":
        root.setLevel(LEVELS["silent"])


def disable_unused_record_fields() -> None:
    """Skip a record's source line, thread, task and process: half of a record's cost (Python's logging HOWTO,
    "Optimization"). For a process of our own alone."""
    logging._srcfile = None  # noqa: SLF001 - the documented way
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def handler_of(form: Literal["text", "json"], stream: TextIO) -> "LineHandler":
    """Return a handler that writes to a stream, in colours if it is a terminal."""
    coloured = stream.isatty() and not os.environ.get("NO_COLOR")
    logging.addLevelName(OK, "OK")
    return LineHandler(json_line if form == "json" else Lines(coloured=coloured), stream)


def show_in_program(level: LogLevel, form: Literal["text", "json"], stream: TextIO = sys.stdout) -> None:
    """The same inside another program: its level holds, and a log that the program has set up itself is left alone."""
    own = logging.getLogger("ccproxy")
    own.setLevel(LEVELS[level])
    if not own.hasHandlers():
        own.addHandler(handler_of(form, stream))


class LogEvent(Struct, frozen=True, kw_only=True):
    """An event that is logged in place of a message: `str` is the sentence for people.

    The sentence is made when a line is written. The newest events are kept, so they hold nothing large."""

    name: str

    def fields(self) -> Mapping[str, object]:
        """Return the event's fields, for programs."""
        raise NotImplementedError


class Sentence(LogEvent, frozen=True, kw_only=True):
    """An event whose sentence is a template for `str.format`, filled with its fields."""

    template: str
    values: Mapping[str, object]

    def __str__(self) -> str:
        return self.template.format_map(self.values)

    def fields(self) -> Mapping[str, object]:
        """The values."""
        return self.values


class LogLine(NamedTuple):
    """The content of a line."""

    level: int
    at_s: float
    logger: str
    message: str | LogEvent
    fields: Mapping[str, object]
    exception: str = ""


class Listener(logging.Handler):
    """A handler of log lines."""

    def hear(self, said: LogLine) -> None:
        """Handle a line; may fail."""
        raise NotImplementedError

    def emit(self, record: logging.LogRecord) -> None:
        """Handle a record."""
        try:
            self.hear(lines_in(record))
        except Exception:  # noqa: BLE001 - whatever it is
            self.handleError(record)


def lines_in(record: logging.LogRecord) -> LogLine:
    """Return the content of a record."""
    exception = PLAIN.formatException(record.exc_info) if record.exc_info else ""
    message = record.msg if isinstance(record.msg, LogEvent) else record.getMessage()
    return LogLine(record.levelno, record.created, record.name, message, extras(record), exception)


class LineHandler(Listener):
    """Writes lines to a stream: those of one iteration of the event loop in one write, as a write costs more than the
    line.

    Warnings, and lines from outside an event loop, are written at once, behind those that wait. At exit `logging`
    itself flushes.
    """

    def __init__(self, line_of: Callable[[LogLine], str], stream: TextIO) -> None:
        super().__init__()
        self.stream = stream
        self._line_of = line_of
        self._waiting: list[str] = []
        self._flushes_on: asyncio.AbstractEventLoop | None = None

    def hear(self, said: LogLine) -> None:
        """Write a line, or have it written with others."""
        line = self._line_of(said)
        with self.lock or nullcontext():
            self._waiting.append(line)
            loop = running_loop()
            if loop is None or said.level >= logging.WARNING:
                self.flush()
            elif self._flushes_on is not loop:
                self._flushes_on = loop
                loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write the lines that wait."""
        with self.lock or nullcontext():
            waiting, self._waiting, self._flushes_on = self._waiting, [], None
            if waiting:
                self.stream.write("\n".join((*waiting, "")))
                self.stream.flush()


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs in this thread, None outside of one."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def log_line(logger: logging.Logger, level: int, message: LogEvent, fields: Mapping[str, object]) -> None:
    """Log an event of which there is one for each request, of a level that is enabled.

    Where all handlers are our own they get the line as it is: a record, which none of them looks at, costs more than
    all that is done with it.
    """
    listeners = listeners_to(logger)
    if not listeners:
        logger.log(level, message, extra=dict(fields))
        return
    said = LogLine(level, time(), logger.name, message, fields)
    for listener in listeners:
        try:
            listener.hear(said)
        except Exception:  # noqa: BLE001 - a fault is told on stderr, as by logging's own handlers
            listener.handleError(logging.makeLogRecord({"msg": str(message)}))


def listeners_to(logger: logging.Logger) -> list[Listener]:
    """Return the handlers of a logger; none if one of them is not our own, or filters."""
    found: list[Listener] = []
    above: logging.Logger | None = logger
    while above is not None:
        for handler in above.handlers:
            if not isinstance(handler, Listener) or handler.level or handler.filters:
                return []
            found.append(handler)
        above = above.parent if above.propagate else None
    return found


class Lines:
    """Lines for people."""

    def __init__(self, *, coloured: bool) -> None:
        self._coloured = coloured
        self._second, self._time = 0, ""

    def __call__(self, said: LogLine) -> str:
        """Time, level, the request's id, the message and what else was said."""
        second = int(said.at_s)
        if second != self._second:
            self._second, self._time = second, local_time(second)
        line = f"[{self._time}] [{NAMES.get(said.level) or level_name(said.level)}] {single_line(said)}"
        if said.exception:
            line += "".join(f"\n{TRACEBACK_INDENT}{visible(part)}" for part in said.exception.splitlines())
        return f"\x1b[{COLOURS.get(said.level, 0)}m{line}\x1b[0m" if self._coloured else line


def local_time(second: int) -> str:
    """The local time of a Unix second: the same for all lines of that second, which are many."""
    return datetime.fromtimestamp(second, UTC).astimezone().strftime("%H:%M:%S")


def single_line(said: LogLine) -> str:
    """The request's id, the message and what else was said, in one line that drives no terminal."""
    request = said.fields.get("request")
    line = f"[{request}] {said.message}" if request else str(said.message)
    for name, value in said.fields.items():
        if name not in ABOUT_THE_REQUEST:
            line += f" {name}={value}"
    return visible(line)


def json_line(said: LogLine) -> str:
    """Lines for programs: one JSON object. The message of a `LogEvent` is its name."""
    message, more = str(said.message), said.fields
    if isinstance(said.message, LogEvent):
        message, more = said.message.name, {**more, **said.message.fields()}
    fields = {
        "at": datetime.fromtimestamp(said.at_s, UTC).isoformat(timespec="milliseconds"),
        "level": level_name(said.level).lower(),
        "logger": said.logger,
        "message": message.strip(),
        **more,
    }
    if said.exception:
        fields["exception"] = said.exception
    return visible_json(msgspec.json.encode(fields, enc_hook=str).decode())


def level_name(level: int) -> str:
    """A level as it is shown."""
    return NAMES.get(level) or logging.getLevelName(level)


def extras(record: logging.LogRecord) -> dict[str, object]:
    """The fields given with `extra`."""
    return {name: value for name, value in vars(record).items() if name not in PLAIN_FIELDS}
