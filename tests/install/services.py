"""The installed service, run by a real systemd of a user, and by hand: what its unit says, started as systemd would.

The real one is `systemd --user` in namespaces of its own, in which root is an ordinary user. It is given the few units
that it can't do without, and none of the machine's: what those do at boot, such as clearing temporary files, would be
done to this machine. That takes root, and rights that a container may lack; then `missing` tells the reason.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from service.commands.service_files import ServicePlan, plan_in_unit
from service.embedded.managed_process import ManagedProcess
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.wheels import Home

CGROUPS = [
    path
    for path in map(Path, ("/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"))
    if (path / "cgroup.procs").exists()
]
SYSTEMD = "/lib/systemd/systemd"
TOOLS = ("unshare", "nsenter", "systemctl")
ORDINARY = "1"
"""An account of every Linux, and neither root nor nobody: the root outside is this user inside."""
BOOT = """\
for group; do echo $$ > "$group/cgroup.procs" || exit 1; done
mount -t tmpfs none /run/systemd && mkdir /run/systemd/system || exit 1
exec unshare --user --map-user={user} --map-group={user} {systemd} --user --unit=default.target
"""
VENDOR = Path("/usr/lib/systemd/user")
TARGETS = ("default.target", "basic.target", "shutdown.target", "exit.target", "systemd-exit.service", "app.slice")
WAIT_S = 60.0
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""What systemd gives a service."""


class Runner(Protocol):
    """What runs the service."""

    def ccproxy(self, *arguments: str, folder: Path) -> str:
        """What a command of the installed product prints; it has to end well."""

    def install(self, folder: Path) -> None:
        """Install and start the service with the settings of a folder."""

    def pid(self) -> int:
        """The process of `up`; 0 while there is none."""

    def kill(self) -> None:
        """Kill `up`, as the kernel would; who restarts it is the runner."""

    def reboot(self) -> None:
        """End everything as a power cut would, and start what starts at boot."""

    def end(self) -> None:
        """End whatever is left."""


def unit_of(home: Home) -> Path:
    """Where the unit lies."""
    return home.folder / ".config" / "systemd" / "user" / "ccproxy.service"


