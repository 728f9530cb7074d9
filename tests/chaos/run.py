"""One run: load, monkey, healing, quiet, audit. Prints nothing itself; `say` takes its lines."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import psycopg
from msgspec import Struct
from redis import RedisError

from service.ledger import wire
from service.ledger.price import TOKEN_KINDS
from tests.chaos.audit import Tally, audit
from tests.chaos.fleet import CommandPart, Fleet, ServerPart
from tests.chaos.load import Load, count_by
from tests.chaos.plan import LOSSES, PARTS, Act, Step, kind_of, plan
from tests.support.messages import MODEL
from tests.support.processes import Command
from tests.support.processes import run as run_command

TICK_S = 0.02
TELL_S = 5.0
QUIET_S = 2.5
"""Nothing has moved for so long: more than two looks of a proxy and two of a ticker."""
QUIET_WITHIN_S = 90.0
LOST_WITHIN_S = 60.0
"""A replica's heartbeat lasts for 30 s; what it left open is closed soon after that."""
CLIENTS = 6
REPRICE = ("ledger", "reprice", "--since", "1d")


class Report(Struct):
    """What a run came to."""

    seed: int
    steps: int
    acts: dict[str, int]
    ends: dict[str, int]
    tally: Tally

    @property
    def lines(self) -> list[str]:
        """The summary, a line a count."""
        rows = {"seed": self.seed, "actions": self.steps, **self.acts, **self.tally.counts}
        rows |= {f"clients: {end}": count for end, count in self.ends.items()}
        return [f"  {name:<44}{count:>9,}" for name, count in rows.items()]


def run(
    folder: Path,
    *,
    seed: int,
    actions: int,
    seconds: float,
    say: Callable[[str], None],
    clients: int = CLIENTS,
    closes_lost: bool = True,
) -> Report:
    """A whole run. `closes_lost`: wait until what killed proxies left open is closed, some 30 s."""
    steps = plan(seed, actions, seconds)
    with Fleet(folder) as fleet:
        urls = [f"http://127.0.0.1:{proxy.port}" for proxy in fleet.proxies]
        with Load(urls, fleet.fakes, seed=seed, clients=clients) as load, Repricer(fleet) as repricer:
            monkey = Monkey(fleet, load, say, repricer)
            complaints = monkey.go(steps)
        say("healed; waiting until all is folded")
        tally = Tally()
        unquiet = wait_for_quiet(fleet, say, closes_lost=closes_lost)
        if not unquiet:
            tally.same("ledger reprice (0 is done)", repricer.finish(), 0)
            unquiet = wait_for_quiet(fleet, say, closes_lost=closes_lost)
        if not unquiet:
            tally = audit(fleet, load.asked)
            verify(fleet, tally)
            if closes_lost and (left := open_attempts(fleet)):
                tally.findings.append(f"{left} attempts of killed proxies were never closed")
        tally.find("never quiet", [unquiet] if unquiet else [])
        tally.find("a part ended by itself", complaints)
        return Report(seed, monkey.done, dict(sorted(monkey.acts.items())), count_by(load.asked, "end"), tally)


