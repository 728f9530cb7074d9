"""The wire: what each broken connection is called, which proxy is taken, whose certificates are trusted."""

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.request import getproxies

import pytest

from service import egress
from service.egress import proxy_for
from service.http1 import upstream as transport
from service.http1.upstream import UpstreamClient, UpstreamError, UpstreamResponse
from service.settings import Timeouts
from tests.fakes import FakeProvider, closed_port, reply
from tests.support.proxies import STREAM_BYTES
from tests.support.served import served

HEADERS = [(b"x-api-key", b"k"), (b"anthropic-version", b"2023-06-01"), (b"content-type", b"application/json")]
LOCALHOST = "/CN=localhost"


@pytest.fixture
def fake() -> Iterator[FakeProvider]:
    with FakeProvider("anthropic") as made:
        yield made


@pytest.fixture(params=["lean", "httpx"])
async def wires(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> AsyncIterator[UpstreamClient]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    made = UpstreamClient(Timeouts(connect_ms=2_000, idle_ms=200), kind=request.param)
    yield made
    await made.close()


async def ask(wires: UpstreamClient, url: str, target: bytes = b"/v1/messages") -> UpstreamResponse:
    """A request for a stream."""
    return await wires.open("POST", url, target, HEADERS, STREAM_BYTES)


async def failure(wires: UpstreamClient, url: str) -> UpstreamError:
    """How a request fails, before its head or behind it."""
    with pytest.raises(UpstreamError) as raised:
        await ask_and_read(wires, url)
    return raised.value


async def ask_and_read(wires: UpstreamClient, url: str) -> None:
    """A request whose answer is read to its end."""
    upstream = await ask(wires, url)
    try:
        await upstream.read(1 << 20)
    finally:
        await upstream.close()


async def test_a_refused_connection_is_no_connection(wires: UpstreamClient) -> None:
    """Refused: `connect`."""
    with closed_port() as port:
        assert (await failure(wires, f"http://127.0.0.1:{port}")).kind == "connect"


async def test_an_unknown_host_is_no_connection(wires: UpstreamClient) -> None:
    """No such host: `connect`."""
    assert (await failure(wires, "http://no-such-host.invalid")).kind == "connect"


async def test_a_failing_handshake_is_no_connection(wires: UpstreamClient, fake: FakeProvider) -> None:
    """TLS that fails: `connect`."""
    assert (await failure(wires, fake.failing_tls_url)).kind == "connect"


@pytest.mark.parametrize("when", ["request", "headers", "content_block_delta"])
@pytest.mark.parametrize("how", ["reset", "fin"])
async def test_a_broken_connection_is_a_reset(wires: UpstreamClient, fake: FakeProvider, how: str, when: str) -> None:
    """Broken before the head or behind it, on a fresh connection: `reset`."""
    fake.script(reply.message().cut(how, when))  # type: ignore[arg-type]
    assert (await failure(wires, fake.base_url)).kind == "reset"


async def test_a_reused_connection_that_breaks_at_once_was_stale(wires: UpstreamClient, fake: FakeProvider) -> None:
    """Broken before the head, on a connection that has served before: `stale_socket`; behind the head: `reset`."""
    for when, kind in (("request", "stale_socket"), ("headers", "reset")):
        upstream = await ask(wires, fake.base_url)
        await upstream.read(1 << 20)
        await upstream.close()
        fake.script(reply.reset(when))  # type: ignore[arg-type]
        assert (await failure(wires, fake.base_url)).kind == kind
    assert len({request.connection for request in fake.requests}) == 2


async def test_silence_in_an_answer_is_a_time_out(wires: UpstreamClient, fake: FakeProvider) -> None:
    """Silent for longer than the idle limit, once the head has come: `timeout`; before it the plan counts."""
    fake.script(reply.hang("message_start"))
    assert (await failure(wires, fake.base_url)).kind == "timeout"
    fake.script(reply.slow(400))
    upstream = await ask(wires, fake.base_url)
    assert b"message_stop" in await upstream.read(1 << 20)
    await upstream.close()


async def test_an_answer_over_the_limit_is_a_bad_answer(wires: UpstreamClient, fake: FakeProvider) -> None:
    """More than is read whole: `bad_answer`, and the connection is dropped."""
    fake.script(reply.large(1_000_000))
    upstream = await ask(wires, fake.base_url)
    with pytest.raises(UpstreamError) as raised:
        await upstream.read(1_000)
    assert raised.value.kind == "bad_answer"
    await upstream.close()
    await fake.wait_until_async(lambda: fake.requests[0].client_closed_s is not None)


async def test_bytes_that_are_not_their_encoding_are_a_bad_answer(wires: UpstreamClient, fake: FakeProvider) -> None:
    """What says gzip and is not: `bad_answer`."""
    fake.script(reply.raw(b"plain", content_type="text/event-stream").with_headers({"content-encoding": "gzip"}))
    upstream = await ask(wires, fake.base_url)
    upstream.decode()
    with pytest.raises(UpstreamError) as raised:
        await upstream.read(1_000)
    assert raised.value.kind == "bad_answer"
    await upstream.close()


async def test_a_header_that_no_wire_takes_is_not_quoted(wires: UpstreamClient, fake: FakeProvider) -> None:
    """The transport's own words would quote the value, which may be a credential."""
    await ask_and_read(wires, fake.base_url)
    with pytest.raises(UpstreamError) as raised:
        await wires.open("POST", fake.base_url, b"/v1/messages", [(b"x-api-key", b"sk-ant\nsecret")], b"")
    assert raised.value.kind == "bad_request"
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "target",
    [
        b"/v1/x?" + b"a" * 70_000,
        b"",
        b"v1/x",
        b"@127.0.0.1/v1",
        b"http://h/v1",
        b"/v1/x#y",
        b"/v1/x y",
        b"/v1/\xc3\xa9",
    ],
)
async def test_a_target_that_is_none_is_a_bad_request(wires: UpstreamClient, fake: FakeProvider, target: bytes) -> None:
    """Too long, not in origin form, or with what ends a line: `bad_request`, and nothing is sent."""
    with pytest.raises(UpstreamError) as raised:
        await ask(wires, fake.base_url, target)
    assert raised.value.kind == "bad_request"
    assert fake.requests == []


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "OPTIONS", "PROPFIND", "get", "", "GET / HTTP/1.1\r\nx: y"])
async def test_a_method_that_is_not_listed_is_never_sent(
    wires: UpstreamClient, fake: FakeProvider, method: str
) -> None:
    """An echoed TRACE would show the owner's key; after a CONNECT the connection is a tunnel."""
    with pytest.raises(UpstreamError) as raised:
        await wires.open(method, fake.base_url, b"/v1/models", HEADERS, b"")
    assert raised.value.kind == "bad_request"
    assert fake.requests == []


