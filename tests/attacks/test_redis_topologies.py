"""Who is told Redis's password: behind Sentinels, in a Cluster, over TLS. Fakes say what a hostile one would."""

import asyncio
import gc
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from service.app import open_redis
from tests.attacks.raw import leave
from tests.support.served import served

PASSWORD, SENTINELS_PASSWORD = "primary-password-marked", "sentinels-password-marked"
NEW_CERTIFICATE = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
HELLO = b"%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n"
Answers = Callable[[Sequence[bytes]], bytes]


pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def no_node_is_left() -> Iterator[None]:
    """redis-py leaves nodes of a Cluster unclosed that it could not use; they must not fail a later test."""
    yield
    gc.collect()


class Node:
    """A server that speaks Redis's protocol, as far as a test needs, and notes each word it was sent."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.connections = 0
        self.words: list[bytes] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        try:
            while line := await reader.readline():
                command = [await self._word(reader) for _ in range(int(line[1:]))]
                self.words += command
                writer.write(HELLO if command[0] == b"HELLO" else self.answers(command))
                await writer.drain()
        except (OSError, ValueError, asyncio.IncompleteReadError):
            pass
        finally:
            await leave(writer)

    async def _word(self, reader: asyncio.StreamReader) -> bytes:
        size = int((await reader.readline())[1:])
        return (await reader.readexactly(size + 2))[:-2]


@asynccontextmanager
async def node(answers: Answers = lambda _: b"+OK\r\n", tls: ssl.SSLContext | None = None) -> AsyncIterator[Node]:
    """A node on the loopback."""
    made = Node(answers)
    async with served(made.serve, ssl=tls) as made.port:
        yield made


def bulk(*words: str) -> bytes:
    """A list of words."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word.encode()) for word in words)


