"""The environment: every variable has its effect, or is accepted and says so; a mistake names its place."""

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import SettingsError
from service.settings import (
    VARIABLES,
    WEEKDAYS,
    QuotaWeights,
    Reader,
    Secret,
    Settings,
    StaticKey,
    load,
    minute_of_week,
    model_map,
)
from service.settings.shapes import known_level

HOME = "/nonexistent/ccproxy-home"
PRICES = str(Path("service/ledger/prices.toml").absolute())
KEYS = {"ANTHROPIC_API_KEY": "sk-ant-1", "ZAI_API_KEY": "zai-1"}


def read(**variables: str) -> Settings:
    """The settings of an environment that says this and no more."""
    return load(environ={"CCPROXY_HOME": HOME} | variables)


def value(settings: Settings, path: str) -> Any:
    """What stands at a dotted path; a route goes by its id."""
    found: Any = settings
    for name in path.split("."):
        found = next(route for route in found if route.id == name) if isinstance(found, tuple) else getattr(found, name)
    return found


EFFECTS: list[tuple[str, str, str, Any]] = [
    ("PROXY_PORT", "5000", "port", 5000),
    ("PROXY_BASE_PATH", "anthropic/", "base_path", "/anthropic"),
    ("PROXY_WORKERS", "4", "processes", 4),
    ("PROXY_KEEP_ALIVE_MS", "61000", "keep_alive_ms", 61_000),
    ("TRUSTED_PROXIES", "10.0.0.0/8, ::1", "trusted_proxies", (ip_network("10.0.0.0/8"), ip_network("::1"))),
    ("ALLOWED_HOSTS", "Proxy.Example., [::2],", "allowed_hosts", ("proxy.example", "::2")),
    (
        "ALLOWED_ORIGINS",
        "https://App.example/, http://localhost:3000, https://a.example:443, chrome-extension://abc",
        "allowed_origins",
        ("https://app.example", "http://localhost:3000", "https://a.example", "chrome-extension://abc"),
    ),
    ("DRAIN_DELAY", "1.5", "drain.delay_ms", 1_500),
    ("DRAIN_DELAY", "250ms", "drain.delay_ms", 250),
    ("DRAIN_TIMEOUT", "2m", "drain.limit_ms", 120_000),
    ("PROXY_API_KEYS", "alice:0123456789abcdef", "client_keys", (StaticKey("alice", Secret("0123456789abcdef")),)),
    ("PROXY_API_KEYS", "ledger", "ledger_keys", True),
    ("ADMIN_TOKEN", "0123456789abcdef", "admin_token", Secret("0123456789abcdef")),
    ("VIEWER_TOKEN", "0123456789abcdef", "viewer_token", Secret("0123456789abcdef")),
    ("METRICS_TOKEN", "0123456789abcdef", "metrics_token", Secret("0123456789abcdef")),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318/", "otlp_endpoint", "http://127.0.0.1:4318"),
    ("CLIENT_CREDENTIALS", "Prefer", "client_credentials", "prefer"),
    ("ANTHROPIC_API_KEY", "sk-ant-2", "routes.anthropic.api_key", Secret("sk-ant-2")),
    ("ANTHROPIC_BASE_URL", "http://a.example/x/", "routes.anthropic.base_url", "http://a.example/x"),
    ("ANTHROPIC_BASE_URL", "http://a.example", "client_route.base_url", "http://a.example"),
    ("ANTHROPIC_WEEKLY_LIMIT", "1_000", "routes.anthropic.weekly_tokens", 1_000),
    ("ZAI_WEEKLY_LIMIT", "20M", "routes.zai.weekly_tokens", 20_000_000),
    ("ANTHROPIC_CONCURRENCY", "9", "routes.anthropic.concurrency", 9),
    ("CLAUDE_SUBSCRIPTION_ENABLED", "true", "routes.subscription.off", None),
    ("CLAUDE_CODE_OAUTH_TOKEN", "sk-ant-oat", "routes.subscription.api_key", Secret("sk-ant-oat")),
    ("CLAUDE_CODE_OAUTH_TOKEN", "sk-ant-oat", "routes.subscription.off", None),
    ("CLAUDE_CREDENTIALS_PATH", "/creds.json", "routes.subscription.credentials_path", "/creds.json"),
    ("CLAUDE_CREDENTIALS_PATH", "/creds.json", "routes.subscription.off", None),
    ("CLAUDE_SUBSCRIPTION_BASE_URL", "http://s.example", "routes.subscription.base_url", "http://s.example"),
    ("CLAUDE_OAUTH_REFRESH_URL", "http://o.example/token", "oauth.refresh_url", "http://o.example/token"),
    ("CLAUDE_OAUTH_CLIENT_ID", "me", "oauth.client_id", "me"),
    ("CLAUDE_OAUTH_REFRESH_SKEW_MS", "1", "oauth.skew_ms", 1),
    ("CLAUDE_OAUTH_SHARE_KEY", "k" * 32, "oauth.share_key", Secret("k" * 32)),
    ("SUBSCRIPTION_WEEKLY_LIMIT", "7", "routes.subscription.weekly_tokens", 7),
    ("SUBSCRIPTION_CONCURRENCY", "9", "routes.subscription.concurrency", 9),
    ("STRIP_SUBSCRIPTION_THINKING", "all", "strip_thinking", "all"),
    ("ZAI_API_KEY", "zai-2", "routes.zai.api_key", Secret("zai-2")),
    ("ZAI_BASE_URL", "http://z.example", "routes.zai.base_url", "http://z.example"),
    ("ZAI_WEEKLY_LIMIT", "7", "routes.zai.weekly_tokens", 7),
    ("ZAI_CONCURRENCY", "9", "routes.zai.concurrency", 9),
    ("QUOTA_WARNING_THRESHOLD", "80.5", "policy.warning_percent", 80.5),
    ("SESSION_AFFINITY", "false", "session_affinity", False),
    ("QUOTA_WEEK_START", "Friday 18:30", "policy.quota.week_start_minute", (4 * 24 + 18) * 60 + 30),
    ("QUOTA_TIMEZONE", "Asia/Kolkata", "policy.quota.timezone", "Asia/Kolkata"),
    ("QUOTA_WEIGHTS", "cache_read=0.1, output=5", "policy.quota.weights", QuotaWeights(output=5, cache_read=0.1)),
    ("MODEL_FALLBACK_MAP", '{"a": "b"}', "policy.model_map", {"a": "b"}),
    ("FALLBACK_ON_CODES", "[429, 503, 529]", "policy.fallback_on_codes", (429, 503, 529)),
    ("API_TIMEOUT_MS", "1", "timeouts.request_ms", 1),
    ("API_STREAMING_TIMEOUT_MS", "2", "timeouts.stream_ms", 2),
    ("API_STREAM_IDLE_TIMEOUT_MS", "3", "timeouts.idle_ms", 3),
    ("API_FIRST_BYTE_TIMEOUT_MS", "4", "timeouts.first_byte_ms", 4),
    ("API_FIRST_CONTENT_TIMEOUT_MS", "6", "timeouts.first_content_ms", 6),
    ("API_HEAD_AFTER_MS", "0", "timeouts.head_after_ms", 0),
    ("API_CONNECT_TIMEOUT_MS", "5", "timeouts.connect_ms", 5),
    ("API_MAX_RETRIES", "0", "policy.max_retries", 0),
    ("API_RETRY_DELAY_MS", "9", "policy.retry_delay_ms", 9),
    ("MAX_BODY_BYTES", "2048", "max_body_bytes", 2048),
    ("MAX_BODY_EXPANSION", "9", "bodies.expansion", 9),
    ("MAX_JSON_DEPTH", "50", "bodies.json_depth", 50),
    ("MAX_CONTENT_BLOCKS", "1000", "bodies.content_blocks", 1000),
    ("MAX_HELD_BODY_BYTES", "2000000", "bodies.held_bytes", 2_000_000),
    ("MAX_HEAD_BYTES", "8192", "max_head_bytes", 8192),
    ("MAX_URL_BYTES", "2048", "max_url_bytes", 2048),
    ("CIRCUIT_BREAKER_ENABLED", "false", "policy.circuit.enabled", False),
    ("CIRCUIT_BREAKER_COOLDOWN_MS", "10", "policy.circuit.open_ms", 10),
    ("CIRCUIT_BREAKER_COOLDOWN_MS", "10", "policy.wait_ms", 10),
    ("CIRCUIT_BREAKER_COOLDOWN_MS", "10", "policy.quota_wait_ms", 60),
    ("CIRCUIT_BREAKER_COOLDOWN_MS", "90_000", "policy.quota_wait_ms", 90_000),
    ("CIRCUIT_BREAKER_COOLDOWN_MS", "9_000_000", "policy.circuit.open_cap_ms", 9_000_000),
    ("CIRCUIT_BREAKER_DEGRADED_THRESHOLD", "2", "policy.circuit.degraded_failures", 2),
    ("CIRCUIT_BREAKER_UNAVAILABLE_THRESHOLD", "9", "policy.circuit.trip_failures", 9),
    ("CONTEXT_WINDOW_ENABLED", "true", "truncation.enabled", True),
    ("CONTEXT_WINDOW_LIMIT", "1000", "truncation.most_tokens", 800),
    ("CONTEXT_WINDOW_TRUNCATION_THRESHOLD", "0.5", "truncation.most_tokens", 100_000),
    ("REDIS_URL", "rediss://r.example:1/2", "redis_url", Secret("rediss://r.example:1/2")),
    ("RQ_REDIS_URL", "redis://q.example", "rq_redis_url", Secret("redis://q.example")),
    ("DATABASE_DIRECT_URL", "postgresql://d.example/x", "database_direct_url", Secret("postgresql://d.example/x")),
    ("DATABASE_URL", "postgresql://d.example/x", "database_url", Secret("postgresql://d.example/x")),
    ("DB_HOST", "h", "database_url", Secret("postgresql://postgres:postgres@h:5432/claude_proxy")),
    ("DB_PORT", "1", "database_url", Secret("postgresql://postgres:postgres@localhost:1/claude_proxy")),
    ("DB_NAME", "n/m", "database_url", Secret("postgresql://postgres:postgres@localhost:5432/n%2Fm")),
    ("DB_USER", "u", "database_url", Secret("postgresql://u:postgres@localhost:5432/claude_proxy")),
    ("DB_PASSWORD", "p@:/", "database_url", Secret("postgresql://postgres:p%40%3A%2F@localhost:5432/claude_proxy")),
    ("DB_CONNECTION_TIMEOUT_MS", "100", "database_connect_ms", 100),
    ("LEDGER_RETENTION_WEEKS", "8", "retention_weeks", 8),
    ("LOG_LEVEL", "DEBUG", "log_level", "debug"),
    ("LOG_FORMAT", "json", "log_format", "json"),
    ("UPSTREAM_TRANSPORT", "httpx", "upstream_transport", "httpx"),
    ("CCPROXY_HOME", "/elsewhere", "home", Path("/elsewhere")),
    ("CCPROXY_POSTGRES_BIN", "/pg/bin", "postgres_bin", "/pg/bin"),
    ("CCPROXY_PRICES", PRICES, "prices_file", PRICES),
    ("CCPROXY_REDIS_BIN", "/redis", "redis_bin", "/redis"),
]
ELSEWHERE = {
    "PROXY_HOST": "tested with its keys",
    "DB_SSL": "tested with the database",
    "CCPROXY_CONFIG": "tested with the file",
    "NO_COLOR": "read by the log",
    "SSL_CERT_FILE": "read by the transport",
    "HTTPS_PROXY": "read by the transport",
    "ALL_PROXY": "read by the transport",
    "ANTHROPIC_ADMIN_KEY": "tested with the invoice",
    "ANTHROPIC_ADMIN_URL": "tested with the invoice",
}
ACCEPTED = {
    "CIRCUIT_BREAKER_HEALTH_CHECK_INTERVAL": "1",
    "DB_MAX_CONNECTIONS": "1",
    "DB_IDLE_TIMEOUT_MS": "1",
}