async def test_a_cancelled_request_leaves_no_connection_in_use(wires: UpstreamClient, fake: FakeProvider) -> None:
    """Cancelled while it waits for the head, a request closes its connection, and the next one is served."""
    fake.script(reply.hang("request"))
    task = asyncio.create_task(ask(wires, fake.base_url))
    await fake.wait_until_async(lambda: bool(fake.requests))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await fake.wait_until_async(lambda: fake.requests[0].client_closed_s is not None)
    upstream = await ask(wires, fake.base_url)
    assert upstream.status == 200
    await upstream.close()


# -- proxies


@pytest.mark.parametrize(
    ("url", "proxies", "no_proxy", "wanted"),
    [
        ("https://api.anthropic.com/v1", {}, "", ""),
        ("https://api.anthropic.com/v1", {"https": "http://proxy:3128"}, "", "http://proxy:3128"),
        ("https://api.anthropic.com/v1", {"https": "proxy:3128"}, "", "http://proxy:3128"),
        ("https://api.anthropic.com/v1", {"all": "http://proxy:1"}, "", "http://proxy:1"),
        ("http://api.z.ai/v1", {"https": "http://proxy:3128"}, "", ""),
        ("https://api.anthropic.com/v1", {"https": "http://proxy:3128"}, "anthropic.com", ""),
        ("https://api.anthropic.com/v1", {"https": "http://proxy:3128"}, "z.ai, .anthropic.com", ""),
        ("https://api.anthropic.com/v1", {"https": "http://proxy:3128"}, "z.ai", "http://proxy:3128"),
        ("https://127.0.0.1:8443/v1", {"https": "http://proxy:3128"}, "127.0.0.1", ""),
        ("https://api.anthropic.com/v1", {"https": "http://proxy:3128"}, "*", ""),
        ("https://gateway.corp:8443/v1", {"https": "http://proxy:3128"}, "corp:8443", ""),
        ("https://gateway.corp/v1", {"https": "http://proxy:3128"}, "corp:443", ""),
        ("https://gateway.corp:8443/v1", {"https": "http://proxy:3128"}, "corp:443", "http://proxy:3128"),
    ],
)
def test_the_proxy_is_the_environments(
    monkeypatch: pytest.MonkeyPatch, url: str, proxies: dict[str, str], no_proxy: str, wanted: str
) -> None:
    """HTTPS_PROXY, ALL_PROXY and NO_PROXY are honoured as everywhere."""
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", no_proxy)
    found = proxy_for(url, {**getproxies(), **proxies})
    assert (found.url if found else "") == wanted


