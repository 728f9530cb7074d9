"""systemd and launchd, as far as one service needs them: where its file lies, how it is started, how it stands.

A user's service is a unit of the user's own systemd, or a launchd agent; root's is one of the machine. Not here: what
the files say (`service_files`), and what is shown (`service`).
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import click
from msgspec import Struct

from service.commands.service_files import (
    LABEL,
    NAME,
    ServicePlan,
    launchd_agent,
    plan_in_agent,
    plan_in_unit,
    systemd_unit,
)
from service.embedded.program import own_command

BOOTED = Path("/run/systemd/system")
"""There while systemd is the first process (sd_booted(3))."""
COMMAND_S = 700.0
"""A restart waits until answers under way have ended."""
UNIT = f"{NAME}.service"
UNLOAD = 'launchctl bootout "$0" 2>/dev/null; while launchctl print "$0" >/dev/null 2>&1; do sleep 0.2; done'
"""Until a service has ended, launchd refuses to load it again."""
NO_SYSTEMD = (
    "no systemd runs this machine, as in a container, or in WSL without it. In a container `ccproxy up` itself is the "
    "service (docs/docker.md). In WSL, write `[boot]` and `systemd=true` to /etc/wsl.conf and run `wsl --shutdown`"
)
NO_BUS = (
    "your user has no systemd of its own here ({error}). That is so after `su` or `sudo -u`: log in as this user "
    "instead, as by ssh; or run `loginctl enable-linger` for it as root, and set XDG_RUNTIME_DIR=/run/user/{uid}"
)
Words = tuple[str, ...]


class ServiceState(Struct, frozen=True):
    """How a service stands. `boots` is None where it is not known whether it starts without a login."""

    installed: bool
    active: bool = False
    state: str = "not installed"
    pid: int = 0
    boots: bool | None = None


class ServiceControl(Protocol):
    """What the commands need of systemd or launchd."""

    kind: str
    file: Path

    def text(self, plan: ServicePlan) -> str:
        """Return the content of the file."""

    def plan_in(self, text: str) -> ServicePlan:
        """Return what a file of ours runs."""

    def obstacle(self) -> str:
        """Return why it can't be used here, "" if it can."""

    def start(self) -> Sequence[Words]:
        """Return the commands that start it with a new file, and at each boot or login."""

    def stop(self) -> Sequence[Words]:
        """Return the commands that stop it for good."""

    def forget(self) -> Sequence[Words]:
        """Return the commands after the file is removed."""

    def look(self) -> ServiceState:
        """Return how it stands."""

    def log_command(self, lines: int, *, follow: bool) -> Words:
        """Return the command that prints its log."""

    def advice(self) -> Sequence[str]:
        """Return what the user should do, too."""


class Systemd:
    """A unit of the user's own systemd; of the machine's for root."""

    def __init__(self, uid: int) -> None:
        self._uid = uid
        self._scope = () if uid == 0 else ("--user",)
        self.kind = "systemd unit of this machine" if uid == 0 else "systemd unit of your user"
        given = Path(os.environ.get("XDG_CONFIG_HOME", ""))
        config = given if given.is_absolute() else Path.home() / ".config"  # as systemd itself does it
        self.file = (Path("/etc/systemd/system") if uid == 0 else config / "systemd" / "user") / UNIT

    def text(self, plan: ServicePlan) -> str:
        """Return the content of the file."""
        return systemd_unit(plan, of_root=self._uid == 0)

    def plan_in(self, text: str) -> ServicePlan:
        """Return what a file of ours runs."""
        return plan_in_unit(text)

    def obstacle(self) -> str:
        """Return why it can't be used here, "" if it can."""
        if not BOOTED.is_dir() or not shutil.which("systemctl"):
            return NO_SYSTEMD
        asked = ask(self._ctl("show-environment"))
        if asked.returncode:
            return NO_BUS.format(error=asked.stderr.strip(), uid=self._uid)
        return ""

    def start(self) -> Sequence[Words]:
        """Return the commands that start it with a new file, and at each boot or login."""
        return (self._ctl("daemon-reload"), self._ctl("enable", UNIT), self._ctl("restart", UNIT))

    def stop(self) -> Sequence[Words]:
        """Return the commands that stop it for good."""
        return (self._ctl("disable", "--now", UNIT),)

    def forget(self) -> Sequence[Words]:
        """Return the commands after the file is removed."""
        return (self._ctl("daemon-reload"),)

    def look(self) -> ServiceState:
        """Return how it stands."""
        if not self.file.exists():
            return ServiceState(installed=False)
        properties = "--property=ActiveState,SubState,UnitFileState,MainPID"
        told = dict(line.partition("=")[::2] for line in ask(self._ctl("show", UNIT, properties)).stdout.splitlines())
        enabled = told.get("UnitFileState") == "enabled"
        active, detail = told.get("ActiveState", "unknown"), told.get("SubState", "")
        return ServiceState(
            installed=True,
            active=active == "active",
            state=f"{active} ({detail})" if detail else active,
            pid=int(told.get("MainPID") or 0),
            boots=enabled and (self._uid == 0 or self._lingers()),
        )

    def log_command(self, lines: int, *, follow: bool) -> Words:
        """Return the command that prints its log."""
        return ("journalctl", *self._scope, f"--unit={UNIT}", f"--lines={lines}", *(("--follow",) if follow else ()))

    def advice(self) -> Sequence[str]:
        """Return what the user should do, too."""
        if self._uid == 0 or self._lingers():
            return ()
        return ("It runs while you are logged in. To run it from boot on: loginctl enable-linger",)

    def _ctl(self, *arguments: str) -> Words:
        return ("systemctl", *self._scope, *arguments)

    def _lingers(self) -> bool:
        return ask(("loginctl", "show-user", str(self._uid), "--property=Linger")).stdout.strip() == "Linger=yes"


