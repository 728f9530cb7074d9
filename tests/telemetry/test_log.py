"""The log as it is read: lines for people, objects for programs, every line with its request, never a secret."""

import asyncio
import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from service.settings import LogLevel
from service.telemetry.log import OK, set_up
from tests.fakes import FakeProvider, reply
from tests.support.proxies import ANTHROPIC_KEY, ZAI_KEY, server_of

log = logging.getLogger("ccproxy.test")


WORDS_OF_A_FAILOVER = {
    "text": (
        "→ Anthropic POST /v1/messages",
        "← Anthropic 529",
        "→ Z.AI POST",
        "← Z.AI 200 | ",
        " tokens | ",
        "model remap: claude-opus-5-5",
    ),
    "json": ("attempt.started", "attempt.failed", "attempt.model_mapped", "request.ended"),
}


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The loggers as they were."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    loggers = [logging.getLogger(name) for name in (None, "ccproxy", "workers")]
    levels, handlers = [each.level for each in loggers], loggers[0].handlers
    yield
    loggers[0].handlers = handlers
    for each, level in zip(loggers, levels, strict=True):
        each.setLevel(level)


def logged(
    level: LogLevel = "debug", form: Literal["text", "json"] = "text", out: io.StringIO | None = None
) -> io.StringIO:
    """Where the log goes."""
    stream = out or io.StringIO()
    set_up(level, form, stream)
    return stream


def test_a_line_is_time_level_request_and_words() -> None:
    """Piped, a line is plain: time, level, the request's id, the message and further fields."""
    out = logged()
    log.info("→ Anthropic POST /v1/messages", extra={"request": "0192ab", "route": "anthropic"})
    log.warning("redis.went_away", extra={"error": "refused"})
    first, second = out.getvalue().splitlines()
    assert re.fullmatch(r"\[\d\d:\d\d:\d\d\] \[INFO\] \[0192ab\] → Anthropic POST /v1/messages", first)
    assert re.fullmatch(r"\[\d\d:\d\d:\d\d\] \[WARN\] redis\.went_away error=refused", second)


def test_a_terminal_gets_colours_unless_it_wants_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal each level has its colour; NO_COLOR takes them away."""
    out = logged(out=Screen())
    log.log(OK, "← Anthropic 200")
    log.error("no")
    assert [line[:5] for line in out.getvalue().splitlines()] == ["\x1b[32m", "\x1b[31m"]
    assert all(line.endswith("\x1b[0m") for line in out.getvalue().splitlines())
    monkeypatch.setenv("NO_COLOR", "1")
    plain = logged(out=Screen())
    log.error("no")
    assert "\x1b" not in plain.getvalue()


def test_json_lines_are_one_object_each() -> None:
    """For programs each line is one object with time, level, logger, message and all fields, odd values as texts."""
    out = logged(form="json")
    log.log(OK, "  two\nlines", extra={"request": "q1", "tokens": 3, "path": Path("/x"), "at_all": None})
    [line] = out.getvalue().splitlines()
    found = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", found.pop("at"))
    wanted = {"level": "ok", "logger": "ccproxy.test", "message": "two\nlines"}
    assert found == wanted | {"request": "q1", "tokens": 3, "path": "/x", "at_all": None}


@pytest.mark.parametrize(
    ("level", "seen"),
    [("debug", "DIOWE"), ("info", "IOWE"), ("warn", "WE"), ("error", "E"), ("silent", "")],
)
def test_levels_say_what_is_heard(level: LogLevel, seen: str) -> None:
    """Each level leaves out what lies below it; silent leaves out everything."""
    out = logged(level)
    for number, letter in ((10, "D"), (20, "I"), (OK, "O"), (30, "W"), (40, "E")):
        log.log(number, "message-%s", letter)
    assert "".join(re.findall(r"message-(.)", out.getvalue())) == seen
    logging.getLogger("of.a.library").error("elsewhere")
    assert ("elsewhere" in out.getvalue()) == (level != "silent")


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_exception_is_told_with_its_place(form: Literal["text", "json"]) -> None:
    """A fault of our own comes with its traceback, in JSON within the one line."""
    out = logged(form=form)
    try:
        int("odd")
    except ValueError:
        log.exception("request.failed", extra={"request": "q1"})
    assert "ValueError: invalid literal" in out.getvalue()
    assert form == "text" or len(out.getvalue().splitlines()) == 1


def test_words_of_others_make_no_lines_and_drive_no_terminal() -> None:
    """Line breaks and escapes in a provider's message neither begin a line without an id nor colour the screen."""
    out = logged()
    log.warning("← Z.AI 500 | %s", "one\r\ntwo\x1b[2J\x07\x9b", extra={"request": "q1", "why": "a\nb"})
    [line] = out.getvalue().splitlines()
    assert line.endswith(r"one\r\ntwo\x1b[2J\x07\x9b why=a\nb")


def test_words_of_others_keep_their_meaning_in_json() -> None:
    """C1, DEL, bidi and invisible characters are ASCII escapes there: people read such logs on terminals too."""
    out = logged(form="json")
    words = "a\x9b\x7f\u202e\u200b\U000e0041\ufe0f é"
    log.warning(words, extra={"why": words})
    assert (found := json.loads(out.getvalue()))["message"] == found["why"] == words
    assert out.getvalue().removesuffix("\n").isprintable()
    assert "é" in out.getvalue()
    assert "\ufe0f" not in out.getvalue()


