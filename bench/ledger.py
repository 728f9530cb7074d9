"""Measures the ledger on real servers: fold, lag, verify, estimates. `make bench-ledger`, with EVENTS= for a size.

ARGS="fold verify" takes some of the measurements. It starts a Postgres and a Valkey of its own in a temporary folder,
and leaves nothing behind. Each figure stands beside its bound. What else runs on the machine shows in the figures: the
plain COPY of the same rows, in the same run, says how fast the machine was. Not here: the proxy, and any assertion.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path
from typing import Any, Self

from redis import Redis

from bench.estimates import measure_estimates
from bench.progress import show_figure
from service.embedded.postgres import Postgres
from service.embedded.valkey import Valkey
from service.ledger import ids, wire
from service.ledger.events import FOLD_RULES, AttemptEnded, AttemptStarted, Event, TokenCounts, Window
from workers.archive import open_archive
from workers.consume import PAGE_ENTRIES, EntryPage, EventRecord, StreamEntry, Streams, open_redis
from workers.fold_job import FoldJob
from workers.migrate import migrate
from workers.outage import Outage
from workers.project import Projector, RowChain
from workers.publish import Publisher
from workers.store import Checkpoint, PostgresAddress, Row, Store, connect
from workers.verify import verify
from workers.wake import WakeQueue, open_queue

ROOT = Path(__file__).parents[1]
EVENTS = int(os.environ.get("EVENTS") or 1_000_000)
FOLDED = min(EVENTS, 100_000)
FOLD_ROUNDS = 3
"""Fold and COPY in turns: what else runs on the machine meets both."""
FULL_EVENTS = 10_000_000
CAUGHT_UP = min(EVENTS, 50_000)
LAG_RATE = 500
LAG_S = 20
PER_ENTRY = 20
"""Events in an entry, as a busy proxy appends them."""
PATIENCE_S = 300.0
CONNECT_S = 5
START_MS = 1_789_000_000_000
MODELS = ("claude-opus-4-8", "claude-sonnet-4-6", "claude-haiku-4-6", "glm-5.2")
Numbers = Iterator[int]


def events(replica: str, number: Numbers, at_ms: Callable[[int], int]) -> Iterator[Event]:
    """Attempts without end, started and ended, by eight clients on four models; one in fifty fails."""
    for seq in count(1, 2):
        n = next(number)
        begun_ms = at_ms(n)
        attempt_id = ids.uuid7(begun_ms, n)
        shared: dict[str, Any] = {
            "request_id": f"{n:018x}",
            "model_asked": MODELS[n % 4],
            "model_sent": MODELS[n % 4],
            "client_key": f"key-{n % 8}",
            "session_id": f"session-{n % 100}",
            "stream": True,
        }
        yield AttemptStarted(event_id=attempt_id, at_ms=begun_ms, replica=replica, seq=seq, **shared)
        failed = n % 50 == 0
        yield AttemptEnded(
            event_id=ids.ended_id(attempt_id),
            at_ms=begun_ms + 1_500,
            replica=replica,
            seq=seq + 1,
            attempt_id=attempt_id,
            started_at_ms=begun_ms,
            outcome="failed" if failed else "ok",
            kind="server_error" if failed else "",
            scope="provider" if failed else "",
            status=500 if failed else 200,
            tokens=TokenCounts(input=1_200 + n % 100, output=300, cache_read=20_000, cache_write_5m=150),
            first_byte_ms=400,
            total_ms=1_500,
            windows={"5h": Window(used_ratio=0.5, resets_at_ms=begun_ms + 9_000_000, status="allowed")},
            cost_nusd=12_345_678,
            price_version="2026-11-01",
            fold_rules=FOLD_RULES,
            account="1f3a5b7c9d1e2f30",
            **shared,
        )


def history(number: Numbers) -> Iterator[Event]:
    """Ten attempts a second since START_MS."""
    return events("bench", number, lambda n: START_MS + n * 100)


class Bench:
    """Both servers, and what the measurements share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.postgres = Postgres(folder / "postgres")
        self.valkey = Valkey(folder / "valkey")
        self.number = count(1)

    def __enter__(self) -> Self:
        self.postgres.start()
        self.valkey.start()
        with connect(self.address) as connection:
            migrate(connection)
        self.redis = open_redis(self.valkey.url)
        return self

    @property
    def address(self) -> PostgresAddress:
        """Postgres, as workers reach it."""
        return PostgresAddress(self.postgres.url, CONNECT_S)

    def __exit__(self, *_: object) -> None:
        self.valkey.stop()
        self.postgres.stop()

    def shift(self, streams: Any = None) -> FoldJob:
        """A worker in this process."""
        streams = streams or Streams(self.redis)
        projector = Projector(Store(self.address), streams)
        wake = WakeQueue(self.redis, open_queue(self.valkey.url))
        stopping = threading.Event()
        return FoldJob(projector, Publisher(self.redis, stopping), streams, wake, stopping, Outage("redis"))

    @contextmanager
    def worker(self) -> Iterator[None]:
        """A worker process."""
        environ = os.environ | {
            "PYTHONPATH": str(ROOT),
            "CCPROXY_HOME": str(self.folder),
            "REDIS_URL": self.valkey.url,
            "DATABASE_URL": self.postgres.url,
            "LOG_LEVEL": "warn",
        }
        with (self.folder / "worker.log").open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", "from workers.worker_command import worker; worker()"],
                env=environ,
                stderr=output,
            )
        try:
            yield
        finally:
            process.terminate()
            process.wait(20)

    def position(self, stream: str) -> int:
        """Return the position of a stream's published snapshot."""
        raw: Any = self.redis.hget(wire.route_key(stream), "position")
        return int(raw or 0)

    def wait_for(self, stream: str, position: int) -> None:
        """Wait until the published snapshot is there."""
        give_up_at_s = time.monotonic() + PATIENCE_S
        while self.position(stream) < position:
            if time.monotonic() > give_up_at_s:
                raise SystemExit(f"{stream} never came to {position}; see {self.folder / 'worker.log'}")
            time.sleep(0.005)