class Launchd:
    """An agent of the user; for root a daemon of the machine."""

    def __init__(self, uid: int) -> None:
        self._domain = "system" if uid == 0 else f"gui/{uid}"
        self.kind = "launchd daemon" if uid == 0 else "launchd agent"
        folder = Path("/Library/LaunchDaemons") if uid == 0 else Path.home() / "Library" / "LaunchAgents"
        self.file = folder / f"{LABEL}.plist"

    def text(self, plan: ServicePlan) -> str:
        """Return the content of the file."""
        return launchd_agent(plan)

    def plan_in(self, text: str) -> ServicePlan:
        """Return what a file of ours runs."""
        return plan_in_agent(text)

    def obstacle(self) -> str:
        """Return why it can't be used here, "" if it can."""
        asked = ask(("launchctl", "print", self._domain))
        if asked.returncode:
            return f"there is no launchd domain {self._domain}: log in at the Mac's own screen, not by ssh alone"
        return ""

    def start(self) -> Sequence[Words]:
        """Return the commands that start it with a new file, and at each boot or login."""
        load: Sequence[Words] = (
            ("launchctl", "enable", self._target),
            ("launchctl", "bootstrap", self._domain, str(self.file)),
        )
        return (*self.stop(), *load)

    def stop(self) -> Sequence[Words]:
        """Return the commands that stop it for good."""
        return (("/bin/sh", "-c", UNLOAD, self._target),)

    def forget(self) -> Sequence[Words]:
        """Return the commands after the file is removed."""
        return ()

    def look(self) -> ServiceState:
        """Return how it stands."""
        if not self.file.exists():
            return ServiceState(installed=False)
        told = ask(("launchctl", "print", self._target)).stdout
        state = re.search(r"^\tstate = (.+)$", told, re.MULTILINE)
        pid = re.search(r"^\tpid = (\d+)$", told, re.MULTILINE)
        return ServiceState(
            installed=True,
            active=bool(pid),
            state=state.group(1) if state else "not loaded",
            pid=int(pid.group(1)) if pid else 0,
            boots=self._domain == "system",
        )

    def log_command(self, lines: int, *, follow: bool) -> Words:
        """Return the command that prints its log: one of `up`'s files."""
        return (*own_command("logs", "service", f"--lines={lines}"), *(("--follow",) if follow else ()))

    def advice(self) -> Sequence[str]:
        """Return what the user should do, too."""
        return () if self._domain == "system" else ("It runs while you are logged in.",)

    @property
    def _target(self) -> str:
        return f"{self._domain}/{LABEL}"


def control_of_this_machine() -> ServiceControl:
    """Return what runs services on this system."""
    if sys.platform == "win32":
        raise click.ClickException("a service needs Linux or macOS; on Windows use WSL2 with systemd, or Docker")
    return Launchd(os.geteuid()) if sys.platform == "darwin" else Systemd(os.geteuid())


def ask(command: Words) -> "subprocess.CompletedProcess[str]":
    """Run a command, and return how it ended; one that is not there has failed."""
    try:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=COMMAND_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))


def carry_out(commands: Sequence[Words]) -> None:
    """Run commands one after the other; the first that fails is an error."""
    for command in commands:
        done = ask(command)
        if done.returncode:
            said = (done.stderr or done.stdout).strip().partition("\n")[0] or f"exit status {done.returncode}"
            raise click.ClickException(f"`{' '.join(command)}`: {said}; see `ccproxy service logs`")
