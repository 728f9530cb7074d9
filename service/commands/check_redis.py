"""The check of Redis: login, rights for all commands of the proxies, version, eviction, persistence.

Not here: the commands that RQ needs (the workers' own check), and asking a server (`redis_client.probe`).
"""

import secrets
from typing import Final

from redis.exceptions import RedisError

from service.commands.finding import Finding
from service.ledger.wire import CHANGES_CHANNEL, CONTROL_NEWS, PREFIX
from service.redis_client.probe import (
    LEDGER_PATTERNS,
    Command,
    ServerFacts,
    eviction_words,
    login_failure,
    probe,
    refusal_words,
)
from service.settings.redis_url import place_of

VARIABLE: Final = "REDIS_URL"
LEAST_VERSION: Final = 7
SCRATCH_MS: Final = 10_000


def scratch_commands(key: str) -> tuple[Command, ...]:
    """Return each command that proxies, workers and operators' commands use, on keys that begin with `key`."""
    text, table, names, scores, stream = (f"{key}:{kind}" for kind in ("text", "hash", "set", "zset", "stream"))
    return (
        ("SET", text, "1", "NX", "PX", SCRATCH_MS),
        ("GET", text),
        ("GETEX", text, "PX", SCRATCH_MS),
        ("EXISTS", text),
        ("HSET", table, "a", "1"),
        ("HGET", table, "a"),
        ("HMGET", table, "a", "b"),
        ("HGETALL", table),
        ("PEXPIRE", table, SCRATCH_MS),
        ("HDEL", table, "a"),
        ("SADD", names, "a"),
        ("SMEMBERS", names),
        ("PEXPIRE", names, SCRATCH_MS),
        ("ZADD", scores, 1, "a"),
        ("ZRANGE", scores, 0, -1),
        ("ZREMRANGEBYSCORE", scores, 2, 3),
        ("PEXPIRE", scores, SCRATCH_MS),
        ("ZREM", scores, "a"),
        ("XADD", stream, "*", "a", "1"),
        ("XLEN", stream),
        ("TYPE", stream),
        ("XRANGE", stream, "-", "+", "COUNT", 1),
        ("XREVRANGE", stream, "+", "-", "COUNT", 1),
        ("XREAD", "COUNT", 1, "STREAMS", stream, "0"),
        ("PEXPIRE", stream, SCRATCH_MS),
        ("XTRIM", stream, "MINID", "0"),
        ("DEL", text, table, names, scores, stream),
        ("EVAL", "return 1", 1, text),
        ("SCRIPT", "LOAD", "return 1"),
        ("EVALSHA", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db", 1, text),
        ("PUBLISH", CHANGES_CHANNEL, CONTROL_NEWS.decode()),
        ("SCAN", 0, "MATCH", f"{key}*", "COUNT", 1),
        ("TIME",),
        ("INFO", "server"),
        ("PING",),
    )


def check_redis(url: str) -> list[Finding]:
    """Log in to Redis and run each command once on keys that expire. Blocks; its waits are bounded."""
    place = place_of(url)
    try:
        facts = probe(url, scratch_commands(f"{PREFIX}:{{check-{secrets.token_hex(6)}}}"), (CHANGES_CHANNEL,))
    except (RedisError, OSError) as error:
        return [Finding("redis", False, login_failure(error, place, VARIABLE))]
    if facts.refusals:
        wrong = Finding("redis", False, f"{place.shown}: {refusal_words(facts, LEDGER_PATTERNS)}")
        return [wrong, *eviction(facts), *persistence(facts)]
    return [Finding("redis", True, f"{place.shown}: {facts.version}, logged in as {facts.user}"), *notes(facts)]


def notes(facts: ServerFacts) -> list[Finding]:
    """Return what is wrong, or worth knowing, of the server's version and configuration."""
    info = facts.info
    found = []
    major = str(info.get("redis_version", "")).partition(".")[0]
    if major.isdecimal() and int(major) < LEAST_VERSION:
        found.append(Finding("redis", False, f"{facts.version} is too old; use Redis 7.0 or newer, or Valkey"))
    if info.get("role") == "slave":
        found.append(Finding("redis", False, "it is a replica; use the primary's address"))
    return [*found, *eviction(facts), *persistence(facts)]


def eviction(facts: ServerFacts) -> list[Finding]:
    """Check that a full Redis refuses writes (events then wait on the proxies' disks) rather than dropping streams."""
    policy = str(facts.info.get("maxmemory_policy", "noeviction"))
    if policy == "noeviction":
        return []
    words = f"maxmemory-policy is {policy}; set it to noeviction"
    if not facts.info.get("maxmemory"):
        return [Finding("redis", None, f"{words}: with a maxmemory, it would drop keys of the ledger")]
    if policy.startswith("volatile"):
        return [Finding("redis", None, f"{words}: a full Redis forgets who is alive, and tokens that hosts share")]
    return [Finding("redis", False, eviction_words(facts.info))]


def persistence(facts: ServerFacts) -> list[Finding]:
    """Note a Redis that forgets everything when it restarts."""
    if not facts.info or facts.info.get("aof_enabled") or facts.save or facts.save is None:
        return []
    return [
        Finding(
            "redis",
            None,
            'nothing is kept on its disk (appendonly no, save ""): a restart loses what no worker has folded and no '
            "proxy still holds; set appendonly yes",
        )
    ]
