"""Processes of a target: started in a session of their own, counted as a tree, ended by their ids. Linux alone."""

import contextlib
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

from msgspec import Struct

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
START_S = 90.0
STOP_S = 15.0


class Usage(Struct, frozen=True):
    """Processor time (with that of children that have ended) and resident memory of some processes."""

    seconds: float = 0.0
    rss_mb: float = 0.0


def start(
    command: Sequence[str], log: IO[bytes], environ: Mapping[str, str], place: Path | None = None
) -> "subprocess.Popen[bytes]":
    """Start a target; what it says goes to the log."""
    return subprocess.Popen(
        list(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=dict(environ), cwd=place,
        start_new_session=True,
    )  # fmt: skip


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End a target and its children."""
    family = tree(process.pid)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; none when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def usage(pids: Iterable[int]) -> Usage:
    """Return the processor time and memory of these processes."""
    ticks, pages = 0, 0
    for pid in pids:
        if fields := stat(pid):
            ticks += sum(int(field) for field in fields[11:15])
            pages += int(fields[21])
    return Usage(ticks * TICK_S, pages * os.sysconf("SC_PAGE_SIZE") / 1e6)


def exact_seconds(pid: int) -> float:
    """Return the processor time of a process, and of its children that have ended, to the microsecond where the kernel
    tells it: a tick is as long as some requests. Threads that have ended are left out."""
    fields = stat(pid)
    if not fields:
        return 0.0
    ended_s = sum(int(field) for field in fields[13:15]) * TICK_S
    try:
        told = [path.read_text().split()[0] for path in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    except OSError:  # a thread ended meanwhile
        told = []
    own_s = sum(int(ns) for ns in told) / 1e9 or sum(int(field) for field in fields[11:13]) * TICK_S
    return ended_s + own_s


def command_of(pid: int) -> str:
    """Return the command line of a process."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def wait_until_it_answers(url: str, process: "subprocess.Popen[bytes]", log: Path, limit_s: float = START_S) -> None:
    """Until something answers there, whatever it says. Raises RuntimeError with the end of the log."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=2).close()  # noqa: S310 - on the loopback
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise RuntimeError(f"it did not start: {log.read_text(errors='replace')[-600:]}")
