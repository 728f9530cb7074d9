"""The Redis URL: one server, the primary that Sentinels name, or a Cluster. Its scheme says which:

    redis://[user:password@]host:6379/0                                   one server
    redis+sentinel://[user:password@]host:26379,host:26379/PRIMARY/0      the primary; `?sentinel_password=` is theirs
    redis+cluster://[user:password@]host:6379,host:6379                   a Cluster; some of its nodes

`rediss` in place of `redis` speaks TLS, and `?ssl_ca_certs=FILE` has the certificates to trust (else SSL_CERT_FILE,
else the system's); unix:// is one server too. Not here: connecting (`redis_client.factory`).
"""

from typing import Literal, TypeAlias
from urllib.parse import urlsplit

from msgspec import Struct

Kind: TypeAlias = Literal["server", "sentinel", "cluster"]
KINDS: dict[str, tuple[Kind, bool]] = {
    "redis": ("server", False),
    "rediss": ("server", True),
    "unix": ("server", False),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}
REDIS_SCHEMES = tuple(f"{name}://" for name in KINDS)
USUAL_PORT: dict[Kind, int] = {"server": 6379, "sentinel": 26379, "cluster": 6379}


class RedisAddress(Struct, frozen=True):
    """The parts of a URL. `nodes` are the addresses to ask first; `primary` is the primary's name in Sentinels.

    `plain_url` is the first node's URL as redis-py takes it, with credentials, database and options.
    """

    kind: Kind
    tls: bool
    nodes: tuple[tuple[str, int], ...]
    plain_url: str
    primary: str = ""

    @property
    def shown(self) -> str:
        """The address without secrets."""
        nodes = ",".join(f"{host}:{port}" for host, port in self.nodes)
        return f"{nodes} ({self.kind}{f' {self.primary}' if self.primary else ''})" if self.kind != "server" else nodes


def place_of(url: str) -> RedisAddress:
    """The address that a URL names. Raises ValueError with a message that repeats nothing of the URL."""
    parts = urlsplit(url)
    if parts.scheme not in KINDS:
        raise ValueError("not a Redis address; use one such as redis://127.0.0.1:6379/0")
    kind, tls = KINDS[parts.scheme]
    if parts.scheme == "unix":
        return RedisAddress(kind, tls, ((parts.path, 0),), url)
    owner, at, hosts = parts.netloc.rpartition("@")
    nodes = nodes_of(hosts, kind)
    primary, path = primary_and_path(parts.path, kind)
    query = f"?{parts.query}" if parts.query else ""
    scheme = "rediss" if tls else "redis"
    host, port = nodes[0]
    return RedisAddress(kind, tls, nodes, f"{scheme}://{owner}{at}{bracketed(host)}:{port}{path}{query}", primary)


def nodes_of(hosts: str, kind: Kind) -> tuple[tuple[str, int], ...]:
    """The hosts and ports of a URL, of which a single server has one. Raises ValueError."""
    nodes = tuple(node_of(text, USUAL_PORT[kind]) for text in hosts.split(",") if text)
    if not nodes or (kind == "server" and len(nodes) > 1):
        raise ValueError("needs one host; several are for redis+sentinel:// and redis+cluster:// only")
    return nodes


def primary_and_path(path: str, kind: Kind) -> tuple[str, str]:
    """The primary's name ("" without Sentinels) and the database as a path. Raises ValueError."""
    if kind == "cluster" and path.strip("/") not in ("", "0"):
        raise ValueError("a Cluster has no databases; remove the path")
    if kind != "sentinel":
        return "", path
    primary, _, database = path.strip("/").partition("/")
    if not primary:
        raise ValueError("the primary's name is missing; use redis+sentinel://host:26379/NAME/0")
    return primary, f"/{database}"


def node_of(text: str, usual_port: int) -> tuple[str, int]:
    """Host and port. Raises ValueError."""
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("a host is missing")
    try:
        return parts.hostname, parts.port or usual_port
    except ValueError:  # the original message may repeat a part of the password
        raise ValueError("a port is not a number; in a password, write @ : / as %40 %3A %2F") from None


def bracketed(host: str) -> str:
    """A host as it stands in a URL."""
    return f"[{host}]" if ":" in host else host
