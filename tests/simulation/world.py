"""A fleet in one thread of time: replicas, workers, Redis and Postgres, driven and troubled by one seed.

A step does one thing (a client asks, a worker takes a job, something breaks), lets some time pass and checks the laws.
After the last one all is healed and run to rest, and what must be true at rest is checked. The same seed does the same.
"""

import contextlib
import gc
import logging
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from random import Random
from unittest.mock import patch

from service.ledger.events import AttemptLost
from service.ledger.state import RouteLedger
from service.ledger.wire import CONTROL, ENTRY_FIELD, encode_entry, events_key
from service.settings import Settings, load
from tests.simulation.clients import Weather
from tests.simulation.fibers import Plan
from tests.simulation.oracle import Broken, Oracle
from tests.simulation.postgres_model import Database
from tests.simulation.redis_model import Data, Server
from tests.simulation.replica import Disk, Replica
from tests.simulation.virtual import NEVER_S, Died, Now
from tests.simulation.worker import Worker, plan_of
from workers.lost import CHECK_INTERVAL_S, HEARTBEAT_TTL_S, lost_events
from workers.reprice import Priced, priced_in, repriced_event

STEPS = 220
REPLICAS, MOST_REPLICAS = 2, 4
WORKERS, MOST_WORKERS = 2, 3
LAST_STEPS = 12
SIZES = [
    ("workers.publish.KEPT_ENTRIES", 6, 1),
    ("workers.consume.PAGE_ENTRIES", 3, 2),
    ("workers.consume.BATCH_ENTRIES", 5, 2),
    ("service.fleet.spool.SEGMENT_BYTES", 2_000, 3),
    ("service.fleet.outbox.BATCH_EVENTS", 3, 4),
    ("service.fleet.outbox.KEPT_EVENTS", 5, 5),
    ("service.fleet.overlay.STEP_EVENTS", 1, 2),
    ("service.fleet.outbox.STEP_EVENTS", 1, 2),
    ("service.fleet.outbox.DISK_EVENTS", 2, 3),
]
"""What is made small, how small, and in each how-manieth seed."""
ROUNDS_OF_REST = 60
LOOKS_FOR_LOST = int(2 * HEARTBEAT_TTL_S / CHECK_INTERVAL_S) + 4
"""Looks after which whoever died is known to have died."""
QUIET_ROUNDS = 4
"""Rounds without a change after which the world is at rest."""


def settings_of_fleet() -> Settings:
    """Two routes with keys, one that is off, no limits."""
    return load(None, {"ANTHROPIC_API_KEY": "a", "ZAI_API_KEY": "z", "CLAUDE_SUBSCRIPTION_ENABLED": "false"})


SETTINGS = settings_of_fleet()
ROUTES = [route.id for route in SETTINGS.routes if route.off is None]


