"""An example of the chart, started for real: the processes of its pods, a Redis and a Postgres that speak TLS alone."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import ssl
import struct
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Self

import psycopg
import pytest

from tests.deploy.chart import Case, Container, placed, secret, started, texts_in
from tests.deploy.chart_cases import EXAMPLES
from tests.fakes import FakeProvider
from tests.support.installation import ANTHROPIC_KEY, Proxy
from tests.support.messages import ask, client_of
from tests.support.ports import free_port
from tests.support.processes import Command, environment
from tests.support.served import until_accepted
from tests.support.topologies import PASSWORD, Secured
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from service.embedded.postgres import Postgres

OF_THE_IMAGE = ("HOME", "PATH", "PROXY_PORT")
"""Variables of pods that stay out here: programs are elsewhere, and the port is another test's."""


SSL_REQUEST = struct.pack("!ii", 8, 80877103)
"""What a client of Postgres sends first if it wants TLS."""


class TlsFront:
    """TLS in front of the packaged Postgres, which has none; plain connections are closed."""

    def __init__(self, folder: Path, target: int) -> None:
        self.port = free_port()
        self.certificate, key = folder / "postgres.crt", folder / "postgres.key"
        subject = ["-subj", "/CN=postgres", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "1"]
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), *subject]
        subprocess.run([*command, "-out", str(self.certificate)], check=True, capture_output=True, timeout=60)
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(self.certificate, key)
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="tls", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        serving = asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self._server = asyncio.run_coroutine_threadsafe(serving, self._loop).result(timeout=20)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(timeout=20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=20)
        self._loop.close()

    async def _end(self) -> None:
        await until_accepted()
        self._server.close()
        connections = asyncio.all_tasks() - {asyncio.current_task()}
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(OSError, asyncio.IncompleteReadError):
            if await reader.readexactly(len(SSL_REQUEST)) != SSL_REQUEST:
                return
            writer.write(b"S")
            await writer.start_tls(self._context)
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._target)
            with closing(to_server):
                ways = [asyncio.create_task(copy(reader, to_server)), asyncio.create_task(copy(from_server, writer))]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes, until nothing does."""
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()


def variables(container: Container, folder: Path) -> dict[str, str]:
    """What a process of a container gets here."""
    return {name: value for name, value in placed(container, folder).items() if name not in OF_THE_IMAGE}


def migrate(case: Case, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the script of the migration's pod."""
    container = started(case, "migrate")
    environ = environment(folder, variables(container, folder))
    environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(container.command, env=environ, capture_output=True, text=True, check=False, timeout=90)


def example_with(redis: Secured, database: str, front: TlsFront, provider: FakeProvider) -> Case:
    """The example, with the addresses of these servers in its Secrets."""
    example = EXAMPLES["small-team"]
    (texts,) = (texts_in(one) for one in example.existing if one["metadata"]["name"] == "ccproxy-settings")
    own = re.sub(r":\d+/", f":{front.port}/", database.partition("://")[2])
    texts["REDIS_URL"] = texts["REDIS_URL"].replace("PASSWORD@redis.example.com:6380", f"{PASSWORD}@{redis.place}")
    placeholder = "USER:PASSWORD@postgres.example.com/claude_proxy"
    assert placeholder in texts["DATABASE_URL"]
    texts["DATABASE_URL"] = texts["DATABASE_URL"].replace(placeholder, own)
    texts["ANTHROPIC_API_KEY"] = ANTHROPIC_KEY
    settings = example.values["settings"] | {"ANTHROPIC_BASE_URL": provider.base_url}
    certificates = {"redis.crt": redis.certificate.read_text(), "postgres.crt": front.certificate.read_text()}
    return Case(
        example.values | {"settings": settings, "drain": {"delaySeconds": 0}},
        (secret("ccproxy-settings", **texts), secret("server-cas", **certificates)),
    )


@pytest.mark.skipif(not shutil.which("openssl"), reason="it makes certificates by openssl")
def test_the_example_of_a_team_serves(tmp_path: Path, postgres: Postgres) -> None:
    """From the migration's key to an answer that is on the ledger; with another CA not even the first step works."""
    with (
        Secured(tmp_path) as redis,
        TlsFront(tmp_path, postgres.port) as front,
        FakeProvider("anthropic", keys={ANTHROPIC_KEY}) as anthropic,
    ):
        case = example_with(redis, postgres.url, front, anthropic)
        refused = migrate(swapped(case), tmp_path / "refused")
        assert refused.returncode != 0
        assert "certificate verify failed" in refused.stderr
        done = migrate(case, tmp_path / "migrate")
        assert done.returncode == 0, done.stderr
        key = re.search(r"ANTHROPIC_AUTH_TOKEN=(\S+)$", done.stdout, re.MULTILINE)
        assert key
        pods = {name: variables(started(case, name), tmp_path / name) for name in ("proxy", "worker")}
        with (
            Command("worker", home=tmp_path / "worker", variables=pods["worker"]),
            Proxy(home=tmp_path / "proxy", variables=pods["proxy"]) as proxy,
        ):
            proxy.ready()
            with client_of(proxy.url) as client:
                assert ask(client, headers={"x-api-key": key[1]}).status_code == 200
                assert ask(client).status_code == 401
            with psycopg.connect(postgres.url, autocommit=True) as connection:
                eventually(lambda: connection.execute("SELECT count(*) FROM ccproxy.events").fetchone() == (2,))


def swapped(case: Case) -> Case:
    """A case whose two CAs are each the other's."""
    settings, certificates = case.existing
    texts = texts_in(certificates)
    other = {"redis.crt": texts["postgres.crt"], "postgres.crt": texts["redis.crt"]}
    return case._replace(existing=(settings, secret("server-cas", **other)))
