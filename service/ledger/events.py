"""The events: facts in the past tense, as they stand on the streams and in Postgres.

An event is made once, by the process that saw the fact, and never changed. What follows from events is `fold`'s.
Every field that comes later must have a default: bytes of a released version decode for ever (tests/ledger/golden).

A route's stream carries `RouteEvent`s, the stream `control` carries `ControlEvent`s.
"""

from typing import Literal, get_args

from msgspec import Struct
from msgspec.structs import replace

Outcome = Literal["ok", "failed", "aborted"]
"""How a try ended: answered, failed, or given up because the client had gone."""

FailureKind = Literal[
    "",  # none
    "connect",  # refused, unreachable, no such host, TLS
    "reset",  # the connection broke before or while the answer came
    "stale_socket",  # a reused connection closed before any byte of an answer
    "timeout",  # the provider stayed silent for too long
    "server_error",  # 5xx
    "overloaded",  # 529, or `overloaded_error` in a stream
    "throttle",  # 429 that asks for a short wait
    "quota",  # 429 that says a window or a plan is spent
    "billing",  # 402, no balance
    "credential",  # 401, 403
    "model_missing",  # the provider does not know the model
    "bad_request",  # the request's own fault
    "bad_answer",  # HTML, empty, truncated or unreadable answers with status 200
    "stream_error",  # `event: error` of any other type
    "deadline",  # our own deadline for the request ran out
]

FailureScope = Literal["", "request", "model", "credential", "quota", "throttle", "route", "provider"]
"""Whose fault a failure is. Only `route` and `provider` move a circuit."""

Endpoint = Literal["messages", "count_tokens", "models", "batches", "files", "other"]


FOLD_RULES = 2
"""The newest rules of the fold, which producers put into what counts as usage (`fold_rules`).

An event is folded by the rules of its time for ever, so that old stretches come out as they did:
0: each model has a cell of its own; 1: the first models of an hour have, the rest is one (`fold.cell_model`);
2: waits belong to an account and a class of endpoint, and failures are kept by client and session (`evidence`).
"""


class TokenCounts(Struct, frozen=True, omit_defaults=True):
    """Token counts of one attempt as the provider reported them; the kinds do not overlap."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0


class Window(Struct, frozen=True, omit_defaults=True):
    """A provider's own reading of one quota window.

    `used_ratio` is 0 to 1 and may exceed 1; `resets_at_ms` is Unix time; `status` is the provider's word.
    """

    used_ratio: float | None = None
    resets_at_ms: int = 0
    status: str = ""


class EventBase(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """What all events have.

    `event_id` is a UUIDv7 made by the producer before anything happens; `at_ms` is fleet time; `seq` counts the
    events of `replica` on this stream, from 1, without gaps. `spooled`: the event waited on disk, so its health
    counts would come too late to mean anything; its usage counts.
    """

    event_id: str
    at_ms: int
    replica: str = ""
    seq: int = 0
    spooled: bool = False


class AttemptStarted(EventBase, frozen=True, kw_only=True, omit_defaults=True, tag="attempt_started"):
    """A try of one route is about to send its first byte upstream. `event_id` is the attempt's id."""

    request_id: str
    endpoint: Endpoint = "messages"
    model_asked: str = ""
    model_sent: str = ""
    client_key: str = ""
    session_id: str = ""
    stream: bool = False
    estimated_tokens: int = 0


class AttemptEnded(EventBase, frozen=True, kw_only=True, omit_defaults=True, tag="attempt_ended"):
    """A try of one route is over. `event_id` is derived from `attempt_id`, so that an attempt ends once.

    `status` is the upstream's HTTP status, 0 when there was none; `first_byte_ms` is None when no answer began.
    `retry_at_ms` is the provider's own end of the wait, 0 when it named none. `final`: no other route was tried
    after this one. `slow`: the first content took longer than the policy's bound. `probe`: the attempt tried out a
    route whose circuit had been open. `holds`: a word in the names of the models that a quota's wait is about, "" for
    all.

    `account`: a hash of the API key, or of the log-in, with which the route was asked; "" for a client's own. `words`
    and `body` are keyed 64-bit fingerprints, of failures alone: of an error that no rule knows, and of the request that
    met it or timed out. `moved_from` is the route that served the session before, of answers alone, and `lost` is what
    the move cost: "cache", "thoughts", or both with a comma between them.
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


class AttemptLost(EventBase, frozen=True, kw_only=True, omit_defaults=True, tag="attempt_lost"):
    """An attempt whose replica died. Its charge is an estimate; a later `AttemptEnded` supersedes it."""

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


class BatchItemUsed(EventBase, frozen=True, kw_only=True, omit_defaults=True, tag="batch_item_used"):
    """What one item of a message batch used, told when its results passed through.

    `event_id` is derived from the batch's and the item's ids, so that results read twice count once.
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


