"""Providers and routes: the usual three that the environment describes, or those of the TOML file."""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Struct

from service.errors import SettingsError
from service.settings import values
from service.settings.files import File, ProviderFile, RouteFile
from service.settings.providers import ANTHROPIC, CLIENT_ROUTE_ID, ZAI, Provider, Route
from service.settings.reader import Reader
from service.settings.secret import Secret, provider_key
from service.settings.setting import Section, Setting

MOST_CONCURRENCY = 100_000


class AnthropicSettings(Struct, frozen=True):
    """The route `anthropic`, and the address for clients that bring their own credential."""

    api_key: Annotated[
        Secret, Setting("ANTHROPIC_API_KEY", Section.ANTHROPIC, "key of the route `anthropic`", parse=provider_key)
    ] = Secret("")
    base_url: Annotated[
        str,
        Setting(
            "ANTHROPIC_BASE_URL", Section.ANTHROPIC, "base URL of the route `anthropic`", parse=values.provider_url
        ),
    ] = ANTHROPIC.base_url
    weekly_tokens: Annotated[
        int,
        Setting("ANTHROPIC_WEEKLY_LIMIT", Section.ANTHROPIC, "tokens per week on `anthropic`; 0 is no limit"),
    ] = 0
    concurrency: Annotated[
        int,
        Setting(
            "ANTHROPIC_CONCURRENCY",
            Section.ANTHROPIC,
            "most requests in flight on `anthropic`, across the fleet; 0 is no limit",
            most=MOST_CONCURRENCY,
        ),
    ] = 0


class SubscriptionSettings(Struct, frozen=True):
    """The route `subscription`. It is on when `enabled` says so, or else when a token or a path is set."""

    enabled: Annotated[
        bool | None,
        Setting(
            "CLAUDE_SUBSCRIPTION_ENABLED",
            Section.SUBSCRIPTION,
            "`true` turns the subscription on, `false` off (see docs/limits.md)",
            parse=values.flag,
        ),
    ] = None
    token: Annotated[
        Secret,
        Setting(
            "CLAUDE_CODE_OAUTH_TOKEN",
            Section.SUBSCRIPTION,
            "a long-lived subscription token; setting it turns the subscription on",
            parse=provider_key,
        ),
    ] = Secret("")
    credentials_path: Annotated[
        str,
        Setting(
            "CLAUDE_CREDENTIALS_PATH",
            Section.SUBSCRIPTION,
            "file with the subscription's tokens; setting it turns the subscription on",
        ),
    ] = "~/.claude/.credentials.json"
    base_url: Annotated[
        str,
        Setting(
            "CLAUDE_SUBSCRIPTION_BASE_URL",
            Section.SUBSCRIPTION,
            "base URL of the route `subscription`",
            parse=values.provider_url,
        ),
    ] = ANTHROPIC.base_url
    weekly_tokens: Annotated[
        int,
        Setting(
            "SUBSCRIPTION_WEEKLY_LIMIT",
            Section.SUBSCRIPTION,
            "tokens per week on `subscription`; 0 is no limit",
        ),
    ] = 0
    concurrency: Annotated[
        int,
        Setting(
            "SUBSCRIPTION_CONCURRENCY",
            Section.SUBSCRIPTION,
            "most requests in flight on `subscription`, across the fleet; 0 is no limit",
            most=MOST_CONCURRENCY,
        ),
    ] = 0


class ZaiSettings(Struct, frozen=True):
    """The route `zai`."""

    api_key: Annotated[Secret, Setting("ZAI_API_KEY", Section.ZAI, "key of the route `zai`", parse=provider_key)] = (
        Secret("")
    )
    base_url: Annotated[
        str, Setting("ZAI_BASE_URL", Section.ZAI, "base URL of the route `zai`", parse=values.provider_url)
    ] = ZAI.base_url
    weekly_tokens: Annotated[
        int, Setting("ZAI_WEEKLY_LIMIT", Section.ZAI, "tokens per week on `zai`; 0 is no limit")
    ] = 0
    concurrency: Annotated[
        int,
        Setting(
            "ZAI_CONCURRENCY",
            Section.ZAI,
            "most requests in flight on `zai`, across the fleet; 0 is no limit",
            most=MOST_CONCURRENCY,
        ),
    ] = 0


OPT_IN = frozenset(("token", "credentials_path"))
"""Fields that turn the subscription on by being set."""
OF_ROUTE: dict[str, type[Struct]] = {
    "anthropic": AnthropicSettings,
    "subscription": SubscriptionSettings,
    "zai": ZaiSettings,
}
"""The settings of the usual routes, by id."""
ROUTE_SETTINGS = tuple(OF_ROUTE.values())


def providers_of(file: File, read: Reader, origin: str) -> dict[str, Provider]:
    """The known providers and those of the file."""
    known = {"anthropic": ANTHROPIC, "zai": ZAI}
    for name, entry in file.providers.items():
        known[name] = provider_of(name, entry, known.get(name), read, f"{origin}: providers.{name}")
    return known


