"""A worker process: an RQ worker in the main thread, a ticker, retention and reports in threads beside it.

Not here: jobs (`fold_job`) and the command line (`cli`).

RQ's worker gives up if Redis goes away at the wrong moment; it is restarted until the process is stopped.
"""

import gc
import logging
import signal
from contextlib import suppress
from threading import Event, Thread
from typing import Any

import psycopg
from redis import RedisError
from rq import Queue
from rq.exceptions import StopRequested
from rq.serializers import JSONSerializer

from workers import jobs
from workers.archive import open_archive
from workers.check import fault_in, login_words, redis_words, trouble_words
from workers.consume import Streams, open_redis
from workers.fold_job import FoldJob
from workers.heartbeat import Heartbeat
from workers.migrate import SchemaError, pending
from workers.outage import Outage
from workers.project import Projector
from workers.publish import Publisher
from workers.readers import SnapshotReaders
from workers.report_service import ReportService
from workers.retention import Damaged, Retention
from workers.store import PostgresAddress, Store, connect
from workers.ticker import Ticker
from workers.wake import WakeQueue, open_queue
from workers.worker import FoldWorker

log = logging.getLogger("ccproxy.worker")

RETRY_S = 0.5
SCHEMA_RETRY_S = 1.0
TICKER_STOP_S = 1.5
RETENTION_INTERVAL_S = 3_600.0
RETENTION_RETRY_S = 60.0
LOOK_INTERVAL_S = 300.0
COLLECT_AFTER = 20_000
"""Net allocated objects before a collection: about one large batch."""
WORKER_TTL_S = 20
"""RQ blocks on its queue for 15 s less than this, and refreshes its registration as often."""


class UnfitDatabase(Exception):
    """The database will keep the worker from a part of its work; the message says from which, and the mend."""


class WorkerProcess:
    """Composition root of a worker process. `direct` is a session-level Postgres connection, without a pooler."""

    def __init__(
        self,
        redis_url: str,
        rq_redis_url: str,
        postgres: PostgresAddress,
        direct: PostgresAddress,
        retention_weeks: int = 0,
    ) -> None:
        self.postgres = postgres
        self.stopping = Event()
        self.outage = Outage("redis", lambda error: redis_words(error, redis_url, rq_redis_url))
        self.database = Outage("postgres", lambda error: trouble_words(error, postgres, "DATABASE_URL"))
        self.store = Store(postgres)
        self.queue = open_queue(rq_redis_url)
        redis = open_redis(redis_url)
        streams = Streams(redis)
        wake = WakeQueue(redis, self.queue)
        readers = SnapshotReaders(redis)
        publisher = Publisher(redis, self.stopping, readers=readers)
        folding = Outage("postgres", lambda error: trouble_words(error, postgres, "DATABASE_URL"))
        projector = Projector(self.store, streams)
        self.fold_job = FoldJob(
            projector, publisher, streams, wake, self.stopping, self.outage, postgres_outage=folding
        )
        # The ticker's own client does not retry: the ticker has to notice every outage of Redis.
        self.report_service = ReportService(direct, open_redis(redis_url), open_queue(rq_redis_url), self.stopping)
        self.retention = Retention(lambda: open_archive(direct), retention_weeks)
        self.ticker = Ticker(open_redis(redis_url, retries=0), wake, self.load_ledger, self.outage, readers=readers)
        self.schema, self.fitness, self.dropping = Outage("schema"), Outage("database"), Outage("retention")
        self.direct = direct
        self.heartbeat = Heartbeat(open_redis(redis_url, retries=0), self.problems)

    def problems(self) -> list[str]:
        """What keeps this worker from its work, in words for operators."""
        job = self.fold_job
        known = (self.outage, self.database, self.schema, self.fitness, job.postgres_outage, self.dropping)
        outages = (*known, *list(job.faults.values()))
        return [outage.problem for outage in outages if outage.problem]

    def load_ledger(self) -> list[str]:
        """Return the streams that Postgres knows, on a connection of its own: the ticker's thread calls it."""
        store = Store(self.postgres)
        try:
            return store.streams()
        finally:
            store.close()

    def run(self) -> None:
        """Work until SIGTERM or SIGINT."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda *_: self.stopping.set())
        self.heartbeat.start()
        if wait_for_schema(self.postgres, self.stopping, self.database, self.schema):
            jobs.register(self.fold_job, self.report_service)
            tune_collector()
            self.ticker.start()
            self.report_service.start()
            Thread(target=self.retain, name="retention", daemon=True).start()
            Thread(target=self.watch_database, name="database", daemon=True).start()
            self.serve()
            self.report_service.stop()
            self.ticker.stop(TICKER_STOP_S)
            self.fold_rest()
        self.heartbeat.stop()
        self.store.close()
        log.info("worker.stopped")

    def fold_rest(self) -> None:
        """Fold what is on the streams: with one proxy, the next fold may be a second off, and this is the last worker.
        What can't be folded now waits for the next start."""
        with suppress(RedisError, StopRequested):
            for stream, settled in self.ticker.settled(sorted(self.ticker.seen)).items():
                if not (settled or self.fold_job.postgres_outage.is_down):
                    self.fold_job.fold(stream)

    def watch_database(self) -> None:
        """Look, now and every few minutes, for what would only show later: rights that are missing, or a database
        without a pooler that is away."""
        while not self.stopping.is_set():
            self.look_at_database()
            self.stopping.wait(LOOK_INTERVAL_S)

    def look_at_database(self) -> None:
        """Note what `ccproxy check` finds wrong with the database, and with the one without a pooler."""
        try:
            wrong = unfit_words(self.postgres, self.direct)
        except psycopg.Error:
            return  # the fold jobs say so
        if wrong:
            self.fitness.mark_down(UnfitDatabase(wrong))
        else:
            self.fitness.mark_up()

    def retain(self) -> None:
        """Drop expired weeks now and every hour. If the process ends meanwhile, the database rolls back."""
        outage = self.dropping
        while self.retention.keep_weeks and not self.stopping.is_set():
            pause_s = RETENTION_INTERVAL_S
            try:
                self.retention.drop_expired()
                outage.mark_up()
            except Exception as error:  # noqa: BLE001 - folding goes on whatever the error; it is logged once
                outage.mark_down(error, traceback=not isinstance(error, psycopg.Error | Damaged))
                pause_s = RETENTION_RETRY_S
            self.stopping.wait(pause_s)

    def serve(self) -> None:
        """Work on jobs; restart the RQ worker if it gave up.

        RQ's signal handler stays when its loop has ended, also by an error: it may raise at any place here.
        """
        announced = False
        with suppress(StopRequested):
            while not self.stopping.is_set():
                try:
                    worker = open_worker(self.queue, self.stopping)
                    if not announced:
                        log.info("worker.ready", extra={"queue": self.queue.name, "worker": worker.name})
                        announced = True
                    worker.work(logging_level=rq_level())
                except RedisError as error:
                    self.outage.mark_down(error)
                self.stopping.wait(RETRY_S)


