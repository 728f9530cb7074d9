"""The set-up scripts: the one for Linux and macOS is run for real, its twin for Windows is parsed and compared."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import tree_sitter_powershell
from tree_sitter import Language, Parser

from service.settings import read_dotenv
from tests.deploy.image import ROOT
from tests.deploy.judges import DEPLOY, judged, packaged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tree_sitter import Node

SCRIPT, TWIN = DEPLOY / "setup-docker.sh", DEPLOY / "setup-docker.ps1"
LOGIN = {"claudeAiOauth": {"accessToken": "sk-access", "refreshToken": "sk-refresh", "expiresAt": 1}, "mcpOAuth": {}}


class Machine:
    """A user's machine: a home, a checkout of the project in a folder with a blank in its name, programs in PATH."""

    def __init__(self, folder: Path) -> None:
        self.home, self.project, self.bin = folder / "home", folder / "my project", folder / "bin"
        for place in (self.home, self.project / "deploy", self.bin):
            place.mkdir(parents=True)
        shutil.copy(SCRIPT, self.project / "deploy")
        shutil.copy(ROOT / ".env.docker.example", self.project)
        self.env_file = self.project / ".env.docker"

    def program(self, name: str, body: str) -> None:
        """Put a program before the machine's own."""
        (self.bin / name).write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        (self.bin / name).chmod(0o755)

    def log_in(self) -> Path:
        """Claude Code's credentials file, as it lies on Linux."""
        file = self.home / ".claude" / ".credentials.json"
        file.parent.mkdir()
        file.write_text(json.dumps(LOGIN), encoding="utf-8")
        return file

    def run(self, *arguments: str, fine: bool = True, **environ: str) -> str:
        """What the script says."""
        environ |= {"HOME": str(self.home), "PATH": f"{self.bin}:{os.environ['PATH']}"}
        command = ["/bin/sh", str(self.project / "deploy" / "setup-docker.sh"), *arguments]
        done = subprocess.run(
            command, env=environ, cwd=self.home, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode == 0) == fine, done.stdout + done.stderr
        return done.stdout + done.stderr

    def backups(self) -> list[Path]:
        """What the script has kept."""
        return sorted(self.project.glob(".env.docker.backup.*"))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A Linux machine; what Linux says of itself is said whatever runs the test."""
    made = Machine(tmp_path)
    made.program("uname", "echo Linux")
    return made


def test_shellcheck_is_content() -> None:
    """With all that it checks by itself."""
    judged(packaged("shellcheck"), SCRIPT)


def test_the_first_run_makes_the_file_of_the_example(machine: Machine) -> None:
    """As it is, for its owner alone, and it tells how to start."""
    said = machine.run()
    assert machine.env_file.read_text(encoding="utf-8") == (ROOT / ".env.docker.example").read_text(encoding="utf-8")
    assert machine.env_file.stat().st_mode & 0o777 == 0o600
    assert "docker compose --env-file" in said
    assert not machine.backups()


def test_another_run_changes_nothing(machine: Machine) -> None:
    """Not even a backup is made."""
    machine.run()
    assert "Nothing to change" in machine.run()
    assert not machine.backups()


def test_the_subscription_is_used_when_it_is_asked_for(machine: Machine) -> None:
    """With the path of the file, and its owner as the containers' user."""
    file = machine.log_in()
    machine.run("--subscription")
    found = read_dotenv(machine.env_file)
    owner = file.stat()
    assert found == {
        "CLAUDE_SUBSCRIPTION_ENABLED": "true",
        "CLAUDE_CREDENTIALS_FILE": str(file),
        "CCPROXY_UID": str(owner.st_uid),
        "CCPROXY_GID": str(owner.st_gid),
    }


def test_the_login_stays_alone_when_nobody_asked(machine: Machine) -> None:
    """Opt-in."""
    machine.log_in()
    machine.run()
    assert read_dotenv(machine.env_file) == {}


def test_what_the_user_wrote_is_kept(machine: Machine) -> None:
    """Before as a backup, and after in the file; each backup is another file."""
    machine.log_in()
    mine = "# mine\nANTHROPIC_API_KEY=sk-mine\nCLAUDE_SUBSCRIPTION_ENABLED=false\n#CCPROXY_UID=1\n"
    machine.env_file.write_text(mine, encoding="utf-8")
    machine.program("date", "echo 20260101-000000")
    machine.run("--subscription")
    assert [backup.read_text(encoding="utf-8") for backup in machine.backups()] == [mine]
    text = machine.env_file.read_text(encoding="utf-8")
    assert text.startswith("# mine\nANTHROPIC_API_KEY=sk-mine\nCLAUDE_SUBSCRIPTION_ENABLED=true\nCCPROXY_UID=")
    other = machine.home / "other.json"
    other.write_text("{}", encoding="utf-8")
    machine.run("--subscription", "--credentials", str(other))
    assert [backup.read_text(encoding="utf-8") for backup in machine.backups()] == [mine, text]
    assert read_dotenv(machine.env_file)["CLAUDE_CREDENTIALS_FILE"] == str(other)
    assert machine.env_file.read_text(encoding="utf-8").count("CLAUDE_CREDENTIALS_FILE=") == 1


