"""A team's installation: three proxies behind HAProxy, two workers, Redis 7 and Postgres."""

from contextlib import ExitStack
from pathlib import Path
from typing import Self

from tests.support.installation import Installation, Proxy
from tests.support.ledger_reader import LedgerReader
from tests.support.ports import free_port
from tests.support.processes import Command, run
from tests.support.servers import Balancer, Redis7
from tests.support.waiting import eventually

TERMS = {
    # The balancer needs two failed checks, 0.1 s apart, and half of the machine's time may belong to others.
    "DRAIN_DELAY": "1500ms",
    "DRAIN_TIMEOUT": "60s",
    "TRUSTED_PROXIES": "127.0.0.1",
    "LOG_LEVEL": "info",
}


class Fleet:
    """Its proxies and workers can be restarted and killed by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.installation = Installation(folder / "installation")
        self.installation.valkey = Redis7(folder / "redis")
        self.ledger = LedgerReader(self.installation)
        self.ports = {f"proxy{number}": free_port() for number in (1, 2, 3)}
        self.balancer = Balancer(folder, self.ports)
        self.proxies: dict[str, Proxy] = {}
        self.workers: dict[str, Command] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.installation)
            assert self.installation.worker is not None
            self.workers = {"worker1": self.installation.worker, "worker2": self.installation.start_worker()}
            stack.callback(self._end_workers)
            for name in self.ports:
                self.start(name, wait=False)
            for proxy in self.proxies.values():
                proxy.ready()
            stack.enter_context(self.balancer)
            self.wait_for_all()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self, name: str, *, wait: bool = True) -> None:
        """A proxy at its address; the third one is two processes."""
        variables = TERMS | {"PROXY_PORT": str(self.ports[name]), "PROXY_WORKERS": "2" if name == "proxy3" else "1"}
        proxy = self.proxies[name] = self.installation.launch(variables, home=self.folder / name)
        proxy.port = self.ports[name]
        if wait:
            proxy.ready()

    def restart(self, name: str) -> None:
        """End a proxy in order and start it again; once the balancer knows."""
        self.proxies[name].process.terminate()
        assert self.proxies[name].wait() == 0, self.proxies[name].text
        self.start(name)
        self.wait_for_all()

    def restart_worker(self, name: str) -> None:
        """End a worker in order, and start it again."""
        self.workers[name].stop()
        self.workers[name] = self.installation.start_worker()

    def wait_for_all(self) -> None:
        """Until the balancer sends requests to every proxy."""
        eventually(lambda: self.balancer.up() == set(self.ports))

    def verify(self) -> str:
        """What `ledger verify` says; it must find nothing."""
        status, said = run("ledger", "verify", home=self.folder / "verify", variables=self.installation.addresses)
        assert status == 0, said
        return said

    def _end_workers(self) -> None:
        for worker in self.workers.values():
            worker.stop()
