"""`ccproxy service`: the files, as systemd and Apple's documents read them, and what the commands do with them.

Without systemd as the first process: `systemctl` and `loginctl` are scripts here that write down what they were asked.
`tests/install/test_service.py` runs what is installed.
"""

from __future__ import annotations

import errno
import json
import os
import plistlib
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest
from click.testing import CliRunner, Result
from hypothesis import example, given
from hypothesis import strategies as st

from service.cli import main
from service.commands import service, service_control
from service.commands.service_control import Launchd, Systemd
from service.commands.service_files import (
    LABEL,
    ServicePlan,
    launchd_agent,
    plan_in_agent,
    plan_in_unit,
    systemd_unit,
)
from service.embedded import folder
from service.settings.unused import OUTSIDE_ONLY
from tests.support.servers import program

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

KEY = "sk-ant-api03-marked-of-the-service-aaaa"
LAUNCHD_KEYS = {
    "Label": str,
    "ProgramArguments": list,
    "WorkingDirectory": str,
    "EnvironmentVariables": dict,
    "RunAtLoad": bool,
    "KeepAlive": dict,
    "ThrottleInterval": int,
    "ExitTimeOut": int,
    "StandardOutPath": str,
    "StandardErrorPath": str,
    "Umask": int,
    "SoftResourceLimits": dict,
}
"""Of launchd.plist(5): the keys that are of use here, with their types. Umask is decimal: the format has no octal."""
KEEP_ALIVE = {"SuccessfulExit", "NetworkState", "PathState", "OtherJobEnabled", "AfterInitialDemand", "Crashed"}
RESOURCES = {"Core", "CPU", "Data", "FileSize", "MemoryLock", "NumberOfFiles", "NumberOfProcesses", "ResidentSetSize"}
SYSTEMCTL = """\
#!/bin/sh
echo "$(basename "$0") $*" >> "$RECORD"
case "$*" in
  *show-environment*) test -z "$NO_BUS" || { echo "Failed to connect to bus" >&2; exit 1; } ;;
  *" show "*|"show "*) printf 'ActiveState=%s\\nSubState=running\\nUnitFileState=enabled\\nMainPID=17\\n' \
    "${ACTIVE:-active}" ;;
  *show-user*) echo "Linger=${LINGER:-no}" ;;
  *restart*) test -z "$FAILS" || { printf 'Job failed.\\nSee journalctl.\\n' >&2; exit 1; } ;;
esac
"""


def plan(folder_: Path, **variables: str) -> ServicePlan:
    """What a service runs that is installed in this folder."""
    return ServicePlan((sys.executable, "up"), folder_, folder_, {"CCPROXY_HOME": str(folder_), **variables})


