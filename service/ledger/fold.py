"""(ledger, events) -> ledger. The rules by which facts become state; no settings, no clock, no random.

`fold` is pure and leaves its argument alone. `advance` does the same in place for the one owner of a ledger: a worker
within its transaction, a proxy with its own view.

Rules
- An event is folded once: the caller leaves out what was folded before (`Heard.has`, or the event's id in Postgres).
- Usage counts whatever became of the attempt; an estimate (`AttemptLost`) is taken back when the true end comes.
- Health counts only answers to `messages`, only faults of the route or its provider, and nothing that waited on disk.
- A wait is never shortened by a later, lesser one. A success that began after it, for a model that it holds, ends it.
- A wait belongs to an account and to a class of endpoint: `messages`, or `count_tokens`. What other endpoints answer
  says nothing about either. (Events of before that rule know no account, and a 401 of any endpoint begins a wait.)
- A reset forgets what is held against the route; attempts that began before it bring usage alone.
- Clients can invent model names: of one hour the first KEPT_MODELS have cells of their own, the rest has one together,
  which counts for every limit and costs what its events say. Events of before that rule are folded without it.
- What a provider says of its windows and models, to `messages` too, stands until it says something newer; a spool tells
  it late.
"""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import msgspec

from service.ledger.events import (
    AttemptEnded,
    AttemptLost,
    AttemptStarted,
    BatchItemUsed,
    CircuitReset,
    ClientKeyIssued,
    ClientKeyLimited,
    ClientKeyRevoked,
    ControlEvent,
    Endpoint,
    Event,
    EventBase,
    QuotaLimitChanged,
    RequestRefused,
    ResourceCreated,
    RouteDisabled,
    RouteEnabled,
    RouteEvent,
    RouteReset,
)
from service.ledger.evidence import copy_of as copy_of_row
from service.ledger.evidence import (
    count_client,
    end_refusals,
    note_bad,
    note_failure,
    note_refusal,
    note_seen,
    recovered_for,
)
from service.ledger.state import (
    Bucket,
    Charge,
    ClientKey,
    ControlLedger,
    Heard,
    Ledger,
    OpenAttempt,
    ReplicaHealth,
    RouteLedger,
    Usage,
    Wait,
    WindowTold,
)

HOUR_MS = 3_600_000
BUCKET_MS = 10_000
KEPT_HOURS = 15 * 24
"""Two whole weeks, whatever their anchor and time zone; what is older stands in Postgres alone."""
KEPT_BUCKETS = 12
"""Two minutes of outcomes: four times the longest window that a reading looks at."""
KEPT_REPLICAS = 256
"""Replicas whose health and numbering are kept; the one silent for longest goes first."""
KEPT_MISSING_MODELS = 64
"""Model names are the client's to invent, so that their memory has a bound."""
KEPT_MODELS = 64
"""Models of one hour with cells of their own. Users ask for a handful, and a cell takes 200 bytes of each snapshot."""
MODEL_BYTES = 64
"""The longest name that is kept; providers' own have half of it."""
OTHER_MODEL = "other"
"""Stands for all further names of an hour, and for those that are too long."""
MODELS_BOUNDED = 1
"""The first of the fold's rules (`FOLD_RULES`) by which names are bounded."""
EVIDENCE_KEPT = 2
"""The first of the fold's rules by which waits have an account, and failures a client and a session."""

L = TypeVar("L", RouteLedger, ControlLedger)

KEPT_WAITS = 32
KEPT_WINDOWS = 32
"""Providers name their windows, and models give waits their names; both are few."""
KEPT_LOST = 1_000
"""Estimates that a late true end still takes back; more than this die in no crash of a sane fleet."""
KEPT_ENDED_EARLY = 1_000
"""Ends that came before their starts: a handful, when a spool is adopted."""

