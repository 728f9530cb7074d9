"""`ccproxy check`: checks settings, credentials and addresses before a start.

It opens connections but sends no requests to providers, so it costs nothing. Not here: fixing anything.
"""

import asyncio
import contextlib
import os
import socket
import ssl
import stat
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from msgspec import Struct

from service.egress import proxy_mistakes
from service.oauth.credentials_file import CredentialsFile, NoLogin, OAuthTokens, Unreadable
from service.settings import Route, Settings, port_of
from service.settings.redis_url import place_of

TIMEOUT_S = 5.0
BALANCER_MS = 60_000
"""The usual time after which a balancer cuts a silent connection."""


class Finding(Struct, frozen=True):
    """Result of a check. `ok` None: not configured, which is no error."""

    what: str
    ok: bool | None
    words: str


async def check_all(settings: Settings, redis_url: str | None, database_url: str | None) -> list[Finding]:
    """Run all checks; findings are in the order in which one would fix them."""
    places = [check_redis(redis_url)] if redis_url else []
    places += [check_address("postgres", database_url, settings.database_connect_s)] if database_url else []
    routes = [check_route(route, settings) for route in settings.routes]
    found = await asyncio.gather(*routes, *places)
    missing = [
        Finding(name, None, f"not set; `ccproxy up` starts its own, otherwise set {variable}")
        for name, url, variable in (("redis", redis_url, "REDIS_URL"), ("postgres", database_url, "DATABASE_URL"))
        if not url
    ]
    return [
        check_home(settings.home),
        *(Finding("notice", None, words) for words in settings.notices),
        *balancer_notes(settings),
        *(Finding("egress", False, words) for words in proxy_mistakes(settings.outward_urls)),
        *found,
        *missing,
    ]


def check_home(home: Path) -> Finding:
    """Check that data, logs and spool can be written."""
    place = home
    while not place.exists() and place != place.parent:
        place = place.parent
    if place == home and is_open_to_changes(home):
        return Finding("home", False, f"other users can change files in {home}; run chmod go-w {home}")
    if place.is_dir() and os.access(place, os.W_OK):
        return Finding("home", True, f"{home} is writable")
    return Finding("home", False, f"{place} is not writable; set CCPROXY_HOME to another folder")


def is_open_to_changes(folder: Path) -> bool:
    """True if others may rename or replace files in a folder; in a sticky one, such as /tmp, they may not."""
    mode = folder.stat().st_mode
    return bool(mode & (stat.S_IWGRP | stat.S_IWOTH)) and not mode & stat.S_ISVTX


def balancer_notes(settings: Settings) -> list[Finding]:
    """What a balancer before the proxy has to know, where there may be one."""
    if settings.loopback and not settings.trusted_proxies:
        return []
    timeouts = settings.timeouts
    late = not 0 < timeouts.head_after_ms < BALANCER_MS
    what = "streams, and answers in one piece," if late else "answers in one piece"
    words = (
        f"{what} may have no byte for {timeouts.request_ms // 1000} s, which a balancer has to wait for: "
        "nginx and most others cut after 60 s (nginx: proxy_read_timeout); see docs/replicas.md"
    )
    return [Finding("balancer", None, words)]


async def check_route(route: Route, settings: Settings) -> Finding:
    """Check that a route has a credential and a reachable address."""
    if route.off:
        return Finding(route.id, None, route.off)
    if await is_self(route.base_url, settings):
        return Finding(route.id, False, f"{route.base_url} is this proxy itself; correct the address")
    place = await check_address(route.id, route.base_url)
    if route.auth != "oauth":
        return place
    is_good, words = await asyncio.to_thread(check_login, route, settings)
    return Finding(route.id, bool(place.ok and is_good), f"{place.words}; {words}")


