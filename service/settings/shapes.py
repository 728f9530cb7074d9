"""All settings, as frozen structs that are checked once and then trusted. Not here: where the values come from.

Each field that a variable sets declares the variable in its annotation; see `setting`. Further groups of settings are
in `policy`, `quota`, `routes` and `database`.
"""

from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from service.ledger.price import PriceList
from service.settings import values
from service.settings.database_url import DatabaseUrl, database_address
from service.settings.policy import Policy
from service.settings.providers import Route
from service.settings.redis_url import RedisUrl, queue_address, redis_address
from service.settings.secret import Secret, StaticKey, operator_token, sharing_secret, static_keys
from service.settings.setting import Section, Setting
from service.settings.values import Network, redacted_url

LogLevel = Literal["debug", "info", "warn", "error", "silent"]
LOG_LEVELS: tuple[LogLevel, ...] = ("debug", "info", "warn", "error", "silent")
ClientCredentials = Literal["auto", "prefer", "never"]
StripThinking = Literal["unsigned", "all", "none"]
UpstreamTransport = Literal["lean", "httpx"]
CLAUDE_CODE_CLIENT_ID = "9d1c250a-e61b-44d9-88ed-5944d1962f5e"
"""The public OAuth client id of Claude Code, whose credentials file holds the subscription's tokens."""
LOOPBACK_HOSTS = frozenset(("127.0.0.1", "localhost", "::1"))


def known_level(text: str) -> LogLevel:
    """The log level; an unknown word means info, as in the original."""
    return next((level for level in LOG_LEVELS if level == text.lower()), "info")


class Timeouts(Struct, frozen=True):
    """The time limits of a request."""

    connect_ms: Annotated[
        int, Setting("API_CONNECT_TIMEOUT_MS", Section.LIMITS, "longest wait for a connection to a provider", least=1)
    ] = 10_000
    first_byte_ms: Annotated[
        int,
        Setting(
            "API_FIRST_BYTE_TIMEOUT_MS",
            Section.LIMITS,
            "longest wait for a stream's first byte while another route is left",
            least=1,
        ),
    ] = 120_000
    first_content_ms: Annotated[
        int,
        Setting(
            "API_FIRST_CONTENT_TIMEOUT_MS",
            Section.LIMITS,
            "longest wait for a stream's first content, pings or not, while another route is left; also for what "
            "follows a thinking block that is kept back",
            least=1,
        ),
    ] = 300_000
    head_after_ms: Annotated[
        int,
        Setting(
            "API_HEAD_AFTER_MS",
            Section.LIMITS,
            "a stream without content for so long gets its head and pings, because balancers cut silent connections "
            "after 60 s; 0: the head waits for content",
        ),
    ] = 45_000
    request_ms: Annotated[
        int, Setting("API_TIMEOUT_MS", Section.LIMITS, "deadline of a request, until its content begins", least=1)
    ] = 600_000
    stream_ms: Annotated[
        int,
        Setting(
            "API_STREAMING_TIMEOUT_MS",
            Section.LIMITS,
            "deadline of a streaming request, until its content begins",
            least=1,
        ),
    ] = 600_000
    idle_ms: Annotated[
        int,
        Setting(
            "API_STREAM_IDLE_TIMEOUT_MS",
            Section.LIMITS,
            "longest silence within a response, pings aside; also of a client that does not read",
            least=1,
        ),
    ] = 300_000
    ping_ms: int = 15_000


class BodyLimits(Struct, frozen=True):
    """Bounds on the cost of a request's body; `held_bytes` is for all requests of a process together."""

    expansion: Annotated[
        int,
        Setting(
            "MAX_BODY_EXPANSION",
            Section.LIMITS,
            "how many times larger a compressed body may become above 256 KB; real conversations shrink to "
            "a tenth at best",
            least=1,
        ),
    ] = 20
    json_depth: Annotated[
        int,
        Setting(
            "MAX_JSON_DEPTH",
            Section.LIMITS,
            "deepest nesting of a body's JSON; schemas of tools rarely reach 20",
            least=16,
            most=500,
        ),
    ] = 200
    content_blocks: Annotated[
        int,
        Setting(
            "MAX_CONTENT_BLOCKS",
            Section.LIMITS,
            "most content blocks of a request; no model reads that many, and each costs memory",
            least=100,
        ),
    ] = 200_000
    held_bytes: Annotated[
        int,
        Setting(
            "MAX_HELD_BODY_BYTES",
            Section.LIMITS,
            "memory for the bodies of all requests of one process; beyond it, the newest request gets a 503 "
            "and should be retried",
            least=1_048_576,
        ),
    ] = 268_435_456


