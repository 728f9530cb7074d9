"""Outboxes on a scripted port, and a real Valkey."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from service.app import open_redis
from service.embedded.valkey import Valkey
from service.fleet.outbox import Outbox, StreamPort
from tests.support.outbox_factories import clock

MakeOutbox = Callable[..., Outbox]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[MakeOutbox]:
    """Makes outboxes that share one host's spool; those that were not stopped are, at the end."""
    made: list[Outbox] = []

    def make_outbox(port: StreamPort | None, replica: str = "r1") -> Outbox:
        made.append(Outbox(port, replica=replica, clock=clock, spool_root=tmp_path / "spool"))
        return made[-1]

    yield make_outbox
    for outbox in made:
        for task in outbox._tasks:
            task.cancel()


@pytest.fixture
async def redis(valkey: Valkey) -> AsyncIterator[Redis]:
    """A client as the proxy has it, on an empty server."""
    client = open_redis(valkey.url)
    yield client
    await client.aclose()
