"""The laws of wake-ups: none is lost, whoever dies or is late, and none is doubled for long."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from service.ledger import wire
from tests.support.stream_factories import STREAM, append, ended, many, started
from tests.workers.conftest import Bench
from workers import jobs
from workers.consume import EntryPage, Streams
from workers.outage import Outage
from workers.store import Store
from workers.ticker import NEWS_ENTRIES, STARTS_WAIT_S, Ticker
from workers.wake import WakeQueue


def jobs_waiting(bench: Bench) -> list[str]:
    """The streams for which a job waits."""
    return [job.args[0] for job in bench.queue.get_jobs()]


def take_job(bench: Bench) -> str:
    """Take the next job from the queue, as RQ does."""
    job = bench.queue.get_jobs()[0]
    job.delete()
    return str(job.args[0])


def ticker_of(bench: Bench, recall: Callable[[], list[str]] = list) -> Ticker:
    """A ticker that is driven by hand."""
    return Ticker(bench.redis, WakeQueue(bench.redis, bench.queue), recall, Outage("redis"))


def test_one_job_waits_per_stream(bench: Bench) -> None:
    """While a job has yet to begin, news need no other; once it has begun, they do."""
    wake = WakeQueue(bench.redis, bench.queue)
    assert [wake.enqueue(STREAM), wake.enqueue(STREAM), wake.enqueue("zai")] == [True, False, True]
    wake.clear_guard(STREAM)
    assert wake.enqueue(STREAM)
    assert jobs_waiting(bench) == [STREAM, "zai", STREAM]


def test_the_guard_expires(bench: Bench) -> None:
    """The job of a worker that was killed is called for again within three seconds."""
    WakeQueue(bench.redis, bench.queue).enqueue(STREAM)
    assert 0 < int(bench.redis.pttl(wire.wake_key(STREAM))) <= 3_000


def test_jobs_are_json(bench: Bench) -> None:
    """Whoever can write to Redis can't make a worker run what he likes."""
    WakeQueue(bench.redis, bench.queue).enqueue(STREAM)
    job = bench.queue.get_jobs()[0]
    assert bench.queue.serializer.loads(job.data) == ["workers.jobs.fold", None, [STREAM], {}]


def test_an_entry_whose_job_finds_the_lock_is_folded(bench: Bench) -> None:
    """A has read the last entry; X comes; X's job finds the lock and returns; A looks again and goes on."""
    bench.beat("one", "two")
    other = bench.new_shift(bench.new_projector())
    late: list[str] = []

    class Meanwhile(Streams):
        """After the read of A, lets X come and its job run."""

        def page(self, stream: str, first_id: str) -> EntryPage:
            page = super().page(stream, first_id)
            if not late:
                late.append(append(bench.redis, [ended(2)]))
                other.fold(stream)
            return page

    append(bench.redis, [ended(1)])
    bench.new_shift(bench.new_projector(Meanwhile(bench.redis))).fold(STREAM)
    assert bench.attempts() == 2
    assert jobs_waiting(bench) == []


class Late(Streams):
    """Does something just after each look at the stream's end."""

    def __init__(self, bench: Bench, then: Callable[[], None]) -> None:
        super().__init__(bench.redis)
        self.then = then

    def last_id(self, stream: str) -> str:
        """What was there, before something else was."""
        found = super().last_id(stream)
        self.then()
        return found


def test_an_entry_that_comes_as_a_job_leaves_is_called_for(bench: Bench) -> None:
    """A stays, and sees no news; X comes, and the guard says that nobody need be called; A leaves, and looks again."""
    bench.beat("one", "two")
    called: list[bool] = []

    def come() -> None:
        if not called:
            append(bench.redis, [ended(2)])
            called.append(WakeQueue(bench.redis, bench.queue).enqueue(STREAM))

    append(bench.redis, [ended(1)])
    shift = bench.new_shift(bench.projector)
    shift.streams = Late(bench, come)
    shift.fold(STREAM)
    assert called == [False]
    assert jobs_waiting(bench) == [STREAM]