@pytest.mark.parametrize(("name", "text", "path", "expected"), EFFECTS, ids=[f"{e[0]}={e[1]} {e[2]}" for e in EFFECTS])
def test_a_variable_has_its_effect(name: str, text: str, path: str, expected: Any) -> None:
    """What it says is what the settings hold, and without it they hold something else."""
    assert value(read(**{name: text}), path) == expected
    assert value(read(), path) != expected


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_variable_without_effect_says_so(name: str) -> None:
    """It is accepted, and its line in the list of variables does not promise anything."""
    assert read(**{name: ACCEPTED[name]}).routes == read().routes
    assert next(variable.meaning for variable in VARIABLES if variable.name == name).startswith("accepted")


def test_every_variable_is_tested() -> None:
    """One list: what docs/settings.md shows is what this file looks at."""
    assert {variable.name for variable in VARIABLES} == {
        effect[0] for effect in EFFECTS
    } | ACCEPTED.keys() | ELSEWHERE.keys()


def test_every_variable_that_is_read_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting is hidden: the reader is asked for listed names alone."""
    asked: set[str] = set()

    class Listening(dict[str, str]):
        def __contains__(self, name: object) -> bool:
            asked.add(str(name))
            return super().__contains__(name)

        def get(self, name: str, default: Any = None) -> Any:
            asked.add(name)
            return super().get(name, default)

    made = Reader.__init__

    def listen(self: Reader, variables: dict[str, str]) -> None:
        made(self, variables)
        self.variables = Listening(self.variables)

    monkeypatch.setattr(Reader, "__init__", listen)
    read(DB_HOST="h", **KEYS)
    known = {variable.name for variable in VARIABLES}
    assert {name.removesuffix("_FILE") for name in asked} - {"XDG_STATE_HOME"} <= known
    assert len(asked) > 40


# -- departures from the original


def test_the_defaults_are_the_originals_but_for_what_bit_its_users() -> None:
    """Numbers and addresses of an environment that says nothing."""
    settings = read()
    assert (settings.host, settings.port, settings.log_level) == ("127.0.0.1", 4181, "info")
    assert [route.id for route in settings.routes] == ["anthropic", "subscription", "zai"]
    assert (settings.policy.max_retries, settings.policy.retry_delay_ms) == (3, 1_000)
    circuit = settings.policy.circuit
    assert (circuit.enabled, circuit.open_ms, circuit.degraded_failures, circuit.trip_failures) == (True, 10_000, 3, 5)
    assert settings.oauth.skew_ms == 300_000
    assert value(settings, "routes.zai.base_url") == "https://api.z.ai/api/anthropic"


def test_a_quota_without_an_end_waits_a_minute_unless_circuits_stay_open_for_longer() -> None:
    """As it was when a minute was the default; tests that want no waits have none."""
    found = [read(CIRCUIT_BREAKER_COOLDOWN_MS=text).policy.quota_wait_ms for text in ("30000", "60000", "90000")]
    assert found == [60_000, 60_000, 90_000]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("routes.subscription.off", "opt-in; set CLAUDE_SUBSCRIPTION_ENABLED=true"),
        ("policy.warning_percent", 90.0),
        ("timeouts.request_ms", 600_000),
        ("timeouts.idle_ms", 300_000),
        ("oauth.refresh_url", "https://platform.claude.com/v1/oauth/token"),
        ("policy.fallback_on_codes", ()),
        ("redis_url", None),
        ("database_url", None),
    ],
)
def test_departures_are_deliberate(path: str, expected: Any) -> None:
    """The subscription is opt-in, 30 s of silence do not kill thinking, tokens are refreshed where it works."""
    assert value(read(), path) == expected


def test_a_subscription_that_was_turned_off_stays_off() -> None:
    """Whatever else is set for it."""
    settings = read(CLAUDE_SUBSCRIPTION_ENABLED="false", CLAUDE_CODE_OAUTH_TOKEN="t", CLAUDE_CREDENTIALS_PATH="/c")
    assert value(settings, "routes.subscription.off") is not None


@pytest.mark.parametrize(("name", "mend"), [("ANTHROPIC", "ANTHROPIC_API_KEY"), ("ZAI", "ZAI_API_KEY")])
def test_a_route_without_a_key_says_what_to_set(name: str, mend: str) -> None:
    """It is there, off, with the mend."""
    assert mend in value(read(), f"routes.{name.lower()}.off")


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"OPENROUTER_API_KEY": "x"}, "OPENROUTER_API_KEY has no effect"),
        ({"NODE_ENV": "production"}, "NODE_ENV has no effect"),
        ({"FALLBACK_ON_CODES": "429,503"}, "529"),
        ({"CONTEXT_WINDOW_ENABLED": "true"}, "more than 160,000 tokens lose their oldest"),
    ],
)
def test_what_is_accepted_is_told(variables: dict[str, str], words: str) -> None:
    """A variable that has lost its meaning, or that will hurt, is a notice at start."""
    [notice] = read(**variables).notices
    assert words in notice


def test_without_a_limit_nothing_is_cut() -> None:
    """A window of 0 is none, as in the original."""
    assert not read(CONTEXT_WINDOW_ENABLED="true", CONTEXT_WINDOW_LIMIT="0").truncation.enabled


def test_nothing_is_told_without_a_reason() -> None:
    """An ordinary environment gives no notice."""
    assert read(**KEYS, FALLBACK_ON_CODES="429,529", CONTEXT_WINDOW_ENABLED="false").notices == ()


@pytest.mark.parametrize(
    ("variables", "times"),
    [
        ({}, (0, 10_000)),
        ({"PROXY_HOST": "0.0.0.0", "PROXY_API_KEYS": "0123456789abcdef"}, (5_000, 600_000)),  # noqa: S104
    ],
)
def test_leave_takes_longer_where_others_can_come(variables: dict[str, str], times: tuple[int, int]) -> None:
    """Nobody balances on the loopback, and Ctrl-C should end soon."""
    drain = read(**variables).drain
    assert (drain.delay_ms, drain.limit_ms) == times


# -- forms


@pytest.mark.parametrize("text", ["", "  ", "\t"])
def test_a_variable_that_is_set_but_empty_is_not_set(text: str) -> None:
    """As `KEY=` in an env file means."""
    assert read(**{name: text for name, *_ in EFFECTS if name != "CCPROXY_HOME"}) == read()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"claude-opus":"claude-opus-4-8","a":"b"}', {"claude-opus": "claude-opus-4-8", "a": "b"}),
        ("claude-opus=claude-opus-4-8, a = b ,", {"claude-opus": "claude-opus-4-8", "a": "b"}),
        ("constructor=b", {"constructor": "b"}),
        ("{}", {}),
        ("", {}),
    ],
)
def test_a_model_map_is_an_object_or_pairs(text: str, expected: dict[str, str]) -> None:
    """Both say the same."""
    assert model_map(text) == expected


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("alice:0123456789abcdef", ["alice"]),
        ("0123456789abcdef", ["key-1"]),
        ("alice:0123456789abcdef, 0123456789abcdeg ,bob:0123456789abcdeh,", ["alice", "key-2", "bob"]),
        (":0123456789abcdef", ["key-1"]),
        (" alice : 0123456789abcdef ", ["alice"]),
    ],
)
def test_client_keys_have_names(text: str, names: list[str]) -> None:
    """Their own, or the place in the list; never none, for usage is counted by them."""
    keys = read(PROXY_API_KEYS=text).client_keys
    assert [key.key_id for key in keys] == names
    assert all(len(key.key.reveal()) == 16 for key in keys)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"DB_SSL": "true"}, None),
        ({"DB_SSL": "true", "DB_HOST": "h"}, "?sslmode=verify-full&sslrootcert=system"),
        ({"DB_HOST": "h", "DATABASE_URL": "postgresql://other/x"}, "postgresql://other/x"),
    ],
)
def test_the_database_is_a_url_or_its_parts(variables: dict[str, str], expected: str | None) -> None:
    """DATABASE_URL stands over the parts; TLS alone names no database."""
    found = read(**variables).database_url
    assert found is None if expected is None else (found and found.reveal().endswith(expected))


@given(st.text(max_size=20))
def test_the_log_level_never_fails(text: str) -> None:
    """A word that is none means info, as in the original."""
    assert known_level(text) in ("debug", "info", "warn", "error", "silent")


def test_an_unknown_log_level_means_info() -> None:
    assert read(LOG_LEVEL="verbose").log_level == "info"


# -- mistakes

MISTAKES = [
    ("PROXY_PORT", "0"),
    ("PROXY_PORT", "65536"),
    ("PROXY_PORT", "http"),
    ("PROXY_PORT", "1e3"),
    ("PROXY_WORKERS", "0"),
    ("TRUSTED_PROXIES", "10.0.0.0/33"),
    ("TRUSTED_PROXIES", "balancer.example"),
    ("ALLOWED_HOSTS", "https://proxy.example"),
    ("ALLOWED_HOSTS", "proxy.example:4181"),
    ("ALLOWED_HOSTS", "*"),
    ("ALLOWED_ORIGINS", "*"),
    ("ALLOWED_ORIGINS", "null"),
    ("ALLOWED_ORIGINS", "app.example"),
    ("ALLOWED_ORIGINS", "https://app.example/path"),
    ("ALLOWED_ORIGINS", "https://*.example"),
    ("DRAIN_DELAY", "-1"),
    ("DRAIN_DELAY", "1h"),
    ("DRAIN_TIMEOUT", "soon"),
    ("DRAIN_TIMEOUT", "1441m"),
    ("PROXY_API_KEYS", "alice:short"),
    ("ADMIN_TOKEN", "short"),
    ("VIEWER_TOKEN", "short"),
    ("METRICS_TOKEN", "short"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
    ("CLAUDE_OAUTH_SHARE_KEY", "short"),
    ("CLIENT_CREDENTIALS", "sometimes"),
    ("ANTHROPIC_BASE_URL", "api.anthropic.com"),
    ("ANTHROPIC_BASE_URL", "ftp://api.anthropic.com"),
    ("ANTHROPIC_BASE_URL", "http://"),
    ("ANTHROPIC_BASE_URL", "http://host:port"),
    ("ANTHROPIC_BASE_URL", "https://host/?beta=true"),
    ("ANTHROPIC_BASE_URL", "https://host/#x"),
    ("ZAI_BASE_URL", "https://[::1"),
    ("CLAUDE_OAUTH_REFRESH_URL", "nowhere"),
    ("ANTHROPIC_WEEKLY_LIMIT", "-1"),
    ("ANTHROPIC_WEEKLY_LIMIT", "lots"),
    ("QUOTA_WARNING_THRESHOLD", "0"),
    ("QUOTA_WARNING_THRESHOLD", "101"),
    ("QUOTA_WARNING_THRESHOLD", "nan"),
    ("QUOTA_WARNING_THRESHOLD", "most"),
    ("MODEL_FALLBACK_MAP", "{"),
    ("MODEL_FALLBACK_MAP", '{"a": 1}'),
    ("MODEL_FALLBACK_MAP", "a"),
    ("MODEL_FALLBACK_MAP", "a="),
    ("MODEL_FALLBACK_MAP", "=b"),
    ("FALLBACK_ON_CODES", "200"),
    ("FALLBACK_ON_CODES", "600"),
    ("FALLBACK_ON_CODES", "429;503"),
    ("FALLBACK_ON_CODES", "42\N{SUPERSCRIPT TWO}"),
    ("API_MAX_RETRIES", "11"),
    ("CIRCUIT_BREAKER_ENABLED", "perhaps"),
    ("CIRCUIT_BREAKER_COOLDOWN_MS", "0"),
    ("STRIP_SUBSCRIPTION_THINKING", "some"),
    ("MAX_BODY_BYTES", "10"),
    ("MAX_BODY_EXPANSION", "0"),
    ("MAX_JSON_DEPTH", "5000"),
    ("MAX_CONTENT_BLOCKS", "-1"),
    ("MAX_HELD_BODY_BYTES", "many"),
    ("MAX_HEAD_BYTES", "10"),
    ("MAX_URL_BYTES", "65537"),
    ("PROXY_BASE_PATH", "/a%2fb"),
    ("PROXY_BASE_PATH", "/a/../b"),
    ("PROXY_BASE_PATH", "/a//b"),
    ("PROXY_BASE_PATH", "/v1"),
    ("PROXY_BASE_PATH", "V1/messages"),
    ("LOG_FORMAT", "xml"),
    ("REDIS_URL", "http://r.example"),
    ("REDIS_URL", "localhost:6379"),
    ("RQ_REDIS_URL", "valkey"),
    ("RQ_REDIS_URL", "redis+cluster://h:1"),
]


@pytest.mark.parametrize(("name", "text"), MISTAKES, ids=[f"{name}={text}" for name, text in MISTAKES])
def test_a_mistake_names_its_variable(name: str, text: str) -> None:
    """It is a settings error, which begins with the name of the variable."""
    with pytest.raises(SettingsError) as error:
        read(**{name: text})
    assert error.value.message.startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ANTHROPIC_BASE_URL", "https://user:hunter2@host"),
        ("ANTHROPIC_BASE_URL", "https://:hunter2@host"),
        ("ANTHROPIC_BASE_URL", "htp://user:hunter2@host"),
        ("ANTHROPIC_BASE_URL", "https://user:hunter2@host:port"),
        ("ANTHROPIC_BASE_URL", "https://host/?key=hunter2"),
        ("REDIS_URL", "http://:hunter2@host"),
        ("PROXY_API_KEYS", "alice:hunter2"),
        ("PROXY_API_KEYS", "hunter2"),
        ("CLAUDE_OAUTH_SHARE_KEY", "hunter2"),
    ],
)
def test_a_mistake_never_repeats_a_secret(name: str, text: str) -> None:
    """What may hold a password or a key is not in the words of the error."""
    with pytest.raises(SettingsError) as error:
        read(**{name: text})
    assert "hunter2" not in error.value.message


# -- what would hurt at run time


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "proxy.example"])  # noqa: S104
def test_a_listener_open_to_others_needs_keys(host: str) -> None:
    """Else the whole network spends the owner's credentials; the mend is named."""
    with pytest.raises(SettingsError, match="PROXY_API_KEYS"):
        read(PROXY_HOST=host)
    assert read(PROXY_HOST=host, PROXY_API_KEYS="0123456789abcdef").host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_the_loopback_needs_none(host: str) -> None:
    """Only this machine can reach it."""
    assert read(PROXY_HOST=host).loopback


