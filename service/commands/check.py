"""`ccproxy check`: logs in to Redis and Postgres, and connects to providers, as the product does; checks settings and
credentials.

It sends no requests to providers, so it costs nothing. What the workers need, they check themselves: their check joins
as an entry point. Not here: fixing anything, requests to providers (`check_live`).
"""

import asyncio
import errno
import os
import socket
import stat
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import urlsplit

from msgspec.structs import replace
from redis.exceptions import RedisError

from service.commands.check_redis import check_redis
from service.commands.finding import Finding
from service.egress import UnusableProxy, egress_mistakes, proxy_for
from service.fleet.control_stream import read_control
from service.fleet.status import open_fleet, read_status
from service.http1.upstream import UpstreamClient, UpstreamError
from service.oauth.credentials_file import CredentialsFile, NoLogin, OAuthTokens, Unreadable
from service.routing.rank import serves_clients_only
from service.routing.route_status import describe_limit
from service.settings import Route, Settings, port_of
from service.settings.values import redacted_url

GROUP = "ccproxy.checks"
"""Checks of other packages: functions that take the settings, block, and return tuples of a finding's fields."""
TIMEOUT_S = 5.0
LONGEST_S = 30.0
"""Nothing that a check waits for takes longer."""
PROGRESS_S = 1.0
ROOM_BYTES = 1 << 20
"""What is written to see if a disk is full: a file can be created on one that is."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
BALANCER_MS = 60_000
"""The usual time after which a balancer cuts a silent connection."""

Progress = Callable[[Sequence[str]], None]


async def check_all(settings: Settings, redis_url: str | None, progress: Progress | None = None) -> list[Finding]:
    """Run all checks at once; findings are in the order in which one would fix them. `progress` is called each second
    with what is still waited for."""
    upstream = UpstreamClient(
        replace(settings.timeouts, connect_ms=min(settings.timeouts.connect_ms, round(TIMEOUT_S * 1000))),
        kind=settings.upstream_transport,
    )
    checks: dict[str, Awaitable[list[Finding]]] = {
        route.id: one(check_route(route, settings, upstream)) for route in settings.routes
    }
    checks |= {what: one(reach(what, url, upstream)) for what, url in other_addresses(settings)}
    checks |= redis_checks(settings, redis_url) if redis_url else {"redis": one(no_redis())}
    for point in entry_points(group=GROUP):
        checks[point.name] = others(point.load(), settings)
    try:
        found = await run_together(checks, progress)
    finally:
        await upstream.close()
    return [
        check_home(settings.home),
        *check_listening(settings),
        *(Finding("notice", None, words) for words in settings.notices),
        *balancer_notes(settings),
        *(Finding("egress", False, words) for words in egress_mistakes(settings.outward_urls)),
        *found,
    ]


def other_addresses(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield addresses that no route has: where clients' credentials go if there are no others, and where tokens are
    refreshed."""
    if serves_clients_only(settings.routes, settings.client_credentials):
        yield "clients", settings.client_route.base_url
    if any(route.auth == "oauth" and not route.off and not route.api_key for route in settings.routes):
        yield "login refresh", settings.oauth.refresh_url


async def one(finding: Awaitable[Finding]) -> list[Finding]:
    """Return a single finding as a list."""
    return [await finding]


def redis_checks(settings: Settings, url: str) -> dict[str, Awaitable[list[Finding]]]:
    """Return the checks of Redis, and of what operators have set there."""
    return {
        "redis": asyncio.to_thread(check_redis, url),
        "limits": asyncio.to_thread(check_limits, settings, url),
        "credentials": asyncio.to_thread(check_credentials, settings, url),
    }


async def no_redis() -> Finding:
    """Note that nothing names a Redis."""
    return Finding("redis", None, "not set; `ccproxy up` starts its own, otherwise set REDIS_URL")


def check_limits(settings: Settings, redis_url: str) -> list[Finding]:
    """Note the weekly limits that an operator set, where the settings have others. Blocks; its waits are bounded."""
    try:
        with open_fleet(redis_url) as redis:
            limits = read_control(redis).limits
    except (RedisError, OSError):
        return []  # the check of Redis says why
    return [
        Finding(route.id, None, describe_limit(limits[route.id], route.weekly_tokens))
        for route in settings.routes
        if limits.get(route.id, route.weekly_tokens) != route.weekly_tokens
    ]


def check_credentials(settings: Settings, redis_url: str) -> list[Finding]:
    """Find credentials that live proxies can't use, which only shows when they try: a log-in that has ended, a refresh
    that fails. Blocks; its waits are bounded."""
    try:
        found = read_status(settings, redis_url)
    except (RedisError, OSError):
        return []  # the check of Redis says why
    if not found.replicas:
        return []
    lost = [one for one in found.routes if one.state == "no_credential"]
    return [Finding(one.route, False, f"the proxies can't use its credential: {one.reason}") for one in lost]


