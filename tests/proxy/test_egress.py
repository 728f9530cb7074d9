"""One reading of the environment for all that goes out: proxies, SOCKS too, and certificates."""

import asyncio
import shutil
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from service.egress import UnusableProxy, egress_mistakes, proxy_for, tls_context
from service.http1.upstream import UpstreamClient
from service.oauth.token_endpoint import TokenEndpoint, TryLater
from service.settings import OAuth, Timeouts, load
from tests.fakes.provider import FakeProvider
from tests.support.served import served

PROVIDER = "http://provider.invalid"
NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine has is not what is tried."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@asynccontextmanager
async def socks_proxy(port: int) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A SOCKS 5 proxy that connects everybody to one port, and notes the names it was asked for."""
    asked: list[bytes] = []
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        methods = (await reader.readexactly(2))[1]
        await reader.readexactly(methods)
        writer.write(b"\x05\x00")
        head = await reader.readexactly(5)
        asked.append(await reader.readexactly(head[4]))
        await reader.readexactly(2)
        writer.write(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))
        ended.set()

    async with served(serve) as at_port:
        yield at_port, asked
        await asyncio.wait_for(ended.wait(), 10)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes, to its end."""
    with suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "socks"])
async def test_requests_go_through_a_socks_proxy(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """It is told the provider's name: this machine may not resolve it."""
    with FakeProvider("anthropic") as fake:
        async with socks_proxy(int(fake.base_url.rpartition(":")[2])) as (port, asked):
            monkeypatch.setenv("ALL_PROXY", f"{scheme}://127.0.0.1:{port}")
            client = UpstreamClient(Timeouts())
            response = await client.open("GET", PROVIDER, b"/v1/models", [(b"host", b"x")], b"")
            await response.close()
            await client.close()
    assert asked == [b"provider.invalid"]


async def test_a_check_goes_out_by_the_same_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider is reached through SOCKS, and gets no request."""
    with FakeProvider("anthropic") as fake:
        async with socks_proxy(int(fake.base_url.rpartition(":")[2])) as (port, asked):
            monkeypatch.setenv("ALL_PROXY", f"socks5://127.0.0.1:{port}")
            client = UpstreamClient(Timeouts())
            await client.reach(PROVIDER)
            await client.close()
        assert fake.requests == []
    assert asked == [b"provider.invalid"]


async def test_the_token_is_refreshed_through_the_same_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """An HTTP proxy beside a SOCKS proxy is the one for both."""
    asked: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readline()).split()[1])
        writer.write(b"HTTP/1.1 503 Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        writer.close()

    async with served(refuse) as port:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
        endpoint = TokenEndpoint(OAuth(refresh_url=f"{PROVIDER}/token"))
        with pytest.raises(TryLater, match="status 503"):
            await endpoint.refresh("refresh-token", 0)
        client = UpstreamClient(Timeouts())
        response = await client.open("GET", PROVIDER, b"/v1/models", [(b"host", b"x")], b"")
        await response.close()
        await client.close()
    assert asked == [f"{PROVIDER}/token".encode(), f"{PROVIDER}/v1/models".encode()]


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("ALL_PROXY", "socks4://hunter2:hunter2@127.0.0.1:9", "ALL_PROXY has a proxy of an unsupported kind"),
        ("all_proxy", "ftp://127.0.0.1", "all_proxy has a proxy of an unsupported kind"),
        ("HTTP_PROXY", "http://hunter2:hun/ter2@proxy", "HTTP_PROXY is not the URL of a proxy"),
        ("http_proxy", "http://", "http_proxy is not the URL of a proxy"),
    ],
)
async def test_a_proxy_that_cannot_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: str
) -> None:
    """The variable that has it, in its own spelling; at start, in a request's error, and as a reason of no token."""
    monkeypatch.setenv(variable, value)
    settings = load(environ={"ANTHROPIC_API_KEY": "k", "ANTHROPIC_BASE_URL": PROVIDER})
    [mistake] = egress_mistakes(settings.outward_urls)
    with pytest.raises(UnusableProxy) as error:
        proxy_for(PROVIDER)
    with pytest.raises(TryLater) as late:
        await TokenEndpoint(OAuth(refresh_url=PROVIDER)).refresh("refresh-token", 0)
    assert mistake == str(error.value)
    assert mistake.startswith(words)
    assert mistake in str(late.value)
    assert "hunter2" not in mistake


def test_routes_that_are_off_need_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the client's own route and what is on, each mistake is told once."""
    monkeypatch.setenv("ALL_PROXY", "socks4://127.0.0.1:9")
    assert len(egress_mistakes(load(environ={}).outward_urls)) == 1
    assert egress_mistakes(()) == ()


@pytest.fixture(scope="module")
def lax_authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A company's authority without a key usage, which Python 3.13's contexts refuse, and a server's certificate."""
    folder = tmp_path_factory.mktemp("authority")
    openssl = shutil.which("openssl")
    assert openssl, "openssl is missing; install it with: apt-get install openssl"
    (folder / "ca.cnf").write_text(
        "[req]\ndistinguished_name=dn\nx509_extensions=ext\nprompt=no\n[dn]\nCN=Company\n[ext]\nbasicConstraints=CA:TRUE\n"
    )
    (folder / "leaf.ext").write_text("subjectAltName=IP:127.0.0.1\n")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for command in (
        ("req", "-x509", *curve, "-days", "2", "-config", "ca.cnf", "-keyout", "ca.key", "-out", "ca.pem"),
        ("req", *curve, "-subj", "/CN=127.0.0.1", "-keyout", "leaf.key", "-out", "leaf.csr"),
        ("x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
         "-extfile", "leaf.ext", "-out", "leaf.pem"),
    ):  # fmt: skip
        subprocess.run([openssl, *command], cwd=folder, check=True, capture_output=True, timeout=60)
    return folder


def test_a_companys_authority_is_trusted_on_every_python(lax_authority: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extensions that newer versions ask for."""
    monkeypatch.setenv("SSL_CERT_FILE", str(lax_authority / "ca.pem"))
    context = tls_context()
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(lax_authority / "leaf.pem", lax_authority / "leaf.key")
    assert shaken_hands(context, server) == "127.0.0.1"
    if sys.version_info >= (3, 13):
        with pytest.raises(ssl.SSLCertVerificationError):
            shaken_hands(ssl.create_default_context(cafile=str(lax_authority / "ca.pem")), server)


def shaken_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> str:
    """Do a handshake in memory; return the name that the client verified."""
    near, far = ssl.MemoryBIO(), ssl.MemoryBIO()
    left = client.wrap_bio(far, near, server_hostname="127.0.0.1")
    right = server.wrap_bio(near, far, server_side=True)
    done = {left: False, right: False}
    for _ in range(10):
        for side in (left, right):
            try:
                side.do_handshake()
                done[side] = True
            except ssl.SSLWantReadError:
                continue
        if all(done.values()):
            return str(left.server_hostname)
    raise TimeoutError("no handshake")


def test_the_certificates_of_requests_and_refreshes_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that can't be read is an error with its name in both."""
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent/ca.pem")
    with pytest.raises(OSError, match=r"."):
        tls_context()
    with pytest.raises(TryLater):
        asyncio.run(TokenEndpoint(OAuth(refresh_url="https://127.0.0.1:9")).refresh("refresh-token", 0))