def test_a_job_stays_while_there_is_more(bench: Bench) -> None:
    """One job folds what comes after it has read all, again and again; it gives the guard up when nothing comes."""
    bench.beat("one", "two")
    coming = [[ended(seq)] for seq in (4, 3, 2)]
    append(bench.redis, [ended(1)])
    shift = bench.new_shift(bench.projector)
    pause = shift.publisher.pause

    def come(stream: str) -> None:
        pause(stream)
        if bench.attempts() and coming:
            append(bench.redis, coming.pop())

    shift.publisher.pause = come  # type: ignore[method-assign]
    shift.fold(STREAM)
    assert bench.attempts() == 4
    assert jobs_waiting(bench) == []
    assert not bench.redis.exists(wire.wake_key(STREAM))


def test_a_job_that_stays_gives_way(bench: Bench) -> None:
    """While another stream's job waits, a job ends after what there was, and calls for what came since."""
    bench.beat("one", "two")
    wake = WakeQueue(bench.redis, bench.queue)

    class Meanwhile(Streams):
        """After each read, lets more come, and a job for another stream."""

        def page(self, stream: str, first_id: str) -> EntryPage:
            page = super().page(stream, first_id)
            append(bench.redis, [ended(2)])
            wake.enqueue("zai")
            return page

    append(bench.redis, [ended(1)])
    bench.new_shift(bench.new_projector(Meanwhile(bench.redis))).fold(STREAM)
    assert bench.attempts() == 1
    assert jobs_waiting(bench) == ["zai", STREAM]


def test_a_job_publishes_what_it_folded(bench: Bench) -> None:
    """From an append to the snapshot, by way of the job that RQ calls."""
    append(bench.redis, many(3))
    jobs.register(bench.new_shift(bench.projector))
    jobs.fold(STREAM)
    snapshot = bench.snapshot()
    assert snapshot is not None
    assert snapshot.position == 3


