"""The circuit breaker of a route: derived from folded counts under the policy at `now`, without state of its own.

Rules
- Failures count as far as they weigh for the client that asks (`evidence`).
- A replica is tripped by 5 failures in a row, by half of at least 20 attempts within 30 s failing or being slow, and by
  a failed probe.
- It stays tripped for its open time. That stays the same for the probes of the first minute, so that a route is back
  soon after a short outage, and then doubles with each failed probe, up to a cap. Its jitter follows from a hash of the
  last failure's id, so that all processes compute the same. A provider's retry-after is a lower bound, up to the cap.
- A replica avoids a route on which it has tripped itself. For the fleet the route is open when at least half of the
  replicas that used it within 30 s, or are within their open time, are tripped, and at least two if there are two. So a
  new process inherits a circuit that opened before.
- After the open time the route is half open: it takes one probe at a time, in the whole fleet. A successful probe ends
  the trip of its own replica, and the fleet's; from then on, a replica that tripped itself makes its own probe.
- After a successful probe the route takes a growing share of the requests, over ten seconds, if there are others.
- Failures before an operator's reset do not count.
"""

from typing import Literal
from zlib import crc32

from msgspec import Struct

from service.ledger.fold import BUCKET_MS, last_seen_ms
from service.ledger.state import ReplicaHealth, RouteLedger
from service.routing.evidence import EVERYTHING, Evidence, read_evidence
from service.settings import CircuitPolicy

CircuitState = Literal["closed", "open", "half_open"]
RECENT_MS = 30_000
JITTER_RATIO = 0.1
STEADY_MS = 60_000
"""Probes that fail within this time after a trip do not prolong the open time."""
MAX_DOUBLINGS = 16
"""Enough to reach any cap; keeps the power small when failed probes accumulate."""
HALF_OPEN_MS = 600_000
"""Lifetime of a trip whose replica has disappeared: it may have crashed, and the route may be down."""
RAMP_MS = 10_000
RAMP_LEAST = 0.1
"""Share of requests that a route gets just after its circuit closed."""


class CircuitReading(Struct, frozen=True):
    """The state, the end of the open time (0 when closed), failures in a row, and the reason.

    `share` is the fraction of requests that the route may take: below 1 for a while after a recovery.
    """

    state: CircuitState = "closed"
    until_ms: int = 0
    failures_in_row: int = 0
    degraded: bool = False
    reason: str = ""
    share: float = 1.0


CLOSED = CircuitReading()


def read_circuit(
    ledger: RouteLedger,
    policy: CircuitPolicy,
    now_ms: int,
    *,
    replica: str,
    reset_ms: int = 0,
    client: str | None = None,
) -> CircuitReading:
    """Return the circuit of a route for `replica` and `client` (None: no client in particular); `reset_ms` is the
    operators' last reset."""
    if not policy.enabled or is_sound(ledger, policy, now_ms, replica):
        return CLOSED
    own, evidence = ledger.health.get(replica), read_evidence(ledger, now_ms, client)
    if own and is_tripped(own, policy, reset_ms, evidence):
        recovered_ms = max(health.recovered_ms for health in ledger.health.values())
        return opened(own, policy, now_ms, evidence, recovered_ms=recovered_ms)
    tripped = fleet_trip(ledger, policy, now_ms, reset_ms, evidence)
    if tripped:
        last = max(tripped, key=lambda health: open_until_ms(health, policy, evidence))
        return opened(last, policy, now_ms, evidence)
    return closed(ledger, own, policy, now_ms, reset_ms, evidence)


def is_sound(ledger: RouteLedger, policy: CircuitPolicy, now_ms: int, replica: str) -> bool:
    """True if no replica has failures left to consider: the usual case, checked first."""
    for name, health in ledger.health.items():
        if not is_well(health, now_ms) and (name == replica or not is_gone(health, policy, now_ms)):
            return False
    return True


def is_well(health: ReplicaHealth, now_ms: int) -> bool:
    """True if a replica has no failures in a row, no bad outcome in its buckets, and no recent recovery."""
    if health.worst_row or health.failed_probes or now_ms - health.recovered_ms < RAMP_MS:
        return False
    return max(health.last_failure_ms, health.last_slow_ms) // BUCKET_MS not in health.buckets


def is_gone(health: ReplicaHealth, policy: CircuitPolicy, now_ms: int) -> bool:
    """True if another replica has been silent for so long that its outcomes no longer count."""
    last_ms = max(last_seen_ms(health), opened_ms(health), health.recovered_ms)
    return now_ms - last_ms >= policy.open_cap_ms + HALF_OPEN_MS


def closed(
    ledger: RouteLedger,
    own: ReplicaHealth | None,
    policy: CircuitPolicy,
    now_ms: int,
    reset_ms: int,
    evidence: Evidence,
) -> CircuitReading:
    """Return the reading of a closed circuit, perhaps with a reduced share."""
    seen = [health for health in ledger.health.values() if health is own or is_recent(health, now_ms)]
    worst = max((health.failures_in_row for health in seen if health.last_failure_ms > reset_ms), default=0)
    since_ms = now_ms - max(recovered_ms(health, evidence) for health in ledger.health.values())
    return CircuitReading(
        failures_in_row=worst,
        degraded=worst >= policy.degraded_failures,
        share=1.0 if since_ms >= RAMP_MS else max(RAMP_LEAST, since_ms / RAMP_MS),
    )