class World:
    """One seed's fleet."""

    def __init__(self, seed: int, place: Path, disk: Disk) -> None:
        self.rng = Random(seed)  # noqa: S311 - a seed is to be known
        self.now = Now()
        self.disk = disk
        self.place = place
        self.server = Server(self.now)
        self.database = Database(self.now)
        self.oracle = Oracle(self.database, self.server)
        streams = {events_key(stream): stream for stream in (*ROUTES, CONTROL)}
        self.server.on_entry = lambda key, value: self.oracle.note_entry(streams[key], value)
        self.server.on_publish = self.oracle.note_published
        self.weather = Weather()
        self.names = 0
        self.replicas: list[Replica] = []
        self.gone: list[Replica] = []
        self.workers: list[Worker] = []
        self.log: deque[str] = deque(maxlen=LAST_STEPS)
        self.storm = self.rng.choice((0.0, 0.3, 1.0, 2.0))
        """How much goes wrong in this seed."""
        self.trouble = [(action, weight * self.storm) for action, weight in self.troubles()]

    def new_name(self, kind: str) -> str:
        """A name never used before."""
        self.names += 1
        return f"{kind}{self.names}"

    def start_replica(self) -> None:
        """Another proxy process on the host."""
        name, rng = self.new_name("r"), Random(self.rng.random())  # noqa: S311 - likewise
        made = Replica(
            name, now=self.now, server=self.server, weather=self.weather, oracle=self.oracle,
            spool_root=self.place, disk=self.disk, settings=SETTINGS, rng=rng,
        )  # fmt: skip
        self.replicas.append(made)

    def start_worker(self) -> None:
        """Another worker process."""
        self.workers.append(
            Worker(self.new_name("w"), now=self.now, server=self.server, database=self.database, oracle=self.oracle)
        )

    def pass_time(self, seconds: float) -> None:
        """Let the replicas run until then."""
        until_s = self.now.s + seconds
        while True:
            due_s, replica = NEVER_S, None
            for one in self.replicas:
                at_s = max(one.loop.due_s(), one.frozen_until_s)
                if at_s < due_s:
                    due_s, replica = at_s, one
            if replica is None or due_s > until_s:
                break
            self.now.s = max(self.now.s, due_s)
            replica.loop.turn()
            if replica.loop.died:
                self.bury(replica, "died while it wrote to its spool")
        self.now.s = until_s

    def bury(self, replica: Replica, how: str) -> None:
        """A replica is no more."""
        self.log.append(f"   {replica.name} {how}")
        replica.kill()
        self.oracle.dead.add(replica.name)
        self.replicas.remove(replica)
        self.gone.append(replica)

    def step(self) -> None:
        """One thing happens, and time passes."""
        actions = [*self.business(), *self.trouble]
        action = self.rng.choices([each for each, _ in actions], [weight for _, weight in actions])[0]
        self.log.append(f"{self.now.s:.3f} {action.__name__}")
        action()
        self.pass_time(self.pause_s())
        self.check()

    def pause_s(self) -> float:
        """How long until the next step: mostly little, seldom long."""
        longest = self.rng.choices((0.0, 0.02, 0.2, 1.0, 15.0), (10, 42, 37, 10, 1))[0]
        return longest * self.rng.random()

    def business(self) -> list[tuple[Callable[[], None], float]]:
        """What happens on a good day."""
        return [
            (self.ask, 40),
            (self.command, 4),
            (self.read_batch, 2),
            (self.poll_session, 4),
            (self.work, 30),
            (self.look, 14),
            (self.save, 3),
        ]

    def troubles(self) -> list[tuple[Callable[[], None], float]]:
        """What happens on a bad one."""
        return [
            (self.redis_away, 1.0), (self.redis_restarts, 0.8), (self.redis_older, 0.8), (self.redis_empty, 0.4),
            (self.postgres_away, 1.0), (self.worker_dies, 1.0), (self.replica_dies, 1.2), (self.replica_torn, 0.4),
            (self.replica_stops, 0.5), (self.replica_freezes, 0.6), (self.replica_starts, 1.0), (self.disk_fails, 0.5),
            (self.weather_turns, 2.0), (self.lose_attempt, 1.0), (self.clears_up, 3.0), (self.riddle, 0.3),
            (self.reprice, 1.0),
        ]  # fmt: skip

    def some_replica(self) -> Replica | None:
        """A replica that serves."""
        serving = [one for one in self.replicas if not one.stopping and one.watcher._tasks]
        return self.rng.choice(serving) if serving else None

    def ask(self) -> None:
        for _ in range(self.rng.choice((1, 1, 1, 2, 5))):
            if replica := self.some_replica():
                replica.run(replica.ask())

    def command(self) -> None:
        if replica := self.some_replica():
            replica.run(replica.command())

    def read_batch(self) -> None:
        if replica := self.some_replica():
            replica.run(replica.read_batch())

    def poll_session(self) -> None:
        for _ in range(self.rng.choice((1, 3))):
            if replica := self.some_replica():
                replica.run(replica.poll_session())

    def save(self) -> None:
        if self.server.up:
            self.server.save()

    def work(self) -> None:
        """A worker goes on with its job, or takes the next."""
        worker = self.rng.choice(self.workers)
        try:
            if worker.fiber is not None:
                worker.go_on()
            elif self.server.up and self.server.data.jobs:
                storm = self.storm
                plan = plan_of(self.rng, dies=0.02 * storm, fails=0.02 * storm, pauses=0.3)
                worker.store.lingers = self.rng.random() < 0.2
                self.begin(worker, plan)
        except Died:
            self.log.append(f"   {worker.name} died at {worker.places.passed[-1]}")
            self.replace(worker)

    def begin(self, worker: Worker, plan: Plan) -> None:
        """A worker takes the next job."""
        stream = self.server.data.jobs.pop(0)
        self.log.append(f"   {worker.name} folds {stream} {plan or ''}")
        worker.begin(stream, plan)

    def replace(self, worker: Worker) -> None:
        """Another worker takes its place."""
        worker.kill()
        self.workers.remove(worker)
        self.start_worker()

    def look(self) -> None:
        self.rng.choice(self.workers).look()

    def redis_away(self) -> None:
        self.server.up = False
        self.server.drop_connections()

    def redis_restarts(self) -> None:
        self.come_back(self.server.data)

    def redis_older(self) -> None:
        if self.server.saves:
            self.come_back(self.rng.choice(self.server.saves).saved())

    def redis_empty(self) -> None:
        self.come_back(Data(self.server.clock_ms))

    def come_back(self, data: Data) -> None:
        """Redis is another run, with other data."""
        before = self.server.data
        self.server.skew_ms = self.rng.choice((0, 0, 0, -1500, 700))
        self.server.restart(data)
        self.server.up = True
        self.oracle.note_redis_loss(before, data)

    def postgres_away(self) -> None:
        self.database.go_away()

    def worker_dies(self) -> None:
        worker = self.rng.choice(self.workers)
        worker.store.lingers = self.rng.random() < 0.5
        self.replace(worker)

    def replica_dies(self) -> None:
        if self.replicas:
            self.bury(self.rng.choice(self.replicas), "was killed")
            if len(self.replicas) < REPLICAS or self.rng.random() < 0.5:
                self.start_replica()

    def replica_torn(self) -> None:
        self.disk.cut = self.rng.random()

    def replica_stops(self) -> None:
        replica = self.some_replica()
        if replica and not replica.clients and replica.alive:
            replica.run(replica.stop())
            self.start_replica()
            self.pass_time(10.0)
            if replica in self.replicas:
                self.bury(replica, "stopped")

    def replica_freezes(self) -> None:
        if replica := self.some_replica():
            replica.frozen_until_s = self.now.s + self.rng.choice((0.3, 3.0, 40.0)) * self.rng.random()

    def replica_starts(self) -> None:
        if len(self.replicas) < MOST_REPLICAS:
            self.start_replica()

    def disk_fails(self) -> None:
        self.disk.broken = True

    def weather_turns(self) -> None:
        weather, rng = self.weather, self.rng
        weather.refused = rng.choice((0.0, 0.1, 0.5))
        weather.cut = rng.choice((0.0, 0.1))
        weather.unanswered = rng.choice((0.0, 0.1, 0.4))
        weather.slow = rng.choice((0.1, 0.9))
        weather.notices_lost = rng.choice((0.0, 0.5, 1.0))

    def lose_attempt(self) -> None:
        """An attempt that is open for Postgres is given up, rightly or not."""
        stream = self.rng.choice(ROUTES)
        ledger = self.oracle.ledger(stream)
        if isinstance(ledger, RouteLedger) and ledger.open and self.server.up:
            events = lost_events(ledger, [self.rng.choice(sorted(ledger.open))], int(self.now.s * 1000))
            self.server.call("xadd", (events_key(stream), {ENTRY_FIELD: encode_entry(events)}), {})

    def reprice(self) -> None:
        """Usage that stands in Postgres is priced again. What a price is followed by depends on it alone, as with two
        commands and one price list; estimates, whose end may be on its way, first of all."""
        stream = self.rng.choice(ROUTES)
        rows = self.database.rows.get(stream, [])
        priced = list(priced_in([row.body for row in rows], {}))
        if priced and self.server.up:
            estimates = [one for one in priced if isinstance(one.event, AttemptLost)]
            chosen = {one.priced_by: one for one in (*estimates, *self.rng.sample(priced, min(len(priced), 3)))}
            events = [repriced_event(one, new_costs(one), "another") for one in chosen.values()]
            self.server.call("xadd", (events_key(stream), {ENTRY_FIELD: encode_entry(events)}), {})

    def riddle(self) -> None:
        """An event that only a later version can read is on a stream."""
        if self.server.up:
            self.names += 1
            raw = b'[{"type":"tomorrow","replica":"future","seq":%d}]' % self.names
            self.server.call("xadd", (events_key(self.rng.choice(ROUTES)), {ENTRY_FIELD: raw}), {})

    def clears_up(self) -> None:
        self.server.up = self.database.up = True
        self.disk.broken = False

    def check(self) -> None:
        """The laws that hold at every moment."""
        for replica in self.replicas:
            replica.check()
        self.raise_broken()

    def raise_broken(self) -> None:
        """Raises Broken when a law does not hold."""
        if self.oracle.broken:
            raise Broken("; ".join(self.oracle.broken[:3]))

    def rest(self) -> None:
        """Heal everything, run until nothing changes any more, and check what holds then."""
        self.clears_up()
        self.disk.cut = None
        self.weather.refused = self.weather.cut = self.weather.unanswered = self.weather.notices_lost = 0.0
        for replica in self.replicas:
            replica.frozen_until_s = 0.0
        self.start_replica()
        for worker in list(self.workers):
            worker.places.plan = {}
            while worker.fiber is not None:
                with contextlib.suppress(Died):
                    worker.go_on()
        self.come_to_rest()
        if self.rng.random() < 0.1:
            for _ in range(LOOKS_FOR_LOST):
                self.do_all_jobs()
                self.pass_time(CHECK_INTERVAL_S)
            self.come_to_rest()
            self.check_open()
        self.check_rest()

    def come_to_rest(self) -> None:
        """Go on until nothing changes any more."""
        quiet = rounds = 0
        while quiet < QUIET_ROUNDS:
            rounds += 1
            if rounds > ROUNDS_OF_REST:
                raise Broken("the world does not come to rest")
            before = self.state()
            self.do_all_jobs()
            self.pass_time(1.1)
            self.check()
            quiet = quiet + 1 if before == self.state() and self.is_settled() else 0

    def check_open(self) -> None:
        """After a while, no attempt of a replica that is gone is left open."""
        for stream in ROUTES:
            ledger = self.oracle.ledger(stream)
            if isinstance(ledger, RouteLedger):
                left = [one for one, attempt in ledger.open.items() if attempt.replica in self.oracle.dead]
                self.oracle.law(not left, f"{stream}: nobody closes {left}")

    def do_all_jobs(self) -> None:
        """Everybody looks, and all jobs are done."""
        for worker in self.workers:
            worker.look()
            while self.server.data.jobs:
                self.begin(worker, {})

    def state(self) -> object:
        """What changes while the world is not at rest."""
        waiting = [(one.outbox.pending, len(one.clients), bool(one.outbox._orphans)) for one in self.replicas]
        return waiting, {name: one[:5] for name, one in self.database.checkpoints.items()}

    def is_settled(self) -> bool:
        """Whether all that is on the streams is folded and published, and nobody waits."""
        streams = sorted(self.oracle.ledgers.keys() | {CONTROL})
        idle = all(not one.clients and not one.outbox.pending for one in self.replicas)
        return idle and self.workers[0].is_settled(streams)

    def check_rest(self) -> None:
        """What holds when all is done."""
        self.oracle.check_rest()
        for replica in self.replicas:
            replica.check_rest()
        left = [path.name for path in self.place.rglob("*.spool")]
        self.oracle.law(not left, f"at rest there is still on disk: {left}")
        self.raise_broken()

    def end(self) -> None:
        """Leave nothing behind."""
        for worker in self.workers:
            worker.kill()
        for replica in self.replicas:
            replica.kill()
        for replica in [*self.replicas, *self.gone]:
            replica.loop.bury()


