"""Who met a route's failures: counts by client and session, and errors that several requests met in the same words.

Kept beside the plain counts of health, so that a reading can tell a route's fault from that of one client, one session
or one prompt. Raw facts under fixed bounds; which of them weigh, and for whom, is decided on reading
(`service.routing.evidence`).
"""

from collections import Counter
from collections.abc import Collection, Sequence

from service.ledger.events import AttemptEnded
from service.ledger.state import Bucket, FailuresBySession, Refusal, ReplicaHealth, RouteLedger, SessionFailures

KEPT_SEEN = 2
"""The two newest clients and sessions are enough to say whether there is another one than this."""
KEPT_SESSIONS = 32
"""Sessions of one streak with counts of their own; all further ones of a client share one."""
KEPT_BODIES = 4
"""Request bodies of one session whose time-outs are counted; providers hang on few."""
KEPT_BAD_CLIENTS = 4
"""Clients of one bucket with counts of their own: two are enough to tell one client's fault from the route's."""
KEPT_REFUSALS = 8
"""Errors in words that no rule knows, of an account and class of endpoint; a route is seldom refused in more than one
way at a time."""
KEPT_GROUPS = 3
"""Accounts and classes of endpoints of a route with as many errors each: there is seldom more than one of either."""
FAIR_REFUSALS = 4
"""Fold rules since which a client's many wordings drop its own, not those that others have met."""
KEPT_WITNESSES = 3
"""Bodies and clients that met the same words: a reading asks for three and two."""
OTHERS = "*"
"""Stands for all clients or sessions beyond the bound; no client key has this id."""


def note_seen(ledger: RouteLedger, event: AttemptEnded) -> None:
    """Remember who used the route last, and with which account."""
    ledger.account = event.account or ledger.account
    note_newest(ledger.clients, event.client_key, event.at_ms)
    note_newest(ledger.sessions, event.session_id, event.at_ms)


def note_newest(seen: dict[str, int], name: str, at_ms: int) -> None:
    """Remember when a name was seen last, if it is one of the newest."""
    if name in seen:
        seen[name] = max(at_ms, seen[name])
    else:
        add_newest(seen, name, at_ms)


def add_newest(seen: dict[str, int], name: str, at_ms: int) -> None:
    """Add a name and when it was seen; the one that was not seen for longest goes when there are too many."""
    if len(seen) >= KEPT_SEEN:
        oldest = min(seen, key=seen.__getitem__)
        if seen[oldest] > at_ms:
            return
        del seen[oldest]
    seen[name] = at_ms


def note_failure(row: FailuresBySession, event: AttemptEnded) -> None:
    """Count a failure for its client and session."""
    session = session_of(row, event)
    session.failures += 1
    if event.kind == "connect":
        session.connects += 1
    elif event.kind == "timeout" and event.body:
        note_timeout(session, event.body)


def session_of(row: FailuresBySession, event: AttemptEnded) -> SessionFailures:
    """The counts of the event's session, opened when it is new."""
    known = row.get(event.client_key, {}).get(event.session_id)
    if known is not None:
        return known
    client, session = event.client_key, event.session_id
    if sum(map(len, row.values())) >= KEPT_SESSIONS:
        client, session = name_within(row, client), OTHERS
    return row.setdefault(client, {}).setdefault(session, SessionFailures())


def note_timeout(session: SessionFailures, body: str) -> None:
    """Count a time-out of a body. The second of one body says no more than the first; from the third on they count."""
    if body not in session.timeouts and len(session.timeouts) >= KEPT_BODIES:
        return
    times = session.timeouts[body] = session.timeouts.get(body, 0) + 1
    session.repeats += times == 2


def copy_of(row: FailuresBySession) -> FailuresBySession:
    """A copy that shares nothing that can change."""
    return {
        client: {
            name: SessionFailures(counts.failures, counts.connects, counts.repeats, dict(counts.timeouts))
            for name, counts in sessions.items()
        }
        for client, sessions in row.items()
    }