def append(redis: Redis, stream: str, made: list[Event]) -> None:
    """Append events as busy proxies do, many pipelined."""
    redis.sadd(wire.STREAMS_KEY, stream)
    pipeline = redis.pipeline(transaction=False)
    for at in range(0, len(made), PER_ENTRY):
        pipeline.xadd(wire.events_key(stream), {wire.ENTRY_FIELD: wire.encode_entry(made[at : at + PER_ENTRY])})
        if len(pipeline) >= 500:
            pipeline.execute()
    pipeline.execute()


def measure_fold(bench: Bench) -> None:
    """One worker, from the stream to the snapshot, beside a COPY of the same rows, in turns."""
    rounds = [(fold_once(bench, f"fold-{number}"), copy_once(bench)) for number in range(FOLD_ROUNDS)]
    fold_s, copy_s = (statistics.median(seconds) for seconds in zip(*rounds, strict=True))
    ratios = sorted(copied_s / folded_s for folded_s, copied_s in rounds)
    ratio = statistics.median(ratios)
    show_figure("fold, one worker", f"{FOLDED / fold_s:,.0f} events/s", "at least 10,000", ok=FOLDED / fold_s >= 10_000)
    show_figure("  COPY of the same rows", f"{FOLDED / copy_s:,.0f} rows/s", "")
    words = f"{ratio:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}, {FOLD_ROUNDS} rounds)"
    show_figure("  the fold's share of that speed", words, "at least 0.3", ok=ratio >= 0.3)


def fold_once(bench: Bench, stream: str) -> float:
    """Seconds that a worker takes for FOLDED events."""
    append(bench.redis, stream, list(islice(history(bench.number), FOLDED)))
    shift = bench.shift()
    begun_s = time.perf_counter()
    while bench.position(stream) < FOLDED:
        shift.fold(stream)
    seconds = time.perf_counter() - begun_s
    shift.projector.store.close()
    return seconds


def copy_once(bench: Bench) -> float:
    """Seconds that a COPY of as many rows takes."""
    return copy_rows(bench, rows_of(list(islice(history(bench.number), FOLDED))))


def rows_of(made: list[Event]) -> list[Row]:
    """The rows that folding made of these events."""
    nowhere = Checkpoint("fold", 1, "", "0-0", 0, bytes(32), 0, 0, "", b"{}")
    chain = RowChain(nowhere)
    return [chain.row_of(EventRecord("0-1", event)) for event in made]


