"""NO_PROXY: who is asked directly though the environment names a proxy. As curl reads it, and ports as well.

An entry is `*`, a name (for itself and all below it, with or without a dot before it), an address, or a network such as
10.0.0.0/8; `name:8443` holds for that port alone. Commas or blanks lie between entries. One that can't be read excepts
nobody. Not here: which proxy (`upstream`).
"""

import re
from ipaddress import ip_address, ip_network

ENTRY = re.compile(r"(?:\[([^\]]*)\]|([^:]*))(?::(\d+))?|(.*)")
"""In brackets or without a colon, then perhaps a port; else an IPv6 address or network."""


def is_direct(host: str, port: int, no_proxy: str) -> bool:
    """Whether a host is asked directly at this port."""
    return any(excepts(entry, host.rstrip("."), port) for entry in no_proxy.lower().replace(",", " ").split())


def excepts(entry: str, host: str, port: int) -> bool:
    """Whether one entry means this host and port."""
    found = ENTRY.fullmatch(entry)
    if found is None or (found[3] and int(found[3]) != port):
        return False
    name = found[1] or found[2] or found[4] or ""
    return name == "*" or (is_in(host, name) if is_address(host) else is_below(host, name.strip(".")))


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    if not is_address(host):
        return is_below(host.rstrip("."), "localhost")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def is_address(host: str) -> bool:
    """Whether it is one, and no name."""
    return host.replace(".", "").isdigit() or ":" in host


def is_in(host: str, network: str) -> bool:
    """Whether an address is this one, or lies in this network."""
    try:
        return ip_address(host) in ip_network(network, strict=False)
    except ValueError:
        return False


def is_below(host: str, name: str) -> bool:
    """Whether a name is this one, or ends in it."""
    return bool(name) and f".{host}".endswith(f".{name}")
