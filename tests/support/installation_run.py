"""Runs an installation of `installation_cases` in this process, a proxy and the steps of a worker, and looks at it.

What processes would take a minute to notice is noticed at once. Not here: the installations, and what they should show.
"""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from threading import Event, Thread
from typing import Any

import httpx
import msgspec
import pytest
from click.testing import CliRunner
from redis import RedisError

from service import app
from service.cli import main
from service.console import fleet_status
from service.console.api_types import Overview
from service.fleet import snapshots, status
from service.oauth import credentials
from service.proxy import ClaudeCodeProxy, log_notices
from service.settings import Settings, SettingsError, load, load_for_workers
from tests.support.installation_cases import Case, World
from tests.support.ports import free_port
from tests.support.proxies import ASK
from tests.support.waiting import wait_until
from workers import jobs
from workers.postgres_address import direct_postgres_of, postgres_of, redis_url_of, required
from workers.worker_process import WorkerProcess, open_worker, wait_for_schema

SOON_S = 0.3
SHORT = (
    (snapshots, "TICK_S", 0.1), (snapshots, "READY_AFTER_S", SOON_S),
    (snapshots, "REPUBLISH_S", 0.1), (credentials, "TICK_S", 0.02), (fleet_status, "FRESH_S", 0.05),
)  # fmt: skip
WORKER = "ccproxy.worker"


class WorkerSteps:
    """The steps of a worker, once each, in a thread: it waits for its database, looks at it, and does what is in its
    queue."""

    def __init__(self) -> None:
        settings = load_for_workers()
        redis_url = required(redis_url_of(settings), "REDIS_URL")
        queue_url = settings.rq_redis_url.reveal() if settings.rq_redis_url else redis_url
        self.process = WorkerProcess(redis_url, queue_url, postgres_of(settings), direct_postgres_of(settings))
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        process = self.process
        if not wait_for_schema(process.postgres, process.stopping, process.database, process.schema):
            return
        jobs.register(process.fold_job, process.report_service)
        process.look_at_database()
        try:
            process.ticker.check()
            open_worker(process.queue, Event()).work(burst=True, logging_level="CRITICAL")
        except RedisError as error:
            process.outage.mark_down(error)

    def beat(self) -> None:
        """Say what is wrong, if Redis takes it."""
        with suppress(RedisError, OSError):
            self.process.heartbeat.beat()

    @property
    def is_done(self) -> bool:
        """Whether it has come to its end, or waits for its database."""
        return bool(self.process.problems()) or not self._thread.is_alive()

    def stop(self) -> None:
        """End it."""
        self.process.stopping.set()
        self._thread.join(20)
        assert not self._thread.is_alive()
        self.process.store.close()


class Looks:
    """What an installation shows that runs."""

    def __init__(self, http: httpx.AsyncClient, parts: app.Parts, worker: WorkerSteps | None, log: Any) -> None:
        self.http, self.parts, self.worker, self._log = http, parts, worker, log

    async def ask(self) -> httpx.Response:
        """A request for a message."""
        return await self.http.post("/v1/messages", json=ASK)

    async def ready(self) -> tuple[int, Any]:
        """What `/readyz` answers."""
        answer = await self.http.get("/readyz")
        return answer.status_code, answer.json()

    async def dashboard(self) -> Overview:
        """What the dashboard reads."""
        return await self.parts.console.overview()

    async def status(self) -> tuple[int, Any]:
        """The exit code of `ccproxy status`, and what it says: JSON, or the error."""
        result = await asyncio.to_thread(CliRunner().invoke, main, ("status", "--json"))
        return result.exit_code, msgspec.json.decode(result.stdout) if result.exit_code == 0 else result.stderr

    @property
    def words(self) -> set[str]:
        """The problems of the proxy, and its routes with their states."""
        problems = {problem.code for problem in self.parts.outbox.problems.current}
        return {str(code) for code in problems} | {
            f"{reading.route} {reading.state}" for reading in self.parts.watcher.route_statuses()
        }

    def lines(self, of: str) -> Sequence[str]:
        """The warnings of the proxy's or the worker's log, with what they say."""
        return [
            f"{record.getMessage()} {getattr(record, 'why', getattr(record, 'error', ''))}"
            for record in self._log.records
            if record.levelno >= logging.WARNING and (record.name == WORKER) == (of == "worker")
        ]


def settings_of(case: Case, world: World, patch: pytest.MonkeyPatch) -> Settings:
    """The settings with which `serve` would start, and the environment that it would find. Raises SettingsError."""
    patch.chdir(world.folder)
    port = {"PROXY_PORT": str(free_port())} if case.seen.starts else {}
    found = port | {"NO_COLOR": "1"} | case.variables(world)
    for name, value in found.items():
        patch.setenv(name, value)
    return load(None, to_serve=True)


@asynccontextmanager
async def running(
    case: Case, world: World, patch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> AsyncIterator[Looks]:
    """The installation, with a worker if it has one, as soon as the proxy is ready and the worker has looked round."""
    settings = settings_of(case, world, patch)
    for module, name, value in SHORT:
        patch.setattr(module, name, value)
    if case.seen.word == "snapshots":
        patch.setattr(snapshots, "NO_SNAPSHOT_S", SOON_S)
    if case.seen.timeout_s:
        patch.setattr(app, "REDIS_TIMEOUT_S", case.seen.timeout_s)
        patch.setattr(status, "TIMEOUT_S", case.seen.timeout_s)
    patch.setattr(signal, "signal", lambda *_: None)  # RQ's, which belong to a main thread
    made: list[app.Parts] = []

    class Parts(app.Parts):
        def __init__(self, given: Settings) -> None:
            super().__init__(given)
            made.append(self)

    patch.setattr(app, "Parts", Parts)
    log_notices(settings)
    proxy = ClaudeCodeProxy(settings)
    worker = WorkerSteps() if case.seen.worker is not None else None
    await proxy.start()
    try:
        async with httpx.AsyncClient(base_url=proxy.url, trust_env=False, timeout=20) as http:
            if worker:
                await wait_until(lambda: worker.is_done)
                await asyncio.to_thread(worker.beat)
            await wait_until(made[0].watcher.ready.is_set)
            yield Looks(http, made[0], worker, log)
    finally:
        await proxy.stop()
        if worker:
            await asyncio.to_thread(worker.stop)


def without_foreign_egress(patch: pytest.MonkeyPatch) -> None:
    """The machine's own proxies and certificates are none."""
    for name in [name for name in os.environ if name.upper().endswith("_PROXY") or name.startswith("SSL_CERT")]:
        patch.delenv(name)


__all__ = ["Looks", "SettingsError", "WorkerSteps", "running", "settings_of", "without_foreign_egress"]
