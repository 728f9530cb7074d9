"""One proxy process of a simulated fleet: the real outbox, spool, watcher, clock and routing, and clients that ask it.

Its event loop is its own. Killed, it is never run again; its files and their locks are left as a dead process leaves
them.
"""

import asyncio
import os
from collections.abc import Coroutine, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from msgspec.structs import replace

from service.fleet import spool
from service.fleet.clock import Clock
from service.fleet.outbox import Outbox
from service.fleet.snapshots import Watcher
from service.fleet.spool import SpoolRecord
from service.fleet.stream_writer import RedisPort
from service.ledger import ids
from service.ledger.events import (
    FOLD_RULES,
    AttemptEnded,
    AttemptStarted,
    BatchItemUsed,
    CircuitReset,
    ClientKeyIssued,
    ClientKeyRevoked,
    ControlEvent,
    Event,
    QuotaLimitChanged,
    ResourceUsed,
    RouteDisabled,
    RouteEnabled,
    RouteReset,
    TokenCounts,
    UsageLine,
)
from service.ledger.fold import HOUR_MS, advance
from service.ledger.running_totals import is_news
from service.ledger.state import Ledger, RouteLedger
from service.ledger.usage_lines import total_nusd, total_tokens
from service.ledger.wire import CONTROL, Snapshot
from service.routing.quota import read_quota, week_of
from service.routing.rank import RoutingRequest, rank
from service.routing.view import usage_since
from service.settings import Settings
from tests.simulation.clients import AsyncRedis, Weather
from tests.simulation.oracle import Oracle
from tests.simulation.redis_model import Server
from tests.simulation.virtual import Died, Now, VirtualLoop

MODELS = ("claude-sonnet-4-5", "claude-haiku-4-5")
KEYS = ("", "alice")
SESSIONS = ("", "s1", "s2")
ACCOUNTS = ("", "0f1e2d3c4b5a6978", "1e2d3c4b5a697887")
BATCHES = 3
Expected = tuple[tuple[Snapshot | None, int], int, Ledger]
CLEARED: dict[str, Any] = {
    **{name: {} for name in ("health", "waits", "windows", "missing_models", "refusals")},
    "reset_ms": 0,
}
"""What attempts begun before a reset no longer say."""
"""What a view must be: the snapshot and how many events of a tail are under it, how many own events were looked at, and
the ledger."""


class SeededClock(Clock):
    """The real clock, on a host whose own time is off; its ids come from the seed."""

    def __init__(self, rng: Random) -> None:
        super().__init__()
        self._ahead_of_monotonic_ms += rng.uniform(-800, 800)
        self._rng = rng

    def new_id(self) -> str:
        return ids.uuid7(self.now_ms(), self._rng.getrandbits(12) << 62 | self._rng.getrandbits(62))


class Disk:
    """The disk under the spools. `cut`: the next write is torn, and its process is no more."""

    def __init__(self) -> None:
        self.broken = False
        self.cut: float | None = None
        self.durable_bytes = 0

    def fsync(self, handle: int) -> None:
        """What the spool calls when it has written; no real disk is asked."""
        if self.cut is not None:
            written = os.fstat(handle).st_size - self.durable_bytes
            os.ftruncate(handle, self.durable_bytes + int(written * self.cut))
            self.cut = None
            raise Died
        if self.broken:
            raise OSError("no space left on the disk")


