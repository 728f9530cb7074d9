"""A real Valkey for the tests of status; fakes of both vendors, and a server before them."""

from collections.abc import Iterator

import pytest
from redis import Redis

from service.embedded.valkey import Valkey
from tests.relay.fixtures import anthropic, server, zai

__all__ = ["anthropic", "redis", "server", "valkey", "zai"]


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A Valkey of this run."""
    with Valkey(tmp_path_factory.mktemp("valkey")) as made:
        yield made


@pytest.fixture
def redis(valkey: Valkey) -> Iterator[Redis]:
    """A connection to it, empty."""
    with Redis.from_url(valkey.url, legacy_responses=False) as made:
        made.flushall()
        yield made
