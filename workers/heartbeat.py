"""The workers' heartbeats: each worker says every few seconds that it is there, and what keeps it from folding.

So operators see in `ccproxy status` and on the dashboard that the schema is missing, say, without looking for a log.
Not here: finding out what is wrong (`worker_process`, `fold_job`).
"""

import logging
import os
import secrets
import socket
from collections.abc import Callable, Sequence
from threading import Event, Thread
from typing import Any

import msgspec
from redis import Redis, RedisError

from service.ledger.wire import WORKER_TTL_MS, WORKERS_KEY, WorkerBeat
from service.version import product_version

log = logging.getLogger("ccproxy.worker")

INTERVAL_S = 5.0


class Heartbeat:
    """Writes this worker's heartbeat, in a thread; `problems` are what is wrong now."""

    def __init__(self, redis: Redis, problems: Callable[[], Sequence[str]], interval_s: float = INTERVAL_S) -> None:
        self.name = f"{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(3)}"
        self._redis = redis
        self._problems = problems
        self._interval_s = interval_s
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, and take the heartbeat away."""
        self._stopping.set()
        self._thread.join(self._interval_s)
        self._attempt(lambda: self._redis.hdel(WORKERS_KEY, self.name))

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._attempt(self.beat)
            self._stopping.wait(self._interval_s)

    def _attempt(self, step: Callable[[], object]) -> None:
        """Run a step; while Redis is away there is nobody who could read of it."""
        try:
            step()
        except (RedisError, OSError) as error:
            log.debug("heartbeat.failed", extra={"error": str(error)})

    def beat(self) -> None:
        """Write the heartbeat, and remove those of workers that are gone. Raises RedisError."""
        seconds, micros = self._redis.time()
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        beat = WorkerBeat(now_ms, product_version(), os.getpid(), tuple(self._problems()))
        self._redis.hset(WORKERS_KEY, self.name, msgspec.json.encode(beat))
        beats: Any = self._redis.hgetall(WORKERS_KEY)
        gone = [name for name, raw in beats.items() if is_gone(raw, now_ms)]
        if gone:
            self._redis.hdel(WORKERS_KEY, *gone)


def is_gone(raw: bytes, now_ms: int) -> bool:
    """True if a heartbeat is too old, or is none."""
    try:
        return msgspec.json.decode(raw, type=WorkerBeat).at_ms < now_ms - WORKER_TTL_MS
    except msgspec.DecodeError:
        return True