def verified(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """What `systemd-analyze verify` says."""
    return subprocess.run(
        [program("systemd-analyze", "systemd"), *options, "verify", "--man=no", path],
        env=os.environ | {"XDG_RUNTIME_DIR": str(path.parent)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("of_root", [False, True], ids=["user", "root"])
@pytest.mark.parametrize("name", ["plain", 'with "quotes", 100% $HOME and\\spaces'])
def test_systemd_reads_the_unit_without_a_complaint(tmp_path: Path, name: str, *, of_root: bool) -> None:
    """Every directive is known, and has a value that it can have, whatever the folder is called."""
    place = tmp_path / name
    place.mkdir()
    command = place / "ccproxy"
    command.symlink_to(sys.executable)
    wanted = ServicePlan((str(command), "up", "$x"), place, place, {"CCPROXY_HOME": str(place)}, (place,))
    unit = tmp_path / "ccproxy.service"
    unit.write_text(systemd_unit(wanted, of_root=of_root), encoding="utf-8")
    done = verified(unit, *([] if of_root else ["--user"]))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_systemd_complains_about_what_is_wrong(tmp_path: Path) -> None:
    """That the test above can fail: an unknown directive, and a program that is not there."""
    unit = tmp_path / "ccproxy.service"
    text = systemd_unit(plan(tmp_path), of_root=False)
    unit.write_text(text.replace("KillMode", "KilMode").replace(sys.executable, "/nowhere/ccproxy"), encoding="utf-8")
    done = verified(unit, "--user")
    assert done.returncode != 0
    assert "KilMode" in done.stderr
    assert "/nowhere/ccproxy" in done.stderr


def test_the_agent_has_keys_that_launchd_documents(tmp_path: Path) -> None:
    """It is a property list of keys with the types that launchd.plist(5) names, in a file named by its label."""
    keys = plistlib.loads(launchd_agent(plan(tmp_path)).encode())
    assert {name: type(value) for name, value in keys.items()} == LAUNCHD_KEYS
    assert keys["KeepAlive"].keys() <= KEEP_ALIVE
    assert keys["SoftResourceLimits"].keys() <= RESOURCES
    assert all(isinstance(word, str) for word in (*keys["ProgramArguments"], *keys["EnvironmentVariables"].values()))
    assert keys["Umask"] == 63
    assert Launchd(501).file.name == f"{keys['Label']}.plist"
    assert Launchd(501).file.parent == Path.home() / "Library" / "LaunchAgents"
    assert Launchd(0).file == Path(f"/Library/LaunchDaemons/{LABEL}.plist")


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1)


@given(WORDS, st.lists(WORDS), WORDS)
@example("a\u2028b", ["\u2029"], "\u2028")
@example("ends in a blank ", [], "x ")
@example("ends in a backslash\\", ["\\"], "\\")
def test_what_is_written_is_read_back(name: str, arguments: Sequence[str], value: str) -> None:
    """Whatever a folder, an argument or a variable holds; what no file can hold is refused before."""
    place = Path("/") / name.replace("/", "_")
    wanted = ServicePlan((str(place), *arguments), place, place, {"CCPROXY_HOME": str(place), "SSL_CERT_FILE": value})
    assert wanted.unfit() == ""
    unit = systemd_unit(wanted, of_root=True)
    assert plan_in_unit(unit) == wanted
    # Systemd joins lines at a backslash, and strips others.
    assert [line for line in unit.split("\n") if line.endswith(("\\", " "))] == []
    assert plan_in_agent(launchd_agent(wanted)) == wanted


def test_bytes_that_are_no_text_are_refused_and_the_old_file_stays(machine: Machine) -> None:
    """A folder may be called anything but for a slash and a zero byte."""
    assert machine.run("install").exit_code == 0
    before = machine.unit.read_bytes()
    place = os.fsdecode(os.fsencode(machine.home) + b"/caf\xe9")
    Path(place).mkdir()
    (Path(place) / ".env").touch()
    os.chdir(place)
    done = machine.run("install")
    assert done.exit_code == 1
    assert "no UTF-8" in done.output
    assert machine.unit.read_bytes() == before


def test_a_full_disk_leaves_the_old_file(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written beside, and put in place as a whole."""
    assert machine.run("install").exit_code == 0
    before = machine.unit.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    assert machine.run("install").exit_code == 1
    assert machine.unit.read_bytes() == before
    assert stat.S_IMODE(machine.unit.stat().st_mode) == 0o644


def full(_: int) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_line_break_is_refused(tmp_path: Path) -> None:
    assert plan(tmp_path / "a\nExecStart=b").unfit()
    assert plan(tmp_path, SSL_CERT_FILE="a\nExecStart=b").unfit()


class Machine:
    """A machine with systemd, as far as the commands can see, and a user on it."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home = tmp_path / "home"
        self.state = self.home / ".local" / "state" / "ccproxy"
        self.unit = self.home / ".config" / "systemd" / "user" / "ccproxy.service"
        self.record = tmp_path / "record"
        tools = tmp_path / "tools"
        for place in (self.home, tools, tmp_path / "booted"):
            place.mkdir()
        for name in ("systemctl", "loginctl"):
            (tools / name).write_text(SYSTEMCTL, encoding="utf-8")
            (tools / name).chmod(0o755)
        self.command = tools / "ccproxy"
        self.command.symlink_to(sys.executable)
        for name in [name for name in os.environ if name in OUTSIDE_ONLY or "SYSTEMD" in name]:
            monkeypatch.delenv(name)
        for name, value in {"HOME": self.home, "PATH": f"{tools}:/usr/bin:/bin", "RECORD": self.record}.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
        monkeypatch.delenv("XDG_STATE_HOME", raising=False)
        monkeypatch.chdir(self.home)
        monkeypatch.setattr(sys, "argv", [str(self.command)])
        monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
        monkeypatch.setattr(service_control, "BOOTED", tmp_path / "booted")
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        monkeypatch.setattr(service, "await_serving", lambda *_: True)
        self.set = monkeypatch.setattr

    def run(self, *arguments: str, **variables: str) -> Result:
        return CliRunner().invoke(main, ["service", *arguments], env=variables)

    @property
    def asked(self) -> list[str]:
        """What systemctl was asked to change."""
        lines = self.record.read_text(encoding="utf-8").splitlines() if self.record.exists() else []
        return [line for line in lines if "show" not in line]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_install_starts_a_unit_of_the_user_and_says_what_to_type_next(machine: Machine) -> None:
    """It runs in CCPROXY_HOME, by the path of the installed command; the user hears of lingering."""
    done = machine.run("install")
    assert done.exit_code == 0, done.output
    assert machine.asked == [
        "systemctl --user daemon-reload",
        "systemctl --user enable ccproxy.service",
        "systemctl --user restart ccproxy.service",
    ]
    wanted = ServicePlan(
        (str(machine.command), "up"), machine.state, machine.state, {"CCPROXY_HOME": str(machine.state)}
    )
    assert plan_in_unit(machine.unit.read_text(encoding="utf-8")) == wanted
    assert stat.S_IMODE(machine.state.stat().st_mode) == 0o700
    for words in (str(machine.unit), "serves on http://127.0.0.1:4181", "loginctl enable-linger", "service status"):
        assert words in done.output
    assert "enable-linger" not in machine.run("install", LINGER="yes").output


def test_the_folder_with_env_is_where_it_runs_and_no_secret_leaves_it(machine: Machine) -> None:
    """What `.env` or the shell hold is in no unit; what the shell alone has is named, without its value."""
    (machine.home / ".env").write_text(f"ANTHROPIC_API_KEY='{KEY}'\nPROXY_PORT=4999\n", encoding="utf-8")
    done = machine.run(
        "install",
        ZAI_API_KEY="key-of-the-shell",
        HTTPS_PROXY="http://user:secret@proxy:1",
        NO_PROXY="intern.example",
        SSL_CERT_FILE="/etc/certs.pem",
    )
    assert done.exit_code == 0, done.output
    text = machine.unit.read_text(encoding="utf-8")
    assert plan_in_unit(text).folder == machine.home
    assert dict(plan_in_unit(text).variables) == {
        "CCPROXY_HOME": str(machine.state), "NO_PROXY": "intern.example", "SSL_CERT_FILE": "/etc/certs.pem",
    }  # fmt: skip
    assert "serves on http://127.0.0.1:4999" in done.output
    assert "This shell sets HTTPS_PROXY, ZAI_API_KEY;" in done.output
    for secret in (KEY, "secret@", "key-of-the-shell"):
        assert secret not in text + done.output


def test_a_file_of_settings_is_named_by_its_whole_path(machine: Machine) -> None:
    (machine.home / "my.toml").write_text("[env]\nPROXY_PORT = 4888\n", encoding="utf-8")
    done = machine.run("install", "--config", "my.toml")
    assert done.exit_code == 0, done.output
    variables = plan_in_unit(machine.unit.read_text(encoding="utf-8")).variables
    assert variables["CCPROXY_CONFIG"] == str(machine.home / "my.toml")
    assert "4888" in machine.run("status").output


def test_wrong_settings_are_refused_before_anything_is_written(machine: Machine) -> None:
    (machine.home / ".env").write_text("PROXY_PORT=many\n", encoding="utf-8")
    done = machine.run("install")
    assert done.exit_code == 1
    assert "PROXY_PORT" in done.output
    assert not machine.unit.exists()


def test_a_folder_that_has_been_removed_is_told(machine: Machine, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    done = machine.run("install", "--dry-run")
    os.chdir(tmp_path)
    assert done.exit_code == 1
    assert done.output == "Error: the current folder has been removed; change to another one\n"


def test_a_dry_run_changes_nothing(machine: Machine) -> None:
    """It shows the unit and the commands; as JSON, too."""
    shown = machine.run("install", "--dry-run")
    told = json.loads(machine.run("install", "--dry-run", "--json").output)
    assert (shown.exit_code, machine.asked, machine.unit.exists()) == (0, [], False)
    assert told["text"] in shown.output
    assert told["commands"][-1] == ["systemctl", "--user", "restart", "ccproxy.service"]
    assert "systemctl --user restart ccproxy.service" in shown.output
    assert list(machine.home.iterdir()) == []


def test_without_start_only_the_file_is_written(machine: Machine, tmp_path: Path) -> None:
    """Also where no systemd runs, as while an image is built; the commands are named."""
    machine.set(service_control, "BOOTED", tmp_path / "none")
    done = machine.run("install", "--no-start")
    assert (done.exit_code, machine.asked, machine.unit.exists()) == (0, [], True)
    assert "systemctl --user enable ccproxy.service" in done.output


@pytest.mark.parametrize("command", ["install", "uninstall"])
def test_without_systemd_it_says_so_and_changes_nothing(machine: Machine, tmp_path: Path, command: str) -> None:
    if command == "uninstall":
        assert machine.run("install", "--no-start").exit_code == 0
    machine.set(service_control, "BOOTED", tmp_path / "none")
    done = machine.run(command)
    assert done.exit_code == 1
    assert "no systemd runs this machine" in done.output
    assert "WSL" in done.output
    assert machine.unit.exists() == (command == "uninstall")
    assert machine.asked == []


def test_a_user_without_a_systemd_of_its_own_hears_how_to_get_one(machine: Machine) -> None:
    done = machine.run("install", NO_BUS="1")
    assert done.exit_code == 1
    assert "Failed to connect to bus" in done.output
    assert "XDG_RUNTIME_DIR=/run/user/1000" in done.output
    assert not machine.unit.exists()


def test_the_unit_is_where_systemd_looks_for_it(machine: Machine, tmp_path: Path) -> None:
    """Below XDG_CONFIG_HOME; a relative one is ignored, as its specification says."""
    found = json.loads(machine.run("install", "--dry-run", "--json", XDG_CONFIG_HOME=str(tmp_path)).output)
    assert found["file"] == str(tmp_path / "systemd" / "user" / "ccproxy.service")
    found = json.loads(machine.run("install", "--dry-run", "--json", XDG_CONFIG_HOME="here").output)
    assert found["file"] == str(machine.unit)


def test_what_systemd_refuses_is_one_line(machine: Machine) -> None:
    done = machine.run("install", FAILS="1")
    assert done.exit_code == 1
    assert "`systemctl --user restart ccproxy.service`: Job failed.; see `ccproxy service logs`" in done.output


def test_an_up_that_already_runs_there_is_named(machine: Machine) -> None:
    """Both can't have one folder: the service would only fail."""
    machine.run("install", "--no-start")
    with folder.Locked(machine.state / "lock", timeout_s=0):
        (machine.state / "lock").write_text("4711\n", encoding="utf-8")
        refused = machine.run("install", ACTIVE="inactive")
        assert machine.run("install").exit_code == 0  # the service's own `up` is restarted
    assert refused.exit_code == 1
    assert "(process 4711)" in refused.output
    assert machine.run("install", ACTIVE="inactive").exit_code == 0


def test_status_says_how_it_stands(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit status 0 only while the proxy answers; a command that has gone is named."""
    assert machine.run("status").exit_code == 1
    assert "service install" in machine.run("status").output
    machine.run("install")
    monkeypatch.setattr(service, "answers_livez", lambda *_: True)
    done = machine.run("status")
    assert done.exit_code == 0
    assert "active (running), process 17" in done.output
    told = json.loads(machine.run("status", "--json", LINGER="yes").output)
    assert (told["active"], told["boots"], told["pid"], told["serves"]) == (True, True, 17, True)
    assert machine.run("status", ACTIVE="failed").exit_code == 1
    machine.command.unlink()
    assert f"{machine.command} is gone" in machine.run("status").output


def test_uninstall_stops_it_and_keeps_the_data(machine: Machine) -> None:
    machine.run("install")
    (machine.state / "data").touch()
    dry = machine.run("uninstall", "--dry-run").output.splitlines()
    machine.record.unlink()
    done = machine.run("uninstall")
    assert done.exit_code == 0, done.output
    commands = ["systemctl --user disable --now ccproxy.service", "systemctl --user daemon-reload"]
    assert machine.asked == commands
    assert dry == [commands[0], f"rm {machine.unit}", commands[1]]
    assert not machine.unit.exists()
    assert (machine.state / "data").exists()
    assert machine.run("uninstall").exit_code == 1


def test_logs_are_those_of_the_unit(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Sequence[str]] = []
    monkeypatch.setattr(os, "execvpe", lambda _, command, __: ran.append(command))
    machine.run("install")
    assert machine.run("logs", "-f", "-n", "7").exit_code == 0
    assert ran == [("journalctl", "--user", "--unit=ccproxy.service", "--lines=7", "--follow")]
    assert Systemd(0).log_command(1, follow=False) == ("journalctl", "--unit=ccproxy.service", "--lines=1")
    assert Launchd(501).log_command(1, follow=True)[-4:] == ("logs", "service", "--lines=1", "--follow")


@pytest.mark.parametrize(
    "prefix",
    [lambda top: top / ".cache" / "uv" / "archive-v0" / "x", lambda top: top / "tagged" / "archive-v0" / "x"],
    ids=["by name", "by tag"],
)
def test_what_runs_from_a_cache_is_installed_first(
    machine: Machine, tmp_path: Path, prefix: Callable[[Path], Path]
) -> None:
    """`uvx` runs from its cache, which may be emptied at any time."""
    (tmp_path / "tagged").mkdir()
    (tmp_path / "tagged" / "CACHEDIR.TAG").touch()
    machine.set(sys, "prefix", str(prefix(tmp_path)))
    done = machine.run("install")
    assert done.exit_code == 1
    assert "uv tool install claude-failover" in done.output


def test_root_gets_a_unit_of_the_machine(machine: Machine) -> None:
    """It starts at boot, needs no lingering, and has what `up` needs of root alone."""
    machine.set(os, "geteuid", lambda: 0)
    told = json.loads(machine.run("install", "--dry-run", "--json").output)
    assert told["file"] == "/etc/systemd/system/ccproxy.service"
    assert told["commands"][0] == ["systemctl", "daemon-reload"]
    assert "WantedBy=multi-user.target" in told["text"]
    assert plan_in_unit(told["text"]).variables["HOME"] == str(machine.home)
    [writable] = re.findall("^ReadWritePaths=(.*)$", told["text"], re.MULTILINE)
    assert writable == f"{machine.state} -{machine.home / '.claude'}"
    assert machine.asked == []
