"""Real worker processes against real servers that go away: nothing is lost, nothing counts twice, little is said."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event as Flag
from threading import Thread

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from rq.exceptions import StopRequested

from service.ledger import wire
from service.ledger.events import ClientKeyIssued, Event
from tests.support.stream_factories import NOON_MS, STREAM, append, append_each, ended, many, new_id
from tests.support.waiting import eventually
from tests.workers.conftest import Bench
from workers import worker_process
from workers.outage import Outage
from workers.worker_command import NICENESS, let_requests_go_first

ROOT = Path(__file__).parents[2]
COMMAND = "from workers.worker_command import worker; worker()"
Start = Callable[[], "Running"]


class Running:
    """A worker process and what it has said."""

    def __init__(self, folder: Path, redis_url: str, database_url: str) -> None:
        self.log = folder / "worker.log"
        environ = os.environ | {
            "PYTHONPATH": str(ROOT),
            "CCPROXY_HOME": str(folder),
            "REDIS_URL": redis_url,
            "DATABASE_URL": database_url,
            "LOG_LEVEL": "info",
        }
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", COMMAND], env=environ, cwd=folder, stdout=output, stderr=output
            )

    def said(self, words: str) -> int:
        """How many lines hold these words."""
        return sum(words in line for line in self.log.read_text().splitlines())

    def ready(self) -> "Running":
        """Wait until it listens."""
        eventually(lambda: self.said("worker.ready") or self.process.poll() is not None)
        assert self.process.poll() is None, self.log.read_text()
        return self

    def kill(self) -> None:
        """As a crash would."""
        self.process.kill()
        self.process.wait()


@pytest.fixture
def start(bench: Bench, tmp_path: Path) -> Iterator[Start]:
    """Starts worker processes, and ends those that a test left."""
    running: list[Running] = []

    def begin() -> Running:
        folder = tmp_path / str(len(running))
        folder.mkdir()
        running.append(Running(folder, bench.valkey.url, bench.postgres.url))
        return running[-1]

    yield begin
    for one in running:
        if one.process.poll() is None:
            one.kill()


def position(bench: Bench, stream: str = STREAM) -> int:
    """How far the published snapshot of the stream is."""
    snapshot = bench.snapshot(stream)
    return snapshot.position if snapshot else -1


def check_counts(bench: Bench, number: int) -> None:
    """So many attempts, each once, in the rows, the projections, the snapshot and the chain."""
    assert (bench.count("events"), bench.attempts(), position(bench)) == (number, number, number)
    assert bench.count("quarantine") == bench.count("dead_letters") == 0
    bench.check_chain()


class Traffic:
    """A proxy under load: keeps what no snapshot has heard, and appends it again when Redis was away."""

    def __init__(self, bench: Bench, number: int, pieces: int) -> None:
        self.bench = bench
        self.events = many(number)
        self.done = Flag()
        self._size = number // pieces
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for begin in range(0, len(self.events), self._size):
            piece: list[Event] = self.events[begin : begin + self._size]
            append_each(self.bench.redis, piece)
        self.done.set()


def test_requests_go_first(start: Start) -> None:
    """A worker's priority is lower than a proxy's: on few cores its work is done in between."""
    process = start().ready().process
    lower = os.getpriority(os.PRIO_PROCESS, process.pid) - os.getpriority(os.PRIO_PROCESS, 0)
    assert lower == min(NICENESS, 19 - os.getpriority(os.PRIO_PROCESS, 0))


def test_a_worker_works_where_it_may_not_change_its_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under systemd, whose sandbox denies `@resources`."""
    asked = list[int]()

    def denied(increment: int) -> int:
        asked.append(increment)
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "nice", denied)
    let_requests_go_first()
    assert asked == [NICENESS]


@pytest.mark.parametrize("database", ["up", "down"])
def test_a_worker_that_stops_folds_the_rest(bench: Bench, start: Start, database: str) -> None:
    """What was appended just before is in the ledger and in the snapshot, and not only after the next start; without
    Postgres it ends all the same."""
    running = start().ready()
    append(bench.redis, [ended(1)])
    eventually(lambda: position(bench) == 1)
    if database == "down":
        bench.postgres.stop()
    append(bench.redis, [ended(2)])
    running.process.terminate()
    assert running.process.wait(20) == 0
    if database == "down":
        bench.postgres.start()
        assert position(bench) == 1
    else:
        check_counts(bench, 2)


