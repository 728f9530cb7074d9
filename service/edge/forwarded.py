"""Forwarded headers: the client's address, scheme and host behind a load balancer.

`X-Forwarded-For`, `-Proto` and `-Host` are used only from trusted proxies, since anybody can send them.
`X-Forwarded-For` is read from its end, where each proxy appends the address that it saw: the first one that is not a
trusted proxy's is the client's. Of the others the last value counts, which is from the proxy next to us.
"""

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, TypeAlias

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from service.settings import Network

Address: TypeAlias = IPv4Address | IPv6Address
HOST = re.compile(rb"[A-Za-z0-9.-]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")
SCHEMES = (b"http", b"https")


def behind_trusted_proxies(app: ASGIApp, trusted: Sequence[Network]) -> ASGIApp:
    """Wrap an application so that it sees the forwarded client."""

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP:
            apply_forwarded_headers(scope, trusted)
        await app(scope, receive, send)

    return handle


def apply_forwarded_headers(scope: Any, trusted: Sequence[Network]) -> None:
    """Set the client's address, scheme and host in an ASGI scope from a trusted proxy."""
    neighbour = parse_address(str((scope.get("client") or ("",))[0]).encode())
    if neighbour is None or not is_in(neighbour, trusted):
        return
    headers: list[tuple[bytes, bytes]] = list(scope["headers"])
    scope["client"] = (str(client_of(neighbour, parts_of(headers, b"x-forwarded-for"), trusted)), 0)
    scheme = last_part_of(headers, b"x-forwarded-proto").lower()
    if scheme in SCHEMES:
        scope["scheme"] = scheme.decode()
    host = last_part_of(headers, b"x-forwarded-host")
    if HOST.fullmatch(host):
        scope["headers"] = [*((name, value) for name, value in headers if name != b"host"), (b"host", host)]


def client_of(neighbour: Address, forwarded: Sequence[bytes], trusted: Sequence[Network]) -> Address:
    """Return the last address in the chain that is not a trusted proxy's; an unreadable one ends the chain."""
    client = neighbour
    for part in reversed(forwarded):
        address = parse_address(part)
        if address is None:
            return client
        client = address
        if not is_in(client, trusted):
            return client
    return client


def parts_of(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> list[bytes]:
    """Return the elements of a list header, from all its lines in order."""
    return [part.strip() for name, value in headers if name == wanted for part in value.split(b",") if part.strip()]


def last_part_of(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> bytes:
    """Return the last element of a list header; b"" if there is none."""
    parts = parts_of(headers, wanted)
    return parts[-1] if parts else b""


def parse_address(raw: bytes) -> Address | None:
    """Parse an address, with or without port and brackets; None if it is invalid. IPv4-mapped IPv6 addresses are
    unwrapped."""
    text = raw.decode("latin-1")
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def is_in(address: Address, networks: Sequence[Network]) -> bool:
    """True if an address is in one of the networks."""
    return any(address in network for network in networks)
