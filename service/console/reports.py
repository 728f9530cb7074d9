"""Client of the workers' reports from Postgres: an RQ job with JSON in and out, on a queue of its own.

If no worker answers, only reports fail. Not here: making reports (`workers`), and their callers (`admin`).
"""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from rq import Queue, Worker
from rq.results import Result
from rq.serializers import JSONSerializer

from service.errors import BadReport, ReportAway
from service.ledger.wire import REPORT_QUEUE
from service.redis_client.factory import open_sync
from service.redis_client.failures import as_redis_error
from service.settings import Settings

JOB = "workers.jobs.report"
ANSWER_S = 10.0
KEPT_S = 30
MOST_AT_ONCE = 4
WORKERS_FRESH_S = 5.0


class ReportClient:
    """The queue of reports of one proxy process; `url` None: there is none, and so no history."""

    def __init__(self, url: str | None) -> None:
        self._url = url
        self._queue: Queue | None = None
        self._free = asyncio.Semaphore(MOST_AT_ONCE)
        # Separate threads: the event loop's default threads write spools, and must never wait for a report.
        self._threads = ThreadPoolExecutor(MOST_AT_ONCE, thread_name_prefix="reports")
        self._workers: int | None = None
        self._counted_s = -WORKERS_FRESH_S

    async def ask(self, name: str, **arguments: Any) -> Any:
        """Request a report. Raises ReportAway if no worker answers in time, BadReport if the request is invalid."""
        if self._url is None:
            raise ReportAway(
                "history needs a worker and its queue: set REDIS_URL, or with a Redis Cluster RQ_REDIS_URL"
            )
        try:
            async with asyncio.timeout(ANSWER_S + 2), self._free:
                with as_redis_error():
                    found = await asyncio.get_running_loop().run_in_executor(self._threads, self._ask, name, arguments)
        except (TimeoutError, RedisError, OSError):
            raise away() from None
        if found is None:
            raise away()
        if "refused" in found:
            raise BadReport(str(found["refused"]))
        if "failed" in found:
            raise ReportAway(f"the worker failed to produce this report: {found['failed']}", retry_after_s=5)
        return found["report"]

    def _ask(self, name: str, arguments: dict[str, Any]) -> Any:
        queue = self._open()
        if not self._count(queue):
            return None
        job = queue.enqueue_call(
            JOB, args=(name, arguments), timeout=int(ANSWER_S), ttl=int(ANSWER_S), result_ttl=KEPT_S, failure_ttl=KEPT_S
        )
        result = job.latest_result(timeout=int(ANSWER_S))
        if result is None:
            job.delete()
            return None
        found = result.return_value if result.type == Result.Type.SUCCESSFUL else None
        job.delete()
        return found

    async def workers(self) -> int | None:
        """Return the number of worker processes that make reports; None if unknown."""
        if self._url is None:
            return None
        try:
            with as_redis_error():
                return await asyncio.get_running_loop().run_in_executor(
                    self._threads, lambda: self._count(self._open())
                )
        except (RedisError, OSError):
            return None

    def _count(self, queue: Queue) -> int:
        if time.monotonic() - self._counted_s >= WORKERS_FRESH_S or not self._workers:
            self._workers = Worker.count(connection=queue.connection, queue=queue)
            self._counted_s = time.monotonic()
        return self._workers

    def _open(self) -> Queue:
        if self._queue is None:
            retry = Retry(NoBackoff(), 1)
            redis = open_sync(str(self._url), socket_timeout=ANSWER_S + 1, socket_connect_timeout=2, retry=retry)
            self._queue = Queue(REPORT_QUEUE, connection=redis, serializer=JSONSerializer)
        return self._queue

    def close(self) -> None:
        """Close threads and connection."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._queue is not None:
            self._queue.connection.close()


def queue_url(settings: Settings) -> str | None:
    """Return the URL of the workers' queue; None if no configured Redis can hold one."""
    url = settings.rq_redis_url or settings.redis_url
    return url.reveal() if url and url.place.kind != "cluster" else None


def away() -> ReportAway:
    """Return the error if no worker answered."""
    return ReportAway(
        "history is read by workers, and none responded; start one with `ccproxy worker`", retry_after_s=5
    )
