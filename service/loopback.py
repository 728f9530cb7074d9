"""Names and addresses that always are the loopback, whatever a name server says. Pure.

Not here: which names a proxy answers to (`edge.origins`).
"""

import re
from ipaddress import IPv6Address, ip_address

HOST = re.compile(r"(?:\[([0-9a-f:.]{2,45})\]|([a-z0-9._-]{1,253}))(?::\d{1,5})?")


def host_name(host: str) -> str:
    """The name or address in a Host header without its port, "" when it is malformed."""
    found = HOST.fullmatch(host.lower())
    return (found[1] or found[2].removesuffix(".")) if found else ""


def is_address(name: str) -> bool:
    """Whether this is an address, not a name."""
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(name: str) -> bool:
    """Whether a name or an address is the loopback's (RFC 6761 for localhost); IPv4-mapped addresses are unwrapped."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    if not is_address(name):
        return False
    address = ip_address(name)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback
