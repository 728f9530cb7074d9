"""The house that most tests share, what they ask it with, and its logs when one of them fails.

Tests that hurt servers have a house of their own (`test_outages.py`).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import anthropic
import httpx
import pytest

from tests.e2e.asking import client_of
from tests.e2e.books import Books
from tests.e2e.house import House, Proxy
from tests.e2e.processes import LOGS, tails
from tests.fakes import FakeProvider

MARKS = pytest.StashKey[Mapping[Path, int]]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Remember where the logs are before a test."""
    item.stash[MARKS] = {path: path.stat().st_size for path in LOGS if path.exists()}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
    call: pytest.CallInfo[None],  # noqa: ARG001 - pytest names it
) -> Iterator[None]:
    """Show what the processes said during a test that failed."""
    report: pytest.TestReport = yield  # type: ignore[assignment]
    if report.failed:
        report.sections += [(f"log of {name}", text) for name, text in tails(item.stash.get(MARKS, {}))]
    return report  # type: ignore[return-value]


@pytest.fixture(scope="session")
def shared_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """The house of this run."""
    with House(tmp_path_factory.mktemp("house")) as made:
        yield made


@pytest.fixture
def house(shared_house: House) -> Iterator[House]:
    """The house, everything up, its fakes empty; proxies that the test starts are ended."""
    count = shared_house.fresh().proxy_count
    yield shared_house
    shared_house.end_since(count)


@pytest.fixture(scope="session")
def shared_proxy(shared_house: House) -> Proxy:
    """The proxy of this run, with the usual routes and without a circuit."""
    return shared_house.start_proxy()


@pytest.fixture
def proxy(house: House, shared_proxy: Proxy) -> Proxy:  # noqa: ARG001 - the house is made ready first
    """The proxy, in a house that is ready."""
    assert shared_proxy.alive, shared_proxy.text
    return shared_proxy


@pytest.fixture
def anthropic_fake(house: House) -> FakeProvider:
    """The first route's provider."""
    return house.anthropic


@pytest.fixture
def zai_fake(house: House) -> FakeProvider:
    """The second route's provider."""
    return house.zai


@pytest.fixture
def books(house: House) -> Books:
    """The house's ledger."""
    return Books(house)


@pytest.fixture
def http(proxy: Proxy) -> Iterator[httpx.Client]:
    """A client that sends what it is told to and no more."""
    with client_of(proxy.url) as client:
        yield client


@pytest.fixture(scope="session")
def shared_sdk(shared_proxy: Proxy) -> Iterator[anthropic.Anthropic]:
    """Anthropic's SDK, which asks once."""
    key = "the-clients-own-placeholder"
    with anthropic.Anthropic(base_url=shared_proxy.url, api_key=key, max_retries=0) as client:
        yield client


@pytest.fixture
def sdk(proxy: Proxy, shared_sdk: anthropic.Anthropic) -> anthropic.Anthropic:  # noqa: ARG001 - made ready first
    """The same, in a house that is ready."""
    return shared_sdk
