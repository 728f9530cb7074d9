"""`ccproxy up`: starts Postgres, Valkey, migrations, worker and proxy with one command, and stops them.

The sequence is here: lock the home, check the address, start, show, watch, stop. Not here: how a server is started
(`postgres`, `valkey`), when a child is restarted (`supervisor`), output (`screen`). It runs on one thread, because the
kernel ends children with the thread that started them.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from service.embedded import EmbeddedError, folder
from service.embedded.postgres import Postgres
from service.embedded.program import Program, answers_livez, own_command
from service.embedded.screen import Screen, proxy_url
from service.embedded.signals import Signals
from service.embedded.supervisor import Child, Supervisor
from service.embedded.valkey import Valkey
from service.private_files import make_closed_folder, make_folder

if TYPE_CHECKING:
    from service.embedded.server import Server
    from service.settings import Settings

WORKER_READY = "worker.ready"
"""Printed by `ccproxy worker` when it accepts jobs."""
ROTATION_S = 60.0
"""How often logs are looked at: those of a service grow for months."""
PROXY_HASTY_STOP_S = 5.0
"""After a second stop signal, the proxy aborts its responses, and records their usage within this time."""


class ProcessSet(NamedTuple):
    """The children of one `up`, and the URLs of their servers, which are known after `spawn`."""

    children: Sequence[Child]
    redis_url: Callable[[], str]
    database_url: Callable[[], str]


def run(
    settings: "Settings",
    *,
    build: "Callable[[Settings], ProcessSet] | None" = None,
    screen: Screen | None = None,
) -> int:
    """Start everything, run until stopped, and return the exit status. `build` may add children (the demo)."""
    screen = screen or Screen()
    if sys.platform == "win32":
        screen.fail("`ccproxy up` needs Linux or macOS. On Windows, run it in WSL2, or use Docker: see docs/docker.md.")
        return 1
    try:
        with Signals() as signals, _home(settings):
            _check_address(settings)
            return _run_locked(settings, screen, (build or process_set)(settings), signals)
    except EmbeddedError as error:
        screen.fail(str(error))
        return 1


def process_set(settings: "Settings") -> ProcessSet:
    """Return the children that the settings require: no embedded server where they name an external one."""
    logs = settings.home / "logs"
    servers: list[Server] = []
    redis_url, database_url = settings.redis_url, settings.database_url
    # Valkey first: it is ready at once, while Postgres may have to create its data.
    if redis_url is None:
        servers.append(valkey := Valkey(settings.home / "valkey", log=logs / "valkey.log"))
    if database_url is None:
        servers.append(postgres := Postgres(settings.home / "postgres", log=logs / "postgres.log"))
    for server in servers:
        server.prepare()
    for earlier, later in pairwise(servers):
        later.after = (
            earlier.name,
        )  # creating the data blocks this thread, and would count towards the other's start-up time
    urls = ProcessSet(
        (),
        lambda: redis_url.reveal() if redis_url else valkey.url,
        lambda: database_url.reveal() if database_url else postgres.url,
    )
    return urls._replace(children=(*servers, *_programs(settings, logs, tuple(s.name for s in servers), urls)))


def _programs(settings: "Settings", logs: Path, servers: tuple[str, ...], urls: ProcessSet) -> tuple[Program, ...]:
    environ = partial(_environ, settings, urls)
    for_workers = partial(_environ_of_workers, settings, urls)
    migrations = Program(
        "migrations",
        own_command("migrate"),
        environ=for_workers,
        log=logs / "migrate.log",
        needs=tuple(name for name in servers if name == Postgres.name),
        once=True,
    )
    worker = Program(
        "worker",
        own_command("worker"),
        environ=lambda: {**for_workers(), **worker_log_level(settings)},
        log=logs / "worker.log",
        is_ready=lambda program: program.has_logged(WORKER_READY),
        needs=(*servers, migrations.name),
    )
    proxy = Program(
        "proxy",
        own_command("serve"),
        title=f"proxy on {proxy_url(settings)}",
        environ=environ,
        is_ready=lambda _: answers_livez(settings.host, settings.port),
        # It never opens Postgres; and once Valkey has been ready, it is restarted without it too, because it serves on
        # its last known state.
        after=tuple(name for name in servers if name == Valkey.name),
        stop_timeout_s=settings.drain.longest_s,
        hasty_stop_timeout_s=PROXY_HASTY_STOP_S,
    )
    return migrations, worker, proxy


def _environ(settings: "Settings", urls: ProcessSet) -> Mapping[str, str]:
    return os.environ | {
        "CCPROXY_HOME": str(settings.home),
        "REDIS_URL": urls.redis_url(),
        "DATABASE_URL": urls.database_url(),
    }


def _environ_of_workers(settings: "Settings", urls: ProcessSet) -> Mapping[str, str]:
    from service.settings import worker_environ

    return worker_environ(_environ(settings, urls))


def worker_log_level(settings: "Settings") -> Mapping[str, str]:
    """Return variables that set the log level to at least info, since the line that we wait for has it."""
    return {} if settings.log_level == "debug" else {"LOG_LEVEL": "info"}


def _check_address(settings: "Settings") -> None:
    if not folder.is_free(settings.host, settings.port):
        raise EmbeddedError(
            f"Can't listen on {settings.host}:{settings.port}: the port is in use, or the address is not this "
            "machine's. Stop the program that uses it, or set PROXY_PORT to a free port (and PROXY_HOST to an "
            "address of this machine)."
        )


def _run_locked(settings: "Settings", screen: Screen, house: ProcessSet, signals: Signals) -> int:
    for name, url in (("Redis", settings.redis_url), ("Postgres", settings.database_url)):
        if url is not None:
            screen.show_external(name, url.shown)
    make_closed_folder(settings.home / "logs")
    supervisor = Supervisor(house.children, screen)
    try:
        return _watch(settings, screen, house, supervisor, signals)
    finally:
        screen.note("Stopping …")
        supervisor.stop(in_haste=lambda: signals.count > 1)
        (settings.home / "run.json").unlink(missing_ok=True)


def _watch(settings: "Settings", screen: Screen, house: ProcessSet, supervisor: Supervisor, signals: Signals) -> int:
    announced = False
    logs = LogRotation(settings.home / "logs")
    while not signals.count:
        supervisor.step()
        if supervisor.has_given_up:
            return 1
        if supervisor.all_ready and not announced:
            announced = True
            _write_run(settings, house)
            screen.banner(settings, settings.home / "logs")
        if supervisor.all_ready:  # the log of one that starts is read for the line that it is ready
            logs.step()
        signals.wait(supervisor.pause_s())
    return 0


class LogRotation:
    """Empties the logs of a folder that have become too long, once a minute."""

    def __init__(self, folder_: Path, now_s: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder_
        self._now_s = now_s
        self._next_s = now_s() + ROTATION_S

    def step(self) -> None:
        """Look at the logs, if it is time. A disk that is full or a log that has gone must not stop `up`."""
        if self._now_s() < self._next_s:
            return
        self._next_s = self._now_s() + ROTATION_S
        for log in self._folder.glob("*.log"):
            with suppress(OSError):
                folder.rotate(log)


def _home(settings: "Settings") -> folder.Locked:
    home = settings.home
    try:
        # Root's servers run as another user, who has to traverse it; secrets have modes of their own.
        make_folder(home, 0o711 if os.geteuid() == 0 else 0o700)
        locked = folder.Locked(home / "lock", timeout_s=0)
        (home / "lock").write_text(f"{os.getpid()}\n", encoding="utf-8")
        (home / "run.json").unlink(missing_ok=True)  # left by a killed run
    except folder.FolderBusy:
        raise EmbeddedError(_already_running(home)) from None
    except OSError as error:
        raise EmbeddedError(f"{home} can't be used: {error}. Set CCPROXY_HOME to a folder of your own.") from error
    return locked


def _already_running(home: Path) -> str:
    pid, where = folder.read(home / "lock") or "unknown", "still starting"
    with suppress(ValueError, KeyError, TypeError):
        where = f"serving on {json.loads(folder.read(home / 'run.json') or '')['proxy_url']}"
    return (
        f"`ccproxy up` is already running on {home} (process {pid}, {where}). "
        "Stop it first, or set CCPROXY_HOME and PROXY_PORT to start a second one."
    )


def _write_run(settings: "Settings", house: ProcessSet) -> None:
    record = {
        "pid": os.getpid(),
        "proxy_url": proxy_url(settings),
        "redis_url": house.redis_url(),
        "database_url": house.database_url(),
        "started_at_ms": time.time_ns() // 1_000_000,
    }
    folder.write_private(settings.home / "run.json", json.dumps(record, indent=2) + "\n")
