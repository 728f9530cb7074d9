"""The admin API's request and response bodies, as JSON. The contract between the API and the dashboard.

Not here: building the responses (`admin`, `actions`), and authorization (`auth`).

All paths are below `/admin/api`. Reading needs the role `viewer`, changes need `admin`: a token as
`Authorization: Bearer`, or a session: a cookie that scripts can't read and, for everything but GET, the session's
`csrf` in the header `x-ccproxy-csrf`. Without either: 401. With a viewer token where an admin token is needed: 403.
Every error is Anthropic-shaped: `{"type": "error", "error": {"type", "message"}, "request_id"}`.

| method and path | request | response | errors |
|---|---|---|---|
| POST /session | `Login` | `Session` (201) and the cookie | 401 wrong token, 429 too many attempts |
| GET /session | | `Session` | |
| DELETE /session | | 204; the cookie is deleted | |
| GET /overview | | `Overview` | |
| GET /routes | | list of `RouteView` | |
| POST /routes/{route}/disable | `Disable` | `Done` | 404 no such route |
| POST /routes/{route}/enable | | `Done` | 404 |
| POST /routes/{route}/reset | | `Done`: circuit and cool-downs end | 404 |
| PUT /routes/{route}/limit | `RouteLimit` | `Done` | 404 |
| GET /attempts | | list of `LiveAttempt`, oldest first; at most 500 | |
| GET /events | `stream type route key model request outcome since until before limit` | `EventPage` | 400, 503 |
| GET /requests/{request_id} | | `RequestView` | 404, 503 |
| GET /fleet | | `Fleet` | |
| GET /usage | `since until by route model key` | `UsageReport` (history) | 400, 503 |
| GET /latency | `since until by` | `LatencyReport` (history) | 400, 503 |
| GET /dead-letters | `stream limit` | `PutAsidePage` (history) | 503 |
| POST /dead-letters/replay | `Stream` | `Replayed` | 503 |
| POST /dead-letters/drop | `Drop` | `Dropped` | 503 |
| GET /keys | | list of `KeyView` | |
| POST /keys | `NewKey` | `IssuedKey` (201): the key itself, only here | 409 name taken |
| PUT /keys/{key_id}/limits | `KeyLimits`: replaces all limits | `KeyView` | 404 |
| DELETE /keys/{key_id} | | 204: revoked on all proxies within a second | 404 |
| GET /settings | | list of `SettingView`, secrets masked | |
| GET /live | | SSE, below | 503 too many watchers |

History is read from Postgres by the workers: if none responds within 10 s, the response is 503. Everything else works
without workers and without Postgres. A change is confirmed once its event is on its stream (or on disk, while Redis is
unavailable), and takes effect on all proxies within a second.

Live feed, `GET /admin/api/live` (`text/event-stream`, an `EventSource` with the cookie is enough; viewer):
- `event: overview`, data `Overview`: at once, then every second in which it changed.
- `event: event`, data `EventView`: events of all proxies, within a second; first the newest 50.
- `: ping` every 15 s. At most 32 clients at a time; one that reads too slowly is disconnected, and should reconnect.

Times are Unix milliseconds, UTC (`_at_ms`, `_ms`), tokens are counts, costs are nano-dollars (`_nusd`, 1e-9 USD).
Percentages may exceed 100. None means unknown, or for a limit, none.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from service.ledger.events import UsageLine

Role = Literal["viewer", "admin"]
Level = Literal["ok", "warning", "problem"]
"""Severity: nothing to do, needs attention, needs action."""

Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._@-]*$")]
ModelPattern = Annotated[str, Meta(min_length=1, max_length=128)]
"""A model's name; `*` at the end or inside matches anything."""
Count = Annotated[int, Meta(ge=0, le=2**53)]
Percent = float


class Login(Struct, frozen=True, kw_only=True):
    """The admin or viewer token; `ccproxy admin token` prints the admin token."""

    token: Annotated[str, Meta(min_length=1, max_length=512)]


class Session(Struct, frozen=True, kw_only=True):
    """The current session. Changes send `csrf` in the header `x-ccproxy-csrf`; "" for a bearer token."""

    role: Role
    csrf: str
    expires_at_ms: int


class Done(Struct, frozen=True, kw_only=True):
    """A recorded change: the id of its event, and its time."""

    event_id: str
    at_ms: int


class ForgottenView(Struct, frozen=True, kw_only=True):
    """What a reset forgot of a route: its circuit ("": closed), and how many of what else was held against it."""

    circuit: str
    cool_downs: int
    windows: int
    missing_models: int
    unknown_errors: int