def naming(port: Callable[[], int]) -> Answers:
    """A Sentinel that names the node at this port as the primary."""

    def answers(command: Sequence[bytes]) -> bytes:
        if command[:2] != [b"SENTINEL", b"MASTERS"]:
            return b"+OK\r\n"
        known = ("name", "main", "ip", "127.0.0.1", "port", str(port()), "flags", "master", "num-slaves", "0",
                 "num-other-sentinels", "0", "quorum", "1")  # fmt: skip
        return b"*1\r\n%%%d\r\n" % (len(known) // 2) + bulk(*known).partition(b"\r\n")[2]

    return answers


async def asked(url: str) -> object:
    """What comes of one command: an answer, or an error of Redis's."""
    redis = open_redis(url)
    try:
        async with asyncio.timeout(10):
            return await redis.get("ccproxy:x")
    except (RedisError, OSError) as error:
        return error
    finally:
        await redis.aclose()


# -- Sentinel


async def test_each_password_goes_to_those_that_it_is_for() -> None:
    """Sentinels never hear the primary's, nor the other way round."""
    async with node(lambda _: b"$1\r\nv\r\n") as primary, node(naming(lambda: primary.port)) as sentinel:
        url = f"redis+sentinel://:{PASSWORD}@127.0.0.1:{sentinel.port}/main/0?sentinel_password={SENTINELS_PASSWORD}"
        assert await asked(url) == b"v"
    assert PASSWORD.encode() in primary.words
    assert SENTINELS_PASSWORD.encode() in sentinel.words
    assert PASSWORD.encode() not in sentinel.words
    assert SENTINELS_PASSWORD.encode() not in primary.words


@pytest.mark.parametrize(
    "said",
    [b"+OK\r\n", b"*1\r\n*0\r\n", b"*1\r\n+x\r\n", b":1\r\n", b"*1\r\n" + bulk("name", "main"), b"*-1\r\n", b"$abc\r\n",
     b"*1\r\n" + bulk("name", "main", "ip", "127.0.0.1", "port", "abc", "flags", "master", "num-other-sentinels", "x")],
)  # fmt: skip
async def test_a_sentinel_that_says_anything_is_redis_away(said: bytes) -> None:
    """No error of another kind, no password in it."""
    async with node(lambda _: said) as sentinel:
        url = f"redis+sentinel://:{PASSWORD}@127.0.0.1:{sentinel.port}/main/0?sentinel_password={SENTINELS_PASSWORD}"
        error = await asked(url)
    assert isinstance(error, (RedisError, OSError))
    assert PASSWORD not in repr(error)
    assert SENTINELS_PASSWORD not in repr(error)


# -- TLS


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates for this address, and for another name; `both.pem` trusts both."""
    folder = tmp_path_factory.mktemp("certificates")
    openssl = shutil.which("openssl")
    assert openssl, "openssl is missing; install it with: apt-get install openssl"
    for name, alternative in (("here", "IP:127.0.0.1"), ("other", "DNS:other.test"), ("stranger", "IP:127.0.0.1")):
        files = ["-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem")]
        whose = ["-subj", f"/CN={name}", "-addext", f"subjectAltName={alternative}"]
        subprocess.run([openssl, *NEW_CERTIFICATE, *whose, *files], check=True, capture_output=True, timeout=60)
    (folder / "both.pem").write_text((folder / "here.pem").read_text() + (folder / "other.pem").read_text())
    return folder


def server_tls(folder: Path, name: str) -> ssl.SSLContext:
    """A server that shows this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    return context


@pytest.mark.parametrize("scheme", ["rediss", "rediss+cluster", "rediss+sentinel"])
@pytest.mark.parametrize("shown", ["other", "stranger"])
async def test_a_server_with_another_certificate_hears_no_password(certificates: Path, scheme: str, shown: str) -> None:
    """One for another name, or of nobody that is trusted."""
    path = "/main/0" if "sentinel" in scheme else ""
    async with node(tls=server_tls(certificates, shown)) as thief:
        url = f"{scheme}://:{PASSWORD}@127.0.0.1:{thief.port}{path}?ssl_ca_certs={certificates / 'both.pem'}"
        assert isinstance(await asked(url), (RedisError, OSError))
    assert thief.words == []


async def test_over_tls_a_hostile_sentinel_gives_the_password_to_nobody(certificates: Path) -> None:
    """The primary that it names has to show a certificate; the right one is served."""
    trusted = certificates / "both.pem"
    async with (
        node(lambda _: b"$1\r\nv\r\n", server_tls(certificates, "here")) as primary,
        node(tls=server_tls(certificates, "stranger")) as thief,
        node(naming(lambda: primary.port), server_tls(certificates, "here")) as sentinel,
        node(naming(lambda: thief.port), server_tls(certificates, "here")) as hostile,
    ):
        template = f"rediss+sentinel://:{PASSWORD}@127.0.0.1:%d/main/0?ssl_ca_certs={trusted}"
        assert await asked(template % sentinel.port) == b"v"
        assert isinstance(await asked(template % hostile.port), (RedisError, OSError))
        assert b"MASTERS" in hostile.words
        assert thief.words == []


def cluster_of(port: Callable[[], int], moved: Callable[[], int]) -> Answers:
    """A node of a Cluster that says that all keys lie on another one."""

    def answers(command: Sequence[bytes]) -> bytes:
        if command[:2] == [b"CLUSTER", b"SLOTS"]:
            return b"*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n$9\r\n127.0.0.1\r\n:%d\r\n$1\r\na\r\n" % port()
        if command[0] == b"COMMAND":
            return b"*1\r\n*6\r\n$3\r\nget\r\n:2\r\n*0\r\n:1\r\n:1\r\n:1\r\n"
        if command[0] == b"GET":
            return b"-MOVED 1 127.0.0.1:%d\r\n" % moved()
        return b"+OK\r\n"

    return answers


async def test_over_tls_a_hostile_node_gives_the_password_to_nobody(certificates: Path) -> None:
    """MOVED leads to a server that shows no certificate."""
    async with node(tls=server_tls(certificates, "stranger")) as thief:
        made: list[Node] = []
        answers = cluster_of(lambda: made[0].port, lambda: thief.port)
        async with node(answers, server_tls(certificates, "here")) as hostile:
            made.append(hostile)
            url = f"rediss+cluster://:{PASSWORD}@127.0.0.1:{hostile.port}?ssl_ca_certs={certificates / 'both.pem'}"
            error = await asked(url)
        assert isinstance(error, (RedisError, OSError))
        assert PASSWORD not in repr(error)
        assert b"GET" in hostile.words
        assert thief.words == []