def provider_of(name: str, entry: ProviderFile, base: Provider | None, read: Reader, place: str) -> Provider:
    """A provider of the file; what it leaves out is that of `base`, the known provider of the name."""
    given = {key: value for key, value in msgspec.structs.asdict(entry).items() if value not in ("", None)}
    if base is None and not entry.base_url:
        raise SettingsError(f"{place}: base_url is missing")
    if entry.families is not None:
        given["families"] = tuple(family.lower() for family in entry.families)
    if entry.base_url:
        given["base_url"] = read.parse(f"{place}.base_url", values.provider_url, entry.base_url)
    start: dict[str, Any] = {"id": name, "title": name} if base is None else msgspec.structs.asdict(base)
    return Provider(**(start | given))


def usual_routes(read: Reader, providers: Mapping[str, Provider]) -> tuple[Route, ...]:
    """The three routes of the environment: anthropic, subscription, zai."""
    anthropic, zai = providers["anthropic"], providers["zai"]
    return (
        key_route(read.read(AnthropicSettings, base_url=anthropic.base_url), anthropic, "ANTHROPIC_API_KEY"),
        subscription_route(read, anthropic),
        key_route(read.read(ZaiSettings, base_url=zai.base_url), zai, "ZAI_API_KEY"),
    )


def key_route(settings: AnthropicSettings | ZaiSettings, provider: Provider, variable: str) -> Route:
    """A route with an API key, which `variable` sets."""
    return Route(
        id=provider.id,
        title=provider.title,
        provider=provider,
        base_url=settings.base_url,
        api_key=settings.api_key,
        weekly_tokens=settings.weekly_tokens,
        concurrency=settings.concurrency,
        off=None if settings.api_key else f"no key; set {variable}",
    )


def client_route(read: Reader, provider: Provider) -> Route:
    """The pseudo-route of clients that bring their own credential."""
    return Route(
        id=CLIENT_ROUTE_ID,
        title="Anthropic (client's own credential)",
        provider=provider,
        base_url=read.read(AnthropicSettings, base_url=provider.base_url).base_url,
        auth="client",
    )


def subscription_route(read: Reader, provider: Provider) -> Route:
    """The subscription. It is opt-in: by its switch, its token or its path."""
    settings = read.read(SubscriptionSettings, base_url=provider.base_url)
    is_on = not OPT_IN.isdisjoint(read.given(SubscriptionSettings)) if settings.enabled is None else settings.enabled
    return Route(
        id="subscription",
        title="Claude subscription",
        provider=provider,
        base_url=settings.base_url,
        auth="oauth",
        api_key=settings.token,
        credentials_path=str(values.expanded(settings.credentials_path)),
        weekly_tokens=settings.weekly_tokens,
        concurrency=settings.concurrency,
        off=None if is_on else "opt-in; set CLAUDE_SUBSCRIPTION_ENABLED=true",
    )


def file_routes(file: File, read: Reader, providers: Mapping[str, Provider], origin: str) -> tuple[Route, ...]:
    """The routes of the file, in its order."""
    routes: list[Route] = []
    for entry in file.routes:
        place = f"{origin}: route {entry.id!r}"
        provider = providers.get(entry.provider)
        if provider is None:
            raise SettingsError(f"{place}: unknown provider {entry.provider!r}; known: {', '.join(providers)}")
        if entry.id in {route.id for route in routes} or entry.id == "control" or not is_route_id(entry.id):
            raise SettingsError(
                f"{place}: the id must be unique, must consist of a-z 0-9 - _, and must not be 'control'"
            )
        routes.append(file_route(entry, provider, read, place))
    return tuple(routes)


def is_route_id(text: str) -> bool:
    """Return true if a text can be a route's name in keys, headers and logs."""
    return bool(text) and len(text) <= 64 and all(char.isascii() and (char.isalnum() or char in "-_") for char in text)


def file_route(entry: RouteFile, provider: Provider, read: Reader, place: str) -> Route:
    """One route of the file."""
    key = entry.api_key.strip() or (read.text(entry.api_key_env) if entry.api_key_env else "")
    return Route(
        id=entry.id,
        title=entry.title or entry.id,
        provider=provider,
        base_url=read.parse(f"{place}: base_url", values.provider_url, entry.base_url or provider.base_url),
        auth=entry.auth,
        api_key=read.parse(f"{place}: {'api_key' if entry.api_key else entry.api_key_env}", provider_key, key),
        credentials_path=str(values.expanded(entry.credentials_path)) if entry.credentials_path else "",
        weekly_tokens=entry.weekly_tokens,
        concurrency=entry.concurrency,
        model_map=entry.model_map,
        off=None if key else missing_credential(entry),
        from_file=True,
    )


def missing_credential(entry: RouteFile) -> str | None:
    """Why a route without a key is off; None when it has a credentials file."""
    is_oauth = entry.auth == "oauth"
    if is_oauth and entry.credentials_path:
        return None
    return f"no key; set {entry.api_key_env or ('credentials_path' if is_oauth else 'api_key_env')}"
