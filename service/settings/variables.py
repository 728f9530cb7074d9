"""The one list of environment variables, from which `docs/settings.md` and `.env.example` are generated."""

from typing import NamedTuple

from service.settings.shapes import CLAUDE_CODE_CLIENT_ID

DEFAULT_CREDENTIALS_PATH = "~/.claude/.credentials.json"


class Variable(NamedTuple):
    """An environment variable: its default as the documentation shows it, and what it means."""

    name: str
    default: str
    meaning: str


VARIABLES: tuple[Variable, ...] = (
    Variable("PROXY_HOST", "127.0.0.1", "address to listen on; any other than the loopback needs `PROXY_API_KEYS`"),
    Variable("PROXY_PORT", "4181", "port to listen on"),
    Variable("PROXY_BASE_PATH", "", "path prefix of the proxy, such as `/anthropic`"),
    Variable("PROXY_WORKERS", "1", "processes of `ccproxy serve` that share the address; about one per core"),
    Variable(
        "TRUSTED_PROXIES",
        "",
        "addresses or networks, comma-separated, whose `X-Forwarded-For`, `-Proto` and `-Host` are trusted",
    ),
    Variable(
        "ALLOWED_HOSTS",
        "",
        "host names by which clients reach the proxy, comma-separated, without ports; a listener on the loopback "
        "answers to loopback names and these only (against DNS rebinding)",
    ),
    Variable(
        "ALLOWED_ORIGINS",
        "",
        "origins of web pages that may use the Messages API, comma-separated, such as `https://app.example`; "
        "all others are refused",
    ),
    Variable(
        "DRAIN_DELAY",
        "5s; 0 on the loopback",
        "from the stop signal until the listener closes, in seconds or as `500ms`: time for a load balancer to notice",
    ),
    Variable(
        "DRAIN_TIMEOUT",
        "600s; 10s on the loopback",
        "longest wait after that for requests in flight; a second stop signal ends it",
    ),
    Variable(
        "PROXY_API_KEYS",
        "",
        "client keys, comma-separated `name:key` or `key`; `ledger`: those of `ccproxy keys`",
    ),
    Variable(
        "ADMIN_TOKEN", "created at the first start", "token of the admin API and the dashboard; the same across a fleet"
    ),
    Variable("VIEWER_TOKEN", "", "a second token, which is read-only"),
    Variable("METRICS_TOKEN", "", "token for `/metrics`; without one, `/metrics` is open to the loopback only"),
    Variable(
        "CLIENT_CREDENTIALS",
        "auto",
        "pass-through of clients' own credentials to Anthropic: `auto`, `prefer` or `never`",
    ),
    Variable("ANTHROPIC_API_KEY", "", "key of the route `anthropic`"),
    Variable("ANTHROPIC_BASE_URL", "https://api.anthropic.com", "base URL of the route `anthropic`"),
    Variable("ANTHROPIC_WEEKLY_LIMIT", "0", "tokens per week on `anthropic`; 0 is no limit"),
    Variable("ANTHROPIC_CONCURRENCY", "0", "most requests in flight on `anthropic`, across the fleet; 0 is no limit"),
    Variable("CLAUDE_SUBSCRIPTION_ENABLED", "", "`true` turns the subscription on, `false` off (see docs/limits.md)"),
    Variable("CLAUDE_CODE_OAUTH_TOKEN", "", "a long-lived subscription token; setting it turns the subscription on"),
    Variable(
        "CLAUDE_CREDENTIALS_PATH",
        DEFAULT_CREDENTIALS_PATH,
        "file with the subscription's tokens; setting it turns it on",
    ),
    Variable("CLAUDE_SUBSCRIPTION_BASE_URL", "https://api.anthropic.com", "base URL of the route `subscription`"),
    Variable("CLAUDE_OAUTH_REFRESH_URL", "https://platform.claude.com/v1/oauth/token", "OAuth token endpoint"),
    Variable("CLAUDE_OAUTH_CLIENT_ID", CLAUDE_CODE_CLIENT_ID, "OAuth client that the tokens belong to"),
    Variable("CLAUDE_OAUTH_REFRESH_SKEW_MS", "300000", "how long before its expiry a token is refreshed"),
    Variable(
        "CLAUDE_OAUTH_SHARE_KEY",
        "",
        "secret, the same on every host: proxies share the access token through Redis, encrypted with it",
    ),
    Variable("SUBSCRIPTION_WEEKLY_LIMIT", "0", "tokens per week on `subscription`; 0 is no limit"),
    Variable(
        "SUBSCRIPTION_CONCURRENCY", "0", "most requests in flight on `subscription`, across the fleet; 0 is no limit"
    ),
    Variable("STRIP_SUBSCRIPTION_THINKING", "unsigned", "thinking blocks to remove: `unsigned`, `all` or `none`"),
    Variable("ZAI_API_KEY", "", "key of the route `zai`"),
    Variable("ZAI_BASE_URL", "https://api.z.ai/api/anthropic", "base URL of the route `zai`"),
    Variable("ZAI_WEEKLY_LIMIT", "0", "tokens per week on `zai`; 0 is no limit"),
    Variable("ZAI_CONCURRENCY", "0", "most requests in flight on `zai`, across the fleet; 0 is no limit"),
    Variable("QUOTA_WARNING_THRESHOLD", "90", "percentage of a weekly limit from which other routes go first"),
    Variable("SESSION_AFFINITY", "false", "`true`: a session stays on its route while that is healthy"),
    Variable("QUOTA_WEEK_START", "mon 00:00", "day and time when the week of weekly limits begins"),
    Variable("QUOTA_TIMEZONE", "UTC", "time zone of that day and time, such as `Europe/Berlin`"),
    Variable(
        "QUOTA_WEIGHTS",
        "input=1,output=1",
        "weight of a token of each kind: `input`, `output`, `cache_read`, `cache_write_5m`, `cache_write_1h`",
    ),
    Variable("MODEL_FALLBACK_MAP", "", "model names to replace in every request: a JSON object, or `from=to,from=to`"),
    Variable("FALLBACK_ON_CODES", "", "HTTP statuses that cause failover, comma-separated; empty: the built-in rules"),
    Variable("API_TIMEOUT_MS", "600000", "deadline of a request, until its response begins"),
    Variable("API_STREAMING_TIMEOUT_MS", "600000", "the same for streams"),
    Variable(
        "API_STREAM_IDLE_TIMEOUT_MS", "300000", "longest silence within a response, also of a client that does not read"
    ),
    Variable(
        "API_FIRST_BYTE_TIMEOUT_MS", "120000", "longest wait for a stream's first byte while another route is left"
    ),
    Variable("API_CONNECT_TIMEOUT_MS", "10000", "longest wait for a connection to a provider"),
    Variable("API_MAX_RETRIES", "3", "most attempts of a request beyond one per route; a timeout is never repeated"),
    Variable(
        "API_RETRY_DELAY_MS", "1000", "shortest wait before a throttled route is asked again, when nothing else is left"
    ),
    Variable("MAX_BODY_BYTES", "33554432", "largest request body accepted; Anthropic accepts 32 MB"),
    Variable(
        "MAX_BODY_EXPANSION",
        "20",
        "how many times larger a compressed body may become above 256 KB; real conversations shrink to a tenth at best",
    ),
    Variable("MAX_JSON_DEPTH", "200", "deepest nesting of a body's JSON; schemas of tools rarely reach 20"),
    Variable(
        "MAX_CONTENT_BLOCKS",
        "200000",
        "most content blocks of a request; no model reads that many, and each costs memory",
    ),
    Variable(
        "MAX_HELD_BODY_BYTES",
        "268435456",
        "memory for the bodies of all requests of one process; beyond it the newest is answered 503, to try again",
    ),
    Variable(
        "MAX_HEAD_BYTES",
        "65536",
        "largest request line with headers, else 431; clients send 2 KB, and it is held before any key is checked",
    ),
    Variable(
        "MAX_URL_BYTES", "16384", "longest URL, else 414; clients send 100 bytes, and providers take no longer ones"
    ),
    Variable("CIRCUIT_BREAKER_ENABLED", "true", "`false`: failures never open a circuit"),
    Variable("CIRCUIT_BREAKER_COOLDOWN_MS", "60000", "how long an open circuit stays open at first"),
    Variable("CIRCUIT_BREAKER_DEGRADED_THRESHOLD", "3", "failures in a row after which a route is shown as degraded"),
    Variable("CIRCUIT_BREAKER_UNAVAILABLE_THRESHOLD", "5", "failures in a row that open the circuit"),
    Variable("CIRCUIT_BREAKER_HEALTH_CHECK_INTERVAL", "30000", "accepted; probes are real requests here, no timers"),
    Variable(
        "CONTEXT_WINDOW_ENABLED", "false", "`true`: the oldest messages of a conversation that is too long are removed"
    ),
    Variable(
        "CONTEXT_WINDOW_LIMIT",
        "200000",
        "context window that conversations are truncated for, in tokens; 0 is no limit",
    ),
    Variable("CONTEXT_WINDOW_TRUNCATION_THRESHOLD", "0.8", "fraction of that window that a conversation may fill"),
    Variable(
        "REDIS_URL",
        "redis://127.0.0.1:6379/0",
        "Redis (TLS, Sentinel, Cluster: see docs/replicas.md); `up` starts its own if not set",
    ),
    Variable("RQ_REDIS_URL", "as REDIS_URL", "Redis of the workers' queue, when REDIS_URL is a Cluster"),
    Variable("DATABASE_URL", "from DB_*", "Postgres of the workers; `up` starts its own if neither is set"),
    Variable(
        "DATABASE_DIRECT_URL",
        "as DATABASE_URL",
        "Postgres itself, if DATABASE_URL is a pooler: for what needs a session (migrate, ledger, backup, reports)",
    ),
    Variable("DB_HOST", "localhost", "host of the database, if DATABASE_URL is not set"),
    Variable("DB_PORT", "5432", "port of the database, if DATABASE_URL is not set"),
    Variable("DB_NAME", "claude_proxy", "name of the database, if DATABASE_URL is not set"),
    Variable("DB_USER", "postgres", "user of the database, if DATABASE_URL is not set"),
    Variable("DB_PASSWORD", "postgres", "password of the database, if DATABASE_URL is not set"),
    Variable("DB_SSL", "false", "`true`: TLS, with the server's certificate verified"),
    Variable("DB_MAX_CONNECTIONS", "10", "accepted; a worker holds one connection"),
    Variable("DB_IDLE_TIMEOUT_MS", "30000", "accepted; a worker keeps its connection"),
    Variable(
        "DB_CONNECTION_TIMEOUT_MS",
        "2000",
        "longest wait for a connection to Postgres; counted in whole seconds, rounded up, at least 2",
    ),
    Variable("LEDGER_RETENTION_WEEKS", "0", "weeks after which events are dropped; their usage is kept; 0 is never"),
    Variable("LOG_LEVEL", "info", "`debug`, `info`, `warn`, `error` or `silent`"),
    Variable("LOG_FORMAT", "text", "`text`, or `json` for one object per line"),
    Variable("OTEL_EXPORTER_OTLP_ENDPOINT", "", "endpoint for traces, OTLP over HTTP; needs the extra `otlp`"),
    Variable("NO_COLOR", "", "any value: no colors on a terminal"),
    Variable("CCPROXY_HOME", "the user's state folder", "folder for data, logs and spool"),
    Variable("CCPROXY_CONFIG", "ccproxy.toml in CCPROXY_HOME", "the TOML file"),
    Variable("CCPROXY_POSTGRES_BIN", "", "folder with Postgres programs to use instead of the packaged ones"),
    Variable("CCPROXY_REDIS_BIN", "", "redis-server or valkey-server to use instead of the packaged one"),
    Variable("SSL_CERT_FILE", "", "file of CA certificates to trust instead of the packaged ones"),
    Variable("UPSTREAM_TRANSPORT", "lean", "`httpx`: requests are sent through httpx's own transport; slower"),
    Variable(
        "HTTPS_PROXY", "", "HTTP proxy for requests to providers; `NO_PROXY` excludes names, addresses and networks"
    ),
)
SECRETS = (
    "ADMIN_TOKEN", "ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN", "CLAUDE_OAUTH_SHARE_KEY", "DATABASE_DIRECT_URL",
    "DATABASE_URL", "DB_PASSWORD", "METRICS_TOKEN", "PROXY_API_KEYS", "REDIS_URL", "RQ_REDIS_URL", "VIEWER_TOKEN",
    "ZAI_API_KEY",
)  # fmt: skip
"""Variables that may lie in a file, as containers are given secrets: NAME_FILE is its path."""
FOR_WORKERS = (
    "CCPROXY_CONFIG", "CCPROXY_HOME", "DATABASE_DIRECT_URL", "DATABASE_URL", "DB_CONNECTION_TIMEOUT_MS", "DB_HOST",
    "DB_IDLE_TIMEOUT_MS", "DB_MAX_CONNECTIONS", "DB_NAME", "DB_PASSWORD", "DB_PORT", "DB_SSL", "DB_USER",
    "LEDGER_RETENTION_WEEKS", "LOG_FORMAT", "LOG_LEVEL", "NO_COLOR", "REDIS_URL", "RQ_REDIS_URL", "SSL_CERT_FILE",
)  # fmt: skip
"""All that workers and their commands read: no key of a provider, no token of the proxy's."""
OBSOLETE_PREFIXES = ("OPENROUTER_", "NODE_ENV")
"""Variables of the original that mean nothing here: accepted, with a notice."""
