"""Broken installations say so by themselves, each in the same words wherever one looks; unusual ones are green."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from service.cli import main
from service.embedded.postgres import Postgres
from service.embedded.valkey import Valkey
from service.errors import SettingsError
from tests.support.installation_cases import BROKEN, UNUSUAL, Case, World
from tests.support.installation_run import Looks, running, settings_of, without_foreign_egress
from tests.support.waiting import wait_for_answer, wait_until

pytestmark = pytest.mark.filterwarnings("ignore:CLIENT SETNAME")
STARTING = [case for case in BROKEN if case.seen.starts]
NOT_STARTING = [case for case in BROKEN if not case.seen.starts]
SERVED = [case for case in UNUSUAL if case.name != "no servers yet"]
"""`serve` needs servers; those of `up` are its own (tests/embedded)."""


@pytest.fixture
def world(valkey: Valkey, postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The servers."""
    without_foreign_egress(monkeypatch)
    with ExitStack() as stack:
        yield World(valkey, postgres, tmp_path, stack)


async def shows(looks: Looks, case: Case) -> dict[str, Any]:
    """Where the case's word shows: `/readyz`, the dashboard, `status`."""
    word, (code, said) = case.seen.word, await looks.status()
    _, ready = await looks.ready()
    overview = await looks.dashboard()
    notices = {notice.code for notice in overview.notices if notice.level != "ok"}
    if route := word.partition(" ")[0] if " " in word else "":
        state = word.partition(" ")[2]
        return {
            "readyz": ready["providers"][route]["state"] == state and bool(ready["providers"][route]["reason"]),
            "dashboard": state in notices and overview.level != "ok",
            "status": code == 0 and (route, state) in {(one["route"], one["state"]) for one in said["routes"]},
        }
    return {
        "readyz": word == "worker" or word in {problem["problem"] for problem in ready["problems"]},
        "dashboard": word in notices and overview.level == "problem",
        "status": (case.seen.words or case.words) in (said if code else " ".join(problems_in(said))),
    }


def problems_in(said: dict[str, Any]) -> list[str]:
    """What `status` says is wrong with processes and with Redis."""
    problems = [words for kind in ("replicas", "workers") for one in said[kind] for words in one["problems"]]
    return problems + list(said["redis_faults"])


@pytest.mark.parametrize("case", STARTING, ids=[case.name for case in STARTING])
async def test_what_is_broken_is_in_the_state(
    world: World, case: Case, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In `/readyz`, `status`, on the dashboard, and in the log of whoever meets it; a proxy that serves stays ready."""
    seen = case.seen
    async with running(case, world, monkeypatch, caplog) as looks:
        for _ in range(seen.asks):
            assert (await looks.ask()).status_code == 502
        await wait_until(lambda: seen.word == "worker" or seen.word in looks.words)

        async def everywhere() -> bool:
            return all((await shows(looks, case)).values())

        try:
            await wait_for_answer(everywhere, 5)
        except AssertionError:
            raise AssertionError(await shows(looks, case), await looks.status(), await looks.dashboard()) from None
        code, ready = await looks.ready()
        assert (code, ready["status"]) == (200, "ready")
        check_first_line(looks.lines("proxy"), seen.proxy)
        check_first_line(looks.lines("worker"), seen.worker or "")
        if seen.word == "redis":
            assert (seen.words or case.words) in looks.lines("proxy")[0]
            assert "of pipeline" not in looks.lines("proxy")[0], "what was to be written is nobody's business"
            assert "',)" not in looks.lines("proxy")[0].replace('"', "'"), "the words are no tuple"
    assert "pass-of-user" not in caplog.text


def check_first_line(lines: Sequence[str], wanted: str) -> None:
    """The first line of a log begins so; "" is no line."""
    assert [line[: len(wanted)] for line in lines[:1]] == ([wanted] if wanted else []), lines


@pytest.mark.parametrize("case", NOT_STARTING, ids=[case.name for case in NOT_STARTING])
def test_what_cant_start_says_why_in_one_line(world: World, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """`serve` ends with exit code 1 and the words of `check`."""
    with pytest.raises(SettingsError):
        settings_of(case, world, monkeypatch)
    result = CliRunner().invoke(main, ("serve",))
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert case.words in result.stderr


@pytest.mark.parametrize("case", SERVED, ids=[case.name for case in SERVED])
async def test_what_is_unusual_is_green_everywhere(
    world: World, case: Case, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Ready, healthy, without a notice on any screen; the log has notes on settings alone."""
    async with running(case, world, monkeypatch, caplog) as looks:

        async def is_seen() -> Any:
            code, said = await looks.status()
            assert code == 0, said
            return said["replicas"] and said

        said = await wait_for_answer(is_seen)
        assert problems_in(said) == []
        assert said["next_route"]
        code, ready = await looks.ready()
        assert (code, ready["status"], ready["problems"]) == (200, "ready", [])
        assert (await looks.http.get("/health")).json()["status"] == "healthy"
        overview = await looks.dashboard()
        assert (overview.level, overview.notices) == ("ok", [])
        assert {route.state for route in overview.routes} <= {"healthy", "off"}
        assert {route["state"] for route in said["routes"]} <= {"healthy", "off"}
        assert looks.lines("worker") == []
        assert [line.strip() for line in looks.lines("proxy")] == list(looks.parts.settings.notices)