def new_costs(priced: Priced) -> list[int | None]:
    """What lines of usage cost from now on: now and then nothing that is known."""
    chance = Random(priced.priced_by)  # noqa: S311 - another price, the same one each time
    return [chance.choice((None, 0, 3, 11)) for _ in priced.lines]


def fast_place() -> Path:
    """A folder for spools, in memory where the system has such a place."""
    memory = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
    return Path(tempfile.mkdtemp(prefix="ccproxy-sim-", dir=memory if os.access(memory, os.W_OK) else None))


@contextlib.contextmanager
def world_of(seed: int) -> Iterator[World]:
    """A world, with time and the disk in its hands, and some of the sizes that the code works with made small."""
    place, disk = fast_place(), Disk()
    logging.disable(logging.CRITICAL)
    gc.disable()
    try:
        world = World(seed, place, disk)
        with (
            patch("service.fleet.clock.time", world.now),
            patch("service.fleet.snapshots.time", world.now),
            patch("workers.publish.time", world.now),
            patch("workers.ticker.time", world.now),
            patch("os.fsync", disk.fsync),
            small_sizes(seed),
        ):
            try:
                yield world
            finally:
                world.end()
    finally:
        gc.enable()
        logging.disable(logging.NOTSET)
        shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def small_sizes(seed: int) -> Iterator[None]:
    """Limits that no short life would come near are made small: the tail of a stream always, others in some seeds."""
    with contextlib.ExitStack() as stack:
        for name, size, every in SIZES:
            if seed % every == 0:
                stack.enter_context(patch(name, size))
        yield


def simulate(seed: int, steps: int = STEPS) -> None:
    """Run one seed. Raises Broken, with the last steps, when a law does not hold."""
    with world_of(seed) as world:
        try:
            run(world, steps)
        except Broken as broken:
            raise Broken(f"seed {seed}: {broken}\n" + "\n".join(world.log)) from None


def run(world: World, steps: int) -> None:
    """From the first process to the last law."""
    for _ in range(REPLICAS):
        world.start_replica()
    for _ in range(WORKERS):
        world.start_worker()
    for _ in range(steps):
        world.step()
    world.log.append("the world is healed")
    world.rest()


def replay(seed: int) -> bytes:
    """All that a seed leaves in Postgres, as a hash."""
    with world_of(seed) as world:
        run(world, STEPS)
        return sha256(repr((world.database.rows, world.database.checkpoints)).encode()).digest()