class Repricer:
    """Has usage priced again while it is recorded, one command after the other; at the end, by another list.

    A command that meets an outage fails, and the next one does what it has left.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._command: Command | None = None

    def __enter__(self) -> Self:
        self._set_price(9)
        return self

    def __exit__(self, *_: object) -> None:
        if self._command and self._command.alive:
            self._command.wait()

    def go_on(self) -> None:
        """Start the next command, if none runs."""
        if self._command is None or not self._command.alive:
            self._command = Command(*REPRICE, home=self._home, variables=self._fleet.addresses)

    def finish(self) -> int:
        """Price all usage by another list; how the command ends."""
        self._set_price(7)
        return run_command(*REPRICE, home=self._home, variables=self._fleet.addresses)[0]

    @property
    def _home(self) -> Path:
        return self._fleet.folder / "reprice"

    def _set_price(self, dollars: int) -> None:
        self._home.mkdir(exist_ok=True)
        text = f'[prices."{MODEL}"]\n' + "".join(f"{kind} = {dollars}\n" for kind in TOKEN_KINDS)
        (self._home / "ccproxy.toml").write_text(text, encoding="utf-8")


class Monkey:
    """Does the steps of a plan, and brings everything back."""

    def __init__(self, fleet: Fleet, load: Load, say: Callable[[str], None], repricer: Repricer) -> None:
        self.repricer = repricer
        self.fleet = fleet
        self.load = load
        self.say = say
        self.away: dict[str, float] = {}
        self.done = 0
        self.acts: dict[str, int] = {}
        self.complaints: list[str] = []
        self._began_s = time.monotonic()
        self._told_s = self._began_s

    def go(self, steps: Sequence[Step]) -> list[str]:
        """Do all steps, heal, and let the clients end; what ended without our doing."""
        left = list(steps)
        while left or self.away or self.load.alive:
            now_s = time.monotonic() - self._began_s
            self._bring_back(now_s)
            while left and left[0].at_s <= now_s and left[0].part not in self.away:
                self._do(left.pop(0), now_s)
            if not left and not self.away:
                self.load.tell()
            self._look()
            self._tell()
            if len(steps) > len(left) >= len(steps) // 2:
                self.repricer.go_on()
            time.sleep(TICK_S)
        return self.complaints

    def _do(self, step: Step, now_s: float) -> None:
        part = self.fleet.parts[step.part]
        if not part.alive:
            self._complain(step.part)
        act: Act = "kill" if step.act in LOSSES and self.fleet.would_lose else step.act
        if part.alive:
            part.hurt(act)
        name = f"{kind_of(step.part)}: {act}"
        self.acts[name] = self.acts.get(name, 0) + 1
        self.away[step.part] = now_s + step.for_s
        self.done += 1

    def _bring_back(self, now_s: float) -> None:
        for name in [name for name, back_s in self.away.items() if back_s <= now_s]:
            if self.fleet.parts[name].heal():
                del self.away[name]

    def _look(self) -> None:
        watched: list[CommandPart | ServerPart] = [*self.fleet.proxies, *self.fleet.servers]
        for part in watched:
            part.look()
        for name in PARTS:
            if name not in self.away and not self.fleet.parts[name].alive:
                self._complain(name)
                self.away[name] = 0

    def _complain(self, name: str) -> None:
        self.complaints.append(self.fleet.parts[name].complaint())

    def _tell(self) -> None:
        now_s = time.monotonic()
        if now_s < self._told_s + TELL_S:
            return
        self._told_s = now_s
        ends = ", ".join(f"{end} {count}" for end, count in count_by(self.load.asked, "end").items())
        away = ", ".join(sorted(self.away)) or "nothing"
        self.say(f"{now_s - self._began_s:5.0f} s  actions {self.done:4}  away: {away}  requests: {ends}")


def wait_for_quiet(fleet: Fleet, say: Callable[[str], None], *, closes_lost: bool) -> str:
    """Wait until nothing moves any more; why that never came, "" when it did."""
    began_s = quiet_s = told_s = time.monotonic()
    last: object = None
    while True:
        now_s = time.monotonic()
        seen, why = look(fleet)
        if why or seen != last:
            quiet_s, last = now_s, seen
        late = closes_lost and not why and open_attempts(fleet) > 0 and now_s < began_s + LOST_WITHIN_S
        if not why and now_s > quiet_s + QUIET_S and not late:
            return ""
        if now_s > began_s + QUIET_WITHIN_S:
            return why or "events go on coming"
        if now_s > told_s + TELL_S:
            told_s = now_s
            say(f"{now_s - began_s:5.0f} s  waiting: {why or 'for what was left open to be closed'}")
        time.sleep(0.1)


def look(fleet: Fleet) -> tuple[object, str]:
    """Where the ledger is, and what is still under way."""
    try:
        with psycopg.connect(fleet.postgres.url, autocommit=True, connect_timeout=3) as connection:
            query = "SELECT stream, stream_id, position, epoch FROM ccproxy.checkpoints ORDER BY 1"
            folded = {row[0]: row[1:] for row in connection.execute(query)}
        with fleet.redis() as redis:
            streams = sorted(redis.smembers(wire.STREAMS_KEY))
            for stream in streams:
                last = redis.xrevrange(wire.events_key(stream), count=1)
                if last and last[0][0] != folded.get(stream, ("",))[0]:
                    return folded, f"{stream} is at {last[0][0]}, folded to {folded.get(stream)}"
            beats = {key: redis.hget(key, "pending") for key in redis.scan_iter(wire.REPLICA_PREFIX + "*")}
    except (psycopg.Error, RedisError, OSError) as error:
        return None, repr(error)
    living = [key for key in beats if any(f"-{proxy.pid}-" in key for proxy in fleet.proxies)]
    if len(living) < len(fleet.proxies):
        return folded, "a proxy has no heartbeat"
    if pending := {key: count for key, count in beats.items() if key in living and count != "0"}:
        return folded, f"events not yet on their streams: {pending}"
    return folded, f"spools on disk: {[str(path) for path in fleet.spools]}" if fleet.spools else ""


def open_attempts(fleet: Fleet) -> int:
    """Attempts without an end, nor given up for lost."""
    query = "SELECT count(*) FROM ccproxy.checkpoints, json_object_keys(state->'open') WHERE stream != 'control'"
    with psycopg.connect(fleet.postgres.url, autocommit=True, connect_timeout=3) as connection:
        row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0


def verify(fleet: Fleet, tally: Tally) -> None:
    """The ledger's own proof, where the command is there."""
    status, said = run_command("ledger", "verify", home=fleet.folder / "verify", variables=fleet.addresses)
    tally.counts["ledger verify (0 is clean)"] = status
    if status:
        tally.findings.append(f"ccproxy ledger verify: {said[-2000:]}")
