"""The folded state: one ledger per stream. Counts and providers' reports, but no decisions.

Everything that depends on settings (weeks, limits, thresholds, weights) is applied on reading, in `service.routing`. A
ledger's JSON is the body of a snapshot. Only `fold` changes a ledger.
"""

from typing import TypeAlias

from msgspec import Struct

from service.ledger.events import Endpoint, FailureKind, NoticeCode, TokenCounts, Window


class Heard(Struct, omit_defaults=True):
    """Acknowledged event numbers of one replica: all up to `high` except `gaps` (first and last, inclusive)."""

    high: int = 0
    at_ms: int = 0
    gaps: list[tuple[int, int]] = []

    def has(self, seq: int) -> bool:
        """True if the event with this number was folded."""
        if seq > self.high or not self.gaps:  # asked of each event that waits for a snapshot
            return seq <= self.high
        return not any(first <= seq <= last for first, last in self.gaps)


class Usage(Struct, omit_defaults=True, gc=False):
    """Attempts and tokens of one cell, or a change to it. `unpriced`: attempts and batch items without a price.

    `estimated` counts those whose usage is estimated, in whole or in part, and `estimated_tokens` all tokens of theirs.
    """

    attempts: int = 0
    failed: int = 0
    aborted: int = 0
    lost: int = 0
    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    cost_nusd: int = 0
    unpriced: int = 0
    batch_items: int = 0
    estimated: int = 0
    estimated_tokens: int = 0


class Charge(Struct, gc=False):
    """A change to one cell: hour (Unix time in units of 3600 s), model sent, client key, and what is added."""

    hour: int
    model: str
    client_key: str
    usage: Usage


class Bucket(Struct, omit_defaults=True):
    """Outcomes within ten seconds; `slow` ones are among the `ok`.

    `connects` are failures to connect at all; `bad_by` counts the other failed and slow outcomes by client key.
    """

    ok: int = 0
    failed: int = 0
    slow: int = 0
    connects: int = 0
    bad_by: dict[str, int] = {}


class SessionFailures(Struct, omit_defaults=True):
    """Failures of one session in a row. `connects`: no connection was made at all; `repeats`: second time-outs of one
    body; `timeouts`: by the fingerprint of the body.
    """

    failures: int = 0
    connects: int = 0
    repeats: int = 0
    timeouts: dict[str, int] = {}


FailuresBySession: TypeAlias = dict[str, dict[str, SessionFailures]]
"""By client key, then by session."""


class ReplicaHealth(Struct, omit_defaults=True):
    """Health of one route as seen by one replica. `buckets` by Unix time in units of ten seconds, the newest few only.

    `failures_in_row` is cleared by any success; `worst_row`, its maximum, only by one that began after the last
    failure, so that a stream from before a trip does not undo it. `row_by` and `worst_by` are the same by client and
    session, as far as events tell. `opened_ms` is the last failure of an attempt that began after the one before it:
    concurrent failures count once. `met_last` are the two clients that met failures or slow answers last, and when.
    `failed_probes` since the last such success; `probed_by` counts them by client, those
    whose connection was refused aside.
    `recovered_ms` is when a probe last succeeded, `recovered_client` the client whose failures alone it ended, None if
    several clients had met some.
    """

    failures_in_row: int = 0
    worst_row: int = 0
    failed_probes: int = 0
    probed_by: dict[str, int] = {}
    met_last: dict[str, int] = {}
    row_by: FailuresBySession = {}
    worst_by: FailuresBySession = {}
    opened_ms: int = 0
    last_failure_ms: int = 0
    last_failure_id: str = ""
    last_failure_kind: FailureKind = ""
    last_success_ms: int = 0
    last_slow_ms: int = 0
    recovered_ms: int = 0
    recovered_client: str | None = None
    retry_at_ms: int = 0
    buckets: dict[int, Bucket] = {}


class Wait(Struct, omit_defaults=True):
    """A throttle, quota or credential wait.

    `until_ms` is the end that the provider named, 0 if it named none: then the policy's wait counts from `at_ms`.
    `holds` is a substring of the models that wait, "" for all. `account` is whose wait it is, "" if unknown; `endpoint`
    the class of endpoint that waits.
    """

    at_ms: int = 0
    until_ms: int = 0
    kind: FailureKind = ""
    status: int = 0
    message: str = ""
    holds: str = ""
    account: str = ""
    endpoint: Endpoint = "messages"

    def concerns(self, model: str) -> bool:
        """True if the wait applies to this model; without a model, only waits of all models apply."""
        return not self.holds or self.holds in model.lower()


class WindowTold(Window, frozen=True, omit_defaults=True, gc=False):
    """A provider's newest report of one quota window of an account ("": unknown), received at `at_ms` with an answer
    (`answered`) or an error.
    """

    at_ms: int = 0
    answered: bool = False
    account: str = ""


