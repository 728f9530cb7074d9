"""Fakes of both vendors, and a server before them: fixtures for every room that faces a client or a provider."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.fakes import FakeProvider
from tests.support.proxies import ANTHROPIC_KEY, ZAI_KEY, Server, server_of


@pytest.fixture
def anthropic() -> Iterator[FakeProvider]:
    with FakeProvider("anthropic", keys={ANTHROPIC_KEY}) as fake:
        yield fake


@pytest.fixture
def zai() -> Iterator[FakeProvider]:
    with FakeProvider("zai", keys={ZAI_KEY}) as fake:
        yield fake


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    async with server_of(tmp_path, monkeypatch) as made:
        yield made
