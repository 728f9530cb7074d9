"""Creates files and folders that only their owner can access, whatever the umask.

Those left open by an earlier version or a wide umask are closed when used again. CCPROXY_HOME itself keeps its mode:
only its contents are private. Not here: the contents.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

FOR_OTHERS = stat.S_IRWXG | stat.S_IRWXO
CLOEXEC = getattr(os, "O_CLOEXEC", 0)


def make_folder(path: Path, mode: int = 0o700) -> None:
    """Create a folder and missing parents with this mode. Existing ones keep theirs."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=mode, exist_ok=True)


def make_closed_folder(path: Path) -> None:
    """Create a folder for its owner alone; an existing one is closed to others."""
    make_folder(path)
    close_to_others(path)


def close_to_others(path: Path) -> None:
    """Remove others' permissions on a file or folder, unless it belongs to another user."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & FOR_OTHERS:
        with suppress(PermissionError):
            path.chmod(mode & ~FOR_OTHERS)


def opener(path: str, flags: int) -> int:
    """For `open(..., opener=opener)`: a new file is for its owner alone."""
    return os.open(path, flags | CLOEXEC, 0o600)
