"""Admissions of a fleet on one real Valkey: each with a view and a ledger that the test sets."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from service.app import open_redis
from service.embedded.valkey import Valkey
from service.fleet.admission import Admission, AdmissionRequest, Grant
from service.fleet.clock import Clock
from service.ledger.state import Heard, RouteLedger
from service.routing.failover import AdmissionDenied
from service.routing.quota import QuotaReading, QuotaState
from service.routing.rank import Candidate
from service.settings import QuotaWeights
from tests.support.routing_factories import A, route_of


class Replica:
    """One process that admits. `ledger` is what its view says of the route."""

    def __init__(self, redis: Redis | None, name: str) -> None:
        self.name = name
        self.away = False
        self.replicas = 1
        self.ledger = RouteLedger()
        self.resets_at_ms = 0
        self.spent: dict[str, str] = {}
        self.clock = Clock()
        self.admission = Admission(
            redis,
            replica=name,
            clock=self.clock,
            weights=QuotaWeights(),
            ledger_of=lambda _: self.ledger,
            is_away=lambda: self.away,
            replicas=lambda: self.replicas,
            spent=self.spent,
        )

    async def enter(self, attempt: str, *, in_session: bool = False, **fields: Any) -> Grant | AdmissionDenied:
        """Ask for an attempt of 1,000 tokens at most."""
        candidate = Candidate(A, "m", **fields)
        return await self.admission.admit_attempt(
            AdmissionRequest(
                attempt_id=attempt,
                candidate=candidate,
                body_bytes=10**9,
                max_tokens=1_000,
                in_session=in_session,
            )
        )

    async def slot(self, attempt: str, slots: int = 2) -> Grant | AdmissionDenied:
        """Ask for one of so many slots."""
        candidate = Candidate(route_of("anthropic", concurrency=slots), "m")
        return await self.admission.admit_attempt(
            AdmissionRequest(attempt_id=attempt, candidate=candidate, body_bytes=1, max_tokens=1)
        )

    async def reserve(
        self, attempt: str, *, used: int = 0, limit: int = 1_000, open_attempts: int = 0, state: QuotaState = "warning"
    ) -> Grant | AdmissionDenied:
        """Ask to reserve 100 tokens, the size of every attempt before."""
        for _ in range(20):
            self.admission.sizes.record("anthropic", "m", 100)
        quota = QuotaReading(state, used, limit, week_start_ms=0, resets_at_ms=self.resets_at_ms)
        return await self.enter(attempt, quota=quota, open_attempts=open_attempts)

    def hears(self, **highest: int) -> None:
        """The view has all events of these replicas up to a number."""
        now_ms = self.clock.now_ms()
        self.ledger.heard = {name: Heard(high=seq, at_ms=now_ms) for name, seq in highest.items()}

    async def settled(self) -> None:
        """All that is given back has been given back."""
        while self.admission._background:
            await asyncio.wait(self.admission._background)
            await asyncio.sleep(0)  # a task that is done leaves the set when the event loop comes round


NewReplica = Callable[[str], Replica]


@pytest.fixture
async def redis(valkey: Valkey) -> AsyncIterator[Redis]:
    connection = open_redis(valkey.url)
    yield connection
    await connection.aclose()


@pytest.fixture
async def new_replica(redis: Redis) -> AsyncIterator[NewReplica]:
    made: list[Replica] = []

    def make(name: str) -> Replica:
        made.append(Replica(redis, name))
        return made[-1]

    yield make
    for replica in made:
        await replica.admission.stop()


@pytest.fixture
async def alone() -> AsyncIterator[Replica]:
    """A process without any Redis."""
    replica = Replica(None, "alone")
    yield replica
    await replica.admission.stop()
