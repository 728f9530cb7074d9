"""View of the fleet: the newest snapshots, overlaid with own events that they don't include yet.

Laws
- Per stream the greater (epoch, position, stream id) wins: at the same position, a snapshot may acknowledge more. An
  unknown version or an unreadable snapshot leaves the last good one.
- `view == fold(snapshot, own events not in heard, by number)`, at every moment. A process that has just started folds
  the end of each stream, too, until snapshots include it: with one proxy they are published once a second.
- Control events act within a second without workers: each process reads that stream itself. A reset of a route, too:
  what attempts begun before it still bring counts for usage alone.
- Nothing here fails a request: while Redis is unavailable, the last view stays and own events are still added.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from service.drain import Drain
from service.fleet.clock import STEP_MS, Clock
from service.fleet.fingerprints import FleetFingerprints
from service.fleet.outbox import Outbox
from service.fleet.overlay import ControlOverlay, age_of, apply_resets, ledger_in, overlay, overlay_in_steps
from service.fleet.stream_loss import StreamLoss
from service.fleet.tail import RouteTails
from service.ledger.events import Event
from service.ledger.fold import advance
from service.ledger.state import Heard, Ledger, RouteLedger
from service.ledger.wire import (
    CHANGES_CHANNEL,
    CONTROL,
    ENTRY_FIELD,
    FINGERPRINT_KEY,
    READS_FIELD,
    REPLICAS_KEY,
    SNAPSHOT_VERSION,
    STREAMS_KEY,
    Snapshot,
    decode_change,
    decode_ledger,
    decode_snapshot,
    encode_entry,
    events_key,
    replica_key,
    route_key,
    snapshot_key,
    spent_key,
)
from service.redis_client.factory import combined_run_id, infos_of
from service.redis_client.failures import as_redis_error
from service.redis_client.probe import eviction_words, failure_words
from service.routing.route_status import RouteStatus, as_fleets, fields_of, read_route_status
from service.routing.view import View
from service.settings import Settings
from service.settings.redis_url import place_of
from service.tasks import cancel_and_wait, keep_running
from service.version import product_version

log = logging.getLogger("ccproxy.watcher")

TICK_S = 1.0
"""Interval at which snapshots are re-read, in case a notification was missed."""
NO_WORKER = (
    "no worker folds this proxy's events: is `ccproxy worker` running, and does it reach Postgres? see its log, and "
    "`ccproxy check`"
)
COALESCE_S = 0.02
"""Notifications within this time cause one read."""
HEARTBEAT_TTL_MS = 30_000
"""A replica without a heartbeat for this long is gone."""
CLOCK_SAMPLE_S = 60.0
REPUBLISH_S = 10.0
"""Unchanged route statuses are published again at this interval, in case Redis lost them."""
UNFOLDED_S = 30.0
"""Own events that are no snapshot's for so long: nobody folds."""
NO_SNAPSHOT_S = 60.0
"""A worker publishes the operators' stream as soon as it starts, but `ccproxy up` may have to create its data first."""
READY_AFTER_S = 5.0
"""A proxy that can't read the ledger's state for so long serves without it."""
CONTROL_BATCH = 1_000
"""Maximum control entries read per tick."""