V = TypeVar("V")
CIRCUIT_SCOPES = frozenset(("route", "provider"))
REFUSED_STATUS = 401
WAIT_SCOPES = frozenset(("throttle", "quota", "credential"))
WAIT_ENDPOINTS: frozenset[Endpoint] = frozenset(("messages", "count_tokens"))
"""Classes of endpoint that wait, each for itself."""


def fold_route(ledger: RouteLedger, events: Iterable[RouteEvent]) -> RouteLedger:
    """A route's ledger after these events."""
    folded = copy_of(ledger)
    for event in events:
        advance_route(folded, event)
    return folded


def fold_control(ledger: ControlLedger, events: Iterable[ControlEvent]) -> ControlLedger:
    """The control ledger after these events."""
    folded = copy_of(ledger)
    for event in events:
        advance_control(folded, event)
    return folded


def copy_of(ledger: L) -> L:
    """A deep copy that shares nothing that can change."""
    return msgspec.convert(msgspec.to_builtins(ledger), type(ledger))


def advance(ledger: Ledger, event: Event) -> Sequence[Charge]:
    """Fold one event into a ledger in place; the changes to usage cells that it made.

    An event of the other kind of stream is no part of the ledger.
    """
    if isinstance(ledger, ControlLedger):
        if isinstance(event, ControlEvent):
            advance_control(ledger, event)
    elif isinstance(event, RouteEvent):
        return advance_route(ledger, event)
    return ()


def advance_route(ledger: RouteLedger, event: RouteEvent) -> Sequence[Charge]:
    """Fold one event into a route's ledger, in place; the changes to usage cells that it made."""
    hear(ledger.heard, event)
    if event.at_ms > ledger.newest_ms:
        advance_time(ledger, event.at_ms)
    match event:
        case AttemptStarted():
            start(ledger, event)
        case AttemptEnded():
            return end(ledger, event)
        case AttemptLost():
            return lose(ledger, event)
        case BatchItemUsed():
            return charged(ledger, charge_of(ledger, event))
        case ResourceCreated():
            pass  # Redis holds the index; the ledger only keeps the fact
        case RouteReset():
            reset(ledger, event)
    return ()


def advance_time(ledger: RouteLedger, at_ms: int) -> None:
    """Note the newest event's time; with a new hour, old ones go."""
    is_new_hour = at_ms // HOUR_MS > ledger.newest_ms // HOUR_MS
    ledger.newest_ms = at_ms
    if is_new_hour:
        prune(ledger)


def hear(heard: dict[str, Heard], event: EventBase) -> None:
    """Note the event's number in its replica's account. Workers do so too for an event that they put aside."""
    if not event.replica:
        return
    account = heard.get(event.replica)
    if account is None:
        if len(heard) >= KEPT_REPLICAS:
            del heard[min(heard, key=lambda name: heard[name].at_ms)]
        account = heard[event.replica] = Heard()
    if event.at_ms > account.at_ms:
        account.at_ms = event.at_ms
    if event.seq > account.high:
        if event.seq > account.high + 1:
            account.gaps.append((account.high + 1, event.seq - 1))
        account.high = event.seq
    elif account.gaps:
        account.gaps = [part for gap in account.gaps for part in without(gap, event.seq)]


def without(gap: tuple[int, int], seq: int) -> list[tuple[int, int]]:
    """What is left of a gap when one number in it has come."""
    first, last = gap
    if not first <= seq <= last:
        return [gap]
    return [part for part in ((first, seq - 1), (seq + 1, last)) if part[0] <= part[1]]


