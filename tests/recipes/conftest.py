"""Fake providers, the product before them, and its logs when a test fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fakes import FakeProvider
from tests.recipes.product import Product
from tests.support.process_logs import pytest_runtest_makereport, pytest_runtest_setup

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["pytest_runtest_makereport", "pytest_runtest_setup"]

ANTHROPIC_KEY = "sk-ant-api03-owner-marked-recipes-aaa"
ZAI_KEY = "zai-owner-marked-recipes-bbbbbbbb"


@pytest.fixture(scope="session")
def shared_anthropic() -> Iterator[FakeProvider]:
    with FakeProvider("anthropic", keys={ANTHROPIC_KEY}) as fake:
        yield fake


@pytest.fixture(scope="session")
def shared_zai() -> Iterator[FakeProvider]:
    with FakeProvider("zai", keys={ZAI_KEY}) as fake:
        yield fake


@pytest.fixture
def anthropic(shared_anthropic: FakeProvider) -> FakeProvider:
    """The first route's provider, which has forgotten the last test."""
    shared_anthropic.reset()
    return shared_anthropic


@pytest.fixture
def zai(shared_zai: FakeProvider) -> FakeProvider:
    """The second route's provider, likewise."""
    shared_zai.reset()
    return shared_zai


@pytest.fixture(scope="session")
def upstreams(shared_anthropic: FakeProvider, shared_zai: FakeProvider) -> dict[str, str]:
    """The owner's keys, and the fakes in the providers' places."""
    return {
        "ANTHROPIC_API_KEY": ANTHROPIC_KEY,
        "ANTHROPIC_BASE_URL": shared_anthropic.base_url,
        "ZAI_API_KEY": ZAI_KEY,
        "ZAI_BASE_URL": shared_zai.base_url,
    }


@pytest.fixture(scope="session")
def shared_product(upstreams: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """The product as the page's first lines start it."""
    with Product(tmp_path_factory.mktemp("product"), upstreams) as made:
        yield made