class Watcher:
    """Keeps `view` up to date for this process."""

    def __init__(
        self, redis: Redis | None, outbox: Outbox, clock: Clock, settings: Settings, drain: Drain | None = None
    ) -> None:
        self._control = ControlOverlay()
        self.view = View(replica=outbox.replica, control=self._control.ledger)
        self.snapshots: dict[str, Snapshot] = {}
        self.ready = asyncio.Event()
        self.redis_up = False
        self._drain = drain or Drain()
        self.fingerprints = FleetFingerprints(settings)
        self.replicas = 1
        """Number of live proxies at the last count."""
        self._redis = redis
        self._outbox = outbox
        self._clock = clock
        self._settings = settings
        self._settings_digest = settings.digest
        self._streams = [*(route.id for route in settings.routes), settings.client_route.id, CONTROL]
        self._published: dict[str, RouteStatus] = {}
        self._published_s = 0.0
        self._changed: set[str] = set()
        self._wake = asyncio.Event()
        self._run_id = ""
        self._sampled_s = 0.0
        self._control_anew = False
        self._control_lock = asyncio.Lock()
        self._adopting = defaultdict[str, asyncio.Lock](asyncio.Lock)
        self.control_known = redis is None  # True once the control stream was read to its end
        self._tasks: list[asyncio.Task[None]] = []
        self._ready_timer: asyncio.TimerHandle | None = None
        self._started_ms = clock.now_ms()
        self._heard: dict[str, dict[str, Heard]] = {}
        self._losses = StreamLoss(outbox)
        self._oldest_ms: int | None = None
        self._progress_s = self._up_s = time.monotonic()
        self._tails = RouteTails(outbox.replica)
        self._tails_known = False  # Redis may be away at the start, and for longer than this process waits for it

    async def start(self) -> None:
        """Start listening and re-reading."""
        if self._redis is None:
            self.ready.set()
            return
        loops = (
            ("watcher.listen", self._listen_forever),
            ("watcher.read", self._read_forever),
            ("watcher.tick", self._tick_forever),
        )
        # No round tells it: with a slow Redis, one takes as long as all its answers together.
        self._ready_timer = asyncio.get_running_loop().call_later(READY_AFTER_S, self.ready.set)
        self._tasks = [
            asyncio.create_task(keep_running(partial(run, self._redis), name, self._outbox.problems), name=name)
            for name, run in loops
        ]

    async def stop(self) -> None:
        """Stop, and delete the heartbeat."""
        if self._ready_timer is not None:
            self._ready_timer.cancel()
        await cancel_and_wait(self._tasks)
        if self._redis is not None:
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(1):
                    await self._redis.delete(replica_key(self._outbox.replica))
                    await self._redis.zrem(REPLICAS_KEY, self._outbox.replica)

    def fold_own(self, stream: str, event: Event) -> None:
        """Fold an own event into the view at once; control events come back through their stream if there is Redis."""
        if stream != CONTROL:
            self.view.fold_own(stream, event)
        elif self._redis is None:
            advance(self.view.control, event)

    def acknowledged(self) -> dict[str, dict[str, Heard]]:
        """Return the numbers that the newest snapshots acknowledge: stream -> replica -> numbers."""
        return self._heard

    async def adopt_snapshot(self, snapshot: Snapshot) -> None:
        """Adopt a snapshot if it is newer than the current one, and fold own events onto it."""
        async with self._adopting[snapshot.stream]:
            known = self.snapshots.get(snapshot.stream)
            try:
                age = age_of(snapshot)
                if known and age <= age_of(known):
                    return
                ledger = decode_ledger(snapshot.stream, snapshot.ledger)
            except (msgspec.DecodeError, ValueError) as error:
                log.warning("snapshot.unreadable", extra={"stream": snapshot.stream, "error": str(error)})
                return
            await self._adopt(snapshot, ledger)

    async def _adopt(self, snapshot: Snapshot, ledger: Ledger) -> None:
        """Show a newer snapshot. Until all is folded onto it the last one stays, so that requests go on meanwhile."""
        stream = snapshot.stream
        heard = {stream: copy_heard(ledger.heard)}
        await self._outbox.discard_acknowledged(heard)
        if isinstance(ledger, RouteLedger):
            await self._show_route(stream, snapshot, ledger)
            self._tails.forget_folded(stream, snapshot)
        else:
            self._control.take(snapshot, ledger)
            self.view.control = ledger
            apply_resets(self.view.routes, ledger.resets)
        self.snapshots[stream] = snapshot
        self._heard = self._heard | heard

    async def _show_route(self, stream: str, snapshot: Snapshot | None, ledger: RouteLedger) -> None:
        """Fold onto a snapshot's ledger what it does not include, and show the result as soon as that is all."""
        reset_ms = self.view.control.resets.get(stream, 0)
        own = self._outbox.unacknowledged(stream)
        events = [*self._tails.unfolded(stream, snapshot), *own]
        left = len(events) + 1
        while events and len(events) < left:  # fewer each time, or they come faster than they are folded
            left, folded_seq = len(events), own[-1].seq if own else 0
            for _ in overlay_in_steps(ledger, events, reset_ms):
                await asyncio.sleep(0)
            apply_resets({stream: ledger}, self.view.control.resets)  # one that has come meanwhile: not of what follows
            events = own = self._outbox.unacknowledged(stream, folded_seq)
        overlay(ledger, events, reset_ms)
        self.view.routes[stream] = ledger

    async def _listen_forever(self, redis: Redis) -> None:
        while True:
            try:
                with as_redis_error():
                    async for stream in changes(redis):
                        self._outbox.problems.end("redis", source="listen")
                        if stream:
                            self._changed.add(stream)
                            self._wake.set()
            except (RedisError, OSError, TimeoutError) as error:
                self._outbox.problems.begin("redis", redis_failure(self._settings, error), source="listen")
                await asyncio.sleep(TICK_S)

    async def _read_forever(self, redis: Redis) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(COALESCE_S)
            self._wake.clear()
            streams, self._changed = sorted(self._changed), set()
            with contextlib.suppress(RedisError, OSError), as_redis_error():
                await self._read(redis, streams)

    async def _read(self, redis: Redis, streams: Sequence[str]) -> None:
        """Read these streams' snapshots, and adopt them."""
        for snapshot in await self._look(redis, streams):
            await self.adopt_snapshot(snapshot)

    async def _look(self, redis: Redis, streams: Sequence[str]) -> list[Snapshot]:
        """Read these streams' snapshots, in one round trip, and return those of routes: to adopt one takes seconds
        after an outage, and no operator's command waits for it."""
        routes = []
        pipe = redis.pipeline(transaction=False)
        for stream in streams:
            pipe.get(snapshot_key(stream))
        for raw in await pipe.execute(raise_on_error=False):
            if isinstance(raw, Exception) and not isinstance(raw, ResponseError):
                raise raw
            # A value of another type must not keep other streams and operators' commands from being read.
            snapshot = decode_snapshot(raw) if isinstance(raw, bytes) else None
            if snapshot and snapshot.stream == CONTROL:
                await self.adopt_snapshot(snapshot)
            elif snapshot:
                routes.append(snapshot)
        if CONTROL in streams:
            await self.read_control()
        return routes

    async def _tick_forever(self, redis: Redis) -> None:
        while True:
            started_s = time.monotonic()
            try:
                with as_redis_error():
                    await self._tick(redis)
                self._note_up()
            except (RedisError, OSError) as error:
                self.redis_up = False
                self._outbox.problems.begin("redis", redis_failure(self._settings, error), source="read")
                log.debug("watcher.tick_failed", extra={"error": str(error)})
            await asyncio.sleep(max(0.05, TICK_S - (time.monotonic() - started_s)))

    def _note_up(self) -> None:
        """Redis has answered; now it shows if somebody folds what is appended there."""
        if not self.redis_up:
            self._up_s = self._progress_s = time.monotonic()
        self.redis_up = True
        self._outbox.problems.end("redis", source="read")
        now_s, oldest_ms = time.monotonic(), self._outbox.oldest_unacknowledged_ms
        if oldest_ms is None or oldest_ms != self._oldest_ms or self._outbox.pending:
            self._progress_s, self._oldest_ms = now_s, oldest_ms
        is_missing = CONTROL not in self.snapshots and now_s - self._up_s > NO_SNAPSHOT_S
        if is_missing or now_s - self._progress_s > UNFOLDED_S:
            self._outbox.problems.begin("snapshots", NO_WORKER)
        else:
            self._outbox.problems.end("snapshots")

    async def _tick(self, redis: Redis) -> None:
        """One round: check Redis's run id, read what is new, send the heartbeat."""
        await self._check_server(redis)
        if self.fingerprints.offer:
            await self._agree_on_key(redis, self.fingerprints.offer)
        routes = await self._look(redis, self._known_streams)
        if self._tails_known:
            self._have_adopted(routes)
        else:
            for snapshot in routes:
                await self.adopt_snapshot(snapshot)
            await self._read_tails(redis)
        # Streams are trimmed behind the newest snapshots, adopted or not.
        await self._losses.look(redis, self.snapshots | {one.stream: one for one in routes}, self._heard)
        await self._send_heartbeat(redis)
        if not self._tails_known and self.replicas > 1:
            await redis.xadd(events_key(CONTROL), {ENTRY_FIELD: encode_entry(())})  # workers learn that others wait now
            await self._read_tails(redis)
        self._tails_known = True
        await self._outbox.discard_delivered(self._heard)
        self.ready.set()

    def _have_adopted(self, snapshots: Sequence[Snapshot]) -> None:
        """Have what is new among these snapshots adopted beside the rounds: they bring operators' commands, and show
        others that this process lives."""
        news = {one.stream for one in snapshots if one != self.snapshots.get(one.stream)}
        if news:
            self._changed |= news
            self._wake.set()

    @property
    def _known_streams(self) -> list[str]:
        """The streams that this process has to do with."""
        return [*{*self._streams, *self.view.routes, *self._outbox.streams}]

    async def _read_tails(self, redis: Redis) -> None:
        """Fold what no snapshot includes yet, at the start."""
        for stream in self._known_streams:
            if stream != CONTROL:
                with contextlib.suppress(ResponseError):  # a value of another type
                    await self._read_tail(redis, stream)

    async def _read_tail(self, redis: Redis, stream: str) -> None:
        if await self._tails.read(redis, stream, self.snapshots.get(stream)):
            async with self._adopting[stream]:
                snapshot = self.snapshots.get(stream)
                ledger = ledger_in(snapshot) if snapshot else RouteLedger()
                if isinstance(ledger, RouteLedger):
                    await self._show_route(stream, snapshot, ledger)

    async def _check_server(self, redis: Redis) -> None:
        run_id = await combined_run_id(redis)
        if run_id != self._run_id:
            if self._run_id:
                log.warning("redis.changed", extra={"run_id": run_id})
                self._control_anew = True
            # The first time too: what was appended before this check may be lost already.
            self._outbox.redis_changed(is_first=not self._run_id)
            self._losses.forget()
        self._run_id = run_id
        if time.monotonic() - self._sampled_s > CLOCK_SAMPLE_S or not self._sampled_s:
            await self._sample_clock(redis)
            await self._look_for_eviction(redis)

    async def _sample_clock(self, redis: Redis) -> None:
        before_s = time.monotonic()
        seconds, micros = await redis.time()
        self._sampled_s = time.monotonic()
        self._clock.sample(seconds * 1000 + micros / 1000 + (self._sampled_s - before_s) * 500)
        self._started_ms = min(self._started_ms, self._clock.now_ms())  # the clock may have been set back
        if self._clock.ahead_ms > STEP_MS:
            words = "time runs at half speed until Redis has caught up; correct the clocks, then restart the proxy"
            log.warning("clock.ahead", extra={"ahead_ms": int(self._clock.ahead_ms), "mend": words})

    async def _look_for_eviction(self, redis: Redis) -> None:
        """Note a Redis that would drop streams when it is full, before it is."""
        words = next(filter(None, map(eviction_words, await infos_of(redis, "memory"))), "")
        if words:
            self._outbox.problems.begin("eviction", words)
        else:
            self._outbox.problems.end("eviction")

    async def _agree_on_key(self, redis: Redis, offer: bytes) -> None:
        """Share the key of fingerprints, or adopt the one that is shared already; put back after Redis has lost it."""
        with contextlib.suppress(ResponseError):  # a value of another type
            self.fingerprints.adopt(await redis.set(FINGERPRINT_KEY, offer, nx=True, get=True))

    async def read_control(self) -> None:
        """Read new control events now. Raises RedisError or OSError."""
        if self._redis is not None:
            async with self._control_lock:
                await self._read_control(self._redis)

    async def _read_control(self, redis: Redis) -> None:
        """Fold control events after the snapshot that were not read yet.

        A replaced Redis is read from its first entry. Events of the previous one that were never folded are discarded:
        their author appends them again, otherwise they are lost for the whole fleet.
        """
        unread = "-" if self._control_anew else self._control.unread
        entries: Any = await redis.xrange(events_key(CONTROL), min=unread, max="+", count=CONTROL_BATCH)
        if self._control_anew:
            self._control_anew = False
            self._control.restart(self.snapshots.get(CONTROL))
            self.view.control = self._control.ledger
        self._control.add(entries or ())
        apply_resets(self.view.routes, self.view.control.resets)
        self.control_known = self.control_known or len(entries or ()) < CONTROL_BATCH

    async def _send_heartbeat(self, redis: Redis) -> None:
        """Send the heartbeat, and publish route statuses that changed."""
        key = replica_key(self._outbox.replica)
        beat: dict[Any, Any] = {
            "version": product_version(),
            "address": f"{self._settings.host}:{self._settings.port}",
            "pid": os.getpid(),
            "started_at_ms": self._started_ms,
            "draining": int(self._drain.begun),
            "at_ms": self._clock.now_ms(),
            "skew_ms": self._clock.skew_ms(),
            "pending": self._outbox.pending,
            "routes": ",".join(route.id for route in self._settings.routes),
            "settings": self._settings_digest,
            READS_FIELD: SNAPSHOT_VERSION,
            "problems": self._outbox.problems.as_json(),
        }
        pipe = redis.pipeline(transaction=False)
        pipe.hset(key, mapping=beat)
        pipe.pexpire(key, HEARTBEAT_TTL_MS)
        pipe.zadd(REPLICAS_KEY, {self._outbox.replica: beat["at_ms"]})
        pipe.zremrangebyscore(REPLICAS_KEY, "-inf", beat["at_ms"] - HEARTBEAT_TTL_MS)
        pipe.zrange(REPLICAS_KEY, 0, -1)
        limited = self._limited_routes()
        for route_id in limited:
            pipe.get(spent_key(route_id))
        if self._outbox.queues:
            pipe.sadd(STREAMS_KEY, *self._outbox.queues)
        readings = [as_fleets(reading, self.view) for reading in self.route_statuses()]
        if time.monotonic() - self._published_s > REPUBLISH_S:
            self._published, self._published_s = {}, time.monotonic()
        for reading in readings:
            if self._published.get(reading.route) != reading:
                fields: dict[Any, Any] = {**fields_of(reading), "read_at_ms": self._clock.now_ms()}
                pipe.hset(route_key(reading.route), mapping=fields)
        answers = await pipe.execute()
        self.view.live = frozenset(replica.decode() for replica in answers[4])
        self.replicas = max(1, len(self.view.live))
        self._note_spent(dict(zip(limited, answers[5:], strict=False)))
        self._published = {reading.route: reading for reading in readings}

    def _limited_routes(self) -> list[str]:
        """The routes with a weekly limit, by settings or by an operator."""
        limits = self.view.control.limits
        return [route.id for route in self._settings.routes if route.weekly_tokens or route.id in limits]

    def _note_spent(self, notes: Mapping[str, Any]) -> None:
        """Note the quotas that a replica found to be spent although their limit is not reached."""
        self.view.spent.clear()
        self.view.spent.update({route_id: note.decode() for route_id, note in notes.items() if note})

    def route_statuses(self) -> list[RouteStatus]:
        """Return this process's current route statuses."""
        now_ms = self._clock.now_ms()
        return [read_route_status(route, self.view, self._settings.policy, now_ms) for route in self._settings.routes]


def redis_failure(settings: Settings, error: Exception) -> str:
    """Describe why Redis can't be used, with the mend."""
    url = settings.redis_url
    return failure_words(error, place_of(url.reveal()), "REDIS_URL") if url else str(error)


def copy_heard(heard: Mapping[str, Heard]) -> dict[str, Heard]:
    """Copy a snapshot's acknowledged numbers: those of its ledger change with the overlay."""
    return {replica: Heard(account.high, account.at_ms, account.gaps.copy()) for replica, account in heard.items()}


async def changes(redis: Redis) -> AsyncIterator[str]:
    """Yield the streams whose snapshots are published, and "" in between, as long as Redis answers."""
    async with redis.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.subscribe(CHANGES_CHANNEL)
        while True:
            message = await pubsub.get_message(timeout=TICK_S)
            change = decode_change(message["data"]) if message else None
            yield change.stream if change else ""