def charge_of(ledger: RouteLedger, event: AttemptEnded | AttemptLost | BatchItemUsed) -> Charge:
    """The usage that an event tells of, in the hour in which it was told."""
    tokens, cost = event.tokens, event.cost_nusd
    usage = Usage(
        input=tokens.input,
        output=tokens.output,
        cache_read=tokens.cache_read,
        cache_write_5m=tokens.cache_write_5m,
        cache_write_1h=tokens.cache_write_1h,
        cost_nusd=cost or 0,
        unpriced=int(cost is None),
    )
    if isinstance(event, AttemptEnded):
        usage.attempts = 1
        usage.failed = int(event.outcome == "failed")
        usage.aborted = int(event.outcome == "aborted")
    elif isinstance(event, AttemptLost):
        usage.attempts = usage.lost = 1
    else:
        usage.batch_items = 1
    hour, model = event.at_ms // HOUR_MS, event.model_sent
    if event.fold_rules >= MODELS_BOUNDED:
        model = cell_model(ledger, hour, model)
    return Charge(hour, model, event.client_key, usage)


def cell_model(ledger: RouteLedger, hour: int, model: str) -> str:
    """The name under which a model's usage is kept in an hour. It depends on the events before it alone."""
    names = ledger.usage.get(hour, {})
    if model in names:
        return model
    is_full = len(names) - (OTHER_MODEL in names) >= KEPT_MODELS
    return OTHER_MODEL if is_full or is_long(model) else model


def is_long(model: str) -> bool:
    """Whether a name takes more room than it is given."""
    return len(model.encode(errors="replace")) > MODEL_BYTES


def taken_back(charge: Charge) -> Charge:
    """The same with every count turned round."""
    usage = Usage(**{name: -getattr(charge.usage, name) for name in Usage.__struct_fields__})
    return Charge(charge.hour, charge.model, charge.client_key, usage)


def charged(ledger: RouteLedger, *charges: Charge) -> Sequence[Charge]:
    """The changes, once they are added; hours that no reading looks at any more are left out of the ledger."""
    oldest = oldest_hour(ledger)
    for charge in charges:
        if charge.hour >= oldest:
            apply(ledger, charge)
    return charges


def apply(ledger: RouteLedger, charge: Charge) -> None:
    """Add a change to its cell and to its hour's sum."""
    try:
        cell, hour = ledger.usage[charge.hour][charge.model][charge.client_key], ledger.hours[charge.hour]
    except KeyError:
        by_key = ledger.usage.setdefault(charge.hour, {}).setdefault(charge.model, {})
        cell = by_key.setdefault(charge.client_key, Usage())
        hour = ledger.hours.setdefault(charge.hour, Usage())
    add_usage(cell, charge.usage)
    add_usage(hour, charge.usage)


def add_usage(cell: Usage, more: Usage) -> None:
    """Add one set of counts to another, in place."""
    cell.attempts += more.attempts
    cell.failed += more.failed
    cell.aborted += more.aborted
    cell.lost += more.lost
    cell.input += more.input
    cell.output += more.output
    cell.cache_read += more.cache_read
    cell.cache_write_5m += more.cache_write_5m
    cell.cache_write_1h += more.cache_write_1h
    cell.cost_nusd += more.cost_nusd
    cell.unpriced += more.unpriced
    cell.batch_items += more.batch_items


def start(ledger: RouteLedger, event: AttemptStarted) -> None:
    """An attempt is open from now on, unless its end came first."""
    if ledger.ended_early.pop(event.event_id, None) is not None:
        return
    ledger.open[event.event_id] = OpenAttempt(
        request_id=event.request_id,
        at_ms=event.at_ms,
        replica=event.replica,
        endpoint=event.endpoint,
        model_asked=event.model_asked,
        model_sent=event.model_sent,
        client_key=event.client_key,
        session_id=event.session_id,
        estimated_tokens=event.estimated_tokens,
    )


def end(ledger: RouteLedger, event: AttemptEnded) -> Sequence[Charge]:
    """An attempt is over: what it used, in place of its estimate if it was given up for lost, and what its end says of
    the route's health."""
    was_open = ledger.open.pop(event.attempt_id, None)
    estimate = ledger.lost.pop(event.attempt_id, None)
    if was_open is None and estimate is None:
        remember(ledger.ended_early, event.attempt_id, event.at_ms, KEPT_ENDED_EARLY)
    if event.started_at_ms > ledger.reset_ms:
        note_end(ledger, event)
    charge = charge_of(ledger, event)
    return charged(ledger, charge, taken_back(estimate)) if estimate else charged(ledger, charge)


