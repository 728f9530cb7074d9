"""What every test gets: a log that no other test has set up."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def untouched_log() -> Iterator[None]:
    """A proxy inside a test's own process sets the level of the log; the next test must not notice."""
    logger = logging.getLogger("ccproxy")
    level, handlers, source = logger.level, list(logger.handlers), logging._srcfile
    propagate = logger.propagate
    yield
    logger.setLevel(level)
    logger.handlers = handlers
    logger.propagate = propagate
    logging._srcfile = source
