"""The fold: (ledger, events) -> ledger. Derives state from events, without settings, clock or random numbers.

`fold` is pure and does not change its argument. `advance` does the same in place for a ledger's only owner: a worker
within its transaction, or a proxy with its own view.

Rules
- An event is folded once: the caller skips those folded before (`Heard.has`, or the event's id in Postgres).
- Usage counts whatever the outcome; an estimate (`AttemptLost`) is reversed when the actual end arrives.
- Health counts only `messages` responses, only failures of the route or its provider, and no spooled events.
- A wait is never shortened by a later one that ends earlier. A success that began after it, for a model that it applies
  to, ends it.
- A wait belongs to an account and to a class of endpoint, `messages` or `count_tokens`. Other endpoints have their own
  limits and permissions, and begin none. (In older events a wait has no account, and a 401 of any endpoint begins one.)
- A reset clears what is held against the route; attempts that began before it count for usage alone. One that comes
  late (through a spool, or as a retried dead letter) leaves what is newer than it. Who used the route, and with which
  account, is not held against it: that comes out the same whenever a reset is heard of.
- Clients can invent model names: the first KEPT_MODELS of an hour have their own cells, the others share one, which
  counts towards every limit and costs what its events say. Older events are folded without this rule.
- Usage is that of the models that served, line by line; an attempt is one of the model whose answer it was.
- Of a running total its growth since the highest reading counts, whoever reads it (`running_totals`).
- A price that follows another changes cost alone, in the hour and cell of the usage; older hours have no names here, so
  that the model has its own cell there.
- A provider's report of its windows and models, on `messages` too, stands until a newer one; a spooled one is too late.
- A replica's notice about a route's credential stands until its next one, told by their numbers; a reset leaves it,
  since it is a fact, which the replica ends, and no evidence.
"""

from collections.abc import Iterable, Sequence
from typing import TypeAlias, TypeVar

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
    PriceChange,
    QuotaLimitChanged,
    RequestRefused,
    ResourceCreated,
    ResourceUsed,
    RouteDisabled,
    RouteEnabled,
    RouteEvent,
    RouteNotice,
    RouteReset,
    TokenCounts,
    UsageRepriced,
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
from service.ledger.running_totals import growth_of, note_repriced
from service.ledger.state import (
    Bucket,
    Charge,
    ClientKey,
    ControlLedger,
    Heard,
    Ledger,
    OpenAttempt,
    Refusal,
    ReplicaHealth,
    ReplicaNotice,
    RouteLedger,
    Usage,
    Wait,
    WindowTold,
)
from service.ledger.usage_lines import UsageEvent, served_model

HOUR_MS = 3_600_000
BUCKET_MS = 10_000
KEPT_HOURS = 15 * 24
"""Two whole weeks, whatever their start day and time zone; older hours are in Postgres only."""
KEPT_BESIDE_HOURS = 24
"""Hours before the newest one whose usage beside answers is kept: those of which recent means are taken."""
KEPT_BUCKETS = 12
"""Two minutes of outcomes: four times the longest window used for a circuit."""
KEPT_REPLICAS = 256
"""Maximum replicas whose health and numbering are kept; the one silent for longest is dropped first."""
KEPT_MISSING_MODELS = 64
"""Bounded, since clients can invent model names."""
KEPT_MODELS = 64
"""Maximum models per hour with their own cells. Users need a handful, and a cell takes 200 bytes of each snapshot."""
MODEL_BYTES = 64
"""The longest name that is kept; providers' own have half of it."""
OTHER_MODEL = "other"
"""Stands for all other names of an hour, and for those that are too long."""
MODELS_BOUNDED = 1
"""The first `FOLD_RULES` version with bounded names."""
EVIDENCE_KEPT = 2
"""The first `FOLD_RULES` version in which waits have an account, and failures a client and a session."""
USERS_OUTLAST_RESETS = 4
"""The first `FOLD_RULES` version in which attempts begun before a reset still say who used the route."""
BESIDE_KEPT = 5
"""The first `FOLD_RULES` version in which usage beside a model's own answers is kept apart."""

L = TypeVar("L", RouteLedger, ControlLedger)
CellSums: TypeAlias = dict[tuple[int, str, str], Usage]
"""Changes to usage cells, by hour, model and client key."""

