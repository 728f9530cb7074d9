"""The admin API's shapes: what it takes and what it answers, as JSON. The contract between the API and its pages.

Not here: making the answers (`admin_live`, `admin_history`, `admin_actions`), and who may ask (`auth`).

All paths lie below `/admin/api`. Reading needs the role `viewer`, changing `admin`. Who asks shows a token as
`Authorization: Bearer`, or has a session: a cookie that no script can read, and, for everything but GET, the session's
`csrf` in the header `x-ccproxy-csrf`. Without either: 401. With a viewer's token where an admin's is needed: 403.
Every error is Anthropic-shaped: `{"type": "error", "error": {"type", "message"}, "request_id"}`.

| method and path | takes | answers | may say |
|---|---|---|---|
| POST /session | `LoginRecord` | `Session` (201) and the cookie | 401 wrong token, 429 too many tries |
| GET /session | | `Session` | |
| DELETE /session | | 204; the cookie is gone | |
| GET /overview | | `Overview` | |
| GET /routes | | list of `RouteView` | |
| POST /routes/{route}/disable | `Disable` | `Done` | 404 no such route |
| POST /routes/{route}/enable | | `Done` | 404 |
| POST /routes/{route}/reset | | `Done`: circuit and waits end | 404 |
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
| POST /keys | `GeneratedKey` | `IssuedKey` (201): the key itself, this once | 409 name taken |
| PUT /keys/{key_id}/limits | `KeyLimits`: replaces all limits | `KeyView` | 404 |
| DELETE /keys/{key_id} | | 204: revoked, everywhere within a second | 404 |
| GET /settings | | list of `SettingView`, secrets masked | |
| GET /live | | SSE, below | 503 too many watch already |

History is read from Postgres by the workers: where none answers within 10 s, the answer is 503 and says so; everything
else works without workers and without Postgres. Changes answer once the event is on its stream (or on disk, while Redis
is away), and act on every proxy within a second.

Live feed, `GET /admin/api/live` (`text/event-stream`, an `EventSource` with the cookie is enough; viewer):
- `event: overview`, data `Overview`: at once, then every second in which it changed.
- `event: event`, data `EventView`: what this fleet's proxies wrote down, within a second; the newest 50 first.
- `: ping` every 15 s. At most 32 watch at a time; one that reads too slowly is cut off, and should come again.

Times are Unix milliseconds, UTC (`_at_ms`, `_ms`), tokens are counts, costs are nano-dollars (`_nusd`, 1e-9 USD).
Percent are 0 to 100 and may exceed 100. A field that is None is not known, or has no limit where it is a limit.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

Role = Literal["viewer", "admin"]
Level = Literal["ok", "warning", "problem"]
"""How bad it is: nothing to do, keep an eye on it, do something."""

Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._@-]*$")]
ModelPattern = Annotated[str, Meta(min_length=1, max_length=128)]
"""A model's name; `*` at its end or within it stands for anything."""
Count = Annotated[int, Meta(ge=0, le=2**53)]
Percent = float


class Login(Struct, frozen=True, kw_only=True):
    """A token of this proxy: `ccproxy admin token` shows it."""

    token: Annotated[str, Meta(min_length=1, max_length=512)]


class Session(Struct, frozen=True, kw_only=True):
    """Who is logged in. `csrf` goes into the header `x-ccproxy-csrf` of every change; "" for a bearer token."""

    role: Role
    csrf: str
    expires_at_ms: int


class Done(Struct, frozen=True, kw_only=True):
    """A change was written down: the id of its event, and when."""

    event_id: str
    at_ms: int


# -- now


class Notice(Struct, frozen=True, kw_only=True):
    """Something that a person should know. `code` is stable (`redis_away`, `route_open`, `quota_spent`, `lag`, ...),
    `subject` is what it is about (a route, a stream, a replica; "" for the whole)."""

    level: Level
    code: str
    message: str
    subject: str = ""


