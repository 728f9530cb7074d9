"""The distribution's name, and the version that this process runs.

A release is its tag, 0.2.0; between tags the commit stands behind it, 0.2.0+g3e4ddebf2. A checkout always names its
commit, read as the process starts: what was installed there once may be long behind. Not here: versions of formats,
which stand beside what they are the version of (`ledger.wire`).
"""

import os
import shutil
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path

DISTRIBUTION = "claude-failover"
UNKNOWN = "0.0"
"""Where nothing is installed and there is no checkout: copied files."""
COMMIT_DIGITS = 9
GIT_TIMEOUT_S = 5.0
ROOT = Path(__file__).parents[1]


@cache
def product_version() -> str:
    """Return the version, the same for as long as the process lives."""
    return version_at(ROOT)


def version_at(root: Path) -> str:
    """Return the version of the files below a folder, with their commit if the folder is a checkout."""
    try:
        installed = installed_version(DISTRIBUTION)
    except PackageNotFoundError:
        installed = UNKNOWN
    commit = commit_of(root)
    return f"{installed.partition('+')[0]}+g{commit}" if commit else installed


def commit_of(root: Path) -> str | None:
    """Return the commit of a checkout; None if the folder is none, or git can't say."""
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None
    # A hook's environment names another repository.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = [git, "-C", str(root), "rev-parse", f"--short={COMMIT_DIGITS}", "HEAD"]
    try:
        answer = subprocess.run(command, env=environ, capture_output=True, text=True, check=True, timeout=GIT_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
