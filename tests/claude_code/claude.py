"""Claude Code as a test's client: runs it headless, reads what it says.

It knows nothing of the proxy: `base_url` is whatever it is pointed at.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from tests.support.claude_code import install

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

# What the child may see of our environment: an ANTHROPIC_* or proxy variable of the developer's would change its way.
PASSED_ON = ("PATH", "LANG", "TERM", "TMPDIR")


@dataclass(frozen=True)
class ClaudeRun:
    """One run of `claude -p`: its stream-json events, and what is asked of them most."""

    events: list[dict[str, Any]]
    exit_code: int
    stderr: str
    unread_lines: list[str] = field(default_factory=list)

    @property
    def result(self) -> dict[str, Any]:
        """The last `result` event, {} when there was none."""
        return next((event for event in reversed(self.events) if event.get("type") == "result"), {})

    @property
    def result_text(self) -> str:
        return str(self.result.get("result", ""))

    @property
    def succeeded(self) -> bool:
        return self.exit_code == 0 and self.result.get("is_error") is False

    @property
    def api_retries(self) -> list[dict[str, Any]]:
        """The events in which the client says that it had to ask again; [] means that it noticed nothing."""
        return [event for event in self.events if event.get("subtype") == "api_retry"]

    @property
    def tool_results(self) -> list[dict[str, Any]]:
        """The tool results that went back to the model."""
        contents = [event["message"].get("content") for event in self.events if event.get("type") == "user"]
        blocks = [block for content in contents if isinstance(content, list) for block in content]
        return [block for block in blocks if block.get("type") == "tool_result"]


def run_claude(
    base_url: str,
    prompt: str,
    cwd: Path,
    *,
    env: Mapping[str, str] | None = None,
    allowed_tools: Sequence[str] = ("Read",),
    options: Sequence[str] = (),
    timeout_s: float = 60.0,
) -> ClaudeRun:
    """Run one prompt in `cwd` against `base_url`, in a home of its own.

    `env` is laid over the environment made here (which has an ANTHROPIC_API_KEY of no value). TimeoutExpired when it
    takes longer; no process is left behind either way.
    """
    command = [str(install()), "-p", prompt, "--output-format", "stream-json", "--verbose"]
    command += ["--allowedTools", ",".join(allowed_tools), *options]
    with tempfile.TemporaryDirectory() as home:
        environment = _environment(base_url, home) | dict(env or {})
        exit_code, out, err = _run(command, cwd, environment, timeout_s)
    events, unread = _read_events(out)
    return ClaudeRun(events, exit_code, err, unread)


def _environment(base_url: str, home: str) -> dict[str, str]:
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    environment |= {
        "HOME": home,
        "ANTHROPIC_BASE_URL": base_url,
        "ANTHROPIC_API_KEY": "test-key",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
    }
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        environment["IS_SANDBOX"] = "1"  # it refuses some modes as root otherwise
    return environment


def _run(command: list[str], cwd: Path, environment: dict[str, str], timeout_s: float) -> tuple[int, str, str]:
    """Exit code, output and errors; at the time-out the whole group of the child goes, its tools included."""
    child = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        start_new_session=True,
    )
    with child:
        try:
            out, err = child.communicate(timeout=timeout_s)
        except BaseException:
            os.killpg(child.pid, signal.SIGKILL)
            raise
    return child.returncode, out, err


def _read_events(out: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The JSON lines, and the lines that are none."""
    events: list[dict[str, Any]] = []
    unread: list[str] = []
    for line in out.splitlines():
        try:
            events.append(msgspec.json.decode(line, type=dict[str, Any]))
        except msgspec.DecodeError:
            unread.append(line)
    return events, unread
