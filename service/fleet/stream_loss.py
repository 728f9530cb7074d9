"""Notices streams that have lost entries before a snapshot had them, while Redis itself stayed the same.

A full Redis with an eviction policy drops whole streams, and so do FLUSHALL and DEL. Not here: a replaced Redis, whose
run id differs (`snapshots`), and appending again (`outbox`).

Two signs, either of which is enough. The entry that was the stream's last at the previous look is gone, and so is the
entry of the newest snapshot, which trimming leaves. Or a snapshot has later events of this process, and not this one. A
false sign costs some events that are appended twice, and folded once.
"""

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

from redis.asyncio import Redis

from service.fleet.outbox import Outbox
from service.ledger.state import Heard
from service.ledger.wire import Snapshot, events_key

FIRST = "-"
"""Stands for the first entry, whichever it is."""
AGAIN_S = 10.0
"""What was appended again needs some time to be folded."""


class StreamLoss:
    """Looks at the streams on which this process has events that no snapshot includes."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._last_entries: dict[str, str] = {}
        self._noticed_s: dict[str, float] = {}
        self._until_seq: dict[str, int] = {}

    def forget(self) -> None:
        """Start over, on another Redis."""
        self._last_entries.clear()

    async def look(
        self, redis: Redis, snapshots: Mapping[str, Snapshot], heard: Mapping[str, Mapping[str, Heard]]
    ) -> None:
        """Have the events of lost streams appended again. Raises RedisError or OSError."""
        streams = [stream for stream, queue in self._outbox.queues.items() if queue.sent]
        gone = await self._without_known_entries(redis, streams, snapshots) if streams else set()
        for stream in streams:
            if not self._outbox.queues[stream].sent:
                continue  # a snapshot has come meanwhile
            account = heard.get(stream, {}).get(self._outbox.replica)
            if stream in gone or self._is_passed_over(stream, account):
                self._resend(stream)
        self._end_problems()

    async def _without_known_entries(
        self, redis: Redis, streams: Collection[str], snapshots: Mapping[str, Snapshot]
    ) -> set[str]:
        """Return the streams that have none of the entries that they had; remembers the last ones."""
        pipe = redis.pipeline(transaction=False)
        for stream in streams:
            known = self._last_entries.get(stream, FIRST)
            for entry in (known, snapshots[stream].stream_id if stream in snapshots else known):
                pipe.xrange(events_key(stream), min=entry, max="+" if entry == FIRST else entry, count=1)
            pipe.xrevrange(events_key(stream), count=1)
        replies: list[Any] = await pipe.execute()
        gone = set()
        for stream, there, folded_there, last in zip(streams, replies[::3], replies[1::3], replies[2::3], strict=True):
            if not there and not folded_there:
                gone.add(stream)
            self._last_entries[stream] = last[0][0].decode() if last else FIRST
        return gone

    def _is_passed_over(self, stream: str, account: Heard | None) -> bool:
        """True if a snapshot includes later events of this process than the oldest one that was sent."""
        oldest_seq = self._outbox.queues[stream].sent[0].event.seq
        return account is not None and oldest_seq < account.high and not account.has(oldest_seq)

    def _resend(self, stream: str) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s < self._noticed_s.get(stream, -AGAIN_S) + AGAIN_S:
            return
        self._noticed_s[stream] = now_s
        self._until_seq[stream] = self._outbox.queues[stream].sent[-1].event.seq
        again = self._outbox.stream_lost(stream)
        words = f"the stream {stream} has lost {again:,} events of this proxy; they are sent again. Was it deleted, or "
        words += "does Redis evict? maxmemory-policy has to be noeviction: see `ccproxy check`"
        self._outbox.problems.begin("stream_lost", words, subject=stream)

    def _end_problems(self) -> None:
        """End the problems of streams whose events are in snapshots by now."""
        for stream, until_seq in list(self._until_seq.items()):
            if not self._outbox.has_kept(stream, until_seq):
                del self._until_seq[stream]
                self._outbox.problems.end("stream_lost", subject=stream)