class Truncation(Struct, frozen=True):
    """Whether, and from how many tokens on, a conversation loses its oldest messages."""

    enabled: Annotated[
        bool,
        Setting(
            "CONTEXT_WINDOW_ENABLED",
            Section.CONTEXT,
            "`true`: the oldest messages of a conversation that is too long are removed",
        ),
    ] = False
    limit_tokens: Annotated[
        int,
        Setting(
            "CONTEXT_WINDOW_LIMIT",
            Section.CONTEXT,
            "context window that conversations are truncated for, in tokens; 0 is no limit",
        ),
    ] = 200_000
    threshold: Annotated[
        float,
        Setting(
            "CONTEXT_WINDOW_TRUNCATION_THRESHOLD",
            Section.CONTEXT,
            "fraction of that window that a conversation may fill",
            least=0.01,
            most=1,
        ),
    ] = 0.8

    @property
    def most_tokens(self) -> int:
        """The most that is left of a conversation."""
        return int(self.limit_tokens * self.threshold)


class OAuth(Struct, frozen=True):
    """The refreshing of subscription tokens. Without a `share_key`, hosts do not share them."""

    refresh_url: Annotated[
        str, Setting("CLAUDE_OAUTH_REFRESH_URL", Section.SUBSCRIPTION, "OAuth token endpoint", parse=values.http_url)
    ] = "https://platform.claude.com/v1/oauth/token"
    client_id: Annotated[
        str, Setting("CLAUDE_OAUTH_CLIENT_ID", Section.SUBSCRIPTION, "OAuth client that the tokens belong to")
    ] = CLAUDE_CODE_CLIENT_ID
    skew_ms: Annotated[
        int,
        Setting(
            "CLAUDE_OAUTH_REFRESH_SKEW_MS", Section.SUBSCRIPTION, "how long before its expiry a token is refreshed"
        ),
    ] = 300_000
    share_key: Annotated[
        Secret,
        Setting(
            "CLAUDE_OAUTH_SHARE_KEY",
            Section.SUBSCRIPTION,
            "secret, the same on every host: proxies share the access token through Redis, encrypted with it",
            parse=sharing_secret,
        ),
    ] = Secret("")


class DrainTimes(Struct, frozen=True):
    """Graceful shutdown: requests are accepted for `delay_ms`, then those in flight have `limit_ms` to end."""

    delay_ms: Annotated[
        int,
        Setting(
            "DRAIN_DELAY",
            Section.CLIENTS,
            "from the stop signal until the listener closes, in seconds or as `500ms`: time for a load "
            "balancer to notice",
            parse=values.duration_ms,
            default="5s; 0 on the loopback",
        ),
    ] = 0
    limit_ms: Annotated[
        int,
        Setting(
            "DRAIN_TIMEOUT",
            Section.CLIENTS,
            "longest wait after that for requests in flight; a second stop signal ends it",
            parse=values.duration_ms,
            default="600s; 10s on the loopback",
        ),
    ] = 10_000

    @property
    def longest_s(self) -> float:
        """The longest time from the stop signal to the end of the process, with what is written down at last."""
        return (self.delay_ms + self.limit_ms) / 1000 + 20


