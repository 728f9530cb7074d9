"""Every spelling of a path, in any place where a path is read: one canonical form, or a 404 of our own."""

from collections.abc import Iterable
from typing import NamedTuple

import pytest

from tests.attacks.raw import RawResponse, byte_provider, raw_client, request
from tests.support.proxies import ANTHROPIC_KEY, ASK, Server


class Asked(NamedTuple):
    """What came of a request: its answer, and the targets that the provider was asked for."""

    method: str
    target: str
    answer: RawResponse
    seen: list[bytes]


async def asked(
    server: Server, targets: Iterable[str], methods: Iterable[str] = ("GET", "POST"), base: str = ""
) -> list[Asked]:
    """What comes of each target with each method, all on one connection."""
    found = []
    async with byte_provider() as provider:
        variables = {"PROXY_BASE_PATH": base} if base else {}
        served = await server.start(anthropic=provider.base_url, variables=variables)
        async with raw_client(served.url) as client:
            for method, target in ((method, target) for method in methods for target in targets):
                told = await client.ask(request(ASK, target, method))
                found.append(Asked(method, target, told, [seen.target for seen in provider.seen]))
                provider.seen.clear()
    return found


HOSTS = [
    "/anthropic%2fv1@{host}/steal",
    "/anthropic%2Fv1@{host}/steal",
    "/anthropic/v1%40{host}/steal",
    "/anthropic/v1@{host}/steal",
    "/anthropic/v1/@{host}/steal",
    "//{host}/v1/steal",
    "/\\{host}/v1/steal",
    "http://{host}/v1/steal",
    "https://{host}/v1/steal",
    "/anthropic//{host}/v1/steal",
    "/v1:{host}/steal",
    "/v1/..//{host}/steal",
]


@pytest.mark.parametrize("transport", ["lean", "httpx"])
async def test_no_path_names_the_host_that_is_asked(server: Server, transport: str) -> None:
    """The owner's key goes to the configured origin alone, whatever a path looks like."""
    async with byte_provider() as provider, byte_provider() as thief:
        variables = {"PROXY_BASE_PATH": "/anthropic", "UPSTREAM_TRANSPORT": transport}
        served = await server.start(anthropic=provider.base_url, variables=variables)
        async with raw_client(served.url) as client:
            for target in HOSTS:
                told = await client.ask(request(target=target.format(host=f"127.0.0.1:{thief.port}"), method="GET"))
                assert told.status in (400, 404), target
    assert thief.connections == 0
    assert provider.seen == []


SLIPS = [
    ("/v1/messages", "/v1/messages"),
    ("/v1/v1/messages", "/v1/messages"),
    ("/v1/v1/v1/messages", "/v1/messages"),
    ("//v1/messages", "/v1/messages"),
    ("/v1//messages", "/v1/messages"),
    ("//v1//v1//messages", "/v1/messages"),
    ("/messages", "/v1/messages"),
    ("//messages", "/v1/messages"),
    ("/messages/count_tokens", "/v1/messages/count_tokens"),
    ("/v1/messages/", "/v1/messages"),
    ("/models/a-1", "/v1/models/a-1"),
    ("/files", "/v1/files"),
    ("/v1/messages?beta=true&x=%2F..%2f", "/v1/messages?beta=true&x=%2F..%2f"),
    ("/v1/models/a%2Fb%3ac", "/v1/models/a%2Fb%3Ac"),
    ("/v1/models/anthropic.claude-v2:0@1", "/v1/models/anthropic.claude-v2:0@1"),
    ("/v1/skills/%e2%82%ac%20x", "/v1/skills/%E2%82%AC%20x"),
    ("/v1/x/$&'()*+,=!~", "/v1/x/$&'()*+,=!~"),
]


@pytest.mark.parametrize("base", ["", "/anthropic"])
async def test_slips_become_the_canonical_path(server: Server, base: str) -> None:
    """What goes up is what was decided on, with a base path and without."""
    found = await asked(server, [base + target for target, _ in SLIPS], ["POST"], base)
    assert [(one.target, one.seen) for one in found] == [
        (base + target, [canonical.encode()]) for target, canonical in SLIPS
    ]


@pytest.mark.parametrize("base", ["", "/anthropic"])
async def test_what_is_served_is_counted_as_what_it_is(server: Server, base: str) -> None:
    """A message under each spelling that is served is a message on the ledger, with its tokens."""
    spellings = [target for target, canonical in SLIPS if canonical == "/v1/messages"]
    async with byte_provider() as provider:
        served = await server.start(anthropic=provider.base_url, variables={"PROXY_BASE_PATH": base} if base else {})
        async with raw_client(served.url) as client:
            for target in spellings:
                assert (await client.ask(request(ASK, base + target))).status == 200
    counted = [(end.endpoint, end.tokens.input, end.tokens.output) for _, end in served.ends]
    assert counted == [("messages", 10, 5)] * len(spellings)


