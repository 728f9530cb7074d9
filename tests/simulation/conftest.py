"""The two pairs of servers that the contract is tested on: the models, and a real Postgres with a real Valkey."""

from collections.abc import Iterator
from typing import Any

import pytest

from service.embedded.postgres import Postgres
from service.embedded.valkey import Valkey
from tests.simulation.clients import PlainRedis
from tests.simulation.fibers import Places
from tests.simulation.postgres_model import Database, ModelStore
from tests.simulation.redis_model import Data, Server
from tests.simulation.virtual import Now
from tests.support.server_fixtures import address_of
from workers.consume import open_redis
from workers.store import Store


class ModelServers:
    """The models."""

    def __init__(self) -> None:
        self.now = Now()
        self.server = Server(self.now)
        self.database = Database(self.now)

    def redis(self) -> Any:
        """A worker's client."""
        return PlainRedis(self.server, Places())

    def store(self) -> Store:
        """A worker's store."""
        return ModelStore(self.database, Places())

    def empty_redis(self) -> None:
        """Redis comes back with nothing, as another run."""
        self.server.restart(Data(self.server.clock_ms))

    def pass_ms(self, ms: int) -> None:
        """Let time pass."""
        self.now.s += ms / 1000

    def close(self) -> None:
        """Nothing to close."""


class RealServers:
    """The servers."""

    def __init__(self, postgres: Postgres, valkey: Valkey) -> None:
        self.postgres = postgres
        self.valkey = valkey
        self.stores: list[Store] = []
        self.clients: list[Any] = []

    def redis(self) -> Any:
        """A worker's client."""
        self.clients.append(open_redis(self.valkey.url))
        return self.clients[-1]

    def store(self) -> Store:
        """A worker's store."""
        self.stores.append(Store(address_of(self.postgres)))
        return self.stores[-1]

    def empty_redis(self) -> None:
        """Redis comes back with nothing, as another run."""
        self.redis().flushall()
        self.valkey.stop()
        self.valkey.start()

    def pass_ms(self, ms: int) -> None:
        """Let time pass: what is held for that long is gone sooner here."""
        for key in self.redis().keys("*"):
            if 0 < self.redis().pttl(key) <= ms:
                self.redis().delete(key)

    def close(self) -> None:
        """Let go of all connections."""
        for each in (*self.stores, *self.clients):
            each.close()


Servers = ModelServers | RealServers


def real_servers(request: pytest.FixtureRequest) -> RealServers:
    """The servers, empty; they start only for tests that ask for them."""
    return RealServers(request.getfixturevalue("postgres"), request.getfixturevalue("valkey"))


@pytest.fixture(params=["model", "real"])
def servers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    """Each of the two, empty."""
    made: Servers = ModelServers() if request.param == "model" else real_servers(request)
    yield made
    made.close()


@pytest.fixture
def both(postgres: Postgres, valkey: Valkey) -> Iterator[tuple[ModelServers, RealServers]]:
    """Both at once, to be compared step by step."""
    made = (ModelServers(), RealServers(postgres, valkey))
    yield made
    made[1].close()
