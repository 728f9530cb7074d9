"""The workers' part of `ccproxy check`: their logins to Postgres and to the Redis of their queue.

Joins as an entry point of the group `ccproxy.checks`, since the proxy opens no Postgres. A finding is what was checked,
whether it is right (None: a note), and words. Not here: the Redis of the ledger (`service.commands.check_redis`).
"""

import re
import secrets
from collections.abc import Iterator
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict
from redis.exceptions import RedisError

from service.redis_client.probe import LEDGER_PATTERNS, Command, failure_words, login_failure, probe, refusal_words
from service.settings import Settings, SettingsError
from service.settings.database_url import database_address
from service.settings.redis_url import place_of
from workers.migrate import SchemaError, has_schema, pending
from workers.postgres_address import address_at, postgres_of, redis_url_of, running_address
from workers.store import QUERIES, PostgresAddress, connect

Finding = tuple[str, bool | None, str]
PATTERNS: Final = "~rq:* &rq:*"
CONNECTING: Final = ("08", "28", "3D", "53300", "57P")
"""The beginnings of SQLSTATE where a connection failed or ended."""
SHORT: Final = 8
"""Passwords with fewer characters may be parts of usual words."""
MENDS: Final = (
    ("received invalid response", "it is no Postgres; correct {0}"),
    ("expected authentication request", "it is no Postgres; correct {0}"),
    ("too many c", "raise max_connections, or the limit of the user or database that {0} names"),
    ("connection slots", "raise max_connections of the server that {0} names"),
    ("not permitted to log in", "allow it (ALTER ROLE ... LOGIN), or name another user in {0}"),
    ("starting up", "wait until it has started"),
    ("shutting down", "start it again"),
    ("not accepting connections", "wait until it has recovered, or correct {0}"),
    ("password authentication failed", "correct user and password in {0}"),
    ("no password supplied", "write the password into {0}: postgresql://user:password@host/database"),
    ("does not exist", "create it, or correct {0}"),
    ("no pg_hba.conf entry", "allow this host in pg_hba.conf, or set sslmode in {0}"),
    ("certificate", "name the CA by sslrootcert in {0}"),
    ("SSL", "correct sslmode in {0}"),
)
"""Parts of libpq's messages, and the mend."""

NO_SESSION: Final = "if {0} names a pooler, set DATABASE_DIRECT_URL to Postgres itself"
STATES: Final = {
    "25006": "use the primary's address in {0}",
    "42501": "log in as the role that owns the schema ccproxy, or as one that it was granted to",
    "26000": NO_SESSION,
    "42P01": f"run `ccproxy migrate`; {NO_SESSION}",
    "42P05": NO_SESSION,
    "55P03": "another migration, a backup or a report holds a table; try again when that has ended",
}
"""SQLSTATEs of statements that have a mend: a read-only server, missing rights, a lock; and what a
session has lost, or finds of another one, behind a transaction pooler."""


def check_workers(settings: Settings) -> list[Finding]:
    """Log in where workers log in. Blocks; its waits are bounded."""
    return [*check_postgres(settings), *check_queue(settings)]


# -- Postgres


def check_postgres(settings: Settings) -> Iterator[Finding]:
    """Check the database, and the one without a pooler if that has an address of its own."""
    if not settings.database_url and not running_address(settings, "database_url"):
        yield "postgres", None, "not set; `ccproxy up` starts its own, otherwise set DATABASE_URL"
        return
    try:
        address = postgres_of(settings)
        direct = settings.database_direct_url
        found = [(address, "DATABASE_URL", bool(direct))]
        if direct:
            found.append((address_at("DATABASE_DIRECT_URL", direct.reveal(), settings), "DATABASE_DIRECT_URL", False))
    except SettingsError as error:
        yield "postgres", False, error.message
        return
    for postgres, variable, has_direct in found:
        yield from check_database(postgres, variable, has_direct=has_direct)