KEPT_WAITS = 32
KEPT_WINDOWS = 32
"""Bound of the number of windows, which providers name, and of waits, which may be named after models."""
LATE_RESET_MS = 60_000
"""A reset that is this much older than the newest event comes late."""
KEPT_LOST = 1_000
"""Maximum estimates that a late end can still reverse; more than in any realistic crash."""
KEPT_UNREAD = 32
"""Maximum names of unknown usage fields; providers add a handful a year."""
KEPT_ENDED_EARLY = 1_000
"""Maximum ends that came before their starts: there are a handful when a spool is adopted."""

V = TypeVar("V")
Told = TypeVar("Told", Wait, WindowTold, Refusal)
CIRCUIT_SCOPES = frozenset(("route", "provider"))
REFUSED_STATUS = 401
WAIT_SCOPES = frozenset(("throttle", "quota", "credential"))
WAIT_ENDPOINTS: frozenset[Endpoint] = frozenset(("messages", "count_tokens"))
"""Classes of endpoint that wait, each for itself."""


def fold_route(ledger: RouteLedger, events: Iterable[RouteEvent]) -> RouteLedger:
    """Return a route's ledger after these events."""
    folded = copy_of(ledger)
    for event in events:
        advance_route(folded, event)
    return folded


def fold_control(ledger: ControlLedger, events: Iterable[ControlEvent]) -> ControlLedger:
    """Return the control ledger after these events."""
    folded = copy_of(ledger)
    for event in events:
        advance_control(folded, event)
    return folded


def copy_of(ledger: L) -> L:
    """Return a deep copy that shares nothing mutable."""
    return msgspec.convert(msgspec.to_builtins(ledger), type(ledger))


def advance(ledger: Ledger, event: Event) -> Sequence[Charge]:
    """Fold one event into a ledger in place; return the changes to usage cells.

    Events of the other kind of stream are ignored.
    """
    if isinstance(ledger, ControlLedger):
        if isinstance(event, ControlEvent):
            advance_control(ledger, event)
    elif isinstance(event, RouteEvent):
        return advance_route(ledger, event)
    return ()


def advance_all(ledger: Ledger, events: Iterable[Event]) -> CellSums:
    """Fold events into a ledger in place, in this order; return what they change of each usage cell.

    The same as `advance` for each. Their usage is summed first, and added to the ledger's cells at the end.
    """
    sums: CellSums = {}
    if isinstance(ledger, ControlLedger):
        for event in events:
            advance(ledger, event)
        return sums
    for event in events:
        if isinstance(event, RouteEvent):
            for charge in note_event(ledger, event):
                add_usage(sum_of(sums, charge), charge.usage)
    apply_charges(ledger, [Charge(*cell, usage) for cell, usage in sums.items()])
    return sums


def sum_of(sums: CellSums, charge: Charge) -> Usage:
    """Return the sum for a charge's cell, created if new."""
    cell = (charge.hour, charge.model, charge.client_key)
    known = sums.get(cell)
    if known is None:
        known = sums[cell] = Usage()
    return known


def advance_route(ledger: RouteLedger, event: RouteEvent) -> Sequence[Charge]:
    """Fold one event into a route's ledger in place; return the changes to usage cells."""
    return apply_charges(ledger, note_event(ledger, event))


def note_event(ledger: RouteLedger, event: RouteEvent) -> Sequence[Charge]:
    """Fold one event into a route's ledger in place, without its usage; return the changes to usage cells."""
    acknowledge_seq(ledger.heard, event)
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
            note_unread(ledger, event)
            return charge_lines(ledger, event)
        case ResourceUsed():
            note_unread(ledger, event)
            return charge_growth(ledger, event)
        case UsageRepriced():
            return reprice(ledger, event)
        case ResourceCreated():
            pass  # Redis holds the index; the ledger only keeps the fact
        case RouteReset() | RouteNotice():
            note_of_route(ledger, event)
    return ()


def note_of_route(ledger: RouteLedger, event: RouteReset | RouteNotice) -> None:
    """Fold what is said of the route itself."""
    if isinstance(event, RouteReset):
        reset(ledger, event.at_ms)
    else:
        keep_notice(ledger, event)


def keep_notice(ledger: RouteLedger, event: RouteNotice) -> None:
    """Keep a replica's notice about the route's credential, unless a later one of it has come before."""
    known = ledger.notices.get(event.replica)
    if known is None or event.seq > known.seq:
        notice = ReplicaNotice(event.code, event.usable, event.message, event.at_ms, event.seq)
        remember(ledger.notices, event.replica, notice, KEPT_REPLICAS)


