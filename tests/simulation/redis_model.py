"""A Redis of the mind: what the proxies and the workers use of one, with its run id, its saves and its deaths.

`Data` is the commands by redis-py's names; `tests/simulation/test_contract.py` holds it to a real server. `Server` is
the process around it. Clients, which fail and wait, are `clients`.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msgspec import Struct, field

from tests.simulation.virtual import Now

Id = tuple[int, int]
Raw = str | bytes | int | float
Members = set[bytes]
Ranked = dict[bytes, float]


class Entry(Struct, frozen=True, gc=False):
    """One entry of a stream."""

    id: Id
    fields: dict[bytes, bytes]


def entry_id(entry: Entry) -> Id:
    """By what entries are in order."""
    return entry.id


class Stream(Struct):
    """Entries in order, and the id that the next one has to exceed."""

    entries: list[Entry] = field(default_factory=list)
    last: Id = (0, 0)


def to_bytes(value: Raw) -> bytes:
    """As redis-py writes it."""
    return value if isinstance(value, bytes) else str(value).encode()


def to_name(key: Raw) -> str:
    """A key as text."""
    return key.decode() if isinstance(key, bytes) else str(key)


def id_of(text: Raw) -> Id:
    """A stream id as numbers; a missing second part is 0."""
    ms, _, seq = to_name(text).partition("-")
    return int(ms), int(seq or 0)


def id_bytes(number: Id) -> bytes:
    """A stream id as it stands in a reply."""
    return b"%d-%d" % number


class Data:
    """What a server holds, and the commands on it."""

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        self.clock_ms = clock_ms
        self.strings: dict[str, bytes] = {}
        self.hashes: dict[str, dict[bytes, bytes]] = {}
        self.sets: dict[str, Members] = {}
        self.ranked: dict[str, Ranked] = {}
        self.streams: dict[str, Stream] = {}
        self.expires_ms: dict[str, float] = {}
        self.jobs: list[str] = []

    def saved(self) -> "Data":
        """A copy that later commands leave alone."""
        made = Data(self.clock_ms)
        made.strings, made.expires_ms, made.jobs = dict(self.strings), dict(self.expires_ms), list(self.jobs)
        made.hashes = {key: dict(value) for key, value in self.hashes.items()}
        made.sets = {key: value.copy() for key, value in self.sets.items()}
        made.ranked = {key: value.copy() for key, value in self.ranked.items()}
        made.streams = {key: Stream(list(value.entries), value.last) for key, value in self.streams.items()}
        return made

    def _expire(self, key: str) -> None:
        if self.expires_ms.get(key, float("inf")) <= self.clock_ms():
            self._drop(key)

    def _drop(self, key: str) -> int:
        self.expires_ms.pop(key, None)
        held: Iterable[dict[str, Any]] = (self.strings, self.hashes, self.sets, self.ranked, self.streams)
        return int(any(part.pop(key, None) is not None for part in held))

    def _between(self, name: Raw, low: Raw, high: Raw) -> list[Entry]:
        stream = self.streams.get(to_name(name))
        if stream is None:
            return []
        first, last = to_name(low), to_name(high)
        held = stream.entries
        if first.startswith("("):
            start = bisect_right(held, id_of(first[1:]), key=entry_id)
        else:
            start = 0 if first == "-" else bisect_left(held, id_of(first), key=entry_id)
        return held[start : None if last == "+" else bisect_right(held, id_of(last), key=entry_id)]

    def xadd(self, name: Raw, fields: Mapping[Any, Raw]) -> bytes:
        stream = self.streams.setdefault(to_name(name), Stream())
        ms = self.clock_ms()
        stream.last = (ms, 0) if ms > stream.last[0] else (stream.last[0], stream.last[1] + 1)
        stream.entries.append(Entry(stream.last, {to_bytes(key): to_bytes(value) for key, value in fields.items()}))
        return id_bytes(stream.last)

    def xrange(self, name: Raw, min: Raw = "-", max: Raw = "+", count: int | None = None) -> list[Any]:  # noqa: A002 - redis-py's
        return [[id_bytes(entry.id), dict(entry.fields)] for entry in self._between(name, min, max)[:count]]

    def xrevrange(self, name: Raw, max: Raw = "+", min: Raw = "-", count: int | None = None) -> list[Any]:  # noqa: A002 - redis-py's
        found = self._between(name, min, max)[::-1]
        return [[id_bytes(entry.id), dict(entry.fields)] for entry in found[:count]]

    def xread(self, streams: Mapping[Any, Raw], count: int | None = None, block: int | None = None) -> dict[bytes, Any]:  # noqa: ARG002 - nobody waits here
        found = {name: self.xrange(name, f"({to_name(after)}", "+", count) for name, after in streams.items()}
        return {to_bytes(name): entries for name, entries in found.items() if entries}

    def type(self, name: Raw) -> bytes:
        """Only streams are looked at."""
        return b"stream" if to_name(name) in self.streams else b"none"

    def xlen(self, name: Raw) -> int:
        stream = self.streams.get(to_name(name))
        return len(stream.entries) if stream else 0

    def xtrim(self, name: Raw, *, minid: Raw | None = None, maxlen: int | None = None) -> int:
        stream = self.streams.get(to_name(name), Stream())
        before = len(stream.entries)
        if minid is not None:
            stream.entries = self._between(name, minid, "+")
        if maxlen is not None:
            stream.entries = stream.entries[-maxlen:]
        return before - len(stream.entries)

    def get(self, name: Raw) -> bytes | None:
        self._expire(to_name(name))
        return self.strings.get(to_name(name))

    def set(self, name: Raw, value: Raw, *, nx: bool = False, px: int | None = None) -> bool | None:
        key = to_name(name)
        self._expire(key)
        if nx and key in self.strings:
            return None
        self.strings[key] = to_bytes(value)
        self.expires_ms.pop(key, None)
        if px is not None:
            self.expires_ms[key] = self.clock_ms() + px
        return True

    def delete(self, *names: Raw) -> int:
        return sum(self._drop(to_name(name)) for name in names)

    def exists(self, *names: Raw) -> int:
        for name in names:
            self._expire(to_name(name))
        held = (self.strings, self.hashes, self.sets, self.ranked, self.streams)
        return sum(any(to_name(name) in part for part in held) for name in names)

    def pexpire(self, name: Raw, time: int) -> bool:
        self.expires_ms[to_name(name)] = self.clock_ms() + time
        return True

    def hset(self, name: Raw, mapping: Mapping[Any, Raw]) -> int:
        self._expire(to_name(name))
        found = self.hashes.setdefault(to_name(name), {})
        before = len(found)
        found.update({to_bytes(key): to_bytes(value) for key, value in mapping.items()})
        return len(found) - before

    def hget(self, name: Raw, key: Raw) -> bytes | None:
        self._expire(to_name(name))
        return self.hashes.get(to_name(name), {}).get(to_bytes(key))

    def hmget(self, name: Raw, keys: Iterable[Raw]) -> list[bytes | None]:
        return [self.hget(name, key) for key in keys]

    def sadd(self, name: Raw, *values: Raw) -> int:
        found = self.sets.setdefault(to_name(name), Members())
        before = len(found)
        found.update(to_bytes(value) for value in values)
        return len(found) - before

    def smembers(self, name: Raw) -> Members:
        return self.sets.get(to_name(name), Members()).copy()

    def zadd(self, name: Raw, mapping: Mapping[Any, float]) -> int:
        found = self.ranked.setdefault(to_name(name), {})
        before = len(found)
        found.update({to_bytes(member): float(score) for member, score in mapping.items()})
        return len(found) - before

    def zrange(self, name: Raw, first: int, last: int) -> list[bytes]:
        assert (first, last) == (0, -1)
        scores = self.ranked.get(to_name(name), {})
        return sorted(scores, key=lambda member: (scores[member], member))

    def zcard(self, name: Raw) -> int:
        return len(self.ranked.get(to_name(name), {}))

    def zrem(self, name: Raw, *members: Raw) -> int:
        found = self.ranked.get(to_name(name), {})
        return sum(found.pop(to_bytes(member), None) is not None for member in members)

    def zremrangebyscore(self, name: Raw, low: float | str, high: float | str) -> int:
        scores = self.ranked.get(to_name(name), {})
        return self.zrem(name, *[member for member, score in scores.items() if float(low) <= score <= float(high)])


Said = Callable[[bytes], None]


class Subscriber:
    """One connection that listens; `say` and `ring` are its owner's."""

    def __init__(self) -> None:
        self.channel = ""
        self.broken = False
        self.say: Said = lambda _message: None
        self.ring: Callable[[], None] = lambda: None


