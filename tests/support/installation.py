"""A whole installation: Postgres, Valkey, a worker, proxies, and fake providers that they know as the real ones.

`Installation` starts and ends its parts; `LedgerReader` reads what they wrote. Not here: requests to it.
"""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Self

from redis import Redis

from service.embedded.postgres import Postgres
from service.embedded.valkey import Valkey
from tests.fakes import FakeProvider
from tests.support.ports import free_port
from tests.support.processes import OWN_PROGRAM, Command, run

ANTHROPIC_KEY = "sk-ant-api03-owner-marked-aaaaaaaaaaaa"
ZAI_KEY = "zai-owner-marked-bbbbbbbbbbbbbbbb"
PATIENT = {
    # The circuit and the waits of one test must not reach into the next; those that test them turn them on again.
    "CIRCUIT_BREAKER_ENABLED": "false",
    "CIRCUIT_BREAKER_COOLDOWN_MS": "1",
    "API_RETRY_DELAY_MS": "1",
    "API_CONNECT_TIMEOUT_MS": "5000",
    "LOG_LEVEL": "debug",
}
ROUTE = """\
[[routes]]
id = "{id}"
title = "{id}"
provider = "{provider}"
base_url = "{base_url}"
api_key = "{api_key}"
"""


class Proxy(Command):
    """A proxy process that serves."""

    def __init__(self, *, home: Path, variables: Mapping[str, str], program: Sequence[str] = OWN_PROGRAM) -> None:
        self.port = free_port()
        super().__init__("serve", home=home, variables={"PROXY_PORT": str(self.port), **variables}, program=program)
        self.url = f"http://127.0.0.1:{self.port}"

    def answers(self, path: str = "/readyz") -> bool:
        """Whether it is there (and, with /readyz, has heard of the ledger)."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    def ready(self, path: str = "/readyz") -> Self:
        """Itself, once it serves."""
        self.wait_until(lambda: self.answers(path))
        return self


class Installation:
    """Everything but the clients. Parts are started on the main thread: the kernel ties children to their thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.postgres = Postgres(folder / "postgres")
        self.valkey = Valkey(folder / "valkey")
        self.anthropic = FakeProvider("anthropic", keys={ANTHROPIC_KEY})
        self.zai = FakeProvider("zai", keys={ZAI_KEY})
        self.worker: Command | None = None
        self.program: Sequence[str] = OWN_PROGRAM
        self._proxies: list[Proxy] = []
        self._count = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for part in (self.postgres, self.valkey, self.anthropic, self.zai):
                stack.enter_context(part)
            stack.callback(self._stop_processes)
            self.command("migrate")
            self.start_worker()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def addresses(self) -> dict[str, str]:
        """Where the servers are."""
        return {"REDIS_URL": self.valkey.url, "DATABASE_URL": self.postgres.url}

    @property
    def upstreams(self) -> dict[str, str]:
        """The owner's keys, and the fakes in the providers' places."""
        return {
            "ANTHROPIC_API_KEY": ANTHROPIC_KEY,
            "ANTHROPIC_BASE_URL": self.anthropic.base_url,
            "ZAI_API_KEY": ZAI_KEY,
            "ZAI_BASE_URL": self.zai.base_url,
        }

    def command(self, *arguments: str, expected: int = 0) -> str:
        """A command to its end, which has to be this one: what it prints."""
        home = self.folder / arguments[0]
        status, said = run(*arguments, home=home, variables=self.addresses, program=self.program)
        assert status == expected, said
        return said

    def redis(self) -> Redis:
        """A client for the test itself."""
        return Redis.from_url(self.valkey.url, decode_responses=False, socket_timeout=5, legacy_responses=False)

    def start_worker(self) -> Command:
        """A worker, once it listens."""
        home = self.folder / f"worker-{self._number()}"
        self.worker = Command("worker", home=home, variables=self.addresses, program=self.program)
        worker = self.worker
        worker.wait_until(lambda: "worker.ready" in worker.text)
        return worker

    def launch(self, variables: Mapping[str, str] | None = None, *, home: Path | None = None) -> Proxy:
        """A proxy process that may not serve yet; `variables` come over the usual ones, "" unsets one."""
        home = home or self.folder / f"proxy-{self._number()}"
        environ = self.addresses | self.upstreams | PATIENT | dict(variables or {})
        proxy = Proxy(home=home, variables=environ, program=self.program)
        self._proxies.append(proxy)
        return proxy

    def start_proxy(self, variables: Mapping[str, str] | None = None, *, home: Path | None = None) -> Proxy:
        """A proxy that serves."""
        return self.launch(variables, home=home).ready()

    def start_proxy_without_ledger(self, *, home: Path) -> Proxy:
        """A proxy that serves though Redis is away."""
        return self.launch(home=home).ready("/livez")

    def own_routes(self, *routes: tuple[str, str, str]) -> dict[str, str]:
        """Variables of a proxy with routes of its own: (id, provider, key), so that nobody else shares their state."""
        addresses = {"anthropic": self.anthropic.base_url, "zai": self.zai.base_url}
        tables = [
            ROUTE.format(id=name, provider=provider, base_url=addresses[provider], api_key=key)
            for name, provider, key in routes
        ]
        path = self.folder / f"routes-{self._number()}.toml"
        path.write_text("\n".join(tables), encoding="utf-8")
        return {"CCPROXY_CONFIG": str(path)}

    def empty_valkey(self) -> None:
        """Lose all that the stopped Valkey has."""
        assert not self.valkey.alive
        shutil.rmtree(self.valkey.data)

    def mend(self) -> None:
        """Start what a failed test has left down."""
        for server in (self.postgres, self.valkey):
            if not server.alive:
                server.start()
        if self.worker is None or not self.worker.alive:
            self.start_worker()

    def fresh(self) -> Self:
        """The installation with fakes that have forgotten the last test; and everything up."""
        self.mend()
        for fake in (self.anthropic, self.zai):
            fake.reset()
        self.anthropic.keys, self.zai.keys = {ANTHROPIC_KEY}, {ZAI_KEY}
        return self

    def end_since(self, first: int) -> None:
        """End the proxies from this one on."""
        for proxy in self._proxies[first:]:
            proxy.stop()

    @property
    def proxy_count(self) -> int:
        """How many proxies were started."""
        return len(self._proxies)

    def _number(self) -> int:
        self._count += 1
        return self._count

    def _stop_processes(self) -> None:
        for process in (*self._proxies, self.worker):
            if process is not None and process.alive:
                process.kill()