def advance_time(ledger: RouteLedger, at_ms: int) -> None:
    """Advance the ledger's time; with a new hour, expired ones are dropped."""
    is_new_hour = at_ms // HOUR_MS > ledger.newest_ms // HOUR_MS
    ledger.newest_ms = at_ms
    if is_new_hour:
        prune(ledger)


def acknowledge_seq(heard: dict[str, Heard], event: EventBase) -> None:
    """Acknowledge the event's number for its replica. Workers also do so for events that they don't fold."""
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
        account.gaps = [part for gap in account.gaps for part in split_gap(gap, event.seq)]


def split_gap(gap: tuple[int, int], seq: int) -> list[tuple[int, int]]:
    """Return the rest of a gap without one number."""
    first, last = gap
    if not first <= seq <= last:
        return [gap]
    return [part for part in ((first, seq - 1), (seq + 1, last)) if part[0] <= part[1]]


def charge_lines(ledger: RouteLedger, event: UsageEvent) -> Sequence[Charge]:
    """Charge an event's usage, line by line, to the hour of the event; the attempt itself counts with the first."""
    if isinstance(event, AttemptLost) or not event.lines:
        charges = [charge(ledger, event, served_model(event), usage_at(event.tokens, event.cost_nusd))]
    else:
        charges = [charge(ledger, event, line.model, usage_at(line.tokens, line.cost_nusd)) for line in event.lines]
        if event.fold_rules >= BESIDE_KEPT:
            note_beside(ledger, charges[1:])
    count_attempt(charges[0].usage, event)
    return charges


def note_beside(ledger: RouteLedger, charges: Iterable[Charge]) -> None:
    """Keep charges apart that are of no answer of the model's own, for as long as means are taken of their hour."""
    oldest = ledger.newest_ms // HOUR_MS - KEPT_BESIDE_HOURS
    for charge in charges:
        if charge.hour >= oldest:
            add_usage(ledger.beside.setdefault(charge.hour, {}).setdefault(charge.model, Usage()), charge.usage)


def charge(ledger: RouteLedger, event: UsageEvent | UsageRepriced, model: str, usage: Usage) -> Charge:
    """Return the charge of a line, and open its cell: which models have cells of their own depends on those before
    it."""
    hour, client_key = event.at_ms // HOUR_MS, event.client_key
    try:
        _ = ledger.usage[hour][model][client_key]
    except KeyError:
        if event.fold_rules >= MODELS_BOUNDED:
            model = cell_model(ledger, hour, model)
        open_cell(ledger, hour, model, client_key)
    return Charge(hour, model, client_key, usage)


def open_cell(ledger: RouteLedger, hour: int, model: str, client_key: str) -> None:
    """Create a usage cell, and its hour's sum, unless they exist or the hour has expired."""
    try:
        _ = ledger.usage[hour][model][client_key], ledger.hours[hour]
    except KeyError:
        if hour >= oldest_hour(ledger):
            ledger.usage.setdefault(hour, {}).setdefault(model, {}).setdefault(client_key, Usage())
            ledger.hours.setdefault(hour, Usage())


def usage_at(tokens: TokenCounts, cost: int | None) -> Usage:
    """Return the tokens of a line and their price as usage."""
    return Usage(
        input=tokens.input,
        output=tokens.output,
        cache_read=tokens.cache_read,
        cache_write_5m=tokens.cache_write_5m,
        cache_write_1h=tokens.cache_write_1h,
        cost_nusd=cost or 0,
        unpriced=int(cost is None),
    )


def count_attempt(usage: Usage, event: UsageEvent) -> None:
    """Count the attempt, or the item of a batch, into its usage."""
    if isinstance(event, AttemptEnded):
        usage.attempts = 1
        if event.outcome != "ok":
            usage.failed = int(event.outcome == "failed")
            usage.aborted = int(event.outcome == "aborted")
    elif isinstance(event, AttemptLost):
        usage.attempts = usage.lost = 1
    else:
        usage.batch_items = 1
    if event.estimated:
        usage.estimated = 1
        usage.estimated_tokens = all_tokens(usage)


def all_tokens(usage: Usage) -> int:
    """Return the tokens of all kinds."""
    return usage.input + usage.output + usage.cache_read + usage.cache_write_5m + usage.cache_write_1h


def charge_growth(ledger: RouteLedger, event: ResourceUsed) -> Sequence[Charge]:
    """Charge what a running total has grown, to the hour in which it was read."""
    growth = growth_of(ledger, event)
    if growth is None:
        return ()
    hour, line = event.at_ms // HOUR_MS, growth.line
    model = cell_model(ledger, hour, line.model)
    open_cell(ledger, hour, model, growth.client_key)
    charges = [Charge(hour, model, growth.client_key, usage_at(line.tokens, line.cost_nusd))]
    if event.fold_rules >= BESIDE_KEPT:
        note_beside(ledger, charges)
    return charges