def check_database(postgres: PostgresAddress, variable: str, *, has_direct: bool) -> Iterator[Finding]:
    """Log in to a database, and check its schema and the user's rights."""
    place = database_address(postgres.url).value.shown
    try:
        with connect(postgres) as connection:
            info, wrong = connection.info, fault_in(connection, variable)
            pooled = info.backend_pid != one_row(connection, "SELECT pg_backend_pid()")[0]
            facts = f"{place}: Postgres {version_words(info.server_version)}, logged in as {info.user}"
    except (psycopg.Error, OSError) as error:
        yield "postgres", False, f"{place}: {login_words(error, postgres, variable)}"
        return
    yield "postgres", not wrong, f"{place}: {wrong}" if wrong else facts
    if pooled and not has_direct:
        mend = "set DATABASE_DIRECT_URL to the server itself, for migrate, ledger, backup and reports"
        yield "postgres", None if variable == "DATABASE_URL" else False, f"{variable} leads to a pooler; {mend}"


def version_words(number: int) -> str:
    """Return a version as people write it: 16.4."""
    return f"{number // 10_000}.{number % 10_000}"


def one_row(connection: psycopg.Connection, query: Any, parameters: Any = None) -> tuple[Any, ...]:
    """Return the only row of a query."""
    return connection.execute(query, parameters).fetchone() or ()


def fault_in(connection: psycopg.Connection, variable: str) -> str:
    """Return what keeps workers from using this database, with its mend; "" if nothing does."""
    if wrong := read_only_fault(connection, variable):
        return wrong
    try:
        missing = pending(connection)
    except SchemaError as error:
        return str(error)
    except psycopg.errors.InsufficientPrivilege:
        return f"user {connection.info.user} may not read the schema ccproxy; {grant_mend(connection)}"
    if missing:
        (may_create,) = one_row(connection, QUERIES["check_may_create"])
        mend = "" if may_create else f", as a user that may create schemas ({connection.info.user} may not)"
        names = ", ".join(f"{step.number:04} {step.name}" for step in missing)
        return f"the ledger's tables are missing or old (migrations {names}); run `ccproxy migrate`{mend}"
    return rights_fault(connection)


def migration_obstacle(connection: psycopg.Connection) -> str:
    """Return what keeps missing steps from being applied to this database, with its mend; "" if nothing does."""
    if wrong := read_only_fault(connection, "DATABASE_URL"):
        return wrong
    has_namespace, _ = has_schema(connection)
    if has_namespace:
        return rights_fault(connection)
    (may_create,) = one_row(connection, QUERIES["check_may_create"])
    return "" if may_create else f"user {connection.info.user} may not create schemas; migrate as one that may"


def read_only_fault(connection: psycopg.Connection, variable: str) -> str:
    """Return that nobody can write to this database, with its mend; "" if one can."""
    (is_read_only,) = one_row(connection, QUERIES["check_read_only"])
    return f"it can only be read; use the primary's address in {variable}" if is_read_only else ""


def rights_fault(connection: psycopg.Connection) -> str:
    """Return which tables the user lacks rights on, with the mend; "" if it has all."""
    lacking = [name for (name,) in connection.execute(QUERIES["check_rights"]).fetchall()]
    if not lacking:
        return ""
    return f"user {connection.info.user} has not all rights on {', '.join(lacking)}; {grant_mend(connection)}"


def grant_mend(connection: psycopg.Connection) -> str:
    """Return how a user gets the rights: those of the owner, since workers create and drop partitions."""
    return f"run `ccproxy migrate` as {connection.info.user}, or grant it the role that owns the schema ccproxy"


def login_words(error: BaseException, postgres: PostgresAddress, variable: str) -> str:
    """Describe why nobody could log in, with its mend."""
    words = " ".join(str(error).split()) or type(error).__name__
    mend = next((mend for part, mend in MENDS if part in words), "start it, or correct {0}")
    password = str(conninfo_to_dict(postgres.url).get("password") or "")
    return f"{without(password, words)}; {mend.format(variable)}"


def trouble_words(error: BaseException, postgres: PostgresAddress, variable: str) -> str:
    """Describe an error of Postgres with its mend; that of a connection as the check of the login does."""
    is_connection = isinstance(error, psycopg.OperationalError) and (error.sqlstate or "08").startswith(CONNECTING)
    if is_connection:
        return login_words(error, postgres, variable)
    mend = STATES.get(error.sqlstate or "") if isinstance(error, psycopg.Error) else None
    words = " ".join(str(error).partition("\nLINE ")[0].split())
    return f"{words}; {mend.format(variable)}" if mend else words


