"""Claude Code itself through the proxy: a task with a tool round trip completes, and no failed route is noticed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from service import ClaudeCodeProxy, ProviderConfig, ProxyConfig
from service.settings import load
from tests.claude_code.claude import run_claude
from tests.claude_code.tasks import CLIENTS_KEY, TASK, check_completed, serving, the_task
from tests.fakes import FakeProvider, Reply, reply
from tests.fakes.language import Text, Thinking, ToolUse
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ABSORBED: dict[str, Reply] = {
    "529": reply.error(529),
    "error first": reply.stream_error("start"),
    "another error first": reply.stream_error("start", "api_error", "Internal server error"),
    "error after message_start": reply.stream_error("message_start", "rate_limit_error", "no"),
    "401": reply.error(401, headers={"x-should-retry": "false"}),
    "402": reply.error(402),
    "403": reply.error(403),
    "404 model not found": reply.model_not_found("claude"),
    "429 with a long wait": reply.error(429, retry_after_s=7200),
    "429 of a subscription, not to be retried": reply.unified_limit(),
    "500 not to be retried": reply.error(500, headers={"x-should-retry": "false"}),
    "502 with HTML": reply.html(),
    "503": reply.error(503),
    "504": reply.error(504),
    "408": reply.error(408),
    "reset": reply.reset("request"),
    "reset behind message_start": reply.reset("message_start"),
    "clean end behind message_start": reply.message().cut("end", "message_start"),
    "empty 200": reply.empty(),
    "HTML 200": reply.html(200),
    "JSON 200": reply.json_for_stream(),
    "garbage 200": reply.garbage(),
    "silence": reply.hang("request"),
    "silence behind message_start": reply.hang("message_start"),
}


@pytest.fixture
def proxy(anthropic_fake: FakeProvider, zai_fake: FakeProvider, tmp_path: Path) -> Iterator[ClaudeCodeProxy]:
    """A proxy with both of the owner's routes."""
    variables = {
        "CCPROXY_HOME": str(tmp_path / "home"),
        "PROXY_PORT": str(free_port()),
        "ANTHROPIC_API_KEY": "owner",
        "ANTHROPIC_BASE_URL": anthropic_fake.base_url,
        "ZAI_API_KEY": "zai-owner",
        "ZAI_BASE_URL": zai_fake.base_url,
        "API_FIRST_BYTE_TIMEOUT_MS": "1500",
        "API_STREAM_IDLE_TIMEOUT_MS": "5000",
        "LOG_LEVEL": "silent",
    }
    with serving(load(None, variables)) as made:
        yield made


def test_a_task_through_the_proxy(
    proxy: ClaudeCodeProxy, anthropic_fake: FakeProvider, zai_fake: FakeProvider, note: Path
) -> None:
    """Through a proxy with a key of its own the task completes on the first route, as without a proxy."""
    anthropic_fake.script(*the_task(note))
    check_completed(proxy.url, note, anthropic_fake)
    assert {request.credential for request in anthropic_fake.requests} == {"owner"}
    assert zai_fake.requests == []


@pytest.mark.parametrize("failure", ABSORBED)
def test_a_failed_route_is_not_noticed(
    proxy: ClaudeCodeProxy, anthropic_fake: FakeProvider, zai_fake: FakeProvider, note: Path, failure: str
) -> None:
    """Whatever the first route fails with before content, on every turn, the task completes on the second."""
    anthropic_fake.script(ABSORBED[failure].forever())
    zai_fake.script(*the_task(note))
    check_completed(proxy.url, note, zai_fake)
    assert 1 <= len(anthropic_fake.requests_to("/v1/messages")) <= 2


def test_a_turn_ends_on_the_route_that_asked_for_a_tool(
    proxy: ClaudeCodeProxy, anthropic_fake: FakeProvider, zai_fake: FakeProvider, note: Path
) -> None:
    """A tool's result goes to the model that called it, though the first route is well again; the task completes."""
    call, text = the_task(note)
    anthropic_fake.script(reply.error(529))
    zai_fake.script(call, text)
    run = run_claude(proxy.url, TASK, note.parent)
    assert run.succeeded, (run.stderr, run.events)
    assert (run.result_text, run.api_retries) == ("It says that the heron is blue.", [])
    assert (anthropic_fake.scripted_left, zai_fake.scripted_left) == (0, 0)


@pytest.mark.parametrize(("model", "thinking"), [("claude-opus-5-5", "adaptive"), ("claude-haiku-4-5", "disabled")])
def test_a_turn_that_another_vendor_began_ends_at_anthropic(
    proxy: ClaudeCodeProxy, anthropic_fake: FakeProvider, zai_fake: FakeProvider, note: Path, model: str, thinking: str
) -> None:
    """The fakes enforce the rules: no thought of Z.AI, nor its empty text, ends the turn; a budget of thinking goes."""
    call = ToolUse("Read", {"file_path": str(note)}, "call_0")
    anthropic_fake.script(reply.error(529))
    zai_fake.script(reply.message(blocks=(Thinking("let me see"), Text("\n"), call)), reply.error(529).forever())
    anthropic_fake.script(reply.message("It says that the heron is blue.").when(body="the heron is blue"))
    run = run_claude(proxy.url, TASK, note.parent, env={"ANTHROPIC_MODEL": model, "MAX_THINKING_TOKENS": "4000"})
    assert run.succeeded, (run.stderr, run.events)
    assert (run.result_text, run.api_retries) == ("It says that the heron is blue.", [])
    *_, last = anthropic_fake.requests_to("/v1/messages")
    sent: Any = last.json["thinking"]
    assert (b"let me see" in last.body, sent["type"]) == (False, thinking)
    assert anthropic_fake.scripted_left == 0


def test_its_own_key_through_a_proxy_without_one(anthropic_fake: FakeProvider, note: Path, tmp_path: Path) -> None:
    """Without a provider key in the proxy, Claude Code's own goes up, and the task completes."""
    config = ProxyConfig(
        port=free_port(),
        anthropic=ProviderConfig(base_url=anthropic_fake.base_url),
        home=str(tmp_path / "home"),
        log_level="silent",
    )
    anthropic_fake.script(*the_task(note))
    with serving(config) as proxy:
        check_completed(proxy.url, note, anthropic_fake, ANTHROPIC_API_KEY=CLIENTS_KEY)
    assert {request.credential for request in anthropic_fake.requests_to("/v1/messages")} == {CLIENTS_KEY}


def test_a_prompt_that_no_model_holds_is_recognised(zai_fake: FakeProvider, note: Path, tmp_path: Path) -> None:
    """Claude Code takes the proxy's refusal for what it is, by its token and its words, and repeats nothing."""
    path = tmp_path / "ccproxy.toml"
    path.write_text('[models."glm-*"]\ncontext_tokens = 1_000', encoding="utf-8")
    variables = {
        "CCPROXY_HOME": str(tmp_path / "home"),
        "PROXY_PORT": str(free_port()),
        "ZAI_API_KEY": "zai-owner",
        "ZAI_BASE_URL": zai_fake.base_url,
        "LOG_LEVEL": "silent",
    }
    with serving(load(path, variables)) as proxy:
        run = run_claude(proxy.url, TASK, note.parent)
    assert not run.succeeded
    assert "prompt is too long" in run.result_text.lower()
    assert run.api_retries == []
    assert zai_fake.requests_to("/v1/messages") == []