def reprice(ledger: RouteLedger, event: UsageRepriced) -> Sequence[Charge]:
    """Charge the differences of a new price; that of an estimate counts until the attempt's end takes it back."""
    if event.of_lost and event.attempt_id not in ledger.lost:
        return ()
    charges = [charge(ledger, event, change.model, difference_of(change)) for change in event.changes]
    if event.resource_id:
        note_repriced(ledger, event.resource_id, sum(one.usage.cost_nusd for one in charges))
    if event.fold_rules >= BESIDE_KEPT:
        note_beside(ledger, charges if event.of_growth else charges[1:])
    for one in charges if event.of_lost else ():
        add_usage(ledger.lost[event.attempt_id].usage, one.usage)
    return charges


def difference_of(change: PriceChange) -> Usage:
    """Return what a change of price adds to usage."""
    return Usage(
        cost_nusd=(change.cost_nusd or 0) - (change.was_nusd or 0),
        unpriced=int(change.cost_nusd is None) - int(change.was_nusd is None),
    )


def note_unread(ledger: RouteLedger, event: AttemptEnded | BatchItemUsed | ResourceUsed) -> None:
    """Remember the fields of a usage that nobody could read."""
    for name in event.unread:
        remember(ledger.unread, name, max(event.at_ms, ledger.unread.get(name, 0)), KEPT_UNREAD)


def cell_model(ledger: RouteLedger, hour: int, model: str) -> str:
    """Return the name of a model's usage cell in an hour. It depends on earlier events alone."""
    names = ledger.usage.get(hour, {})
    if model in names:
        return model
    is_full = len(names) - (OTHER_MODEL in names) >= KEPT_MODELS
    return OTHER_MODEL if is_full or is_long(model) else model


def is_long(model: str) -> bool:
    """True if a name exceeds MODEL_BYTES."""
    return len(model.encode(errors="replace")) > MODEL_BYTES


def take_back(ledger: RouteLedger, charge: Charge) -> Charge:
    """Return the charge with every count negated."""
    open_cell(ledger, charge.hour, charge.model, charge.client_key)
    return Charge(charge.hour, charge.model, charge.client_key, negative(charge.usage))


def negative(usage: Usage) -> Usage:
    """Return usage with every count negated."""
    return Usage(**{name: -getattr(usage, name) for name in Usage.__struct_fields__})


def apply_charges(ledger: RouteLedger, charges: Sequence[Charge]) -> Sequence[Charge]:
    """Add charges to their cells and to their hours' sums, and return them; drops those of expired hours."""
    oldest = oldest_hour(ledger)
    for charge in charges:
        if charge.hour >= oldest:
            add_usage(ledger.usage[charge.hour][charge.model][charge.client_key], charge.usage)
            add_usage(ledger.hours[charge.hour], charge.usage)
    return charges


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
    cell.estimated += more.estimated
    cell.estimated_tokens += more.estimated_tokens


def start(ledger: RouteLedger, event: AttemptStarted) -> None:
    """Open an attempt, unless its end came first."""
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
    """End an attempt: its usage, in place of an estimate if it was lost, and its effect on the route's health."""
    was_open = ledger.open.pop(event.attempt_id, None)
    estimate = ledger.lost.pop(event.attempt_id, None)
    if was_open is None and estimate is None:
        remember(ledger.ended_early, event.attempt_id, event.at_ms, KEPT_ENDED_EARLY)
    if event.started_at_ms > ledger.reset_ms:
        note_user(ledger, event)
        note_end(ledger, event)
    elif event.fold_rules >= USERS_OUTLAST_RESETS:
        note_user(ledger, event)
    if event.opinion or event.words:
        count_verdicts(ledger, event)
    if event.unread:
        note_unread(ledger, event)
    charges = charge_lines(ledger, event)
    return [*charges, take_back(ledger, estimate)] if estimate else charges


def note_user(ledger: RouteLedger, event: AttemptEnded) -> None:
    """Remember who used the route, and with which account, if the event tells of it in time."""
    if event.endpoint == "messages" and not event.spooled and event.fold_rules >= EVIDENCE_KEPT:
        note_seen(ledger, event)


