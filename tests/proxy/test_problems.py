"""Problems of a process: one line when one begins, one when it ends; and background tasks that go on after an error."""

import asyncio
import logging

import pytest

from service import tasks
from service.problems import CODES, NOT_WRITTEN, TEXTS, WRITING, Problems
from service.tasks import keep_running
from tests.support.waiting import wait_until

NOW_MS = 1_789_000_000_000


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The names of the lines of the log."""
    return [record.getMessage() for record in caplog.records if record.name == "ccproxy.problems"]


@pytest.mark.parametrize("code", CODES)
def test_a_problem_is_logged_at_its_beginning_and_end(code: str, caplog: pytest.LogCaptureFixture) -> None:
    """However often it is seen, and by whom; it ends when the last one who saw it sees its end."""
    problems = Problems(lambda: NOW_MS)
    known = next(one for one in CODES if one == code)
    for source in ("one", "other", "one"):
        problems.begin(known, "what is wrong", source=source)
    assert [(one.code, one.message, one.since_ms) for one in problems.current] == [(code, "what is wrong", NOW_MS)]
    problems.end(known, source="one")
    problems.end(known, source="stranger")
    assert len(problems.current) == 1
    problems.end(known, source="other")
    assert list(problems.current) == []
    assert lines(caplog) == [TEXTS[known].began, TEXTS[known].ended]


def test_redis_that_can_only_be_written_keeps_nothing_on_disk() -> None:
    """The words say what follows: of reading that is refused, of writing, and of both."""
    problems = Problems(lambda: NOW_MS)
    problems.begin("redis", "no XREAD", source="read")
    assert [one.words for one in problems.current] == [TEXTS["redis"].words]
    assert "disk" not in TEXTS["redis"].words
    problems.begin("redis", "no XADD", source=WRITING)
    assert [one.words for one in problems.current] == [NOT_WRITTEN]
    problems.end("redis", source=WRITING)
    assert [one.words for one in problems.current] == [TEXTS["redis"].words]


def test_problems_of_several_subjects_are_told_apart(caplog: pytest.LogCaptureFixture) -> None:
    """Two streams that were lost are two problems."""
    problems = Problems(lambda: NOW_MS)
    for stream in ("anthropic", "zai"):
        problems.begin("stream_lost", "gone", subject=stream)
    problems.end("stream_lost", subject="zai")
    assert [problem.subject for problem in problems.current] == ["anthropic"]
    assert len(lines(caplog)) == 3


async def test_a_task_goes_on_after_an_exception(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is started again; the error is a problem of the process until the task has run for a while."""
    monkeypatch.setattr(tasks, "RESTART_S", 0.01)
    monkeypatch.setattr(tasks, "STABLE_S", 0.05)
    problems, runs = Problems(lambda: NOW_MS), list[int]()

    async def run() -> None:
        runs.append(1)
        if len(runs) < 3:
            raise KeyError("a prompt or a secret")
        await asyncio.Event().wait()

    with caplog.at_level(logging.WARNING):
        task = asyncio.create_task(keep_running(run, "watcher.tick", problems))
        await wait_until(lambda: len(runs) == 3)
        [problem] = problems.current
        assert (problem.code, problem.subject) == ("task", "watcher.tick")
        assert "secret" not in problem.message
        await wait_until(lambda: not problems.current)
    await tasks.cancel_and_wait({task})
    assert lines(caplog) == ["task.failed", "task.recovered"]
    assert caplog.records[0].exc_info