class Refusal(Struct, omit_defaults=True):
    """An error in words that no rule knows, as an account met it on a class of endpoint from `since_ms` to `at_ms`.

    `bodies` are fingerprints of the first requests that met it, `clients` the keys of the first clients.
    """

    endpoint: Endpoint = "messages"
    account: str = ""
    status: int = 0
    message: str = ""
    since_ms: int = 0
    at_ms: int = 0
    bodies: list[str] = []
    clients: list[str] = []


class ReplicaNotice(Struct, frozen=True, omit_defaults=True):
    """A replica's last `RouteNotice`, the event `seq` of its own; without a `code` all is well."""

    code: NoticeCode = ""
    usable: bool = False
    message: str = ""
    at_ms: int = 0
    seq: int = 0

    @property
    def forbids(self) -> bool:
        """True if the replica can't use the route."""
        return bool(self.code) and not self.usable


class ResourceTotal(Struct, omit_defaults=True):
    """A resource whose running total was read: what is booked of it, on whom, and its highest readings.

    `parts` are its threads and dreams by a digest of their ids, with the whole resource under "". `reader` is the
    client key that read it first, which created it if that passed through the proxy, and is charged for its growth;
    `model` is what was named first.
    """

    made_at_ms: int = 0
    reader: str = ""
    model: str = ""
    booked: TokenCounts = TokenCounts()
    booked_nusd: int = 0
    parts: dict[str, TokenCounts] = {}


class OpenAttempt(Struct, omit_defaults=True, gc=False):
    """An attempt that has started and not ended."""

    request_id: str
    at_ms: int
    replica: str
    endpoint: Endpoint = "messages"
    model_asked: str = ""
    model_sent: str = ""
    client_key: str = ""
    session_id: str = ""
    estimated_tokens: int = 0


class RouteLedger(Struct, omit_defaults=True):
    """The folded state of one route.

    `usage` is hour -> model sent -> client key -> cell, `hours` its sums; an hour is Unix time in units of 3600 s.
    `waits` are by scope (throttle, quota, credential), those of some models as `quota:opus`; `windows` by the
    provider's name; both with endpoint and account before it (`messages/1f3a.../quota`) where these are known.
    `missing_models` by name, with the time of the provider's last denial. `clients` and `sessions` are the two that
    used the route last, and when; `refusals` are errors that no rule knows, by endpoint, account and a fingerprint of
    the words. `opinions` counts second opinions by outcome, `unknown_errors` the errors in words that no rule knows.
    `reset_ms`: attempts that began until then count for usage alone. `account`: used last. `lost` holds the
    estimates of lost attempts, until their actual end arrives; `ended_early` the attempts whose end came before their
    start (through a spool), and when. `resources` are those whose running totals were read last, by a digest of their
    ids; those made until `resources_since_ms` may have been read before and dropped. `beside` is what models used of
    late, by hour, that was no answer of theirs: as advisors, before a fallback, for running totals. `unread` names the
    fields of providers' usage that no version has a reading for, and when they came last. `notices` are the
    last ones of each replica about the route's credential.
    """

    heard: dict[str, Heard] = {}
    usage: dict[int, dict[str, dict[str, Usage]]] = {}
    hours: dict[int, Usage] = {}
    health: dict[str, ReplicaHealth] = {}
    waits: dict[str, Wait] = {}
    windows: dict[str, WindowTold] = {}
    missing_models: dict[str, int] = {}
    clients: dict[str, int] = {}
    sessions: dict[str, int] = {}
    refusals: dict[str, Refusal] = {}
    opinions: dict[str, int] = {}
    unknown_errors: int = 0
    reset_ms: int = 0
    account: str = ""
    open: dict[str, OpenAttempt] = {}
    lost: dict[str, Charge] = {}
    ended_early: dict[str, int] = {}
    resources: dict[str, ResourceTotal] = {}
    resources_since_ms: int = 0
    beside: dict[int, dict[str, Usage]] = {}
    unread: dict[str, int] = {}
    notices: dict[str, ReplicaNotice] = {}
    newest_ms: int = 0


class ClientKey(Struct, omit_defaults=True):
    """An active client key and its limits; None is no limit, an empty list is all."""

    name: str
    sha256: str
    weekly_tokens: int | None = None
    weekly_cost_nusd: int | None = None
    models: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    concurrency: int | None = None
    expires_at_ms: int | None = None
    issued_at_ms: int = 0


class ControlLedger(Struct, omit_defaults=True):
    """The folded state of the control stream: `disabled` routes with the reason, resets by time, limits, keys."""

    heard: dict[str, Heard] = {}
    disabled: dict[str, str] = {}
    resets: dict[str, int] = {}
    limits: dict[str, int] = {}
    keys: dict[str, ClientKey] = {}
    refused: dict[str, int] = {}
    newest_ms: int = 0


Ledger = RouteLedger | ControlLedger
