"""What can be set, as frozen records that are checked once and then trusted. Not here: where the values come from."""

import ipaddress
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct, field
from msgspec.structs import replace

from service.ledger.price import PriceList
from service.settings.failure_rules import Dialect, Rules, packaged_rules
from service.settings.reader import redacted_url

LogLevel = Literal["debug", "info", "warn", "error", "silent"]
LOG_LEVELS: tuple[LogLevel, ...] = ("debug", "info", "warn", "error", "silent")
ClientCredentials = Literal["auto", "prefer", "never"]
Auth = Literal["api_key", "oauth", "client"]
StripThinking = Literal["unsigned", "all", "none"]
UpstreamTransport = Literal["lean", "httpx"]
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
CLAUDE_CODE_CLIENT_ID = "9d1c250a-e61b-44d9-88ed-5944d1962f5e"
"""The public OAuth client id of Claude Code, in whose credentials file the subscription's tokens lie."""
CLIENT_ROUTE_ID = "anthropic:client"
LOOPBACK_HOSTS = frozenset(("127.0.0.1", "localhost", "::1"))


class Secret:
    """A text that never shows itself: neither in a repr, nor in a log, nor in a traceback."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself, for the one place that needs it."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __bool__(self) -> bool:
        return bool(self._text)


class Provider(Struct, frozen=True, forbid_unknown_fields=True):
    """An API that is spoken to.

    `families` are the beginnings of model names that it serves itself; a name of another family that appears in
    `model_map` (exact, or by `*` at the end) is always mapped. `model_fallback` maps names that it turns out to lack.
    """

    id: str
    title: str
    base_url: str
    dialect: Dialect = "compatible"
    families: tuple[str, ...] = ()
    model_map: dict[str, str] = {}
    model_fallback: dict[str, str] = {}


ANTHROPIC = Provider(
    id="anthropic",
    title="Anthropic",
    base_url="https://api.anthropic.com",
    dialect="anthropic",
    families=("claude",),
    # GLM names to Claude: the tables of the original proxy, in the order in which they are tried.
    model_map={"glm-*-air": "claude-haiku-4-6", "glm-*-turbo": "claude-haiku-4-6", "glm-*": "claude-opus-4-8"},
    # From the original's documentation, with its aliases.
    model_fallback={
        "claude-opus": "claude-opus-4-8",
        "claude-sonnet": "claude-sonnet-4-6",
        "claude-haiku": "claude-haiku-4-6",
        "claude-opus-4-6": "claude-sonnet-4-20250514",
        "claude-sonnet-4-6": "claude-sonnet-4-20250514",
        "claude-haiku-4-5": "claude-haiku-4-5-20251001",
        "claude-haiku-4-6": "claude-haiku-4-5-20251001",
    },
)
ZAI = Provider(
    id="zai",
    title="Z.AI",
    base_url="https://api.z.ai/api/anthropic",
    dialect="zai",
    families=("glm",),
    model_map={"claude*haiku*": "glm-4.5-air", "claude*": "glm-5.2"},
    model_fallback={"glm-4": "glm-5.2"},
)


class Route(Struct, frozen=True):
    """Provider + credential. `off` is why the route can't serve at all, None when it can.

    `auth` is whose credential is shown and how: an API key, an OAuth token (`credentials_path`, or `api_key` as the
    token), or the client's own as it came (a pseudo-route: no shared state of its own).
    `model_map` is the user's own and applies at once; `weekly_tokens` and `concurrency` (attempts at once, in the whole
    fleet) 0 is no limit.
    """

    id: str
    title: str
    provider: Provider
    base_url: str
    auth: Auth = "api_key"
    api_key: Secret = Secret("")
    credentials_path: str = ""
    weekly_tokens: int = 0
    concurrency: int = 0
    model_map: dict[str, str] = {}
    off: str | None = None


class CircuitPolicy(Struct, frozen=True):
    """When a circuit opens, and for how long."""

    enabled: bool = True
    degraded_failures: int = 3
    trip_failures: int = 5
    open_ms: int = 60_000
    open_cap_ms: int = 600_000
    window_ms: int = 30_000
    window_attempts: int = 20
    window_ratio: float = 0.5
    slow_ms: int = 60_000


class Timeouts(Struct, frozen=True):
    """How long a request may wait for what."""

    connect_ms: int = 10_000
    first_byte_ms: int = 120_000
    request_ms: int = 600_000
    stream_ms: int = 600_000
    idle_ms: int = 300_000
    hold_ms: int = 120_000
    ping_ms: int = 15_000


class ModelLimits(Struct, frozen=True, forbid_unknown_fields=True):
    """What a model can hold and read; None is not known.

    `context_tokens` is the largest prompt, `output_tokens` the most that `max_tokens` may ask for.
    """

    context_tokens: Annotated[int, Meta(ge=1)] | None = None
    output_tokens: Annotated[int, Meta(ge=1)] | None = None
    reads_images: bool | None = None


class QuotaWeights(Struct, frozen=True):
    """What a token of each kind counts against a weekly limit. By default as the original proxy counted."""

    input: float = 1.0
    output: float = 1.0
    cache_read: float = 0.0
    cache_write_5m: float = 0.0
    cache_write_1h: float = 0.0


class QuotaPolicy(Struct, frozen=True, cache_hash=True):
    """How weekly limits are counted. A week begins `week_start_minute` minutes after Monday 00:00 in `timezone`."""

    weights: QuotaWeights = QuotaWeights()
    week_start_minute: int = 0
    timezone: str = "UTC"


class Policy(Struct, frozen=True):
    """All that `service.routing` decides with. `models` are patterns of names, in the order in which they are tried."""

    circuit: CircuitPolicy = CircuitPolicy()
    models: tuple[tuple[str, ModelLimits], ...] = ()
    quota: QuotaPolicy = QuotaPolicy()
    rules: Rules = field(default_factory=packaged_rules)
    warning_percent: float = 90.0
    fallback_on_codes: tuple[int, ...] = ()
    model_map: dict[str, str] = {}
    max_retries: int = 3
    retry_delay_ms: int = 1_000
    wait_ms: int = 60_000
    """A throttle or quota outcome that names no end holds this long."""
    credential_wait_ms: int = 300_000
    """A credential that was refused is tried again after this long."""
    missing_model_ms: int = 3_600_000
    """A model that the provider denied is asked for again after this long."""


class StaticKey(Struct, frozen=True):
    """A client key from the environment; one that has no name is called after its place in the list."""

    key_id: str
    key: Secret
    has_name: bool = True


class Truncation(Struct, frozen=True):
    """Whether, and from how many tokens on, a conversation loses its oldest messages."""

    enabled: bool = False
    limit_tokens: int = 200_000
    threshold: float = 0.8

    @property
    def most_tokens(self) -> int:
        """What is left of a conversation fits into this."""
        return int(self.limit_tokens * self.threshold)


class BodyLimits(Struct, frozen=True):
    """Bounds on what a body may cost; `held_bytes` is for all requests of a process together."""

    expansion: int = 20
    json_depth: int = 200
    content_blocks: int = 200_000
    held_bytes: int = 268_435_456


class OAuth(Struct, frozen=True):
    """Where and how subscription tokens are refreshed. Without a `share_key` they are not shared over hosts."""

    refresh_url: str = "https://platform.claude.com/v1/oauth/token"
    client_id: str = CLAUDE_CODE_CLIENT_ID
    skew_ms: int = 300_000
    share_key: Secret = Secret("")


class DrainTimes(Struct, frozen=True):
    """How a process takes leave: for `delay_ms` all is served still, then what is under way has `limit_ms` to end."""

    delay_ms: int = 0
    limit_ms: int = 10_000

    @property
    def longest_s(self) -> float:
        """From the stop signal to the end of the process at most, with what is written down at last."""
        return (self.delay_ms + self.limit_ms) / 1000 + 20


class Settings(Struct, frozen=True, kw_only=True):
    """Everything that can be set, checked.

    `client_route` carries clients' own credentials, to Anthropic alone. `ledger_keys`: one of the keys on the
    ledger (or of `client_keys`) must be shown. `notices` are what the user should be told at start.
    """

    home: Path
    host: str = "127.0.0.1"
    port: int = 4181
    base_path: str = ""
    processes: int = 1
    trusted_proxies: tuple[Network, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    drain: DrainTimes = DrainTimes()
    client_keys: tuple[StaticKey, ...] = ()
    ledger_keys: bool = False
    admin_token: Secret = Secret("")
    viewer_token: Secret = Secret("")
    metrics_token: Secret = Secret("")
    client_credentials: ClientCredentials = "auto"
    routes: tuple[Route, ...] = ()
    client_route: Route
    policy: Policy = Policy()
    prices: PriceList = PriceList()
    timeouts: Timeouts = Timeouts()
    oauth: OAuth = OAuth()
    strip_thinking: StripThinking = "unsigned"
    truncation: Truncation = Truncation()
    session_affinity: bool = False
    upstream_transport: UpstreamTransport = "lean"
    max_body_bytes: int = 33_554_432
    bodies: BodyLimits = BodyLimits()
    max_head_bytes: int = 65_536
    max_url_bytes: int = 16_384
    redis_url: str | None = None
    rq_redis_url: str | None = None
    database_url: str | None = None
    database_direct_url: str | None = None
    database_connect_ms: int = 2_000
    retention_weeks: int = 0
    log_level: LogLevel = "info"
    log_format: Literal["text", "json"] = "text"
    otlp_endpoint: str = ""
    postgres_bin: str = ""
    redis_bin: str = ""
    notices: tuple[str, ...] = ()

    @property
    def asks_for_keys(self) -> bool:
        """Whether every client must show a key (or a credential of its own)."""
        return bool(self.client_keys) or self.ledger_keys

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the proxy."""
        return self.host in LOOPBACK_HOSTS

    @property
    def database_connect_s(self) -> int:
        """The longest wait for Postgres as libpq takes it: whole seconds, at least 2."""
        return max(2, -(-self.database_connect_ms // 1000))

    @property
    def digest(self) -> str:
        """Short, and the same on every proxy of a fleet that is set alike: routes, policy and prices; no secret."""
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
        told = msgspec.json.encode((routes, self.policy, self.prices.version))
        return sha256(told).hexdigest()[:12]
