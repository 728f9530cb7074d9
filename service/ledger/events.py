"""The events: past-tense facts, as stored in the streams and in Postgres.

An event is made once, by the process that observed the fact, and never changed. `fold` derives state from events. Every
field added later must have a default: bytes of released versions must decode forever (tests/ledger/golden).

A route's stream carries `RouteEvent`s, the stream `control` carries `ControlEvent`s.
"""

from typing import Literal, get_args

from msgspec import Struct
from msgspec.structs import replace

Outcome = Literal["ok", "failed", "aborted"]
"""The outcome of an attempt: answered, failed, or cancelled because the client disconnected."""

FailureKind = Literal[
    "",  # none
    "connect",  # refused, unreachable, no such host, TLS
    "reset",  # the connection broke before or during the response
    "stale_socket",  # a reused connection closed before the first byte of a response
    "timeout",  # the provider sent nothing for too long
    "server_error",  # 5xx
    "overloaded",  # 529, or `overloaded_error` in a stream
    "throttle",  # 429 that asks for a short wait
    "quota",  # 429 that reports a used-up window or plan
    "billing",  # 402, no balance
    "credential",  # 401, 403
    "model_missing",  # the provider does not know the model
    "bad_request",  # the request's own fault
    "bad_answer",  # HTML, empty, truncated or unreadable answers with status 200
    "stream_error",  # `event: error` of any other type
    "deadline",  # the proxy's own deadline for the request passed
]

FailureScope = Literal["", "request", "model", "credential", "quota", "throttle", "route", "provider"]
"""The scope of a failure. Only `route` and `provider` count for a circuit."""

Opinion = Literal["", "answered", "confirmed", "none"]
"""What came of a second opinion on a failure: another route answered, refused the request too, or neither."""

Endpoint = Literal["messages", "count_tokens", "models", "batches", "files", "other"]


FOLD_RULES = 5
"""Newest version of the fold's rules, which producers put into usage events (`fold_rules`).

An event is always folded by the rules of its version, so that old periods fold to the same result. 0: each model has
its own usage cell; 1: only the first models of an hour do, the others share one (`fold.cell_model`); 2: waits belong to
an account and a class of endpoint, and failures are kept by client and session (`evidence`); 3: usage is that of the
models that served, line by line (`usage_lines`); 4: who used a route is remembered across resets, and a client's
many errors drop none that others have met; 5: what a model used beside its own answers is kept apart, for the mean of
these.
"""

NoticeCode = Literal[
    "",  # none: all is well again
    "absent",  # there is no login
    "unreadable",  # the credentials file can't be read
    "expired",  # the token can't be refreshed here, or has no refresh token
    "ended",  # the token endpoint refuses the refresh token
    "not_refreshed",  # refreshing has failed, and is tried again
    "not_saved",  # a new token is in memory alone
    "task",  # the task that keeps the token fresh has failed
]
"""What a replica has found out about a route's credential."""

LineKind = Literal["message", "compaction", "advisor", "fallback", "declined"]
"""What was inferred: the answer, a summary of the context, another model's advice, the answer of a model that the
provider fell back to, or the attempt of a model that declined before it."""

ResourceKind = Literal["session", "session_thread", "dream"]
"""Resources of a provider that tell a running total of their usage."""


