"""`ccproxy worker`: reads the settings and runs a worker process.

Apart from the other commands (`cli`), so that a process that runs for months does not hold what they import.
"""

import contextlib
import os
import sys

import click

from service.settings import load_for_workers, worker_environ
from service.telemetry.log import set_up
from workers.postgres_address import direct_postgres_of, postgres_of, required
from workers.worker_process import WorkerProcess

NICENESS = 10
"""A worker's addition to its priority number: beside busy processes, a tenth of a core is left."""


@click.command()
def worker() -> None:
    """Fold events from Redis into Postgres until stopped."""
    settings = load_for_workers()
    set_up(settings.log_level, settings.log_format, sys.stderr)
    redis_url = required(settings.redis_url.reveal() if settings.redis_url else None, "REDIS_URL")
    required(settings.database_url.reveal() if settings.database_url else None, "DATABASE_URL")
    if settings.redis_url and settings.redis_url.place.kind == "cluster" and not settings.rq_redis_url:
        required(None, "RQ_REDIS_URL, a plain Redis for the queue (REDIS_URL is a Cluster),")
    queue_url = settings.rq_redis_url.reveal() if settings.rq_redis_url else redis_url
    postgres, direct = postgres_of(settings), direct_postgres_of(settings)
    keep_own_variables()
    let_requests_go_first()
    WorkerProcess(redis_url, queue_url, postgres, direct, settings.retention_weeks).run()


def keep_own_variables() -> None:
    """Re-execute with only the workers' variables, because the initial environment stays readable in /proc.

    So no provider key is in a worker's environment, whether a shell, a container's env file or a service manager
    started it.
    """
    environ = worker_environ(os.environ)
    if environ != dict(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environ)  # noqa: S606 - replaces this process


def let_requests_go_first() -> None:
    """Lower the priority of this process. A busy proxy's events of one second are a tenth of a second's work, which
    would hold up its requests where cores are few; a tenth of a core is more than folding needs."""
    if os.name == "posix":
        with contextlib.suppress(OSError):  # a sandbox may deny it, as systemd's does without @resources
            os.nice(NICENESS)