class ResetDone(Done, frozen=True, kw_only=True):
    """A recorded reset. `words` says what was forgotten."""

    forgot: ForgottenView
    words: str


# -- current state


class Notice(Struct, frozen=True, kw_only=True):
    """A warning or problem. `code` is stable (`redis_away`, `circuit_open`, `quota_spent`, `lag`, ...);
    `subject` is the route, stream or replica concerned, "" for the whole fleet."""

    level: Level
    code: str
    message: str
    subject: str = ""


class Forecast(Struct, frozen=True, kw_only=True):
    """Forecast of the current week at the rate of the last 24 hours.

    `spent_at_ms`: when the limit is reached, None if not this week; `percent_at_reset`: usage at the reset.
    """

    tokens_per_hour: int
    percent_at_reset: Percent
    spent_at_ms: int | None = None


class QuotaView(Struct, frozen=True, kw_only=True):
    """A route's weekly quota. `limit_tokens` None means no limit; `hours` are the tokens counted in each hour since
    `week_start_ms`, oldest first. `limit_source` is an operator if the settings have another one,
    `configured_tokens`."""

    used_tokens: int
    limit_tokens: int | None
    used_percent: Percent
    state: Literal["ok", "warning", "spent"]
    week_start_ms: int
    resets_at_ms: int
    hours: list[int]
    limit_source: Literal["settings", "operator"] = "settings"
    configured_tokens: int | None = None
    forecast: Forecast | None = None


class WindowView(Struct, frozen=True, kw_only=True):
    """A quota window as last reported by the provider."""

    name: str
    used_percent: Percent | None
    resets_at_ms: int | None
    status: str


class CoolDownView(Struct, frozen=True, kw_only=True):
    """A cool-down in force: its scope (throttle, quota, credential, refused), and whose it is.

    `account` is a digest ("": unknown), `endpoint` the class of endpoints, `models` a word in the names of the models
    that wait ("": all).
    """

    scope: str
    account: str
    endpoint: str
    models: str
    reason: str
    until_ms: int


class UnknownErrorView(Struct, frozen=True, kw_only=True):
    """An error in words that no rule knows: a digest of its words, and how many requests (at most 3) of how many
    clients (at most 3) met it without an answer in between."""

    words: str
    status: int
    endpoint: str
    account: str
    requests: int
    clients: int
    since_ms: int
    at_ms: int


class RouteView(Struct, frozen=True, kw_only=True):
    """A route's current state. `serves`: it gets the next Claude request; `until_ms`: when the state may end by itself.

    `unknown_words` are recent errors that no rule knows; `unknown_errors` counts all of them, and `second_opinions`
    those on which another account was asked, by outcome (answered, confirmed, none), since the ledger began. All other
    counts are for the current week. `state` as in `ccproxy status`: healthy, degraded, off, disabled, no_credential,
    circuit_open, waiting, quota_spent, quota_warning.
    """

    route: str
    title: str
    provider: str
    priority: int
    serves: bool
    available: bool
    state: str
    reason: str
    until_ms: int | None
    circuit: str
    failures_in_row: int
    quota: QuotaView
    windows: list[WindowView]
    cool_downs: list[CoolDownView]
    unknown_words: list[UnknownErrorView]
    unknown_errors: int
    second_opinions: dict[str, int]
    attempts: int
    failed: int
    aborted: int
    lost: int
    open_attempts: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_5m_tokens: int
    cache_write_1h_tokens: int
    cache_hit_percent: Percent | None
    cost_nusd: int
    estimated: int
    estimated_tokens: int
    unpriced: int
    unpriced_models: list[str]
    last_success_ms: int | None
    last_failure_ms: int | None
    last_failure_kind: str