class TokenCounts(Struct, frozen=True, omit_defaults=True, gc=False):
    """Token counts of one attempt as reported by the provider; the kinds do not overlap."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0


class UsageLine(Struct, frozen=True, omit_defaults=True, gc=False):
    """A part of an answer's usage: what one model served in one way.

    `tools` counts requests of the provider's own tools (`web_search`). `tier`, `speed` and `geo` are the provider's
    words, "" for the standard ones. `unbilled`: the provider documents that it charges nothing for it. `credit` is the
    outcome of a fallback credit, "redeemed" or the reason why it was not, "" if none was presented. `cost_nusd` is None
    without a price.
    """

    model: str = ""
    kind: LineKind = "message"
    tokens: TokenCounts = TokenCounts()
    tools: dict[str, int] = {}
    tier: str = ""
    speed: str = ""
    geo: str = ""
    unbilled: bool = False
    credit: str = ""
    cost_nusd: int | None = None


class Window(Struct, frozen=True, omit_defaults=True, gc=False):
    """A provider's own report of one quota window.

    `used_ratio` is 0 to 1 and may exceed 1; `resets_at_ms` is Unix time; `status` is the provider's value.
    """

    used_ratio: float | None = None
    resets_at_ms: int = 0
    status: str = ""


class EventBase(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag_field="type"):
    """Fields common to all events.

    `event_id` is a UUIDv7 made by the producer beforehand; `at_ms` is fleet time; `seq` counts the events of `replica`
    on this stream, from 1, without gaps. `spooled`: the event was delayed on disk, so it is too old to count for
    health; its usage counts.
    """

    event_id: str
    at_ms: int
    replica: str = ""
    seq: int = 0
    spooled: bool = False


class AttemptStarted(EventBase, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="attempt_started"):
    """An attempt is about to send its first byte upstream. `event_id` is the attempt's id."""

    request_id: str
    endpoint: Endpoint = "messages"
    model_asked: str = ""
    model_sent: str = ""
    client_key: str = ""
    session_id: str = ""
    stream: bool = False
    estimated_tokens: int = 0


class AttemptEnded(EventBase, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="attempt_ended"):
    """An attempt has ended. `event_id` is derived from `attempt_id`, so that an attempt ends once.

    `status` is the upstream's HTTP status, 0 if there was none; `first_byte_ms` is None if no response began.
    `retry_at_ms` is the end of the wait that the provider named, 0 if it named none. `final`: no other route was tried
    after this one. `slow`: the first byte of a stream's body, were it a ping, took longer than the policy's bound.
    `probe`: the attempt probed a route whose circuit was open. `holds`: a substring of the models that a quota's wait
    applies to, "" for all.

    `account`: a hash of the API key, or of the log-in, with which the route was asked; "" for a client's own. `words`
    and `body` are keyed 64-bit fingerprints, for failures alone: of an error that no rule knows, and of the request
    that met it or timed out. `moved_from` is the route that served the session before, for answers alone, and `lost` is
    what the move cost: "cache", "thoughts", or both separated by a comma; `move_cost_nusd` is the price of the prompt
    that was read anew. `opinion` is what came of a second opinion on this failure, "" if none was asked. `dropped` are
    the names of the request's fields that the provider did not get.

    `tokens` and `cost_nusd` are totals over all lines, so that who knows no lines counts right; the price covers the
    lines that have one, and is None if none has. `model_served` is the model that the answer names, "" if it is
    `model_sent`. `lines` are empty where all there is to tell is one plain line, else all of them, the answer's own
    first: read them with `usage_lines`. `unread` names fields of the usage that this version has no reading for.
    `estimated`: the answer was not finished, or its provider told less than its whole usage, and the rest is estimated.

    `attempt` is the number of the request's attempt. `early_head`: the client had its head, and pings, before there was
    content. `upstream_id` is the provider's id of the request, where no header of an answer has told it to the client.
    """

    attempt_id: str
    request_id: str
    started_at_ms: int
    outcome: Outcome
    endpoint: Endpoint = "messages"
    kind: FailureKind = ""
    scope: FailureScope = ""
    status: int = 0
    message: str = ""
    model_asked: str = ""
    model_sent: str = ""
    client_key: str = ""
    session_id: str = ""
    stream: bool = False
    tokens: TokenCounts = TokenCounts()
    first_byte_ms: int | None = None
    total_ms: int = 0
    slow: bool = False
    probe: bool = False
    retry_at_ms: int = 0
    windows: dict[str, Window] = {}
    cost_nusd: int | None = None
    price_version: str = ""
    final: bool = True
    holds: str = ""
    fold_rules: int = 0
    account: str = ""
    words: str = ""
    body: str = ""
    moved_from: str = ""
    lost: str = ""
    opinion: Opinion = ""
    move_cost_nusd: int = 0
    model_served: str = ""
    lines: tuple[UsageLine, ...] = ()
    unread: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    attempt: int = 1
    early_head: bool = False
    upstream_id: str = ""
    estimated: bool = False


