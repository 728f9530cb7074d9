"""The laws of Claude Code's set-up: nothing but our variables changes, and what the file was is never lost."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from service.commands.claude import claude
from service.commands.claude_settings import BACKENDS, FEATURES, ClaudeError, replace

URL = "http://127.0.0.1:4181"
PRISTINE = '{\n    "model": "opus",\n    "env": {"FOO": "bär"},\n    "hooks": {}\n}'


class Setup:
    """A folder of Claude Code's, and the commands run upon it."""

    def __init__(self, home: Path) -> None:
        self.folder = home / ".claude"
        self.folder.mkdir()
        self.file = self.folder / "settings.json"
        self.kept = self.folder / "settings.json.before-ccproxy"

    def run(self, *arguments: str, status: int = 0) -> str:
        """What a command says."""
        result = CliRunner().invoke(claude, arguments)
        assert result.exit_code == status, result.output
        return " ".join(result.output.split())

    @property
    def env(self) -> dict[str, Any]:
        """The variables in the file."""
        found: dict[str, Any] = json.loads(self.file.read_text())["env"]
        return found

    def log_in(self) -> None:
        """As Claude Code on Linux does."""
        (self.folder / ".credentials.json").write_text('{"claudeAiOauth": {"accessToken": "secret"}}')


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    """A home of this test alone, in which nothing is set."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("ANTHROPIC_", "CLAUDE_")) or "_PROXY" in name.upper()]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("service.commands.claude.managed_folder", lambda: tmp_path / "managed")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CCPROXY_HOME", str(tmp_path / "ccproxy"))
    return Setup(tmp_path)


def test_setup_changes_our_variables_alone(setup: Setup) -> None:
    """All else stays, in its order and with its indent; the file's mode too."""
    setup.file.write_text(PRISTINE)
    setup.file.chmod(0o640)
    said = setup.run("setup")
    assert setup.file.read_text() == (
        '{\n    "model": "opus",\n    "env": {\n        "FOO": "bär",\n'
        f'        "ANTHROPIC_BASE_URL": "{URL}",\n        "ANTHROPIC_AUTH_TOKEN": "ccproxy"\n    }},\n'
        '    "hooks": {}\n}'
    )
    assert stat.S_IMODE(setup.file.stat().st_mode) == 0o640
    assert f"+ ANTHROPIC_BASE_URL={URL} + ANTHROPIC_AUTH_TOKEN=(set)" in said


@pytest.mark.parametrize(
    "pristine", [PRISTINE, "{}", "\n", '{"env": {"ANTHROPIC_BASE_URL": "http://other", "A": "1"}}\n']
)
def test_restore_brings_back_the_same_bytes(setup: Setup, pristine: str) -> None:
    """After any number of set-ups, whatever they said."""
    setup.file.write_text(pristine)
    for arguments in ((), ("--url", "http://127.0.0.1:9"), ("--key", "k"), ("--key", "l", "--keep-login")):
        setup.run("setup", *arguments)
        assert setup.kept.read_text() == pristine
    setup.run("restore")
    assert setup.file.read_text() == pristine
    assert sorted(path.name for path in setup.folder.iterdir()) == ["settings.json"]
    assert "nothing to restore" in setup.run("restore")


def test_where_there_was_no_file_there_is_none_again(setup: Setup) -> None:
    """Nor is a folder needed for a set-up."""
    setup.folder.rmdir()
    setup.run("setup")
    assert stat.S_IMODE(setup.file.stat().st_mode) == 0o600
    assert setup.env["ANTHROPIC_BASE_URL"] == URL
    assert "is removed" in setup.run("restore")
    assert list(setup.folder.iterdir()) == []


def test_what_was_changed_since_stays(setup: Setup) -> None:
    """Claude Code writes into the file too; only our variables go back."""
    setup.file.write_text('{"env": {"ANTHROPIC_BASE_URL": "http://other"}}')
    setup.run("setup", "--key", "k")
    settings = json.loads(setup.file.read_text())
    settings["permissions"] = {"allow": ["Bash"]}
    setup.file.write_text(json.dumps(settings))
    assert "are kept" in setup.run("restore")
    expected = {"env": {"ANTHROPIC_BASE_URL": "http://other"}, "permissions": {"allow": ["Bash"]}}
    assert json.loads(setup.file.read_text()) == expected
    assert not setup.kept.exists()