def copy_rows(bench: Bench, rows: list[Row]) -> float:
    """Seconds that Postgres takes for the rows alone, with the same indexes."""
    with connect(bench.address) as connection:
        connection.execute("CREATE TABLE ccproxy.bench_copy (LIKE ccproxy.events INCLUDING ALL)")
        begun_s = time.perf_counter()
        with connection.cursor() as cursor, cursor.copy("COPY ccproxy.bench_copy FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        seconds = time.perf_counter() - begun_s
        connection.execute("DROP TABLE ccproxy.bench_copy")
    return seconds


def measure_lag(bench: Bench) -> None:
    """From an append to the notice of the snapshot that has it, at a steady rate, with a worker process."""
    total = LAG_RATE * LAG_S
    appended_s: list[float] = []
    lags_s: list[float] = []
    changes = bench.redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    changes.subscribe(wire.CHANGES_CHANNEL)
    with bench.worker():
        append(bench.redis, "lag", [])
        bench.wait_for("lag", 0)
        made = events("lag", bench.number, lambda _: time.time_ns() // 1_000_000)
        appender = threading.Thread(target=append_steadily, args=(bench, made, total, appended_s))
        appender.start()
        while len(lags_s) < total:
            message = changes.get_message(timeout=PATIENCE_S)
            change = wire.decode_change(message["data"]) if message else None
            if change and change.stream == "lag":
                now_s = time.perf_counter()
                lags_s += [now_s - appended_s[at] for at in range(len(lags_s), change.position)]
        appender.join()
    p50, p99 = (statistics.quantiles(lags_s, n=100)[at] * 1000 for at in (49, 98))
    show_figure(f"lag at {LAG_RATE} events/s, p50", f"{p50:.0f} ms", "at most 50 ms", ok=p50 <= 50)
    show_figure(f"lag at {LAG_RATE} events/s, p99", f"{p99:.0f} ms", "at most 250 ms", ok=p99 <= 250)


def append_steadily(bench: Bench, made: Iterator[Event], total: int, appended_s: list[float]) -> None:
    """Append one event at a time, at LAG_RATE."""
    redis = open_redis(bench.valkey.url)
    redis.sadd(wire.STREAMS_KEY, "lag")
    begun_s = time.perf_counter()
    for at, event in enumerate(islice(made, total)):
        time.sleep(max(0.0, begun_s + at / LAG_RATE - time.perf_counter()))
        appended_s.append(time.perf_counter())
        redis.xadd(wire.events_key("lag"), {wire.ENTRY_FIELD: wire.encode_entry([event])})
    redis.close()


def measure_catch_up(bench: Bench) -> None:
    """A worker process that finds a full stream when Postgres is back."""
    with bench.worker():
        append(bench.redis, "late", list(islice(history(bench.number), 2)))
        bench.wait_for("late", 2)
        bench.postgres.stop()
        append(bench.redis, "late", list(islice(history(bench.number), CAUGHT_UP)))
        bench.postgres.start()
        begun_s = time.perf_counter()
        bench.wait_for("late", CAUGHT_UP + 2)
        seconds = time.perf_counter() - begun_s
    words = f"{CAUGHT_UP / seconds:,.0f} events/s: {CAUGHT_UP:,} in {seconds:.1f} s"
    show_figure("catch-up after Postgres was away", words, "at least 5,000", ok=CAUGHT_UP / seconds >= 5_000)


class Made:
    """A stream that is made as it is read, so that filling the ledger waits for no Redis."""

    def __init__(self, made: Iterator[Event], entries: int) -> None:
        self.made = made
        self.entries = entries
        self.window: list[StreamEntry] = []
        self.last = 0

    def page(self, stream: str, first_id: str) -> EntryPage:  # noqa: ARG002 - one stream
        """PAGE_ENTRIES entries from one on; what lies before it is forgotten."""
        first = int(first_id.partition("-")[0])
        self.window = [entry for entry in self.window if int(entry.stream_id[:-2]) >= first]
        while len(self.window) < PAGE_ENTRIES and self.last < self.entries:
            self.last += 1
            self.window.append(StreamEntry(f"{self.last}-0", wire.encode_entry(list(islice(self.made, PER_ENTRY)))))
        return EntryPage("made", 0, self.window)

    def last_id(self, stream: str) -> str:  # noqa: ARG002 - one stream
        """The last entry's id."""
        return f"{self.entries}-0"


def measure_verify(bench: Bench) -> None:
    """Recount and compare a ledger of EVENTS events."""
    store = Store(bench.address)
    projector = Projector(store, Made(history(bench.number), EVENTS // PER_ENTRY))
    position = -1
    while (projected := projector.project("proof")) and projected.position > position:
        position = projected.position
    store.close()
    archive = open_archive(bench.address)
    begun_s = time.perf_counter()
    report = verify(archive, "proof")
    seconds = time.perf_counter() - begun_s
    archive.close()
    if not report.ok or report.events != position:
        raise SystemExit(f"the ledger is not what was folded: {report.differences[:3]}")
    figure = f"{seconds:.1f} s for {position:,} events, {position / seconds:,.0f} events/s"
    show_figure("verify", figure, "")
    full_s = seconds * FULL_EVENTS / position
    words = f"{full_s:.0f} s, {'measured' if position == FULL_EVENTS else 'extrapolated'}"
    show_figure(f"  verify of {FULL_EVENTS:,} events", words, "at most 60 s", ok=full_s <= 60)


MEASUREMENTS: dict[str, Callable[[Bench], None]] = {
    "fold": measure_fold,
    "lag": measure_lag,
    "catch-up": measure_catch_up,
    "verify": measure_verify,
    "estimates": lambda _: measure_estimates(),
}


def main() -> None:
    """The measurements that are named, or all, one after the other."""
    names = sys.argv[1:] or list(MEASUREMENTS)
    if unknown := set(names) - set(MEASUREMENTS):
        raise SystemExit(f"no such measurement: {', '.join(sorted(unknown))}; there are {', '.join(MEASUREMENTS)}")
    with tempfile.TemporaryDirectory(prefix="ccproxy-bench-") as folder, Bench(Path(folder)) as bench:
        print(f"{os.cpu_count()} cores, {bench.postgres.title}, {bench.valkey.title}")
        for name in names:
            MEASUREMENTS[name](bench)


if __name__ == "__main__":
    main()