def test_a_long_stream_takes_turns(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job ends after some batches though there is more, and calls for the next."""
    monkeypatch.setattr("workers.consume.BATCH_ENTRIES", 1)
    monkeypatch.setattr("workers.fold_job.BATCHES_PER_JOB", 2)
    for event in many(3):
        append(bench.redis, [event])
    shift = bench.new_shift(bench.projector)
    shift.fold(STREAM)
    assert (bench.attempts(), jobs_waiting(bench)) == (2, [STREAM])
    shift.fold(STREAM)
    assert bench.attempts() == 3


@pytest.mark.parametrize(
    "error", [psycopg.OperationalError("gone"), RedisConnectionError("gone"), ValueError("a fault")]
)
def test_a_job_never_fails(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """What goes wrong is said once, however often it is tried, and once when it is over; then all is folded."""

    def failing(*_: Any) -> None:
        raise error

    append(bench.redis, [ended(1)])
    shift = bench.new_shift(bench.projector)
    with monkeypatch.context() as patch, caplog.at_level("INFO", "ccproxy.worker"):
        patch.setattr(Store, "lock_checkpoint", failing)
        for _ in range(3):
            shift.fold(STREAM)
    assert len([record for record in caplog.records if ".lost" in record.getMessage()]) == 1
    shift.fold(STREAM)
    assert bench.attempts() == 1


def test_the_ticker_calls_for_news(bench: Bench) -> None:
    """An entry is heard by the blocking read, and its stream called for."""
    bench.beat("one", "two")
    ticker = ticker_of(bench)
    bench.redis.sadd(wire.STREAMS_KEY, STREAM)
    ticker.check()
    settle(bench)
    append(bench.redis, [ended(1)])
    assert ticker.wait() == [STREAM]
    ticker.enqueue_unsettled([STREAM])
    assert jobs_waiting(bench) == [STREAM]


@pytest.mark.parametrize("by", ["a job of its own process", "another process"])
def test_the_ticker_leaves_out_who_is_attended(bench: Bench, by: str) -> None:
    """News of a stream with which a job stays are not asked for again at once, and others' are."""
    bench.beat("one", "two")
    ticker = ticker_of(bench)
    bench.redis.sadd(wire.STREAMS_KEY, STREAM, "zai")
    ticker.check()
    settle(bench)
    wake = WakeQueue(bench.redis, bench.queue) if by == "another process" else ticker.wake
    wake.extend_guard(STREAM)
    append(bench.redis, [ended(1)])
    ticker.enqueue_unsettled(ticker.wait())
    append(bench.redis, [ended(2)])
    append(bench.redis, [ended(3)], "zai")
    assert ticker.wait() == ["zai"]
    assert jobs_waiting(bench) == []


def test_news_that_were_folded_call_for_nobody(bench: Bench) -> None:
    """What a ticker hears of late may have been folded by the job that stayed."""
    ticker = ticker_of(bench)
    bench.redis.sadd(wire.STREAMS_KEY, STREAM)
    ticker.check()
    settle(bench)
    append(bench.redis, [ended(1)])
    bench.new_shift(bench.projector).fold(STREAM)
    ticker.enqueue_unsettled(ticker.wait())
    assert jobs_waiting(bench) == []


def settle(bench: Bench) -> None:
    """Do all jobs that wait."""
    shift = bench.new_shift(bench.projector)
    while jobs_waiting(bench):
        shift.fold(take_job(bench))


def test_nobody_waits_for_what_a_single_proxy_has_met(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one proxy, a route's news wake nobody until the next check, and its job neither stays nor looks again; news
    of `control` bring all streams at once."""
    monkeypatch.setattr("workers.ticker.BLOCK_MS", 10)
    bench.beat("one")
    ticker = Ticker(bench.redis, WakeQueue(bench.redis, bench.queue), list, Outage("redis"), clock=lambda: 100.0)
    bench.redis.sadd(wire.STREAMS_KEY, STREAM)
    ticker.tick()
    settle(bench)
    append(bench.redis, [ended(1)])
    ticker.tick()
    assert jobs_waiting(bench) == []
    ticker.check()
    assert jobs_waiting(bench) == [STREAM]
    settle(bench)
    assert bench.attempts() == 1
    append(bench.redis, [ended(2)])
    bench.redis.xadd(wire.events_key(wire.CONTROL), {wire.ENTRY_FIELD: b"[]"})
    ticker.tick()
    ticker.tick()
    assert jobs_waiting(bench) == [wire.CONTROL, STREAM]


def test_a_second_proxy_is_waited_upon_from_its_first_news(bench: Bench) -> None:
    """The look that news of `control` bring counts heartbeats anew, and from then on routes' news are heard."""
    bench.beat("one")
    ticker = ticker_of(bench)
    bench.redis.sadd(wire.STREAMS_KEY, STREAM)
    ticker.tick()
    settle(bench)
    bench.beat("two")
    bench.redis.xadd(wire.events_key(wire.CONTROL), {wire.ENTRY_FIELD: b"[]"})
    ticker.tick()
    ticker.check()
    settle(bench)
    append(bench.redis, [ended(1)])
    assert ticker.wait() == [STREAM]


@pytest.mark.parametrize("proxies", [("one",), ("one", "two")])
def test_started_attempts_alone_wake_nobody_for_a_while(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, proxies: tuple[str, ...]
) -> None:
    """They change nothing that others decide by; but they are folded long before their replica could count as lost."""
    monkeypatch.setattr("workers.ticker.BLOCK_MS", 10)
    bench.beat(*proxies)
    now_s = 100.0
    ticker = Ticker(bench.redis, WakeQueue(bench.redis, bench.queue), list, Outage("redis"), clock=lambda: now_s)
    append(bench.redis, [ended(1)])
    ticker.check()
    settle(bench)
    for seq in (2, 3):
        append(bench.redis, [started(seq)])
        if len(proxies) > 1:
            assert ticker.wait() == []
        ticker.check()
    assert jobs_waiting(bench) == []
    now_s += STARTS_WAIT_S - 0.1
    ticker.check()
    assert jobs_waiting(bench) == []
    now_s += 0.2
    ticker.check()
    assert jobs_waiting(bench) == [STREAM]


@pytest.mark.parametrize(
    "entries",
    [
        [[started(2)], [ended(3)]],
        [[started(2), ended(3)]],
        [[started(seq)] for seq in range(2, 2 + NEWS_ENTRIES)],
        [b"no JSON"],
        [b'[{"type":"unheard_of"}]'],
    ],
)
def test_all_else_is_news(bench: Bench, entries: list[Any]) -> None:
    """An end behind starts or among them, more than are looked at, and what this version can't decode."""
    bench.beat("one", "two")
    ticker = ticker_of(bench)
    append(bench.redis, [ended(1)])
    ticker.check()
    settle(bench)
    for entry in entries:
        if isinstance(entry, bytes):
            bench.redis.xadd(wire.events_key(STREAM), {wire.ENTRY_FIELD: entry})
        else:
            append(bench.redis, entry)
    assert ticker.wait() == [STREAM]
    ticker.check()
    assert jobs_waiting(bench) == [STREAM]


def test_every_stream_is_called_for_at_start(bench: Bench) -> None:
    """Streams of Redis, of Postgres alone, and `control`, which is there before its first event."""
    append(bench.redis, [ended(1)], "anthropic")
    ticker = ticker_of(bench, lambda: ["zai"])
    ticker.check()
    assert sorted(jobs_waiting(bench)) == ["anthropic", "control", "zai"]
    settle(bench)
    assert bench.snapshot("control") is not None
    assert bench.snapshot("zai") is not None


def test_an_idle_ticker_calls_for_nobody(bench: Bench) -> None:
    """Once all streams are settled, looks enqueue nothing."""
    append(bench.redis, [ended(1)])
    ticker = ticker_of(bench)
    ticker.check()
    settle(bench)
    for _ in range(3):
        ticker.check()
    assert jobs_waiting(bench) == []


@pytest.mark.parametrize("proxies", [("one",), ("one", "two")])
def test_a_stream_of_another_type_stops_no_other(
    bench: Bench, caplog: pytest.LogCaptureFixture, proxies: tuple[str, ...]
) -> None:
    """It is left out and told once, until it is one again."""
    bench.beat(*proxies)
    bench.redis.sadd(wire.STREAMS_KEY, STREAM, "zai")
    append(bench.redis, [ended(1)])
    bench.redis.set(wire.events_key("zai"), b"no stream")
    ticker = ticker_of(bench)
    for _ in range(2):
        ticker.check()
    assert jobs_waiting(bench) == [STREAM, wire.CONTROL]
    assert [record.getMessage() for record in caplog.records] == ["fold.lost"]
    bench.redis.delete(wire.events_key("zai"))
    ticker.check()
    assert "zai" in jobs_waiting(bench)


def test_a_new_stream_is_noticed_at_the_next_look(bench: Bench) -> None:
    """A stream that appears later is called for."""
    ticker = ticker_of(bench)
    ticker.check()
    settle(bench)
    append(bench.redis, [ended(1)], "subscription")
    ticker.check()
    assert jobs_waiting(bench) == ["subscription"]


@pytest.mark.parametrize("lost", [wire.snapshot_key(STREAM), wire.route_key(STREAM), wire.events_key(STREAM)])
def test_what_redis_lost_is_called_for(bench: Bench, lost: str) -> None:
    """A stream whose snapshot, mark or entries are gone is not settled, and one job settles it."""
    append(bench.redis, [ended(1)])
    ticker = ticker_of(bench)
    ticker.check()
    settle(bench)
    bench.redis.delete(lost)
    ticker.check()
    assert jobs_waiting(bench) == [STREAM]
    settle(bench)
    ticker.check()
    assert jobs_waiting(bench) == []
    assert bench.attempts() == 1


def test_a_restarted_redis_is_called_for(bench: Bench) -> None:
    """Another run may be older, with a snapshot to match: it is not settled until a job has looked at it."""
    append(bench.redis, [ended(1)])
    ticker = ticker_of(bench)
    ticker.check()
    settle(bench)
    bench.valkey.stop()
    bench.valkey.start()
    ticker.check()
    assert STREAM in jobs_waiting(bench)
    settle(bench)
    ticker.check()
    assert jobs_waiting(bench) == []


def test_a_job_that_failed_is_called_for_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a stream has unread entries, each look calls."""
    append(bench.redis, [ended(1)])
    ticker = ticker_of(bench)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "transaction", lambda _: (_ for _ in ()).throw(psycopg.OperationalError("gone")))
        for _ in range(3):
            ticker.check()
            assert STREAM in jobs_waiting(bench)
            settle(bench)
    ticker.check()
    settle(bench)
    assert bench.attempts() == 1


def test_streams_are_recalled_once_postgres_answers(bench: Bench) -> None:
    """A Postgres that is away at the start is asked again at the next look."""
    answers: list[Any] = [psycopg.OperationalError("gone"), ["zai"]]

    def recall() -> list[str]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    ticker = ticker_of(bench, recall)
    ticker.check()
    assert "zai" not in jobs_waiting(bench)
    ticker.check()
    ticker.check()
    assert "zai" in jobs_waiting(bench)
