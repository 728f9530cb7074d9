"""Settings: frozen records, read once from the environment, `.env` and a TOML file, then trusted.

Not here: deciding anything with them (that is `service.routing`), or reading them again while running.

The environment variables are those of the original proxy, by name and meaning; `VARIABLES` is the one list of them,
which README and `.env.example` are tested against. The TOML file says what variables can't (several routes of one
provider, own providers, model maps); there, an unknown key is an error. An error names its place and its mend.
"""

import ipaddress
import os
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias
from urllib.parse import quote, urlsplit
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta, Struct, field
from msgspec.structs import replace

from service.errors import SettingsError
from service.ledger.price import Price, PriceList
from service.redis_address import place_of
from service.rules import Dialect, FailureRule, Rules, WindowRule, packaged_rules

LogLevel = Literal["debug", "info", "warn", "error", "silent"]
LOG_LEVELS: tuple[LogLevel, ...] = ("debug", "info", "warn", "error", "silent")
ClientCredentials = Literal["auto", "prefer", "never"]
Auth = Literal["api_key", "oauth", "client"]
StripThinking = Literal["unsigned", "all", "none"]
UpstreamTransport = Literal["lean", "httpx"]

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

CLAUDE_CODE_CLIENT_ID = "9d1c250a-e61b-44d9-88ed-5944d1962f5e"
"""The public OAuth client id of Claude Code, in whose credentials file the subscription's tokens lie."""
SHARE_KEY_CHARS = 32
"""Too many to be guessed: what is sealed lies where others may read it."""
CLIENT_ROUTE_ID = "anthropic:client"
DEFAULT_CREDENTIALS_PATH = "~/.claude/.credentials.json"
DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)\s*(ms|s|m|)")
LEDGER_KEYS = "ledger"
"""The word in PROXY_API_KEYS that says: keys are issued with `ccproxy keys`, and one must be shown."""
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MOST_WEIGHT = 1_000
LOOPBACK_HOSTS = frozenset(("127.0.0.1", "localhost", "::1"))


class Variable(NamedTuple):
    """An environment variable: its default as README shows it, and what it means."""

    name: str
    default: str
    meaning: str


