"""Admission control: decides across the fleet if an attempt may start on a route.

- A half-open circuit admits one probe at a time: a lease, which ends with the first content or after 30 s. For ten
  seconds after that content, requests of sessions go along without a lease: long answers hold nobody's session off.
- A route may have a concurrency limit: slots.
- Quota that attempts in progress may exhaust is reserved before it is used, so that many replicas with many streams do
  not overshoot it together. When nothing is under way and less is left than one reservation, the quota is spent.

Redis decides, in one script (`admission.lua`). Grants are renewed while the attempt lives, and expire if its process
dies. While Redis is unavailable each process probes for itself, after a random delay, takes its share of the slots, and
skips routes that would need a reservation.

Not here: choice and order of routes (`routing`), and recording of usage (`ledger`).
"""

import asyncio
import contextlib
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine
from importlib.resources import files
from typing import Any
from zlib import crc32

from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import RedisError

from service.fleet.clock import Clock
from service.ledger.state import RouteLedger
from service.ledger.wire import answered_key, probe_key, reserved_key, slots_key, spent_key
from service.routing.failover import AdmissionDenied
from service.routing.quota import QuotaReading, counted_tokens
from service.routing.rank import Candidate
from service.settings import QuotaWeights
from service.tasks import cancel_and_wait

log = logging.getLogger("ccproxy.admission")

PROBE_MS = 30_000
"""A probe without content for this long lets another one start."""
ANSWERED_MS = 10_000
"""For so long after a probe's first content sessions need no lease."""
GRANT_TTL_MS = 30_000
"""Grants of a dead process expire after this time; a living one renews them three times meanwhile."""
RENEW_S = 10.0
ENDED_TTL_MS = 3_600_000
"""The usage of an ended attempt stays reserved until all views include its end, at most this long: the event may be
spooled."""
RESERVATION_GRACE_MS = 10_000
"""A reservation stays this long after its end even if the caller's view includes the end: other views may lag."""
REPLICA_TTL_MS = ENDED_TTL_MS + 60_000
"""Replicas silent for longer hold no reservations: those of their ended attempts have expired."""
REDIS_TIMEOUT_S = 0.25
"""Timeout of Redis; after it, the local decision counts."""
AWAY_JITTER_MS = 5_000
"""While Redis is unavailable, the replicas' probes are spread over this time."""
SIZES = 200
"""Recent attempts per route and model from which sizes are estimated."""
KINDS = 256
"""Maximum (route, model) pairs remembered; clients may send any model name."""
SIZES_NEEDED = 20
"""Samples needed for a p99."""
ON_LEDGER_NEEDED = 5
"""Answered attempts in the ledger needed for a new process to estimate from."""
SPREAD = 10
"""Upper bound of an estimate as a multiple of the ledger's mean: the request's bytes don't show how much is cached."""
CHARS_PER_TOKEN = 3
"""Fallback ratio for the input estimate; conservative for English, code and JSON."""
OUTPUT_GUESS_TOKENS = 8_000
"""Fallback estimate of the output; a client's max_tokens is often the model's maximum."""

SCRIPT = files("service").joinpath("admission.lua").read_text(encoding="utf-8")
RELEASE = "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1]) or 0"
RENEW = """
local time = redis.call('TIME')
local ends = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[1]))
for i = 2, #ARGV do
  redis.call('ZADD', KEYS[1], 'XX', ends, ARGV[i])
  local value = redis.call('HGET', KEYS[2], ARGV[i])
  local tokens, owner, at = string.match(value or '', '^(%d+) %d+ (%S+) 0 (%d+)$')
  if tokens then
    redis.call('HSET', KEYS[2], ARGV[i], table.concat({tokens, ends, owner, '0', at}, ' '))
  end
end
"""
IGNORED_ERRORS = (RedisError, OSError, TimeoutError)
"""Errors ignored on writes: a grant that is not returned or renewed expires."""
REASONS = {
    "probe": "half open, probe in progress",
    "slots": "all slots in use",
    "quota": "the rest of the weekly limit is reserved",
    "spent": "what is left of the weekly limit is less than this request may use",
}
NO_QUOTA: list[Any] = [0, 0, 0, 0, "", 0]
"""The script's arguments for an attempt that reserves nothing."""
LEAST_NOTE_MS = 1_000
DECISIONS = frozenset(("ok", *REASONS))
"""All replies of the script."""