def note_end(ledger: RouteLedger, event: AttemptEnded) -> None:
    """Take over what an attempt's end says of the route: windows and models always, the rest unless it comes late."""
    if event.windows and event.endpoint == "messages":
        note_windows(ledger, event)
    note_missing_model(ledger, event)
    if event.spooled:
        return
    if event.scope or ledger.waits:
        note_wait(ledger, event)
    if event.words:
        note_refusal(ledger, event)
    elif ledger.refusals and event.outcome == "ok":
        end_refusals(ledger, event)
    if event.endpoint == "messages":
        if event.fold_rules >= EVIDENCE_KEPT:
            note_seen(ledger, event)
        note_health(ledger, event)


def reset(ledger: RouteLedger, event: RouteReset) -> None:
    """Forget what is held against the route. Usage and open attempts stay."""
    ledger.reset_ms = max(ledger.reset_ms, event.at_ms)
    ledger.health, ledger.waits, ledger.windows, ledger.refusals, ledger.missing_models = {}, {}, {}, {}, {}


def note_missing_model(ledger: RouteLedger, event: AttemptEnded) -> None:
    """Remember a model that the provider does not know, when its name is worth remembering."""
    if event.scope != "model" or not event.model_sent or event.endpoint != "messages":
        return
    if event.fold_rules >= MODELS_BOUNDED and is_long(event.model_sent):
        return
    denied_ms = max(event.at_ms, ledger.missing_models.get(event.model_sent, 0))
    remember(ledger.missing_models, event.model_sent, denied_ms, KEPT_MISSING_MODELS)


def lose(ledger: RouteLedger, event: AttemptLost) -> Sequence[Charge]:
    """An open attempt will hardly end by itself any more: its estimate counts, and is remembered for as long as the
    true end may come."""
    if ledger.open.pop(event.attempt_id, None) is None:
        return ()
    estimate = charge_of(ledger, event)
    remember(ledger.lost, event.attempt_id, estimate, KEPT_LOST)
    return charged(ledger, estimate)


def remember(memory: dict[str, V], name: str, value: V, most: int) -> None:
    """Set a value as the newest; the oldest goes when there are too many."""
    memory.pop(name, None)
    if len(memory) >= most:
        del memory[next(iter(memory))]
    memory[name] = value


def note_windows(ledger: RouteLedger, event: AttemptEnded) -> None:
    """Take over what the provider said of its windows with an answer to `messages`, unless something newer is known."""
    answered = 200 <= event.status < 300
    at_ms = head_received_ms(event)
    for name, window in event.windows.items():
        place = f"{event.account}/{name}" if event.account else name
        known = ledger.windows.get(place)
        if known is None or at_ms >= known.at_ms:
            told = WindowTold(window.used_ratio, window.resets_at_ms, window.status, at_ms, answered, event.account)
            remember(ledger.windows, place, told, KEPT_WINDOWS)


def head_received_ms(event: AttemptEnded) -> int:
    """When the head of the answer came, which is long before the end of a stream."""
    return event.at_ms if event.first_byte_ms is None else min(event.at_ms, event.started_at_ms + event.first_byte_ms)


def note_wait(ledger: RouteLedger, event: AttemptEnded) -> None:
    """Begin, prolong or end the waits that providers ask for."""
    if begins_wait(event):
        name = wait_name(event)
        known = ledger.waits.get(name)
        if known is None or outlasts(event, known):
            wait = Wait(
                at_ms=event.at_ms,
                until_ms=event.retry_at_ms,
                kind=event.kind,
                status=event.status,
                message=event.message,
                holds=event.holds,
                account=event.account,
                endpoint=event.endpoint if event.fold_rules >= EVIDENCE_KEPT else "messages",
            )
            remember(ledger.waits, name, wait, KEPT_WAITS)
    elif event.outcome == "ok" and ledger.waits:
        ledger.waits = {name: wait for name, wait in ledger.waits.items() if not ends_wait(event, wait)}


