"""Puts settings together, from variables and the TOML file, and refuses what would hurt at run time."""

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from service.errors import SettingsError
from service.settings.files import File, home_of, read_dotenv, read_file, with_secret_files
from service.settings.reader import Reader, port_of
from service.settings.routes import client_route, file_routes, providers_of, usual_routes
from service.settings.shapes import LOOPBACK_HOSTS, Settings
from service.settings.values import (
    LEDGER_KEYS,
    base_path,
    bodies,
    database_url,
    drain,
    host_names,
    listed,
    log_level,
    networks,
    oauth,
    origins,
    policy,
    prices,
    redis_url,
    static_keys,
    status_codes,
    timeouts,
    token,
    truncation,
)
from service.settings.variables import OBSOLETE_PREFIXES, SECRETS


def load(path: Path | None = None, environ: Mapping[str, str] | None = None, *, to_serve: bool = True) -> Settings:
    """The settings from the environment (else `.env`, else the file's `[env]`) and the TOML file at `path`.

    Without `path`, `CCPROXY_CONFIG` names it, else `ccproxy.toml` in CCPROXY_HOME is read where it exists. `to_serve`
    refuses what only a proxy that serves must not do: to be its own upstream. Raises SettingsError.
    """
    process = dict(os.environ if environ is None else environ)
    merged = read_dotenv(Path(".env")) | process if environ is None else process
    file, origin = read_file(path, merged)
    variables = texts(file.env)
    keys = [route.api_key_env for route in file.routes if route.api_key_env]
    settings = build(Reader(with_secret_files(variables | merged, [*SECRETS, *keys])), file, origin)
    if to_serve:
        refuse_loops(settings)
    return settings


def texts(env: Mapping[str, str | int | float | bool]) -> dict[str, str]:
    """The file's `[env]` as variables are written."""
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in env.items()}


def from_variables(variables: Mapping[str, str]) -> Settings:
    """The settings of a proxy that serves, from these variables alone: no environment, no file.

    Raises SettingsError.
    """
    settings = build(Reader(variables), File(), "")
    refuse_loops(settings)
    return settings


def build(read: Reader, file: File, origin: str) -> Settings:
    """The settings from variables and file, with everything checked that can be checked without a network."""
    settings = Settings(
        home=home_of(read.variables),
        host=read.text("PROXY_HOST", "127.0.0.1"),
        port=read.integer("PROXY_PORT", 4181, least=1, most=65_535),
        base_path=base_path(read.text("PROXY_BASE_PATH")),
        processes=read.integer("PROXY_WORKERS", 1, least=1, most=256),
        trusted_proxies=networks(read.text("TRUSTED_PROXIES")),
        allowed_hosts=host_names(read.text("ALLOWED_HOSTS")),
        allowed_origins=origins(read.text("ALLOWED_ORIGINS")),
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
        bodies=bodies(read),
        max_head_bytes=read.integer("MAX_HEAD_BYTES", 65_536, least=4_096, most=1_048_576),
        max_url_bytes=read.integer("MAX_URL_BYTES", 16_384, least=1_024, most=65_536),
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