def test_a_file_that_was_removed_since_comes_back(setup: Setup) -> None:
    """Whole, as it was."""
    setup.file.write_text(PRISTINE)
    setup.run("setup")
    setup.file.unlink()
    setup.run("restore")
    assert setup.file.read_text() == PRISTINE


def by_file(setup: Setup, _: pytest.MonkeyPatch) -> None:
    """Linux keeps it in a file."""
    setup.log_in()


def by_state(setup: Setup, _: pytest.MonkeyPatch) -> None:
    """On macOS the state file tells that there is one in the keychain."""
    (setup.folder.parent / ".claude.json").write_text('{"oauthAccount": {"emailAddress": "a@b"}}')


def by_key(_: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key in the shell."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-api03-x")


def by_helper(setup: Setup, _: pytest.MonkeyPatch) -> None:
    """A program that tells one."""
    setup.file.write_text('{"apiKeyHelper": "/bin/echo"}')


@pytest.mark.parametrize("log_in", [by_file, by_state, by_key, by_helper])
def test_a_login_gets_no_token_that_would_hide_it(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, log_in: Callable[[Setup, pytest.MonkeyPatch], None]
) -> None:
    """The address is enough; a placeholder of an earlier set-up goes."""
    setup.run("setup")
    assert setup.env == {"ANTHROPIC_BASE_URL": URL, "ANTHROPIC_AUTH_TOKEN": "ccproxy"}
    setup.run("restore")
    log_in(setup, monkeypatch)
    setup.run("setup")
    assert setup.env == {"ANTHROPIC_BASE_URL": URL}
    setup.run("setup", "--key", "k1")
    assert setup.env["ANTHROPIC_AUTH_TOKEN"] == "k1"


def test_a_placeholder_goes_after_a_login(setup: Setup) -> None:
    """Who logs in later sets up once more."""
    setup.run("setup")
    setup.log_in()
    setup.run("setup")
    assert setup.env == {"ANTHROPIC_BASE_URL": URL}


def test_a_key_can_stand_beside_a_login(setup: Setup) -> None:
    """In a header of its own, beside the user's own headers; a second key takes the place of the first."""
    setup.log_in()
    setup.file.write_text('{"env": {"ANTHROPIC_CUSTOM_HEADERS": "x-team: a"}}')
    for key in ("k1", "k2"):
        setup.run("setup", "--key", key, "--keep-login")
    assert setup.env == {"ANTHROPIC_CUSTOM_HEADERS": "x-team: a\nx-ccproxy-key: k2", "ANTHROPIC_BASE_URL": URL}
    assert "requires --key" in setup.run("setup", "--keep-login", status=2)


def test_what_the_original_wrote_is_taken_out(setup: Setup) -> None:
    """Its placeholder for a key would hide a login. Restore brings all of it back."""
    setup.log_in()
    left = {"ANTHROPIC_API_URL": URL, "ANTHROPIC_BASE_URL": URL, "ANTHROPIC_API_KEY": "cc-proxy"}
    setup.file.write_text(json.dumps({"env": left}))
    setup.run("setup")
    assert setup.env == {"ANTHROPIC_BASE_URL": URL}
    setup.run("restore")
    assert setup.env == left


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{\n  // mine\n  "env": {}\n}', "not valid JSON (Expecting property name"),
        (b'{"env": {}', "not valid JSON"),
        (b"[]", "not a settings file"),
        (b'{"env": []}', "not a settings file"),
        (b'{"a": "\xff"}', "not valid JSON"),
    ],
)
def test_what_is_no_json_is_left_alone(setup: Setup, content: bytes, words: str) -> None:
    """The place of the mistake is named, and nothing is written."""
    setup.file.write_bytes(content)
    assert words in setup.run("setup", status=1)
    assert setup.file.read_bytes() == content
    assert not setup.kept.exists()


def test_a_dry_run_writes_nothing_and_shows_no_secret(setup: Setup) -> None:
    """It says what would be."""
    setup.file.write_text(PRISTINE)
    said = setup.run("setup", "--dry-run", "--key", "marked-secret")
    assert "is not changed" in said
    assert "marked-secret" not in said
    assert [path.name for path in setup.folder.iterdir()] == ["settings.json"]
    setup.run("setup")
    assert "Dry run" in setup.run("restore", "--dry-run")
    assert setup.env["ANTHROPIC_BASE_URL"] == URL


