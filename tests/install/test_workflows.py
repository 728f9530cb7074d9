"""The workflows of `.github/`, as actionlint sees them: expressions, contexts, permissions, inputs, shell."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from tests.install.installs import ROOT
from tests.support.actionlint import linted

if TYPE_CHECKING:
    from pathlib import Path


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
