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
    # It looks up its version under the name that the distribution had then.
    known = folder / "claude_code_proxy-0.1.0.dist-info"
    known.mkdir()
    (known / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: claude-code-proxy\nVersion: 0.1.0\n", encoding="utf-8"
    )
    return folder
