"""Clients of Redis, whatever it is: one server, the primary behind Sentinels, a Cluster (`settings.redis_url` tells
them apart).

They differ in what they do on the wire, not in what they are asked: all keys of a stream lie on one slot, and a
pipeline may span slots. A Cluster has no run id; each of its servers has one. `runs_of` and `run_of_all` say what
stands for it. Not here: how long to wait, and what is asked.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from service.settings.redis_url import RedisAddress, place_of

if TYPE_CHECKING:
    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis

SENTINEL_OPTIONS = {"sentinel_username": "username", "sentinel_password": "password"}


def open_async(url: str, **options: Any) -> "AsyncRedis":
    """A client for the proxies; it connects when it is first asked. `options` are redis-py's, for each connection."""
    from redis.asyncio import Sentinel
    from redis.asyncio.cluster import ClusterNode
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    from service.redis_client.failures import GuardedRedis

    place = place_of(url)
    if place.kind == "server":
        return GuardedRedis.from_url(url, **options)
    options |= options_of(place)
    if place.kind == "sentinel":
        from service.redis_client.sentinel import BehindSentinels

        sentinel_options, options = sentinels_own(options)
        sentinel_options["retry"] = Retry(NoBackoff(), 0)  # the next one is asked instead
        sentinels = Sentinel(list(place.nodes), sentinel_kwargs=sentinel_options, **options)  # type: ignore[no-untyped-call]
        return cast("AsyncRedis", sentinels.master_for(place.primary, redis_class=BehindSentinels))
    from service.redis_client.cluster import AsyncCluster

    return cast("AsyncRedis", AsyncCluster(startup_nodes=[ClusterNode(*node) for node in place.nodes], **options))


def open_sync(url: str, **options: Any) -> "Redis":
    """The same for the workers and the commands."""
    from redis import Redis, Sentinel
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    place = place_of(url)
    if place.kind == "server":
        return Redis.from_url(url, **options)
    options |= options_of(place)
    if place.kind == "sentinel":
        sentinel_options, options = sentinels_own(options)
        sentinel_options["retry"] = Retry(NoBackoff(), 0)
        sentinels = Sentinel(list(place.nodes), sentinel_kwargs=sentinel_options, **options)  # type: ignore[no-untyped-call]
        return cast("Redis", sentinels.master_for(place.primary))  # type: ignore[no-untyped-call]
    from service.redis_client.cluster import LazyCluster

    return cast("Redis", LazyCluster(place.nodes, options))


def options_of(place: RedisAddress) -> dict[str, Any]:
    """Credentials, database and TLS as redis-py's options."""
    from redis.connection import parse_url

    options: dict[str, Any] = dict(parse_url(place.plain_url))  # type: ignore[no-untyped-call]
    for name in ("host", "port", "connection_class", *(("db",) if place.kind == "cluster" else ())):
        options.pop(name, None)
    return options | {"ssl": True} if place.tls else options


def sentinels_own(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is meant for the Sentinels, and what for the primary: time-outs and TLS for both."""
    theirs = {name: value for name, value in options.items() if name.startswith(("socket_", "ssl"))}
    theirs |= {known: options[name] for name, known in SENTINEL_OPTIONS.items() if name in options}
    return theirs, {name: value for name, value in options.items() if name not in SENTINEL_OPTIONS}


def is_cluster(redis: object) -> bool:
    """Whether keys lie on several servers."""
    return getattr(redis, "is_cluster", False) is True


def execute_with_run_ids(redis: "Redis", pipeline: Any, keys: Sequence[str]) -> tuple[list[Any], list[str]]:
    """What a pipeline answers, and the run ids of the servers that hold these keys, asked after it: where there is
    one server, on the same connection, so that one that has changed in between is found out."""
    if is_cluster(redis):
        return pipeline.execute(), runs_of(redis, keys)
    pipeline.info("server")
    *replies, info = pipeline.execute()
    return replies, [str(info["run_id"])] * len(keys)


def runs_of(redis: "Redis", keys: Sequence[str]) -> list[str]:
    """The run id of each key's server."""
    if not is_cluster(redis):
        return [str(redis.info("server")["run_id"])] * len(keys)
    cluster: Any = redis
    nodes = [cluster.get_node_from_key(key) for key in keys]
    found = {node.name: str(cluster.info("server", target_nodes=node)["run_id"]) for node in {*nodes}}
    return [found[node.name] for node in nodes]


async def run_of_all(redis: "AsyncRedis") -> str:
    """One name for the runs of all servers: it changes when any of them is another one."""
    if not is_cluster(redis):
        return str((await redis.info("server"))["run_id"])
    cluster: Any = redis
    infos = await cluster.info("server", target_nodes=cluster.PRIMARIES)
    return "+".join(sorted(str(info["run_id"]) for info in infos.values()))