class SizeEstimates:
    """Quota-relevant tokens of recent attempts, by route and model."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], deque[int]] = OrderedDict()

    def record(self, route: str, model: str, tokens: int) -> None:
        """Record the size of an ended attempt."""
        known = self._known.setdefault((route, model), deque(maxlen=SIZES))
        self._known.move_to_end((route, model))
        known.append(tokens)
        if len(self._known) > KINDS:
            self._known.popitem(last=False)

    def has_enough(self, route: str, model: str) -> bool:
        """True if there are enough samples for this route and model."""
        return len(self._known.get((route, model), ())) >= SIZES_NEEDED

    def p99(self, route: str, model: str, maximum: int, guess: int) -> int:
        """Estimate the p99 size, or `guess` without enough samples; at most `most`."""
        if not self.has_enough(route, model):
            return max(1, min(maximum, guess))
        known = sorted(self._known[route, model])
        return max(1, min(maximum, known[min(len(known) - 1, len(known) * 99 // 100)]))

    def mean(self, route: str, model: str, default: int) -> int:
        """Return the mean size, or `otherwise` without samples."""
        known = self._known.get((route, model))
        return sum(known) // len(known) if known else default


class AdmissionRequest(Struct, frozen=True, kw_only=True):
    """A request to admit an attempt on a candidate, with its estimated size; `in_session`: it belongs to a session."""

    attempt_id: str
    candidate: Candidate
    body_bytes: int
    max_tokens: int
    in_session: bool = False

    @property
    def route_id(self) -> str:
        """The route's id."""
        return self.candidate.route.id


class Grant(Struct):
    """Resources granted to an attempt until it ends; usually none. `stream` is its route, or `key:` and a client key's
    id.

    `shared`: Redis holds the grant, or may hold it because it did not answer in time.
    """

    attempt_id: str = ""
    stream: str = ""
    probe: bool = False
    slot: bool = False
    tokens: int = 0
    shared: bool = False

    @property
    def is_active(self) -> bool:
        """True if there is anything to renew and to return."""
        return self.slot or self.tokens > 0


