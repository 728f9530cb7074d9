"""Hooks of pytest that show what the processes of a test logged when it fails; a conftest imports both."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.processes import LOGS, tails

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
