"""Fleet status from Redis, read at most once a second for all callers; None while Redis is unavailable.

Not here: interpretation (`overview`), and the terminal's status (`fleet.status`, which this uses).
"""

import asyncio
import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import RedisError

from service.console.api_types import Fleet, ReplicaView, StreamView
from service.fleet.outbox import Outbox
from service.fleet.snapshots import Watcher
from service.fleet.status import ReplicaStatus, Status, read_status
from service.ledger.wire import route_key
from service.redis_client.failures import as_redis_error
from service.settings import Settings

FRESH_S = 1.0
WAIT_S = 3.0
"""Longer than Redis ever takes unless it is unavailable."""


class FleetStatus(Struct, frozen=True):
    """The status, and counts of dead letters and quarantined events by stream."""

    status: Status
    aside: dict[str, tuple[int, int]]


class FleetReader:
    """Reads the status and caches it for a second."""

    def __init__(self, settings: Settings, redis: Redis | None, watcher: Watcher, outbox: Outbox) -> None:
        self._settings = settings
        self._redis = redis
        self._watcher = watcher
        self._outbox = outbox
        self._thread = ThreadPoolExecutor(
            1, thread_name_prefix="fleet"
        )  # the event loop's default threads write spools
        self._standing: FleetStatus | None = None
        self._asked_s = -FRESH_S
        self._asking: asyncio.Task[None] | None = None

    async def status(self) -> FleetStatus | None:
        """Return the status, at most a second old."""
        if self._redis is None:
            return None
        if self._asking is None and time.monotonic() - self._asked_s >= FRESH_S:
            self._asking = asyncio.create_task(self._ask(self._redis), name="fleet.ask")
        if self._asking:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._asking), WAIT_S)
        return self._standing

    async def _ask(self, redis: Redis) -> None:
        try:
            self._standing = await self._standing_by(redis)
        except (RedisError, OSError):
            self._standing = None
        finally:
            self._asked_s = time.monotonic()
            self._asking = None

    async def _standing_by(self, redis: Redis) -> FleetStatus:
        with as_redis_error():
            url = self._settings.redis_url.reveal() if self._settings.redis_url else ""
            status = await asyncio.get_running_loop().run_in_executor(self._thread, read_status, self._settings, url)
            pipe = redis.pipeline(transaction=False)
            for stream in status.streams:
                pipe.hmget(route_key(stream.stream), "dead", "quarantined")
            replies: list[Any] = await pipe.execute()
            aside = {
                stream.stream: (int(reply[0] or 0), int(reply[1] or 0))
                for stream, reply in zip(status.streams, replies, strict=True)
            }
            return FleetStatus(status, aside)

    async def stop(self) -> None:
        """Wait for the read in progress."""
        if self._asking:
            await asyncio.wait({self._asking}, timeout=WAIT_S)
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def fleet(self, now_ms: int, workers: int | None) -> Fleet:
        """Return the replicas and the state of the ledger."""
        standing = await self.status()
        replicas = standing.status.replicas if standing else ()
        usual = usual_settings(replicas)
        return Fleet(
            at_ms=now_ms,
            redis_up=standing is not None and not self._outbox.problems.has("redis"),
            replicas=[
                ReplicaView(
                    replica=one.replica,
                    pid=one.pid,
                    seen_ms_ago=one.seen_ms_ago,
                    pending=one.pending,
                    settings=one.settings,
                    agrees=one.settings in ("", usual),
                    here=one.replica == self._outbox.replica,
                    version=one.version,
                    address=one.address,
                    started_at_ms=one.started_at_ms,
                    draining=one.draining,
                    clock_skew_ms=one.clock_skew_ms,
                )
                for one in replicas
            ],
            streams=[
                StreamView(
                    stream=one.stream,
                    epoch=one.epoch,
                    position=one.position,
                    lag=one.lag,
                    snapshot_age_ms=one.snapshot_age_ms,
                    gaps=gaps_of(self._watcher, one.stream),
                )
                for one in (standing.status.streams if standing else ())
            ],
            pending_events=self._outbox.pending,
            spooling=self._outbox.away,
            workers=number_of_workers(standing, workers),
        )


def number_of_workers(standing: FleetStatus | None, listening: int | None) -> int | None:
    """Return how many workers live: those that listen for reports, or that wait for their database and say so."""
    beating = len(standing.status.workers) if standing else 0
    return max(beating, listening or 0) if beating else listening


def usual_settings(replicas: tuple[ReplicaStatus, ...]) -> str:
    """Return the settings digest that most replicas have."""
    fingerprints = [one.settings for one in replicas if one.settings]
    return max(sorted(set(fingerprints)), key=fingerprints.count, default="")


def gaps_of(watcher: Watcher, stream: str) -> int:
    """Count event numbers missing from the newest snapshot below ones that it includes."""
    heard = watcher.acknowledged().get(stream, {})
    return sum(last - first + 1 for account in heard.values() for first, last in account.gaps)
