"""Tests pass whatever a developer has exported: the product's own variables, and those of Claude Code."""

import os
import subprocess
import sys
from pathlib import Path

from service.settings.variables import VARIABLES

ROOT = Path(__file__).parents[2]
SENSITIVE = ("tests/claude_setup/test_claude.py",)
"""Commands read the environment of the process that they run in."""


def test_no_exported_variable_reaches_a_test() -> None:
    junk = {variable.name: "exported-junk" for variable in VARIABLES}
    junk |= {"ANTHROPIC_BASE_URL": "http://exported.invalid", "CLAUDE_CODE_USE_BEDROCK": "1", "https_proxy": "http://x"}
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *SENSITIVE],
        cwd=ROOT, env={"PATH": os.environ["PATH"]} | junk, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-3000:]
