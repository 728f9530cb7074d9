"""The proxy in this process, before two fakes, asked by the real SDK."""

from collections.abc import Iterator

import pytest

from tests.fakes import FakeProvider
from tests.support.proxy_fixtures import server

__all__ = ["anthropic", "both", "server", "zai"]


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[FakeProvider, FakeProvider]]:
    with FakeProvider("anthropic") as anthropic, FakeProvider("zai") as zai:
        yield anthropic, zai


@pytest.fixture
def anthropic(both: tuple[FakeProvider, FakeProvider]) -> FakeProvider:
    both[0].reset()
    return both[0]


@pytest.fixture
def zai(both: tuple[FakeProvider, FakeProvider]) -> FakeProvider:
    both[1].reset()
    return both[1]