def note_end(ledger: RouteLedger, event: AttemptEnded) -> None:
    """Apply an attempt's end to the route's state: windows and models always, the rest unless it was spooled."""
    if event.windows and event.endpoint == "messages":
        note_windows(ledger, event)
    if event.scope == "model":
        note_missing_model(ledger, event)
    if event.spooled:
        return
    if event.scope or ledger.waits:
        note_wait(ledger, event)
    if event.words or ledger.refusals:
        note_words(ledger, event)
    if event.endpoint == "messages":
        note_health(ledger, event)


def note_words(ledger: RouteLedger, event: AttemptEnded) -> None:
    """Remember an error whose words no rule knows; an answer takes it back."""
    if event.words:
        note_refusal(ledger, event)
    elif event.outcome == "ok":
        end_refusals(ledger, event)


def reset(ledger: RouteLedger, at_ms: int) -> None:
    """Reset the route: also what was seen together with the reset is cleared, unless that comes late."""
    is_late = ledger.newest_ms - at_ms > LATE_RESET_MS
    forget(ledger, at_ms, at_ms if is_late else ledger.newest_ms)


def forget(ledger: RouteLedger, at_ms: int, until_ms: int) -> None:
    """Clear what is held against the route until `until_ms`; attempts begun before `at_ms` count for usage alone.

    Usage and open attempts stay.
    """
    ledger.reset_ms = max(ledger.reset_ms, at_ms)
    ledger.health = {name: one for name, one in ledger.health.items() if last_bad_ms(one) > until_ms}
    ledger.waits = told_after(ledger.waits, until_ms)
    ledger.windows = told_after(ledger.windows, until_ms)
    ledger.refusals = told_after(ledger.refusals, until_ms)
    ledger.missing_models = {name: at_ms for name, at_ms in ledger.missing_models.items() if at_ms > until_ms}


def told_after(held: dict[str, Told], at_ms: int) -> dict[str, Told]:
    """Return what is held against a route since a moment."""
    return {name: one for name, one in held.items() if one.at_ms > at_ms}


def last_bad_ms(health: ReplicaHealth) -> int:
    """Return the time of the replica's last failure or slow answer."""
    return max(health.last_failure_ms, health.last_slow_ms)


def count_verdicts(ledger: RouteLedger, event: AttemptEnded) -> None:
    """Count the second opinion on a failure, and an error in words that no rule knows."""
    if event.opinion:
        ledger.opinions[event.opinion] = ledger.opinions.get(event.opinion, 0) + 1
    ledger.unknown_errors += bool(event.words)


def note_missing_model(ledger: RouteLedger, event: AttemptEnded) -> None:
    """Remember a model that the provider does not know, if its name fits."""
    if not event.model_sent or event.endpoint != "messages":
        return
    if event.fold_rules >= MODELS_BOUNDED and is_long(event.model_sent):
        return
    denied_ms = max(event.at_ms, ledger.missing_models.get(event.model_sent, 0))
    remember(ledger.missing_models, event.model_sent, denied_ms, KEPT_MISSING_MODELS)


def lose(ledger: RouteLedger, event: AttemptLost) -> Sequence[Charge]:
    """Charge an open attempt's estimate, and remember it in case the actual end still arrives."""
    if ledger.open.pop(event.attempt_id, None) is None:
        return ()
    charges = charge_lines(ledger, event)
    remember(ledger.lost, event.attempt_id, charges[0], KEPT_LOST)
    return charges


def remember(memory: dict[str, V], name: str, value: V, most: int) -> None:
    """Set a value as the newest; drops the oldest if there are more than `most`."""
    memory.pop(name, None)
    if len(memory) >= most:
        del memory[next(iter(memory))]
    memory[name] = value


def note_windows(ledger: RouteLedger, event: AttemptEnded) -> None:
    """Store the windows reported with a `messages` response, unless newer ones are known."""
    answered = 200 <= event.status < 300
    at_ms = head_received_ms(event)
    for name, window in event.windows.items():
        place = f"{event.account}/{name}" if event.account else name
        known = ledger.windows.get(place)
        if known is None or at_ms >= known.at_ms:
            told = WindowTold(window.used_ratio, window.resets_at_ms, window.status, at_ms, answered, event.account)
            remember(ledger.windows, place, told, KEPT_WINDOWS)


def head_received_ms(event: AttemptEnded) -> int:
    """Return when the response's head arrived, which is long before the end of a stream."""
    return event.at_ms if event.first_byte_ms is None else min(event.at_ms, event.started_at_ms + event.first_byte_ms)