async def test_requests_go_through_the_proxy(fake: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that is named is asked for a tunnel to the provider, and to no one else."""
    asked: list[bytes] = []

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with served(tunnel) as port:
        monkeypatch.setattr(transport, "getproxies", lambda: {"https": f"http://127.0.0.1:{port}"})
        monkeypatch.setattr(egress, "proxy_bypass", lambda _host: 0)
        wires = UpstreamClient(Timeouts())
        assert (await failure(wires, "https://api.anthropic.example")).kind == "connect"
        assert asked == [b"CONNECT api.anthropic.example:443 HTTP/1.1\r\n"]
        assert fake.requests == []
        await wires.close()


@pytest.mark.parametrize("proxy", ["ftp://proxy", "nonsense://"])
async def test_a_proxy_that_is_none_is_no_connection(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    """A proxy of an unknown kind: `connect`, with the mend."""
    monkeypatch.setattr(transport, "getproxies", lambda: {"https": proxy})
    monkeypatch.setattr(egress, "proxy_bypass", lambda _host: 0)
    wires = UpstreamClient(Timeouts())
    assert "HTTPS_PROXY" in str(await failure(wires, "https://api.anthropic.example"))
    await wires.close()


# -- certificates


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of our own for localhost, made by its own authority."""
    folder = tmp_path_factory.mktemp("authority")
    openssl = shutil.which("openssl")
    assert openssl, "openssl is missing; install it with: apt-get install openssl"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", LOCALHOST, "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(folder / "key.pem"),
         "-out", str(folder / "cert.pem")],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return folder


@pytest.fixture
def tls(authority: Path) -> Iterator[FakeProvider]:
    """A provider behind TLS, with that certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "cert.pem", authority / "key.pem")
    with FakeProvider("anthropic", ssl_context=context) as fake:
        yield fake


async def test_unknown_certificates_are_refused(wires: UpstreamClient, tls: FakeProvider) -> None:
    """A certificate of an unknown authority: `connect`, and no request goes up."""
    error = await failure(wires, tls.base_url)
    assert error.kind == "connect"
    assert "certificate" in str(error).lower()
    assert tls.requests == []


async def test_certificates_of_ssl_cert_file_are_trusted(
    wires: UpstreamClient, tls: FakeProvider, authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With SSL_CERT_FILE naming the authority, the same provider is served."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority / "cert.pem"))
    upstream = await ask(wires, tls.base_url)
    assert b"message_stop" in await upstream.read(1 << 20)
    await upstream.close()
    assert len(tls.requests) == 1
