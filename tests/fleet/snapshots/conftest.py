"""A watcher on a real Valkey, with an outbox of its own, and what a worker would publish."""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import msgspec
import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from service.app import open_redis
from service.embedded.valkey import Valkey
from service.fleet.clock import Clock
from service.fleet.outbox import Outbox
from service.fleet.snapshots import Watcher
from service.fleet.stream_writer import RedisPort
from service.ledger import wire
from service.ledger.events import ControlEvent
from service.ledger.state import ControlLedger, Ledger, RouteLedger
from service.settings import Settings, load

VARIABLES = {"ANTHROPIC_API_KEY": "sk-ant-test-key", "ZAI_API_KEY": "zai-test-key"}


class Post:
    """One proxy's view of Redis, and a hand that writes there as workers and operators do.

    The proxy's client tries nothing twice, so that each of its idle connections fails once when Redis has restarted;
    the hand's own client does.
    """

    def __init__(self, url: str, settings: Settings, replica: str = "r1") -> None:
        self.redis = redis = open_redis(url)
        self.hand = Redis.from_url(url, legacy_responses=False, retry=Retry(NoBackoff(), 1))
        self.clock = Clock()
        self.outbox = Outbox(RedisPort(redis), replica=replica, clock=self.clock, spool_root=settings.home / "spool")
        self.watcher = Watcher(redis, self.outbox, self.clock, settings)
        self.outbox.listeners.append(self.watcher.fold_own)

    async def start(self) -> None:
        await self.outbox.start()
        await self.watcher.start()

    async def stop(self) -> None:
        await self.outbox.stop(limit_s=0.2)
        await self.watcher.stop()

    async def publish(
        self,
        ledger: Ledger,
        *,
        epoch: int = 1,
        position: int,
        stream: str = "anthropic",
        stream_id: str = "0-0",
        version: int = wire.SNAPSHOT_VERSION,
        tell: bool = True,
    ) -> None:
        """What a worker does after its commit."""
        snapshot = wire.Snapshot(
            version=version,
            stream=stream,
            epoch=epoch,
            position=position,
            stream_id=stream_id,
            as_of_ms=0,
            ledger=msgspec.Raw(wire.encode_ledger(ledger)),
        )
        await self.hand.set(wire.snapshot_key(stream), wire.encode_snapshot(snapshot))
        if tell:
            change = wire.encode_change(wire.Change(stream, epoch, position))
            await self.hand.publish(wire.CHANGES_CHANNEL, change)

    async def control(self, *events: ControlEvent) -> str:
        """Put control events on their stream; the entry's id."""
        entry = await self.hand.xadd(wire.events_key(wire.CONTROL), {wire.ENTRY_FIELD: wire.encode_entry(events)})
        assert isinstance(entry, bytes)
        return entry.decode()

    def attempts(self, stream: str = "anthropic") -> int:
        """Attempts that this view counts on a route."""
        return sum(usage.attempts for usage in self.watcher.view.ledger(stream).hours.values())


def route_ledger(attempts: int = 0, **fields: object) -> RouteLedger:
    """A route's ledger that has counted so many attempts."""
    hour = int(time.time() // 3600)
    return msgspec.convert({"hours": {hour: {"attempts": attempts}}, **fields}, RouteLedger)


def control_ledger(**fields: object) -> ControlLedger:
    """A control ledger."""
    return msgspec.convert(fields, ControlLedger)


@pytest.fixture
async def make_post(valkey: Valkey, tmp_path: Path) -> AsyncIterator[Callable[..., Post]]:
    """Makes posts on an empty Valkey; all of them are ended."""
    made: list[Post] = []

    def make(replica: str = "r1", variables: Mapping[str, str] | None = None) -> Post:
        settings = load(None, {"CCPROXY_HOME": str(tmp_path), **VARIABLES, **(variables or {})})
        made.append(Post(valkey.url, settings, replica))
        return made[-1]

    yield make
    for post in made:
        await post.stop()
        await post.redis.aclose()
        await post.hand.aclose()


@pytest.fixture
async def post(make_post: Callable[..., Post]) -> Post:
    """A post that has begun."""
    made = make_post()
    await made.start()
    return made
