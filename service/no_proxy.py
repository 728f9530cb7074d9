"""NO_PROXY: hosts that are contacted directly. Like curl's syntax, plus ports.

An entry is `*`, a name (which includes its subdomains, with or without a leading dot), an address, or a network such as
10.0.0.0/8; `name:8443` applies to that port alone. Entries are separated by commas or blanks; invalid ones match
nothing. Not here: choosing the proxy (`upstream`).
"""

import re
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

ENTRY = re.compile(r"(?:\[([^\]]*)\]|([^:]*))(?::(\d+))?|(.*)")
"""In brackets or without a colon, then perhaps a port; else an IPv6 address or network."""


def is_direct(host: str, port: int, no_proxy: str) -> bool:
    """True if a host is contacted directly at this port."""
    return any(excepts(entry, host.rstrip("."), port) for entry in no_proxy.lower().replace(",", " ").split())


def names_host(no_proxy: str, url: str) -> bool:
    """True if an entry names a URL's host itself; programs differ on what networks and parts of names mean."""
    parts = urlsplit(url)
    entries = set(no_proxy.lower().replace(",", " ").split())
    return bool(entries & {"*", parts.hostname, f"{parts.hostname}:{parts.port}"})


def excepts(entry: str, host: str, port: int) -> bool:
    """True if an entry matches this host and port."""
    found = ENTRY.fullmatch(entry)
    if found is None or (found[3] and int(found[3]) != port):
        return False
    name = found[1] or found[2] or found[4] or ""
    return name == "*" or (is_in(host, name) if is_address(host) else is_below(host, name.strip(".")))


def is_loopback(host: str) -> bool:
    """True if a host is this machine."""
    if not is_address(host):
        return is_below(host.rstrip("."), "localhost")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def is_address(host: str) -> bool:
    """True if a host is an address, not a name."""
    return host.replace(".", "").isdigit() or ":" in host


def is_in(host: str, network: str) -> bool:
    """True if an address equals this one or is in this network."""
    try:
        return ip_address(host) in ip_network(network, strict=False)
    except ValueError:
        return False


def is_below(host: str, name: str) -> bool:
    """True if a name equals this one or is a subdomain of it."""
    return bool(name) and f".{host}".endswith(f".{name}")