async def others(check: Callable[[Settings], list[tuple[str, bool | None, str]]], settings: Settings) -> list[Finding]:
    """Run another package's check in a thread."""
    return [Finding(*fields) for fields in await asyncio.to_thread(check, settings)]


async def run_together(checks: dict[str, Awaitable[list[Finding]]], progress: Progress | None) -> list[Finding]:
    """Run checks at once and return their findings in order; one that takes too long is a finding itself."""
    tasks = {name: asyncio.ensure_future(bounded(name, check)) for name, check in checks.items()}
    while True:
        await asyncio.wait(tasks.values(), timeout=PROGRESS_S)
        waiting = [name for name, task in tasks.items() if not task.done()]
        if not waiting:
            return [finding for task in tasks.values() for finding in task.result()]
        if progress:
            progress(waiting)


async def bounded(name: str, check: Awaitable[list[Finding]]) -> list[Finding]:
    """Run one check; it ends in time."""
    try:
        async with asyncio.timeout(LONGEST_S):
            return await check
    except TimeoutError:
        return [Finding(name, False, f"no result within {LONGEST_S:.0f} s")]


def check_home(home: Path) -> Finding:
    """Check that data, logs and spool can be written."""
    place = home
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if place == home and is_open_to_changes(home):
        return Finding("home", False, f"other users can change files in {home}; run chmod go-w {home}")
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(ROOM_BYTES))
            file.flush()
    except OSError as error:
        mend = "make room there, or set" if error.errno in FULL else "set"
        words = f"{place} is not writable ({error.strerror}); {mend} CCPROXY_HOME to another folder"
        return Finding("home", False, words)
    return Finding("home", True, f"{home} is writable")


def check_listening(settings: Settings) -> list[Finding]:
    """Check that the proxy may listen where it is to. An address in use is no fault: the proxy may be running."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((settings.host, settings.port))
    except PermissionError:
        return [Finding("listen", False, f"port {settings.port} is for root only; set PROXY_PORT to 1024 or higher")]
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            why = error.strerror or str(error)
            words = f"can't listen on {settings.host} ({why}); set PROXY_HOST to an address of this machine"
            return [Finding("listen", False, words)]
    return []


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


async def check_route(route: Route, settings: Settings, upstream: UpstreamClient) -> Finding:
    """Check that a route has a credential and a reachable address."""
    if route.off:
        return Finding(route.id, None, route.off)
    if await is_self(route.base_url, settings):
        return Finding(route.id, False, f"{redacted_url(route.base_url)} is this proxy itself; correct the address")
    place = await reach(route.id, route.base_url, upstream)
    if route.auth != "oauth":
        return place
    is_good, words = await asyncio.to_thread(check_login, route, settings)
    return Finding(route.id, bool(place.ok and is_good), f"{place.words}; {words}")


async def reach(what: str, url: str, upstream: UpstreamClient) -> Finding:
    """Check that a connection opens as it would for a request: DNS, proxy, TLS; nothing is sent."""
    parts = urlsplit(url)
    place = f"{parts.hostname}:{port_of(url)}"
    try:
        proxy = proxy_for(url)
        way = f" by the proxy of {proxy.variable}" if proxy else ""
        await upstream.reach(url)
    except UnusableProxy as error:
        return Finding(what, False, str(error))
    except UpstreamError as error:
        return Finding(what, False, unreachable(f"{place}{way}", str(error), proxy.variable if proxy else ""))
    return Finding(what, True, f"{place} is reachable{way}")


def unreachable(place: str, words: str, variable: str) -> str:
    """Describe a connection that failed, with its mend. `variable` names the proxy, "" if there is none."""
    if words.startswith("SSL_CERT_"):
        return f"{place}: {words}"
    if "CERTIFICATE_VERIFY_FAILED" in words:
        return f"{place}: the certificate is not trusted ({words}); set SSL_CERT_FILE to the file with its CA"
    if "407" in words:
        return f"{place} can't be reached ({words}); the proxy wants a user and password in its URL"
    other = (
        f"correct {variable}, or name the host in NO_PROXY" if variable else "set HTTPS_PROXY if a proxy leads there"
    )
    return f"{place} can't be reached ({words}); correct the address, or {other}"


def check_login(route: Route, settings: Settings) -> tuple[bool, str]:
    """Check a subscription's token: valid, or refreshable by a running proxy. Returns the remaining time or the fix."""
    if route.api_key:
        return True, "static token, never refreshed"
    file = CredentialsFile(route.credentials_path)
    shared = bool(settings.oauth.share_key and settings.redis_url)
    try:
        tokens = file.read()
    except (NoLogin, Unreadable) as error:
        words, mend = f"{file.path} {error}", "log in with Claude Code"
        if isinstance(error, Unreadable):
            words, mend = f"{file.path} can't be read ({error})", f"repair it, or {mend} again"
        return shared, f"{words}; {'the token shared by another host is used' if shared else mend}"
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
    when = "again when it expires" if left_s > 0 else "again"
    return left_s > 0, f"{state}, and the proxy can't refresh it: {why}; log in with Claude Code {when}"


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
