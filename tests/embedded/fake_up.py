"""`up` with trivial children, as a process of its own: `fake_up.py HOME PORT CHILDREN`, the last one JSON.

Each child is a shell script: {"name", "script", "once"?, "stop_timeout_s"?}. It is ready when it has said `ready`.
With {"name": "Postgres"} or {"name": "Valkey"} alone, the embedded server is meant.
"""

import json
import sys
from typing import Any

from service.embedded.postgres import Postgres
from service.embedded.program import Program
from service.embedded.supervisor import Child
from service.embedded.up import ProcessSet, run
from service.embedded.valkey import Valkey
from service.settings import Settings, load


def child(settings: Settings, about: dict[str, Any]) -> Child:
    """The child that the test asked for."""
    log = settings.home / "logs" / f"{about['name']}.log"
    for server in (Postgres, Valkey):
        if about == {"name": server.name}:
            return server(settings.home / about["name"].lower(), log=log)
    return Program(
        about["name"],
        ["/bin/sh", "-c", about["script"]],
        log=log,
        is_ready=lambda program: program.has_logged("ready"),
        once=about.get("once", False),
        stop_timeout_s=about.get("stop_timeout_s", 5.0),
    )


def main() -> int:
    """Run `up` and return its exit status."""
    home, port, children = sys.argv[1:]
    settings = load(environ={"CCPROXY_HOME": home, "PROXY_PORT": port})
    return run(
        settings,
        build=lambda settings: ProcessSet(
            [child(settings, about) for about in json.loads(children)], lambda: "redis://r", lambda: "postgresql://p"
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
