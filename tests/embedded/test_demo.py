"""The laws of the demo: it shows failovers without any key, keeps the user's settings out, and leaves nothing."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from anthropic import Anthropic
from click.testing import CliRunner

from service.cli import main
from service.embedded import demo, folder
from service.embedded.demo_provider import SCRIPT, phase_at
from service.embedded.program import answers_livez
from service.fleet.status import Status, read_status
from service.settings import load
from tests.support.waiting import PATIENCE_S, eventually

SECRET = "marked-secret-of-the-user"


def test_the_script_begins_anew() -> None:
    """Each phase in its turn, for ever."""
    whole = sum(phase.seconds for phase in SCRIPT)
    assert phase_at(0) is phase_at(whole) is SCRIPT[0]
    assert phase_at(SCRIPT[0].seconds) is SCRIPT[1]
    assert phase_at(whole - 0.01) is SCRIPT[-1]
    assert {route for phase in SCRIPT for route in phase.troubles} <= {"anthropic", "subscription", "zai"}


def test_nothing_of_the_users_reaches_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, no address, no file of settings: only how to find the servers' programs, and how to log."""
    for name in ("ANTHROPIC_API_KEY", "ZAI_API_KEY", "HTTPS_PROXY", "CCPROXY_CONFIG", "DATABASE_URL", "REDIS_URL"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("LOG_LEVEL", "debug")
    before = dict(os.environ)
    try:
        demo.replace_environ(demo.demo_environ(tmp_path / "home", 4999, 4998))
        assert SECRET not in os.environ.values()
        settings = load()
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert [route.id for route in settings.routes if not route.off] == ["anthropic", "subscription", "zai"]
    assert all(route.base_url.startswith("http://127.0.0.1:4998/") for route in settings.routes)
    assert (settings.home, settings.log_level, settings.host) == (tmp_path / "home", "debug", "127.0.0.1")


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[str]:
    """The demo's providers as a process of their own."""
    port = folder.choose_port(tmp_path / "port")
    process = subprocess.Popen(demo.module_command("demo_provider", str(port)), cwd=Path(__file__).parents[2])
    try:
        assert eventually(lambda: answers_livez("127.0.0.1", port))
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def test_its_providers_speak_the_protocol(provider: str) -> None:
    """The SDK reads them: a stream, and a whole answer, with usage."""
    with Anthropic(base_url=f"{provider}/anthropic", api_key="k", max_retries=0) as client:
        ask = {"model": "claude-sonnet-4-6", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}
        with client.messages.stream(**ask) as stream:  # type: ignore[arg-type]
            final = stream.get_final_message()
        whole = client.messages.create(**ask)  # type: ignore[call-overload]
    for message in (final, whole):
        assert "This is an answer of the demo." in message.model_dump_json()
        assert message.usage.input_tokens >= 200
        assert message.usage.output_tokens >= 80


def demo_process(tmp_path: Path) -> subprocess.Popen[str]:
    """`ccproxy demo` where a user's own settings lie about."""
    (tmp_path / ".env").write_text(f"ANTHROPIC_API_KEY={SECRET}\nREDIS_URL=redis://127.0.0.1:1\n")
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "service.cli", "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path), "ZAI_API_KEY": SECRET},
    )


def status_of(home: Path) -> Status:
    """What `ccproxy status` would show."""
    run = json.loads((home / "run.json").read_text())
    return read_status(load(environ={"CCPROXY_HOME": str(home)}), run["redis_url"])


def test_the_demo_shows_traffic_and_leaves_nothing(tmp_path: Path) -> None:
    """Answers come, events are folded; Ctrl-C ends all of it and its folder goes."""
    process = demo_process(tmp_path)
    try:
        assert eventually(lambda: bool(list(tmp_path.glob("ccproxy-demo-*/*/run.json"))))
        (home,) = tmp_path.glob("ccproxy-demo-*/home")
        assert eventually(lambda: status_of(home).routes[0].attempts >= 3)
        first = status_of(home).routes[0]
        assert (first.route, first.limit_tokens) == ("anthropic", 80_000)
        assert eventually(lambda: sum(stream.position for stream in status_of(home).streams) >= 6)
        disabled = CliRunner().invoke(main, ["routes", "disable", "anthropic"], env={"CCPROXY_HOME": str(home)})
        assert disabled.exit_code == 0, disabled.output
        assert eventually(lambda: status_of(home).routes[0].state == "disabled"), "as the proxy itself tells it"
        assert eventually(lambda: status_of(home).routes[1].attempts > 0)
    finally:
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said
    assert "DEMO" in said
    assert "/dashboard" in said
    assert "now served by anthropic" in said
    assert SECRET not in said
    assert list(tmp_path.glob("ccproxy-demo-*")) == []
