"""An offered upgrade changes nothing: the body is read by its framing, and what follows is the next request.

llhttp takes a request that offers one for the last of its connection, and ends it with its head. What came behind was
lost, or parsed as a request of its own: behind a balancer that passes the offer on and shares its connections, that
request was the attacker's, on the connection of the next client.
"""

import asyncio
import json
from pathlib import Path

import pytest

from tests.attacks.raw import MESSAGE, SeenRequest, answer, byte_provider, raw_client, request
from tests.support.nginx import nginx
from tests.support.proxies import ASK, ASK_BYTES, Server

H2C = "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
OFFERS = {
    "h2c": H2C,
    "websocket": "connection: keep-alive, Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: eA==\r\n",
    "unknown": "Connection: upgrade\r\nUpgrade: anything/1.0\r\n",
    "named alone": "upgrade: h2c\r\n",
    "of nothing": "connection: upgrade\r\n",
}
FRAMINGS = {
    "length": (f"content-length: {len(ASK_BYTES)}\r\n", ASK_BYTES),
    "chunks": (
        "transfer-encoding: chunked\r\n",
        b"5\r\n%b\r\n%x;a=b\r\n%b\r\n0\r\nx: y\r\n\r\n" % (ASK_BYTES[:5], len(ASK_BYTES) - 5, ASK_BYTES[5:]),
    ),
}


def offering(
    offer: str, framing: str = "length", target: str = "/v1/messages", kind: str = "application/json"
) -> bytes:
    """A request that offers an upgrade."""
    head, body = FRAMINGS[framing]
    return f"POST {target} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: {kind}\r\n{offer}{head}\r\n".encode() + body


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_the_body_is_read_by_its_framing(server: Server, framing: str) -> None:
    """On the way of the API, pipelined with others, whatever the reads; and the connection goes on."""
    async with byte_provider() as provider:
        served = await server.start(anthropic=provider.base_url)
        async with raw_client(served.url) as client:
            for sent in (offering(offer, framing) for offer in OFFERS.values()):
                await client.send(sent * 2 + request(ASK_BYTES))
                assert [(await client.receive()).status for _ in range(3)] == [200] * 3
                for cut in (10, sent.index(b"\r\n\r\n") + 2, sent.index(b"\r\n\r\n") + 4, len(sent) - 3):
                    await client.send(sent[:cut])
                    await client.until_read(served)
                    assert (await client.ask(sent[cut:])).status == 200
    assert [seen.body for seen in provider.seen] == [ASK_BYTES] * 7 * len(OFFERS)
    assert not [name for seen in provider.seen for name, _ in seen.headers if name in (b"upgrade", b"http2-settings")]


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_every_split_of_the_bytes_reads_the_same(server: Server, framing: str) -> None:
    """Two pieces, cut at each place, byte by byte through the seam between head and body."""
    sent = offering(H2C, framing) + request(ASK_BYTES)
    async with byte_provider() as provider:
        served = await server.start(anthropic=provider.base_url)
        async with raw_client(served.url) as client:
            for cut in range(1, len(sent), 7):
                await client.send(sent[:cut])
                await asyncio.sleep(0)
                await client.send(sent[cut:])
                assert [(await client.receive()).status for _ in range(2)] == [200, 200], cut
    assert {seen.body for seen in provider.seen} == {ASK_BYTES}


async def test_an_upload_and_a_request_without_a_body_may_offer_it_too(server: Server) -> None:
    """An upload is passed on as it comes; a GET ends with its head."""
    async with byte_provider(lambda _: answer({"id": "file_011abcdef", "type": "file"})) as provider:
        served = await server.start(anthropic=provider.base_url)
        async with raw_client(served.url) as client:
            for framing in FRAMINGS:
                sent = offering(H2C, framing, "/v1/files", "multipart/form-data; boundary=x")
                assert (await client.ask(sent)).status == 200
            get = f"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\n{H2C}\r\n".encode()
            await client.send(get * 3)
            assert [(await client.receive()).status for _ in range(3)] == [200] * 3
    assert [seen.body for seen in provider.seen] == [ASK_BYTES] * 2 + [b""] * 3


async def test_a_page_of_the_proxy_reads_the_body_too(server: Server) -> None:
    """The framework's way is the same connection's."""
    served = await server.start(variables={"ADMIN_TOKEN": "admin-token-011-0123456789"})
    body = b'{"username": "x", "token": "wrong"}'
    async with raw_client(served.url) as client:
        told = [
            await client.ask(
                f"POST /admin/api/session HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n{offer}"
                f"content-length: {len(body)}\r\n\r\n".encode()
                + body
            )
            for offer in ("", H2C)
        ]
    assert told[0].status == told[1].status
    assert told[0].json["error"] == told[1].json["error"]


