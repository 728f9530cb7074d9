"""What a Redis server is and lets its user do, found out by logging in and running each command once.

The commands run on keys of their own, which expire: asking for the rights themselves (ACL) is a right that few users
have. Not here: which commands are needed (callers know), and how a connection is configured (`factory`).
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from msgspec import Struct
from redis.exceptions import (
    AuthenticationError,
    InvalidResponse,
    MovedError,
    NoPermissionError,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as Silent

from service.ledger.wire import PREFIX
from service.redis_client.factory import is_cluster, open_sync, options_of
from service.redis_client.failures import as_redis_error
from service.settings.redis_url import RedisAddress, place_of

TIMEOUT_S = 5.0
LEDGER_PATTERNS = f"~{PREFIX}:* &{PREFIX}:*"
"""The ledger's keys and channels, as ACL rules."""
Command = tuple[str | int, ...]
REFUSED_COMMAND = re.compile(r"run the '([a-z|]+)' command")
IN_PIPELINE = re.compile(r"^Command # \d+ \(.*\) of pipeline caused error: ")
"""What redis-py sets before a refusal: the whole command, with all that it would have written."""
IN_TUPLE = re.compile(r"""\((["'])(.*)\1,\)""", re.DOTALL)
SUBCOMMANDS = frozenset(("CLIENT", "SCRIPT", "CONFIG", "INFO"))
"""Commands whose first word says too little."""
MENDS = (
    ("max number of clients", "raise its maxclients, or end what holds its connections (CLIENT LIST)"),
    ("loading the dataset", "wait until it has read its data"),
    ("protected mode", "set a password on it (requirepass), and write it into {0}"),
    ("busy running a script", "wait, or end the script (SCRIPT KILL)"),
    ("No master found", "correct the primary's name in {0}, or start the Sentinels and the primary"),
)
"""Parts of messages, and the mend."""


class RefusedCommand(Struct, frozen=True):
    """A command that the server refused, and why. `kind`: the user lacks the command, a key, or a channel; or the
    server can't run it."""

    command: str
    kind: str
    words: str


class ServerFacts(Struct, frozen=True):
    """A server that was logged in to: who logged in, what INFO says, what was refused."""

    user: str
    info: dict[str, Any]
    save: str | None
    refusals: tuple[RefusedCommand, ...]

    @property
    def version(self) -> str:
        """The name and the version of the server."""
        if "valkey_version" in self.info:
            return f"Valkey {self.info['valkey_version']}"
        return f"Redis {self.info.get('redis_version', 'of an unknown version')}"


def probe(url: str, commands: Sequence[Command], channels: Sequence[str] = ()) -> ServerFacts:
    """Log in, run commands, subscribe to channels. Raises RedisError or OSError if there is no Redis or no login."""
    place = place_of(url)
    user = str(options_of(place).get("username") or "default")
    options = {"socket_timeout": TIMEOUT_S, "socket_connect_timeout": TIMEOUT_S, "legacy_responses": False}
    with as_redis_error(), open_sync(url, **options) as redis:
        log_in(redis)
        replies = [(command, reply_of(redis, command)) for command in commands]
        refusals = [refusal_of(command, reply) for command, reply in replies if isinstance(reply, RedisError)]
        refusals += [refused for channel in channels if (refused := subscribe(redis, channel))]
        return ServerFacts(user, info_of(redis), save_of(redis), tuple(refusals))


def log_in(redis: Any) -> None:
    """Authenticate. Raises RedisError or OSError; a user without the right to PING is logged in all the same."""
    with suppress(NoPermissionError):
        redis.ping()


def reply_of(redis: Any, command: Command) -> Any:
    """Return the reply to a command, or the server's refusal. Raises RedisError when the connection breaks."""
    try:
        return redis.execute_command(*command)
    except (AuthenticationError, ConnectionError, InvalidResponse, Silent):
        raise
    except RedisError as error:
        return error


def refusal_of(command: Command, error: RedisError) -> RefusedCommand:
    """Describe a refusal."""
    words = " ".join(str(error).split())
    name = str(command[0])
    name = f"{name} {command[1]}" if name in SUBCOMMANDS and len(command) > 1 else name
    kind = "server"
    if isinstance(error, NoPermissionError):
        kind = "key" if " key" in words else "channel" if "channel" in words else "command"
    return RefusedCommand(name, kind, words)


def subscribe(redis: Any, channel: str) -> RefusedCommand | None:
    """Return the server's refusal of a subscription, None if it grants it."""
    with redis.pubsub() as subscriber:
        try:
            subscriber.subscribe(channel)
            subscriber.get_message(timeout=TIMEOUT_S)
        except NoPermissionError as error:
            return refusal_of(("SUBSCRIBE",), error)
    return None


def info_of(redis: Any) -> dict[str, Any]:
    """Return INFO of one of the servers, {} if the user has no right to it."""
    try:
        found: Any = redis.info(target_nodes=redis.get_random_node()) if is_cluster(redis) else redis.info()
    except RedisError:
        return {}
    return dict(next(iter(found.values()))) if found and isinstance(next(iter(found.values())), dict) else dict(found)


def save_of(redis: Any) -> str | None:
    """Return when the server saves to disk, None if it does not say: managed offers have no CONFIG."""
    try:
        target = {"target_nodes": redis.get_random_node()} if is_cluster(redis) else {}
        found: Any = redis.config_get("save", **target)
    except RedisError:
        return None
    return decoded(found.get("save", found.get(b"save")))


def decoded(value: Any) -> str | None:
    """Decode a value of a setting."""
    return value.decode() if isinstance(value, bytes) else value