def check_login(route: Route, settings: Settings) -> tuple[bool, str]:
    """Check a subscription's token: valid, or refreshable by a running proxy. Returns the remaining time or the fix."""
    if route.api_key:
        return True, "static token, never refreshed"
    file = CredentialsFile(route.credentials_path)
    shared = bool(settings.oauth.share_key and settings.redis_url)
    try:
        tokens = file.read()
    except (NoLogin, Unreadable) as error:
        words = f"{file.path}: {error}" if isinstance(error, Unreadable) else f"{file.path} {error}"
        return shared, f"{words}; " + (
            "the token shared by another host is used" if shared else "log in with Claude Code"
        )
    if not tokens.expires_at_ms:
        return True, "its token does not expire"
    return look_at_expiry(tokens, shared=shared, can_write=file.can_write())


def look_at_expiry(tokens: OAuthTokens, *, shared: bool, can_write: bool) -> tuple[bool, str]:
    """The same for a token that expires. `shared`: another host may refresh it; `can_write`: this one may keep it."""
    left_s = tokens.expires_at_ms // 1000 - int(time.time())
    state = f"its token is valid for {left_s // 60} minutes" if left_s > 0 else "its token has expired"
    if tokens.refresh_token and can_write:
        return True, f"{state}; refreshed by the proxy"
    if shared:
        return True, f"{state}; refreshed by another host"
    why = "the file is not writable" if tokens.refresh_token else "there is no refresh token"
    return left_s > 0, f"{state}, and the proxy can't refresh it: {why}; log in with Claude Code again when it expires"


async def check_address(what: str, url: str, timeout_s: float = TIMEOUT_S) -> Finding:
    """Check that an address accepts connections, with a trusted certificate for TLS."""
    try:
        parts, port = urlsplit(url), port_at(url)
    except ValueError:
        return Finding(what, False, "the address can't be read; see docs/settings.md for its form")
    tls = ssl.create_default_context() if parts.scheme == "https" else None
    return await check_connection(what, parts.hostname or "", port, tls, timeout_s)


async def check_redis(url: str) -> Finding:
    """Check Redis: the server, or any of the Sentinels or Cluster nodes in the URL."""
    place = place_of(url)
    if not place.nodes[0][1]:
        path = place.nodes[0][0]
        return Finding("redis", os.access(path, os.W_OK), f"the socket {path}")
    trusted = parse_qs(urlsplit(url).query).get("ssl_ca_certs", [""])[0] or None
    try:
        tls = ssl.create_default_context(cafile=trusted) if place.tls else None
    except OSError as error:
        return Finding("redis", False, f"{trusted} can't be read ({error.strerror or error})")
    found = [await check_connection("redis", host, port, tls) for host, port in place.nodes]
    return next((finding for finding in found if finding.ok), found[0])


async def check_connection(
    what: str, host: str, port: int, tls: ssl.SSLContext | None, timeout_s: float = TIMEOUT_S
) -> Finding:
    """Check that a connection can be opened."""
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(host, port, ssl=tls)
    except ssl.SSLError as error:
        return Finding(
            what, False, f"{host}:{port}: the certificate is not trusted ({error.reason}); see SSL_CERT_FILE"
        )
    except (OSError, TimeoutError) as error:
        return Finding(what, False, f"{host}:{port} can't be reached ({str(error) or 'no response'})")
    writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        await asyncio.wait_for(writer.wait_closed(), 1)
    return Finding(what, True, f"{host}:{port} is reachable")


def port_at(url: str) -> int:
    """Return the port of a URL of any supported scheme."""
    parts = urlsplit(url)
    usual = {"postgres": 5432, "postgresql": 5432}
    return parts.port or usual.get(parts.scheme) or port_of(url)


async def is_self(url: str, settings: Settings) -> bool:
    """True if an address leads to this machine and this proxy's port."""
    if port_of(url) != settings.port:
        return False
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            found = await loop.getaddrinfo(urlsplit(url).hostname or "", settings.port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError):
        return False
    return any(is_local(family, address[0]) for family, _, _, _, address in found)


def is_local(family: socket.AddressFamily, address: str | int) -> bool:
    """True if an address belongs to this machine, so that a socket can be bound to it."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True
