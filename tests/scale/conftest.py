"""The fleet of this run, and its logs when a test fails."""

from collections.abc import Iterator

import pytest

from tests.scale.fleet import Fleet
from tests.support.process_logs import pytest_runtest_makereport, pytest_runtest_setup

__all__ = ["pytest_runtest_makereport", "pytest_runtest_setup"]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Everything up."""
    with Fleet(tmp_path_factory.mktemp("fleet")) as made:
        yield made