class ByHand:
    """Starts the unit's command with the unit's environment in the unit's folder. As root, too: for a user's unit."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._up: ManagedProcess | None = None
        self._unit = home.folder / "ccproxy.service"

    def ccproxy(self, *arguments: str, folder: Path) -> str:
        return self._home.run("/bin/sh", "-c", 'cd "$0" && exec ccproxy "$@"', str(folder), *arguments)

    def install(self, folder: Path) -> None:
        if self._up:
            self._up.stop(WAIT_S)
        told = json.loads(self.ccproxy("service", "install", "--dry-run", "--json", folder=folder))
        self._unit.write_text(told["text"], encoding="utf-8")
        self._start()

    @property
    def plan(self) -> ServicePlan:
        """What the unit runs."""
        return plan_in_unit(self._unit.read_text(encoding="utf-8"))

    def pid(self) -> int:
        return self._up.pid if self._up and self._up.poll() is None else 0

    def kill(self) -> None:
        assert self._up
        os.kill(self.pid(), signal.SIGKILL)
        eventually(lambda: self._up and self._up.poll() is not None)
        self._start()

    def reboot(self) -> None:
        assert self._up
        self._up.kill()
        self._start()

    def end(self) -> None:
        if self._up:
            self._up.stop(WAIT_S)

    def _start(self) -> None:
        plan = self.plan
        log = self._home.folder / "journal"
        with log.open("ab") as sink:
            self._up = ManagedProcess(
                ["/bin/sh", "-c", 'cd "$0" && exec "$@"', str(plan.folder), *plan.command],
                environ={"HOME": str(self._home.folder), "PATH": PATH, **plan.variables},
                output=sink.fileno(),
            )


class UserSystemd:
    """A systemd of the user, which restarts and boots by itself what is enabled."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._runtime = home.folder / "run"
        self._runtime.mkdir(mode=0o700)
        self._units = home.folder / "units"
        self._units.mkdir()
        for name in TARGETS:
            shutil.copyfile(VENDOR / name, self._units / name)
        self._groups = [path / f"ccproxy-test-{os.getpid()}" for path in CGROUPS]
        self._environ = home.environ | {"XDG_RUNTIME_DIR": str(self._runtime)}
        try:
            self._boot()
        except BaseException:
            self.end()
            raise

    def ccproxy(self, *arguments: str, folder: Path) -> str:
        return self._run("/bin/sh", "-c", 'cd "$0" && exec ccproxy "$@"', str(folder), *arguments)

    def install(self, folder: Path) -> None:
        self.ccproxy("service", "install", folder=folder)

    def pid(self) -> int:
        return int(self._run("systemctl", "--user", "show", "ccproxy", "--property=MainPID", "--value"))

    def kill(self) -> None:
        os.kill(self.pid(), signal.SIGKILL)

    def reboot(self) -> None:
        self._kill_all()
        self._boot()

    def end(self) -> None:
        self._kill_all()
        for group in self._groups:
            for folder, _, _ in os.walk(group, topdown=False):
                os.rmdir(folder)

    def _boot(self) -> None:
        for group in self._groups:
            group.mkdir(exist_ok=True)
        shutil.rmtree(self._runtime / "systemd", ignore_errors=True)
        script = BOOT.format(user=ORDINARY, systemd=SYSTEMD)
        with (self._home.folder / "systemd.log").open("ab") as sink:
            self._systemd = ManagedProcess(
                ["/usr/bin/unshare", "--mount", "/bin/sh", "-c", script, "sh", *map(str, self._groups)],
                environ={
                    "HOME": str(self._home.folder),
                    "PATH": PATH,
                    "XDG_RUNTIME_DIR": str(self._runtime),
                    "SYSTEMD_UNIT_PATH": f"{unit_of(self._home).parent}:{self._units}",
                },
                output=sink.fileno(),
            )
        eventually(lambda: self._systemd.poll() is not None or self._answers(), WAIT_S)
        assert self._systemd.poll() is None, (self._home.folder / "systemd.log").read_text(encoding="utf-8")
        listed = self._run("systemctl", "--user", "list-unit-files", "--no-legend", "--plain").splitlines()
        assert {line.split()[0] for line in listed} <= {*TARGETS, unit_of(self._home).name}

    def _answers(self) -> bool:
        with suppress(AssertionError):
            return bool(self._run("systemctl", "--user", "show-environment"))
        return False

    def _run(self, *command: str) -> str:
        enter = ("nsenter", f"--target={self._systemd.pid}", "--mount", "--user", "--preserve-credentials")
        done = subprocess.run(
            [*enter, *command],
            cwd=self._home.folder,
            env=self._environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=WAIT_S * 2,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def _kill_all(self) -> None:
        """Kill what runs in the groups that were made for this systemd, until nothing does."""
        eventually(self._is_empty)
        self._systemd.kill()

    def _members(self) -> Sequence[int]:
        found: set[int] = set()
        for group in self._groups:
            for path in group.rglob("cgroup.procs"):
                with suppress(OSError):
                    found.update(map(int, path.read_text(encoding="ascii").split()))
        return sorted(found)

    def _is_empty(self) -> bool:
        members = self._members()
        for pid in members:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not members


@cache
def missing() -> str:
    """Why no systemd of a user can be started here; "" if it can."""
    lacking = [tool for tool in TOOLS if not shutil.which(tool)]
    if lacking or not Path(SYSTEMD).exists() or not CGROUPS:
        return f"no {', '.join(lacking) or 'systemd, or no cgroups'}"
    if os.geteuid() != 0:
        return "it takes root"
    group = CGROUPS[0] / f"ccproxy-test-{os.getpid()}-probe"
    try:
        group.mkdir()
        group.rmdir()
        script = f"mount -t tmpfs none /run/systemd && exec unshare --user --map-user={ORDINARY} true"
        command = ["/usr/bin/unshare", "--mount", "/bin/sh", "-c", script]
        subprocess.run(command, check=True, capture_output=True, timeout=WAIT_S)
    except (OSError, subprocess.SubprocessError) as error:
        return f"namespaces and cgroups are closed here: {error}"
    return ""
