"""Promtool, Prometheus' own judge of configurations, rules and queries. It comes with Debian's prometheus."""

import subprocess
from pathlib import Path

from tests.support.servers import program


def promtool(*arguments: str | Path, timeout_s: float = 120.0) -> str:
    """What promtool says; it has to be content."""
    judge = program("promtool", "prometheus")
    done = subprocess.run([judge, *arguments], capture_output=True, text=True, check=False, timeout=timeout_s)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
