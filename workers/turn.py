"""Runs a step on a stream from outside the fold job: as soon as no worker holds the stream, then publishes it."""

import time
from collections.abc import Callable

from workers.project import Projected, Projector
from workers.publish import Publisher

RETRY_S = 0.1


class StreamBusy(Exception):
    """Workers held the stream during all tries."""


def run_step(
    projector: Projector, publisher: Publisher, step: Callable[[Projector], Projected | None], max_tries: int
) -> Projected:
    """Run a step until nothing is left to do, and publish the result. Raises StreamBusy, RedisError."""
    for _ in range(max_tries):
        projected = step(projector)
        if projected is None:
            time.sleep(RETRY_S)
        elif not projected.full:
            publisher.publish(projected)
            return projected
    raise StreamBusy