class Server:
    """A Redis process: `data` under a run id. It can be away, and come back as it was, older, or empty."""

    def __init__(self, now: Now) -> None:
        self.now = now
        self.skew_ms = 0
        self.runs = 0
        self.up = True
        self.subscribers: list[Subscriber] = []
        self.saves: list[Data] = []
        self.on_entry: Callable[[str, bytes], None] = lambda _key, _value: None
        self.on_publish: Callable[[bytes], None] = lambda _snapshot: None
        self.data = Data(self.clock_ms)

    def clock_ms(self) -> int:
        """The server's own time."""
        return int(self.now.s * 1000) + self.skew_ms

    @property
    def run_id(self) -> str:
        """Another one after every start."""
        return f"run{self.runs}"

    def save(self) -> None:
        """Keep a copy to come back from; the last few are kept."""
        self.saves = [*self.saves[-2:], self.data.saved()]

    def restart(self, data: Data) -> None:
        """Come back as another run with these data."""
        self.runs += 1
        self.data = data
        self.drop_connections()

    def drop_connections(self) -> None:
        """All subscriptions break."""
        for subscriber in self.subscribers:
            subscriber.broken = True
            subscriber.ring()
        self.subscribers = []

    def call(self, name: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """One command."""
        if name == "info":
            return {"run_id": self.run_id}
        if name == "time":
            ms = self.clock_ms()
            return ms // 1000, ms % 1000 * 1000
        if name == "publish":
            return self.publish(*args)
        if name == "xadd":
            self.on_entry(to_name(args[0]), args[1].get("e", b""))
        return getattr(self.data, name)(*args, **options)

    def publish(self, channel: Raw, message: bytes) -> int:
        """Tell everybody who listens."""
        heard = [subscriber for subscriber in self.subscribers if subscriber.channel == to_name(channel)]
        for subscriber in heard:
            subscriber.say(message)
        return len(heard)


def publish_rule(server: Server, keys: list[str], args: list[Any]) -> int:
    """`publish.lua` in Python: the fence, the snapshot, the trim, the notice."""
    snapshot_key, route_key, events_key = keys
    epoch, position, stream_id, run_id, snapshot, as_of_ms, kept, channel, change, dead, quarantined = args
    data = server.data
    there = data.hmget(route_key, ("epoch", "position", "stream_id"))
    stood = bool(data.exists(snapshot_key)) and None not in there
    lead = fence_rule((int(epoch), int(position), id_of(stream_id)), there) if stood else 1
    if lead >= 0:
        data.hset(route_key, {"dead": dead, "quarantined": quarantined})
    if lead <= 0:
        return 0
    data.set(snapshot_key, snapshot)
    server.on_publish(snapshot)
    mark = {"epoch": epoch, "position": position, "stream_id": stream_id, "run_id": run_id, "as_of_ms": as_of_ms}
    data.hset(route_key, mark)
    trim_rule(data, events_key, stream_id, int(kept))
    server.publish(channel, change)
    return 1 if stood else 2


def fence_rule(ours: tuple[int, int, Id], there: list[bytes | None]) -> int:
    """Above 0 when ours is newer than what stands there, 0 when it is as new."""
    epoch, position, stream_id = (part or b"" for part in there)
    theirs = (int(epoch), int(position), id_of(stream_id))
    return (ours > theirs) - (ours < theirs)


def trim_rule(data: Data, events_key: str, stream_id: str, kept: int) -> None:
    """Leave a tail behind the checkpoint, and the checkpoint's own entry in it."""
    if data.xlen(events_key) < 2 * kept:
        return
    tail = data.xrevrange(events_key, stream_id, "-", kept)
    if len(tail) == kept and tail[0][0] == stream_id.encode():
        data.xtrim(events_key, minid=tail[kept - 1][0])
