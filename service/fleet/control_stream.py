"""The operators' stream for processes other than proxies: reads its state and appends commands.

Every proxy reads the stream itself, so that a command acts within a second without workers and without Postgres. Not
here: what the commands mean (`service.ledger`).
"""

import getpass
import os
import secrets
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
from redis import Redis

from service.fleet.overlay import ControlOverlay, ledger_in, view_of
from service.ledger.events import CircuitReset, ControlEvent, Event, Forgotten, RouteReset
from service.ledger.ids import uuid7
from service.ledger.state import ControlLedger
from service.ledger.wire import (
    CHANGES_CHANNEL,
    CONTROL,
    CONTROL_NEWS,
    ENTRY_FIELD,
    STREAMS_KEY,
    Snapshot,
    decode_snapshot,
    encode_entry,
    events_key,
    snapshot_key,
)
from service.redis_client.factory import open_sync
from service.routing.view import View

TIMEOUT_S = 5.0
PAGE = 1_000


class Operator:
    """Appends one operator's commands, numbered as events of a replica of their own."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.by = f"cli {current_user()}"
        self._replica = f"cli-{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(5)}"
        self._seqs: dict[str, int] = {}

    def now_ms(self) -> int:
        """Return fleet time. Raises RedisError."""
        seconds, micros = self.redis.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def common_fields(self) -> dict[str, Any]:
        """Return the fields common to all events: a new id, the time, and the author. Raises RedisError."""
        at_ms = self.now_ms()
        return {"event_id": uuid7(at_ms, int.from_bytes(secrets.token_bytes(10))), "at_ms": at_ms, "by": self.by}

    def append(self, events: Sequence[ControlEvent]) -> None:
        """Append events to the operators' stream and notify the proxies. Raises RedisError."""
        self._append(CONTROL, events)
        self.redis.publish(CHANGES_CHANNEL, CONTROL_NEWS)  # outside the pipeline: a Cluster's does not support PUBLISH

    def reset(self, route: str, forgot: Forgotten) -> None:
        """Reset a route, of which `forgot` is held: on its own stream, and for all readers. Raises RedisError."""
        fields = self.common_fields()
        self._append(route, [RouteReset(**fields, forgot=forgot)])
        self.append([CircuitReset(**(self.common_fields() | {"at_ms": fields["at_ms"]}), route=route)])

    def record(self, route: str, events: Sequence[Event]) -> None:
        """Append events of a route's own stream. Raises RedisError."""
        self._append(route, events)

    def _append(self, stream: str, events: Sequence[Event]) -> None:
        numbered: list[Event] = []
        for event in events:
            seq = self._seqs[stream] = self._seqs.get(stream, 0) + 1
            numbered.append(msgspec.structs.replace(event, replica=self._replica, seq=seq))
        pipe = self.redis.pipeline(transaction=False)
        pipe.xadd(events_key(stream), {ENTRY_FIELD: encode_entry(numbered)})
        pipe.sadd(STREAMS_KEY, stream)
        pipe.execute()

    def control(self) -> ControlLedger:
        """Return the current control ledger. Raises RedisError."""
        return read_control(self.redis)


@contextmanager
def operator(url: str) -> Iterator[Operator]:
    """Open an operator on the ledger's Redis."""
    redis = open_sync(url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, legacy_responses=False)
    with redis:
        yield Operator(redis)


def read_control(redis: Redis) -> ControlLedger:
    """Return the control ledger: the newest snapshot, and the entries after it. Raises RedisError."""
    control, snapshot = ControlOverlay(), read_snapshot(redis, CONTROL)
    ledger = ledger_in(snapshot) if snapshot else None
    if snapshot and isinstance(ledger, ControlLedger):
        control.take(snapshot, ledger)
    while True:
        entries: Any = redis.xrange(events_key(CONTROL), min=control.unread, max="+", count=PAGE)
        control.add(entries or ())
        if len(entries or ()) < PAGE:
            return control.ledger


def read_view(redis: Redis) -> View:
    """Return the view: all newest snapshots, and the current control ledger. Raises RedisError."""
    return view_of(read_snapshots(redis, stream_names(redis)).values(), read_control(redis))


def stream_names(redis: Redis) -> set[str]:
    """The names of all streams that were ever written. Raises RedisError."""
    return {name.decode() if isinstance(name, bytes) else name for name in redis.smembers(STREAMS_KEY)}


def read_snapshots(redis: Redis, streams: Iterable[str]) -> dict[str, Snapshot]:
    """The newest snapshots of the streams that have one. Raises RedisError."""
    return {stream: snapshot for stream in streams if (snapshot := read_snapshot(redis, stream))}


def read_snapshot(redis: Redis, stream: str) -> Snapshot | None:
    """The newest snapshot of a stream. Raises RedisError."""
    raw: Any = redis.get(snapshot_key(stream))
    return decode_snapshot(raw) if isinstance(raw, bytes) else None


def current_user() -> str:
    """Return the name of the user who runs this command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "somebody"
