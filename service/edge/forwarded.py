"""Whose request it is when it came through a load balancer: address, scheme and host as the client knows them.

`X-Forwarded-For`, `-Proto` and `-Host` are believed only when they come from a trusted proxy, since anybody can send
them. `X-Forwarded-For` is read from its end, where each proxy adds the address that it saw: the first one that is not
a trusted proxy's is the client's. Of the others the last word counts, which is our neighbour's.
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
    """The application, told of clients what trusted proxies say of them."""

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP:
            apply_forwarded_headers(scope, trusted)
        await app(scope, receive, send)

    return handle


def apply_forwarded_headers(scope: Any, trusted: Sequence[Network]) -> None:
    """Put the client's address, scheme and host into an ASGI scope that came from a trusted proxy."""
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


def client_of(neighbour: Address, told: Sequence[bytes], trusted: Sequence[Network]) -> Address:
    """The last address on the way that is not a trusted proxy's; what can't be read ends the way."""
    client = neighbour
    for part in reversed(told):
        address = parse_address(part)
        if address is None:
            return client
        client = address
        if not is_in(client, trusted):
            return client
    return client


def parts_of(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> list[bytes]:
    """The elements of a list header, from all its lines in their order."""
    return [part.strip() for name, value in headers if name == wanted for part in value.split(b",") if part.strip()]


def last_part_of(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> bytes:
    """The last element of a list header; empty when there is none."""
    parts = parts_of(headers, wanted)
    return parts[-1] if parts else b""


def parse_address(raw: bytes) -> Address | None:
    """An address, with or without a port and brackets; None when it is none. IPv4 in IPv6's clothes is IPv4."""
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
    """Whether an address lies in one of the networks."""
    return any(address in network for network in networks)
