"""Whose fault a route's failures are: which of the folded failures weigh for the client that asks.

Not here: folding them (`service.ledger.evidence`), or what follows once they weigh (`circuit`, `quota`).

Rules
- Failures that one client alone met weigh for that client. For all others it takes a second client that met some.
- A route stays open for others only as long as a second client goes on failing, so that nobody keeps it from them
  behind an outage. What several clients met before a successful probe is over.
- Asked by nobody in particular (status, dashboard), failures of one client weigh when no other client used the route
  within ten minutes.
- In a streak one session counts at most three times while another session used the route within ten minutes.
- A refused connection is nobody's doing: it always counts.
- The second time-out of one request body says no more than the first; from the third on they count.
- Failures of which nobody knows the client (events of older versions) weigh for all.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping

from msgspec import Struct

from service.ledger.evidence import OTHERS
from service.ledger.state import Bucket, ReplicaHealth, RouteLedger, SessionFailures

SEEN_MS = 600_000
"""For how long a client that used the route is taken for one that still does."""
SESSION_FAILURES = 3
"""What one session adds to a streak at most: less than any streak that trips by default."""


class Evidence(Struct, frozen=True):
    """The failures of a route as they weigh for `client`, None for nobody in particular.

    `clients` and `sessions` used the route lately; `is_shared`: several clients met failures lately, so that all weigh.
    `shared_ms` is the last time at which a second client had met one, or anybody a refused connection.
    """

    client: str | None
    clients: Collection[str]
    sessions: Collection[str]
    is_shared: bool = False
    shared_ms: int = 0

    def weighs(self, met_by: Collection[str]) -> bool:
        """Whether failures that these clients met weigh for the one that asks."""
        if self.is_shared or len(met_by) != 1 or OTHERS in met_by:
            return True
        return self.is_own(next(iter(met_by)))

    def is_own(self, name: str) -> bool:
        """Whether what this client met weighs without anybody else's."""
        return self.client == name if self.client is not None else all(seen == name for seen in self.clients)

    def until_ms(self, health: ReplicaHealth, at_ms: int) -> int:
        """The last failure or slow answer of a replica that weighs, at the latest `at_ms`."""
        told = health.met_last
        if at_ms > max(told.values(), default=0):
            return at_ms  # nobody knows whose it was
        own_ms = max((met_ms for name, met_ms in told.items() if self.is_own(name)), default=0)
        return min(at_ms, max(own_ms, self.shared_ms))

    def failures_in_row(self, health: ReplicaHealth) -> int:
        """The longest streak of a replica since its last recovery, as far as it weighs."""
        told = list(sessions_of(health))
        count = health.worst_row - sum(failures.failures for _, failures in told)
        count += sum(failures.connects for _, failures in told)
        if self.weighs(clients_of(health)):
            count += sum(self._counted(session, failures, told) for session, failures in told)
        return count

    def _counted(self, session: str, failures: SessionFailures, told: Collection[tuple[str, SessionFailures]]) -> int:
        """What one session adds to a streak, refused connections aside."""
        count = failures.failures - failures.connects - failures.repeats
        is_alone = len(told) == 1 and all(seen == session for seen in self.sessions)
        return count if is_alone else min(count, SESSION_FAILURES)

    def failed_probes(self, health: ReplicaHealth) -> int:
        """The probes in a row that failed, as far as they weigh: of one client's as many as others' bear out."""
        told = {name: probes for name, probes in health.probed_by.items() if name != OTHERS}
        most = max(told.values(), default=0)
        others = health.failed_probes - most
        own = max((probes for name, probes in told.items() if self.is_own(name)), default=0)
        return max(own, others + min(most, others))

    def bad_outcomes(self, buckets: Collection[Bucket]) -> int:
        """The failed and slow outcomes in some buckets, as far as they weigh."""
        bad = sum(bucket.failed + bucket.slow for bucket in buckets)
        if self.weighs({client for bucket in buckets for client in bucket.bad_by}):
            return bad
        return bad - sum(sum(bucket.bad_by.values()) for bucket in buckets)


EVERYTHING = Evidence(None, (), (), is_shared=True)
"""All failures weigh, whoever met them."""


def read_evidence(ledger: RouteLedger, now_ms: int, client: str | None) -> Evidence:
    """How the failures of a route weigh for a client."""
    healths = ledger.health.values()
    met_by = {name for health in healths if now_ms - health.last_failure_ms < SEEN_MS for name in clients_of(health)}
    shared_ms = shared_until_ms(healths)
    return Evidence(
        client,
        seen_lately(ledger.clients, now_ms),
        seen_lately(ledger.sessions, now_ms),
        is_shared=len(met_by) > 1 and shared_ms > max(health.recovered_ms for health in healths),
        shared_ms=shared_ms,
    )


def shared_until_ms(healths: Iterable[ReplicaHealth]) -> int:
    """The last time at which a second client had met a failure, or anybody a refused connection; 0 for never."""
    last: dict[str, int] = {}
    for health in healths:
        for name, met_ms in health.met_last.items():
            last[name] = max(met_ms, last.get(name, 0))
    return max(last.get(OTHERS, 0), *sorted(last.values())[-2:-1], 0)


def seen_lately(seen: Mapping[str, int], now_ms: int) -> list[str]:
    """The names that were seen within ten minutes."""
    return [name for name, at_ms in seen.items() if now_ms - at_ms < SEEN_MS]


def sessions_of(health: ReplicaHealth) -> Iterator[tuple[str, SessionFailures]]:
    """The sessions of a replica's longest streak, with what they met."""
    for sessions in health.worst_by.values():
        yield from sessions.items()


def clients_of(health: ReplicaHealth) -> set[str]:
    """The clients that met failures of a replica's streak, or whose probes failed; refused connections aside."""
    met = (client for client, sessions in health.worst_by.items() if has_failures(sessions.values()))
    return {*met, *health.probed_by}


def has_failures(sessions: Iterable[SessionFailures]) -> bool:
    """Whether any of the sessions met more than refused connections."""
    return any(failures.failures > failures.connects for failures in sessions)
