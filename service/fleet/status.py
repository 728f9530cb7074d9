"""Fleet status from Redis: routes, streams with their lag, live replicas.

`ccproxy status` shows it. It needs no proxy, no worker and no Postgres. Not here: history.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import asdict, replace
from redis import Redis

from service.fleet.control_stream import read_control, read_snapshots, stream_names
from service.fleet.overlay import view_of
from service.ledger.wire import (
    CONTROL,
    REPLICA_PREFIX,
    WORKER_TTL_MS,
    WORKERS_KEY,
    Snapshot,
    WorkerBeat,
    events_key,
    route_key,
    spent_key,
)
from service.redis_client.factory import open_sync
from service.redis_client.probe import info_of, server_faults
from service.routing.error_words import key_accounts
from service.routing.explanation import next_route
from service.routing.rank import serves_clients_only
from service.routing.route_status import RouteStatus, read_route_status, reading_of
from service.routing.view import View
from service.settings import Route, Settings

LAG_LIMIT = 1_000
"""Maximum entries counted for the lag."""
TIMEOUT_S = 5.0


class StreamStatus(Struct, frozen=True):
    """A stream: its position, unfolded entries (counted up to 1,000), and the age of its snapshot."""

    stream: str
    epoch: int
    position: int
    lag: int
    snapshot_age_ms: int | None


class ReplicaStatus(Struct, frozen=True):
    """A live proxy process. `pending` events are not on their streams yet.

    `address` is its listener, `started_at_ms` its start (0 and "" from versions that don't report them), `draining`
    true during a graceful shutdown, `problems` what is wrong with it. `settings` is a digest of the settings that must
    agree across a fleet. `clock_skew_ms` is how far its machine's clock is ahead of fleet time, None from versions that
    don't report it.
    """

    replica: str
    pid: int
    seen_ms_ago: int
    pending: int
    settings: str = ""
    version: str = ""
    address: str = ""
    started_at_ms: int = 0
    draining: bool = False
    problems: tuple[str, ...] = ()
    clock_skew_ms: int | None = None


class WorkerStatus(Struct, frozen=True):
    """A live worker process; `problems` is what keeps it from folding. Workers of earlier versions are not known."""

    worker: str
    pid: int
    seen_ms_ago: int
    version: str = ""
    problems: tuple[str, ...] = ()


class Status(Struct, frozen=True):
    """Status of the fleet at `at_ms`. `next_route` is the one that a usual request would take, "" if there is none.

    `redis_faults` is what is wrong with Redis, whose proxies and workers may be unable to say so."""

    at_ms: int
    routes: tuple[RouteStatus, ...]
    streams: tuple[StreamStatus, ...]
    replicas: tuple[ReplicaStatus, ...]
    next_route: str = ""
    workers: tuple[WorkerStatus, ...] = ()
    redis_faults: tuple[str, ...] = ()

    @property
    def settings(self) -> dict[str, list[str]]:
        """The replicas by settings digest; more than one entry means that they disagree."""
        return grouped((replica.settings, replica.replica) for replica in self.replicas)

    @property
    def versions(self) -> dict[str, list[str]]:
        """The replicas by version; more than one entry is a fleet in the middle of an upgrade, or a forgotten one."""
        return grouped((replica.version, replica.replica) for replica in self.replicas)

    def fields(self) -> dict[str, Any]:
        """Return the status as plain values, for JSON."""
        return {
            "at_ms": self.at_ms,
            "next_route": self.next_route,
            "routes": [msgspec.to_builtins(reading) for reading in self.routes],
            "streams": [asdict(stream) for stream in self.streams],
            "replicas": [asdict(replica) for replica in self.replicas],
            "workers": [asdict(worker) for worker in self.workers],
            "redis_faults": self.redis_faults,
        }


def grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return names by what they report; those that report nothing are left out."""
    found: dict[str, list[str]] = {}
    for reported, name in pairs:
        if reported:
            found.setdefault(reported, []).append(name)
    return found


class FleetView(Struct, frozen=True):
    """What routing would decide with at `now_ms`: the view, the chain, and the statuses of its routes.

    Which routes are on, and their weekly limits, are those of the live proxies, if there are any: a shell may lack
    their keys.
    """

    now_ms: int
    view: View
    chain: tuple[Route, ...]
    routes: tuple[RouteStatus, ...]


def read_status(settings: Settings, url: str) -> Status:
    """Read the status from Redis. Raises RedisError or OSError.

    Live proxies publish route statuses under their own settings; without one, this process's settings apply.
    """
    with open_fleet(url) as redis:
        now_ms = fleet_time(redis)
        names = sorted(stream_names(redis) | {CONTROL})
        snapshots = read_snapshots(redis, names)
        replicas, newest_routes = read_replicas(redis, now_ms)
        fleet = fleet_view(redis, settings, snapshots, replicas, newest_routes, now_ms)
        routes = list(fleet.routes)
        if settings.client_route.id in names and settings.client_route not in fleet.chain:
            routes.append(read_route_status(settings.client_route, fleet.view, settings.policy, now_ms))
        return Status(
            at_ms=now_ms,
            routes=tuple(routes),
            streams=tuple(read_stream(redis, name, snapshots.get(name), now_ms) for name in names),
            replicas=replicas,
            workers=read_workers(redis, now_ms),
            redis_faults=server_faults(info_of(redis)),
            next_route=agreed_route(next_route(fleet.chain, fleet.view, settings.policy, now_ms), fleet.routes),
        )


def agreed_route(first: str, routes: Sequence[RouteStatus]) -> str:
    """Return the first route, or if the proxies see it as out and another one not, as their settings may do, that."""
    available = [reading.route for reading in routes if reading.available]
    return first if first in available or not available else available[0]


def read_fleet_view(settings: Settings, url: str) -> FleetView:
    """Read what routing would decide with. Raises RedisError or OSError."""
    with open_fleet(url) as redis:
        now_ms = fleet_time(redis)
        replicas, newest_routes = read_replicas(redis, now_ms)
        snapshots = read_snapshots(redis, stream_names(redis))
        return fleet_view(redis, settings, snapshots, replicas, newest_routes, now_ms)


def open_fleet(url: str) -> Redis:
    """Open the ledger's Redis."""
    return open_sync(url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, legacy_responses=False)


def fleet_time(redis: Redis) -> int:
    """Return fleet time in milliseconds. Raises RedisError."""
    seconds, micros = redis.time()
    return int(seconds) * 1000 + int(micros) // 1000


def fleet_view(
    redis: Redis,
    settings: Settings,
    snapshots: Mapping[str, Snapshot],
    replicas: Sequence[ReplicaStatus],
    newest_routes: Sequence[str],
    now_ms: int,
) -> FleetView:
    """Return what the newest of the live proxies would decide with; `newest_routes` are its routes. Raises
    RedisError."""
    view = view_of(snapshots.values(), read_control(redis))
    view.live = frozenset(one.replica for one in replicas)
    view.replica = min(replicas, key=lambda one: one.seen_ms_ago).replica if replicas else ""
    view.accounts = key_accounts(settings.routes)
    view.spent = read_spent(redis, settings.routes)
    published = [reading for name in newest_routes if (reading := read_published(redis, name))]

    def read(route: Route) -> RouteStatus:
        return read_route_status(route, view, settings.policy, now_ms)

    readings = published or [read(route) for route in settings.routes]
    known = {route.id: route for route in settings.routes}
    chain = [as_published(known[each.route], each) for each in readings if each.route in known]
    own = clients_route(chain, settings)
    return FleetView(now_ms, view, (*chain, *own), (*readings, *map(read, own)))


def clients_route(chain: Sequence[Route], settings: Settings) -> tuple[Route, ...]:
    """Return the route of clients' own credentials where there are no others."""
    is_only = bool(chain) and serves_clients_only(chain, settings.client_credentials)
    return (settings.client_route,) if is_only else ()


def read_spent(redis: Redis, routes: Sequence[Route]) -> dict[str, str]:
    """Return the quotas of which less is left than a request had to reserve, by route. Raises RedisError."""
    notes = {route.id: redis.get(spent_key(route.id)) for route in routes}
    return {route_id: decoded(note) for route_id, note in notes.items() if note}


def as_published(route: Route, reading: RouteStatus) -> Route:
    """Return a route as a live proxy has it."""
    off = (reading.reason or "off") if reading.state == "off" else None
    return replace(route, off=off, weekly_tokens=reading.limit_tokens)


def read_published(redis: Redis, route_id: str) -> RouteStatus | None:
    """Return a route's status as published by a live proxy."""
    fields: Any = redis.hgetall(route_key(route_id))
    try:
        return reading_of({decoded(name): decoded(value) for name, value in fields.items()})
    except msgspec.DecodeError:
        return None  # written by another version, or not yet


def decoded(raw: bytes | str) -> str:
    """Decode a reply of Redis to text."""
    return raw.decode() if isinstance(raw, bytes) else raw


def read_stream(redis: Redis, stream: str, snapshot: Snapshot | None, now_ms: int) -> StreamStatus:
    """Return a stream's status."""
    after = f"({snapshot.stream_id}" if snapshot else "-"
    waiting: Any = redis.xrange(events_key(stream), min=after, max="+", count=LAG_LIMIT)
    return StreamStatus(
        stream=stream,
        epoch=snapshot.epoch if snapshot else 0,
        position=snapshot.position if snapshot else 0,
        lag=len(waiting or ()),
        snapshot_age_ms=max(0, now_ms - snapshot.as_of_ms) if snapshot else None,
    )


def read_replicas(redis: Redis, now_ms: int) -> tuple[tuple[ReplicaStatus, ...], list[str]]:
    """Return the live proxies, and the routes of the most recent one, in its order."""
    found: list[ReplicaStatus] = []
    routes: dict[int, str] = {}
    for key in sorted(decoded(key) for key in redis.scan_iter(match=REPLICA_PREFIX + "*", count=1_000)):
        raw: Any = redis.hgetall(key)
        beat = {decoded(name): decoded(value) for name, value in raw.items()}
        if beat:
            replica = read_replica(key.removeprefix(REPLICA_PREFIX), beat, now_ms)
            found.append(replica)
            routes[replica.seen_ms_ago] = beat.get("routes", "")
    newest = routes[min(routes)] if routes else ""
    return tuple(found), [name for name in newest.split(",") if name]


def read_workers(redis: Redis, now_ms: int) -> tuple[WorkerStatus, ...]:
    """Return the live workers. Raises RedisError."""
    raw: Any = redis.hgetall(WORKERS_KEY)
    found = []
    for name, value in sorted((decoded(name), value) for name, value in raw.items()):
        with suppress(msgspec.DecodeError):
            beat = msgspec.json.decode(value, type=WorkerBeat)
            if beat.at_ms >= now_ms - WORKER_TTL_MS:
                seen_ms_ago = max(0, now_ms - beat.at_ms)
                found.append(WorkerStatus(name, beat.pid, seen_ms_ago, beat.version, beat.problems))
    return tuple(found)


def problems_in(text: str) -> tuple[str, ...]:
    """Return what a proxy says is wrong with it; nothing in words of another version."""
    try:
        return msgspec.json.decode(text, type=tuple[str, ...])
    except msgspec.DecodeError:
        return ()


def read_replica(replica: str, beat: Mapping[str, str], now_ms: int) -> ReplicaStatus:
    """Return a proxy's status from its heartbeat."""
    return ReplicaStatus(
        replica=replica,
        pid=int(beat.get("pid", 0)),
        seen_ms_ago=max(0, now_ms - int(beat.get("at_ms", now_ms))),
        pending=int(beat.get("pending", 0)),
        settings=beat.get("settings", ""),
        version=beat.get("version", ""),
        address=beat.get("address", ""),
        started_at_ms=int(beat.get("started_at_ms", 0)),
        draining=beat.get("draining") == "1",
        problems=problems_in(beat.get("problems", "[]")),
        clock_skew_ms=int(beat["skew_ms"]) if "skew_ms" in beat else None,
    )