def login_failure(error: Exception, place: RedisAddress, variable: str) -> str:
    """Describe why nobody could log in, with its mend; repeats no password."""
    words = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, AuthenticationError):
        return f"{place.shown} refuses the login ({words}); {login_mend(words, place, variable)}"
    if found := wrong_kind(error, words, place, variable):
        return found
    if "CERTIFICATE_VERIFY_FAILED" in words:
        return f"{place.shown}: the certificate is not trusted ({words}); name its CA: {variable}=...?ssl_ca_certs=FILE"
    if isinstance(error, Silent):
        mend = f"use redis:// in {variable} if it has no TLS" if place.tls else f"start it, or correct {variable}"
        return f"{place.shown} does not answer as Redis does within {TIMEOUT_S:.0f} s; {mend}"
    if "closed" in words or "reset by peer" in words:
        return f"{place.shown} closes the connection: it is no Redis, or wants TLS (rediss://); correct {variable}"
    return f"{place.shown} can't be used {usual_mend(words, variable)}"


def wrong_kind(error: Exception, words: str, place: RedisAddress, variable: str) -> str:
    """Describe a server of another kind than the address says, "" if it is of that kind."""
    if isinstance(error, MovedError):
        return f"{place.shown} is a node of a Redis Cluster; use redis+cluster:// in {variable}"
    if place.kind == "cluster" and (isinstance(error, InvalidResponse) or "Cluster mode is not enabled" in words):
        return f"{place.shown} is no Cluster; use redis:// in {variable} if it is a single server"
    if isinstance(error, InvalidResponse):
        return f"{place.shown} is no Redis: it answers in another protocol; correct {variable}"
    return ""


def usual_mend(words: str, variable: str) -> str:
    """Return the words of an error, in brackets, and how it is mended."""
    words = words.partition(" : <")[0]  # after it, redis-py describes its own objects
    mend = next((mend for part, mend in MENDS if part in words), "start it, or correct {0}")
    return f"({words}); {mend.format(variable)}"


def server_words(error: BaseException) -> str:
    """Return the server's words: without the command of a pipeline, which redis-py sets before them in a tuple."""
    words = IN_PIPELINE.sub("", " ".join(str(error).split()))
    found = IN_TUPLE.fullmatch(words)
    return found.group(2) if found else words


def failure_words(error: Exception, place: RedisAddress, variable: str, patterns: str = LEDGER_PATTERNS) -> str:
    """Describe why a server can't be used, with its mend: a command that is refused, or no login at all. `patterns`
    allow a user its keys and channels."""
    words = server_words(error)
    if isinstance(error, NoPermissionError):
        user = str(options_of(place).get("username") or "default")
        named = REFUSED_COMMAND.search(words)
        command = named.group(1).split("|")[0] if named else ""
        what = f"run {command.upper()}" if command else "use its keys or channels"
        mend = f"+{command}" if command else patterns
        return f"{place.shown}: user {user} may not {what} ({words}); allow it: ACL SETUSER {user} {mend}"
    is_named = isinstance(error, MovedError) or any(part in words for part, _ in MENDS)
    if isinstance(error, ResponseError) and not is_named:
        return f"{place.shown} refuses a command ({words}); {server_mend(words)}"
    return login_failure(error, place, variable)


def login_mend(words: str, place: RedisAddress, variable: str) -> str:
    """Return how a refused login is mended."""
    if "without any password" in words or "no password is set" in words:
        return f"it has no password: leave it out of {variable}"
    if not options_of(place).get("password"):
        return f"write the password into {variable}: redis://:password@host"
    return f"correct user and password in {variable}"


def refusal_words(facts: ServerFacts, patterns: str) -> str:
    """Describe what a server refused, with its mend. `patterns` are the keys that the user needs."""
    commands = [refusal.command for refusal in facts.refusals if refusal.kind == "command"]
    if commands:
        granted = " ".join(f"+{command.split()[0].lower()}" for command in dict.fromkeys(commands))
        return (
            f"user {facts.user} may not run {', '.join(dict.fromkeys(commands))}; "
            f"allow it: ACL SETUSER {facts.user} {granted}"
        )
    first = facts.refusals[0]
    if first.kind in ("key", "channel"):
        return f"user {facts.user} may not use its {first.kind}s; allow it: ACL SETUSER {facts.user} {patterns}"
    return f"it can't run {first.command} ({first.words}); {server_mend(first.words)}"


def server_faults(info: Mapping[str, Any]) -> tuple[str, ...]:
    """Describe what is wrong with a server that takes logins, each with its mend."""
    found = ["it is a replica; use the primary's address"] if info.get("role") == "slave" else []
    keeps = str(info.get("maxmemory_policy", "noeviction")) == "noeviction"
    if keeps and 0 < int(info.get("maxmemory", 0)) < int(info.get("used_memory", 0)):
        found.append("it is full: raise maxmemory")
    return (*found, *filter(None, (eviction_words(info),)))


def eviction_words(info: Mapping[str, Any]) -> str:
    """Describe a server that drops streams when it is full, with the mend; "" if it refuses writes instead."""
    policy = str(info.get("maxmemory_policy", ""))
    if not info.get("maxmemory") or not policy.startswith("allkeys"):
        return ""
    return f"maxmemory-policy is {policy}; set it to noeviction: a full Redis drops events that no worker has folded"


def server_mend(words: str) -> str:
    """Return how a server is mended that can't run a command that its user may run."""
    if words.startswith("READONLY") or "read only replica" in words:
        return "it is a replica; use the primary's address"
    if "DB index" in words:
        return "correct the number of the database at the end of the URL"
    if "maxmemory" in words or words.startswith("OOM"):
        return "it is full: raise maxmemory"
    if "MISCONF" in words or "snapshot" in words:
        return "it can't save to its disk: see its log"
    if "unknown command" in words:
        return "use Redis 7.0 or newer, or Valkey, with all its commands"
    return "see its log"
