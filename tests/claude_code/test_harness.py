"""The harness by itself: Claude Code straight against a fake provider, so that a failure later is the proxy's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.claude_code.claude import run_claude
from tests.fakes import FakeProvider, Usage, reply

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TASK = "Read the file note.txt and tell me what it says."


@pytest.fixture
def fake() -> Iterator[FakeProvider]:
    with FakeProvider("anthropic", keys={"test-key"}) as provider:
        yield provider


@pytest.fixture
def note(tmp_path: Path) -> Path:
    path = tmp_path / "note.txt"
    path.write_text("the heron is blue\n", encoding="utf-8")
    return path


def script_the_task(fake: FakeProvider, note: Path) -> None:
    """First a call of Read; then, once its result has come back, the final text."""
    fake.script(
        reply.tool_use("Read", {"file_path": str(note)}, text="I'll read it.", usage=Usage(input=10, output=3)),
        reply.message("It says that the heron is blue.", usage=Usage(input=20, output=5)).when(
            body="the heron is blue"
        ),
    )


def test_a_task_with_a_tool_round_trip(fake: FakeProvider, note: Path) -> None:
    """The tool runs, its result goes back to the model, the final text is the result, and nothing was asked twice."""
    script_the_task(fake, note)
    run = run_claude(fake.base_url, TASK, note.parent)
    assert run.succeeded, (run.stderr, run.events)
    assert run.result_text == "It says that the heron is blue."
    assert "the heron is blue" in str(run.tool_results)
    assert run.api_retries == []
    assert run.unread_lines == []
    assert (fake.scripted_left, len(fake.requests_to("/v1/messages"))) == (0, 2)
    assert fake.usage_served == Usage(input=30, output=8)


def test_a_fault_is_noticed(fake: FakeProvider, note: Path) -> None:
    """Without a proxy an overload shows as an api_retry event: what the tests look for can be seen."""
    fake.script(reply.error(529))
    script_the_task(fake, note)
    run = run_claude(fake.base_url, TASK, note.parent)
    assert run.succeeded, (run.stderr, run.events)
    assert [event["error_status"] for event in run.api_retries] == [529]


def test_a_bearer_token_is_sent_as_one(fake: FakeProvider, note: Path) -> None:
    """ANTHROPIC_AUTH_TOKEN arrives as a bearer; an empty key is no key."""
    script_the_task(fake, note)
    credentials = {"ANTHROPIC_AUTH_TOKEN": "test-key", "ANTHROPIC_API_KEY": ""}
    run = run_claude(fake.base_url, TASK, note.parent, env=credentials)
    assert run.succeeded, (run.stderr, run.events)
    assert {request.credential_kind for request in fake.requests_to("/v1/messages")} == {"bearer"}
