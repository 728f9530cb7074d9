"""The fleet of this run, and its logs when a test fails."""

from collections.abc import Iterator

import pytest

from tests.e2e.conftest import pytest_runtest_makereport, pytest_runtest_setup
from tests.scale.fleet import Fleet

__all__ = ["pytest_runtest_makereport", "pytest_runtest_setup"]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Everything up."""
    with Fleet(tmp_path_factory.mktemp("fleet")) as made:
        yield made
