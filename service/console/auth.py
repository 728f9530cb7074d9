"""Authentication and authorization of the admin API: tokens with two roles, and browser sessions.

- Tokens: `ADMIN_TOKEN`, else one created at the first start and stored in CCPROXY_HOME, readable by its owner alone;
  `VIEWER_TOKEN` is read-only. Scripts send one as `Authorization: Bearer`.
- Sessions: a cookie with role and expiry, signed with a key derived from the tokens, so that all proxies with the same
  tokens accept it; only revoked sessions are stored. A new token ends all sessions.
- A change with a cookie needs the session's CSRF token in a header, which other sites can't send. Over https the
  cookie's name has the prefix `__Host-`, so that browsers accept it from this host only.
- Wrong tokens and wrongly signed cookies are answered with a growing delay (`auth_throttle`).

Not here: the endpoints (`admin`).
"""

import hmac
import os
import secrets
import time
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path
from typing import Any

from litestar.connection import ASGIConnection
from litestar.datastructures import Cookie
from litestar.handlers import BaseRouteHandler
from msgspec import Struct

from service.auth_throttle import AuthThrottle
from service.console.api_types import Role, Session
from service.console.revoked_sessions import RevokedSessions
from service.errors import AskedTooOften, ClientError, NotAllowed, NotLoggedIn
from service.private_files import close_to_others, make_folder
from service.settings import Settings

COOKIE = "ccproxy_session"
CSRF_HEADER = "x-ccproxy-csrf"
SESSION_S = 12 * 3_600
TOKEN_FILE = "admin-token"  # noqa: S105 - its name, not the token
TOKEN_BYTES = 24
SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))
REQUESTS_PER_S = 50.0
REQUEST_BURST = 300.0
"""A dashboard sends a few requests a second; scripts that need more should use Redis or Prometheus."""


class Principal(Struct, frozen=True):
    """The caller: its role, and the session's value if it came by cookie."""

    role: Role
    session: str = ""


