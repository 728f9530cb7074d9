"""Workers say that they are there, and what keeps them from folding: no schema, no Postgres."""

import time
from collections.abc import Iterator

import msgspec
import pytest
from redis import Redis

from service.embedded.valkey import Valkey
from service.fleet.status import read_workers
from service.ledger.wire import WORKER_TTL_MS, WORKERS_KEY, WorkerBeat
from workers.heartbeat import Heartbeat
from workers.outage import Outage


def now_ms() -> int:
    """Unix time, which is Redis' time here."""
    return int(time.time() * 1000)


@pytest.fixture
def redis(valkey: Valkey) -> Iterator[Redis]:
    """A client on an empty server."""
    with Redis.from_url(valkey.url, legacy_responses=False) as client:
        yield client


def test_a_worker_says_what_is_wrong_and_takes_leave(redis: Redis) -> None:
    """As long as it is; those that are gone are removed by the others."""
    schema = Outage("schema")
    schema.mark_down(ValueError("the database is missing the migrations 0001 ledger; run `ccproxy migrate`"))
    gone = WorkerBeat(now_ms() - WORKER_TTL_MS - 1_000)
    redis.hset(WORKERS_KEY, mapping={"gone": msgspec.json.encode(gone), "strange": b"?"})
    beat = Heartbeat(redis, lambda: [schema.problem] if schema.problem else [])
    beat.beat()
    [worker] = read_workers(redis, now_ms())
    assert worker.worker == beat.name
    assert worker.problems == ("schema: the database is missing the migrations 0001 ledger; run `ccproxy migrate`",)
    assert redis.hkeys(WORKERS_KEY) == [beat.name.encode()]
    schema.mark_up()
    beat.beat()
    assert read_workers(redis, now_ms())[0].problems == ()
    beat.start()
    beat.stop()
    assert read_workers(redis, now_ms()) == ()
