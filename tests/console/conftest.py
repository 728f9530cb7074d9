"""A real Valkey for the tests of status; fakes of both vendors, and a server before them."""

from collections.abc import Iterator

import pytest
from redis import Redis

from service.embedded.valkey import Valkey
from tests.support.proxy_fixtures import anthropic, server, zai

__all__ = ["anthropic", "redis", "server", "zai"]


@pytest.fixture
def redis(valkey: Valkey) -> Iterator[Redis]:
    """A connection to it, empty."""
    with Redis.from_url(valkey.url, legacy_responses=False) as made:
        yield made
