"""Who may use the admin API: tokens of two roles, and sessions for browsers.

- Tokens: `ADMIN_TOKEN`, else one made at the first start and kept in CCPROXY_HOME, for its owner alone to read;
  `VIEWER_TOKEN` may look. Scripts send one as `Authorization: Bearer`.
- Sessions: a cookie that says role and end, signed with a key made of the tokens, so that every proxy of a fleet which
  has the same tokens knows it, and nothing is kept but those that were logged out. A new token ends all sessions.
- A change with a cookie must show the session's CSRF token in a header, which no other site can do. Over https the
  cookie's name has a prefix by which browsers let no other host of the domain set one (`__Host-`).
- A wrong token, or a cookie with a wrong signature, is answered ever more slowly (`auth_throttle`).

Not here: what may be asked (`admin`).
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
ASKED_PER_S = 50.0
ASKED_BURST = 300.0
"""A dashboard asks a few times a second; a fleet of scripts should ask Redis or Prometheus."""


class Principal(Struct, frozen=True):
    """Who asks: the role, and the session's value where it came by cookie."""

    role: Role
    session: str = ""


class Access:
    """Knows the tokens and the sessions made of them."""

    def __init__(self, settings: Settings, brake: AuthThrottle, ended: RevokedSessions) -> None:
        self._brake = brake
        self._ended = ended
        self._tokens: list[tuple[bytes, Role]] = []
        self._cookie_path = settings.base_path or "/"
        self._settings = settings
        self._key = secrets.token_bytes(32)
        self._left = ASKED_BURST
        self._counted_s = time.monotonic()
        self.use(settings.admin_token.reveal() or secrets.token_hex(TOKEN_BYTES))

    def open(self) -> None:
        """Take the kept token, or make one, where the settings name none. Raises OSError."""
        if not self._settings.admin_token:
            self.use(kept_token(self._settings.home))

    def use(self, admin: str) -> None:
        """From now on this is the admin's token."""
        viewer = self._settings.viewer_token.reveal()
        known: list[tuple[str, Role]] = [(admin, "admin")]
        if viewer:
            known.append((viewer, "viewer"))
        self._tokens = [(sha256(token.encode()).digest(), role) for token, role in known]
        self._key = sha256(f"sessions of {admin} and {viewer}".encode()).digest()

    def role_of(self, token: str) -> Role | None:
        """Whose token it is. All are compared, whichever fits."""
        digest = sha256(token.encode()).digest()
        found = [role for known, role in self._tokens if compare_digest(known, digest)]
        return found[0] if found else None

    async def log_in(self, token: str, address: str, *, secure: bool) -> tuple[Session, Cookie]:
        """A session for the owner of a token. Raises NotLoggedIn."""
        role = self.role_of(token)
        if role is None:
            raise await self.wrong(address)
        self._brake.accept(address, role)
        expires_s = int(time.time()) + SESSION_S
        said = f"{role}.{expires_s}.{secrets.token_hex(8)}"
        value = f"{said}.{self._sign(said)}"
        return self._told(role, value), self._cookie(value, SESSION_S, secure=secure)

    async def log_out(self, asker: Principal, *, secure: bool) -> Cookie:
        """End the session, whoever has its cookie; and what takes the cookie away."""
        if asker.session:
            _, expires, chance = said_by(asker.session)
            await self._ended.add(chance, int(expires))
        return self._cookie("", 0, secure=secure)

    async def asker(self, connection: ASGIConnection[Any, Any, Any, Any]) -> Principal:
        """Who asks. Raises NotLoggedIn, AskedTooOften."""
        address = address_of(connection)
        scheme, _, token = connection.headers.get("authorization", "").partition(" ")
        if token and scheme.lower() == "bearer":
            role = self.role_of(token.strip())
            if role is None:
                raise await self.wrong(address)
            self._brake.accept(address, role)
            asker = Principal(role)
        else:
            name = self.cookie_name(secure=connection.scope["scheme"] == "https")
            asker = await self._of_session(connection.cookies.get(name, ""), address)
        self._count()
        return asker

    async def wrong(self, address: str) -> ClientError:
        """The error for a wrong token, when the brake lets go of it."""
        error = NotLoggedIn("wrong token; `ccproxy admin token` prints the right one")
        return await self._brake.delay_failure(address, error)

    def session_of(self, asker: Principal) -> Session:
        """An asker's session as they see it; a bearer needs no CSRF token and ends with its token."""
        return (
            self._told(asker.role, asker.session)
            if asker.session
            else Session(role=asker.role, csrf="", expires_at_ms=0)
        )

    def check_csrf(self, asker: Principal, shown: str) -> None:
        """Raises NotAllowed for a change by cookie without the session's CSRF token."""
        if asker.session and not compare_digest(self._csrf(asker.session).encode(), shown.encode()):
            raise NotAllowed(f"changes need the session's CSRF token in the header {CSRF_HEADER}")

    async def _of_session(self, value: str, address: str) -> Principal:
        error = NotLoggedIn("not logged in: send a token as Authorization: Bearer, or log in")
        if not value:
            raise error
        said, _, signature = value.rpartition(".")
        if not said or not compare_digest(self._sign(said).encode(), signature.encode()):
            raise await self._brake.delay_failure(address, error)
        role, expires, chance = said_by(value)
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
        """The name of the session's cookie; `__Host-` is possible without a base path alone."""
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
        """Raises AskedTooOften."""
        now_s = time.monotonic()
        self._left = min(ASKED_BURST, self._left + (now_s - self._counted_s) * ASKED_PER_S)
        self._counted_s = now_s
        if self._left < 1:
            raise AskedTooOften("too many requests to the admin API", retry_after_s=1)
        self._left -= 1


def said_by(session: str) -> list[str]:
    """Role, end (Unix seconds) and chance of a session's value, without its signature."""
    return session.split(".")[:3]


async def viewer(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Guard: whoever may look. A change by cookie must show its CSRF token."""
    access: Access = connection.app.state.console.access
    asker = await access.asker(connection)
    if connection.scope.get("method", "GET") not in SAFE_METHODS:
        access.check_csrf(asker, connection.headers.get(CSRF_HEADER, ""))
    connection.state.asker = asker


async def admin(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Guard, after `viewer`: whoever may change something."""
    if connection.state.asker.role != "admin":
        raise NotAllowed("viewer tokens are read-only; use the admin token")


def address_of(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    """Where somebody asks from."""
    return connection.client.host if connection.client else ""


def kept_token(home: Path) -> str:
    """The token in CCPROXY_HOME, made when there is none; only its owner may read the file. Raises OSError."""
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
    """An empty file (a process that died between making and writing) gets a token."""
    path.write_text(token + "\n", "ascii")
    return token
