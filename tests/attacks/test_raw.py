"""The tools of the attacks do what they say: bytes go through a proxy, and what the provider saw is what was sent."""

import asyncio

from tests.attacks.raw import byte_provider, raw_client, request
from tests.support.proxies import ANTHROPIC_KEY, ASK, Server


async def test_a_plain_request_reaches_the_byte_provider_as_it_was_sent(server: Server) -> None:
    async with byte_provider() as provider:
        served = await server.start(anthropic=provider.base_url)
        async with raw_client(served.url) as client:
            first = await client.ask(request(ASK))
            second = await client.ask(request(ASK))
    assert (first.status, second.status) == (200, 200)
    assert first.json["content"][0]["text"] == "hello"
    assert [seen.target for seen in provider.seen] == [b"/v1/messages"] * 2
    assert provider.seen[0].values(b"x-api-key") == [ANTHROPIC_KEY.encode()]
    assert provider.seen[0].body == request(ASK).partition(b"\r\n\r\n")[2]


async def test_a_provider_that_cuts_is_a_failure_of_the_route(server: Server) -> None:
    async with byte_provider(lambda _: None) as provider:
        served = await server.start(anthropic=provider.base_url)
        async with raw_client(served.url) as client, asyncio.timeout(20):
            assert (await client.ask(request(ASK))).status == 502