class AttemptLost(EventBase, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="attempt_lost"):
    """An attempt whose replica died. Its usage is an estimate, `estimated` where there is any; a later `AttemptEnded`
    supersedes it."""

    attempt_id: str
    request_id: str
    started_at_ms: int
    endpoint: Endpoint = "messages"
    model_asked: str = ""
    model_sent: str = ""
    client_key: str = ""
    session_id: str = ""
    tokens: TokenCounts = TokenCounts()
    cost_nusd: int | None = None
    price_version: str = ""
    fold_rules: int = 0
    estimated: bool = False


class BatchItemUsed(EventBase, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="batch_item_used"):
    """Usage of one item of a message batch, read when its results passed through the proxy.

    `event_id` is derived from the batch's and the item's ids, so that results read twice count once. `model_sent` is
    the model that served; `tokens`, `cost_nusd`, `lines`, `unread` and `estimated` are as in
    `AttemptEnded`.
    """

    batch_id: str
    custom_id: str
    request_id: str = ""
    model_sent: str = ""
    client_key: str = ""
    tokens: TokenCounts = TokenCounts()
    cost_nusd: int | None = None
    price_version: str = ""
    fold_rules: int = 0
    lines: tuple[UsageLine, ...] = ()
    unread: tuple[str, ...] = ()
    estimated: bool = False


class ResourceUsed(EventBase, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="resource_used"):
    """The running total of a resource's usage, as an answer that passed through the proxy told it.

    Fold books what it has grown since the highest reading, whoever reads it and however often (`running_totals`).
    `part` is a thread or a dream whose usage is within the resource's, "" for the whole. `made_at_ms` is when the
    resource was created, 0 if unknown. `rates_nusd` are the prices of a million tokens of each kind, None without a
    price; `cost_nusd` is the provider's own sum for the whole, None if it told none. `active_ms` is its running time.
    """

    resource_id: str
    kind: ResourceKind
    part: str = ""
    request_id: str = ""
    client_key: str = ""
    model: str = ""
    tokens: TokenCounts = TokenCounts()
    tools: dict[str, int] = {}
    speed: str = ""
    geo: str = ""
    active_ms: int = 0
    made_at_ms: int = 0
    rates_nusd: TokenCounts | None = None
    cost_nusd: int | None = None
    price_version: str = ""
    unread: tuple[str, ...] = ()
    fold_rules: int = 0


class PriceChange(Struct, frozen=True, omit_defaults=True, gc=False):
    """What a line of usage cost before, and what it costs now; None without a price."""

    model: str = ""
    was_nusd: int | None = None
    cost_nusd: int | None = None


class UsageRepriced(EventBase, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="usage_repriced"):
    """An operator had usage priced again, by the list `price_version`.

    `of` is the event whose usage it is; `changes` are all its lines, in their order. `at_ms` is that event's, so that
    the difference counts where the usage does. `event_id` is derived from that of the price before, so that one price
    is followed by one other. `of_lost`: the usage is the estimate of a lost attempt, and counts until its end arrives.
    `of_growth`: it is the growth of a running total (of `resource_id`; older events lack it), no answer of a model.
    """

    of: str
    attempt_id: str = ""
    request_id: str = ""
    client_key: str = ""
    changes: tuple[PriceChange, ...] = ()
    price_version: str = ""
    fold_rules: int = 0
    of_lost: bool = False
    of_growth: bool = False
    resource_id: str = ""


class ResourceCreated(EventBase, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="resource_created"):
    """A batch, file, container or thread was created on this route and exists only there."""

    resource_id: str
    resource_kind: str
    request_id: str = ""
    client_key: str = ""


class Forgotten(Struct, frozen=True):
    """What was held against a route when it was reset: its circuit if that was not closed, and counts."""

    circuit: str = ""
    cool_downs: int = 0
    windows: int = 0
    missing_models: int = 0
    unknown_errors: int = 0


class RouteReset(EventBase, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="route_reset"):
    """An operator had the route on whose stream this lies start anew: failures, waits, windows and missing models are
    forgotten, and attempts that began before bring usage alone. `forgot` is what the operator's view held."""

    by: str = ""
    forgot: Forgotten = Forgotten()


class RouteNotice(EventBase, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="route_notice"):
    """What one replica knows of the credential of the route on whose stream this lies, so that all know it.

    It stands until the replica's next one; `code` "" ends it. `usable`: the credential serves nevertheless, for now.
    `message` is for people, and holds no secret and no path."""

    code: NoticeCode = ""
    usable: bool = False
    message: str = ""


