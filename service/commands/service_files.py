"""The files that make `ccproxy up` a service: a systemd unit, and a launchd agent. Pure texts; nothing is written here.

No file has a secret: variables that may be one stay in `.env`, which `up` reads where it is started. Not here: where
the files lie, and the programs that start them (`service_control`).
"""

import plistlib
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

NAME = "ccproxy"
LABEL = "local.ccproxy"
"""The service's name for launchd."""
STOP_S = 660
"""Longer than a graceful shutdown with every default; `up` ends sooner by itself."""
RETRY_S = 10
OPEN_FILES = 65_536
NEVER_HELD = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""Control characters, and what stands for bytes of a path that are no UTF-8."""
REFUSED = re.compile(r"[\"'\\]")
"""Systemd starts no program that has one of these in its path; `env` does."""
ENV = "/usr/bin/env"
CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETFCAP", "SETGID", "SETUID")
"""What `up` needs of root: to run its two servers as `nobody`, in one way or the other, on their files."""

UNIT = """\
# Made by `ccproxy service install`, which writes it anew; `systemctl edit` adds what should stay.
[Unit]
Description=Claude Code Proxy
{after}
[Service]
Type=exec
ExecStart={command}
WorkingDirectory={folder}
{environment}
# The first signal goes to `up` alone: it stops its servers in order, and finishes the answers under way.
KillMode=mixed
TimeoutStopSec={stop_s}
Restart=on-failure
RestartSec={retry_s}
# `up` itself restarts a child that the kernel has ended for want of memory.
OOMPolicy=continue
LimitNOFILE={open_files}

UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
{hardening}
[Install]
WantedBy={target}
"""
FOR_USER = """\
# No mount namespaces (ProtectSystem=, PrivateTmp=): where a kernel keeps them from users, the unit would not start.
RestrictNamespaces=yes
"""
FOR_ROOT = """\
# Postgres refuses to run as root: `up` runs both servers as nobody, by a user namespace where it has to.
CapabilityBoundingSet={capabilities}
RestrictNamespaces=user
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={writable}
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
"""


class ServicePlan(Struct, frozen=True):
    """What a service runs: a command in a folder, with its data in `home`, and the variables that it is given."""

    command: tuple[str, ...]
    folder: Path
    home: Path
    variables: Mapping[str, str]
    writable: tuple[Path, ...] = ()
    """Folders outside of `home` that are written to, where they exist."""

    def unfit(self) -> str:
        """Return the first text that no unit can hold, "" if there is none."""
        texts = (*self.command, str(self.folder), *map(str, self.writable), *self.variables.values())
        return next((text for text in texts if NEVER_HELD.search(text)), "")


def systemd_unit(plan: ServicePlan, *, of_root: bool) -> str:
    """Return the unit: for a user's own systemd, or root's for the machine."""
    writable = [quoted(str(plan.home)), *(f"-{quoted(str(path))}" for path in plan.writable)]
    for_root = FOR_ROOT.format(
        capabilities=" ".join(f"CAP_{name}" for name in CAPABILITIES),
        writable=" ".join(writable),
    )
    return UNIT.format(
        after="After=network-online.target\nWants=network-online.target\n" if of_root else "",
        command=exec_line(plan.command),
        folder=folder_line(plan.folder),
        environment="\n".join(f"Environment={quoted(f'{name}={value}')}" for name, value in plan.variables.items()),
        stop_s=STOP_S,
        retry_s=RETRY_S,
        open_files=OPEN_FILES,
        hardening=for_root if of_root else FOR_USER,
        target="multi-user.target" if of_root else "default.target",
    )


def folder_line(folder: Path) -> str:
    """Return a folder as WorkingDirectory= reads it, which knows no quotes. A slash keeps a blank at its end, and a
    backslash from joining the next line to it."""
    text = str(folder).replace("%", "%%")
    return f"{text}/" if text.endswith((" ", "\\")) else text


def exec_line(command: Sequence[str]) -> str:
    """Return a command as ExecStart= reads it; `$` is no variable, and stands as it is in the program's own path."""
    if REFUSED.search(command[0]):
        command = (ENV, *command)
    program, *arguments = command
    return " ".join((quoted(program), *(quoted(argument).replace("$", "$$") for argument in arguments)))


def quoted(text: str) -> str:
    """Return a word as systemd reads it, in quotes where it needs them."""
    text = text.replace("%", "%%")
    if re.fullmatch(r"[\w/.,:=@%+-]+", text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def launchd_agent(plan: ServicePlan) -> str:
    """Return the property list; its output goes to a file, as launchd keeps no log."""
    log = str(plan.home / "logs" / "service.log")
    keys = {
        "Label": LABEL,
        "ProgramArguments": list(plan.command),
        "WorkingDirectory": str(plan.folder),
        "EnvironmentVariables": dict(plan.variables),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": RETRY_S,
        "ExitTimeOut": STOP_S,
        "StandardOutPath": log,
        "StandardErrorPath": log,
        "Umask": 0o077,
        "SoftResourceLimits": {"NumberOfFiles": OPEN_FILES},
    }
    return plistlib.dumps(keys).decode()


def plan_in_unit(text: str) -> ServicePlan:
    """Return what a unit of ours runs."""
    [line], [folder] = values_in(text, "ExecStart"), values_in(text, "WorkingDirectory")
    program, *arguments = unquoted(line)
    command = (program, *(word.replace("$$", "$") for word in arguments))
    words = [word for value in values_in(text, "Environment") for word in unquoted(value)]
    return plan_of(command[1:] if program == ENV else command, folder.replace("%%", "%"), words)


def values_in(unit: str, directive: str) -> list[str]:
    """Return the values of a directive."""
    start = f"{directive}="
    return [line.removeprefix(start) for line in unit.split("\n") if line.startswith(start)]


def plan_in_agent(text: str) -> ServicePlan:
    """Return what a launchd agent of ours runs."""
    keys = plistlib.loads(text.encode())
    words = [f"{name}={value}" for name, value in keys["EnvironmentVariables"].items()]
    return plan_of(tuple(keys["ProgramArguments"]), keys["WorkingDirectory"], words)


def plan_of(command: tuple[str, ...], folder: str, words: Sequence[str]) -> ServicePlan:
    """Return a plan from a command, its folder, and `NAME=value` words."""
    variables = {name: value for name, _, value in (word.partition("=") for word in words)}
    return ServicePlan(command, Path(folder), Path(variables["CCPROXY_HOME"]), variables)


def unquoted(line: str) -> list[str]:
    """Return the words of a line that `quoted` has written."""
    return [word.replace("%%", "%") for word in shlex.split(line)]
