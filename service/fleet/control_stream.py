"""The operators' stream, from outside of a proxy: what stands on it, and commands that are put there.

Every proxy reads the stream itself, so that a command acts within a second without workers and without Postgres.
Not here: what the commands mean (`service.ledger`).
"""

import getpass
import os
import secrets
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
from redis import Redis

from service.fleet.snapshots import overlay
from service.ledger.events import ControlEvent
from service.ledger.ids import format_uuid
from service.ledger.state import ControlLedger, RouteLedger
from service.ledger.wire import (
    CHANGES_CHANNEL,
    CONTROL,
    CONTROL_NEWS,
    ENTRY_FIELD,
    STREAMS_KEY,
    Snapshot,
    decode_entry,
    decode_ledger,
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
    """One person's commands, numbered as the events of a replica of their own."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.by = f"cli {who()}"
        self._replica = f"cli-{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(5)}"
        self._seq = 0

    def now_ms(self) -> int:
        """Fleet time. Raises RedisError."""
        seconds, micros = self.redis.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def stamp(self) -> dict[str, Any]:
        """What every event has: a fresh id, the time, and who did it. Raises RedisError."""
        at_ms = self.now_ms()
        chance = int.from_bytes(secrets.token_bytes(10), "big")
        bits = at_ms << 80 | 7 << 76 | (chance >> 62 & 0xFFF) << 64 | 2 << 62 | chance & (1 << 62) - 1
        return {"event_id": format_uuid(bits), "at_ms": at_ms, "by": self.by}

    def append(self, events: Sequence[ControlEvent]) -> None:
        """Put events on the stream, and tell the proxies. Raises RedisError."""
        numbered: list[ControlEvent] = []
        for event in events:
            self._seq += 1
            numbered.append(msgspec.structs.replace(event, replica=self._replica, seq=self._seq))
        pipe = self.redis.pipeline(transaction=False)
        pipe.xadd(events_key(CONTROL), {ENTRY_FIELD: encode_entry(numbered)})
        pipe.sadd(STREAMS_KEY, CONTROL)
        pipe.execute()
        self.redis.publish(CHANGES_CHANNEL, CONTROL_NEWS)  # apart: a Cluster takes none in a pipeline

    def control(self) -> ControlLedger:
        """The operators' ledger as of now. Raises RedisError."""
        return read_control(self.redis)


@contextmanager
def operator(url: str) -> Iterator[Operator]:
    """An operator at the ledger's Redis."""
    redis = open_sync(url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, legacy_responses=False)
    with redis:
        yield Operator(redis)


def read_control(redis: Redis) -> ControlLedger:
    """The operators' ledger: the newest snapshot, and what came behind it. Raises RedisError."""
    snapshot, found = read_ledger(redis, CONTROL)
    ledger = found if isinstance(found, ControlLedger) else ControlLedger()
    after = snapshot.stream_id.encode() if snapshot else b"0-0"
    while True:
        entries: Any = redis.xrange(events_key(CONTROL), min=b"(" + after, max="+", count=PAGE)
        for entry, fields in entries or ():
            after = entry
            decoded = decode_entry(fields.get(ENTRY_FIELD.encode(), b""))
            overlay(ledger, [event for event in decoded if isinstance(event, ControlEvent)])
        if len(entries or ()) < PAGE:
            return ledger


def read_view(redis: Redis) -> View:
    """All ledgers as the newest snapshots have them, and the operators' own as of now. Raises RedisError."""
    view = View(control=read_control(redis))
    for name in redis.smembers(STREAMS_KEY):
        stream = name.decode() if isinstance(name, bytes) else name
        _, ledger = read_ledger(redis, stream)
        if isinstance(ledger, RouteLedger):
            view.routes[stream] = ledger
    return view


def read_ledger(redis: Redis, stream: str) -> tuple[Snapshot | None, RouteLedger | ControlLedger | None]:
    """The newest snapshot of a stream, and its ledger where this version can read it. Raises RedisError."""
    raw: Any = redis.get(snapshot_key(stream))
    snapshot = decode_snapshot(raw) if isinstance(raw, bytes) else None
    with suppress(msgspec.DecodeError):
        return snapshot, decode_ledger(stream, snapshot.ledger) if snapshot else None
    return snapshot, None


def who() -> str:
    """Who runs this command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "somebody"