class Replica:
    """One run of one proxy process."""

    def __init__(
        self, name: str, *, now: Now, server: Server, weather: Weather, oracle: Oracle, spool_root: Path,
        disk: Disk, settings: Settings, rng: Random,
    ) -> None:  # fmt: skip
        self.name = name
        self.oracle = oracle
        self.settings = settings
        self.rng = rng
        self.alive = True
        self.frozen_until_s = 0.0
        self.stopping = False
        self.loop = VirtualLoop(now, lambda: rng.random() * 0.01)
        self.clock = SeededClock(rng)
        self.expected: dict[str, Expected] = {}
        self.seen: dict[str, tuple[int, int]] = {}
        self.clients: set[asyncio.Task[None]] = set()
        redis: Any = AsyncRedis(server, weather, rng)
        self.outbox = Outbox(RedisPort(redis), replica=self.name, clock=self.clock, spool_root=spool_root)
        self.watcher = Watcher(redis, self.outbox, self.clock, self.settings)
        write = self.outbox._spool.append

        def append(records: Sequence[SpoolRecord]) -> None:
            last = self.outbox._spool.segments[-1:]
            disk.durable_bytes = sum(one.size_bytes for one in last if one.size_bytes <= spool.SEGMENT_BYTES)
            names = {record.event.event_id for record in records}
            try:
                write(records)
            except OSError:
                self.oracle.refused |= names
                raise
            self.oracle.on_disk |= names

        self.outbox.listeners += [partial(self.oracle.note_own, self.name), self.watcher.fold_own]
        self.outbox._spool.append = append  # type: ignore[method-assign]
        self.run(self._start())

    async def _start(self) -> None:
        await self.outbox.start()
        await self.watcher.start()

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Let something happen in this process."""
        task = self.loop.create_task(coroutine)
        self.clients.add(task)
        task.add_done_callback(self._note_end)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        self.clients.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.loop.faults.append(task.exception() or BaseException())

    async def _append(self, stream: str, event: Event) -> None:
        await self.outbox.append(stream, event)
        numbered = next(one for one in reversed(self.oracle.own[self.name, stream]) if one.event_id == event.event_id)
        self.oracle.note_acknowledged(numbered)

    async def ask(self) -> None:
        """A client's request: the first route that routing names is tried, and the try is accounted."""
        model = self.rng.choice(MODELS)
        ranked = rank(
            RoutingRequest(model=model),
            self.settings.routes,
            self.watcher.view,
            self.settings.policy,
            self.clock.now_ms(),
        )
        usable = [candidate for candidate in ranked if candidate.usable]
        if not usable:
            return
        route, key = self.rng.choice(usable[:2]).route.id, self.rng.choice(KEYS)
        attempt_id, started_ms = self.clock.new_id(), self.clock.now_ms()
        named: dict[str, Any] = {
            "request_id": f"q{attempt_id[-6:]}", "model_sent": model, "client_key": key,
            "session_id": self.rng.choice(SESSIONS),
        }  # fmt: skip
        await self._append(route, AttemptStarted(event_id=attempt_id, at_ms=started_ms, **named))
        await asyncio.sleep(self.rng.choice((0.0, 0.05, 0.5, 5.0)) * self.rng.random())
        await self._append(route, self._end(attempt_id, started_ms, named))

    def _end(self, attempt_id: str, started_ms: int, named: dict[str, Any]) -> AttemptEnded:
        rng, at_ms = self.rng, self.clock.now_ms()
        how: dict[str, Any] = {"outcome": "ok", "status": 200}
        if rng.random() < 0.2:
            how = rng.choice((
                {"outcome": "failed", "kind": "server_error", "scope": "route", "status": 500},
                {"outcome": "failed", "kind": "throttle", "scope": "throttle", "retry_at_ms": at_ms + 900},
                {"outcome": "failed", "kind": "bad_request", "scope": "request", "status": 400, "words": "11223344",
                 "body": rng.choice(("aa", "bb", "cc")), "opinion": rng.choice(("", "none"))},
                {"outcome": "failed", "kind": "model_missing", "scope": "model", "status": 404},
                {"outcome": "aborted"},
            ))  # fmt: skip
        tokens = TokenCounts(
            rng.randrange(1000), rng.randrange(1000), rng.randrange(9), rng.randrange(9), rng.randrange(9)
        )
        used: dict[str, Any] = {"tokens": tokens, "cost_nusd": rng.choice((None, 7))}
        if rng.random() < 0.2:
            advice = UsageLine(
                MODELS[1], "advisor", TokenCounts(rng.randrange(1000), 1), cost_nusd=rng.choice((None, 5))
            )
            lines = (UsageLine(named["model_sent"], tokens=tokens, cost_nusd=7), advice)
            used = {"lines": lines, "tokens": total_tokens(lines), "cost_nusd": total_nusd(lines)}
        return AttemptEnded(
            event_id=ids.ended_id(attempt_id), at_ms=at_ms, attempt_id=attempt_id, started_at_ms=started_ms,
            account=rng.choice(ACCOUNTS), fold_rules=FOLD_RULES, model_served=rng.choice(("", MODELS[1])),
            **used, **named, **how,
        )  # fmt: skip

    async def read_batch(self) -> None:
        """The results of a message batch pass through: somebody may have read them before."""
        number, at_ms = self.rng.randrange(BATCHES), self.clock.now_ms()
        route = self.settings.routes[0].id
        batch_id = ids.uuid7(1_788_999_000_000, number)
        for item in range(2):
            event = BatchItemUsed(
                event_id=ids.derived_id(batch_id, str(item)), at_ms=at_ms, batch_id=f"b{number}", custom_id=str(item),
                model_sent=MODELS[0], tokens=TokenCounts(input=10 + number, output=item),
            )  # fmt: skip
            await self._append(route, event)

    async def poll_session(self) -> None:
        """A client looks at a session, or at a thread of it. What it is told may be old by the time it is noted."""
        route, rng = self.settings.routes[0].id, self.rng
        name, part, told = self.oracle.sessions.look(rng)
        await asyncio.sleep(rng.choice((0.0, 0.5)) * rng.random())
        event = ResourceUsed(
            event_id=self.clock.new_id(), at_ms=self.clock.now_ms(), resource_id=name, part=part, kind="session",
            client_key=rng.choice(KEYS), model=MODELS[0], tokens=told, rates_nusd=TokenCounts(5 * 10**9, 25 * 10**9),
            fold_rules=FOLD_RULES,
        )  # fmt: skip
        if is_news(self.watcher.view.ledger(route), event):
            await self._append(route, event)

    async def command(self) -> None:
        """An operator's word."""
        rng, route = self.rng, self.settings.routes[self.rng.randrange(2)].id
        if rng.random() < 0.2:
            await self._reset(rng.choice([one.id for one in self.settings.routes if not one.off]))
            return
        key = f"k{rng.randrange(3)}"
        base: dict[str, Any] = {"event_id": self.clock.new_id(), "at_ms": self.clock.now_ms()}
        event: ControlEvent = rng.choice((
            lambda: RouteDisabled(route=route, reason="rest", **base),
            lambda: RouteEnabled(route=route, **base),
            lambda: RouteEnabled(route=route, **base),
            lambda: QuotaLimitChanged(route=route, weekly_tokens=rng.choice((None, 10**9)), **base),
            lambda: ClientKeyIssued(key_id=key, name=key, sha256=key, **base),
            lambda: ClientKeyRevoked(key_id=key, **base),
        ))()  # fmt: skip
        await self._append(CONTROL, event)

    async def _reset(self, route: str) -> None:
        """Everything held against a route is forgotten: by its own stream, and until that is folded by the readers."""
        at_ms = self.clock.now_ms()
        for stream, kind in ((route, RouteReset), (CONTROL, partial(CircuitReset, route=route))):
            await self._append(stream, kind(event_id=self.clock.new_id(), at_ms=at_ms))

    async def stop(self) -> None:
        """End in order."""
        self.stopping = True
        await self.outbox.stop()
        await self.watcher.stop()

    def kill(self) -> None:
        """The process is no more; the system closes its files."""
        self.alive = False
        self.loop.died = True
        spool = self.outbox._spool
        if spool._lock is not None:
            os.close(spool._lock)
            spool._lock = None
        for orphan in self.outbox._orphans:
            orphan.release()
        self.outbox._orphans = []

    def check(self) -> None:
        """The laws that hold in this process at every moment."""
        for stream in {*self.watcher.snapshots, *self.outbox.queues}:
            self._check_snapshot(stream)
            if stream != CONTROL:
                self._check_view(stream)
        for task in (*self.outbox._tasks, *self.watcher._tasks):
            if task.done() and not self.stopping:
                self.oracle.law(False, f"{self.name}: {task.get_name()} has ended: {task.exception()!r}")
        for fault in self.loop.faults:
            self.oracle.law(False, f"{self.name}: {fault!r}")

    def _check_snapshot(self, stream: str) -> None:
        snapshot = self.watcher.snapshots.get(stream)
        if snapshot is not None:
            mark = (snapshot.epoch, snapshot.position)
            last = self.seen.get(stream, (0, 0))
            self.oracle.law(last <= mark, f"{self.name}: {stream} went back from {last} to {mark}")
            self.seen[stream] = mark

    def _check_view(self, stream: str) -> None:
        """The view is the snapshot's fold, at the start the stream's tail, and the own events that it has not accounted
        for; no own token is missing."""
        snapshot, own = self.watcher.snapshots.get(stream), self.oracle.own.get((self.name, stream), [])
        known, tail = self.expected.get(stream), self.watcher._tails.unfolded(stream, snapshot)
        below = (snapshot, len(tail))
        if known is not None and known[0] == below and known[1] == len(own):
            return
        if known is not None and known[0] == below:
            ledger, rest = known[2], own[known[1] :]
        else:
            ledger, position = self.oracle.snapshot_ledger(snapshot, stream)
            events = (*tail, *own)
            rest = [event for event in events if not self.oracle.accounts_for(ledger, stream, event, position)]
        for event in rest:
            advance(ledger, event)
        self.expected[stream] = (below, len(own), ledger)
        view = self.watcher.view.ledger(stream)
        now_ms = self.clock.now_ms()
        used = read_quota(view, 0, self.settings.policy, now_ms).used_tokens
        week_hour = week_of(now_ms, self.settings.policy.quota)[0] // HOUR_MS
        kept = self.watcher.view.used(stream, week_hour) == usage_since(view.hours, week_hour)
        self.oracle.law(kept, f"{self.name}: what it keeps of the week on {stream} is not the sum of the hours")
        own_tokens = self.oracle.tokens.get((self.name, stream), 0)
        if (self._differs(stream, view, ledger) or used < own_tokens) and not self._has_forgotten(stream):
            self.oracle.law(False, f"{self.name}: the view of {stream} is not snapshot and own events")
            self.oracle.law(used >= own_tokens, f"{self.name}: of {own_tokens} own tokens on {stream}, it sees {used}")

    def _differs(self, stream: str, view: RouteLedger, ledger: Ledger) -> bool:
        """Whether the view of a route is not this ledger. A reset that the ledger does not know yet holds in the view:
        then all but what it has cleared is compared."""
        if not isinstance(ledger, RouteLedger) or view.reset_ms == ledger.reset_ms:
            return view != ledger
        known_ms = max(ledger.reset_ms, self.watcher.view.control.resets.get(stream, 0))
        return view.reset_ms < known_ms or replace(view, **CLEARED) != replace(ledger, **CLEARED)

    def _has_forgotten(self, stream: str) -> bool:
        """Whether own events that no snapshot has heard lie on disk alone: more than memory has room for."""
        kept = {event.seq for event in self.outbox.unacknowledged(stream)}
        snapshot = self.watcher.acknowledged().get(stream, {}).get(self.name)
        own = self.oracle.own.get((self.name, stream), ())
        return any(event.seq not in kept and not (snapshot and snapshot.has(event.seq)) for event in own)

    def check_rest(self) -> None:
        """At rest nothing waits, nothing lies on disk, and the view is the ledger."""
        self.oracle.law(not self.outbox.pending, f"{self.name}: {self.outbox.pending} events are still pending")
        for stream, lane in self.outbox.queues.items():
            self.oracle.law(not lane.sent, f"{self.name}: {len(lane.sent)} events of {stream} were never heard")
        for stream in self.oracle.ledgers:
            ledger = self.oracle.ledger(stream)
            if stream == CONTROL:
                is_same = self.watcher.view.control == ledger
            else:
                is_same = not self._differs(stream, self.watcher.view.ledger(stream), ledger)
            self.oracle.law(is_same, f"{self.name}: at rest its view of {stream} is not the ledger")