@pytest.mark.parametrize(
    "variables",
    [
        {"ANTHROPIC_BASE_URL": "http://127.0.0.1:4181"},
        {"ANTHROPIC_BASE_URL": "http://localhost:4181/anthropic/", "ANTHROPIC_API_KEY": "k"},
        {"ANTHROPIC_BASE_URL": "http://LOCALHOST:4181"},
        {"ANTHROPIC_BASE_URL": "http://[::1]:4181"},
        {"ANTHROPIC_BASE_URL": "http://0.0.0.0:4181"},
        {"ANTHROPIC_BASE_URL": "http://[::]:4181"},
        {"ZAI_BASE_URL": "http://127.0.0.1:5000", "PROXY_PORT": "5000"},
        {"CLAUDE_SUBSCRIPTION_BASE_URL": "http://127.0.0.1", "PROXY_PORT": "80"},
        {"ANTHROPIC_BASE_URL": "http://me:4181", "PROXY_HOST": "me", "PROXY_API_KEYS": "0123456789abcdef"},
    ],
    ids=lambda variables: next(iter(variables.values())),
)
def test_a_loop_is_refused_with_its_mend(variables: dict[str, str]) -> None:
    """As when ANTHROPIC_BASE_URL was exported for Claude Code in the same shell."""
    with pytest.raises(SettingsError, match="env -u ANTHROPIC_BASE_URL"):
        read(**variables)


