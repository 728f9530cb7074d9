"""The address of Postgres: a URL, or libpq's keywords (`host=... dbname=...`).

Drivers of other languages take parameters that libpq refuses; users bring them along. Those that mean nothing here are
left out, and reported. Not here: libpq's own check (`workers.postgres_address`): the proxy never loads it.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from urllib.parse import unquote

from service.settings.address import PASSWORD_HINT, Noticed, bracketed, host_and_port, split_owner
from service.settings.secret import Address

SCHEMES = ("postgresql", "postgres")
EXAMPLE = "postgresql://user:password@host:5432/database"
USUAL_PORT = 5432
FOREIGN = frozenset(
    (
        # Prisma, https://www.prisma.io/docs/orm/overview/databases/postgresql
        "schema", "connection_limit", "pool_timeout", "pgbouncer", "socket_timeout", "statement_cache_size",
        "sslaccept", "sslidentity", "sslpassword_file",
        # node-postgres and its pools
        "uselibpqcompat", "max", "idle_timeout", "idletimeoutmillis", "connectiontimeoutmillis", "statement_timeout",
        "query_timeout", "pool_max_conns", "pool_mode", "prepare", "prepared_statements",
        # SQLAlchemy, asyncpg, JDBC
        "async_fallback", "prepared_statement_cache_size", "server_settings", "currentschema", "loginsslrootcert",
    )
)  # fmt: skip
"""Parameters of other drivers, in lower case."""
SSL_WORDS = {"true": "require", "1": "require", "false": "disable", "0": "disable"}
"""`ssl=` of other drivers, as libpq's sslmode."""
KEYWORD = re.compile(r"\s*(\w+)\s*=\s*('(?:[^'\\]|\\.)*'|(?:[^\s'\\]|\\.)*)(?=\s|$)", re.DOTALL)
ESCAPE = re.compile(r"\\(.)", re.DOTALL)


class Part(NamedTuple):
    """A parameter, as it was written."""

    name: str
    value: str


class DatabaseUrl(Address):
    """The address of a Postgres database, as libpq takes it."""

    __slots__ = ()


def database_address(text: str) -> Noticed:
    """Read an address. Raises ValueError with a message that repeats nothing of it."""
    return read_url(text) if "://" in text else read_keywords(text)


def read_url(text: str) -> Noticed:
    """Read a URL."""
    scheme, _, rest = text.partition("://")
    scheme = scheme.lower().removeprefix("jdbc:")
    plain, _, driver = scheme.partition("+")
    if plain not in SCHEMES:
        raise ValueError(f"not a Postgres address; use one such as {EXAMPLE}")
    authority, owner, hosts, path, query = split_url(rest)
    parts, notices = own_parameters(parameters(query))
    if driver:
        notices.append(f"the driver +{driver} was left out" if driver.isalnum() else "a driver was left out")
    encoded = "&".join(f"{name}={value}" for name, value in parts)
    url = f"{plain}://{owner}{hosts}{path}{f'?{encoded}' if encoded else ''}"
    if owner + hosts != authority:
        notices.append("signs in the password that a URL must not contain were encoded")
    named = {part.name: unquote(part.value) for part in parts}
    return Noticed(DatabaseUrl(url, shown_url(hosts, unquote(path[1:]), named)), tuple(notices))


def split_url(rest: str) -> tuple[str, str, str, str, str]:
    """Split what follows the scheme: authority as written, `user:password@`, hosts, path and query.

    As in libpq, a user and a password may contain `?`. Raises ValueError.
    """
    authority, slash, path = rest.partition("/")
    if "@" not in authority:
        authority, mark, query = authority.partition("?")
        if mark:
            path, slash, query = "", "", f"{query}{slash}{path}"
        else:
            path, _, query = path.partition("?")
    else:
        before, at, after = authority.rpartition("@")
        hosts, mark, query = after.partition("?")
        authority = f"{before}{at}{hosts}"
        if mark:
            path, slash, query = "", "", f"{query}{slash}{path}"
        else:
            path, _, query = path.partition("?")
    if "@" in path:
        raise ValueError(f"can't be read; {PASSWORD_HINT}")
    owner, hosts = split_owner(authority)
    for host in hosts.split(",") if hosts else ():
        host_and_port(host)
    return authority, owner, hosts, f"{slash}{path}", query


def parameters(query: str) -> list[Part]:
    """Return the parameters of a URL. Raises ValueError."""
    found = [part.partition("=") for part in query.split("&") if part]
    if not all(equals and name.replace("_", "").isalnum() for name, equals, _ in found):
        raise ValueError(f"its parameters can't be read; {PASSWORD_HINT}")
    return [Part(name, value) for name, _, value in found]


def own_parameters(parts: Iterable[Part]) -> tuple[list[Part], list[str]]:
    """Return the parameters that libpq takes, and a notice for each that was left out or translated."""
    kept: list[Part] = []
    notices: list[str] = []
    for part in parts:
        name, value = part.name.lower(), part.value.lower()
        if name in FOREIGN:
            notices.append(f"{part.name} was left out: it is another driver's parameter")
        elif name == "ssl" and value in SSL_WORDS:
            kept.append(Part("sslmode", SSL_WORDS[value]))
        elif name == "sslmode" and value == "no-verify":
            kept.append(Part("sslmode", "require"))
            notices.append("sslmode=no-verify was taken as sslmode=require: TLS, the certificate is not verified")
        else:
            kept.append(part)
    return kept, notices


def shown_url(hosts: str, database: str, named: dict[str, str]) -> str:
    """Return where a URL leads; its parameters stand above its path."""
    places = [host_and_port(host) for host in hosts.split(",")] if hosts else []
    return shown(
        [unquote(host) for host, _ in places] or entries_of(named, "host", "hostaddr"),
        [str(port or "") for _, port in places] or entries_of(named, "port"),
        named.get("dbname") or database,
    )


def read_keywords(text: str) -> Noticed:
    """Read libpq's keywords."""
    parts: list[Part] = []
    at = 0
    while text[at:].strip():
        match = KEYWORD.match(text, at)
        if not match:
            raise ValueError(f"not a Postgres address; use one such as {EXAMPLE}, or keywords such as host=db dbname=d")
        parts.append(Part(match[1], match[2]))
        at = match.end()
    kept, notices = own_parameters(parts)
    named = {part.name: plain_value(part.value) for part in kept}
    place = shown(entries_of(named, "host", "hostaddr"), entries_of(named, "port"), named.get("dbname", ""))
    return Noticed(DatabaseUrl(" ".join(f"{name}={value}" for name, value in kept), place), tuple(notices))


def plain_value(text: str) -> str:
    """Return a keyword's value without quotes and escapes."""
    return ESCAPE.sub(r"\1", text[1:-1] if text.startswith("'") else text)


def entries_of(named: dict[str, str], *names: str) -> list[str]:
    """Return the entries of the first of these parameters that is set."""
    return next((named[name].split(",") for name in names if named.get(name)), [])


def shown(hosts: Sequence[str], ports: Sequence[str], database: str) -> str:
    """Return hosts, ports and database, for people."""
    places = [
        host if host.startswith("/") else f"{bracketed(host)}:{port_of_host(ports, number) or USUAL_PORT}"
        for number, host in enumerate(hosts)
        if host
    ]
    return f"{','.join(places) or 'the local socket'}/{database}".rstrip("/")


def port_of_host(ports: Sequence[str], number: int) -> str:
    """Return the port of a host: each has its own, or one is for all."""
    return ports[number] if number < len(ports) else (ports[0] if len(ports) == 1 else "")
