"""An earlier version of the proxy and its workers, as its commit has them, to run beside this one."""

import subprocess
from pathlib import Path

from tests.support.processes import ROOT

BEFORE_LINES = "40dcfc5d4ab9c74546b1e39127c5b13ef981667c"
"""The last commit whose events have no lines and whose ledger knows no running totals."""


def tree_of(commit: str, folder: Path) -> Path | None:
    """The files of a commit, below a folder; None where the history does not reach back so far (a shallow clone)."""
    archive = subprocess.run(["git", "-C", ROOT, "archive", commit], capture_output=True, check=False)  # noqa: S607
    if archive.returncode:
        return None
    folder.mkdir(parents=True)
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)  # noqa: S607
    return folder