class Forecast(Struct, frozen=True, kw_only=True):
    """Where the running week leads at the pace of the last 24 hours.

    `spent_at_ms` is when the limit is reached, None when it won't be this week; `percent_at_reset` what is gone then.
    """

    tokens_per_hour: int
    percent_at_reset: Percent
    spent_at_ms: int | None = None


class QuotaView(Struct, frozen=True, kw_only=True):
    """A route's week. `limit_tokens` None is no limit; `hours` are the tokens that counted in each hour since
    `week_start_ms`, oldest first, to draw the line from."""

    used_tokens: int
    limit_tokens: int | None
    used_percent: Percent
    state: Literal["ok", "warning", "spent"]
    week_start_ms: int
    resets_at_ms: int
    hours: list[int]
    forecast: Forecast | None = None


class WindowView(Struct, frozen=True, kw_only=True):
    """A provider's own reading of a quota window, as it last said."""

    name: str
    used_percent: Percent | None
    resets_at_ms: int | None
    status: str


class RouteView(Struct, frozen=True, kw_only=True):
    """A route now. `serves`: the next Claude request would take it; `until_ms` is when its state may change by itself.

    Counts are of the running week. `state` as in `ccproxy status`: healthy, degraded, off, disabled, circuit_open,
    waiting, quota_spent, quota_warning.
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
    """An event for people: what all have, what most have, and the rest in `fields` as it stands on the ledger.

    `entry` is its place on the stream, `position` its place in Postgres (history only). `level` is a hint for colour.
    `event_text` says it in one line.
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
    """Events, newest first. `before` of the next page is `next`; "" when there is no more.

    `source` is `stream` (the newest events, from Redis) or `history` (Postgres, by way of the workers).
    """

    events: list[EventView]
    next: str
    source: Literal["stream", "history"]


class Overview(Struct, frozen=True, kw_only=True):
    """All that one wants to see at a glance. `serving` is the route that the next Claude request would take, "" when
    none can; `serving_reason` says why it is this one. `recent` are the last failovers, trips, refusals and operators'
    actions, newest first, at most 20; a failover is an `attempt_ended` with `fields.final` false."""

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
    """An attempt that has begun and not ended, anywhere in the fleet."""

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
    """One try of one route, for the timeline of its request.

    `outcome` is ok, failed, aborted, lost (an estimate), or open (not ended yet). `first_byte_ms` and `total_ms` count
    from `started_at_ms`.
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
    stream: bool = False
    first_byte_ms: int | None = None
    total_ms: int | None = None
    tokens: Tokens = Tokens()
    cost_nusd: int | None = None


class RequestView(Struct, frozen=True, kw_only=True):
    """One request and its attempts in their order; `refused` is why the proxy itself turned it down, "" if not.

    `verdict` is how it ended: ok, failed, aborted, refused or open.
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
    """A proxy that beats. `pending` events are not on their streams yet; `agrees` with most others' settings."""

    replica: str
    pid: int
    seen_ms_ago: int
    pending: int
    settings: str
    agrees: bool
    here: bool


class StreamView(Struct, frozen=True, kw_only=True):
    """A stream: `lag` entries wait to be folded (at most 1,000 are counted), how old its snapshot is."""

    stream: str
    epoch: int
    position: int
    lag: int
    snapshot_age_ms: int | None
    gaps: int


class Fleet(Struct, frozen=True, kw_only=True):
    """Who serves and how far the ledger is. `spool_events` lie on this replica's disk; `workers` None: not known."""

    at_ms: int
    redis_up: bool
    replicas: list[ReplicaView]
    streams: list[StreamView]
    pending_events: int
    spooling: bool
    workers: int | None


# -- history


class UsageRow(Struct, frozen=True, kw_only=True):
    """The usage of one group. Of `hour day week route model key` those are set that were asked for with `by`; times
    as `2026-11-02` or `2026-11-02T15:00Z`. `key` "" is no key. `requests` None: events of that time were dropped."""

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
    cache_hit_percent: Percent | None = None