def wait_name(event: AttemptEnded) -> str:
    """Under which name a wait is kept: one of each scope, for each group of models, account and class of endpoint."""
    scope = f"{event.scope}:{event.holds}" if event.holds else event.scope
    is_plain = event.fold_rules < EVIDENCE_KEPT or (event.endpoint == "messages" and not event.account)
    return scope if is_plain else f"{event.endpoint}/{event.account}/{scope}"


def begins_wait(event: AttemptEnded) -> bool:
    """Whether an outcome holds later requests of its class of endpoint."""
    if event.fold_rules >= EVIDENCE_KEPT:
        return event.endpoint in WAIT_ENDPOINTS and event.scope in WAIT_SCOPES
    if event.endpoint != "messages":
        return event.scope == "credential" and event.status == REFUSED_STATUS
    return event.scope in WAIT_SCOPES


def ends_wait(success: AttemptEnded, wait: Wait) -> bool:
    """Whether a success shows that a wait is over: it began after it, and tells of the same."""
    if success.fold_rules >= EVIDENCE_KEPT:
        is_same = success.endpoint == wait.endpoint and wait.account in ("", success.account)
        return is_same and wait.at_ms <= success.started_at_ms and wait.concerns(success.model_sent)
    if success.endpoint != "messages":
        return wait.at_ms <= success.started_at_ms and wait.status == REFUSED_STATUS
    return wait.at_ms <= success.started_at_ms and wait.concerns(success.model_sent)


def outlasts(event: AttemptEnded, known: Wait) -> bool:
    """Whether a wait takes the place of the known one: it ends later, or names no end and the known one is over."""
    if event.retry_at_ms:
        return event.retry_at_ms >= known.until_ms
    return event.at_ms >= max(known.at_ms, known.until_ms)