def redis_words(error: BaseException, redis_url: str, queue_url: str) -> str:
    """Describe an error of Redis with its mend; of two servers, of the one that it names."""
    servers = {"REDIS_URL": place_of(redis_url)}
    if queue_url != redis_url:
        servers["RQ_REDIS_URL"] = place_of(queue_url)
    named = [name for name, place in servers.items() if len(servers) == 1 or place.shown in str(error)]
    if not isinstance(error, RedisError) or not named:
        return str(error)
    return failure_words(error, servers[named[0]], named[0], f"{PATTERNS} {LEDGER_PATTERNS}")


def without(password: str, words: str) -> str:
    """Mask a password. A short one only as a word of its own: within others its letters would tell it."""
    if not password:
        return words
    pattern = re.escape(password)
    return re.sub(pattern if len(password) >= SHORT else rf"(?<!\w){pattern}(?!\w)", "***", words)


# -- the queue


def check_queue(settings: Settings) -> Iterator[Finding]:
    """Check the Redis of the workers' queue."""
    own = settings.rq_redis_url
    url = own.reveal() if own else redis_url_of(settings)
    if url and place_of(url).kind == "cluster":
        yield "queue", False, "the queue can't be on a Redis Cluster; set RQ_REDIS_URL to a plain Redis"
    elif url:
        yield from check_queue_at(url, "RQ_REDIS_URL" if own else "")


def check_queue_at(url: str, variable: str) -> Iterator[Finding]:
    """Check one server. Without a `variable` it is the ledger's Redis, whose own faults are reported there."""
    place = place_of(url)
    try:
        facts = probe(url, queue_commands(f"rq:check:{secrets.token_hex(6)}"))
    except (RedisError, OSError) as error:
        if variable:
            yield "queue", False, login_failure(error, place, variable)
        return
    if not facts.refusals:
        yield "queue", True, f"{place.shown} takes the workers' jobs"
    elif variable or facts.refusals[0].kind != "server":
        yield "queue", False, f"{place.shown}: {refusal_words(facts, PATTERNS)}"


def queue_commands(key: str) -> tuple[Command, ...]:
    """Return each command that RQ uses, on keys that begin with `key`."""
    text, table, names, scores, line = (f"{key}:{kind}" for kind in ("text", "hash", "set", "zset", "list"))
    return (
        ("SET", text, "1", "NX", "EX", 10),
        ("GET", text),
        ("EXISTS", text),
        ("HSET", table, "a", "1"),
        ("HGET", table, "a"),
        ("HGETALL", table),
        ("HMGET", table, "a"),
        ("HEXISTS", table, "a"),
        ("HINCRBY", table, "n", 1),
        ("HINCRBYFLOAT", table, "f", 1),
        ("HDEL", table, "a"),
        ("EXPIRE", table, 10),
        ("PERSIST", table),
        ("EXPIRE", table, 10),
        ("TTL", table),
        ("SADD", names, "a"),
        ("SMEMBERS", names),
        ("SCARD", names),
        ("SISMEMBER", names, "a"),
        ("SREM", names, "a"),
        ("ZADD", scores, 1, "a"),
        ("ZCARD", scores),
        ("ZSCORE", scores, "a"),
        ("ZRANGE", scores, 0, 1),
        ("ZRANGEBYSCORE", scores, 2, 3),
        ("ZREMRANGEBYSCORE", scores, 2, 3),
        ("ZREM", scores, "a"),
        ("LPUSH", line, "a"),
        ("RPUSH", line, "a"),
        ("LLEN", line),
        ("LRANGE", line, 0, 1),
        ("LREM", line, 1, "a"),
        ("LPOS", line, "a"),
        ("LMOVE", line, line, "LEFT", "RIGHT"),
        ("BLMOVE", line, line, "LEFT", "RIGHT", 1),
        ("LPOP", line),
        ("DEL", text, table, names, scores, line),
        ("EVAL", "return 1", 1, text),
        ("CLIENT", "SETNAME", ""),
        ("WATCH", text),
        ("MULTI",),
        ("EXEC",),
    )