class UsageReport(Struct, frozen=True, kw_only=True):
    """Usage in whole hours, by any of hour, day, week, route, model, key. Asked: `by=day,route`; `since`, `until` as
    a date, a time, or a while ago (`12h`, `7d`, `4w`); default the last seven days."""

    since: str
    until: str
    by: list[str]
    rows: list[UsageRow]
    total: UsageRow


class LatencyRow(Struct, frozen=True, kw_only=True):
    """Percentiles of one group's answered attempts, in milliseconds; first byte of streams, total of all."""

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
    """Latency by any of hour, day, route, model. Default: the last 24 hours, by hour."""

    since: str
    until: str
    by: list[str]
    rows: list[LatencyRow]


class PutAside(Struct, frozen=True, kw_only=True):
    """A dead letter (unreadable) or a quarantined event (contradicts the ledger). `id` names it for `drop`."""

    id: str
    kind: Literal["dead letter", "quarantine"]
    stream: str
    seen_at_ms: int
    entry: str
    reason: str
    raw: str


class PutAsidePage(Struct, frozen=True, kw_only=True):
    """What was put aside, newest first, and how much there is of each kind."""

    rows: list[PutAside]
    dead_letters: int
    quarantined: int


class Stream(Struct, frozen=True, kw_only=True):
    """The stream meant; "" is all."""

    stream: Annotated[str, Meta(max_length=64)] = ""


class Replayed(Struct, frozen=True, kw_only=True):
    """What was read after all, and what is still unreadable."""

    read: int
    left: int


class Drop(Struct, frozen=True, kw_only=True):
    """Rows to forget for good, by their ids. Their numbers stay heard, so that `verify` agrees."""

    ids: Annotated[list[Annotated[str, Meta(max_length=256)]], Meta(min_length=1, max_length=500)]


class Dropped(Struct, frozen=True, kw_only=True):
    """How many rows went."""

    dropped: int


# -- keys


class KeyLimits(Struct, frozen=True, kw_only=True):
    """A key's limits, all of them; None is no limit, an empty list is all. `models` may hold patterns (`claude-*`).

    A week is that of the routes' quotas. `concurrency` counts requests under way.
    """

    weekly_tokens: Count | None = None
    weekly_cost_nusd: Count | None = None
    models: Annotated[list[ModelPattern], Meta(max_length=64)] = []
    routes: Annotated[list[Annotated[str, Meta(min_length=1, max_length=64)]], Meta(max_length=64)] = []
    concurrency: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    expires_at_ms: Count | None = None


class NewKey(KeyLimits, frozen=True, kw_only=True):
    """A key to be made. Its name must be free among the live keys."""

    name: Name


class KeyView(Struct, frozen=True, kw_only=True):
    """A live key. `source` is `ledger` (issued) or `settings` (`PROXY_API_KEYS`: no limits, no revoking here).

    `state`: ok, spent (its own cap is reached), expired. Usage is of the running week, over all routes.
    """

    key_id: str
    name: str
    source: Literal["ledger", "settings"]
    state: Literal["ok", "spent", "expired"]
    limits: KeyLimits
    issued_at_ms: int | None
    used_tokens: int
    used_cost_nusd: int
    used_percent: Percent
    attempts: int
    refused: int
    under_way: int
    resets_at_ms: int


class IssuedKey(Struct, frozen=True, kw_only=True):
    """A key as it was made: `key` is shown this once and stored nowhere."""

    key: str
    view: KeyView


# -- settings and actions


class SettingView(Struct, frozen=True, kw_only=True):
    """A setting in force. `value` of a secret is `***`, "" when it is not set; URLs come without credentials."""

    name: str
    value: str
    secret: bool
    meaning: str


class Disable(Struct, frozen=True, kw_only=True):
    """Why a route is taken out of service; shown to everybody who looks."""

    reason: Annotated[str, Meta(max_length=200)] = ""


class RouteLimit(Struct, frozen=True, kw_only=True):
    """A route's weekly tokens: None takes the limit of the settings again, 0 is no limit."""

    weekly_tokens: Count | None = None