class Tokens(Struct, frozen=True, kw_only=True):
    """Token counts; the kinds do not overlap."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0


class EventView(Struct, frozen=True, kw_only=True):
    """An event: the common fields, and in `fields` all of them as in the ledger.

    `entry` is its id on the stream, `position` its position in Postgres (history only). `level` is its severity,
    `words` describes it in one line.
    """

    event_id: str
    type: str
    at_ms: int
    stream: str
    replica: str
    level: Level
    words: str
    entry: str = ""
    position: int | None = None
    request_id: str = ""
    attempt_id: str = ""
    route: str = ""
    model: str = ""
    client_key: str = ""
    outcome: str = ""
    kind: str = ""
    by: str = ""
    fields: dict[str, object] = {}


class EventPage(Struct, frozen=True, kw_only=True):
    """Events, newest first. Pass `next` as `before` to get the next page; "" on the last one.

    `source` is `stream` (the newest events, from Redis) or `history` (Postgres, through the workers).
    """

    events: list[EventView]
    next: str
    source: Literal["stream", "history"]


class Overview(Struct, frozen=True, kw_only=True):
    """State of the whole fleet. `serving` is the route that gets the next Claude request, "" if none is available;
    `serving_reason` explains the choice. `recent` are the latest failovers, refusals and operators' actions, newest
    first, at most 20; a failover is an `attempt_ended` with `fields.final` false."""

    at_ms: int
    version: str
    level: Level
    notices: list[Notice]
    serving: str
    serving_reason: str
    routes: list[RouteView]
    recent: list[EventView]
    open_attempts: int
    requests_per_minute: float
    fleet_lag: int
    replicas: int


class LiveAttempt(Struct, frozen=True, kw_only=True):
    """An attempt in progress, on any replica."""

    attempt_id: str
    request_id: str
    route: str
    replica: str
    started_at_ms: int
    endpoint: str
    model_asked: str
    model_sent: str
    client_key: str
    session_id: str


class AttemptView(Struct, frozen=True, kw_only=True):
    """One attempt on one route, for the timeline of its request.

    `outcome` is ok, failed, aborted, lost (an estimate), or open (not ended yet). `first_byte_ms` and `total_ms` count
    from `started_at_ms`. `model_served` is the model that the answer named, "" if it is `model_sent`; `lines` are the
    parts of its usage, empty if it has but one.
    """

    attempt_id: str
    route: str
    replica: str
    started_at_ms: int
    outcome: Literal["ok", "failed", "aborted", "lost", "open"]
    kind: str = ""
    scope: str = ""
    status: int = 0
    message: str = ""
    model_sent: str = ""
    model_served: str = ""
    stream: bool = False
    first_byte_ms: int | None = None
    total_ms: int | None = None
    tokens: Tokens = Tokens()
    cost_nusd: int | None = None
    lines: list[UsageLine] = []


class RequestView(Struct, frozen=True, kw_only=True):
    """One request and its attempts in order; `refused` is the reason if the proxy itself refused it, else "".

    `verdict` is one of ok, failed, aborted, refused or open.
    """

    request_id: str
    started_at_ms: int
    ended_at_ms: int | None
    verdict: Literal["ok", "failed", "aborted", "refused", "open"]
    model_asked: str
    client_key: str
    session_id: str
    endpoint: str
    refused: str
    attempts: list[AttemptView]
    events: list[EventView]


class ReplicaView(Struct, frozen=True, kw_only=True):
    """A live replica. `pending`: events not yet on their streams; `agrees`: its settings are those of the majority;
    `clock_skew_ms`: its machine's clock minus fleet time. Older versions tell neither version nor clock."""

    replica: str
    pid: int
    seen_ms_ago: int
    pending: int
    settings: str
    agrees: bool
    version: str
    here: bool
    address: str = ""
    started_at_ms: int = 0
    draining: bool = False
    clock_skew_ms: int | None = None


class StreamView(Struct, frozen=True, kw_only=True):
    """A stream. `lag`: entries not folded yet (counted up to 1,000)."""

    stream: str
    epoch: int
    position: int
    lag: int
    snapshot_age_ms: int | None
    gaps: int


class Fleet(Struct, frozen=True, kw_only=True):
    """Replicas, workers and streams. `spool_events`: events on this replica's disk; `workers` None: unknown."""

    at_ms: int
    redis_up: bool
    replicas: list[ReplicaView]
    streams: list[StreamView]
    pending_events: int
    spooling: bool
    workers: int | None


# -- history


class UsageRow(Struct, frozen=True, kw_only=True):
    """Usage of one group. Of `hour day week route model key`, those requested with `by` are set; times
    are `2026-11-02` or `2026-11-02T15:00Z`. `key` "" means no key. `requests` None: those events were dropped.

    `moves`: answers of sessions that had to leave a prompt cache behind, with the tokens read anew, and their price.
    `estimated`: attempts whose usage is estimated, `estimated_tokens` all tokens of theirs."""

    hour: str | None = None
    day: str | None = None
    week: str | None = None
    route: str | None = None
    model: str | None = None
    key: str | None = None
    requests: int | None = None
    attempts: int = 0
    failed: int = 0
    aborted: int = 0
    lost: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    batch_items: int = 0
    cost_nusd: int = 0
    unpriced: int = 0
    estimated: int = 0
    estimated_tokens: int = 0
    moves: int | None = None
    moved_tokens: int | None = None
    moved_cost_nusd: int | None = None
    moved_unpriced: int | None = None
    cache_hit_percent: Percent | None = None


