"""The proxy in this process, before two fakes, asked by the real SDK."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.fakes import FakeProvider
from tests.relay.serving import Server, server_of


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    async with server_of(tmp_path, monkeypatch) as made:
        yield made


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