VARIABLES: tuple[Variable, ...] = (
    Variable("PROXY_HOST", "127.0.0.1", "address to listen on; any but the loopback needs `PROXY_API_KEYS`"),
    Variable("PROXY_PORT", "4181", "port to listen on"),
    Variable("PROXY_BASE_PATH", "", "path prefix under which the proxy is reached, such as `/anthropic`"),
    Variable(
        "PROXY_WORKERS", "1", "proxy processes of `ccproxy serve` that share the address; about one for each core"
    ),
    Variable(
        "TRUSTED_PROXIES",
        "",
        "addresses or networks, comma-separated, whose `X-Forwarded-For`, `-Proto` and `-Host` are believed",
    ),
    Variable(
        "DRAIN_DELAY",
        "5s; 0 on the loopback",
        "from the stop signal until nothing new is taken, in seconds or as `500ms`: time for a load balancer to notice",
    ),
    Variable(
        "DRAIN_TIMEOUT",
        "600s; 10s on the loopback",
        "longest wait after that for answers under way; a second stop signal ends it",
    ),
    Variable(
        "PROXY_API_KEYS",
        "",
        "keys that clients must show, comma-separated `name:key` or `key`; `ledger`: those of `ccproxy keys`",
    ),
    Variable("ADMIN_TOKEN", "made at the first start", "token of the admin API and the dashboard; the same in a fleet"),
    Variable("VIEWER_TOKEN", "", "a second token, which may look and change nothing"),
    Variable("METRICS_TOKEN", "", "a token for `/metrics` alone; without one, the loopback may read them"),
    Variable("CLIENT_CREDENTIALS", "auto", "client's own credential to Anthropic: `auto`, `prefer` or `never`"),
    Variable("ANTHROPIC_API_KEY", "", "key of the route `anthropic`"),
    Variable("ANTHROPIC_BASE_URL", "https://api.anthropic.com", "where the route `anthropic` is"),
    Variable("ANTHROPIC_WEEKLY_LIMIT", "0", "tokens a week for `anthropic`; 0 is no limit"),
    Variable("ANTHROPIC_CONCURRENCY", "0", "requests at once on `anthropic`, in the whole fleet; 0 is no limit"),
    Variable("CLAUDE_SUBSCRIPTION_ENABLED", "", "`true` turns the subscription on, `false` off (see Terms)"),
    Variable("CLAUDE_CODE_OAUTH_TOKEN", "", "a long-lived subscription token; setting it turns the subscription on"),
    Variable(
        "CLAUDE_CREDENTIALS_PATH",
        DEFAULT_CREDENTIALS_PATH,
        "file with the subscription's tokens; setting it turns it on",
    ),
    Variable("CLAUDE_SUBSCRIPTION_BASE_URL", "https://api.anthropic.com", "where the route `subscription` is"),
    Variable("CLAUDE_OAUTH_REFRESH_URL", "https://platform.claude.com/v1/oauth/token", "where tokens are refreshed"),
    Variable("CLAUDE_OAUTH_CLIENT_ID", CLAUDE_CODE_CLIENT_ID, "OAuth client that the tokens belong to"),
    Variable("CLAUDE_OAUTH_REFRESH_SKEW_MS", "300000", "a token is stale this long before it expires"),
    Variable(
        "CLAUDE_OAUTH_SHARE_KEY",
        "",
        "the same secret on every host: proxies share the access token, sealed with it, by way of Redis",
    ),
    Variable("SUBSCRIPTION_WEEKLY_LIMIT", "0", "tokens a week for `subscription`; 0 is no limit"),
    Variable("SUBSCRIPTION_CONCURRENCY", "0", "requests at once on `subscription`, in the whole fleet; 0 is no limit"),
    Variable("STRIP_SUBSCRIPTION_THINKING", "unsigned", "thinking blocks left out: `unsigned`, `all` or `none`"),
    Variable("ZAI_API_KEY", "", "key of the route `zai`"),
    Variable("ZAI_BASE_URL", "https://api.z.ai/api/anthropic", "where the route `zai` is"),
    Variable("ZAI_WEEKLY_LIMIT", "0", "tokens a week for `zai`; 0 is no limit"),
    Variable("ZAI_CONCURRENCY", "0", "requests at once on `zai`, in the whole fleet; 0 is no limit"),
    Variable("QUOTA_WARNING_THRESHOLD", "90", "percent of a weekly limit from which other routes go first"),
    Variable("SESSION_AFFINITY", "false", "`true`: a session stays on its route while that is healthy"),
    Variable("QUOTA_WEEK_START", "mon 00:00", "day and time at which the week of weekly limits begins"),
    Variable("QUOTA_TIMEZONE", "UTC", "time zone of that day and time, such as `Europe/Berlin`"),
    Variable(
        "QUOTA_WEIGHTS",
        "input=1,output=1",
        "what a token of each kind counts: `input`, `output`, `cache_read`, `cache_write_5m`, `cache_write_1h`",
    ),
    Variable("MODEL_FALLBACK_MAP", "", "JSON object or `from=to,from=to`; applied at once to every request"),
    Variable(
        "FALLBACK_ON_CODES", "", "HTTP statuses that change the route, comma-separated; empty: the built-in rules"
    ),
    Variable("API_TIMEOUT_MS", "600000", "deadline of a request until its answer begins"),
    Variable("API_STREAMING_TIMEOUT_MS", "600000", "the same for streams"),
    Variable(
        "API_STREAM_IDLE_TIMEOUT_MS", "300000", "longest silence within an answer, also of a client that does not read"
    ),
    Variable(
        "API_FIRST_BYTE_TIMEOUT_MS", "120000", "longest wait for a stream's first byte while other routes are left"
    ),
    Variable("API_CONNECT_TIMEOUT_MS", "10000", "longest wait for a connection to a provider"),
    Variable(
        "API_MAX_RETRIES", "3", "most further attempts of a request beyond one for each route; never repeats a time-out"
    ),
    Variable(
        "API_RETRY_DELAY_MS", "1000", "least wait before a throttled route is asked again, when nothing else is left"
    ),
    Variable("MAX_BODY_BYTES", "33554432", "largest request body that is read; Anthropic takes 32 MB"),
    Variable("CIRCUIT_BREAKER_ENABLED", "true", "`false`: failures never close a route"),
    Variable("CIRCUIT_BREAKER_COOLDOWN_MS", "60000", "how long an open circuit stays open at first"),
    Variable("CIRCUIT_BREAKER_DEGRADED_THRESHOLD", "3", "failures in a row from which a route is shown as degraded"),
    Variable("CIRCUIT_BREAKER_UNAVAILABLE_THRESHOLD", "5", "failures in a row that open the circuit"),
    Variable("CIRCUIT_BREAKER_HEALTH_CHECK_INTERVAL", "30000", "accepted; probes are real requests here, no timers"),
    Variable("CONTEXT_WINDOW_ENABLED", "false", "`true`: too long a conversation loses its oldest messages"),
    Variable(
        "CONTEXT_WINDOW_LIMIT", "200000", "tokens of the context window that conversations are cut for; 0 is no limit"
    ),
    Variable("CONTEXT_WINDOW_TRUNCATION_THRESHOLD", "0.8", "part of that window which a conversation may fill"),
    Variable(
        "REDIS_URL",
        "redis://127.0.0.1:6379/0",
        "the ledger's Redis (also TLS, Sentinel, Cluster: see README); `up` brings its own when it is not set",
    ),
    Variable("RQ_REDIS_URL", "as REDIS_URL", "Redis of the workers' queue, when the ledger lies on a Cluster"),
    Variable("DATABASE_URL", "from DB_*", "the workers' Postgres; `up` brings its own when neither is set"),
    Variable(
        "DATABASE_DIRECT_URL",
        "as DATABASE_URL",
        "Postgres itself, when DATABASE_URL is a pooler: for what needs a session (migrate, ledger, backup, reports)",
    ),
    Variable("DB_HOST", "localhost", "part of the database's address, when DATABASE_URL is not set"),
    Variable("DB_PORT", "5432", "likewise"),
    Variable("DB_NAME", "claude_proxy", "likewise"),
    Variable("DB_USER", "postgres", "likewise"),
    Variable("DB_PASSWORD", "postgres", "likewise"),
    Variable("DB_SSL", "false", "`true`: TLS, with the server's certificate verified"),
    Variable("DB_MAX_CONNECTIONS", "10", "accepted; a worker holds one connection"),
    Variable("DB_IDLE_TIMEOUT_MS", "30000", "accepted; a worker keeps its connection"),
    Variable("DB_CONNECTION_TIMEOUT_MS", "2000", "longest wait for a connection to Postgres"),
    Variable("LEDGER_RETENTION_WEEKS", "0", "weeks after which events are dropped; their usage stays; 0 is never"),
    Variable("LOG_LEVEL", "info", "`debug`, `info`, `warn`, `error` or `silent`"),
    Variable("LOG_FORMAT", "text", "`text`, or `json` for one object a line"),
    Variable("OTEL_EXPORTER_OTLP_ENDPOINT", "", "where traces go, by OTLP over HTTP; needs the extra `otlp`"),
    Variable("NO_COLOR", "", "any value: no colours on a terminal"),
    Variable("CCPROXY_HOME", "the user's state folder", "data, logs and spool"),
    Variable("CCPROXY_CONFIG", "ccproxy.toml in CCPROXY_HOME", "the TOML file"),
    Variable("CCPROXY_POSTGRES_BIN", "", "folder of Postgres programs to use instead of the packaged ones"),
    Variable("CCPROXY_REDIS_BIN", "", "redis-server or valkey-server to use instead of the packaged one"),
    Variable("SSL_CERT_FILE", "", "certificates to trust instead of the packaged ones"),
    Variable("UPSTREAM_TRANSPORT", "lean", "`httpx`: requests go up through httpx's own transport; slower"),
    Variable("HTTPS_PROXY", "", "HTTP proxy towards the providers; `NO_PROXY` excepts names, addresses and networks"),
)
SECRETS = (
    "ADMIN_TOKEN", "ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN", "CLAUDE_OAUTH_SHARE_KEY", "DATABASE_DIRECT_URL",
    "DATABASE_URL", "DB_PASSWORD", "METRICS_TOKEN", "PROXY_API_KEYS", "REDIS_URL", "RQ_REDIS_URL", "VIEWER_TOKEN",
    "ZAI_API_KEY",
)  # fmt: skip
"""Variables that may lie in a file, as containers are given secrets: NAME_FILE is its path."""
OBSOLETE_PREFIXES = ("OPENROUTER_", "NODE_ENV")
"""Variables of the original that mean nothing here: accepted, with a notice."""


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
    # The original's README, and its aliases.
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


