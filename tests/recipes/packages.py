"""What recipes install, in fixed versions, as a newer one is to be looked at. Each is installed once a machine."""

import fcntl
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.support.claude_code import MACHINES
from tests.support.npm import cache_folder, installed, installed_together, name_for

INSTALL_S = 600
FROM_PYPI = {
    "anthropic": "2.14.0",
    "claude-agent-sdk": "0.2.189",
    "langchain": "1.5.2",
    "langchain-anthropic": "1.7.10",
    "pydantic-ai-slim[anthropic]": "2.68.0",
}
FROM_NPM = {
    "@ai-sdk/anthropic": "4.0.105",
    "@anthropic-ai/sdk": "1.14.0",
    "ai": "7.0.173",
    "opencode-ai": "1.18.33",
    "zod": "4.6.7",
}
NODE = "24.22.3"


def node() -> Path:
    """Node.js as clients of today need it, which distributions don't have yet; npm has its binaries."""
    machine = MACHINES.get(platform.machine().lower(), platform.machine())
    return installed("node", f"node-{sys.platform}-{machine}", NODE) / f"node-{sys.platform}-{machine}" / "bin" / "node"


def node_modules(names: Iterable[str]) -> Path:
    """The folder of modules with these packages."""
    return installed_together(f"{name}@{FROM_NPM[name]}" for name in names)


def environment(names: Iterable[str]) -> Path:
    """The Python environment with these packages; not the project's own, whose lock knows none of them."""
    requirements = sorted(f"{name}=={FROM_PYPI[name]}" for name in names)
    folder = cache_folder() / "pypi" / f"{name_for(requirements)}-{sys.version_info.major}.{sys.version_info.minor}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "installed").exists():
            run("venv", "--quiet", "--clear", "--python", sys.executable, str(folder))
            run("pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), *requirements)
            (folder / "installed").touch()
    return folder


def run(*arguments: str) -> None:
    """Run uv, which the development environment has. RuntimeError says what it says."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert uv, "uv is not installed; `make test-recipes` does it"
    environ = os.environ | {"UV_SYSTEM_CERTS": "true"}
    done = subprocess.run([uv, *arguments], env=environ, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"uv {' '.join(arguments)}:\n{done.stderr[-2000:]}")
