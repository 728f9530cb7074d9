"""A real Valkey for the tests of status."""

from collections.abc import Iterator

import pytest
from redis import Redis

from service.embedded.valkey import Valkey


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A Valkey of this run."""
    with Valkey(tmp_path_factory.mktemp("valkey")) as made:
        yield made


@pytest.fixture
def redis(server: Valkey) -> Iterator[Redis]:
    """A connection to it, empty."""
    with Redis.from_url(server.url, legacy_responses=False) as made:
        made.flushall()
        yield made
