"""What every test gets: none of the developer's settings and signals, the usual log, and servers if it asks."""

import logging
import os
import signal
from collections.abc import Iterator

import pytest

from tests.support.environment import is_foreign
from tests.support.server_fixtures import postgres, shared_postgres, shared_valkey, valkey

__all__ = ["postgres", "shared_postgres", "shared_valkey", "valkey"]

for exported in filter(is_foreign, list(os.environ)):
    del os.environ[exported]


@pytest.fixture(scope="session", autouse=True)
def heeded_signals() -> Iterator[None]:
    """The processes of tests heed the signals that we ignore: `nohup` and a script's `&` hand that down to all of them.

    A handler, unlike `SIG_IGN`, is not inherited. Ours does nothing, so that what was started to survive still does.
    """
    ignored = [number for number in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, lambda *_: None)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


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