def note_health(ledger: RouteLedger, event: AttemptEnded) -> None:
    """Count an outcome for the circuit, where it says something about the route."""
    ok = event.outcome == "ok"
    if not ok and event.scope not in CIRCUIT_SCOPES:
        return
    health = health_of(ledger, event.replica)
    bucket = bucket_of(health, event.at_ms // BUCKET_MS)
    if (not ok or event.slow) and event.fold_rules >= EVIDENCE_KEPT:
        note_bad(bucket, event)
    if ok:
        bucket.ok += 1
        bucket.slow += event.slow
        succeed(ledger, health, event)
    else:
        bucket.failed += 1
        fail(health, event)


def bucket_of(health: ReplicaHealth, number: int) -> Bucket:
    """The ten seconds of this number, opened when they are new; those that are too old go, or count for nothing."""
    bucket = health.buckets.get(number)
    if bucket is None:
        bucket = health.buckets[number] = Bucket()
        for stale in sorted(health.buckets)[:-KEPT_BUCKETS]:
            del health.buckets[stale]
    return bucket


def succeed(ledger: RouteLedger, health: ReplicaHealth, event: AttemptEnded) -> None:
    """A success ends the failures in a row, and what they led to if it began after the last of them."""
    health.failures_in_row = 0
    if health.row_by:
        health.row_by = {}
    health.last_success_ms = max(health.last_success_ms, event.at_ms)
    if event.slow:
        health.last_slow_ms = max(health.last_slow_ms, event.at_ms)
        return
    if event.probe:
        health.recovered_ms = max(health.recovered_ms, event.at_ms)
        health.recovered_client = recovered_for(ledger, event) if event.fold_rules >= EVIDENCE_KEPT else None
    if event.started_at_ms >= health.last_failure_ms and (health.worst_row or health.failed_probes):
        health.worst_row = health.failed_probes = health.retry_at_ms = 0
        health.worst_by, health.probed_by = {}, {}


def fail(health: ReplicaHealth, event: AttemptEnded) -> None:
    """A failure of the route."""
    health.failures_in_row += 1
    if event.fold_rules >= EVIDENCE_KEPT:
        note_failure(health.row_by, event)
        if event.probe:
            count_client(health.probed_by, event.client_key)
    if health.failures_in_row >= health.worst_row:
        health.worst_row, health.worst_by = health.failures_in_row, copy_of_row(health.row_by)
    health.failed_probes += event.probe
    if event.started_at_ms >= health.opened_ms:
        health.opened_ms = max(health.opened_ms, event.at_ms)
    health.last_failure_ms = max(health.last_failure_ms, event.at_ms)
    health.last_failure_id = event.event_id
    health.last_failure_kind = event.kind
    health.retry_at_ms = max(health.retry_at_ms, event.retry_at_ms)


def health_of(ledger: RouteLedger, replica: str) -> ReplicaHealth:
    """The replica's account, opened when it is new."""
    health = ledger.health.get(replica)
    if health is None:
        if len(ledger.health) >= KEPT_REPLICAS:
            del ledger.health[min(ledger.health, key=lambda name: last_seen_ms(ledger.health[name]))]
        health = ledger.health[replica] = ReplicaHealth()
    return health


def last_seen_ms(health: ReplicaHealth) -> int:
    """When the replica last had an outcome that counts."""
    return max(health.last_failure_ms, health.last_success_ms)


def oldest_hour(ledger: RouteLedger) -> int:
    """The oldest hour that a reading looks at. Depends on the newest event alone, so that every replay agrees."""
    return ledger.newest_ms // HOUR_MS - KEPT_HOURS


def prune(ledger: RouteLedger) -> None:
    """Drop the hours that no reading looks at."""
    oldest = oldest_hour(ledger)
    if ledger.hours and min(ledger.hours) < oldest:
        ledger.hours = {hour: usage for hour, usage in ledger.hours.items() if hour >= oldest}
        ledger.usage = {hour: usage for hour, usage in ledger.usage.items() if hour >= oldest}


def advance_control(ledger: ControlLedger, event: ControlEvent) -> None:
    """Fold one event into the control ledger, in place."""
    hear(ledger.heard, event)
    ledger.newest_ms = max(ledger.newest_ms, event.at_ms)
    match event:
        case RouteDisabled():
            ledger.disabled[event.route] = event.reason
        case RouteEnabled():
            ledger.disabled.pop(event.route, None)
        case CircuitReset():
            ledger.resets[event.route] = max(ledger.resets.get(event.route, 0), event.at_ms)
        case QuotaLimitChanged(weekly_tokens=None):
            ledger.limits.pop(event.route, None)
        case QuotaLimitChanged():
            ledger.limits[event.route] = event.weekly_tokens or 0
        case ClientKeyIssued() | ClientKeyLimited():
            set_key(ledger, event)
        case ClientKeyRevoked():
            ledger.keys.pop(event.key_id, None)
        case RequestRefused():
            ledger.refused[event.client_key] = ledger.refused.get(event.client_key, 0) + event.count


def set_key(ledger: ControlLedger, event: ClientKeyIssued | ClientKeyLimited) -> None:
    """Write down a key's limits; limits of a key that is not there are nobody's."""
    known = ledger.keys.get(event.key_id)
    if isinstance(event, ClientKeyIssued):
        known = ClientKey(name=event.name, sha256=event.sha256, issued_at_ms=event.at_ms)
    if known is None:
        return
    ledger.keys[event.key_id] = msgspec.structs.replace(
        known,
        weekly_tokens=event.weekly_tokens,
        weekly_cost_nusd=event.weekly_cost_nusd,
        models=event.models,
        routes=event.routes,
        concurrency=event.concurrency,
        expires_at_ms=event.expires_at_ms,
    )