NOWHERE = [
    "/v1", "/v1/", "/v1beta/messages", "/v1beta/..", "/v10/messages", "/V1/messages", "/v1/Messages",
    "/v1/MESSAGES/batches", "/v1/messages/batches/b1234567/Results", "/v1/files/f1234567/CONTENT",
    "/v1/messages;x", "/v1/messages;", "/v1;x/messages", "/v1/messages%3Bx", "/v1/%6dessages", "/v1/m%65ssages",
    "/%76%31/messages", "/v1%2fmessages", "/v1%2Fmessages", "/v1/x%2fy", "/v1/x%5cy", "/v1/x\\y", "/v1/x%2ey",
    "/v1/x%2Ey",
    "/v1/%2e%2e/admin", "/v1/../admin", "/v1/./messages", "/v1/..", "/v1/.", "/v1/x/..%2f..%2fadmin",
    "/v1/%252e%252e/x",
    "/v1/x%25y", "/v1/x%00", "/v1/x%0d%0ay", "/v1/x%7f", "/v1/x%09", "/v1/%c2%85x", "/v1/x%", "/v1/x%2", "/v1/x%zz",
    "/v1/messages%20", "/v1/%20messages", "/v1/%C2%A0messages", "/v1/messages%3Fbeta", "/v1/messages%23",
    "/v1/messages#x",
    "/v1/messages//", "/v1/messages//batches", "/v1/messages/batches/b1/result%73", "/v1/%c0%ae%c0%ae/x", "/v1/%ff",
    "/v1/a|b", "/v1/a\"b", "/v1/<x>", "/v1/a:b", "/v1/a@b", "/v1/[x]", "/v1/models/..", "/v1/models/%2e%2e",
    "/v1/models/..%2Fmessages", "/v1/models/a%2F..%2F..%2Fmessages", "/v1/models/%252e%252e%252fmessages",
    "/v1/models/..%5Cmessages", "/v1/models/..;x", "/v1/models/%2e%2e;x%2Fmessages", "/v1/models/..%3Bx%2Fmessages",
    "/v1/models/%252e%252e%253Bx%252fmessages", "/v1/models/..%20%2Fmessages", "/v1/models/;x", "/v1/models/%20",
    "/v1/models/a%00", "/v1/models/a/%2e%2e", "/anthropic/v1/messages", "///v1/messages",
    "/x//v1/messages", "/livez%2f", "/%6civez", "/livez;x", "/admin/../v1/messages", "/x/v1/messages",
]  # fmt: skip


async def test_everything_else_is_a_404_of_our_own(server: Server) -> None:
    """In Anthropic's shape, with the mend; no provider is asked, and the connection goes on."""
    for one in await asked(server, NOWHERE):
        assert (one.answer.status, one.seen) == (404, []), one
        assert one.answer.json["error"]["type"] == "not_found_error"
        assert "/v1" in one.answer.json["error"]["message"]


async def test_a_query_ends_where_it_ends(server: Server) -> None:
    """A fragment never belongs to a request; forwarded it would be cut off by some and kept by others."""
    for one in await asked(server, ["/v1/messages?a#b", "/v1/messages?#", "/livez?a#b"]):
        assert (one.answer.status, one.seen) == (400, []), one
        assert one.answer.json["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("base", ["", "/anthropic"])
async def test_pages_of_the_proxy_have_the_same_rule(server: Server, base: str) -> None:
    """The canonical path decides there too, with a base path and without."""
    targets = [base + target for target in ("/livez", "//livez", "/dashboard", "/")]
    for one in await asked(server, targets, ["GET"], base):
        assert (one.answer.status, one.seen) == (200, []), one


async def test_an_absolute_target_is_read_as_its_path(server: Server) -> None:
    """It has to name the host that the header names: nobody reads two hosts out of one request."""
    same, other = await asked(server, ["http://127.0.0.1/v1/models", "http://elsewhere/v1/models"], ["GET"])
    assert (same.answer.status, same.seen) == (200, [b"/v1/models"])
    assert (other.answer.status, other.seen) == (400, [])


async def test_the_key_goes_to_the_provider_alone(server: Server) -> None:
    """The control: what is asked for in its canonical form has the owner's key."""
    async with byte_provider() as provider:
        served = await server.start(anthropic=provider.base_url)
        async with raw_client(served.url) as client:
            await client.ask(request(ASK))
    assert provider.seen[0].values(b"x-api-key") == [ANTHROPIC_KEY.encode()]
