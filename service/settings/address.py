"""What addresses of every kind have in common: hosts, ports, and passwords that users pasted as they are.

Not here: the forms of each kind (`database_url`, `redis_url`, `values`), and connecting.
"""

import re
from typing import Any, NamedTuple

BARE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
PASSWORD_HINT = "in a password, write @ : / ? # as %40 %3A %2F %3F %23"  # noqa: S105 - a hint, no password
MOST_PORT = 65_535


class Noticed(NamedTuple):
    """A value that was accepted in another form than it was written, and what was changed or left out."""

    value: Any
    notices: tuple[str, ...]


def split_owner(authority: str) -> tuple[str, str]:
    """Split the authority of a URL into `user:password@`, with what a password must not contain encoded, and the hosts.

    Users paste passwords as they are: the last `@` is the one before the hosts.
    """
    owner, at, hosts = authority.rpartition("@")
    return BARE_PERCENT.sub("%25", owner.replace("@", "%40")) + at, hosts


def port_number(text: str) -> int:
    """Return a port. Raises ValueError, which repeats nothing: the text may be part of a password."""
    if not (text.isascii() and text.isdecimal() and 0 < int(text) <= MOST_PORT):
        raise ValueError(f"a port is not a number from 1 to {MOST_PORT}; {PASSWORD_HINT}")
    return int(text)


def host_and_port(text: str) -> tuple[str, int | None]:
    """Split `host`, `host:port` or `[::1]:port`; None is the usual port. Raises ValueError, which repeats nothing."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError("an IPv6 address is not written as [::1] or [::1]:port")
        return host, port_number(rest[1:]) if rest[1:] else None
    host, colon, port = text.partition(":")
    if ":" in port:
        raise ValueError("an IPv6 address has to be in brackets, such as [::1]:5432")
    return host, port_number(port) if colon and port else None


def bracketed(host: str) -> str:
    """Return a host as it is written in a URL."""
    return f"[{host}]" if ":" in host else host
