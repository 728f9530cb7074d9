"""Late content, to Claude Code and both SDKs: behind an nginx that cuts, over a failover, and failures behind the head.

All but one test are scaled: the head goes after 1 s instead of 45, and nginx cuts after 2 instead of 60.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anthropic
import pytest

from service.settings import load
from tests.claude_code.claude import ClaudeRun, run_claude
from tests.claude_code.tasks import TASK, check_completed, serving, the_task
from tests.claude_code.typescript_sdk import ask_typescript_sdk
from tests.fakes import FakeProvider, Reply, reply
from tests.support.messages import HI, MODEL
from tests.support.nginx import nginx
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from service import ClaudeCodeProxy

LATE_S = 90


@contextmanager
def serve(
    anthropic_fake: FakeProvider, zai_fake: FakeProvider | None, home: Path, head_after_ms: int
) -> Iterator[ClaudeCodeProxy]:
    """A proxy with these routes, whose heads go so early."""
    variables = {
        "CCPROXY_HOME": str(home),
        "PROXY_PORT": str(free_port()),
        "ANTHROPIC_API_KEY": "owner",
        "ANTHROPIC_BASE_URL": anthropic_fake.base_url,
        "API_HEAD_AFTER_MS": str(head_after_ms),
        "ALLOWED_HOSTS": "proxies",
        "LOG_LEVEL": "silent",
    }
    if zai_fake:
        variables |= {"ZAI_API_KEY": "zai-owner", "ZAI_BASE_URL": zai_fake.base_url}
    with serving(load(None, variables)) as proxy:
        yield proxy


def test_late_content_arrives_behind_nginx(anthropic_fake: FakeProvider, note: Path, tmp_path: Path) -> None:
    """Claude Code asks each turn once, and notices nothing."""
    call, text = the_task(note)
    anthropic_fake.script(call.pausing(2_500, "message_start"), text.pausing(2_500))
    with (
        serve(anthropic_fake, None, tmp_path / "home", 1_000) as proxy,
        nginx(tmp_path, proxy.settings.port, "proxy_read_timeout 2s") as url,
    ):
        check_completed(url, note, anthropic_fake)


def test_a_failover_behind_the_head_is_not_noticed(
    anthropic_fake: FakeProvider, zai_fake: FakeProvider, note: Path, tmp_path: Path
) -> None:
    """By Claude Code, on each turn."""
    anthropic_fake.script(reply.error(529).pausing(1_500).forever())
    call, text = the_task(note)
    zai_fake.script(call.pausing(500), text.pausing(500))
    with serve(anthropic_fake, zai_fake, tmp_path / "home", 1_000) as proxy:
        check_completed(proxy.url, note, zai_fake)


FAILURES: dict[str, tuple[Reply, str, list[bool]]] = {
    "overloaded": (reply.error(529), "overloaded_error", [True, True, True]),
    "throttled": (reply.error(429, retry_after_s=3), "overloaded_error", [True, True, True]),
    "timeout": (reply.error(504), "overloaded_error", [True, True, True]),
    "unavailable": (reply.error(503), "overloaded_error", [True, True, True]),
    "the provider's own 408": (reply.error(408), "overloaded_error", [True, True, True]),
    "server error": (reply.error(500), "api_error", [True, False, True]),
    "its own fault": (reply.bad_request("messages: no"), "invalid_request_error", [True, False, True]),
}
"""What a provider says behind the head, the type that clients see, and whether Claude Code's requests were streams: the
failed one, the one after it, and the second turn."""


@pytest.mark.parametrize("name", FAILURES)
def test_claude_code_goes_on_after_a_failure_behind_the_head(
    anthropic_fake: FakeProvider, note: Path, tmp_path: Path, name: str
) -> None:
    """As a stream after an overload, without streaming after others; the task is done."""
    fault, _, streams = FAILURES[name]
    anthropic_fake.script(fault.pausing(1_200), *the_task(note))
    with serve(anthropic_fake, None, tmp_path / "home", 500) as proxy:
        run = run_claude(proxy.url, TASK, note.parent)
    assert run.succeeded, (run.stderr, run.events)
    assert run.result_text == "It says that the heron is blue."
    assert [turn.json.get("stream", False) for turn in anthropic_fake.requests_to("/v1/messages")] == streams


RAISED = {name: (fault, error_type) for name, (fault, error_type, _) in FAILURES.items()} | {
    "no such model": (reply.error(404), "not_found_error"),
    "refused credential": (reply.error(401), "api_error"),
}
"""Those after which a route rests, or lacks the model, as well: nothing can go on with it at once."""


@pytest.mark.parametrize("name", RAISED)
def test_the_typescript_sdk_raises_a_failure_and_repeats_nothing(
    anthropic_fake: FakeProvider, tmp_path: Path, name: str
) -> None:
    fault, error_type = RAISED[name]
    anthropic_fake.script(fault.pausing(1_200))
    with serve(anthropic_fake, None, tmp_path / "home", 500) as proxy:
        told = ask_typescript_sdk(proxy.url)
    assert told.get("type") == error_type, told
    assert len(anthropic_fake.requests_to("/v1/messages")) == 1


def test_the_typescript_sdk_gets_late_content_over_a_failover(
    anthropic_fake: FakeProvider, zai_fake: FakeProvider, tmp_path: Path
) -> None:
    anthropic_fake.script(reply.reset("message_start").pausing(1_200, "message_start"))
    zai_fake.script(reply.message("at last").pausing(500))
    with serve(anthropic_fake, zai_fake, tmp_path / "home", 500) as proxy:
        assert ask_typescript_sdk(proxy.url) == {"text": "at last"}


def test_ninety_seconds_behind_an_nginx_of_sixty(anthropic_fake: FakeProvider, note: Path, tmp_path: Path) -> None:
    """All three clients at once, with the real times: nothing is set, neither at nginx nor at the proxy."""
    anthropic_fake.script(reply.message("at last").pausing(LATE_S * 1_000, "message_start").forever())

    def ask_python_sdk(url: str) -> str:
        with (
            anthropic.Anthropic(base_url=url, api_key="k", max_retries=0) as client,
            client.messages.stream(model=MODEL, max_tokens=64, messages=HI) as stream,
        ):
            return stream.get_final_text()

    def ask_claude_code(url: str) -> ClaudeRun:
        return run_claude(url, "Say something.", note.parent, timeout_s=LATE_S + 60)

    with (
        serve(anthropic_fake, None, tmp_path / "home", 45_000) as proxy,
        nginx(tmp_path, proxy.settings.port) as url,
        ThreadPoolExecutor() as threads,
    ):
        run = threads.submit(ask_claude_code, url)
        python = threads.submit(ask_python_sdk, url)
        typescript = threads.submit(ask_typescript_sdk, url, timeout_s=LATE_S + 60)
        assert python.result() == "at last"
        assert typescript.result() == {"text": "at last"}
        assert (run.result().result_text, run.result().api_retries) == ("at last", [])
    assert len(anthropic_fake.requests_to("/v1/messages")) == 3