def note_bad(health: ReplicaHealth, bucket: Bucket, event: AttemptEnded) -> None:
    """Count a failed or slow outcome for its client; connections that were refused are nobody's doing."""
    if event.kind == "connect":
        bucket.connects += 1
        note_newest(health.met_last, OTHERS, event.at_ms)
    else:
        count_client(bucket.bad_by, event.client_key)
        note_newest(health.met_last, event.client_key, event.at_ms)


def count_client(counts: dict[str, int], client: str) -> None:
    """Count one more for a client."""
    name = name_within(counts, client)
    counts[name] = counts.get(name, 0) + 1


def name_within(named: Collection[str], client: str) -> str:
    """The name under which a client's failures are kept: its own, unless others have taken all room."""
    return client if client in named or len(named) < KEPT_BAD_CLIENTS else OTHERS


def recovered_for(ledger: RouteLedger, probe: AttemptEnded) -> str | None:
    """The client whose failures alone a successful probe has ended; None when others met some, or nobody knows who."""
    healths = ledger.health.values()
    if any(has_unattributed(health) for health in healths):
        return None
    met = {client for health in healths for client in met_by(health)}
    return probe.client_key if met <= {probe.client_key} else None


def has_unattributed(health: ReplicaHealth) -> bool:
    """Whether a replica met failures that belong to no client: refused connections, and events of older versions."""
    if any(counts.connects for sessions in health.worst_by.values() for counts in sessions.values()):
        return True
    told = sum(counts.failures for sessions in health.worst_by.values() for counts in sessions.values())
    return health.worst_row > told or any(unattributed(bucket) for bucket in health.buckets.values())


def unattributed(bucket: Bucket) -> int:
    """The failed and slow outcomes of a bucket that belong to no client."""
    return bucket.failed + bucket.slow - sum(bucket.bad_by.values())


def met_by(health: ReplicaHealth) -> set[str]:
    """The clients that met what a replica remembers."""
    in_buckets = (client for bucket in health.buckets.values() for client in bucket.bad_by)
    return {*health.worst_by, *health.probed_by, *in_buckets}


def note_refusal(ledger: RouteLedger, event: AttemptEnded) -> None:
    """Remember who met an error whose words no rule knows, and with which request."""
    name = f"{event.endpoint}/{event.account}/{event.words}"
    refusal = ledger.refusals.pop(name, None) or Refusal(
        endpoint=event.endpoint, account=event.account, status=event.status, message=event.message, since_ms=event.at_ms
    )
    make_room(ledger.refusals, event)
    ledger.refusals[name] = refusal
    refusal.at_ms = max(refusal.at_ms, event.at_ms)
    add_witness(refusal.bodies, event.body)
    add_witness(refusal.clients, event.client_key)


def make_room(refusals: dict[str, Refusal], event: AttemptEnded) -> None:
    """Drop an error for that of an event, if there are too many."""
    if event.fold_rules < FAIR_REFUSALS:
        if len(refusals) >= KEPT_REFUSALS:
            del refusals[next(iter(refusals))]
        return
    group = [
        name for name, each in refusals.items() if (each.endpoint, each.account) == (event.endpoint, event.account)
    ]
    if len(group) >= KEPT_REFUSALS:
        drop_one(refusals, group)
    elif len(refusals) >= KEPT_REFUSALS * KEPT_GROUPS:
        drop_one(refusals, list(refusals))


def drop_one(refusals: dict[str, Refusal], names: Sequence[str]) -> None:
    """Drop the oldest error of the client that alone has met most of them: what two clients have met says more."""
    alone = Counter(refusals[name].clients[0] for name in names if len(refusals[name].clients) == 1)
    weights = [alone[refusals[name].clients[0]] if len(refusals[name].clients) == 1 else 0 for name in names]
    del refusals[names[weights.index(max(weights))]]


def add_witness(witnesses: list[str], name: str) -> None:
    """Add a name, once."""
    if name not in witnesses and len(witnesses) < KEPT_WITNESSES:
        witnesses.append(name)


def end_refusals(ledger: RouteLedger, success: AttemptEnded) -> None:
    """An answer that began after an error takes that error back."""
    ledger.refusals = {
        name: refusal
        for name, refusal in ledger.refusals.items()
        if not (
            refusal.endpoint == success.endpoint
            and refusal.account == success.account
            and refusal.since_ms <= success.started_at_ms
        )
    }