class ResourceCreated(EventBase, frozen=True, kw_only=True, omit_defaults=True, tag="resource_created"):
    """A batch, file, container or thread came into being on this route and lives only there."""

    resource_id: str
    resource_kind: str
    request_id: str = ""
    client_key: str = ""


class RouteReset(EventBase, frozen=True, kw_only=True, omit_defaults=True, tag="route_reset"):
    """An operator had the route on whose stream this lies start anew: failures, waits, windows and missing models are
    forgotten, and attempts that began before bring usage alone."""

    by: str = ""


class RouteDisabled(EventBase, frozen=True, kw_only=True, omit_defaults=True, tag="route_disabled"):
    """An operator took a route out of service."""

    route: str
    by: str = ""
    reason: str = ""


class RouteEnabled(EventBase, frozen=True, kw_only=True, omit_defaults=True, tag="route_enabled"):
    """An operator put a route back into service."""

    route: str
    by: str = ""


class CircuitReset(EventBase, frozen=True, kw_only=True, omit_defaults=True, tag="circuit_reset"):
    """An operator ended a route's open circuit and its waits: what failed before counts no more."""

    route: str
    by: str = ""


class QuotaLimitChanged(EventBase, frozen=True, kw_only=True, omit_defaults=True, tag="quota_limit_changed"):
    """An operator changed a route's weekly limit; None takes the limit of the settings again, 0 is no limit."""

    route: str
    weekly_tokens: int | None = None
    by: str = ""


class ClientKeyIssued(EventBase, frozen=True, kw_only=True, omit_defaults=True, tag="client_key_issued"):
    """A client key was made; only its SHA-256 is known here."""

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


class ClientKeyLimited(EventBase, frozen=True, kw_only=True, omit_defaults=True, tag="client_key_limited"):
    """The limits of a client key were replaced, all of them."""

    key_id: str
    weekly_tokens: int | None = None
    weekly_cost_nusd: int | None = None
    models: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    concurrency: int | None = None
    expires_at_ms: int | None = None
    by: str = ""


class ClientKeyRevoked(EventBase, frozen=True, kw_only=True, omit_defaults=True, tag="client_key_revoked"):
    """A client key is good for nothing from now on."""

    key_id: str
    by: str = ""


class RequestRefused(EventBase, frozen=True, kw_only=True, omit_defaults=True, tag="request_refused"):
    """The proxy itself turned down a request of a known key (its own cap, its models, its requests under way).

    `count`: this request, and those turned down for the same reason since this replica last said so; the ledger grows
    by time, not by what a client sends.
    """

    request_id: str
    client_key: str
    reason: str
    model_asked: str = ""
    count: int = 1


class ReplayAsked(EventBase, frozen=True, kw_only=True, omit_defaults=True, tag="replay_asked"):
    """An operator told the workers to read the dead letters again; `of` names a stream, "" all. Written down before
    the workers hear of it, so that nothing is done unheard; what came of it shows in the streams."""

    of: str = ""
    by: str = ""


class DropAsked(EventBase, frozen=True, kw_only=True, omit_defaults=True, tag="drop_asked"):
    """An operator told the workers to forget rows that were put aside; `rows` are their ids. Written down before the
    workers hear of it."""

    rows: tuple[str, ...]
    by: str = ""


def is_same_fact(one: "Event", other: "Event") -> bool:
    """Whether two events with one id tell the same.

    Having waited on disk is no difference. An item of a batch may be told by several replicas, to several readers; an
    attempt may be given up by several workers, each with an estimate of its own. The first to tell it stands.
    """
    if isinstance(one, AttemptLost) and isinstance(other, AttemptLost):
        return one.attempt_id == other.attempt_id
    if isinstance(one, BatchItemUsed) and isinstance(other, BatchItemUsed):
        return (one.batch_id, one.custom_id, one.model_sent, one.tokens) == (
            other.batch_id,
            other.custom_id,
            other.model_sent,
            other.tokens,
        )
    return replace(one, spooled=False) == replace(other, spooled=False)


RouteEvent = AttemptStarted | AttemptEnded | AttemptLost | BatchItemUsed | ResourceCreated | RouteReset
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
"""The classes of ControlEvent: to look one up is faster than to ask for each of them."""
