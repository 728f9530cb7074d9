"""A step on a stream from outside of the fold: done as soon as no worker has the stream, then published."""

import time
from collections.abc import Callable

from workers.project import Projected, Projector
from workers.publish import Publisher

TURN_S = 0.1


class NeverDone(Exception):
    """Workers had the stream all the time."""


def run_step(
    projector: Projector, publisher: Publisher, step: Callable[[Projector], Projected | None], turns: int
) -> Projected:
    """Do a step until nothing is left to do, and publish what comes of it. Raises NeverDone, RedisError."""
    for _ in range(turns):
        projected = step(projector)
        if projected is None:
            time.sleep(TURN_S)
        elif not projected.full:
            publisher.publish(projected)
            return projected
    raise NeverDone