def fail(message: str) -> None:
    """Raise an error with a stranger's words."""
    raise ValueError(message)


def test_no_line_of_a_traceback_poses_as_a_line_of_the_log() -> None:
    """An exception's message may be a stranger's."""
    out = logged()
    try:
        fail("x\n[12:00:00] [OK] forged\x1b[2J")
    except ValueError:
        log.exception("failed")
    first, *more = out.getvalue().splitlines()
    assert first.endswith("failed")
    assert all(line.startswith("  ") for line in more)
    assert "\x1b" not in out.getvalue()


def test_who_else_listens_gets_records_with_their_place(caplog: pytest.LogCaptureFixture) -> None:
    """A program that has a log of its own hears all of it, from where it was said; so does a traceback's line."""
    out = logged()
    try:
        int("odd")
    except ValueError:
        log.exception("failed")
    assert "ValueError" in out.getvalue()
    logging._srcfile = logging.__dict__["_srcfile"] or source_of_logging()
    logging.getLogger().addHandler(caplog.handler)
    log.info("heard by %d", 2)
    assert [(one.getMessage(), one.filename) for one in caplog.records] == [("heard by 2", "test_log.py")]
    assert "heard by 2" in out.getvalue()


def source_of_logging() -> str:
    """What logging takes for its own place, until `set_up` leaves places out."""
    return logging.addLevelName.__code__.co_filename


def test_a_log_that_can_not_be_written_fails_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    """A full disk or a reader that has gone is told on stderr, as logging does."""
    out = logged()
    out.close()
    log.info("nowhere")
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["text", "json"])
async def test_every_line_of_a_request_bears_its_id_and_none_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Literal["text", "json"]
) -> None:
    """From attempt to outcome, over a failover: the id on every line, no key, no prompt, no answer."""
    with FakeProvider("anthropic", keys={ANTHROPIC_KEY}) as anthropic, FakeProvider("zai", keys={ZAI_KEY}) as zai:
        async with server_of(tmp_path, monkeypatch) as server:
            served = await server.start(anthropic=anthropic, zai=zai)
            out = logged(form=form)
            anthropic.script(reply.error(529, message="over\nloaded"))
            zai.script(reply.message("the-answer-text"))
            body = {"model": "claude-opus-5-5", "max_tokens": 5, "stream": True}
            answer = await served.ask(body | {"messages": [{"role": "user", "content": "the-prompt-text"}]})
            lines = out.getvalue().splitlines()
    request_id = answer.headers["x-ccproxy-request-id"]
    assert len(lines) >= 5
    assert all(request_id in line for line in lines)
    text = out.getvalue()
    for words in WORDS_OF_A_FAILOVER[form]:
        assert words in text
    for secret in (ANTHROPIC_KEY, ZAI_KEY, "the-prompt-text", "the-answer-text"):
        assert secret not in text


class Written(io.StringIO):
    """Remembers each write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def write(self, text: str, /) -> int:
        self.writes.append(text)
        return super().write(text)


async def test_lines_of_one_iteration_of_the_loop_are_one_write() -> None:
    """In their order, and no later than the next iteration."""
    out = Written()
    logged(out=out)
    for number in range(3):
        log.info("line %d", number)
    assert out.writes == []
    await asyncio.sleep(0)
    [text] = out.writes
    assert [line[-6:] for line in text.splitlines()] == ["line 0", "line 1", "line 2"]
    log.info("another iteration")
    await asyncio.sleep(0)
    assert len(out.writes) == 2


async def test_a_warning_is_written_at_once_and_in_order() -> None:
    """Behind the lines that wait; so is a line of another thread."""
    out = Written()
    logged(out=out)
    log.info("first")
    log.warning("second")
    assert [line[-6:].strip() for line in out.getvalue().splitlines()] == ["first", "second"]
    log.info("third")
    await asyncio.to_thread(log.info, "fourth")
    assert [line.split()[-1] for line in out.getvalue().splitlines()] == ["first", "second", "third", "fourth"]


def test_a_loop_that_ends_takes_no_line_with_it() -> None:
    """They are written with the next line, or at exit."""
    out = Written()
    logged(out=out)
    for number in range(3):
        loop = asyncio.new_event_loop()
        loop.call_soon(loop.stop)
        loop.call_soon(log.info, f"loop {number}")
        loop.run_forever()
        loop.close()
    log.info("end")
    assert [line.split("] ")[-1] for line in out.getvalue().splitlines()] == ["loop 0", "loop 1", "loop 2", "end"]


def test_nothing_is_lost_at_the_exit() -> None:
    """The last line of a process is written."""
    program = (
        "import asyncio, logging\n"
        "from service.telemetry.log import set_up\n"
        "set_up('info', 'text')\n"
        "async def main(): logging.getLogger('ccproxy.test').info('last words'); raise SystemExit(0)\n"
        "asyncio.run(main())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.endswith("last words\n")
