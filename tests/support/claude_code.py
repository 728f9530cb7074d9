"""The release of Claude Code that tests use, and its binary. Not here: how it is run.

The release is fixed because its reactions to faults are what tests assert; a newer one is a change to be looked at.
"""

from __future__ import annotations

import platform
import sys
from typing import TYPE_CHECKING

from tests.support.npm import installed

if TYPE_CHECKING:
    from pathlib import Path

VERSION = "2.1.330"
MACHINES = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}


def package() -> str:
    """The package that holds the binary for this platform."""
    machine = MACHINES.get(platform.machine().lower(), platform.machine().lower())
    suffix = "-musl" if sys.platform == "linux" and not platform.libc_ver()[0] else ""
    return f"@anthropic-ai/claude-code-{sys.platform}-{machine}{suffix}"


def install() -> Path:
    """The path of the binary, installed with npm when it is not there yet. RuntimeError names what is missing."""
    # The binary's own package, by number: the main package would give an older release on older Nodes, and needs
    # a postinstall step that newer npms don't run.
    binary = installed("claude-code", package(), VERSION) / package() / "claude"
    if not binary.exists():
        raise RuntimeError(f"{package()}@{VERSION} has no file named claude; this platform may have no release")
    return binary