def test_paths_with_blanks_and_dollars_are_quoted(machine: Machine) -> None:
    """As Compose reads env files."""
    file = machine.home / "a $HOME of mine.json"
    file.write_text("{}", encoding="utf-8")
    machine.run("--subscription", "--credentials", str(file))
    assert f"CLAUDE_CREDENTIALS_FILE='{file}'\n" in machine.env_file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--subscription"], "log in"),
        (["--subscription", "--credentials", "/nonexistent"], "no such file"),
        (["-x"], "-x"),
    ],
    ids=["no login", "no file", "no option"],
)
def test_a_mistake_writes_nothing(machine: Machine, arguments: list[str], word: str) -> None:
    """It says what is wrong."""
    assert word in machine.run(*arguments, fine=False)
    assert not machine.env_file.exists()


def test_another_file_is_written_where_it_is_asked_for(machine: Machine) -> None:
    """By option or by the original's variable."""
    machine.run("--env-file", str(machine.home / "one"))
    machine.run(PROXY_ENV_FILE=str(machine.home / "two"))
    assert (machine.home / "one").exists()
    assert (machine.home / "two").exists()
    assert not machine.env_file.exists()


def test_on_macos_the_keychain_is_asked(machine: Machine) -> None:
    """Its login becomes a file for its owner alone, without the refresh token, which Claude Code needs for itself."""
    machine.program("uname", "echo Darwin")
    machine.program("security", f"[ \"$3\" = 'Claude Code-credentials' ] && printf '%s\\n' '{json.dumps(LOGIN)}'")
    machine.run("--subscription")
    file = Path(read_dotenv(machine.env_file)["CLAUDE_CREDENTIALS_FILE"])
    assert file == machine.home / ".claude" / "claude-credentials.json"
    assert file.stat().st_mode & 0o777 == 0o600
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found == {**LOGIN, "claudeAiOauth": LOGIN["claudeAiOauth"] | {"refreshToken": ""}}


def test_on_macos_without_a_login_nothing_is_written(machine: Machine) -> None:
    """The Keychain has none."""
    machine.program("uname", "echo Darwin")
    machine.program("security", "exit 44")
    assert "log in" in machine.run("--subscription", fine=False)


def test_help_is_the_scripts_own_head(machine: Machine) -> None:
    """So that it can't say something else."""
    said = machine.run("--help")
    assert "--subscription" in said
    assert "The limit of a mounted file" in said
    assert "set -eu" not in said


def nodes(node: Node) -> Iterator[Node]:
    """A node and all below it."""
    yield node
    for child in node.children:
        yield from nodes(child)


def parsed() -> Node:
    """The twin's syntax tree."""
    return Parser(Language(tree_sitter_powershell.language())).parse(TWIN.read_bytes()).root_node


def test_the_twin_is_powershell() -> None:
    """Its syntax has no error; Windows' own PowerShell would read other characters wrongly."""
    assert TWIN.read_bytes().isascii()
    wrong = [(node.type, node.start_point) for node in nodes(parsed()) if node.is_error or node.is_missing]
    assert wrong == []


def test_the_twin_calls_only_what_is_there() -> None:
    """Its own functions, and commands that every PowerShell since 5.1 has; no function is left over."""
    names = {(node.text or b"").decode() for node in nodes(parsed()) if node.type == "command_name"}
    own = {(node.text or b"").decode() for node in nodes(parsed()) if node.type == "function_name"}
    known = {
        "Copy-Item", "Get-Date", "Join-Path", "Move-Item", "New-Object", "Resolve-Path", "Set-StrictMode", "Split-Path",
        "Test-Path", "Write-Host",
    }  # fmt: skip
    assert names - own <= known
    assert own <= names


def test_the_twins_do_the_same() -> None:
    """The same variables (but for the user, whom Windows' containers need not be), the same promises."""
    script, twin = SCRIPT.read_text(encoding="utf-8"), TWIN.read_text(encoding="utf-8")
    mine = set(re.findall(r"set_variable ([A-Z_]+)", script))
    theirs = set(re.findall(r"Set-EnvLine \$lines '([A-Z_]+)'", twin))
    assert mine - theirs == {"CCPROXY_UID", "CCPROXY_GID"}
    assert theirs < mine
    for promise in (
        ".env.docker.example",
        ".backup.",
        "PROXY_ENV_FILE",
        "CLAUDE_CONFIG_DIR",
        "The limit of a mounted file",
    ):
        assert promise in script
        assert promise in twin
