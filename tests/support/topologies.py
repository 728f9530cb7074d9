"""Redis as others run it, by real servers on the loopback: a Cluster of three, a primary with a Sentinel, TLS."""

import subprocess
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, Self

from redis import Redis, RedisError

from service.embedded.managed_process import ManagedProcess
from tests.support.ports import free_port
from tests.support.servers import program
from tests.support.waiting import eventually

PASSWORD = "topology-password"
SLOTS = 16_384
STOP_S = 5.0


class Node:
    """A redis-server, or a Sentinel, with these lines of configuration."""

    def __init__(self, folder: Path, lines: Sequence[str], *, sentinel: bool = False, tls: bool = False) -> None:
        self.port = free_port()
        self._folder = folder / f"{'sentinel' if sentinel else 'redis'}-{self.port}"
        self._folder.mkdir(parents=True)
        port = [f"port 0\ntls-port {self.port}"] if tls else [f"port {self.port}"]
        self.file = self._folder / "redis.conf"
        self.file.write_text("\n".join([*port, "bind 127.0.0.1", f"dir {self._folder}", 'save ""', *lines]) + "\n")
        self._options = ["--sentinel"] if sentinel else []
        self._tls = tls
        self.process: ManagedProcess | None = None

    def start(self) -> Self:
        """Run it."""
        with (self._folder / "log").open("ab") as output:
            program_ = program("redis-server", "redis-server")
            self.process = ManagedProcess([program_, self.file, *self._options], output=output.fileno())
        return self

    def client(self, **options: Any) -> Redis:
        """A plain client for the test."""
        return Redis(
            host="127.0.0.1", port=self.port, password=PASSWORD, socket_timeout=5, legacy_responses=False, **options
        )

    def answers(self, **options: Any) -> bool:
        """Whether it is there."""
        with suppress(RedisError, OSError), self.client(**options) as client:
            return bool(client.ping())
        return False

    def kill(self) -> None:
        """As a crash would."""
        assert self.process is not None
        self.process.kill()

    def stop(self) -> None:
        """In order."""
        if self.process is not None:
            self.process.stop(STOP_S)


class Topology:
    """Nodes that are started and ended together."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for node in self.nodes:
                stack.callback(node.stop)
            self._start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        for node in self.nodes:
            node.start()
        for node in self.nodes:
            eventually(node.answers)


class Cluster(Topology):
    """Three primaries, a third of the slots each."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        lines = ["cluster-enabled yes", "cluster-node-timeout 1000", f"requirepass {PASSWORD}", "appendonly yes"]
        self._buses = [free_port() for _ in range(3)]
        self.nodes = [Node(folder, [*lines, f"cluster-port {bus}"]) for bus in self._buses]

    @property
    def url(self) -> str:
        """How it is named in REDIS_URL; the last node is found out."""
        places = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:2])
        return f"redis+cluster://:{PASSWORD}@{places}"

    def _start(self) -> None:
        super()._start()
        bounds = [SLOTS * number // 3 for number in range(4)]
        for number, node in enumerate(self.nodes):
            with node.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
                for other, bus in zip(self.nodes, self._buses, strict=True):
                    client.execute_command("CLUSTER", "MEET", "127.0.0.1", other.port, bus)
        for node in self.nodes:
            with node.client() as client:
                eventually(partial(is_whole, client))


def is_whole(client: Redis) -> bool:
    """Whether a node knows all others, and who has which slots."""
    info: Any = client.cluster("INFO")
    return bool(info["cluster_state"] == "ok" and info["cluster_known_nodes"] == "3")


class Sentinel(Topology):
    """A primary, its replica, and one Sentinel that decides alone."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        lines = [f"requirepass {PASSWORD}", f"masterauth {PASSWORD}", "appendonly yes", "repl-diskless-sync-delay 0"]
        primary = Node(folder, lines)
        replica = Node(folder, [*lines, f"replicaof 127.0.0.1 {primary.port}"])
        sentinel = Node(
            folder,
            [
                f"requirepass {PASSWORD}",
                f"sentinel monitor installation 127.0.0.1 {primary.port} 1",
                f"sentinel auth-pass installation {PASSWORD}",
                "sentinel down-after-milliseconds installation 500",
                "sentinel failover-timeout installation 2000",
            ],
            sentinel=True,
        )
        self.nodes = [primary, replica, sentinel]

    @property
    def url(self) -> str:
        """How it is named in REDIS_URL; the first Sentinel is not there."""
        places = f"127.0.0.1:{free_port()},127.0.0.1:{self.nodes[2].port}"
        return f"redis+sentinel://:{PASSWORD}@{places}/installation/0?sentinel_password={PASSWORD}"

    def _start(self) -> None:
        """The Sentinel last: it asks the primary for its replicas at once, and then each ten seconds."""
        primary, replica, sentinel = self.nodes
        primary.start()
        replica.start()
        eventually(lambda: replica.answers() and is_synced(replica))
        sentinel.start()
        eventually(lambda: sentinel.answers() and knows_replica(sentinel))


def is_synced(replica: Node) -> bool:
    """Whether it has all that the primary has."""
    with replica.client() as client:
        return bool(client.info("replication")["master_link_status"] == "up")


def knows_replica(sentinel: Node) -> bool:
    """Whether there is somebody to fail over to."""
    with sentinel.client() as client:
        return bool(client.execute_command("SENTINEL", "REPLICAS", "installation"))


class Secured(Topology):
    """One server that speaks TLS alone, with a certificate of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.certificate, key = folder / "redis.crt", folder / "redis.key"
        subject = ["-subj", "/CN=redis", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "1"]
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), *subject]
        subprocess.run([*command, "-out", str(self.certificate)], check=True, capture_output=True)
        lines = [f"tls-cert-file {self.certificate}", f"tls-key-file {key}", "tls-auth-clients no"]
        self.nodes = [Node(folder, [*lines, f"requirepass {PASSWORD}"], tls=True)]

    @property
    def url(self) -> str:
        """How it is named in REDIS_URL."""
        return f"rediss://:{PASSWORD}@{self.place}/0?ssl_ca_certs={self.certificate}"

    @property
    def place(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.nodes[0].port}"

    def _start(self) -> None:
        self.nodes[0].start()
        eventually(lambda: self.nodes[0].answers(ssl=True, ssl_ca_certs=str(self.certificate)))