def note_wait(ledger: RouteLedger, event: AttemptEnded) -> None:
    """Begin, extend or end the waits that providers ask for."""
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
    """True if an outcome blocks later requests of its class of endpoint."""
    if event.fold_rules >= EVIDENCE_KEPT:
        return event.endpoint in WAIT_ENDPOINTS and event.scope in WAIT_SCOPES
    if event.endpoint != "messages":
        return event.scope == "credential" and event.status == REFUSED_STATUS
    return event.scope in WAIT_SCOPES


def ends_wait(success: AttemptEnded, wait: Wait) -> bool:
    """True if a success ends a wait: it began after it, and concerns the same models."""
    if success.fold_rules >= EVIDENCE_KEPT:
        is_same = success.endpoint == wait.endpoint and wait.account in ("", success.account)
        return is_same and wait.at_ms <= success.started_at_ms and wait.concerns(success.model_sent)
    if success.endpoint != "messages":
        return wait.at_ms <= success.started_at_ms and wait.status == REFUSED_STATUS
    return wait.at_ms <= success.started_at_ms and wait.concerns(success.model_sent)


def outlasts(event: AttemptEnded, known: Wait) -> bool:
    """True if a wait replaces the known one: it ends later, or names no end and the known one is over."""
    if event.retry_at_ms:
        return event.retry_at_ms >= known.until_ms
    return event.at_ms >= max(known.at_ms, known.until_ms)


def note_health(ledger: RouteLedger, event: AttemptEnded) -> None:
    """Count an outcome towards the circuit, if it concerns the route."""
    ok = event.outcome == "ok"
    if not ok and event.scope not in CIRCUIT_SCOPES:
        return
    health = health_of(ledger, event.replica)
    bucket = bucket_of(health, event.at_ms // BUCKET_MS)
    if (not ok or event.slow) and event.fold_rules >= EVIDENCE_KEPT:
        note_bad(health, bucket, event)
    if ok:
        bucket.ok += 1
        bucket.slow += event.slow
        succeed(ledger, health, event)
    else:
        bucket.failed += 1
        fail(health, event)


def bucket_of(health: ReplicaHealth, number: int) -> Bucket:
    """Return the ten-second bucket of this number, created if new; expired buckets are dropped."""
    bucket = health.buckets.get(number)
    if bucket is None:
        bucket = health.buckets[number] = Bucket()
        for stale in sorted(health.buckets)[:-KEPT_BUCKETS]:
            del health.buckets[stale]
    return bucket


def succeed(ledger: RouteLedger, health: ReplicaHealth, event: AttemptEnded) -> None:
    """Count a success: it ends the run of failures, and their effects if it began after the last of them."""
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
    """Count a failure of the route."""
    health.failures_in_row += 1
    if event.fold_rules >= EVIDENCE_KEPT:
        note_failure(health.row_by, event)
        if event.probe and event.kind != "connect":
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
    """Return the replica's health, created if new."""
    health = ledger.health.get(replica)
    if health is None:
        if len(ledger.health) >= KEPT_REPLICAS:
            del ledger.health[min(ledger.health, key=lambda name: last_seen_ms(ledger.health[name]))]
        health = ledger.health[replica] = ReplicaHealth()
    return health


def last_seen_ms(health: ReplicaHealth) -> int:
    """Return the time of the replica's last counted outcome."""
    return max(health.last_failure_ms, health.last_success_ms)


def oldest_hour(ledger: RouteLedger) -> int:
    """Return the oldest hour that readings need. Depends on the newest event alone, so that every replay agrees."""
    return ledger.newest_ms // HOUR_MS - KEPT_HOURS


def prune(ledger: RouteLedger) -> None:
    """Drop the hours that no reading needs."""
    oldest = oldest_hour(ledger)
    if ledger.hours and min(ledger.hours) < oldest:
        ledger.hours = {hour: usage for hour, usage in ledger.hours.items() if hour >= oldest}
        ledger.usage = {hour: usage for hour, usage in ledger.usage.items() if hour >= oldest}
    oldest = ledger.newest_ms // HOUR_MS - KEPT_BESIDE_HOURS
    ledger.beside = {hour: usage for hour, usage in ledger.beside.items() if hour >= oldest}


def advance_control(ledger: ControlLedger, event: ControlEvent) -> None:
    """Fold one event into the control ledger, in place."""
    acknowledge_seq(ledger.heard, event)
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
    """Set a key's limits; limits of an unknown key are ignored."""
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
