"""The log as it is read: `[12:34:56] [INFO] [id] → Anthropic POST /v1/messages`; colours on a terminal, plain when
piped, or one JSON object a line.

Not here: what is worth a line. No prompt, answer or secret is ever handed to a logger.
"""

import logging
import os
import re
import sys
from datetime import UTC, datetime
from typing import Literal, TextIO

import msgspec

from service.settings import LogLevel

OK = 25
"""Between info and warn: an answer."""
LEVELS: dict[LogLevel, int] = {"debug": 10, "info": 20, "warn": 30, "error": 40, "silent": 100}
NAMES = {logging.DEBUG: "DEBUG", logging.INFO: "INFO", OK: "OK", logging.WARNING: "WARN", logging.ERROR: "ERROR"}
COLOURS = {logging.DEBUG: 90, logging.INFO: 36, OK: 32, logging.WARNING: 33, logging.ERROR: 31}
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
"""What would end a line or drive a terminal; providers and clients word parts of what is logged."""
PLAIN_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def set_up(level: LogLevel, form: Literal["text", "json"], stream: TextIO = sys.stdout) -> None:
    """Send this process's log to a stream."""
    leave_out_what_nobody_reads()
    root = logging.getLogger()
    root.handlers = [handler_of(form, stream)]
    root.setLevel(logging.WARNING)
    for name in ("ccproxy", "workers"):
        logging.getLogger(name).setLevel(LEVELS[level])
    if level == "silent":
        root.setLevel(LEVELS["silent"])


def leave_out_what_nobody_reads() -> None:
    """Where a line was logged, and by which thread, task or process: half of what a record costs (Python's logging
    HOWTO, "Optimization"). For a process of our own alone."""
    logging._srcfile = None  # noqa: SLF001 - the documented way
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def handler_of(form: Literal["text", "json"], stream: TextIO) -> logging.Handler:
    """Writes to a stream, in colours where that is a terminal."""
    handler = logging.StreamHandler(stream)
    coloured = stream.isatty() and not os.environ.get("NO_COLOR")
    handler.setFormatter(JsonLines() if form == "json" else Lines(coloured=coloured))
    logging.addLevelName(OK, "OK")
    return handler


def show_in_program(level: LogLevel, form: Literal["text", "json"], stream: TextIO = sys.stdout) -> None:
    """The same inside another program: its level holds, and a log that the program has set up itself is left alone."""
    own = logging.getLogger("ccproxy")
    own.setLevel(LEVELS[level])
    if not own.hasHandlers():
        own.addHandler(handler_of(form, stream))


class Lines(logging.Formatter):
    """Lines for people."""

    def __init__(self, *, coloured: bool) -> None:
        super().__init__()
        self._coloured = coloured
        self._second = (0, "")

    def format(self, record: logging.LogRecord) -> str:
        """Time, level, the request's id, the message and what else was said."""
        time = self._time_of(int(record.created))
        fields = extras(record)
        request = fields.pop("request", "")
        fields.pop("route", None)
        line = f"[{time}] [{NAMES.get(record.levelno, record.levelname)}] "
        line += (f"[{request}] " if request else "") + record.getMessage()
        if fields:
            line += "".join(f" {name}={value}" for name, value in fields.items())
        if not line.isprintable():
            line = CONTROLS.sub(" ", line)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return f"\x1b[{COLOURS.get(record.levelno, 0)}m{line}\x1b[0m" if self._coloured else line

    def _time_of(self, second: int) -> str:
        """The local time, worked out once for all lines of a second."""
        if self._second[0] != second:
            self._second = second, datetime.fromtimestamp(second, UTC).astimezone().strftime("%H:%M:%S")
        return self._second[1]


class JsonLines(logging.Formatter):
    """Lines for programs."""

    def format(self, record: logging.LogRecord) -> str:
        """One JSON object."""
        fields = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": NAMES.get(record.levelno, record.levelname).lower(),
            "logger": record.name,
            "message": record.getMessage().strip(),
            **extras(record),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(fields, enc_hook=str).decode()


def extras(record: logging.LogRecord) -> dict[str, object]:
    """The fields given with `extra`."""
    return {name: value for name, value in vars(record).items() if name not in PLAIN_FIELDS}
