"""What the tests of `embedded` know of processes: whether they live, and what they are called."""

import os
import subprocess
from pathlib import Path


def is_alive(pid: int) -> bool:
    """Whether `pid` runs. One that has ended and waits to be reaped does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return not Path("/proc/self").exists()  # no /proc at all, as on macOS; else it has just gone


def arguments_of(pid: int) -> str:
    """The command line that every user of the machine can see."""
    if Path("/proc/self").exists():
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")
    return subprocess.run(["/bin/ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=True).stdout


def pids_in(path: Path) -> list[int]:
    """The process ids that stand in the file at `path`, one a line."""
    try:
        return [int(line) for line in path.read_text(encoding="utf-8").split()]
    except FileNotFoundError:
        return []