class QuotaPolicy(Struct, frozen=True):
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
    """A client key from the environment."""

    key_id: str
    key: Secret


class Truncation(Struct, frozen=True):
    """Whether, and from how many tokens on, a conversation loses its oldest messages."""

    enabled: bool = False
    limit_tokens: int = 200_000
    threshold: float = 0.8

    @property
    def most_tokens(self) -> int:
        """What is left of a conversation fits into this."""
        return int(self.limit_tokens * self.threshold)


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
    def digest(self) -> str:
        """Short, and the same on every proxy of a fleet that is set alike: routes, policy and prices; no secret."""
        routes = [
            (
                route.id,
                replace(route.provider, base_url=address_of(route.base_url)),
                route.auth,
                route.weekly_tokens,
                route.model_map,
                route.off is None,
            )
            for route in self.routes
        ]
        told = msgspec.json.encode((routes, self.policy, self.prices.version))
        return sha256(told).hexdigest()[:12]


class RouteFile(Struct, frozen=True, forbid_unknown_fields=True):
    """A `[[routes]]` table of the TOML file."""

    id: str
    provider: str
    title: str = ""
    base_url: str = ""
    api_key: str = ""
    api_key_env: str = ""
    auth: Literal["api_key", "oauth"] = "api_key"
    credentials_path: str = ""
    weekly_tokens: Annotated[int, Meta(ge=0)] = 0
    concurrency: Annotated[int, Meta(ge=0)] = 0
    model_map: dict[str, str] = {}


class ProviderFile(Struct, frozen=True, forbid_unknown_fields=True):
    """A `[providers.NAME]` table of the TOML file; what it leaves out of a known provider stays as it is."""

    base_url: str = ""
    title: str = ""
    dialect: Dialect | None = None
    families: tuple[str, ...] | None = None
    model_map: dict[str, str] | None = None
    model_fallback: dict[str, str] | None = None


class File(Struct, frozen=True, forbid_unknown_fields=True):
    """The TOML file. `env` stands for variables that the environment leaves out; `routes` replaces the usual three.

    `failures` and `windows` stand before the packaged rules.
    """

    env: dict[str, str | int | float | bool] = {}
    providers: dict[str, ProviderFile] = field(default_factory=dict)
    routes: tuple[RouteFile, ...] = ()
    prices: dict[str, Price] = {}
    models: dict[str, ModelLimits] = {}
    failures: tuple[FailureRule, ...] = ()
    windows: tuple[WindowRule, ...] = ()


def load(path: Path | None = None, environ: Mapping[str, str] | None = None, *, to_serve: bool = True) -> Settings:
    """The settings from the environment (else `.env`, else the file's `[env]`) and the TOML file at `path`.

    Without `path`, `CCPROXY_CONFIG` names it, else `ccproxy.toml` in CCPROXY_HOME is read where it exists. `to_serve`
    refuses what only a proxy that serves must not do: to be its own upstream. Raises SettingsError.
    """
    process = dict(os.environ if environ is None else environ)
    merged = read_dotenv(Path(".env")) | process if environ is None else process
    file, origin = read_file(path, merged)
    variables = {
        name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in file.env.items()
    }
    keys = [route.api_key_env for route in file.routes if route.api_key_env]
    settings = build(Reader(with_secret_files(variables | merged, [*SECRETS, *keys])), file, origin)
    if to_serve:
        refuse_loops(settings)
    return settings


