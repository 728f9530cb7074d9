"""The circuit of a route: a reading of folded counts under the policy at `now`. It keeps no state of its own.

Rules
- A replica is tripped by 5 failures in a row, or when half of at least 20 attempts within 30 s failed or were slow.
- It stays tripped until its open time is over; that doubles with each further failure, up to a cap, with a jitter that
  is a hash of the last failure's id, so that all processes read the same. A provider's retry-after is a floor up to
  the cap.
- A replica avoids a route on which it has tripped itself. For the fleet the route is open when at least half of the
  replicas that used it within 30 s, or wait out their open time, are tripped, and at least two if there are two. So a
  process that starts anew still knows of a circuit that opened before.
- After the open time the route is half open: it may be probed. A success clears the count.
- What failed before an operator's reset counts no more.
"""

from typing import Literal
from zlib import crc32

from msgspec import Struct

from service.ledger.fold import BUCKET_MS, last_seen_ms
from service.ledger.state import Health, RouteLedger
from service.settings import CircuitPolicy

CircuitState = Literal["closed", "open", "half_open"]
RECENT_MS = 30_000
JITTER_RATIO = 0.1
MAX_DOUBLINGS = 16
"""Enough to reach any cap; keeps the power small when failures in a row grow without end."""


class CircuitReading(Struct, frozen=True):
    """The state, the end of the open time (0 when closed), failures in a row, and why."""

    state: CircuitState = "closed"
    until_ms: int = 0
    failures_in_row: int = 0
    degraded: bool = False
    reason: str = ""


CLOSED = CircuitReading()


def read_circuit(
    ledger: RouteLedger, policy: CircuitPolicy, now_ms: int, *, replica: str, reset_ms: int = 0
) -> CircuitReading:
    """The circuit of a route as `replica` should take it; `reset_ms` is the operators' last reset."""
    if not policy.enabled or not ledger.health:
        return CLOSED
    own = ledger.health.get(replica)
    if own and is_tripped(own, policy, reset_ms):
        return opened(own, policy, now_ms)
    tripped = fleet_trip(ledger, policy, now_ms, reset_ms)
    if tripped:
        return opened(max(tripped, key=lambda health: open_until_ms(health, policy)), policy, now_ms)
    seen = [health for health in ledger.health.values() if health is own or is_recent(health, now_ms)]
    worst = max((health.failures_in_row for health in seen if health.last_failure_ms > reset_ms), default=0)
    return CircuitReading(failures_in_row=worst, degraded=worst >= policy.degraded_failures)


def opened(health: Health, policy: CircuitPolicy, now_ms: int) -> CircuitReading:
    """The reading of a tripped route: open, or half open once its time is over."""
    until_ms = open_until_ms(health, policy)
    kind = health.last_failure_kind or "failure"
    return CircuitReading(
        state="open" if now_ms < until_ms else "half_open",
        until_ms=until_ms,
        failures_in_row=health.failures_in_row,
        degraded=True,
        reason=f"{health.failures_in_row} failures in a row, the last: {kind}",
    )


def fleet_trip(ledger: RouteLedger, policy: CircuitPolicy, now_ms: int, reset_ms: int) -> list[Health]:
    """The tripped replicas, when they are enough to open the route for all; else none."""
    using, tripped = 0, []
    for health in ledger.health.values():
        trips = is_tripped(health, policy, reset_ms)
        if is_recent(health, now_ms) or (trips and now_ms < open_until_ms(health, policy)):
            using += 1
            tripped += [health] * trips
    needed = max(min(2, using), (using + 1) // 2)
    return tripped if tripped and len(tripped) >= needed else []


def is_recent(health: Health, now_ms: int) -> bool:
    """Whether the replica used the route lately."""
    return now_ms - last_seen_ms(health) < RECENT_MS


def is_tripped(health: Health, policy: CircuitPolicy, reset_ms: int) -> bool:
    """Whether one replica's own counts trip: they do not change while nobody asks, so that time alone heals nothing."""
    if health.last_failure_ms <= reset_ms or not health.failures_in_row:
        return False
    return health.failures_in_row >= policy.trip_failures or was_failing(health, policy, reset_ms)


def was_failing(health: Health, policy: CircuitPolicy, reset_ms: int) -> bool:
    """Whether, at the last failure, too large a share of the attempts just before it failed or was slow."""
    since = max(health.last_failure_ms - policy.window_ms, reset_ms) // BUCKET_MS
    recent = [bucket for number, bucket in health.buckets.items() if number > since]
    attempts = sum(bucket.ok + bucket.failed for bucket in recent)
    bad = sum(bucket.failed + bucket.slow for bucket in recent)
    return attempts >= policy.window_attempts and bad >= attempts * policy.window_ratio


def open_until_ms(health: Health, policy: CircuitPolicy) -> int:
    """When the open time of a tripped replica ends."""
    doublings = min(max(0, health.failures_in_row - policy.trip_failures), MAX_DOUBLINGS)
    jitter = JITTER_RATIO * (crc32(health.last_failure_id.encode()) / 2**32)
    open_ms = min(policy.open_cap_ms, int(policy.open_ms * 2**doublings * (1 + jitter)))
    asked_ms = min(policy.open_cap_ms, max(0, health.retry_at_ms - health.last_failure_ms))
    return health.last_failure_ms + max(open_ms, asked_ms)