@pytest.mark.parametrize("where", ["same read", "next read"])
async def test_a_body_is_never_a_request(server: Server, where: str) -> None:
    """The attack: the body of one request is another one, which nobody must ever read as such."""
    hidden = b"DELETE /v1/files/file_011hidden HTTP/1.1\r\nhost: 127.0.0.1\r\nx-api-key: k\r\n\r\n"
    async with byte_provider() as provider:
        served = await server.start(anthropic=provider.base_url)
        for offer in OFFERS.values():
            head = (
                f"POST /v1/files HTTP/1.1\r\nhost: 127.0.0.1\r\n{offer}content-length: {len(hidden)}\r\n\r\n".encode()
            )
            async with raw_client(served.url) as client:
                await client.send(head + hidden if where == "same read" else head)
                if where == "next read":
                    await client.until_read(served)
                    await client.send(hidden)
                assert (await client.receive()).status == 200
                assert (await client.ask(request(ASK_BYTES))).status == 200
    assert [(seen.method, seen.body) for seen in provider.seen] == [(b"POST", hidden), (b"POST", ASK_BYTES)] * len(
        OFFERS
    )


@pytest.mark.parametrize("status", [b"101 Switching Protocols", b"101 X", b"100 Continue", b"103 Early Hints"])
@pytest.mark.parametrize("transport", ["lean", "httpx"])
async def test_a_provider_that_switches_protocols_poisons_no_connection(
    server: Server, status: bytes, transport: str
) -> None:
    """101 was never asked for: the attempt fails, and its connection serves nobody else. Others are passed over."""
    interim = b"HTTP/1.1 " + status + b"\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
    turns = iter([interim + answer(), answer(), answer()])

    async with byte_provider(lambda _: next(turns)) as provider:
        served = await server.start(anthropic=provider.base_url, variables={"UPSTREAM_TRANSPORT": transport})
        async with raw_client(served.url) as client:
            first = await client.ask(request(ASK))
            second = await client.ask(request(ASK))
    assert first.status == (502 if status.startswith(b"101") else 200)
    assert (second.status, second.json["content"]) == (200, MESSAGE["content"])


# -- a real balancer that passes the offer on, and shares its connections to the proxy

PASSES_OFFERS = (
    "proxy_http_version 1.1",
    "client_max_body_size 0",
    "proxy_set_header Host $host",
    "proxy_set_header Upgrade $http_upgrade",
    "proxy_set_header Connection $http_connection",
)


@pytest.mark.parametrize("buffering", ["on", "off"])
async def test_behind_nginx_nobody_reads_what_is_anothers(server: Server, tmp_path: Path, buffering: str) -> None:
    """The attacker's body is a request that waits for more: the victim's, with key and prompt, used to be that more."""
    secret = ASK | {"messages": [{"role": "user", "content": "the victim's secret"}]}

    def echo(seen: SeenRequest) -> bytes:
        return answer({**MESSAGE, "content": [{"type": "text", "text": seen.body.decode("latin-1")[:2_000]}]})

    async with byte_provider(echo) as provider:
        served = await server.start(anthropic=provider.base_url)
        port = served.proxy.settings.port
        with nginx(tmp_path, port, *PASSES_OFFERS, f"proxy_request_buffering {buffering}") as url:
            for _ in range(3):
                await attack(url)
                async with raw_client(url) as victim:
                    told = await victim.ask(request(secret, headers={"x-api-key": "victims-key"}))
                    assert told.status == 200
                    assert json.loads(told.json["content"][0]["text"]) == secret
    stolen = [seen for seen in provider.seen if b"victim" in seen.body and seen.target != b"/v1/messages"]
    assert stolen == []
    assert b"/v1/skills" not in [seen.target for seen in provider.seen]


async def attack(url: str) -> None:
    """A request that offers an upgrade, whose body is empty lines and then another request, which asks for 4 KB more
    than there are. Wherever a parser began to read within the empty lines, it would come to that request."""
    hidden = b"POST /v1/skills HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: text/plain\r\ncontent-length: 4096\r\n\r\n"
    body = b"\r\n" * 300_000 + hidden
    head = f"POST /v1/files HTTP/1.1\r\nhost: 127.0.0.1\r\n{H2C}content-type: text/plain\r\n"
    async with raw_client(url) as attacker:
        await attacker.send(head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body)
        assert (await attacker.receive()).status == 200


async def test_behind_nginx_an_offer_changes_no_answer(server: Server, tmp_path: Path) -> None:
    """Clients that offer h2c with each request, such as Java's, are served like others."""
    async with byte_provider() as provider:
        served = await server.start(anthropic=provider.base_url)
        with nginx(tmp_path, served.proxy.settings.port, *PASSES_OFFERS) as url:
            async with raw_client(url) as client:
                for offer in ("", *OFFERS.values()):
                    assert (await client.ask(offering(offer))).status == 200
    assert [seen.body for seen in provider.seen] == [ASK_BYTES] * (1 + len(OFFERS))
