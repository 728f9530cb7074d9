"""Answers report jobs of proxies: an RQ worker of the reports queue, in a thread beside the fold.

A report job never fails: errors are part of the answer. Its Postgres connection is opened with the first report, and
again after an error. Not here: the reports themselves (`reports`).
"""

import logging
from collections.abc import Callable
from threading import Event, Thread
from typing import Any

import psycopg
from redis import Redis, RedisError
from rq import Queue
from rq.serializers import JSONSerializer
from rq.timeouts import TimerDeathPenalty

from service.ledger.wire import REPORT_QUEUE
from workers.archive import Archive, open_archive
from workers.outage import Outage
from workers.reports import Refused, Reports
from workers.store import PostgresAddress
from workers.worker import FoldWorker

log = logging.getLogger("ccproxy.worker")

RETRY_S = 0.5
STATEMENT_MS = 9_000
"""Below the ten seconds after which a proxy gives up."""


class ReportWorker(FoldWorker):
    """RQ worker in a thread: signals, and RQ's alarm-based timeout, work in the main thread only."""

    death_penalty_class = TimerDeathPenalty

    def _install_signal_handlers(self) -> None:
        """Do nothing; the thread ends with its process."""


class ReportService:
    """Answers the report jobs of one worker process."""

    def __init__(self, postgres: PostgresAddress, redis: Redis, queue: Queue, stopping: Event) -> None:
        self._postgres = postgres
        self._redis = redis
        self._queue = Queue(REPORT_QUEUE, connection=queue.connection, serializer=JSONSerializer)
        self._stopping = stopping
        self._archive: Archive | None = None
        self._worker: ReportWorker | None = None
        self._outage = Outage("reports")

    def start(self) -> None:
        """Start the thread."""
        Thread(target=self._serve, name="reports", daemon=True).start()

    def stop(self) -> None:
        """Unregister from RQ; the thread ends with its process."""
        if self._worker is not None:
            try:
                self._worker.register_death()  # type: ignore[no-untyped-call]
            except RedisError as error:
                log.debug("reports.not_taken_back", extra={"error": str(error)})

    def _serve(self) -> None:
        while not self._stopping.is_set():
            try:
                self._worker = open_report_worker(self._queue, self._stopping)
                self._worker.work(logging_level="CRITICAL")
            except Exception as error:  # noqa: BLE001 - reports come back when Redis does; it is said, once
                self._outage.mark_down(error, traceback=not isinstance(error, RedisError))
            else:
                self._outage.mark_up()
            self._stopping.wait(RETRY_S)

    def answer(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return a report, or the reason why there is none, as JSON-compatible values; never raises."""
        try:
            return {"report": self._with_reports(lambda reports: reports.make(name, arguments))}
        except Refused as refused:
            return {"refused": str(refused)}
        except TypeError as error:
            log.warning("report.not_understood", extra={"report": name, "error": str(error)})
            return {"refused": f"the workers do not know the report {name!r}; upgrade them"}
        except psycopg.DataError as error:
            return {"refused": " ".join(str(error).split())}  # such as a NUL in a text
        except (psycopg.Error, RedisError) as error:
            log.warning("report.failed", extra={"report": name, "error": " ".join(str(error).split())})
            return {"failed": "it took too long" if is_slow(error) else "Postgres or Redis did not answer"}
        finally:
            if name in ("drop", "replay"):
                log.warning("report.%s", name, extra={"by": arguments.get("by", "")})

    def _with_reports(self, make: Callable[[Reports], Any]) -> Any:
        archive = self._archive or open_archive(self._postgres)
        self._archive = None
        try:
            archive.connection.execute(f"SET statement_timeout = {STATEMENT_MS}".encode())
            made = make(Reports(archive, self._postgres, self._redis))
        except BaseException:
            archive.close()
            raise
        self._archive = archive
        return made


def is_slow(error: Exception) -> bool:
    """True if a statement was cancelled by its timeout."""
    return isinstance(error, psycopg.errors.QueryCanceled)


def open_report_worker(queue: Queue, stopping: Event) -> ReportWorker:
    """An RQ worker for reports. Raises RedisError while Redis is away."""
    worker = ReportWorker(
        [queue],
        connection=queue.connection,
        serializer=JSONSerializer,
        worker_ttl=20,
        log_job_description=False,
    )
    worker.stopping = stopping
    return worker