def with_secret_files(variables: dict[str, str], names: Iterable[str]) -> dict[str, str]:
    """The variables, with those of `names` that are not set read from the file that NAME_FILE gives."""
    asked = {name: variables.get(f"{name}_FILE", "").strip() for name in names if not variables.get(name, "").strip()}
    return variables | {name: secret_in(f"{name}_FILE", Path(path)) for name, path in asked.items() if path}


def secret_in(place: str, path: Path) -> str:
    """The content of a file that holds a secret, without the line's end that editors leave."""
    try:
        return path.expanduser().read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise SettingsError(f"{place}: {path} is no text") from None
    except OSError as error:
        raise SettingsError(f"{place}: {path} can't be read ({error.strerror})") from None


def from_variables(variables: Mapping[str, str]) -> Settings:
    """The settings of a proxy that serves, from these variables alone: no environment, no file.

    Raises SettingsError.
    """
    settings = build(Reader(variables), File(), "")
    refuse_loops(settings)
    return settings


def read_dotenv(path: Path) -> dict[str, str]:
    """`KEY=VALUE` lines of a `.env` file: `#` begins a comment line, outer quotes and a leading `export` go."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: can't be read ({error}); mend or remove it") from None
    pairs = (line.strip().removeprefix("export ").partition("=") for line in lines if not line.lstrip().startswith("#"))
    return {name.strip(): unquoted(value.strip()) for name, equals, value in pairs if equals and name.strip()}


def unquoted(text: str) -> str:
    """A value without the quotes around it."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    return text


def read_file(path: Path | None, environ: Mapping[str, str]) -> tuple[File, str]:
    """The TOML file and its name for errors; an empty one where none is asked for and none lies in the home."""
    asked = path or (Path(environ["CCPROXY_CONFIG"]).expanduser() if environ.get("CCPROXY_CONFIG") else None)
    found = asked or home_of(environ) / "ccproxy.toml"
    try:
        content = found.read_bytes()
    except FileNotFoundError:
        if asked:
            raise SettingsError(f"{found}: no such file; correct CCPROXY_CONFIG or --config") from None
        return File(), str(found)
    except OSError as error:
        raise SettingsError(f"{found}: can't be read ({error.strerror})") from None
    try:
        return msgspec.convert(tomllib.loads(content.decode()), File), str(found)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise SettingsError(f"{found}: {error}") from None


def home_of(environ: Mapping[str, str]) -> Path:
    """The folder for data, logs and spool: CCPROXY_HOME, else the platform's folder for a user's state."""
    if environ.get("CCPROXY_HOME"):
        return Path(environ["CCPROXY_HOME"]).expanduser().absolute()
    if sys.platform == "darwin":
        return Path("~/Library/Application Support/ccproxy").expanduser()
    state = environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "ccproxy"


