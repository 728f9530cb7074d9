"""What every test gets: an environment without the developer's settings, the usual log, and servers if it asks."""

import logging
import os
from collections.abc import Iterator

import pytest

from tests.support.environment import is_foreign
from tests.support.server_fixtures import postgres, shared_postgres, shared_valkey, valkey

__all__ = ["postgres", "shared_postgres", "shared_valkey", "valkey"]

for exported in filter(is_foreign, list(os.environ)):
    del os.environ[exported]


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
