"""Opens connections: DNS lookup, happy eyeballs, TLS handshake.

Rules
- Certificates are always verified (`egress.with_certificates`).
- With several addresses the next one is tried after 250 ms (RFC 8305), alternating families; the first to connect wins.
  asyncio supports this, uvloop does not.
- TLS sessions are resumed, which saves a round trip on each new connection to a provider.

Not here: when to connect (`pool`).
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from typing import Any

import httpx

from service.egress import with_certificates
from service.http1.connection import UpstreamConnection
from service.http1.request_head import Origin

HEAD_START_S = 0.25
PROBES = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
"""A silent connection is probed after a minute, and gone after another one."""
SOCKET_OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *((socket.IPPROTO_TCP, getattr(socket, name), value) for name, value in PROBES if hasattr(socket, name)),
]
"""Without Nagle's algorithm; with probes of the connection, which some responses leave silent for hours."""
MOST_SESSIONS = 64

Address = tuple[socket.AddressFamily, Any]


class Connector:
    """Opens connections; keeps the trusted certificates and the TLS sessions."""

    def __init__(self) -> None:
        self._context: ResumingContext | None = None

    async def connect(
        self, origin: Origin, limit_s: float | None, make: Callable[[], UpstreamConnection]
    ) -> UpstreamConnection:
        """Open a connection. Raises httpx.ConnectError or httpx.ConnectTimeout."""
        try:
            async with asyncio.timeout(limit_s):
                return await self._dial(origin, make)
        except TimeoutError:
            raise httpx.ConnectTimeout(f"connecting to {origin.host} timed out") from None
        except (OSError, UnicodeError) as error:  # TLS, DNS; and names that are invalid in DNS
            raise httpx.ConnectError(str(error) or type(error).__name__) from None

    async def _dial(self, origin: Origin, make: Callable[[], UpstreamConnection]) -> UpstreamConnection:
        context = self._trust() if origin.tls else None
        sock = await connected(await addresses_of(origin))
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(
                make, sock=sock, ssl=context, server_hostname=origin.host if context else None
            )
        except BaseException:
            sock.close()
            raise
        return connection

    def remember_session(self, connection: UpstreamConnection) -> None:
        """Remember the TLS session of a used connection: the provider has sent its ticket by now."""
        security = connection.security
        if self._context and isinstance(security, ssl.SSLObject):
            self._context.note(security)

    def _trust(self) -> "ResumingContext":
        if self._context is None:
            self._context = with_certificates(ResumingContext(ssl.PROTOCOL_TLS_CLIENT))
            self._context.set_alpn_protocols(["http/1.1"])
        return self._context


class ResumingContext(ssl.SSLContext):
    """SSL context that resumes the last session with the same host; event loops offer no parameter for it."""

    def note(self, security: ssl.SSLObject) -> None:
        """Remember a session if it can be resumed."""
        sessions, host, session = self._sessions(), security.server_hostname, security.session
        if host and session and session.has_ticket:
            sessions.pop(host, None)
            sessions[host] = session
            if len(sessions) > MOST_SESSIONS:
                del sessions[next(iter(sessions))]

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,  # noqa: FBT001 - as in the base class
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Called by the event loop; adds the session."""
        session = session or self._sessions().get(str(server_hostname))
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)

    def _sessions(self) -> dict[str, ssl.SSLSession]:
        return self.__dict__.setdefault("sessions", {})  # type: ignore[no-any-return]


async def look_up(host: str, port: int) -> list[tuple[Any, ...]]:
    """Resolve a host with getaddrinfo."""
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)


async def addresses_of(origin: Origin) -> Sequence[Address]:
    """Return a host's addresses, alternating families, in the system's order."""
    found = await look_up(origin.host, origin.port)
    preferred = found[0][0]
    first = [(family, address) for family, _, _, _, address in found if family == preferred]
    others = [(family, address) for family, _, _, _, address in found if family != preferred]
    return [each for each in chain.from_iterable(zip_longest(first, others)) if each]


async def connected(addresses: Sequence[Address]) -> socket.socket:
    """Connect to the first address that answers. Raises the first OSError if none does."""
    if len(addresses) == 1:
        return await connect(addresses[0])
    trying: set[asyncio.Task[socket.socket]] = set()
    try:
        return await first_connected(addresses, trying)
    finally:
        for task in trying:
            task.add_done_callback(close_late)
            task.cancel()


async def first_connected(addresses: Sequence[Address], trying: set[asyncio.Task[socket.socket]]) -> socket.socket:
    """Return the socket that connects first; each address has a head start over the next. `trying` are the running
    tasks."""
    untried = list(reversed(addresses))
    errors: list[BaseException] = []
    while untried or trying:
        if untried:
            trying.add(asyncio.create_task(connect(untried.pop())))
        done, _ = await asyncio.wait(
            trying, timeout=HEAD_START_S if untried else None, return_when=asyncio.FIRST_COMPLETED
        )
        trying.difference_update(done)
        if won := one_socket_of(done):
            return won
        errors += [error for task in done if (error := task.exception())]
    raise errors[0]


def one_socket_of(done: set[asyncio.Task[socket.socket]]) -> socket.socket | None:
    """Return the socket of one of the connected tasks; the others are closed."""
    sockets = [task.result() for task in done if not task.exception()]
    for late in sockets[1:]:
        late.close()
    return sockets[0] if sockets else None


async def connect(address: Address) -> socket.socket:
    """Connect a socket."""
    family, place = address
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setblocking(False)
        for option in SOCKET_OPTIONS:
            sock.setsockopt(*option)
        await asyncio.get_running_loop().sock_connect(sock, place)
    except BaseException:
        sock.close()
        raise
    return sock


def close_late(task: asyncio.Task[socket.socket]) -> None:
    """Close a connection that lost the race."""
    if not task.cancelled() and not task.exception():
        task.result().close()