def test_a_project_has_a_file_of_its_own(setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that is not for sharing."""
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    setup.run("setup", "--project")
    assert not setup.file.exists()
    assert json.loads((project / ".claude" / "settings.local.json").read_text())["env"]["ANTHROPIC_BASE_URL"] == URL
    setup.run("restore", "--project")
    assert list((project / ".claude").iterdir()) == []


def test_claude_codes_own_variable_moves_the_folder(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a running proxy's address is the one that is taken."""
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(tmp_path / "elsewhere"))
    (tmp_path / "ccproxy").mkdir()
    (tmp_path / "ccproxy" / "run.json").write_text('{"proxy_url": "http://127.0.0.1:4999"}')
    setup.run("setup")
    assert not setup.file.exists()
    env = json.loads((tmp_path / "elsewhere" / "settings.json").read_text())["env"]
    assert env["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:4999"


def test_a_link_stays_a_link(setup: Setup, tmp_path: Path) -> None:
    """Many keep their settings elsewhere and link to them."""
    real = tmp_path / "dotfiles.json"
    real.write_text(PRISTINE)
    setup.file.symlink_to(real)
    setup.run("setup")
    assert setup.file.is_symlink()
    assert json.loads(real.read_text())["env"]["ANTHROPIC_BASE_URL"] == URL
    setup.run("restore")
    assert (setup.file.is_symlink(), real.read_text()) == (True, PRISTINE)


def test_a_change_by_another_program_is_not_overwritten(setup: Setup) -> None:
    """Claude Code may write just then."""
    setup.file.write_text("{}")
    with pytest.raises(ClaudeError, match="Try again"):
        replace(setup.file, b'{"older": 1}', b'{"ours": 1}')
    assert setup.file.read_text() == "{}"
    assert [path.name for path in setup.folder.iterdir()] == ["settings.json"]


def test_run_starts_claude_code_with_the_proxy(setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program takes our place, with its own arguments; what would keep it from the proxy is said before."""
    programs = tmp_path / "programs"
    programs.mkdir()
    fake = programs / "claude"
    fake.write_text('#!/bin/sh\necho "$ANTHROPIC_BASE_URL $ANTHROPIC_AUTH_TOKEN $*"\n')
    monkeypatch.setenv("PATH", str(programs))
    assert "`claude` is not on the PATH" in setup.run("run", status=1)
    fake.chmod(0o755)
    setup.file.write_text('{"env": {"ANTHROPIC_BASE_URL": "http://other"}}')
    command = [
        sys.executable,
        "-m",
        "service.cli",
        "claude",
        "run",
        "--url",
        "http://127.0.0.1:1",
        "--",
        "-p",
        "Hello you",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "http://127.0.0.1:1 ccproxy -p Hello you\n")
    assert f"{setup.file} sets ANTHROPIC_BASE_URL to http://other, which overrides" in done.stderr
    assert "No proxy answers at http://127.0.0.1:1" in done.stderr


# -- the outcome


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("in_shell", [True, False])
def test_another_backend_is_turned_off(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, name: str, *, in_shell: bool
) -> None:
    """It ranks above the base URL. Our file wins over the shell, and is restored as it was."""
    before = "{}" if in_shell else json.dumps({"env": {name: "1"}})
    setup.file.write_text(before)
    if in_shell:
        monkeypatch.setenv(name, "1")
    setup.run("setup")
    assert setup.env[name] == "0"
    setup.run("restore")
    assert setup.file.read_text() == before


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
def test_an_http_proxy_is_kept_from_the_loopback(setup: Setup, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """NO_PROXY keeps its entries; a network is not relied on, since programs differ."""
    monkeypatch.setenv(name, "http://user:marked-secret@corp.example:3128")
    monkeypatch.setenv("no_proxy", "intern.example,127.0.0.0/8")
    said = setup.run("setup")
    assert setup.env["NO_PROXY"] == "intern.example,127.0.0.0/8,127.0.0.1"
    assert "marked-secret" not in said
    assert "already points" in setup.run("setup")
    setup.run("restore")
    assert not setup.file.exists()


@pytest.mark.parametrize("value", ["127.0.0.1", "*", "a.example 127.0.0.1:4181"])
def test_no_proxy_that_suffices_is_left_alone(setup: Setup, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """So is an HTTP proxy, if ours is on another machine."""
    monkeypatch.setenv("HTTP_PROXY", "http://corp.example:3128")
    setup.run("setup", "--url", "http://ccproxy.example")
    assert "NO_PROXY" not in setup.env
    monkeypatch.setenv("NO_PROXY", value)
    setup.run("setup")
    assert "NO_PROXY" not in setup.env


@pytest.mark.parametrize(
    "file",
    [
        "managed/managed-settings.json",
        "managed/managed-settings.d/10-corp.json",
        "project/.claude/settings.local.json",
        "project/.claude/settings.json",
    ],
)
@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"ANTHROPIC_BASE_URL": "http://other"}, "ANTHROPIC_BASE_URL to http://other, which overrides"),
        ({"ANTHROPIC_AUTH_TOKEN": "marked-secret"}, "ANTHROPIC_AUTH_TOKEN to another token, which overrides"),
        ({"CLAUDE_CODE_USE_VERTEX": True}, "CLAUDE_CODE_USE_VERTEX: Claude Code sends its requests to Google Vertex"),
        ({"ANTHROPIC_UNIX_SOCKET": "/x"}, "ANTHROPIC_UNIX_SOCKET: Claude Code sends its requests to that socket"),
        ({"HTTP_PROXY": "http://corp", "NO_PROXY": ""}, "HTTP_PROXY: that proxy would get the requests to 127.0.0.1"),
    ],
)
def test_what_ranks_above_the_users_settings_is_named(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, env: dict[str, Any], words: str
) -> None:
    """With its file, and exit code 1: it is not ours to change."""
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"env": env}))
    (tmp_path / "project").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / "project")
    for command in (("setup", "--key", "k"), ("setup", "--key", "k", "--dry-run")):
        said = setup.run(*command, status=1)
        assert f"{path} sets {words}" in said
        assert "marked-secret" not in said


def test_features_are_turned_on_by_name(setup: Setup) -> None:
    """And off again by restore; nothing is asked in a script."""
    setup.run("setup", "--with", "tool-search", "--with", "cache-1h")
    expected = {"ENABLE_TOOL_SEARCH": "1", "ENABLE_PROMPT_CACHING_1H": "1"}
    assert expected.items() <= setup.env.items()
    assert "is not one of" in setup.run("setup", "--with", "unknown", status=2)
    setup.run("restore")
    assert not setup.file.exists()


def test_a_terminal_is_asked_once(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each feature, with what it does, before the first set-up."""
    asked: list[str] = []

    def confirm(text: str, **_: object) -> bool:
        asked.append(text)
        return "cached for 1 h" in text

    terminal = SimpleNamespace(isatty=lambda: True)
    monkeypatch.setattr("service.commands.claude.sys", SimpleNamespace(stdin=terminal, stdout=terminal))
    monkeypatch.setattr("service.commands.claude.click.confirm", confirm)
    setup.run("setup")
    assert len(asked) == len(FEATURES)
    assert {name for name in setup.env if name.startswith(("ENABLE", "CLAUDE"))} == {"ENABLE_PROMPT_CACHING_1H"}
    setup.run("setup")
    assert len(asked) == len(FEATURES)


def test_status_says_whether_the_proxy_is_reached(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set up, asked, and nothing in the way; else exit code 1 and the reason."""
    assert "not set up" in setup.run("status", status=1)
    setup.run("setup")
    assert f"No proxy answers at {URL}" in setup.run("status", status=1)
    monkeypatch.setattr("service.commands.claude.is_up", lambda url: url == URL)
    assert f"Claude Code uses the proxy at {URL} ({setup.file})" in setup.run("status")
    monkeypatch.setenv("HTTP_PROXY", "http://corp.example")
    found = json.loads(setup.run("status", "--json", status=1))
    assert (found["reaches_proxy"], found["base_url_from"]) == (False, str(setup.file))
    assert [each["variable"] for each in found["obstacles"]] == ["HTTP_PROXY"]
