"""A task for Claude Code with a tool round trip, and the proxy through which it is done."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from service import ClaudeCodeProxy, ProxyConfig
from tests.claude_code.claude import run_claude
from tests.fakes import FakeProvider, Reply, Usage, reply

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from service.settings import Settings

TASK = "Read the file note.txt and tell me what it says."
CLIENTS_KEY = "sk-ant-api03-the-clients-own"
START_S = 30.0


@contextmanager
def serving(config: ProxyConfig | Settings) -> Iterator[ClaudeCodeProxy]:
    """The proxy on a thread and loop of its own, while Claude Code runs."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="proxy", daemon=True)
    thread.start()
    try:
        proxy = ClaudeCodeProxy(config)
        asyncio.run_coroutine_threadsafe(proxy.start(), loop).result(START_S)
        try:
            yield proxy
        finally:
            asyncio.run_coroutine_threadsafe(proxy.stop(), loop).result(START_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(START_S)
        loop.close()


def the_task(note: Path) -> tuple[Reply, Reply]:
    """First a call of Read; then, once its result has come back, the final text."""
    return (
        reply.tool_use("Read", {"file_path": str(note)}, text="I'll read it.", usage=Usage(input=10, output=3)),
        reply.message("It says that the heron is blue.", usage=Usage(input=20, output=5)).when(
            body="the heron is blue"
        ),
    )


def check_completed(url: str, note: Path, served_by: FakeProvider, **env: str) -> None:
    """The task is done, the client asked each turn once, as a stream, and noticed nothing."""
    run = run_claude(url, TASK, note.parent, env=env)
    assert run.succeeded, (run.stderr, run.events)
    assert run.result_text == "It says that the heron is blue."
    assert "the heron is blue" in str(run.tool_results)
    assert run.api_retries == []
    assert run.unread_lines == []
    turns = served_by.requests_to("/v1/messages")
    assert [turn.json.get("stream") for turn in turns] == [True, True]
    assert served_by.scripted_left == 0
    assert served_by.usage_served == Usage(input=30, output=8)
