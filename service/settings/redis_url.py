"""The Redis URL: one server, the primary that Sentinels name, or a Cluster. Its scheme says which:

    redis://[user:password@]host:6379/0                                   one server
    redis+sentinel://[user:password@]host:26379,host:26379/PRIMARY/0      the primary; `?sentinel_password=` is theirs
    redis+cluster://[user:password@]host:6379,host:6379                   a Cluster; some of its nodes

`rediss` in place of `redis` speaks TLS, and `?ssl_ca_certs=FILE` has the certificates to trust (else SSL_CERT_FILE,
else the system's); unix:// is one server too. Options of other languages' clients are left out, and reported.
Not here: connecting (`redis_client.factory`).
"""

from typing import Literal, TypeAlias
from urllib.parse import urlsplit

from msgspec import Struct

from service.settings.address import PASSWORD_HINT, Noticed, bracketed, host_and_port, split_owner
from service.settings.secret import Address

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
OPTIONS = frozenset(
    (
        "client_name", "db", "health_check_interval", "max_connections", "password", "protocol", "retry_on_timeout",
        "sentinel_password", "sentinel_username", "socket_connect_timeout", "socket_keepalive", "socket_read_size",
        "socket_timeout", "username",
    )
)  # fmt: skip
"""Options of redis-py that a user may set; `sentinel_*` are ours."""
TLS_OPTIONS = frozenset(
    (
        "ssl_ca_certs", "ssl_ca_data", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname",
        "ssl_ciphers", "ssl_keyfile", "ssl_min_version", "ssl_password",
    )
)  # fmt: skip
FOREIGN = frozenset(
    (
        "family", "keyprefix", "prefix", "lazyconnect", "enablereadycheck", "maxretriesperrequest", "connecttimeout",
        "commandtimeout", "enableofflinequeue", "timeout", "pool_size", "poolsize", "decode_responses",
    )
)  # fmt: skip
"""Options of ioredis, node-redis and others, in lower case."""
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
        nodes = ",".join(f"{bracketed(host)}:{port}" if port else host for host, port in self.nodes)
        return f"{nodes} ({self.kind}{f' {self.primary}' if self.primary else ''})" if self.kind != "server" else nodes


class RedisUrl(Address):
    """A Redis URL with its parts."""

    __slots__ = ("place",)

    def __init__(self, text: str, place: RedisAddress) -> None:
        super().__init__(text, place.shown)
        self.place = place


def redis_address(text: str) -> Noticed:
    """Read a Redis URL. Raises ValueError with a message that repeats nothing of it."""
    parts = urlsplit(text)
    kind, tls = kind_of(parts.scheme)
    options, notices = own_options(parts.query, tls=tls)
    query = f"?{options}" if options else ""
    if parts.scheme == "unix":
        url = f"unix://{parts.netloc}{parts.path}{query}"
        return Noticed(RedisUrl(url, RedisAddress(kind, tls, ((parts.path, 0),), url)), notices)
    owner, hosts = split_owner(parts.netloc)
    nodes = nodes_of(hosts, kind)
    primary, path = primary_and_path(parts.path, kind)
    scheme = "rediss" if tls else "redis"
    host, port = nodes[0]
    place = RedisAddress(kind, tls, nodes, f"{scheme}://{owner}{bracketed(host)}:{port}{path}{query}", primary)
    return Noticed(RedisUrl(f"{parts.scheme}://{owner}{hosts}{parts.path}{query}", place), notices)


def queue_address(text: str) -> Noticed:
    """Read the URL of the workers' queue. Raises ValueError."""
    found = redis_address(text)
    if found.value.place.kind == "cluster":
        raise ValueError("the queue can't be on a Redis Cluster; use a plain Redis, or one behind Sentinel")
    return found


def place_of(url: str) -> RedisAddress:
    """Return the parts of a URL. Raises ValueError."""
    place: RedisAddress = redis_address(url).value.place
    return place


def kind_of(scheme: str) -> tuple[Kind, bool]:
    """Return what a scheme leads to, and whether it speaks TLS. Raises ValueError."""
    if scheme not in KINDS:
        raise ValueError("not a Redis address; use one such as redis://127.0.0.1:6379/0")
    return KINDS[scheme]


def own_options(query: str, *, tls: bool) -> tuple[str, tuple[str, ...]]:
    """Return the options that redis-py takes, and a notice for each that was left out. Raises ValueError."""
    kept: list[str] = []
    notices: list[str] = []
    for part in filter(None, query.split("&")):
        name, equals, _ = part.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"its options can't be read; {PASSWORD_HINT}")
        if name.lower() in FOREIGN:
            notices.append(f"{name} was left out: it is another client's option")
        elif name in OPTIONS or (tls and name in TLS_OPTIONS):
            kept.append(part)
        else:
            raise ValueError(refusal_of(name))
    return "&".join(kept), tuple(notices)


def refusal_of(option: str) -> str:
    """Return why an option is refused."""
    if option in ("tls", "ssl", *TLS_OPTIONS):
        return f"the option {option} needs TLS; use rediss:// in place of redis://"
    return f"unknown option {option!r}; known are {', '.join(sorted(OPTIONS))}, and for rediss:// those of TLS"


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
    """Return host and port. Raises ValueError."""
    host, port = host_and_port(text)
    if not host:
        raise ValueError(f"a host is missing; {PASSWORD_HINT}")
    return host, port or usual_port
