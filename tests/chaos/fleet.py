"""The parts of an installation, each of which can be killed, ended, frozen and brought back. It decides nothing.

Parts are started on the main thread, since the kernel ties children to their thread.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol, Self

from msgspec import Struct
from redis import Redis, RedisError

from service.embedded import EmbeddedError
from service.embedded.postgres import Postgres
from service.embedded.server import Server
from service.embedded.valkey import Valkey
from service.ledger import wire
from tests.chaos.plan import LOSSES, PARTS, PROXIES, WIRES, Act
from tests.chaos.wire import Wire
from tests.fakes import FakeProvider
from tests.support.installation import ANTHROPIC_KEY, PATIENT, ZAI_KEY
from tests.support.ports import free_port
from tests.support.processes import Command, run
from tests.support.waiting import eventually

END_S = 14.0
"""A proxy may take ten seconds for its streams; what takes longer is killed, as a supervisor would."""
END_SERVER_S = 8.0
LOST_S = 1.0
"""What a power cut takes of what was written each second."""


class Outage(Struct):
    """When a proxy could not be relied upon: from the signal to its first answer. Monotonic seconds."""

    began_s: float
    ended_s: float = float("inf")


class Fate(Struct):
    """What was done to a process, by its id: `ended` was asked to end, `killed` had no time to."""

    ended: bool = False
    killed: bool = False


class Part(Protocol):
    """Something that can be hurt."""

    name: str

    @property
    def alive(self) -> bool:
        """Whether its process runs."""

    def hurt(self, act: Act) -> None:
        """Do it now."""

    def heal(self) -> bool:
        """Bring it back; whether that is done, else it is to be tried again."""

    def complaint(self) -> str:
        """What went wrong with it that nobody did to it; "" when nothing did."""


class ServerPart:
    """Postgres or Valkey."""

    def __init__(self, name: str, server: Server) -> None:
        self.name = name
        self.server = server
        self._frozen: list[int] = []
        self._sizes: list[tuple[float, dict[Path, int]]] = []
        self._act: Act | None = None

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self.server.alive

    def hurt(self, act: Act) -> None:
        """Do it now."""
        self._act = act
        if act == "kill":
            self.server.kill()
        elif act == "end":
            self.server.ask_to_end()
        elif act == "full":
            self._limit_memory("1")
        elif act in LOSSES:
            self.server.kill()
            self._lose(everything=act == "wipe")
        elif act == "freeze":
            self._frozen = [self.server.pid, *children(self.server.pid)]  # the first one first: it makes the others
            send(self._frozen, signal.SIGSTOP)
        elif backends := children(self.server.pid, "ccproxy ccproxy"):
            send(backends[:1], signal.SIGKILL)

    def heal(self) -> bool:
        """Bring it back."""
        act, self._act = self._act, None
        if act == "freeze":
            send(self._frozen, signal.SIGCONT)
        elif act == "full":
            self._limit_memory("0")
        elif act in ("kill", "end", *LOSSES):
            self.server.stop(END_SERVER_S)
            try:
                self.server.spawn()
            except EmbeddedError:  # what is left of the last one still holds the folder
                self._act = act
                return False
        return True

    def look(self) -> None:
        """Note how much lies on disk, so that the last of it can be lost."""
        now_s = time.monotonic()
        files = {path: path.stat().st_size for path in self.server.data.glob("appendonlydir/*.incr.aof")}
        self._sizes = [(at_s, sizes) for at_s, sizes in self._sizes if at_s > now_s - LOST_S] + [(now_s, files)]

    def _lose(self, *, everything: bool) -> None:
        if everything:
            shutil.rmtree(self.server.data)
            return
        _, sizes = self._sizes[0]
        for path, size in sizes.items():
            if path.exists() and path.stat().st_size > size:
                os.truncate(path, size)

    def _limit_memory(self, bytes_: str) -> None:
        redis = Redis.from_url(self.server.url, socket_timeout=5, legacy_responses=False)
        with contextlib.suppress(RedisError, OSError), redis:
            redis.config_set("maxmemory", bytes_)

    def complaint(self) -> str:
        """What went wrong that nobody did to it."""
        return "" if self.alive else f"{self.name} ended by itself with status {self.server.poll()}"


class CommandPart:
    """A worker, or a proxy at the same address each time."""

    def __init__(self, name: str, start: Callable[[], Command], *, port: int = 0) -> None:
        self.name = name
        self.port = port
        self.fates: dict[int, Fate] = {}
        self.outages: list[Outage] = []
        self.commands: list[Command] = []
        self._start = start
        self._frozen = False
        self._strangled = False
        self._ending_since_s = 0.0

    @property
    def command(self) -> Command:
        """The process of now."""
        return self.commands[-1]

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return bool(self.commands) and self.command.alive

    @property
    def pid(self) -> int:
        """The id of the process of now."""
        return self.command.process.pid

    def begin(self) -> None:
        """A fresh process."""
        self._ending_since_s = 0.0
        self.commands.append(self._start())
        self.fates[self.pid] = Fate()

    def hurt(self, act: Act) -> None:
        """Do it now."""
        if act == "freeze":
            self._frozen = True
            send([self.pid], signal.SIGSTOP)
            return
        self._note_outage()
        if act == "strangle":
            self._strangled = True
            send([self.pid], signal.SIGSTOP)
        elif act == "end":
            self.fates[self.pid].ended = True
            self._ending_since_s = time.monotonic()
            self.command.process.terminate()
        else:
            self._kill()

    def heal(self) -> bool:
        """Bring it back."""
        if self._frozen:
            self._frozen = False
            send([self.pid], signal.SIGCONT)
            return True
        if self.alive and not self._strangled and time.monotonic() < self._ending_since_s + END_S:
            return False
        if self.alive:
            self._kill()
        self._strangled = False
        self.begin()
        return True

    def look(self) -> None:
        """An outage is over when the address is listened on again."""
        if self._strangled or self._ending_since_s or not self.alive:
            return
        if self.outages and self.outages[-1].ended_s == float("inf"):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=0.05):
                self.outages[-1].ended_s = time.monotonic()

    def complaint(self) -> str:
        """What went wrong that nobody did to it."""
        if self.alive:
            return ""
        return f"{self.name} ended by itself with status {self.command.process.poll()}:\n{self.command.text[-2000:]}"

    def _kill(self) -> None:
        self.fates[self.pid].killed = True
        self.command.kill()

    def _note_outage(self) -> None:
        if not self.outages or self.outages[-1].ended_s < float("inf"):
            self.outages.append(Outage(time.monotonic()))


class Fleet:
    """Two proxies, two workers, Postgres, Valkey, and the fake providers, which nobody hurts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.postgres = Postgres(folder / "postgres")
        self.valkey = Valkey(folder / "valkey")
        self.anthropic = FakeProvider("anthropic", keys={ANTHROPIC_KEY})
        self.zai = FakeProvider("zai", keys={ZAI_KEY})
        self.home = folder / "home"
        self.servers = [ServerPart("postgres", self.postgres), ServerPart("valkey", self.valkey)]
        self.proxies = [self._proxy(name) for name in PROXIES]
        self.workers = [self._worker(name) for name in PARTS if name.startswith("worker")]
        self.wires = [Wire(name) for name in WIRES]
        parts: list[Part] = [*self.proxies, *self.workers, *self.servers, *self.wires]
        self.parts = {part.name: part for part in parts}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for part in (self.postgres, self.valkey, self.anthropic, self.zai):
                stack.enter_context(part)
            for each in self.wires:
                each.start(self.valkey.port)
                stack.callback(each.stop)
            stack.callback(self._end_all)
            status, said = run("migrate", home=self.folder / "migrate", variables=self.addresses)
            assert status == 0, said
            for command in (*self.workers, *self.proxies):
                command.begin()
            for proxy in self.proxies:
                eventually(lambda proxy=proxy: listens(proxy.port))  # type: ignore[misc]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def fakes(self) -> Mapping[str, FakeProvider]:
        """The providers by route."""
        return {"anthropic": self.anthropic, "zai": self.zai}

    @property
    def addresses(self) -> dict[str, str]:
        """Where the servers are."""
        return {"REDIS_URL": self.valkey.url, "DATABASE_URL": self.postgres.url}

    @property
    def settings(self) -> dict[str, str]:
        """All that a proxy is told but its port. Both have one home, so that each adopts the other's spools."""
        upstreams = {
            "ANTHROPIC_API_KEY": ANTHROPIC_KEY,
            "ANTHROPIC_BASE_URL": self.anthropic.base_url,
            "ZAI_API_KEY": ZAI_KEY,
            "ZAI_BASE_URL": self.zai.base_url,
        }
        return self.addresses | upstreams | PATIENT | {"CCPROXY_HOME": str(self.home), "LOG_LEVEL": "info"}

    @property
    def fates(self) -> dict[int, Fate]:
        """What became of every proxy process."""
        return {pid: fate for proxy in self.proxies for pid, fate in proxy.fates.items()}

    @property
    def spools(self) -> list[Path]:
        """Segments on disk."""
        return sorted((self.home / "spool").glob("*/*.spool"))

    @property
    def would_lose(self) -> bool:
        """Whether what Valkey wrote last has events of a proxy that is no more: they would be nowhere else."""
        living = tuple(f"-{proxy.pid}-" for proxy in self.proxies if proxy.alive)
        try:
            with self.redis() as redis:
                for stream in redis.smembers(wire.STREAMS_KEY):
                    folded = redis.hget(wire.route_key(stream), "stream_id") or "0-0"
                    for _, fields in redis.xrange(wire.events_key(stream), min=f"({folded}"):
                        for event in wire.decode_entry(fields[wire.ENTRY_FIELD].encode()):
                            if isinstance(event, wire.Undecodable) or not any(pid in event.replica for pid in living):
                                return True
        except (RedisError, OSError):
            return True
        return False

    def redis(self) -> Redis:
        """A client for the audit."""
        return Redis.from_url(self.valkey.url, decode_responses=True, socket_timeout=5, legacy_responses=False)

    def logs(self) -> list[tuple[str, str]]:
        """What every worker and proxy has said, by name."""
        commands = [(part.name, command) for part in (*self.workers, *self.proxies) for command in part.commands]
        return [(f"{name} ({command.process.pid})", command.text) for name, command in commands]

    def _proxy(self, name: str) -> CommandPart:
        port = free_port()

        def start() -> Command:
            variables = self.settings | {"PROXY_PORT": str(port), "REDIS_URL": self._by_wire(PROXIES.index(name))}
            return Command("serve", home=self.folder / name, variables=variables)

        return CommandPart(name, start, port=port)

    def _worker(self, name: str) -> CommandPart:
        def start() -> Command:
            variables = self.addresses | {"LOG_LEVEL": "info", "REDIS_URL": self._by_wire(-1)}
            return Command("worker", home=self.folder / name, variables=variables)

        return CommandPart(name, start)

    def _by_wire(self, number: int) -> str:
        """Valkey's address at the near end of a wire."""
        return self.valkey.url.replace(f":{self.valkey.port}/", f":{self.wires[number].port}/")

    def _end_all(self) -> None:
        for part in (*self.proxies, *self.workers):
            if part.alive:
                part.command.kill()


def listens(port: int) -> bool:
    """Whether somebody listens there."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def send(pids: list[int], number: signal.Signals) -> None:
    """Send a signal to processes that may be gone."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def children(pid: int, words: str = "") -> list[int]:
    """The processes that this one has started, of those whose command line has these words; the youngest first."""
    table = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout  # noqa: S607 - wherever ps is
    rows = [line.split(None, 2) for line in table.splitlines()]
    return sorted((int(row[0]) for row in rows if int(row[1]) == pid and words in row[-1]), reverse=True)