def recovered_ms(health: ReplicaHealth, evidence: Evidence) -> int:
    """Return when a replica's probe last ended a trip that weighed for the client that asks; 0 if none did."""
    client = health.recovered_client
    return health.recovered_ms if client is None or evidence.weighs((client,)) else 0


def opened(
    health: ReplicaHealth, policy: CircuitPolicy, now_ms: int, evidence: Evidence, *, recovered_ms: int = 0
) -> CircuitReading:
    """Return the reading of a tripped route: open, or half open once its time is over, or once another replica's probe
    has succeeded at `recovered_ms`."""
    until_ms = open_until_ms(health, policy, evidence)
    if recovered_ms > opened_ms(health, evidence):
        until_ms = min(until_ms, recovered_ms)
    return CircuitReading(
        state="open" if now_ms < until_ms else "half_open",
        until_ms=until_ms,
        failures_in_row=health.failures_in_row,
        degraded=True,
        reason=reason_of(health, policy),
    )


def reason_of(health: ReplicaHealth, policy: CircuitPolicy) -> str:
    """Explain why the circuit opened."""
    kind = health.last_failure_kind or ("failure" if health.last_failure_ms else "slow first bytes")
    if health.failed_probes:
        probes = "a probe" if health.failed_probes == 1 else f"{health.failed_probes} probes"
        return f"{probes} failed, the last failure: {kind}"
    if health.worst_row >= policy.trip_failures:
        return f"{health.worst_row} failures in a row, the last: {kind}"
    return f"half of the attempts failed or were slow, the last failure: {kind}"


def fleet_trip(
    ledger: RouteLedger, policy: CircuitPolicy, now_ms: int, reset_ms: int, evidence: Evidence
) -> list[ReplicaHealth]:
    """Return the tripped replicas if they are enough to open the route for the fleet; else none.

    Trips before the last successful probe of any replica only count for that replica.
    """
    floor_ms = max(reset_ms, *(health.recovered_ms for health in ledger.health.values()))
    using, tripped = 0, []
    for health in ledger.health.values():
        trips = is_tripped(health, policy, reset_ms, evidence) and opened_ms(health, evidence) > floor_ms
        if is_recent(health, now_ms) or (trips and now_ms < open_until_ms(health, policy, evidence) + HALF_OPEN_MS):
            using += 1
            tripped += [health] * trips
    needed = max(min(2, using), (using + 1) // 2)
    return tripped if tripped and len(tripped) >= needed else []


def is_recent(health: ReplicaHealth, now_ms: int) -> bool:
    """True if the replica used the route recently."""
    return now_ms - last_seen_ms(health) < RECENT_MS


def is_tripped(health: ReplicaHealth, policy: CircuitPolicy, reset_ms: int, evidence: Evidence) -> bool:
    """True if a replica's own counts trip: they do not change without requests, so time alone does not heal a route."""
    floor_ms = max(reset_ms, health.recovered_ms)
    if evidence.until_ms(health, health.last_failure_ms) > floor_ms and (
        evidence.failures_in_row(health) >= policy.trip_failures or evidence.failed_probes(health)
    ):
        return True
    return was_failing(health, policy, floor_ms, evidence)


def was_failing(health: ReplicaHealth, policy: CircuitPolicy, floor_ms: int, evidence: Evidence) -> bool:
    """True if, at the last bad outcome, too large a share of recent attempts had failed or was slow."""
    last_ms = max(health.last_failure_ms, health.last_slow_ms)
    if last_ms <= floor_ms:
        return False
    since = max(last_ms - policy.window_ms, floor_ms) // BUCKET_MS
    recent = [bucket for number, bucket in health.buckets.items() if number > since]
    attempts = sum(bucket.ok + bucket.failed for bucket in recent)
    bad = evidence.bad_outcomes(recent)
    return attempts >= policy.window_attempts and bad >= attempts * policy.window_ratio


def opened_ms(health: ReplicaHealth, evidence: Evidence = EVERYTHING) -> int:
    """Return when the replica's circuit opened, if it did."""
    return evidence.until_ms(health, max(health.opened_ms, health.last_slow_ms))


def open_until_ms(health: ReplicaHealth, policy: CircuitPolicy, evidence: Evidence = EVERYTHING) -> int:
    """Return the end of a tripped replica's open time."""
    doublings = min(max(0, evidence.failed_probes(health) - steady_probes(policy)), MAX_DOUBLINGS)
    jitter = JITTER_RATIO * (crc32(health.last_failure_id.encode()) / 2**32)
    open_ms = min(policy.open_cap_ms, int(policy.open_ms * 2**doublings * (1 + jitter)))
    since_ms = opened_ms(health, evidence)
    asked_ms = min(policy.open_cap_ms, max(0, health.retry_at_ms - since_ms))
    return since_ms + max(open_ms, asked_ms)


def steady_probes(policy: CircuitPolicy) -> int:
    """Return how many probes can fail within the first minute."""
    return max(0, -(-STEADY_MS // max(1, policy.open_ms)) - 1)