class UsageReport(Struct, frozen=True, kw_only=True):
    """Usage in whole hours, grouped by any of hour, day, week, route, model, key (`by=day,route`). `since` and `until`
    are a date, a time, or a duration ago (`12h`, `7d`, `4w`); default: the last seven days."""

    since: str
    until: str
    by: list[str]
    rows: list[UsageRow]
    total: UsageRow


class LatencyRow(Struct, frozen=True, kw_only=True):
    """Latency percentiles of one group's answered attempts, in milliseconds; first byte: streams only."""

    hour: str | None = None
    day: str | None = None
    route: str | None = None
    model: str | None = None
    attempts: int = 0
    first_byte_p50_ms: int | None = None
    first_byte_p95_ms: int | None = None
    first_byte_p99_ms: int | None = None
    total_p50_ms: int | None = None
    total_p95_ms: int | None = None
    total_p99_ms: int | None = None


class LatencyReport(Struct, frozen=True, kw_only=True):
    """Latency grouped by any of hour, day, route, model. Default: the last 24 hours, by hour."""

    since: str
    until: str
    by: list[str]
    rows: list[LatencyRow]


class PutAside(Struct, frozen=True, kw_only=True):
    """A dead letter (can't be decoded) or a quarantined event (contradicts the ledger). `drop` takes its `id`."""

    id: str
    kind: Literal["dead letter", "quarantine"]
    stream: str
    seen_at_ms: int
    entry: str
    reason: str
    raw: str


class PutAsidePage(Struct, frozen=True, kw_only=True):
    """Dead letters and quarantined events, newest first, and the number of each."""

    rows: list[PutAside]
    dead_letters: int
    quarantined: int


class Stream(Struct, frozen=True, kw_only=True):
    """A stream; "" means all."""

    stream: Annotated[str, Meta(max_length=64)] = ""


class Replayed(Struct, frozen=True, kw_only=True):
    """Number of dead letters folded, and of those left."""

    read: int
    left: int


class Drop(Struct, frozen=True, kw_only=True):
    """Ids of the rows to delete. Their sequence numbers stay recorded, so that `verify` agrees."""

    ids: Annotated[list[Annotated[str, Meta(max_length=256)]], Meta(min_length=1, max_length=500)]


class Dropped(Struct, frozen=True, kw_only=True):
    """Number of rows deleted."""

    dropped: int


# -- keys


class KeyLimits(Struct, frozen=True, kw_only=True):
    """All limits of a key; None means no limit, an empty list allows all. `models` may be patterns (`claude-*`).

    Weeks are those of the routes' quotas. `concurrency` limits requests in progress.
    """

    weekly_tokens: Count | None = None
    weekly_cost_nusd: Count | None = None
    models: Annotated[list[ModelPattern], Meta(max_length=64)] = []
    routes: Annotated[list[Annotated[str, Meta(min_length=1, max_length=64)]], Meta(max_length=64)] = []
    concurrency: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    expires_at_ms: Count | None = None


class NewKey(KeyLimits, frozen=True, kw_only=True):
    """A key to issue. Its name must be unique among valid keys."""

    name: Name


class KeyView(Struct, frozen=True, kw_only=True):
    """A valid key. `source` is `ledger` (issued) or `settings` (`PROXY_API_KEYS`: no limits, can't be revoked here).

    `state`: ok, spent (its limit is reached), expired. Usage is for the current week, on all routes. `unpriced`: how
    many parts of it have no price and are not in the cost; a limit in dollars counts `counted_cost_nusd`, at the
    dearest price that they may have.
    """

    key_id: str
    name: str
    source: Literal["ledger", "settings"]
    state: Literal["ok", "spent", "expired"]
    limits: KeyLimits
    issued_at_ms: int | None
    used_tokens: int
    used_cost_nusd: int
    unpriced: int
    counted_cost_nusd: int
    used_percent: Percent
    attempts: int
    refused: int
    under_way: int
    resets_at_ms: int


class IssuedKey(Struct, frozen=True, kw_only=True):
    """A new key: `key` is returned only here and not stored."""

    key: str
    view: KeyView


# -- settings and actions


class SettingView(Struct, frozen=True, kw_only=True):
    """An effective setting. The value of a secret is `***`, "" if not set; URLs are without credentials.

    `variable` sets it; "" if only the TOML file does, or nothing.
    """

    name: str
    variable: str = ""
    value: str
    secret: bool
    meaning: str


class Disable(Struct, frozen=True, kw_only=True):
    """Reason for disabling a route; shown with the route."""

    reason: Annotated[str, Meta(max_length=200)] = ""


class RouteLimit(Struct, frozen=True, kw_only=True):
    """A route's weekly limit in tokens; None means the configured limit, 0 no limit."""

    weekly_tokens: Count | None = None
