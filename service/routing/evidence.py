"""Whose fault a route's failures are: which of the folded failures weigh for the client that asks.

Not here: folding them (`service.ledger.evidence`), or what follows once they weigh (`circuit`, `quota`).

Rules
- Failures that one client alone met weigh for that client. For all others it takes a second client that met some.
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
    """

    client: str | None
    clients: Collection[str]
    sessions: Collection[str]
    is_shared: bool = False

    def weighs(self, met_by: Collection[str]) -> bool:
        """Whether failures that these clients met weigh for the one that asks."""
        if self.is_shared or len(met_by) != 1 or OTHERS in met_by:
            return True
        only = next(iter(met_by))
        return self.client == only if self.client is not None else all(seen == only for seen in self.clients)

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
        """The probes in a row that failed, as far as they weigh."""
        return health.failed_probes if self.weighs(clients_of(health)) else 0

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
    lately = (health for health in ledger.health.values() if now_ms - health.last_failure_ms < SEEN_MS)
    met_by = {name for health in lately for name in clients_of(health)}
    return Evidence(
        client,
        seen_lately(ledger.clients, now_ms),
        seen_lately(ledger.sessions, now_ms),
        is_shared=len(met_by) > 1,
    )


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
