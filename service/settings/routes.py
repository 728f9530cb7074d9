"""Providers and routes: the usual three of the environment, or those of the TOML file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from service.errors import SettingsError
from service.settings.files import File, RouteFile
from service.settings.reader import Reader, checked_url
from service.settings.shapes import ANTHROPIC, CLIENT_ROUTE_ID, ZAI, Provider, Route, Secret
from service.settings.variables import DEFAULT_CREDENTIALS_PATH


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
        off=None if key else missing_credential(entry),
    )


def missing_credential(entry: RouteFile) -> str | None:
    """What a route without a key lacks; nothing when it has a credentials file."""
    is_oauth = entry.auth == "oauth"
    if is_oauth and entry.credentials_path:
        return None
    return f"no key; set {entry.api_key_env or ('credentials_path' if is_oauth else 'api_key_env')}"
