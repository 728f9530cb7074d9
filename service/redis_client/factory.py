"""Creates Redis clients for one server, the primary behind Sentinels, or a Cluster (`settings.redis_url` parses the
URL).

Callers use them all alike: all keys of a stream lie in one slot, and a pipeline may span slots. A Cluster has no run
id, but each of its servers has one; `runs_of` and `run_of_all` provide substitutes. Not here: timeouts and commands.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from service.settings.redis_url import RedisAddress, place_of

if TYPE_CHECKING:
    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis

SENTINEL_OPTIONS = {"sentinel_username": "username", "sentinel_password": "password"}


def open_async(url: str, **options: Any) -> "AsyncRedis":
    """Create a client for the proxies; it connects on first use. `options` are redis-py's, for each connection."""
    from redis.asyncio import Sentinel
    from redis.asyncio.cluster import ClusterNode
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    from service.redis_client.failures import GuardedRedis

    place = place_of(url)
    if place.kind == "server":
        return GuardedRedis.from_url(place.plain_url, **options)
    options |= options_of(place)
    if place.kind == "sentinel":
        from service.redis_client.sentinel import BehindSentinels

        sentinel_options, options = split_sentinel_options(options)
        sentinel_options["retry"] = Retry(NoBackoff(), 0)  # the next Sentinel is tried instead
        sentinels = Sentinel(list(place.nodes), sentinel_kwargs=sentinel_options, **options)  # type: ignore[no-untyped-call]
        return cast("AsyncRedis", sentinels.master_for(place.primary, redis_class=BehindSentinels))
    from service.redis_client.cluster import AsyncCluster

    return cast("AsyncRedis", AsyncCluster(startup_nodes=[ClusterNode(*node) for node in place.nodes], **options))


def open_sync(url: str, **options: Any) -> "Redis":
    """Create a client for workers and commands."""
    from redis import Redis, Sentinel
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    place = place_of(url)
    if place.kind == "server":
        return Redis.from_url(place.plain_url, **options)
    options |= options_of(place)
    if place.kind == "sentinel":
        sentinel_options, options = split_sentinel_options(options)
        sentinel_options["retry"] = Retry(NoBackoff(), 0)
        sentinels = Sentinel(list(place.nodes), sentinel_kwargs=sentinel_options, **options)  # type: ignore[no-untyped-call]
        return cast("Redis", sentinels.master_for(place.primary))  # type: ignore[no-untyped-call]
    from service.redis_client.cluster import LazyCluster

    return cast("Redis", LazyCluster(place.nodes, options))


def options_of(address: RedisAddress) -> dict[str, Any]:
    """Return credentials, database and TLS as redis-py's options."""
    from redis.connection import parse_url

    options: dict[str, Any] = dict(parse_url(address.plain_url))  # type: ignore[no-untyped-call]
    for name in ("host", "port", "connection_class", *(("db",) if address.kind == "cluster" else ())):
        options.pop(name, None)
    return options | {"ssl": True} if address.tls else options


def split_sentinel_options(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split options into those for the Sentinels and those for the primary; timeouts and TLS go to both."""
    theirs = {name: value for name, value in options.items() if name.startswith(("socket_", "ssl"))}
    theirs |= {known: options[name] for name, known in SENTINEL_OPTIONS.items() if name in options}
    return theirs, {name: value for name, value in options.items() if name not in SENTINEL_OPTIONS}


def is_cluster(redis: object) -> bool:
    """True for a Cluster client."""
    return getattr(redis, "is_cluster", False) is True


def execute_with_run_ids(redis: "Redis", pipeline: Any, keys: Sequence[str]) -> tuple[list[Any], list[str]]:
    """Execute a pipeline; return its replies and the run ids of these keys' servers, read after it: with one server, on
    the same connection, so that a server replaced in between is noticed."""
    if is_cluster(redis):
        return pipeline.execute(), run_ids_of(redis, keys)
    pipeline.info("server")
    *replies, info = pipeline.execute()
    return replies, [str(info["run_id"])] * len(keys)


def run_ids_of(redis: "Redis", keys: Sequence[str]) -> list[str]:
    """Return the run id of each key's server."""
    if not is_cluster(redis):
        return [str(redis.info("server")["run_id"])] * len(keys)
    cluster: Any = redis
    nodes = [cluster.get_node_from_key(key) for key in keys]
    found = {node.name: str(cluster.info("server", target_nodes=node)["run_id"]) for node in {*nodes}}
    return [found[node.name] for node in nodes]


async def combined_run_id(redis: "AsyncRedis") -> str:
    """Return one id for the runs of all servers; it changes when any of them restarts or is replaced."""
    return "+".join(sorted(str(info["run_id"]) for info in await infos_of(redis, "server")))


async def infos_of(redis: "AsyncRedis", section: str) -> list[dict[str, Any]]:
    """Return a section of INFO of each server that is written to."""
    if not is_cluster(redis):
        return [await redis.info(section)]
    cluster: Any = redis
    return list((await cluster.info(section, target_nodes=cluster.PRIMARIES)).values())