def test_from_an_append_to_the_snapshot(bench: Bench, start: Start) -> None:
    """A running worker folds what is appended to old and new streams, and publishes it; SIGTERM ends it cleanly."""
    worker = start().ready()
    eventually(lambda: bench.redis.exists(wire.snapshot_key(wire.CONTROL)))
    append(bench.redis, [ended(1)])
    eventually(lambda: position(bench) == 1)
    append(bench.redis, [ended(2)])
    key = ClientKeyIssued(event_id=new_id(), at_ms=NOON_MS, key_id="k", name="Alice", sha256="0" * 64)
    append(bench.redis, [key], wire.CONTROL)
    eventually(lambda: (position(bench), position(bench, wire.CONTROL)) == (2, 1))
    worker.process.terminate()
    assert worker.process.wait(timeout=20) == 0
    assert worker.said("worker.stopped")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_that_waits_for_postgres_can_be_stopped(bench: Bench, start: Start, signum: int) -> None:
    """Started before its servers, a worker waits, says so once, and heeds a signal."""
    bench.postgres.stop()
    worker = start()
    eventually(lambda: worker.said("postgres.lost"))
    worker.process.send_signal(signum)
    assert worker.process.wait(timeout=20) == 0
    assert worker.said("lost") == 1


def test_kill_9_under_load(bench: Bench, start: Start) -> None:
    """Two workers, one or the other killed again and again while events stream in: each event counts once."""
    workers = [start().ready(), start().ready()]
    traffic = Traffic(bench, 6_000, 600)
    for victim in (0, 1, 0):
        before = max(0, position(bench))
        eventually(lambda: position(bench) > before or traffic.done.is_set())  # noqa: B023 - used up at once
        workers[victim].kill()
        workers[victim] = start()
    eventually(lambda: position(bench) == 6_000)
    check_counts(bench, 6_000)


def test_a_killed_worker_is_replaced(bench: Bench, start: Start) -> None:
    """What a worker had in hand when it was killed is folded by another that was there all the time."""
    victim, heir = start().ready(), start().ready()
    append_each(bench.redis, many(3_000))
    eventually(lambda: position(bench) > 0)
    victim.kill()
    append(bench.redis, [ended(3_001)])
    eventually(lambda: position(bench) == 3_001)
    check_counts(bench, 3_001)
    assert heir.said("lost") == 0


def test_postgres_away_and_back(bench: Bench, start: Start) -> None:
    """While Postgres is down the stream grows; when it is back, all is folded. Said once each."""
    worker = start().ready()
    append_each(bench.redis, many(100))
    eventually(lambda: position(bench) == 100)
    bench.postgres.kill()
    append_each(bench.redis, [ended(seq) for seq in range(101, 201)])
    eventually(lambda: worker.said("postgres.lost"))
    append_each(bench.redis, [ended(seq) for seq in range(201, 301)])
    bench.postgres.start()
    eventually(lambda: position(bench) == 300)
    check_counts(bench, 300)
    eventually(lambda: worker.said("postgres.found"))
    assert (worker.said("postgres.lost"), worker.said("redis.lost")) == (1, 0)


def test_redis_killed_and_back(bench: Bench, start: Start) -> None:
    """A Redis that was killed and started again has another run: what proxies append again is counted once."""
    worker = start().ready()
    events = many(200)
    append_each(bench.redis, events[:100])
    eventually(lambda: position(bench) == 100)
    bench.valkey.kill()
    eventually(lambda: worker.said("redis.lost"))
    bench.valkey.start()
    append_each(bench.redis, events[50:])
    eventually(lambda: position(bench) == 200)
    check_counts(bench, 200)
    snapshot = bench.snapshot()
    assert snapshot is not None
    assert snapshot.epoch > 1
    eventually(lambda: worker.said("redis.found"))
    assert worker.said("redis.lost") == 1
    assert worker.process.poll() is None


def test_redis_emptied_while_idle(bench: Bench, start: Start) -> None:
    """A Redis that lost everything gets its snapshots again, though nobody appends anything."""
    start().ready()
    append(bench.redis, many(5))
    eventually(lambda: position(bench) == 5)
    bench.redis.flushall()
    eventually(lambda: position(bench) == 5)
    eventually(lambda: bench.redis.smembers(wire.STREAMS_KEY) == {STREAM.encode(), wire.CONTROL.encode()})
    eventually(lambda: bench.redis.exists(wire.snapshot_key(wire.CONTROL)))


def test_a_signal_while_redis_is_waited_for_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """RQ's handler raises wherever it strikes, also between two tries."""

    class Interrupted(Flag):
        def wait(self, timeout: float | None = None) -> bool:  # noqa: ARG002 - the signature of Event
            raise StopRequested

    def away(*_: object) -> None:
        raise RedisConnectionError("away")

    monkeypatch.setattr(worker_process, "open_worker", away)
    process = worker_process.WorkerProcess.__new__(worker_process.WorkerProcess)
    process.stopping, process.outage = Interrupted(), Outage("redis")
    process.queue = None  # type: ignore[assignment]
    process.serve()