def open_worker(queue: Queue, stopping: Event) -> FoldWorker:
    """Open an RQ worker for this queue. Raises RedisError while Redis is away."""
    worker = FoldWorker(
        [queue],
        connection=queue.connection,
        serializer=JSONSerializer,
        worker_ttl=WORKER_TTL_S,
        log_job_description=False,
    )
    worker.stopping = stopping
    return worker


def tune_collector() -> None:
    """Exclude start-up objects from garbage collection, and collect less often: a batch's events are freed by reference
    counting."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 20, 20)


def rq_level() -> str:
    """Return RQ's log level: it logs every job and failed reconnection, which only helps when debugging."""
    return "DEBUG" if log.isEnabledFor(logging.DEBUG) else "CRITICAL"


def wait_for_schema(postgres: PostgresAddress, stopping: Event, outage: Outage, schema: Outage) -> bool:
    """Wait until the database answers with the expected schema: in Compose, everything starts at once. False if
    stopped."""
    while not stopping.is_set():
        try:
            check_schema(postgres)
        except SchemaError as error:
            outage.mark_up()
            schema.mark_down(error)
        except psycopg.Error as error:
            outage.mark_down(error)
        else:
            outage.mark_up()
            schema.mark_up()
            return True
        stopping.wait(SCHEMA_RETRY_S)
    return False


def unfit_words(postgres: PostgresAddress, direct: PostgresAddress) -> str:
    """Describe what is wrong with a database that folds could begin in, "" if nothing is. Raises psycopg.Error."""
    with connect(postgres) as connection:
        wrong = fault_in(connection, "DATABASE_URL")
    if wrong or direct == postgres:
        return wrong
    try:
        with connect(direct) as connection:
            return fault_in(connection, "DATABASE_DIRECT_URL")
    except psycopg.Error as error:
        return f"reports and migrations can't use it: {login_words(error, direct, 'DATABASE_DIRECT_URL')}"


def check_schema(postgres: PostgresAddress) -> None:
    """Raise SchemaError unless the schema is up to date."""
    connection: psycopg.Connection[Any] = connect(postgres)
    with connection:
        missing = pending(connection)
    if missing:
        names = ", ".join(f"{migration.number:04} {migration.name}" for migration in missing)
        raise SchemaError(f"the database is missing the migrations {names}; run `ccproxy migrate`")