class Admission:
    """Admits attempts of this process. `ledger_of` returns a route's ledger in this process's view; `spent` notes, by
    route, the quotas of which less is left than a request reserves."""

    def __init__(
        self,
        redis: Redis | None,
        *,
        replica: str,
        clock: Clock,
        weights: QuotaWeights,
        ledger_of: Callable[[str], RouteLedger],
        is_away: Callable[[], bool],
        replicas: Callable[[], int],
        spent: dict[str, str] | None = None,
    ) -> None:
        self.sizes = SizeEstimates()
        self._redis = redis
        self._script = redis.register_script(SCRIPT) if redis is not None else None
        self._release = redis.register_script(RELEASE) if redis is not None else None
        self._renew = redis.register_script(RENEW) if redis is not None else None
        self._replica = replica
        self._clock = clock
        self._weights = weights
        self._read_weight = max(weights.input, weights.cache_write_5m, weights.cache_write_1h)
        self._ledger_of = ledger_of
        self._is_away = is_away
        self._replicas = replicas
        self._spent: dict[str, str] = {} if spent is None else spent
        self._grants: dict[str, Grant] = {}
        self._probing: dict[str, tuple[str, int]] = {}
        self._answered: dict[str, int] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._renewing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start renewing grants."""
        if self._redis is not None:
            self._renewing = asyncio.create_task(self._renew_forever(), name="admission.renew")

    async def stop(self) -> None:
        """Return all grants."""
        for grant in list(self._grants.values()):
            self.release(grant)
        if self._background:
            await asyncio.wait(self._background, timeout=1)
        await cancel_and_wait({*self._background, *([self._renewing] if self._renewing else [])})

    async def admit_attempt(self, entry: AdmissionRequest) -> Grant | AdmissionDenied:
        """Admit an attempt, or return the reason for denial. Calls Redis only for shared resources."""
        candidate, size = entry.candidate, self._size(entry)
        slots = candidate.route.concurrency
        if not (candidate.probe or slots or size):
            if self._spent:
                self._forget_spent(entry.route_id)
            return Grant()
        is_probe = candidate.probe and not await self._goes_along(entry)
        grant = Grant(entry.attempt_id, entry.route_id, is_probe, bool(slots), size)
        refused = await self._decide_in_redis(grant, slots, self._quota_args(entry, size))
        if refused == "away":
            refused = self._decide_locally(grant, candidate)
        if size and candidate.quota:
            self._note_rest(entry.route_id, candidate.quota, refused)
        return self._register(grant, refused, candidate.quota.resets_at_ms if candidate.quota else 0)

    async def admit_key(self, key_id: str, slots: int, request_id: str) -> Grant | AdmissionDenied:
        """Admit a request of a client key with a concurrency limit of `slots`."""
        grant = Grant(request_id, f"key:{key_id}", slot=True)
        refused = await self._decide_in_redis(grant, slots, NO_QUOTA)
        if refused == "away":
            refused = "" if self._has_slot(grant.stream, slots) else "slots"
        return self._register(grant, refused)

    def _note_rest(self, route: str, quota: QuotaReading, refused: str) -> None:
        """Note for status that less is left of a quota than a request reserves, or that a request had room."""
        if refused == "spent":
            self._spent[route] = quota.name
        elif not refused:
            self._forget_spent(route)

    def _forget_spent(self, route: str) -> None:
        """A request has room on this route."""
        if self._spent.pop(route, None) and self._redis is not None:
            self._run_in_background(self._delete_note(route, self._redis))

    async def _delete_note(self, route: str, redis: Redis) -> None:
        with contextlib.suppress(*IGNORED_ERRORS):
            await redis.delete(spent_key(route))

    def _register(self, grant: Grant, refused: str, resets_at_ms: int = 0) -> Grant | AdmissionDenied:
        """Start renewing the grant and return it, or return the denial."""
        if refused:
            self._cancel_grant(grant)
            until_ms = resets_at_ms if refused == "spent" else 0
            return AdmissionDenied(refused, REASONS[refused], until_ms)  # type: ignore[arg-type]
        if grant.probe:
            self._probing[grant.stream] = grant.attempt_id, self._clock.now_ms()
        if grant.is_active:
            self._grants[grant.attempt_id] = grant
        return grant

    def note_content(self, grant: Grant) -> None:
        """End a probe's lease at the first content, which decides the probe."""
        if grant.probe:
            self._answered[grant.stream] = self._clock.now_ms()
            if grant.shared and self._redis is not None:
                self._run_in_background(self._set_answered(grant.stream, self._redis))
            self.end_probe(grant)

    async def _set_answered(self, route: str, redis: Redis) -> None:
        with contextlib.suppress(*IGNORED_ERRORS):
            await redis.set(answered_key(route), 1, px=ANSWERED_MS)

    async def _goes_along(self, entry: AdmissionRequest) -> bool:
        """True if a probe of any replica has received content lately, and the request belongs to a session."""
        if not entry.in_session:
            return False
        if self._clock.now_ms() - self._answered.get(entry.route_id, 0) < ANSWERED_MS:
            return True
        if self._redis is None or self._is_away():
            return False
        with contextlib.suppress(*IGNORED_ERRORS):
            async with asyncio.timeout(REDIS_TIMEOUT_S):
                return bool(await self._redis.exists(answered_key(entry.route_id)))
        return False

    def end_probe(self, grant: Grant) -> None:
        """End a probe's lease."""
        if not grant.probe:
            return
        grant.probe = False
        if self._probing.get(grant.stream, ("", 0))[0] == grant.attempt_id:
            del self._probing[grant.stream]
        if grant.shared:
            self._run_in_background(self._release_probe(grant))

    def release(self, grant: Grant, tokens: int = 0, seq: int = 0) -> None:
        """Return the grant of an ended attempt: `tokens` used, and the number of its end event (0 if there is none)."""
        self.end_probe(grant)
        if self._grants.pop(grant.attempt_id, None) and grant.shared:
            self._run_in_background(self._release_grant(grant, tokens, seq))

    def _size(self, entry: AdmissionRequest) -> int:
        """Return the tokens to reserve: 0 unless attempts in progress may exhaust the quota."""
        candidate, quota = entry.candidate, entry.candidate.quota
        if quota is None:
            return 0
        read = int(entry.body_bytes // CHARS_PER_TOKEN * self._read_weight)
        most = read + int(entry.max_tokens * self._weights.output)
        rounds = 2 * (candidate.open_attempts + 1)
        if quota.state == "ok" and quota.used_tokens + rounds * max(1, most) < quota.limit_tokens:
            return 0  # the usual case: there is room even for attempts of the maximum size
        guess = read + int(OUTPUT_GUESS_TOKENS * self._weights.output)
        if not self.sizes.has_enough(entry.route_id, candidate.model):
            guess = min(guess, self._max_by_ledger(entry.route_id, candidate.model) or guess)
        size = self.sizes.p99(entry.route_id, candidate.model, most, guess)
        is_near = quota.state != "ok" or quota.used_tokens + rounds * size >= quota.limit_tokens
        return size if is_near else 0

    def _max_by_ledger(self, route: str, model: str) -> int:
        """Estimate an attempt's maximum from the fleet's usage of the last two weeks; 0 if there is too little.

        Otherwise a process started near the limit would estimate above the remaining quota, and never get a sample.
        """
        cells = [
            cell for by_model in self._ledger_of(route).usage.values() for cell in by_model.get(model, {}).values()
        ]
        answered = sum(cell.attempts - cell.failed for cell in cells)
        if answered < ON_LEDGER_NEEDED:
            return 0
        return SPREAD * sum(counted_tokens(cell, self._weights) for cell in cells) // answered

    def _quota_args(self, entry: AdmissionRequest, size: int) -> list[Any]:
        """Return the script's reservation arguments: limit, usage, open attempts and their mean, acknowledged
        numbers."""
        candidate, quota = entry.candidate, entry.candidate.quota
        if not size or quota is None:
            return NO_QUOTA
        mean = self.sizes.mean(entry.route_id, candidate.model, size)
        return [
            quota.limit_tokens,
            quota.used_tokens,
            candidate.open_attempts,
            mean,
            quota.name,
            max(LEAST_NOTE_MS, quota.resets_at_ms - self._clock.now_ms()),
            *self._acknowledged(entry.route_id),
        ]

    async def _decide_in_redis(self, grant: Grant, slots: int, quota: list[Any]) -> str:
        """Run the script; returns "" if admitted, the reason if denied, or "away". Redis may hold the grant unless it
        was denied."""
        if self._script is None or self._is_away():
            return "away"
        grant.shared = True
        stream = grant.stream
        keys = [probe_key(stream), slots_key(stream), reserved_key(stream), spent_key(stream)]
        args: list[Any] = [
            grant.attempt_id,
            self._replica,
            int(grant.probe),
            PROBE_MS,
            GRANT_TTL_MS,
            RESERVATION_GRACE_MS,
            slots,
        ]
        args += [grant.tokens, *quota]
        try:
            async with asyncio.timeout(REDIS_TIMEOUT_S):
                word = await self._script(keys=keys, args=args)
        except IGNORED_ERRORS as error:
            log.debug("admission.away", extra={"error": type(error).__name__})
            return "away"
        except BaseException:  # the client disconnected
            self._cancel_grant(grant)
            raise
        text = word.decode(errors="replace") if isinstance(word, bytes) else str(word)
        if text not in DECISIONS:
            log.warning("admission.not_understood")
            return "away"
        grant.shared = text == "ok"
        return "" if grant.shared else text

    def _acknowledged(self, route: str) -> list[Any]:
        """Return the acknowledged event numbers of live replicas in this process's view."""
        oldest_ms = self._clock.now_ms() - REPLICA_TTL_MS
        accounts = self._ledger_of(route).heard.items()
        return [part for name, account in accounts if account.at_ms >= oldest_ms for part in (name, account.high)]

    def _decide_locally(self, grant: Grant, candidate: Candidate) -> str:
        """Local admission decision while Redis is unavailable, or without Redis."""
        if grant.probe and not self._may_probe(grant.stream, candidate.until_ms):
            return "probe"
        if grant.slot and not self._has_slot(grant.stream, candidate.route.concurrency):
            return "slots"
        return self._decide_quota(grant, candidate) if grant.tokens and candidate.quota else ""

    def _decide_quota(self, grant: Grant, candidate: Candidate) -> str:
        """Decide about the quota locally: exact without a fleet, denied in a fleet; spent if less is left than this."""
        quota = candidate.quota
        assert quota is not None  # noqa: S101 - the caller has checked
        reserved = sum(other.tokens for other in self._grants.values() if other.stream == grant.stream)
        left = quota.limit_tokens - quota.used_tokens - reserved
        if not reserved and not candidate.open_attempts and grant.tokens > left:
            return "spent"
        return "" if self._redis is None and grant.tokens <= left else "quota"

    def _may_probe(self, stream: str, open_until_ms: int) -> bool:
        """Admit one probe per process; those of a fleet are spread over time."""
        pause_ms = crc32(f"{self._replica} {stream}".encode()) % AWAY_JITTER_MS if self._redis is not None else 0
        now_ms = self._clock.now_ms()
        _, since_ms = self._probing.get(stream, ("", 0))
        return now_ms >= since_ms + PROBE_MS and now_ms >= open_until_ms + pause_ms

    def _has_slot(self, stream: str, slots: int) -> bool:
        """True unless this process's share of the slots is taken."""
        taken = sum(grant.slot for grant in self._grants.values() if grant.stream == stream)
        return taken < max(1, slots // max(1, self._replicas()))

    def _cancel_grant(self, grant: Grant) -> None:
        """Return a grant whose attempt does not start."""
        if grant.shared and grant.probe:
            self._run_in_background(self._release_probe(grant))
        if grant.shared and grant.is_active:
            self._run_in_background(self._release_grant(grant, tokens=0, seq=0))

    def _run_in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run it in the background: the client does not wait for grants to be returned."""
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _release_probe(self, grant: Grant) -> None:
        if self._release is not None:
            with contextlib.suppress(*IGNORED_ERRORS):
                await self._release(keys=[probe_key(grant.stream)], args=[grant.attempt_id])

    async def _release_grant(self, grant: Grant, tokens: int, seq: int) -> None:
        """Free the slot, and reduce the reservation to the actual usage until all views include the end event."""
        if self._redis is None:
            return
        pipe = self._redis.pipeline(transaction=False)
        if grant.slot:
            pipe.zrem(slots_key(grant.stream), grant.attempt_id)
        if grant.tokens and (seq or tokens):
            now_ms = self._clock.now_ms()
            stays_ms = ENDED_TTL_MS if seq else GRANT_TTL_MS  # the end event will come, with a number not known here
            used = f"{tokens} {now_ms + stays_ms} {self._replica} {seq} {now_ms}"
            pipe.hset(reserved_key(grant.stream), grant.attempt_id, used)
        elif grant.tokens:
            pipe.hdel(reserved_key(grant.stream), grant.attempt_id)
        with contextlib.suppress(*IGNORED_ERRORS):
            await pipe.execute()

    async def _renew_forever(self) -> None:
        """Renew all grants periodically, stream by stream."""
        while self._renew is not None:
            await asyncio.sleep(RENEW_S)
            for stream in {grant.stream for grant in self._grants.values() if grant.shared}:
                held = [grant.attempt_id for grant in self._grants.values() if grant.stream == stream and grant.shared]
                with contextlib.suppress(*IGNORED_ERRORS):
                    keys = [slots_key(stream), reserved_key(stream)]
                    await self._renew(keys=keys, args=[GRANT_TTL_MS, *held])
