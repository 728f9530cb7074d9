"""One worker process of a simulated fleet: the real projector, publisher, shift, wake-ups and ticker."""

import threading
from random import Random
from typing import Any

from redis import RedisError

from tests.simulation.clients import PlainRedis
from tests.simulation.fibers import Fiber, Places, Plan
from tests.simulation.oracle import Oracle
from tests.simulation.postgres_model import Database, ModelStore
from tests.simulation.redis_model import Server
from tests.simulation.virtual import Died, Now
from workers.consume import Streams
from workers.fold_job import FoldJob
from workers.lost import LostAttempts
from workers.outage import Outage
from workers.project import Projector
from workers.publish import Publisher
from workers.ticker import Ticker
from workers.wake import WakeQueue

LONGEST_JOB = 26
"""Places that a job comes by, about; faults are planned among them."""


class Unstopped(threading.Event):
    """Nobody tells a simulated worker to stop, and it does not wait."""

    def wait(self, timeout: float | None = None) -> bool:  # noqa: ARG002 - Event's
        return False


class Queue:
    """RQ's queue, as far as wake-ups need it; it lies in Redis and shares its fate."""

    def __init__(self, server: Server, places: Places) -> None:
        self.server = server
        self.places = places

    def enqueue_call(self, _job: str, args: tuple[str], **_options: Any) -> None:
        """Add a job."""
        self.server.data.jobs.append(args[0])

    def is_empty(self) -> bool:
        """Whether no job waits."""
        return not self.server.data.jobs


class Fault(Outage):
    """A job that failed for a reason that no outage explains."""

    def __init__(self, name: str, oracle: Oracle) -> None:
        super().__init__(name)
        self.oracle = oracle

    def lost(self, error: BaseException, *, traceback: bool = False) -> None:  # noqa: ARG002 - Outage's
        self.oracle.law(False, f"{self.name}: {error!r}")


class Worker:
    """One run of one worker process. `fiber` is the job that it has in hand and has put aside."""

    def __init__(self, name: str, *, now: Now, server: Server, database: Database, oracle: Oracle) -> None:
        self.name = name
        self.now = now
        self.server = server
        self.oracle = oracle
        self.places = Places()
        self.store = ModelStore(database, self.places)
        redis: Any = PlainRedis(server, self.places)
        queue: Any = Queue(server, self.places)
        wake = WakeQueue(redis, queue)
        publisher = Publisher(redis, Unstopped(), clock=now.monotonic)
        streams = Streams(redis)
        self.shift = FoldJob(
            Projector(self.store, streams), publisher, streams, wake, Unstopped(), Outage("redis"), now.monotonic
        )
        ticking: Any = PlainRedis(server, Places())
        lost = LostAttempts(ticking, clock=now.monotonic)
        self.ticker = Ticker(
            ticking, WakeQueue(ticking, queue), lambda: sorted(database.checkpoints), Outage("redis"), lost,
            clock=now.monotonic,
        )  # fmt: skip
        self.ticker._stopping = Unstopped()
        self.fiber: Fiber | None = None

    def begin(self, stream: str, plan: Plan) -> None:
        """Do a job, up to the first pause that the plan has."""
        self.shift.faults.setdefault(stream, Fault(f"{self.name} {stream}", self.oracle))
        self.places.begin(plan)
        self.places.fiber = None
        if "pause" not in plan.values():
            self.shift.fold(stream)
            return
        self.fiber = self.places.fiber = Fiber(lambda: self.shift.fold(stream))
        self.go_on()

    def go_on(self) -> None:
        """Take up the job that was put aside."""
        fiber = self.fiber
        if fiber is None:
            return
        fiber.resume()
        if fiber.done:
            self.fiber = None
            if fiber.fault is not None:
                raise fiber.fault
            if fiber.died:
                raise Died

    def kill(self) -> None:
        """The process is no more; what it had in hand is not finished."""
        if self.fiber is not None:
            self.fiber.kill()
            self.fiber = None
        self.store.close()

    def look(self) -> None:
        """One round of the ticker."""
        try:
            self.ticker.tick()
        except RedisError:
            self.ticker.reset()

    def is_settled(self, streams: list[str]) -> bool:
        """Whether Redis shows every stream as folded and published."""
        return all(self.ticker.settled(streams).values())


def plan_of(rng: Random, *, dies: float, fails: float, pauses: float) -> Plan:
    """What happens in one job, by these chances of each kind."""
    plan: Plan = {}
    for what, chance in (("pause", pauses), ("pause", pauses / 2), ("die", dies), ("fail", fails), ("late", fails)):
        if rng.random() < chance:
            plan[rng.randrange(1, LONGEST_JOB)] = what
    return plan