class Access:
    """Checks tokens and sessions."""

    def __init__(self, settings: Settings, brake: AuthThrottle, ended: RevokedSessions) -> None:
        self._brake = brake
        self._ended = ended
        self._tokens: list[tuple[bytes, Role]] = []
        self._cookie_path = settings.base_path or "/"
        self._settings = settings
        self._key = secrets.token_bytes(32)
        self._left = REQUEST_BURST
        self._counted_s = time.monotonic()
        self.set_admin_token(settings.admin_token.reveal() or secrets.token_hex(TOKEN_BYTES))

    def open(self) -> None:
        """Load or create the stored token if the settings have none. Raises OSError."""
        if not self._settings.admin_token:
            self.set_admin_token(kept_token(self._settings.home))

    def set_admin_token(self, admin: str) -> None:
        """Set the admin token."""
        viewer = self._settings.viewer_token.reveal()
        known: list[tuple[str, Role]] = [(admin, "admin")]
        if viewer:
            known.append((viewer, "viewer"))
        self._tokens = [(sha256(token.encode()).digest(), role) for token, role in known]
        self._key = sha256(f"sessions of {admin} and {viewer}".encode()).digest()

    def role_of(self, token: str) -> Role | None:
        """Return a token's role. Always compares all tokens, in constant time."""
        digest = sha256(token.encode()).digest()
        found = [role for known, role in self._tokens if compare_digest(known, digest)]
        return found[0] if found else None

    async def log_in(self, token: str, address: str, *, secure: bool) -> tuple[Session, Cookie]:
        """Create a session for a valid token. Raises NotLoggedIn."""
        role = self.role_of(token)
        if role is None:
            raise await self.wrong_token_error(address)
        self._brake.accept(address, role)
        expires_s = int(time.time()) + SESSION_S
        said = f"{role}.{expires_s}.{secrets.token_hex(8)}"
        value = f"{said}.{self._sign(said)}"
        return self._told(role, value), self._cookie(value, SESSION_S, secure=secure)

    async def log_out(self, asker: Principal, *, secure: bool) -> Cookie:
        """Revoke the session and return the cookie that deletes it."""
        if asker.session:
            _, expires, chance = session_parts(asker.session)
            await self._ended.add(chance, int(expires))
        return self._cookie("", 0, secure=secure)

    async def authenticate(self, connection: ASGIConnection[Any, Any, Any, Any]) -> Principal:
        """Authenticate a connection. Raises NotLoggedIn, AskedTooOften."""
        address = address_of(connection)
        scheme, _, token = connection.headers.get("authorization", "").partition(" ")
        if token and scheme.lower() == "bearer":
            role = self.role_of(token.strip())
            if role is None:
                raise await self.wrong_token_error(address)
            self._brake.accept(address, role)
            asker = Principal(role)
        else:
            name = self.cookie_name(secure=connection.scope["scheme"] == "https")
            asker = await self._of_session(connection.cookies.get(name, ""), address)
        self._count()
        return asker

    async def wrong_token_error(self, address: str) -> ClientError:
        """Return the error for a wrong token, after the throttle's delay."""
        error = NotLoggedIn("wrong token; `ccproxy admin token` prints the right one")
        return await self._brake.delay_failure(address, error)

    def session_of(self, asker: Principal) -> Session:
        """Return the caller's session; a bearer token needs no CSRF token and does not expire."""
        return (
            self._told(asker.role, asker.session)
            if asker.session
            else Session(role=asker.role, csrf="", expires_at_ms=0)
        )

    def check_csrf(self, asker: Principal, shown: str) -> None:
        """Raise NotAllowed for a change by cookie without the session's CSRF token."""
        if asker.session and not compare_digest(self._csrf(asker.session).encode(), shown.encode()):
            raise NotAllowed(f"changes need the session's CSRF token in the header {CSRF_HEADER}")

    async def _of_session(self, value: str, address: str) -> Principal:
        error = NotLoggedIn("not logged in: send a token as Authorization: Bearer, or log in")
        if not value:
            raise error
        said, _, signature = value.rpartition(".")
        if not said or not compare_digest(self._sign(said).encode(), signature.encode()):
            raise await self._brake.delay_failure(address, error)
        role, expires, chance = session_parts(value)
        if int(expires) <= time.time() or await self._ended.has(chance):
            raise NotLoggedIn("this session has ended; log in again")
        return Principal("admin" if role == "admin" else "viewer", value)

    def _told(self, role: Role, value: str) -> Session:
        return Session(role=role, csrf=self._csrf(value), expires_at_ms=int(value.split(".")[1]) * 1000)

    def _sign(self, said: str) -> str:
        return hmac.new(self._key, said.encode(), "sha256").hexdigest()

    def _csrf(self, value: str) -> str:
        return self._sign(f"csrf of {value}")

    def cookie_name(self, *, secure: bool) -> str:
        """Return the name of the session cookie; `__Host-` requires an empty base path."""
        if not secure:
            return COOKIE
        return ("__Host-" if self._cookie_path == "/" else "__Secure-") + COOKIE

    def _cookie(self, value: str, max_age_s: int, *, secure: bool) -> Cookie:
        return Cookie(
            key=self.cookie_name(secure=secure),
            value=value,
            path=self._cookie_path,
            max_age=max_age_s,
            httponly=True,
            samesite="strict",
            secure=secure,
        )

    def _count(self) -> None:
        """Raise AskedTooOften above the rate limit."""
        now_s = time.monotonic()
        self._left = min(REQUEST_BURST, self._left + (now_s - self._counted_s) * REQUESTS_PER_S)
        self._counted_s = now_s
        if self._left < 1:
            raise AskedTooOften("too many requests to the admin API", retry_after_s=1)
        self._left -= 1


def session_parts(session: str) -> list[str]:
    """Return the role, expiry (Unix seconds) and random part of a session's value, without its signature."""
    return session.split(".")[:3]


async def viewer(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Guard for reading. A change by cookie needs its CSRF token."""
    access: Access = connection.app.state.console.access
    asker = await access.authenticate(connection)
    if connection.scope.get("method", "GET") not in SAFE_METHODS:
        access.check_csrf(asker, connection.headers.get(CSRF_HEADER, ""))
    connection.state.asker = asker


async def admin(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Guard for changes, after `viewer`."""
    if connection.state.asker.role != "admin":
        raise NotAllowed("viewer tokens are read-only; use the admin token")


def address_of(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    """Return the client's address."""
    return connection.client.host if connection.client else ""


def kept_token(home: Path) -> str:
    """Return the token in CCPROXY_HOME, created if missing; only its owner can read the file. Raises OSError."""
    path = home / TOKEN_FILE
    make_folder(home)
    made = secrets.token_hex(TOKEN_BYTES)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        close_to_others(path)
        return path.read_text("ascii").strip() or replaced(path, made)
    with os.fdopen(descriptor, "w") as file:
        file.write(made + "\n")
    return made


def replaced(path: Path, token: str) -> str:
    """Write a token to an empty file, left by a process that died between creating and writing it."""
    path.write_text(token + "\n", "ascii")
    return token
