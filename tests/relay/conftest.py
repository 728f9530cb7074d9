"""Fakes of both vendors with a server before them, and a relay in memory; tests of the latter run in virtual time."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.proxy_fixtures import anthropic, server, zai
from tests.support.relay_harness import RelayFactory
from tests.support.virtual_time import JumpingLoop

__all__ = ["anthropic", "server", "zai"]


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Virtual time for the relay in memory."""
    is_in_memory = "relays" in getattr(item, "fixturenames", ())
    return {"virtual": JumpingLoop} if is_in_memory else {"asyncio": asyncio.new_event_loop}


@pytest.fixture
def relays(tmp_path: Path) -> Iterator[RelayFactory]:
    """Makes relays in memory; nothing of a request may be left at the end of the test."""
    factory = RelayFactory(tmp_path)
    yield factory
    for relay in factory.made:
        relay.check_closed()