class Settings(Struct, frozen=True, kw_only=True):
    """Everything that can be set, checked.

    `client_route` carries clients' own credentials, to Anthropic alone. `ledger_keys`: a client has to show a key of
    the ledger (or one of `client_keys`). `notices` are shown to the user at start.
    """

    host: Annotated[
        str,
        Setting(
            "PROXY_HOST",
            Section.CLIENTS,
            "address to listen on; any other than the loopback needs `PROXY_API_KEYS`",
            parse=values.listen_host,
        ),
    ] = "127.0.0.1"
    port: Annotated[int, Setting("PROXY_PORT", Section.CLIENTS, "port to listen on", least=1, most=65_535)] = 4181
    base_path: Annotated[
        str,
        Setting(
            "PROXY_BASE_PATH", Section.CLIENTS, "path prefix of the proxy, such as `/anthropic`", parse=values.base_path
        ),
    ] = ""
    processes: Annotated[
        int,
        Setting(
            "PROXY_WORKERS",
            Section.CLIENTS,
            "processes of `ccproxy serve` that share the address; about one per core",
            least=1,
            most=256,
        ),
    ] = 1
    trusted_proxies: Annotated[
        tuple[Network, ...],
        Setting(
            "TRUSTED_PROXIES",
            Section.CLIENTS,
            "addresses or networks, comma-separated, whose `X-Forwarded-For`, `-Proto` and `-Host` are trusted",
            parse=values.networks,
        ),
    ] = ()
    allowed_hosts: Annotated[
        tuple[str, ...],
        Setting(
            "ALLOWED_HOSTS",
            Section.CLIENTS,
            "host names by which clients reach the proxy, comma-separated, without ports; a listener on the "
            "loopback answers to loopback names and these only (against DNS rebinding)",
            parse=values.host_names,
        ),
    ] = ()
    allowed_origins: Annotated[
        tuple[str, ...],
        Setting(
            "ALLOWED_ORIGINS",
            Section.CLIENTS,
            "origins of web pages that may use the Messages API, comma-separated, such as "
            "`https://app.example`; all others are refused",
            parse=values.origins,
        ),
    ] = ()
    drain: DrainTimes = DrainTimes()
    keep_alive_ms: Annotated[
        int,
        Setting(
            "PROXY_KEEP_ALIVE_MS",
            Section.CLIENTS,
            "how long an idle connection of a client is kept; longer than a load balancer keeps it (Google Cloud: "
            "600 s), else that sometimes sends a request into a connection that is being closed, and answers 502",
            least=1,
        ),
    ] = 650_000
    client_keys: Annotated[
        tuple[StaticKey, ...],
        Setting(
            "PROXY_API_KEYS",
            Section.CLIENTS,
            "client keys, comma-separated `name:key` or `key`; `ledger`: those of `ccproxy keys`",
            parse=static_keys,
            secret=True,
        ),
    ] = ()
    ledger_keys: bool = False
    admin_token: Annotated[
        Secret,
        Setting(
            "ADMIN_TOKEN",
            Section.CLIENTS,
            "token of the admin API and the dashboard; the same across a fleet",
            parse=operator_token,
            default="created at the first start",
        ),
    ] = Secret("")
    viewer_token: Annotated[
        Secret, Setting("VIEWER_TOKEN", Section.CLIENTS, "a second token, which is read-only", parse=operator_token)
    ] = Secret("")
    metrics_token: Annotated[
        Secret,
        Setting(
            "METRICS_TOKEN",
            Section.CLIENTS,
            "token for `/metrics`; without one, `/metrics` is open to the loopback only",
            parse=operator_token,
        ),
    ] = Secret("")
    client_credentials: Annotated[
        ClientCredentials,
        Setting("CLIENT_CREDENTIALS", Section.CLIENTS, "pass-through of clients' own credentials to Anthropic"),
    ] = "auto"
    routes: tuple[Route, ...] = ()
    client_route: Route
    oauth: OAuth = OAuth()
    strip_thinking: Annotated[
        StripThinking, Setting("STRIP_SUBSCRIPTION_THINKING", Section.SUBSCRIPTION, "thinking blocks to remove")
    ] = "unsigned"
    timeouts: Timeouts = Timeouts()
    policy: Policy = Policy()
    session_affinity: Annotated[
        bool,
        Setting(
            "SESSION_AFFINITY",
            Section.ROUTING,
            "`true`: a session stays with a route that serves the same model, and in the middle of a turn with any",
        ),
    ] = True
    prices: PriceList = PriceList()
    max_body_bytes: Annotated[
        int,
        Setting(
            "MAX_BODY_BYTES", Section.LIMITS, "largest request body accepted; Anthropic accepts 32 MB", least=1_024
        ),
    ] = 33_554_432
    bodies: BodyLimits = BodyLimits()
    max_head_bytes: Annotated[
        int,
        Setting(
            "MAX_HEAD_BYTES",
            Section.LIMITS,
            "largest request line with headers, else 431; clients send 2 KB, and it is held in memory "
            "before any key is checked",
            least=4_096,
            most=1_048_576,
        ),
    ] = 65_536
    max_url_bytes: Annotated[
        int,
        Setting(
            "MAX_URL_BYTES",
            Section.LIMITS,
            "longest URL, else 414; clients send 100 bytes, and providers accept none that are longer",
            least=1_024,
            most=65_536,
        ),
    ] = 16_384
    truncation: Truncation = Truncation()
    redis_url: Annotated[
        RedisUrl | None,
        Setting(
            "REDIS_URL",
            Section.SERVERS,
            "Redis (TLS, Sentinel, Cluster: see docs/replicas.md); `up` starts its own if not set",
            parse=redis_address,
            default="redis://127.0.0.1:6379/0",
            secret=True,
            for_workers=True,
        ),
    ] = None
    rq_redis_url: Annotated[
        RedisUrl | None,
        Setting(
            "RQ_REDIS_URL",
            Section.SERVERS,
            "Redis of the workers' queue, when REDIS_URL is a Cluster",
            parse=queue_address,
            default="as REDIS_URL",
            secret=True,
            for_workers=True,
        ),
    ] = None
    database_url: Annotated[
        DatabaseUrl | None,
        Setting(
            "DATABASE_URL",
            Section.SERVERS,
            "Postgres of the workers; `up` starts its own if neither is set",
            parse=database_address,
            default="from DB_*",
            secret=True,
            for_workers=True,
        ),
    ] = None
    database_direct_url: Annotated[
        DatabaseUrl | None,
        Setting(
            "DATABASE_DIRECT_URL",
            Section.SERVERS,
            "Postgres itself, if DATABASE_URL is a pooler: for what needs a session (migrate, ledger, backup, reports)",
            parse=database_address,
            default="as DATABASE_URL",
            secret=True,
            for_workers=True,
        ),
    ] = None
    database_connect_ms: Annotated[
        int,
        Setting(
            "DB_CONNECTION_TIMEOUT_MS",
            Section.SERVERS,
            "longest wait for a connection to Postgres; counted in whole seconds, rounded up, at least 2",
            least=100,
            for_workers=True,
        ),
    ] = 2_000
    retention_weeks: Annotated[
        int,
        Setting(
            "LEDGER_RETENTION_WEEKS",
            Section.SERVERS,
            "weeks after which events are dropped; their usage is kept; 0 is never",
            most=5_000,
            for_workers=True,
        ),
    ] = 0
    log_level: Annotated[
        LogLevel,
        Setting(
            "LOG_LEVEL",
            Section.LOG,
            "how much is logged; an unknown word means `info`",
            parse=known_level,
            for_workers=True,
        ),
    ] = "info"
    log_format: Annotated[
        Literal["text", "json"],
        Setting("LOG_FORMAT", Section.LOG, "`text` for people, `json` for one object per line", for_workers=True),
    ] = "text"
    otlp_endpoint: Annotated[
        str,
        Setting(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            Section.LOG,
            "endpoint for traces, OTLP over HTTP; needs the extra `otlp`",
            parse=values.traces_url,
        ),
    ] = ""
    home: Annotated[
        Path,
        Setting(
            "CCPROXY_HOME",
            Section.FILES,
            "folder for data, logs and spool",
            parse=values.home_folder,
            default="the user's state folder",
            for_workers=True,
        ),
    ]
    prices_file: Annotated[
        str,
        Setting(
            "CCPROXY_PRICES",
            Section.FILES,
            "price list to use instead of the built-in one",
            default="prices.toml in CCPROXY_HOME, if that is newer",
            for_workers=True,
        ),
    ] = ""
    postgres_bin: Annotated[
        str,
        Setting(
            "CCPROXY_POSTGRES_BIN", Section.FILES, "folder with Postgres programs to use instead of the packaged ones"
        ),
    ] = ""
    redis_bin: Annotated[
        str,
        Setting("CCPROXY_REDIS_BIN", Section.FILES, "redis-server or valkey-server to use instead of the packaged one"),
    ] = ""
    upstream_transport: Annotated[
        UpstreamTransport,
        Setting(
            "UPSTREAM_TRANSPORT", Section.NETWORK, "`httpx`: requests are sent through httpx's own transport; slower"
        ),
    ] = "lean"
    notices: tuple[str, ...] = ()

    @property
    def asks_for_keys(self) -> bool:
        """True if every client must show a key (or a credential of its own)."""
        return bool(self.client_keys) or self.ledger_keys

    @property
    def loopback(self) -> bool:
        """True if only this machine can reach the proxy."""
        return self.host in LOOPBACK_HOSTS

    @property
    def database_connect_s(self) -> int:
        """The longest wait for Postgres as libpq takes it: whole seconds, at least 2."""
        return max(2, -(-self.database_connect_ms // 1000))

    @property
    def outward_urls(self) -> tuple[str, ...]:
        """The addresses of the servers that are asked: of routes that are on, and of the token endpoint."""
        on = [route for route in (*self.routes, self.client_route) if route.off is None]
        refreshed = [self.oauth.refresh_url for route in on if route.auth == "oauth"]
        return (*(route.base_url for route in on), *refreshed)

    @property
    def digest(self) -> str:
        """A short hash of routes, policy and prices, without secrets; equal settings have equal digests."""
        routes = [
            (
                route.id,
                replace(route.provider, base_url=redacted_url(route.base_url)),
                route.auth,
                route.weekly_tokens,
                route.model_map,
                route.off is None,
            )
            for route in self.routes
        ]
        identity = msgspec.json.encode((routes, self.policy, self.prices.version))
        return sha256(identity).hexdigest()[:12]