class Reader:
    """Reads variables, each checked, with errors that name the variable. A set but empty variable is not set."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.variables = {name: value for name, value in variables.items() if value.strip()}

    def text(self, name: str, default: str = "") -> str:
        """A text."""
        return self.variables.get(name, default).strip()

    def is_set(self, name: str) -> bool:
        """Whether the variable says anything."""
        return name in self.variables

    def integer(self, name: str, default: int, least: int = 0, most: int = 2**53) -> int:
        """A whole number within bounds."""
        text = self.variables.get(name)
        if text is None:
            return default
        try:
            number = int(text.strip().replace("_", ""))
        except ValueError:
            raise SettingsError(f"{name}: {text!r} is not a whole number") from None
        if not least <= number <= most:
            raise SettingsError(f"{name}: {number} is not between {least} and {most}")
        return number

    def number(self, name: str, default: float, least: float, most: float) -> float:
        """A number within bounds."""
        text = self.variables.get(name)
        if text is None:
            return default
        try:
            number = float(text)
        except ValueError:
            raise SettingsError(f"{name}: {text!r} is not a number") from None
        if not least <= number <= most:
            raise SettingsError(f"{name}: {text} is not between {least:g} and {most:g}")
        return number

    def duration_ms(self, name: str, default_ms: int) -> int:
        """A time of at most a day: `5`, `5s` and `0.5m` with their units, a bare number is seconds; `500ms`."""
        text = self.variables.get(name)
        if text is None:
            return default_ms
        found = DURATION.fullmatch(text.strip().lower())
        number_ms = float(found[1]) * {"ms": 1, "m": 60_000}.get(found[2], 1_000) if found else -1
        if not 0 <= number_ms <= 86_400_000:
            raise SettingsError(f"{name}: {text!r} is no time of up to a day, such as 5s or 500ms")
        return round(number_ms)

    def flag(self, name: str, default: bool) -> bool:  # noqa: FBT001 - the default of a yes-or-no setting
        """True or false."""
        text = self.text(name).lower()
        if not text:
            return default
        if text in ("true", "1", "yes", "on"):
            return True
        if text in ("false", "0", "no", "off"):
            return False
        raise SettingsError(f"{name}: {text!r} is neither true nor false")

    def choice(self, name: str, default: str, choices: tuple[str, ...]) -> str:
        """One of a few words."""
        text = self.text(name, default).lower()
        if text not in choices:
            raise SettingsError(f"{name}: {text!r} is none of {', '.join(choices)}")
        return text

    def url(self, name: str, default: str) -> str:
        """An http or https URL without a trailing slash."""
        return checked_url(name, self.text(name, default))


def checked_url(place: str, text: str) -> str:
    """An http or https URL without a trailing slash, query or credentials; raises SettingsError."""
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 - reading it is what checks it
    except ValueError:
        raise SettingsError(f"{place}: not a URL; give one such as https://api.anthropic.com") from None
    if "@" in text or parts.query or parts.fragment:
        raise SettingsError(f"{place}: give the address alone, without credentials, query or fragment")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"{place}: {text!r} is not an http or https URL")
    return text.rstrip("/")


def build(read: Reader, file: File, origin: str) -> Settings:
    """The settings from variables and file, with everything checked that can be checked without a network."""
    settings = Settings(
        home=home_of(read.variables),
        host=read.text("PROXY_HOST", "127.0.0.1"),
        port=read.integer("PROXY_PORT", 4181, least=1, most=65_535),
        base_path=base_path(read.text("PROXY_BASE_PATH")),
        processes=read.integer("PROXY_WORKERS", 1, least=1, most=256),
        trusted_proxies=networks(read.text("TRUSTED_PROXIES")),
        drain=drain(read),
        client_keys=static_keys(read.text("PROXY_API_KEYS")),
        ledger_keys=LEDGER_KEYS in listed(read.text("PROXY_API_KEYS")),
        admin_token=token(read, "ADMIN_TOKEN"),
        viewer_token=token(read, "VIEWER_TOKEN"),
        metrics_token=token(read, "METRICS_TOKEN"),
        client_credentials=read.choice("CLIENT_CREDENTIALS", "auto", ("auto", "prefer", "never")),  # type: ignore[arg-type]
        routes=file_routes(file, read, origin) if file.routes else usual_routes(read, providers_of(file, origin)),
        client_route=client_route(read, providers_of(file, origin)["anthropic"]),
        policy=policy(read, file),
        prices=prices(file),
        timeouts=timeouts(read),
        oauth=oauth(read),
        upstream_transport=read.choice("UPSTREAM_TRANSPORT", "lean", ("lean", "httpx")),  # type: ignore[arg-type]
        strip_thinking=read.choice("STRIP_SUBSCRIPTION_THINKING", "unsigned", ("unsigned", "all", "none")),  # type: ignore[arg-type]
        truncation=truncation(read),
        session_affinity=read.flag("SESSION_AFFINITY", False),
        max_body_bytes=read.integer("MAX_BODY_BYTES", 33_554_432, least=1_024),
        redis_url=redis_url(read, "REDIS_URL"),
        rq_redis_url=redis_url(read, "RQ_REDIS_URL"),
        database_url=database_url(read),
        database_direct_url=read.text("DATABASE_DIRECT_URL") or None,
        database_connect_ms=read.integer("DB_CONNECTION_TIMEOUT_MS", 2_000, least=100),
        retention_weeks=read.integer("LEDGER_RETENTION_WEEKS", 0, most=5_000),
        log_level=log_level(read),
        log_format=read.choice("LOG_FORMAT", "text", ("text", "json")),  # type: ignore[arg-type]
        otlp_endpoint=read.url("OTEL_EXPORTER_OTLP_ENDPOINT", "") if read.is_set("OTEL_EXPORTER_OTLP_ENDPOINT") else "",
        postgres_bin=read.text("CCPROXY_POSTGRES_BIN"),
        redis_bin=read.text("CCPROXY_REDIS_BIN"),
        notices=notices(read),
    )
    check(settings)
    return settings


def oauth(read: Reader) -> OAuth:
    """How the subscription's tokens are refreshed and shared."""
    share_key = read.text("CLAUDE_OAUTH_SHARE_KEY")
    if share_key and len(share_key) < SHARE_KEY_CHARS:
        raise SettingsError(
            f"CLAUDE_OAUTH_SHARE_KEY: shorter than {SHARE_KEY_CHARS} characters; make one: openssl rand -hex 32"
        )
    return OAuth(
        refresh_url=read.url("CLAUDE_OAUTH_REFRESH_URL", OAuth().refresh_url),
        client_id=read.text("CLAUDE_OAUTH_CLIENT_ID", CLAUDE_CODE_CLIENT_ID),
        skew_ms=read.integer("CLAUDE_OAUTH_REFRESH_SKEW_MS", 300_000),
        share_key=Secret(share_key),
    )


def base_path(text: str) -> str:
    """A path prefix with a leading and without a trailing slash."""
    stripped = text.strip("/")
    return f"/{stripped}" if stripped else ""


