"""Puts the settings together from variables and the TOML file, and refuses what would do harm at run time."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from msgspec.structs import replace

from service.errors import SettingsError
from service.ledger.price import PriceList
from service.ledger.price_list import price_list
from service.settings.database import database_url
from service.settings.failure_rules import packaged_rules
from service.settings.files import File, home_of, read_dotenv, read_file, unread_lines, with_secret_files
from service.settings.invoice import FOR_INVOICE
from service.settings.packaged import model_limits, prices_in_force
from service.settings.policy import CircuitPolicy, Policy
from service.settings.providers import Route
from service.settings.reader import Reader
from service.settings.routes import client_route, file_routes, providers_of, usual_routes
from service.settings.secret import LEDGER_KEYS
from service.settings.shapes import LOOPBACK_HOSTS, DrainTimes, Settings, Truncation
from service.settings.unused import unused_variables
from service.settings.values import listed, port_of
from service.settings.variables import OBSOLETE_PREFIXES, SECRETS

LOOPBACK_DRAIN = {"delay_ms": 0, "limit_ms": 10_000}
"""Nothing balances load on the loopback, and Ctrl-C should end soon."""
QUOTA_WAITS = 6
"""A used-up quota is seldom back as soon as a throttled route: by default it waits a minute."""
SHARED_DRAIN = {"delay_ms": 5_000, "limit_ms": 600_000}


def load(path: Path | None = None, environ: Mapping[str, str] | None = None, *, to_serve: bool = True) -> Settings:
    """The settings from the environment (else `.env`, else the file's `[env]`) and the TOML file at `path`.

    Without `path`, `CCPROXY_CONFIG` names it, else `ccproxy.toml` in CCPROXY_HOME is read where it exists. `to_serve`
    refuses what only a proxy that serves must not do: to be its own upstream. Raises SettingsError.
    """
    process = dict(os.environ if environ is None else environ)
    dotenv = read_dotenv(Path(".env")) if environ is None else {}
    merged = dotenv | process
    file, origin = read_file(path, Reader(merged).variables)
    variables = texts(file.env)
    secrets = [name for name in SECRETS if name not in FOR_INVOICE]
    keys = [route.api_key_env for route in file.routes if route.api_key_env]
    read = Reader(with_secret_files(variables | merged, [*secrets, *keys]))
    settings = build(read, file, origin)
    unused = unused_variables(read.variables, file, origin, dotenv, process)
    unread = unread_lines(Path(".env")) if environ is None else []
    settings = replace(settings, notices=(*settings.notices, *unread, *unused))
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
    providers = providers_of(file, read, origin)
    home = home_of(read.variables)
    routes = file_routes(file, read, providers, origin) if file.routes else usual_routes(read, providers)
    priced = prices(read, file, home, routes)
    settings = read.read(
        Settings,
        home=home,
        drain=drain(read),
        ledger_keys=LEDGER_KEYS in listed(read.text("PROXY_API_KEYS")),
        routes=routes,
        client_route=client_route(read, providers["anthropic"]),
        policy=policy(read, file, priced),
        prices=priced,
        truncation=truncation(read),
        database_url=database_url(read),
    )
    settings = replace(settings, notices=notices(read, settings))
    check(settings)
    return settings


def drain(read: Reader) -> DrainTimes:
    """The times of a graceful shutdown, which are shorter on the loopback unless they are set."""
    is_local = (read.text("PROXY_HOST") or "127.0.0.1") in LOOPBACK_HOSTS
    return read.read(DrainTimes, **(LOOPBACK_DRAIN if is_local else SHARED_DRAIN))


def prices(read: Reader, file: File, home: Path, routes: Iterable[Route]) -> PriceList:
    """Return the price list in force, with the file's own prices over it."""
    listed = prices_in_force(read.text("CCPROXY_PRICES"), home)
    return price_list(listed, file.prices, {route.id: route.provider.id for route in routes})


def policy(read: Reader, file: File, priced: PriceList) -> Policy:
    """Return the settings of routing."""
    circuit = read.read(CircuitPolicy)
    return read.read(
        Policy,
        circuit=replace(circuit, open_cap_ms=max(circuit.open_cap_ms, circuit.open_ms)),
        models=model_limits(file, priced),
        rules=packaged_rules().behind(file.failures, file.windows),
        wait_ms=circuit.open_ms,
        quota_wait_ms=min(circuit.open_ms * QUOTA_WAITS, max(circuit.open_ms, Policy().quota_wait_ms)),
    )


def truncation(read: Reader) -> Truncation:
    """Return the settings of truncation; without a limit it is off, as in the original."""
    asked = read.read(Truncation)
    return replace(asked, enabled=asked.enabled and asked.limit_tokens > 0)


def notices(read: Reader, settings: Settings) -> tuple[str, ...]:
    """Return warnings about settings that are accepted."""
    found = [f"{name} has no effect here" for name in read.variables if name.startswith(OBSOLETE_PREFIXES)]
    found += read.notices
    codes = settings.policy.fallback_on_codes
    if codes and 529 not in codes:
        found.append("FALLBACK_ON_CODES leaves out 529, Anthropic's status for overload: clients get such responses")
    if settings.truncation.enabled:
        most = f"{settings.truncation.most_tokens:,} tokens"
        found.append(f"CONTEXT_WINDOW_ENABLED: conversations of more than {most} lose their oldest messages")
    return tuple(found)


def check(settings: Settings) -> None:
    """Refuse what would do harm at run time. Raises SettingsError."""
    if not settings.loopback and not settings.asks_for_keys:
        raise SettingsError(
            f"PROXY_HOST: {settings.host} is open to other machines; set PROXY_API_KEYS (`ledger`: the keys that "
            "`ccproxy keys issue` creates), or listen on 127.0.0.1"
        )


def refuse_loops(settings: Settings) -> None:
    """Refuse a proxy that is its own upstream. Raises SettingsError."""
    own_hosts = {*LOOPBACK_HOSTS, settings.host, "0.0.0.0", "::"}  # noqa: S104 - nothing listens on these here
    for route in (*settings.routes, settings.client_route):
        if urlsplit(route.base_url).hostname in own_hosts and port_of(route.base_url) == settings.port:
            raise SettingsError(
                f"route {route.id!r}: {route.base_url} is this proxy itself, so requests would loop forever. "
                "If ANTHROPIC_BASE_URL was exported for Claude Code, start the proxy without it: "
                "env -u ANTHROPIC_BASE_URL ccproxy up"
            )
