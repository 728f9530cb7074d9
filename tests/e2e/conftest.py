"""The installation that most tests share, what they ask it with, and its logs when one of them fails.

Tests that hurt servers have an installation of their own (`test_outages.py`).
"""

from collections.abc import Iterator

import anthropic
import httpx
import pytest

from tests.fakes import FakeProvider
from tests.support.installation import Installation, Proxy
from tests.support.ledger_reader import LedgerReader
from tests.support.messages import client_of
from tests.support.process_logs import pytest_runtest_makereport, pytest_runtest_setup

__all__ = ["pytest_runtest_makereport", "pytest_runtest_setup"]


@pytest.fixture(scope="session")
def shared_installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """The installation of this run."""
    with Installation(tmp_path_factory.mktemp("installation")) as made:
        yield made


@pytest.fixture
def installation(shared_installation: Installation) -> Iterator[Installation]:
    """The installation, everything up, its fakes empty; proxies that the test starts are ended."""
    count = shared_installation.fresh().proxy_count
    yield shared_installation
    shared_installation.end_since(count)


@pytest.fixture(scope="session")
def shared_proxy(shared_installation: Installation) -> Proxy:
    """The proxy of this run, with the usual routes and without a circuit."""
    return shared_installation.start_proxy()


@pytest.fixture
def proxy(installation: Installation, shared_proxy: Proxy) -> Proxy:  # noqa: ARG001 - the installation is made ready first
    """The proxy, in an installation that is ready."""
    assert shared_proxy.alive, shared_proxy.text
    return shared_proxy


@pytest.fixture
def anthropic_fake(installation: Installation) -> FakeProvider:
    """The first route's provider."""
    return installation.anthropic


@pytest.fixture
def zai_fake(installation: Installation) -> FakeProvider:
    """The second route's provider."""
    return installation.zai


@pytest.fixture
def ledger(installation: Installation) -> LedgerReader:
    """The installation's ledger."""
    return LedgerReader(installation)


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
    """The same, in an installation that is ready."""
    return shared_sdk
