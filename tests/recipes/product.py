"""The product as the recipes start it, `ccproxy up`, and what it says that it did. Not here: its clients."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from tests.support.ports import free_port
from tests.support.processes import Command, environment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

MOST_EVENTS = 500
READY = "Ctrl-C stops everything."
LOOK_S = 60


class Attempt(NamedTuple):
    """A try of a route, and how it ended."""

    route: str
    outcome: str
    kind: str = ""


class Product(Command):
    """`ccproxy up` in a folder of its own, ready when this returns; it reads the `.env` there, too."""

    def __init__(self, folder: Path, variables: Mapping[str, str], arguments: Sequence[str] = ("up",)) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__(*arguments, home=folder, variables={**variables, "PROXY_PORT": str(self.port)})
        self.wait_until(lambda: READY in self.text)

    def requests(self, key: str = "") -> dict[str, list[Attempt]]:
        """The attempts of each request, oldest first; with a client's key only of that client."""
        command = [sys.executable, "-m", "service.cli", "events", "--json", "--type", "attempt_ended"]
        command += ["--limit", str(MOST_EVENTS), *(["--key", key] if key else [])]
        environ = environment(self.home, self.variables)
        done = subprocess.run(
            command, cwd=self.home, env=environ, capture_output=True, text=True, timeout=LOOK_S, check=False
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, list[Attempt]] = defaultdict(list)
        for line in done.stdout.splitlines():
            event = json.loads(line)
            found[event["request_id"]].append(
                Attempt(event["route"], event["outcome"], event["kind"] if event["outcome"] == "failed" else "")
            )
        return found