def networks(text: str) -> tuple[Network, ...]:
    """Addresses and networks, comma-separated."""
    try:
        return tuple(ipaddress.ip_network(part.strip(), strict=False) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise SettingsError(f"TRUSTED_PROXIES: {error}; give addresses or networks such as 10.0.0.0/8") from None


def drain(read: Reader) -> DrainTimes:
    """How long to take leave: on the loopback nobody balances, and Ctrl-C should end soon."""
    local = read.text("PROXY_HOST", "127.0.0.1") in LOOPBACK_HOSTS
    return DrainTimes(
        delay_ms=read.duration_ms("DRAIN_DELAY", 0 if local else 5_000),
        limit_ms=read.duration_ms("DRAIN_TIMEOUT", 10_000 if local else 600_000),
    )


def token(read: Reader, name: str) -> Secret:
    """A token that operators show, long enough not to be guessed."""
    text = read.text(name)
    if text and len(text) < 16:
        raise SettingsError(f"{name}: shorter than 16 characters; make one: openssl rand -hex 24")
    return Secret(text)


def listed(text: str) -> list[str]:
    """The parts of a comma-separated list."""
    return [part.strip() for part in text.split(",") if part.strip()]


def static_keys(text: str) -> tuple[StaticKey, ...]:
    """Client keys from `name:key,key`; a key without a name is called after its place in the list."""
    keys = []
    for number, part in enumerate((part for part in listed(text) if part != LEDGER_KEYS), start=1):
        name, colon, key = (piece.strip() for piece in part.partition(":"))
        if not colon:
            name, key = "", part
        if len(key) < 16:
            raise SettingsError(
                f"PROXY_API_KEYS: key {number} is shorter than 16 characters; make one: openssl rand -hex 24"
            )
        keys.append(StaticKey(name or f"key-{number}", Secret(key)))
    return tuple(keys)


def log_level(read: Reader) -> LogLevel:
    """The log level; a word that is none means info, as in the original."""
    word = read.text("LOG_LEVEL", "info").lower()
    return next((level for level in LOG_LEVELS if level == word), "info")


def policy(read: Reader, file: File) -> Policy:
    """What routing decides with."""
    circuit = CircuitPolicy(
        enabled=read.flag("CIRCUIT_BREAKER_ENABLED", True),
        degraded_failures=read.integer("CIRCUIT_BREAKER_DEGRADED_THRESHOLD", 3, least=1),
        trip_failures=read.integer("CIRCUIT_BREAKER_UNAVAILABLE_THRESHOLD", 5, least=1),
        open_ms=read.integer("CIRCUIT_BREAKER_COOLDOWN_MS", 60_000, least=1),
        open_cap_ms=max(600_000, read.integer("CIRCUIT_BREAKER_COOLDOWN_MS", 60_000)),
    )
    return Policy(
        circuit=circuit,
        models=model_limits(file),
        quota=quota_policy(read),
        rules=packaged_rules().behind(file.failures, file.windows),
        warning_percent=read.number("QUOTA_WARNING_THRESHOLD", 90, least=1, most=100),
        fallback_on_codes=status_codes(read.text("FALLBACK_ON_CODES")),
        model_map=model_map(read.text("MODEL_FALLBACK_MAP")),
        max_retries=read.integer("API_MAX_RETRIES", 3, most=10),
        retry_delay_ms=read.integer("API_RETRY_DELAY_MS", 1_000, most=60_000),
        wait_ms=circuit.open_ms,
    )


def quota_policy(read: Reader) -> QuotaPolicy:
    """How weekly limits are counted."""
    return QuotaPolicy(
        weights=quota_weights(read.text("QUOTA_WEIGHTS")),
        week_start_minute=minute_of_week(read.text("QUOTA_WEEK_START", "mon 00:00")),
        timezone=time_zone(read.text("QUOTA_TIMEZONE", "UTC")),
    )


def quota_weights(text: str) -> QuotaWeights:
    """Weights from `kind=number` pairs; a kind that is left out keeps its own."""
    given: dict[str, float] = {}
    for pair in (part for part in text.split(",") if part.strip()):
        kind, _, number = (piece.strip() for piece in pair.partition("="))
        try:
            given[kind] = float(number)
        except ValueError:
            raise SettingsError(f"QUOTA_WEIGHTS: {pair.strip()!r} is no pair such as cache_read=0.1") from None
        if kind not in QuotaWeights.__struct_fields__:
            raise SettingsError(f"QUOTA_WEIGHTS: {kind!r} is none of {', '.join(QuotaWeights.__struct_fields__)}")
        if not 0 <= given[kind] <= MOST_WEIGHT:
            raise SettingsError(f"QUOTA_WEIGHTS: {kind}={number} is not between 0 and {MOST_WEIGHT}")
    return QuotaWeights(**given)


def minute_of_week(text: str) -> int:
    """Minutes since Monday 00:00, of a text such as `fri 18:30`."""
    day, _, clock = text.lower().partition(" ")
    hour, _, minute = clock.strip().partition(":")
    known = day[:3] in WEEKDAYS and hour.isdecimal() and minute.isdecimal() and len(minute) == 2
    if not known or int(hour) > 23 or int(minute) > 59:
        raise SettingsError(f"QUOTA_WEEK_START: {text!r} is no day and time such as mon 00:00")
    return (WEEKDAYS.index(day[:3]) * 24 + int(hour)) * 60 + int(minute)


def time_zone(name: str) -> str:
    """The name of a time zone that is known here."""
    try:
        return ZoneInfo(name).key
    except (KeyError, ValueError, OSError):  # unknown; no name at all; a folder of the database
        raise SettingsError(
            f"QUOTA_TIMEZONE: {name!r} is no time zone; give one such as UTC or Europe/Berlin"
        ) from None


def prices(file: File) -> PriceList:
    """The packaged list of prices, with the file's own over it; those make it another version."""
    packaged = tomllib.loads(resources.files("service.ledger").joinpath("prices.toml").read_text(encoding="utf-8"))
    version = packaged.pop("version")
    known = msgspec.convert(
        {name: price for vendor in packaged.values() for name, price in vendor.items()}, dict[str, Price]
    )
    return PriceList(version + "+own" if file.prices else version, known | file.prices)


def model_limits(file: File) -> tuple[tuple[str, ModelLimits], ...]:
    """What models can hold and read: the file's own entries before the packaged ones."""
    packaged = tomllib.loads(resources.files("service.routing").joinpath("models.toml").read_text(encoding="utf-8"))
    known = {name: limits for vendor in packaged.values() for name, limits in vendor.items()}
    return (*file.models.items(), *msgspec.convert(known, dict[str, ModelLimits]).items())


def truncation(read: Reader) -> Truncation:
    """Whether and from where on conversations are cut; without a limit they aren't, as in the original."""
    limit_tokens = read.integer("CONTEXT_WINDOW_LIMIT", 200_000)
    return Truncation(
        enabled=read.flag("CONTEXT_WINDOW_ENABLED", False) and limit_tokens > 0,
        limit_tokens=limit_tokens,
        threshold=read.number("CONTEXT_WINDOW_TRUNCATION_THRESHOLD", 0.8, least=0.01, most=1),
    )


def status_codes(text: str) -> tuple[int, ...]:
    """HTTP statuses, comma-separated."""
    codes = tuple(part.strip() for part in text.strip("[] ").split(",") if part.strip())
    if not all(code.isdecimal() and 400 <= int(code) <= 599 for code in codes):
        raise SettingsError(f"FALLBACK_ON_CODES: {text!r} is no list of HTTP statuses from 400 to 599")
    return tuple(int(code) for code in codes)


def model_map(text: str) -> dict[str, str]:
    """A model map from a JSON object or `from=to` pairs."""
    if not text:
        return {}
    try:
        if text.startswith("{"):
            return msgspec.json.decode(text, type=dict[str, str])
        pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    except msgspec.DecodeError as error:
        raise SettingsError(f"MODEL_FALLBACK_MAP: no JSON object of texts ({error})") from None
    if not all(name.strip() and target.strip() for name, _, target in pairs):
        raise SettingsError("MODEL_FALLBACK_MAP: give a JSON object, or pairs such as claude-opus=claude-opus-4-8")
    return {name.strip(): target.strip() for name, _, target in pairs}


def timeouts(read: Reader) -> Timeouts:
    """Bounds on every wait of a request."""
    return Timeouts(
        connect_ms=read.integer("API_CONNECT_TIMEOUT_MS", 10_000, least=1),
        first_byte_ms=read.integer("API_FIRST_BYTE_TIMEOUT_MS", 120_000, least=1),
        request_ms=read.integer("API_TIMEOUT_MS", 600_000, least=1),
        stream_ms=read.integer("API_STREAMING_TIMEOUT_MS", 600_000, least=1),
        idle_ms=read.integer("API_STREAM_IDLE_TIMEOUT_MS", 300_000, least=1),
    )


def redis_url(read: Reader, name: str) -> str | None:
    """A Redis address; it may hold a password, so that no error repeats it."""
    text = read.text(name)
    try:
        place = place_of(text) if text else None
    except ValueError as error:
        raise SettingsError(f"{name}: {error}") from None
    if place and place.kind == "cluster" and name == "RQ_REDIS_URL":
        raise SettingsError(f"{name}: the queue can't lie on a Cluster; name a plain Redis, or one behind Sentinel")
    return text or None


def database_url(read: Reader) -> str | None:
    """DATABASE_URL, or one made of DB_* where any of them is set."""
    if read.is_set("DATABASE_URL"):
        return read.text("DATABASE_URL")
    if not any(read.is_set(name) for name in ("DB_HOST", "DB_PORT", "DB_NAME", "DB_USER", "DB_PASSWORD")):
        return None
    user, password = (quote(read.text(name, "postgres"), safe="") for name in ("DB_USER", "DB_PASSWORD"))
    place = f"{read.text('DB_HOST', 'localhost')}:{read.integer('DB_PORT', 5432, least=1, most=65_535)}"
    tls = "?sslmode=verify-full&sslrootcert=system" if read.flag("DB_SSL", False) else ""
    return f"postgresql://{user}:{password}@{place}/{quote(read.text('DB_NAME', 'claude_proxy'), safe='')}{tls}"


def providers_of(file: File, origin: str) -> dict[str, Provider]:
    """The known providers and those of the file."""
    known = {"anthropic": ANTHROPIC, "zai": ZAI}
    for name, entry in file.providers.items():
        given = {key: value for key, value in msgspec.structs.asdict(entry).items() if value not in ("", None)}
        base = known.get(name)
        if base is None and not entry.base_url:
            raise SettingsError(f"{origin}: providers.{name}: base_url is missing")
        if entry.families is not None:
            given["families"] = tuple(family.lower() for family in entry.families)
        if entry.base_url:
            given["base_url"] = checked_url(f"{origin}: providers.{name}.base_url", entry.base_url)
        start: dict[str, Any] = {"id": name, "title": name} if base is None else msgspec.structs.asdict(base)
        known[name] = Provider(**(start | given))
    return known


def usual_routes(read: Reader, providers: Mapping[str, Provider]) -> tuple[Route, ...]:
    """The three routes of the environment: anthropic, subscription, zai."""
    return (
        key_route(read, providers["anthropic"], "ANTHROPIC"),
        subscription_route(read, providers["anthropic"]),
        key_route(read, providers["zai"], "ZAI"),
    )


def key_route(read: Reader, provider: Provider, prefix: str) -> Route:
    """A route with an API key from the environment."""
    key = read.text(f"{prefix}_API_KEY")
    return Route(
        id=provider.id,
        title=provider.title,
        provider=provider,
        base_url=read.url(f"{prefix}_BASE_URL", provider.base_url),
        api_key=Secret(key),
        weekly_tokens=read.integer(f"{prefix}_WEEKLY_LIMIT", 0),
        concurrency=read.integer(f"{prefix}_CONCURRENCY", 0, most=100_000),
        off=None if key else f"no key; set {prefix}_API_KEY",
    )


def client_route(read: Reader, provider: Provider) -> Route:
    """The pseudo-route of clients that bring their own credential."""
    return Route(
        id=CLIENT_ROUTE_ID,
        title="Anthropic (client's own credential)",
        provider=provider,
        base_url=read.url("ANTHROPIC_BASE_URL", provider.base_url),
        auth="client",
    )


def subscription_route(read: Reader, provider: Provider) -> Route:
    """The subscription: opt-in by its switch, its token or its path."""
    asked = any(read.is_set(name) for name in ("CLAUDE_CODE_OAUTH_TOKEN", "CLAUDE_CREDENTIALS_PATH"))
    on = read.flag("CLAUDE_SUBSCRIPTION_ENABLED", asked)
    path = Path(read.text("CLAUDE_CREDENTIALS_PATH", DEFAULT_CREDENTIALS_PATH)).expanduser()
    return Route(
        id="subscription",
        title="Claude subscription",
        provider=provider,
        base_url=read.url("CLAUDE_SUBSCRIPTION_BASE_URL", provider.base_url),
        auth="oauth",
        api_key=Secret(read.text("CLAUDE_CODE_OAUTH_TOKEN")),
        credentials_path=str(path),
        weekly_tokens=read.integer("SUBSCRIPTION_WEEKLY_LIMIT", 0),
        concurrency=read.integer("SUBSCRIPTION_CONCURRENCY", 0, most=100_000),
        off=None if on else "opt-in; set CLAUDE_SUBSCRIPTION_ENABLED=true",
    )


def file_routes(file: File, read: Reader, origin: str) -> tuple[Route, ...]:
    """The routes of the file, in its order."""
    providers = providers_of(file, origin)
    routes: list[Route] = []
    for entry in file.routes:
        place = f"{origin}: route {entry.id!r}"
        provider = providers.get(entry.provider)
        if provider is None:
            raise SettingsError(f"{place}: no provider {entry.provider!r}; known: {', '.join(providers)}")
        if entry.id in {route.id for route in routes} or entry.id == "control" or not is_route_id(entry.id):
            raise SettingsError(f"{place}: the id must be unique, of a-z 0-9 - _ and not 'control'")
        routes.append(file_route(entry, provider, read, place))
    return tuple(routes)


def is_route_id(text: str) -> bool:
    """Whether a text can stand in keys, headers and logs as a route's name."""
    return bool(text) and len(text) <= 64 and all(char.isascii() and (char.isalnum() or char in "-_") for char in text)


def file_route(entry: RouteFile, provider: Provider, read: Reader, place: str) -> Route:
    """One route of the file."""
    key = entry.api_key or (read.text(entry.api_key_env) if entry.api_key_env else "")
    wanted = "credentials_path" if entry.auth == "oauth" else "api_key_env"
    has_file = entry.auth == "oauth" and bool(entry.credentials_path)
    return Route(
        id=entry.id,
        title=entry.title or entry.id,
        provider=provider,
        base_url=checked_url(f"{place}: base_url", entry.base_url or provider.base_url),
        auth=entry.auth,
        api_key=Secret(key),
        credentials_path=str(Path(entry.credentials_path).expanduser()) if entry.credentials_path else "",
        weekly_tokens=entry.weekly_tokens,
        concurrency=entry.concurrency,
        model_map=entry.model_map,
        off=None if key or has_file else f"no key; set {entry.api_key_env or wanted}",
    )


def notices(read: Reader) -> tuple[str, ...]:
    """What is accepted and should be known all the same."""
    found = [f"{name} means nothing to this proxy" for name in read.variables if name.startswith(OBSOLETE_PREFIXES)]
    codes = status_codes(read.text("FALLBACK_ON_CODES"))
    if codes and 529 not in codes:
        found.append("FALLBACK_ON_CODES leaves out 529, Anthropic's word for overloaded: such answers reach the client")
    if (cut := truncation(read)).enabled:
        most = f"{cut.most_tokens:,} tokens"
        found.append(f"CONTEXT_WINDOW_ENABLED: conversations of more than {most} lose their oldest messages")
    return tuple(found)


def check(settings: Settings) -> None:
    """Refuse what would hurt at run time."""
    if not settings.loopback and not settings.asks_for_keys:
        raise SettingsError(
            f"PROXY_HOST: {settings.host} is open to others; set PROXY_API_KEYS (`ledger` asks for the keys that "
            "`ccproxy keys issue` makes), or listen on 127.0.0.1"
        )


def refuse_loops(settings: Settings) -> None:
    """Refuse a proxy that is its own upstream."""
    own_hosts = {*LOOPBACK_HOSTS, settings.host, "0.0.0.0", "::"}  # noqa: S104 - nothing listens on these here
    for route in (*settings.routes, settings.client_route):
        if urlsplit(route.base_url).hostname in own_hosts and port_of(route.base_url) == settings.port:
            raise SettingsError(
                f"route {route.id!r}: {route.base_url} is this proxy itself, so requests would go round for ever. "
                "If ANTHROPIC_BASE_URL was exported for Claude Code, start the proxy without it: "
                "env -u ANTHROPIC_BASE_URL ccproxy up"
            )


def address_of(url: str) -> str:
    """A URL without what may be secret in it: user, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{port_of(url)}{parts.path}"


def port_of(url: str) -> int:
    """The port that a URL means."""
    parts = urlsplit(url)
    return parts.port or (443 if parts.scheme == "https" else 80)