@pytest.mark.parametrize("url", ["http://127.0.0.1:4182", "https://127.0.0.1", "http://a.example:4181"])
def test_another_server_on_this_machine_is_no_loop(url: str) -> None:
    """Only the proxy's own address is."""
    assert read(ANTHROPIC_BASE_URL=url).routes[0].base_url == url


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("QUOTA_WEEK_START", "someday 00:00", "not a day and time"),
        ("QUOTA_WEEK_START", "mon", "not a day and time"),
        ("QUOTA_WEEK_START", "mon 24:00", "not a day and time"),
        ("QUOTA_WEEK_START", "mon 12:60", "not a day and time"),
        ("QUOTA_WEEK_START", "mon 12:5", "not a day and time"),
        ("QUOTA_TIMEZONE", "Mars/Olympus", "not a time zone"),
        ("QUOTA_TIMEZONE", "../etc/passwd", "not a time zone"),
        ("QUOTA_TIMEZONE", "Europe", "not a time zone"),
        ("QUOTA_WEIGHTS", "input", "not a pair"),
        ("QUOTA_WEIGHTS", "input=much", "not a number"),
        ("QUOTA_WEIGHTS", "cache=1", "'cache' is not one of input, output"),
        ("QUOTA_WEIGHTS", "input=-1", "not between 0 and 1000"),
        ("QUOTA_WEIGHTS", "input=nan", "not a number"),
    ],
)
def test_a_wrong_quota_setting_names_its_mend(name: str, text: str, words: str) -> None:
    """At start, not in the middle of a week."""
    with pytest.raises(SettingsError, match=f"^{name}: ") as caught:
        read(**{name: text})
    assert words in str(caught.value)


@given(st.integers(0, 6), st.integers(0, 23), st.integers(0, 59))
def test_the_start_of_a_week_is_a_minute(day: int, hour: int, minute: int) -> None:
    """Of the week, Monday 00:00 being the first."""
    text = f"{WEEKDAYS[day].upper()} {hour}:{minute:02}"
    assert minute_of_week(text) == (day * 24 + hour) * 60 + minute
