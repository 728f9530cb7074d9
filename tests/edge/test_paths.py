"""Paths, methods and bodies as clients send them, through the real server."""

import gzip
from collections.abc import AsyncIterator

import pytest

from service.edge.request_target import endpoint_of
from tests.fakes import FakeProvider, reply
from tests.support.proxies import ASK, ASK_BYTES, Server, connected, request_bytes
from tests.support.waiting import wait_until


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("HEAD", "/", 200),
        ("GET", "/", 200),
        ("HEAD", "/api/hello", 200),
        ("GET", "/livez", 200),
        ("GET", "/readyz", 200),
        ("GET", "/health", 200),
        ("GET", "/api/oauth/usage", 404),
        ("POST", "/api/event_logging/batch", 404),
        ("GET", "/nothing", 404),
        ("GET", "/v2/messages", 404),
        ("POST", "/health", 405),
        ("DELETE", "/", 405),
    ],
)
async def test_what_is_no_api_is_answered_here(
    server: Server, anthropic: FakeProvider, method: str, path: str, status: int
) -> None:
    """Greetings, health and unknown paths are answered at once, never forwarded, and errors have Anthropic's shape."""
    served = await server.start(anthropic=anthropic)
    answer = await served.http.request(method, path)
    assert answer.status_code == status
    if status >= 400:
        wanted = {404: "not_found_error", 405: "invalid_request_error"}[status]
        assert (answer.json()["type"], answer.json()["error"]["type"]) == ("error", wanted)
    if method == "HEAD":
        assert answer.content == b""
    assert anthropic.requests == []


@pytest.mark.parametrize(
    "target",
    ["/v1/../admin", "/v1/x/./y", "/v1/%2e%2e/admin", "/v1/%2E%2e/admin", "/v1/..%2fadmin", "/v1/x%2f..%2f..%2fadmin",
     "/v1/..%5cadmin", "/v1/x/.."],
)  # fmt: skip
async def test_dot_segments_are_refused(server: Server, anthropic: FakeProvider, target: str) -> None:
    """A path that would lead elsewhere at the provider is a 404 here, however it is escaped."""
    served = await server.start(anthropic=anthropic)
    async with connected(served) as wire:
        await wire.send(f"GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
        got = await wire.to_the_end()
    assert got.startswith(b"HTTP/1.1 404 ")
    assert b'"not_found_error"' in got
    assert anthropic.requests == []


async def test_path_and_query_go_up_as_they_came(server: Server, anthropic: FakeProvider) -> None:
    """Escapes, blanks, odd characters and repeated names of a query reach the provider unchanged."""
    served = await server.start(anthropic=anthropic)
    targets = ["/v1/skills/a%20b?beta=true", "/v1/x?a=1&a=2&b=%E2%82%AC&c=x+y&d='%22", "/v1/x?q=a|b~c!(d)*;e:f@g,h$i"]
    for target in targets:
        async with connected(served) as wire:
            await wire.send(f"GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
            await wire.to_the_end()
    assert [f"{request.path}?{request.query}" for request in anthropic.requests] == targets


async def test_a_base_path_is_served_with_and_without(server: Server, anthropic: FakeProvider) -> None:
    """Under a prefix the API is reached, and the prefix stays here; without it too."""
    served = await server.start(anthropic=anthropic, variables={"PROXY_BASE_PATH": "/anthropic"})
    assert served.url.endswith("/anthropic")
    root = f"http://127.0.0.1:{served.proxy.settings.port}"
    for url in (f"{root}/anthropic/v1/messages?beta=true", f"{root}/v1/messages?beta=true"):
        assert (await served.http.post(url, json=ASK)).status_code == 200
    assert {(request.path, request.query) for request in anthropic.requests} == {("/v1/messages", "beta=true")}
    assert (await served.http.get(f"{root}/anthropic/livez")).status_code == 200


async def test_a_body_over_the_limit_is_refused_by_its_length(server: Server, anthropic: FakeProvider) -> None:
    """Told by its length or noticed while it comes, a body over the limit is a 413 before any route is tried."""
    served = await server.start(anthropic=anthropic, variables={"MAX_BODY_BYTES": "2000"})

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b"x" * 100

    for content in (b"x" * 2_001, chunks()):
        answer = await served.http.post("/v1/messages", content=content)
        assert answer.status_code == 413
        assert answer.json()["error"]["type"] == "request_too_large"
        assert answer.headers["x-should-retry"] == "false"
    assert anthropic.requests == []
    assert (await served.ask(ASK)).status_code == 200, "and the connection, or another, serves on"


async def test_a_bomb_is_refused(server: Server, anthropic: FakeProvider) -> None:
    """A body that decodes to more than the limit is a 413, not memory."""
    served = await server.start(anthropic=anthropic, variables={"MAX_BODY_BYTES": "100000"})
    answer = await served.http.post(
        "/v1/messages", content=gzip.compress(b"0" * 10_000_000), headers={"content-encoding": "gzip"}
    )
    assert answer.status_code == 413
    answer = await served.http.post("/v1/messages", content=b"plain", headers={"content-encoding": "gzip"})
    assert answer.status_code == 400
    assert anthropic.requests == []


async def test_a_client_that_goes_while_it_sends_is_forgotten(server: Server, anthropic: FakeProvider) -> None:
    """Half a request is no attempt."""
    served = await server.start(anthropic=anthropic)
    async with connected(served) as wire:
        await wire.send(request_bytes(ASK_BYTES)[:-10])
        await wire.quiet(0.05)
    assert (await served.ask(ASK)).status_code == 200
    assert len(served.ends) == 1


async def test_a_connection_serves_many_requests(server: Server, anthropic: FakeProvider) -> None:
    """Answers, streams, errors and refusals leave the client's connection usable."""
    served = await server.start(anthropic=anthropic)
    anthropic.script(reply.message(), reply.error(400), reply.message())
    async with connected(served) as wire:
        for target in ("/v1/messages", "/v1/messages", "/v1/../x", "/v1/messages"):
            wire.got = b""
            await wire.send(request_bytes(ASK_BYTES, path=target))
            await wire.until(b"}")
            await wire.quiet(0.03)
    await wait_until(lambda: len(served.ends) == 3)


@pytest.mark.parametrize(
    ("method", "path", "endpoint"),
    [
        ("POST", "/v1/messages", "messages"),
        ("POST", "/v1/messages/count_tokens", "count_tokens"),
        ("POST", "/v1/messages/batches", "batches"),
        ("GET", "/v1/messages/batches/msgbatch_01abc/results", "batches"),
        ("GET", "/v1/models", "models"),
        ("GET", "/v1/models/claude-opus-5-5", "models"),
        ("POST", "/v1/files", "files"),
        ("GET", "/v1/filesystem", "other"),
        ("GET", "/v1/messages", "other"),
        ("POST", "/v1/complete", "other"),
    ],
)
def test_the_endpoint_follows_from_method_and_path(method: str, path: str, endpoint: str) -> None:
    """Each kind of request is known by its method and path."""
    assert endpoint_of(method, path) == endpoint
