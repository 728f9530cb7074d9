"""Names and addresses that always mean the loopback, whatever DNS says. Pure.

Not here: which names a proxy accepts (`edge.origins`).
"""

import re
from ipaddress import IPv6Address, ip_address

HOST = re.compile(r"(?:\[([0-9a-f:.]{2,45})\]|([a-z0-9._-]{1,253}))(?::\d{1,5})?")


def host_name(host: str) -> str:
    """Return the name or address in a Host header without its port, "" if it is malformed."""
    found = HOST.fullmatch(host.lower())
    return (found[1] or found[2].removesuffix(".")) if found else ""


def is_address(name: str) -> bool:
    """True if this is an address, not a name."""
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(name: str) -> bool:
    """True if a name (RFC 6761 for localhost) or an address is the loopback; IPv4-mapped addresses are unwrapped."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    if not is_address(name):
        return False
    address = ip_address(name)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback
