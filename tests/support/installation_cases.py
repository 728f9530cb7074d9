"""Broken installations with one thing wrong each, and unusual ones in which all is right: as variables, by name.

`World` has the servers that they lead to. Not here: what the product says of them (`tests/console/test_installations`).
"""

# ruff: noqa: E501 - a row of the tables is a line

import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import psycopg
from redis import Redis

from service.embedded.postgres import Postgres
from service.embedded.valkey import Valkey
from tests.support.ports import free_port

Variables = dict[str, str]
HTTP = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
TOKENS = json.dumps({"access_token": "new", "refresh_token": "newer", "expires_in": 28_800}).encode()
REFRESHED = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(TOKENS), TOKENS)
PROVIDER = "http://provider.invalid"
MOVED = b"-MOVED 866 127.0.0.1:7001\r\n"
LOADING = b"-LOADING Redis is loading the dataset in memory\r\n"
PROTECTED = b"-DENIED Redis is running in protected mode because protected mode is enabled\r\n"


class World:
    """Real servers, and what stands in their places; all of it is undone at the end of a test."""

    def __init__(self, valkey: Valkey, postgres: Postgres, folder: Path, stack: ExitStack) -> None:
        self.valkey, self.postgres, self.folder, self._stack = valkey, postgres, folder, stack
        self.redis = stack.enter_context(Redis.from_url(valkey.url, legacy_responses=False))

    @property
    def sound(self) -> Variables:
        """An installation in which all is right, with a route to a server that listens."""
        return {
            "CCPROXY_HOME": str(self.folder / "home"),
            "REDIS_URL": self.valkey.url,
            "DATABASE_URL": self.postgres.url,
            "ANTHROPIC_API_KEY": "sk-ant-api03-key",
            "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{self.listens()}",
        }

    def listens(self, answer: bytes | None = b"", host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> int:
        """A server that answers whatever it reads first, and closes; b"": it only closes, None: it is silent."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        held = self._stack.enter_context(ExitStack())
        server = self._stack.enter_context(socket.create_server((host, 0), family=family))
        self._stack.callback(server.shutdown, socket.SHUT_RDWR)  # ends the wait for the next client

        def serve() -> None:
            with suppress(OSError):
                while True:
                    each, _ = server.accept()
                    held.callback(each.close)
                    if answer is None:
                        continue
                    with suppress(OSError):
                        each = tls.wrap_socket(each, server_side=True) if tls else each
                        if answer and each.recv(65_536):
                            each.sendall(answer)
                        each.close()

        threading.Thread(target=serve, daemon=True).start()
        return int(server.getsockname()[1])

    def redis_user(self, name: str, *rules: str) -> str:
        """The URL of a Redis user with these rules."""
        self.redis.execute_command("ACL", "SETUSER", name, "reset", "on", ">pass-of-user", *rules)
        self._stack.callback(self.redis.execute_command, "ACL", "DELUSER", name)
        return f"redis://{name}:pass-of-user@127.0.0.1:{self.valkey.port}/0"

    def redis_setting(self, name: str, value: str) -> None:
        """Change a setting of Redis."""
        before = next(iter(self.redis.config_get(name).values()))
        self._stack.callback(self.redis.config_set, name, before)
        self.redis.config_set(name, value)

    def redis_is_replica(self) -> None:
        """Make Redis a replica of a server that is away."""
        self.redis.execute_command("REPLICAOF", "127.0.0.1", free_port())
        self._stack.callback(self.redis.execute_command, "REPLICAOF", "NO", "ONE")

    def sql(self, statement: str, undo: str) -> None:
        """Change the database."""

        def run(text: str) -> None:
            with psycopg.connect(self.postgres.url, autocommit=True) as connection:
                connection.execute(text.encode())

        run(statement)
        self._stack.callback(run, undo)

    def database(self, *, password: str = "", user: str = "", name: str = "", port: int = 0, query: str = "") -> str:
        """The database's URL with another part."""
        parts = urlsplit(self.postgres.url)
        owner = f"{user or parts.username}:{password or parts.password}"
        return f"postgresql://{owner}@127.0.0.1:{port or parts.port}/{name or 'ccproxy'}{query}"

    def keywords(self, more: str = "") -> str:
        """The database's address in libpq's keywords."""
        parts = urlsplit(self.postgres.url)
        return (
            f"host=127.0.0.1 port={parts.port} user={parts.username} password='{parts.password}' dbname=ccproxy {more}"
        )

    def redis_url(self, *, query: str = "", password: str = "", port: int = 0, database: int = 0) -> str:
        """The Redis URL with another part."""
        parts = urlsplit(self.valkey.url)
        return f"redis://:{password or parts.password}@127.0.0.1:{port or parts.port}/{database}{query}"

    def login(self, left_s: int, refresh: str | None = "refresh-token", endpoint: bytes = b"") -> Variables:
        """Variables of a subscription whose token is valid for so long; `endpoint` is the answer to a refresh."""
        tokens = {"accessToken": "token", "refreshToken": refresh, "expiresAt": (int(time.time()) + left_s) * 1000}
        file = self.folder / "credentials.json"
        file.write_text(json.dumps({"claudeAiOauth": tokens}))
        url = f"http://127.0.0.1:{self.listens(endpoint)}"
        return {
            "CLAUDE_SUBSCRIPTION_ENABLED": "true",
            "CLAUDE_CREDENTIALS_PATH": str(file),
            "CLAUDE_SUBSCRIPTION_BASE_URL": url,
            "CLAUDE_OAUTH_REFRESH_URL": f"{url}/token",
        }

    def certificate(self) -> tuple[Path, ssl.SSLContext]:
        """A certificate of its own authority for 127.0.0.1, and a server's context with it."""
        file, key = self.folder / "tls.crt", self.folder / "tls.key"
        openssl = shutil.which("openssl")
        assert openssl, "openssl is missing; install it with: apt-get install openssl"
        subprocess.run(
            [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days",
             "2", "-subj", "/CN=provider", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", file],
            check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file, key)
        return file, context

    def file(self, name: str, text: str) -> str:
        """A file with this text."""
        path = self.folder / name
        path.write_text(text)
        return str(path)


class Seen(NamedTuple):
    """Where an installation shows that something is wrong with it, without being asked.

    `word`: the code of the problem in `/readyz`, on the dashboard and, with its words, in `status`; or a route and its
    state; "worker": a worker's heartbeat alone says so. `proxy` and `worker`: the first lines of their logs, "" for none;
    a worker that does not start says the words of `check`. `asks`: how many requests it takes. `starts`: a proxy that does
    not start ends with the words of `check`. `words`: of the proxy's line and of `status`, where `check`, which tries all
    commands, has others. `timeout_s`: for servers that don't answer.
    """

    word: str
    proxy: str = ""
    worker: str | None = ""
    asks: int = 0
    starts: bool = True
    words: str = ""
    timeout_s: float = 0.0


REDIS = Seen("redis", "redis.went_away", "redis.lost")
RIGHTS = Seen("redis", "redis.went_away", "redis.lost", words="allow it: ACL SETUSER u ")
SILENT = Seen("redis", "redis.went_away", None, timeout_s=0.3)
EVICTS = Seen("eviction", "redis.evicts")
QUEUE = Seen("snapshots", "snapshots.stopped", "redis.lost")
POSTGRES = Seen("snapshots", "snapshots.stopped", "postgres.lost")
SCHEMA = Seen("snapshots", "snapshots.stopped", "schema.lost")
READ_ONLY = Seen("snapshots", "snapshots.stopped", "database.lost")
NO_WORKER = Seen("snapshots", "snapshots.stopped", None, words="is `ccproxy worker` running")
UNFIT = Seen("worker", "", "database.lost")
UNREACHABLE = Seen("anthropic degraded", "← Anthropic no answer | connect", asks=3)
EGRESS = Seen("anthropic degraded", "HTTP_PROXY has a proxy of an unsupported kind", asks=3)
CERTIFICATES = Seen("anthropic degraded", "SSL_CERT_", asks=3)
NO_LOGIN = Seen("subscription no_credential", "credential.unusable")
AT_RISK = Seen("subscription degraded", "credential.at_risk")
NO_START = Seen("", starts=False)
GREEN = Seen("")


class Case(NamedTuple):
    """One installation: what differs from a sound one, what `check` finds wrong in it (the first words of its lines,
    comma-separated), words of the first such line, and where else it shows."""

    name: str
    differs: Callable[[World], Variables]
    what: str = ""
    words: str = ""
    seen: Seen = GREEN

    def variables(self, world: World) -> Variables:
        """All variables of the installation; "" unsets one."""
        found = world.sound | self.differs(world)
        return {name: value for name, value in found.items() if value}


def prepared(prepare: Callable[[World], object]) -> Callable[[World], Variables]:
    """An installation whose variables are sound, and whose servers are changed."""

    def differs(world: World) -> Variables:
        prepare(world)
        return {}

    return differs


def with_https(world: World, trust: bool) -> Variables:  # noqa: FBT001 - a column of the tables below
    """A provider whose certificate is of a company's own authority."""
    file, context = world.certificate()
    url = f"https://127.0.0.1:{world.listens(tls=context)}"
    return {"ANTHROPIC_BASE_URL": url, "SSL_CERT_FILE": str(file) if trust else ""}


def by_proxy(variable: str, answer: bytes | None, scheme: str = "http") -> Callable[[World], Variables]:
    """A provider that a proxy leads to, which answers."""

    def differs(world: World) -> Variables:
        url = f"{scheme}://127.0.0.1:{world.listens(answer)}"
        return {
            "ANTHROPIC_BASE_URL": f"http{'s' if variable.upper() == 'HTTPS_PROXY' else ''}://provider.invalid",
            variable: url,
        }

    return differs


def full(world: World) -> None:
    """A Redis without room."""
    world.redis_setting("maxmemory", "1")


def database_that_says(code: str, words: str) -> Callable[[World], Variables]:
    """A Postgres that refuses every connection."""
    fields = f"SFATAL\0VFATAL\0C{code}\0M{words}\0\0".encode()
    answer = b"E" + (len(fields) + 4).to_bytes(4, "big") + fields
    return lambda w: {"DATABASE_URL": w.database(port=w.listens(answer), query="?sslmode=disable&gssencmode=disable")}


def redis_that_says(answer: bytes) -> Callable[[World], Variables]:
    """A Redis that answers each command so."""
    return lambda w: {"REDIS_URL": f"redis://127.0.0.1:{w.listens(answer)}"}


def evicting(world: World, policy: str = "allkeys-lru") -> None:
    """A Redis that drops keys when it is full."""
    world.redis_setting("maxmemory", "1gb")
    world.redis_setting("maxmemory-policy", policy)


BROKEN = (
    Case("wrong Redis password", lambda w: {"REDIS_URL": w.redis_url(password="wrong")}, "redis", "correct user and", REDIS),
    Case("no Redis password", lambda w: {"REDIS_URL": f"redis://127.0.0.1:{w.valkey.port}/0"}, "redis", "write the pas", REDIS),
    Case("Redis is away", lambda w: {"REDIS_URL": w.redis_url(port=free_port())}, "redis", "start it", REDIS),
    Case("a web server in Redis' place", lambda w: {"REDIS_URL": w.redis_url(port=w.listens(HTTP))}, "redis", "is no Redis", REDIS),
    Case("what closes in Redis' place", lambda w: {"REDIS_URL": w.redis_url(port=w.listens())}, "redis", "is no Redis", REDIS),
    Case("what is silent in Redis' place", lambda w: {"REDIS_URL": w.redis_url(port=w.listens(None))}, "redis", "does not answer", SILENT),
    Case("a user without INFO", lambda w: {"REDIS_URL": w.redis_user("u", "~*", "&*", "+@all", "-info")}, "redis", "u may not run INFO server; allow it: ACL SETUSER u +info", RIGHTS),
    Case("a user who may only read", lambda w: {"REDIS_URL": w.redis_user("u", "~*", "&*", "+@read", "+@connection", "+info")}, "redis,queue", "u may not run SET, ", RIGHTS),
    Case("a user of other keys", lambda w: {"REDIS_URL": w.redis_user("u", "~other:*", "~rq:*", "&*", "+@all")}, "redis", "may not use its keys; allow it: ACL SETUSER u ~ccproxy:*", RIGHTS),
    Case("a user without channels", lambda w: {"REDIS_URL": w.redis_user("u", "~*", "resetchannels", "+@all")}, "redis", "may not use its channels", RIGHTS),
    Case("a user without the queue", lambda w: {"REDIS_URL": w.redis_user("u", "~ccproxy:*", "&*", "+@all")}, "queue", "ACL SETUSER u ~rq:*", QUEUE),
    Case("no such Redis database", lambda w: {"REDIS_URL": w.redis_url(database=99)}, "redis", "out of range", REDIS),
    Case("TLS to a Redis without it", lambda w: {"REDIS_URL": w.redis_url().replace("redis:", "rediss:")}, "redis", "use redis:// in REDIS_URL if it has no TLS", SILENT),
    Case("a Redis that evicts", prepared(evicting), "redis", "maxmemory-policy is allkeys-lru; set it to noeviction", EVICTS),
    Case("a full Redis", prepared(full), "redis", "raise maxmemory", REDIS),
    Case("a replica", prepared(World.redis_is_replica), "redis", "use the primary's address", REDIS),
    Case("no more clients", redis_that_says(b"-ERR max number of clients reached\r\n"), "redis", "raise its maxclients", REDIS),
    Case("a Redis that reads its data", redis_that_says(LOADING), "redis", "wait until it has read its data", REDIS),
    Case("a Redis in protected mode", redis_that_says(PROTECTED), "redis", "set a password on it", REDIS),
    Case("a node of a Cluster", redis_that_says(MOVED), "redis", "use redis+cluster:// in REDIS_URL", REDIS),
    Case("a Cluster that is none", lambda w: {"REDIS_URL": w.redis_url().replace("redis:", "redis+cluster:")}, "redis,queue", "is no Cluster; use redis:// in REDIS_URL", REDIS),
    Case("no such primary", lambda w: {"REDIS_URL": w.redis_url().replace("redis:", "redis+sentinel:").replace("/0", "/main/0")}, "redis", "(No master found for 'main'); correct the primary's name in REDIS_URL", REDIS),
    Case("the queue is away", lambda w: {"RQ_REDIS_URL": w.redis_url(port=free_port())}, "queue", "correct RQ_REDIS_URL", QUEUE),
    Case("wrong database password", lambda w: {"DATABASE_URL": w.database(password="wrong")}, "postgres", "correct user and password in DATABASE_URL", POSTGRES),
    Case("no such database", lambda w: {"DATABASE_URL": w.database(name="nope")}, "postgres", "create it, or correct DATABASE_URL", POSTGRES),
    Case("no such database user", lambda w: {"DATABASE_URL": w.database(user="nobody")}, "postgres", "correct user and password", POSTGRES),
    Case("a short password that is wrong", lambda w: {"DATABASE_URL": w.database(password="e")}, "postgres", 'password authentication failed for user "ccproxy"; correct user and password', POSTGRES),
    Case("no more connections", database_that_says("53300", "sorry, too many clients already"), "postgres", "raise max_connections", POSTGRES),
    Case("no more connections of a user", database_that_says("53300", 'too many connections for role "u"'), "postgres", "raise max_connections, or the limit of the user", POSTGRES),
    Case("a user who may not log in", database_that_says("28000", 'role "u" is not permitted to log in'), "postgres", "ALTER ROLE ... LOGIN", POSTGRES),
    Case("a Postgres that starts", database_that_says("57P03", "the database system is starting up"), "postgres", "wait until it has started", POSTGRES),
    Case("Postgres is away", lambda w: {"DATABASE_URL": w.database(port=free_port())}, "postgres", "start it", POSTGRES),
    Case("a web server in Postgres' place", lambda w: {"DATABASE_URL": w.database(port=w.listens(HTTP))}, "postgres", "it is no Postgres", POSTGRES),
    Case("TLS to a Postgres without it", lambda w: {"DATABASE_URL": w.database(query="?sslmode=require")}, "postgres", "correct sslmode", POSTGRES),
    Case("no schema", lambda w: {"DATABASE_URL": w.database(name="postgres")}, "postgres", "run `ccproxy migrate`", SCHEMA),
    Case("a newer schema", prepared(lambda w: w.sql("INSERT INTO ccproxy.migrations VALUES (9999, 'future', '')", "DELETE FROM ccproxy.migrations WHERE number = 9999")), "postgres", "newer than this version", SCHEMA),
    Case("no rights on the schema", prepared(lambda w: w.sql("REVOKE CREATE ON SCHEMA ccproxy FROM ccproxy", "GRANT CREATE ON SCHEMA ccproxy TO ccproxy")), "postgres", "has not all rights", UNFIT),
    Case("a database to read only", lambda w: {"DATABASE_URL": w.database(query="?options=-c%20default_transaction_read_only%3Don")}, "postgres", "can only be read", READ_ONLY),
    Case("the direct database is away", lambda w: {"DATABASE_DIRECT_URL": w.database(port=free_port())}, "postgres", "correct DATABASE_DIRECT_URL", UNFIT),
    Case("a parameter that libpq does not know", lambda w: {"DATABASE_URL": w.database(query="?colour=red")}, "postgres", "colour", NO_WORKER),
    Case("the provider is away", lambda _: {"ANTHROPIC_BASE_URL": f"http://127.0.0.1:{free_port()}"}, "anthropic", "can't be reached", UNREACHABLE),
    Case("no such host", lambda _: {"ANTHROPIC_BASE_URL": PROVIDER}, "anthropic", "can't be reached", UNREACHABLE),
    Case("a provider without TLS", lambda w: {"ANTHROPIC_BASE_URL": f"https://127.0.0.1:{w.listens(HTTP)}"}, "anthropic", "can't be reached", UNREACHABLE),
    Case("a certificate that is not trusted", lambda w: with_https(w, trust=False), "anthropic", "set SSL_CERT_FILE", UNREACHABLE),
    Case("certificates that are not there", lambda _: {"ANTHROPIC_BASE_URL": "https://provider.invalid", "SSL_CERT_FILE": "/none.pem"}, "egress,anthropic", "SSL_CERT_FILE: /none.pem can't be read (No such file or directory); correct it", CERTIFICATES),
    Case("certificates that are none", lambda w: {"ANTHROPIC_BASE_URL": "https://provider.invalid", "SSL_CERT_FILE": w.file("ca.pem", "x")}, "egress,anthropic", "ca.pem has no certificate in PEM format", CERTIFICATES),
    Case("certificates for httpx that are none", lambda w: {"ANTHROPIC_BASE_URL": "https://provider.invalid", "SSL_CERT_FILE": w.file("ca.pem", ""), "HTTPS_PROXY": "http://127.0.0.1:1"}, "egress,anthropic", "ca.pem has no certificate in PEM format", CERTIFICATES),
    Case("no folder of certificates", lambda _: {"ANTHROPIC_BASE_URL": "https://provider.invalid", "SSL_CERT_DIR": "/none"}, "egress,anthropic", "SSL_CERT_DIR: /none is no folder", CERTIFICATES),
    Case("a proxy in lower case that refuses", by_proxy("https_proxy", b"HTTP/1.1 403 Forbidden\r\n\r\n"), "anthropic", "correct https_proxy, or name the host in NO_PROXY", UNREACHABLE),
    Case("a proxy of an unsupported kind", lambda _: {"ANTHROPIC_BASE_URL": PROVIDER, "HTTP_PROXY": "ftp://h"}, "egress,anthropic", "HTTP_PROXY has a proxy of an unsupported kind", EGRESS),
    Case("a proxy that is away", lambda _: {"ANTHROPIC_BASE_URL": PROVIDER, "HTTP_PROXY": f"http://127.0.0.1:{free_port()}"}, "anthropic", "by the proxy of HTTP_PROXY", UNREACHABLE),
    Case("a proxy that wants a password", by_proxy("HTTPS_PROXY", b"HTTP/1.1 407 No\r\ncontent-length: 0\r\n\r\n"), "anthropic", "the proxy wants a user and password", UNREACHABLE),
    Case("a route to itself", lambda _: {"ANTHROPIC_BASE_URL": "http://localhost:4181"}, "anthropic", "itself", NO_START),
    Case("a subscription without a login", lambda w: w.login(9) | {"CLAUDE_CREDENTIALS_PATH": str(w.folder / "none")}, "subscription", "log in with Claude Code", NO_LOGIN),
    Case("credentials that are none", lambda w: w.login(9) | {"CLAUDE_CREDENTIALS_PATH": w.file("c.json", "x")}, "subscription", "c.json can't be read (it is not JSON, which Claude Code writes there); repair it, or log in", NO_LOGIN),
    Case("credentials of another program", lambda w: w.login(9) | {"CLAUDE_CREDENTIALS_PATH": w.file("c.json", "[1]")}, "subscription", "can't be read (expected claudeAiOauth with accessToken, refreshToken and expiresAt); repair it", NO_LOGIN),
    Case("a login that has ended", lambda w: w.login(-9, refresh=None), "subscription", "has expired", NO_LOGIN),
    Case("a refresh that can't be reached", lambda w: w.login(60) | {"CLAUDE_OAUTH_REFRESH_URL": f"http://127.0.0.1:{free_port()}"}, "login refresh", "can't be reached", AT_RISK),
    Case("a home that is a file", lambda w: {"CCPROXY_HOME": w.file("file", ""), "CCPROXY_CONFIG": w.file("c.toml", "")}, "", "set CCPROXY_HOME", NO_START),
    Case("a key with a line break", lambda _: {"ANTHROPIC_API_KEY": "sk-ant\napi03"}, "", "ANTHROPIC_API_KEY: has a space, a line break", NO_START),
    Case("a number that is none", lambda _: {"PROXY_PORT": "many"}, "", "PROXY_PORT", NO_START),
    Case("an option that Redis' library does not know", lambda w: {"REDIS_URL": w.redis_url(query="?colour=red")}, "", "unknown option", NO_START),
    Case("an unknown key in the file", lambda w: {"CCPROXY_CONFIG": w.file("c.toml", "colour = 1\n")}, "", "colour", NO_START),
)  # fmt: skip
"""One wrong thing each."""

UNUSUAL = (
    Case("as usual", lambda _: {}),
    Case("no servers yet", lambda _: {"REDIS_URL": "", "DATABASE_URL": ""}),
    Case("no key at all", lambda _: {"ANTHROPIC_API_KEY": ""}),
    Case("a Redis user with the least rights", lambda w: {"REDIS_URL": w.redis_user("u", "~ccproxy:*", "~rq:*", "&ccproxy:*", "&rq:*", "+@all", "-@admin", "-@dangerous", "+info")}),
    Case("another Redis database", lambda w: {"REDIS_URL": w.redis_url(database=3)}),
    Case("a Redis option", lambda w: {"REDIS_URL": w.redis_url(query="?protocol=2&socket_timeout=3")}),
    Case("another client's Redis option", lambda w: {"REDIS_URL": w.redis_url(query="?family=4")}),
    Case("a queue of its own", lambda w: {"RQ_REDIS_URL": w.redis_url(database=1)}),
    Case("an eviction policy without a limit", prepared(lambda w: w.redis_setting("maxmemory-policy", "allkeys-lru"))),
    Case("an eviction policy for keys that expire", prepared(lambda w: evicting(w, "volatile-ttl"))),
    Case("a Redis without persistence", prepared(lambda w: w.redis_setting("appendonly", "no"))),
    Case("keywords", lambda w: {"DATABASE_URL": w.keywords()}),
    Case("keywords with options", lambda w: {"DATABASE_URL": w.keywords("sslmode=prefer connect_timeout=3")}),
    Case("several database hosts", lambda w: {"DATABASE_URL": w.database().replace("@", f"@127.0.0.1:{free_port()},")}),
    Case("another driver's parameters", lambda w: {"DATABASE_URL": w.database(query="?schema=public&connection_limit=5")}),
    Case("another driver's scheme", lambda w: {"DATABASE_URL": w.database().replace("postgresql:", "postgresql+asyncpg:")}),
    Case("a database in parts", lambda w: {"DATABASE_URL": "", "DB_HOST": "127.0.0.1", "DB_PORT": str(w.postgres.port), "DB_NAME": "ccproxy", "DB_USER": "ccproxy", "DB_PASSWORD": str(urlsplit(w.postgres.url).password)}),
    Case("a direct address", lambda w: {"DATABASE_DIRECT_URL": w.database()}),
    Case("a provider behind an HTTP proxy only", by_proxy("HTTP_PROXY", b"")),
    Case("a company's certificate", lambda w: with_https(w, trust=True)),
    Case("a provider on IPv6", lambda w: {"ANTHROPIC_BASE_URL": f"http://[::1]:{w.listens(host='::1')}"}),
    Case("a base URL that ends in /v1", lambda w: {"ANTHROPIC_BASE_URL": f"http://127.0.0.1:{w.listens()}/v1/"}),
    Case("httpx's transport", lambda _: {"UPSTREAM_TRANSPORT": "httpx"}),
    Case("a proxy that only others need", lambda _: {"HTTP_PROXY": f"http://127.0.0.1:{free_port()}"}),
    Case("a login that is refreshed", lambda w: w.login(-9, endpoint=REFRESHED)),
    Case("a token that is never refreshed", lambda w: w.login(9) | {"CLAUDE_CREDENTIALS_PATH": "", "CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-token"}),
    Case("quotes that nobody took off", lambda w: {"REDIS_URL": f'"{w.redis_url()}"', "DATABASE_URL": f"'{w.database()}'", "ANTHROPIC_API_KEY": '"sk-ant-api03-key"'}),
    Case("a line break after a key", lambda _: {"ANTHROPIC_API_KEY": "sk-ant-api03-key\r\n"}),
    Case("variables of the original", lambda _: {"NODE_ENV": "production"}),
)  # fmt: skip
"""Nothing is wrong."""
