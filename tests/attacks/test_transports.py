"""Attacks by providers and HTTP proxies on both transports: nothing of an answer reaches another request, no credential
goes elsewhere."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from service.egress import proxy_for
from service.http1.upstream import UpstreamClient
from service.settings import Timeouts
from tests.attacks.raw import ByteProvider, answer, byte_provider, raw_client, request
from tests.support.proxies import ANTHROPIC_KEY, ASK, Server

OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
MARK = b"of another client"
TWO_FRAMINGS = b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
ANSWERS = {
    "a second answer behind": answer() + OK + b"content-length: 17\r\n\r\n" + MARK,
    "two framings": OK + TWO_FRAMINGS + OK + b"\r\n" + MARK,
    "a body behind 204": b"HTTP/1.1 204 No\r\ncontent-length: 17\r\n\r\n" + MARK,
    "two lengths": OK + b"content-length: 2\r\ncontent-length: 19\r\n\r\n{}" + MARK,
    "a negative length": OK + b"content-length: -1\r\n\r\n" + MARK,
    "101": b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n" + MARK,
    "no http": MARK + b"\r\n\r\n",
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of whoever runs the tests names none."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("transport", ["lean", "httpx"])
async def test_what_stands_behind_an_answer_reaches_nobody(server: Server, transport: str) -> None:
    """Every client gets the answer to its own request, or an error of ours."""
    answers = iter(ANSWERS.values())
    async with byte_provider(lambda _: next(answers, answer())) as provider:
        variables = {"UPSTREAM_TRANSPORT": transport, "API_TIMEOUT_MS": "5000"}
        served = await server.start(anthropic=provider.base_url, variables=variables)
        async with raw_client(served.url) as client:
            for name in ANSWERS:
                first = await client.ask(request(ASK))
                assert first.status in (200, 502), name
                assert MARK not in first.body, name
            assert (await client.ask(request(ASK))).json["content"][0]["text"] == "hello"


@pytest.mark.parametrize("transport", ["lean", "httpx"])
@pytest.mark.parametrize(
    "said",
    [answer(status=600), answer(status=999), answer(request_id="a\x01b"), answer(x_unknown="\x1b[2J")],
    ids=["600", "999", "a control character", "an escape sequence"],
)
async def test_what_is_no_answer_is_told_as_a_failure(server: Server, transport: str, said: bytes) -> None:
    """Not relayed, and never the end of the client's connection without a word."""
    async with byte_provider(lambda _: said) as provider:
        served = await server.start(anthropic=provider.base_url, variables={"UPSTREAM_TRANSPORT": transport})
        async with raw_client(served.url) as client:
            for _ in range(2):
                told = await client.ask(request(ASK))
                assert (told.status, told.json["error"]["type"]) == (502, "api_error")


@pytest.mark.parametrize("transport", ["lean", "httpx"])
@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_and_a_cookie_are_not_followed(server: Server, transport: str, status: int) -> None:
    """The key goes to the provider alone, and one client's cookie never goes up with another's request."""
    async with byte_provider() as thief:
        told = answer(b"", status, location=thief.base_url + "/v1/messages", set_cookie="sid=1; path=/")
        async with byte_provider(lambda _: told) as provider:
            variables = {"UPSTREAM_TRANSPORT": transport}
            served = await server.start(anthropic=provider.base_url, variables=variables)
            async with raw_client(served.url) as client:
                shown = [await client.ask(request(ASK)) for _ in range(2)]
        assert thief.connections == 0
    assert not any(seen.values(b"cookie") for seen in provider.seen)
    assert not any(one.value(b"location") or one.value(b"set-cookie") for one in shown)


# -- HTTP proxies


@asynccontextmanager
async def http_proxy(said: bytes) -> AsyncIterator[ByteProvider]:
    """An HTTP proxy that says the same to everybody."""
    async with byte_provider(lambda _: said) as made:
        yield made


PROXY_PASSWORD = "proxy-password-marked-aaaa"
REFUSALS = {
    "407": b"HTTP/1.1 407 \x1b[31mno\r\ncontent-length: 100000\r\n\r\n" + b"a" * 100_000,
    "200 without tls": b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    "a redirect": b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
    "no http": b"\x00\x01\x02\r\n\r\n",
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_a_hostile_proxy_learns_nothing(
    server: Server, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is asked for a tunnel, and sees no key; its password and its words are not shown to clients."""
    caplog.set_level(logging.DEBUG, "ccproxy")
    async with http_proxy(REFUSALS[name]) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:{PROXY_PASSWORD}@127.0.0.1:{proxy.port}")
        served = await server.start(anthropic="https://api.anthropic.example", connect_ms=500)
        answered = await served.ask(ASK)
    assert answered.status_code == 502
    assert [seen.line for seen in proxy.seen][:1] == [b"CONNECT api.anthropic.example:443 HTTP/1.1"]
    assert ANTHROPIC_KEY not in repr(proxy.seen)
    ours = "".join(record.getMessage() + repr(vars(record)) for record in caplog.records if "ccproxy" in record.name)
    assert PROXY_PASSWORD not in answered.text + ours + repr(served.events)
    assert "\x1b" not in answered.text


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.9.9.9", "localhost", "LOCALHOST", "api.localhost", "localhost.", "[::1]"]
)
def test_the_loopback_is_asked_directly(host: str) -> None:
    """A proxy would take it for its own, and be given the key in the clear."""
    proxies = {"http": "http://proxy:3128", "https": "http://proxy:3128", "all": "http://proxy:3128"}
    assert proxy_for(f"http://{host}:8080", proxies) is proxy_for(f"https://{host}:8080", proxies) is None
    for other in ("http://127.0.0.1.evil.test", "http://localhost.evil.test", "http://10.0.0.1", "http://notlocalhost"):
        found = proxy_for(other, proxies)
        assert found, other
        assert found.url == "http://proxy:3128", other


async def test_no_netrc_is_read(tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A password that stands there for the provider's host does not take the place of a credential."""
    path = os.path.join(tmp_path, "netrc")
    await asyncio.to_thread(write, path, "machine 127.0.0.1 login user password marked\n")
    monkeypatch.setenv("NETRC", path)
    async with byte_provider() as provider:
        wires = UpstreamClient(Timeouts(), kind="httpx")
        upstream = await wires.open("POST", provider.base_url, b"/v1/messages", [(b"x-api-key", b"k")], b"{}")
        await upstream.close()
        await wires.close()
    assert not provider.seen[0].values(b"authorization")


def write(path: str, text: str) -> None:
    """Make a file."""
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
