"""Tests pass whatever a developer has exported: the product's own variables, and those of Claude Code."""

import os
import re
import subprocess
import sys
from pathlib import Path

from service.settings.variables import VARIABLES
from tests.support.environment import is_foreign

ROOT = Path(__file__).parents[2]
READ = re.compile(r"environ(?:\.get\(|\[)\s*\"(\w+)\"")
SENSITIVE = ("tests/claude_setup/test_claude.py", "tests/oauth/test_credentials.py")
"""Commands and HTTP clients read the environment of the process that they run in."""
OF_OTHERS = (
    "ANTHROPIC_BASE_URL", "ANTHROPIC_MODEL", "CLAUDECODE", "CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CONFIG_DIR", "NO_COLOR",
    "PGHOST", "SSL_CERT_DIR", "XDG_STATE_HOME", "https_proxy",
)  # fmt: skip


def test_no_exported_variable_reaches_a_test() -> None:
    junk = {variable.name: "exported-junk" for variable in VARIABLES}
    junk |= dict.fromkeys(OF_OTHERS, "exported-junk")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *SENSITIVE],
        cwd=ROOT, env={"PATH": os.environ["PATH"]} | junk, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-3000:]


def test_what_the_product_reads_itself_is_kept_from_tests() -> None:
    """Beside the settings: each variable whose name stands in the source where the environment is read."""
    sources = (path for folder in ("service", "workers") for path in sorted((ROOT / folder).rglob("*.py")))
    read = {name for path in sources for name in READ.findall(path.read_text(encoding="utf-8"))}
    assert "SSL_CERT_DIR" in read
    assert {name for name in read if not is_foreign(name)} == set()
