"""Host and origin checks, and CORS: protection against attacks through a user's browser.

A web page in a browser on this machine reaches the loopback like any program. Three headers that no page can forge
distinguish it from a client: `Host` names what the browser believes to connect to (DNS rebinding), `Origin` and
`Sec-Fetch-Site` tell where a request was made. Clients such as Claude Code and the SDKs do not send the latter two.

- A listener on the loopback accepts loopback names and ALLOWED_HOSTS. Another listener accepts any name until
  ALLOWED_HOSTS is set, and always its own (PROXY_HOST) and addresses: only names can be rebound.
- A request from another origin is rejected unless the origin is in ALLOWED_ORIGINS. Links to pages of the console work
  from anywhere.
- Origins in ALLOWED_ORIGINS may read responses of the Messages API (CORS). Scripts of other origins read nothing.

Not here: client keys (`keys`), sessions of the admin API (`console.auth`), `X-Forwarded-*` (`forwarded`).
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from service.edge.forwarded import behind_trusted_proxies
from service.edge.request_log import log_request
from service.edge.responses import AsgiResponseWriter, OwnError
from service.errors import ClientError, ForeignOrigin, NoHost, UnknownHost
from service.loopback import host_name, is_address, is_loopback
from service.settings import Settings

OWN_SITES = frozenset((b"same-origin", b"none"))
"""`none`: initiated by the user, such as a bookmark. `same-site` is foreign: all ports of localhost are one site."""
CONSOLE_PAGES = frozenset(("/", "/dashboard", "/dashboard/", "/logs/ui", "/schema", "/schema/"))
NAVIGATION = {b"sec-fetch-mode": b"navigate", b"sec-fetch-dest": b"document"}
"""A page opened in a tab of its own, which the linking page can't read; in a frame the destination is not a
document."""
WEB_SCHEMES = ("http", "https")
API = "/v1/"
METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
PREFLIGHT_MAX_AGE_S = b"600"
HEADER_NAMES = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~, -]{1,4096}")
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9._:\[\]-]+")
NOBODYS = ("null", "file://")
"""Origins that any page can have; ALLOWED_ORIGINS rejects them."""
HOST_CHARS = 300
CACHED_HOSTS = 256

Headers = Mapping[bytes, bytes]


class OriginGuard:
    """Wraps ASGI applications so that they only get requests from clients, own pages and allowed origins.

    `on_refusal` is called for each rejected request.
    """

    def __init__(
        self, settings: Settings, new_request_id: Callable[[], str], on_refusal: Callable[[str], None]
    ) -> None:
        self._loopback = settings.loopback
        self._serves_any = not settings.loopback and not settings.allowed_hosts
        self._hosts = frozenset((*settings.allowed_hosts, settings.host.lower()))
        self._origins = frozenset(origin.encode() for origin in settings.allowed_origins)
        self._trusted = settings.trusted_proxies
        self._new_request_id = new_request_id
        self._on_refusal = on_refusal
        self._served_hosts: set[bytes] = set()

    def wrap(self, app: ASGIApp) -> ASGIApp:
        """Wrap an application in the checks of this guard.

        From trusted proxies, the forwarded host is checked like `Host`: a page can send `X-Forwarded-Host`, but not
        choose `Host`.
        """
        app = self._checking_all(app)
        return self._checking_hosts(behind_trusted_proxies(app, self._trusted)) if self._trusted else app

    def _checking_all(self, app: ASGIApp) -> ASGIApp:
        served_hosts = self._served_hosts

        def handle(scope: Scope, receive: Receive, send: Send) -> Any:
            if scope["type"] != ScopeType.HTTP:
                return app(scope, receive, send)
            named = dict(scope["headers"])
            if (
                named.get(b"host") in served_hosts
                and b"origin" not in named
                and b"sec-fetch-site" not in named
                and scope["method"] != "OPTIONS"
            ):
                return app(scope, receive, send)
            return self._answer(app, scope, receive, send, named)

        return handle

    def _checking_hosts(self, app: ASGIApp) -> ASGIApp:
        async def handle(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                if scope["type"] == ScopeType.HTTP:
                    self._check_host(scope, dict(scope["headers"]))
            except ClientError as error:
                await self._refuse(scope, send, error)
            else:
                await app(scope, receive, send)

        return handle

    async def _answer(self, app: ASGIApp, scope: Any, receive: Receive, send: Send, named: Headers) -> None:
        """Check a request from a browser, an OPTIONS request, or the first one with this Host, then answer it."""
        try:
            self._check_host(scope, named)
            self._check_origin(scope, named)
        except ClientError as error:
            await self._refuse(scope, send, error)
            return
        if not scope["path"].startswith(API):
            await app(scope, receive, send)
            return
        origin = named.get(b"origin", b"")
        if origin in self._origins:
            send = readable(send, origin)
        if scope["method"] == "OPTIONS":
            await answer_options(send, named if origin in self._origins else {})
        else:
            await app(scope, receive, varying(send))

    async def _refuse(self, scope: Any, send: Send, error: ClientError) -> None:
        """Answer with an error, count and log it."""
        reply = AsgiResponseWriter(varying(send), self._new_request_id())
        reply.error = OwnError(error.status, error.message, str((scope.get("client") or ("",))[0]))
        reason = "foreign_host" if isinstance(error, UnknownHost) else "foreign_origin"
        self._on_refusal(reason)
        try:
            await reply.fail(error)
        finally:
            log_request(reply, "other", "refused", reason)

    def _check_host(self, scope: Any, named: Headers) -> None:
        """Raise NoHost or UnknownHost."""
        host = named.get(b"host", b"")
        if not host:
            if scope["http_version"] != "1.0":
                raise NoHost("a request needs a Host header")
        elif not self._serves_host(host):
            name = host_name(host[:HOST_CHARS].decode("latin-1")) or "this host name"
            raise UnknownHost(
                f"requests to {name} are not allowed; if that is a name of this proxy, add it to ALLOWED_HOSTS"
            )

    def _serves_host(self, host: bytes) -> bool:
        """True if the proxy accepts this value of Host."""
        if host in self._served_hosts:
            return True
        is_served = len(host) <= HOST_CHARS and self._answers_to(host_name(host.decode("latin-1")))
        if is_served and len(self._served_hosts) < CACHED_HOSTS:
            self._served_hosts.add(host)
        return is_served

    def _answers_to(self, name: str) -> bool:
        if self._serves_any or is_loopback(name) or name in self._hosts:
            return True
        return not self._loopback and is_address(name)

    def _check_origin(self, scope: Any, named: Headers) -> None:
        """Raise ForeignOrigin for a request that a page of another origin has initiated."""
        origin = named.get(b"origin", b"")
        if origin in self._origins:
            return
        is_own_site = named.get(b"sec-fetch-site", b"none") in OWN_SITES
        if is_own_site and (not origin or is_own(origin, named.get(b"host", b""))):
            return
        if not origin and self._opens_page(scope, named):
            return
        raise ForeignOrigin(reason_against(origin))

    def _opens_page(self, scope: Any, named: Headers) -> bool:
        """True if a link to a page of the console is followed."""
        is_navigation = all(named.get(name) == value for name, value in NAVIGATION.items())
        return is_navigation and scope["method"] in ("GET", "HEAD") and scope["path"] in CONSOLE_PAGES


def reason_against(origin: bytes) -> str:
    """Explain the rejection of an origin, with the fix: `null` and the like can't be allowed, since any page may have
    them."""
    text = origin[:HOST_CHARS].decode("latin-1").lower()
    if text in NOBODYS:
        return (
            "web pages without an origin (local files, sandboxed frames) may not use this proxy; serve the page from "
            "an address, and add that to ALLOWED_ORIGINS"
        )
    whose = text if ORIGIN.fullmatch(text) else "another origin"
    return f"web pages from {whose} may not use this proxy; to allow them, add their origin to ALLOWED_ORIGINS"


def is_own(origin: bytes, host: bytes) -> bool:
    """True if an origin is the proxy's own, by the name that the browser uses.

    Schemes are not compared: TLS may end before the proxy.
    """
    scheme, _, authority = origin.lower().decode("latin-1").partition("://")
    return scheme in WEB_SCHEMES and authority == host.lower().decode("latin-1")


async def answer_options(send: Send, asked: Headers) -> None:
    """Answer OPTIONS; allows everything in the preflight of an allowed origin (`asked`)."""
    headers = [(b"allow", METHODS)]
    if b"access-control-request-method" in asked:
        headers += [(b"access-control-allow-methods", METHODS), (b"access-control-max-age", PREFLIGHT_MAX_AGE_S)]
        names = asked.get(b"access-control-request-headers", b"")
        if HEADER_NAMES.fullmatch(names):
            headers.append((b"access-control-allow-headers", names))
        if asked.get(b"access-control-request-private-network") == b"true":
            headers.append((b"access-control-allow-private-network", b"true"))
    message: Any = {"type": "http.response.start", "status": 204, "headers": headers}
    await varying(send)(message)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def readable(send: Send, origin: bytes) -> Send:
    """Wrap `send` to add headers that let scripts of this origin read the response."""

    async def send_readable(message: Any) -> None:
        if message["type"] == "http.response.start":
            names = b", ".join(name for name, _ in message["headers"])
            own = [(b"access-control-allow-origin", origin), (b"access-control-expose-headers", names)]
            message["headers"] = [*message["headers"], *own]
        await send(message)

    return send_readable


def varying(send: Send) -> Send:
    """Wrap `send` to tell caches that the response depends on the origin."""

    async def send_varying(message: Any) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"vary", b"origin")]
        await send(message)

    return send_varying
