"""Files and folders for their owner alone, from the moment they are made, whatever the umask.

What an earlier version or a wide umask left open is closed when it is used again. CCPROXY_HOME itself keeps the mode
that its owner gave it: only what the proxy puts into it is private. Not here: what is written.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

FOR_OTHERS = stat.S_IRWXG | stat.S_IRWXO
CLOEXEC = getattr(os, "O_CLOEXEC", 0)


def make_folder(path: Path, mode: int = 0o700) -> None:
    """Make a folder, and those above it that are missing, each with this mode. One that is there stays as it is."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=mode, exist_ok=True)


def make_closed_folder(path: Path) -> None:
    """Make a folder for its owner alone; one that is there is closed to others."""
    make_folder(path)
    close_to_others(path)


def close_to_others(path: Path) -> None:
    """Take all rights to a file or folder from others; where it belongs to somebody else, that is left to them."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & FOR_OTHERS:
        with suppress(PermissionError):
            path.chmod(mode & ~FOR_OTHERS)


def opener(path: str, flags: int) -> int:
    """For `open(..., opener=opener)`: a file that is made is for its owner alone."""
    return os.open(path, flags | CLOEXEC, 0o600)
