"""What a process that runs for months holds in memory without using it: packages of other commands."""

import subprocess
import sys

import pytest

LOADED = "import sys, {module}; print(*[name for name in {heavy!r} if name in sys.modules])"


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        # Only a route whose token is shared between hosts encrypts anything.
        ("service.cli, service.proxy", ["cryptography.hazmat", "psycopg"]),
        ("service.cli, service.embedded.up", ["cryptography.hazmat", "httpx", "psycopg", "redis"]),
        ("service.cli, workers.worker_command", ["cryptography.hazmat", "httpx", "litestar", "rich.console"]),
    ],
)
def test_imports_no_package_of_other_commands(module: str, heavy: list[str]) -> None:
    command = [sys.executable, "-c", LOADED.format(module=module, heavy=heavy)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == ""