class RouteDisabled(EventBase, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="route_disabled"):
    """An operator took a route out of service."""

    route: str
    by: str = ""
    reason: str = ""


class RouteEnabled(EventBase, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="route_enabled"):
    """An operator put a route back into service."""

    route: str
    by: str = ""


class CircuitReset(EventBase, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="circuit_reset"):
    """An operator reset a route's circuit and its waits; earlier failures no longer count."""

    route: str
    by: str = ""


class QuotaLimitChanged(EventBase, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="quota_limit_changed"):
    """An operator changed a route's weekly limit; None restores the limit of the settings, 0 is no limit."""

    route: str
    weekly_tokens: int | None = None
    by: str = ""


class ClientKeyIssued(EventBase, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="client_key_issued"):
    """A client key was created; only its SHA-256 is stored."""

    key_id: str
    name: str
    sha256: str
    weekly_tokens: int | None = None
    weekly_cost_nusd: int | None = None
    models: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    concurrency: int | None = None
    expires_at_ms: int | None = None
    by: str = ""


class ClientKeyLimited(EventBase, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="client_key_limited"):
    """All limits of a client key were replaced."""

    key_id: str
    weekly_tokens: int | None = None
    weekly_cost_nusd: int | None = None
    models: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    concurrency: int | None = None
    expires_at_ms: int | None = None
    by: str = ""


class ClientKeyRevoked(EventBase, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="client_key_revoked"):
    """A client key was revoked."""

    key_id: str
    by: str = ""


class RequestRefused(EventBase, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="request_refused"):
    """The proxy rejected a request of a known key (its cap, its allowed models, its concurrency limit).

    `count`: this request plus those rejected for the same reason since this replica's last such event; so the ledger
    grows with time, not with the number of requests.
    """

    request_id: str
    client_key: str
    reason: str
    model_asked: str = ""
    count: int = 1


class ReplayAsked(EventBase, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="replay_asked"):
    """An operator requested a retry of dead letters; `of` names a stream, "" all. Recorded before the workers get the
    job, so that every request is on record; its result shows in the streams."""

    of: str = ""
    by: str = ""


class DropAsked(EventBase, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="drop_asked"):
    """An operator requested the deletion of dead letters or quarantined events; `rows` are their ids. Recorded before
    the workers get the job."""

    rows: tuple[str, ...]
    by: str = ""


def is_same_fact(event: "Event", other: "Event") -> bool:
    """True if two events with the same id record the same fact.

    `spooled` may differ. Several replicas may record a batch item, when several clients read the results; several
    workers may record a lost attempt, each with its own estimate. The first one counts.
    """
    if isinstance(event, AttemptLost) and isinstance(other, AttemptLost):
        return event.attempt_id == other.attempt_id
    if isinstance(event, BatchItemUsed) and isinstance(other, BatchItemUsed):
        return is_same_item(event, other)
    return replace(event, spooled=False) == replace(other, spooled=False)


def is_same_item(event: BatchItemUsed, other: BatchItemUsed) -> bool:
    """True if two readings of a batch's item agree; versions with different rules read more or less of its usage."""
    is_same = (event.batch_id, event.custom_id, event.model_sent) == (other.batch_id, other.custom_id, other.model_sent)
    return is_same and (event.tokens == other.tokens or event.fold_rules != other.fold_rules)


RouteEvent = (
    AttemptStarted
    | AttemptEnded
    | AttemptLost
    | BatchItemUsed
    | ResourceUsed
    | UsageRepriced
    | ResourceCreated
    | RouteReset
    | RouteNotice
)
ControlEvent = (
    RouteDisabled
    | RouteEnabled
    | CircuitReset
    | QuotaLimitChanged
    | ClientKeyIssued
    | ClientKeyLimited
    | ClientKeyRevoked
    | RequestRefused
    | ReplayAsked
    | DropAsked
)
Event = RouteEvent | ControlEvent
CONTROL_KINDS: frozenset[type[EventBase]] = frozenset(get_args(ControlEvent))
"""The classes of ControlEvent, as a set for fast lookup."""
EVENT_NAMES = tuple(sorted(str(kind.__struct_config__.tag) for kind in get_args(Event)))
"""The `type` of all events."""
