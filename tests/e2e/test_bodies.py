"""Bodies of every coding, framing and size come through unharmed, or are refused before they hurt."""

import gzip
import socket
from collections.abc import Iterator
from typing import Literal

import httpx
import pytest
import zstandard

from tests.fakes import FakeProvider, reply
from tests.support.installation import Installation, Proxy
from tests.support.messages import ASK, HEADERS, MODEL, STREAM, ask, client_of, deltas, error_of, way

pytestmark = pytest.mark.e2e

TEXT = "naïve 日本語 🙂"
PLAIN = f'{{"model": "{MODEL}",  "max_tokens": 9, "messages": [{{"role": "user", "content": "{TEXT}"}}]}}'.encode()
Coding = Literal["gzip", "deflate", "br", "zstd"]


def compressed(data: bytes, coding: str) -> bytes:
    """The data in this coding."""
    return gzip.compress(data) if coding == "gzip" else zstandard.compress(data)


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_a_compressed_request_goes_on_compressed(http: httpx.Client, anthropic_fake: FakeProvider, coding: str) -> None:
    """To Anthropic a compressed body goes as it came, byte for byte."""
    body = compressed(PLAIN, coding)
    headers = HEADERS | {"content-encoding": coding, "content-type": "application/json"}
    assert way(http.post("/v1/messages", content=body, headers=headers)) == (200, "anthropic", "1")
    [request] = anthropic_fake.requests
    assert (request.body, request.header("content-encoding")) == (body, coding)


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_a_compressed_request_reaches_another_vendor(
    http: httpx.Client, installation: Installation, coding: str
) -> None:
    """A body that has to be changed on its way is sent in the clear, whole."""
    installation.anthropic.script(reply.error(529))
    headers = HEADERS | {"content-encoding": coding, "content-type": "application/json"}
    answer = http.post("/v1/messages", content=compressed(PLAIN, coding), headers=headers)
    assert way(answer) == (200, "zai", "2")
    [request] = installation.zai.requests
    assert request.header("content-encoding") is None
    assert request.json["messages"] == [{"role": "user", "content": TEXT}]


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
@pytest.mark.parametrize("chunk_bytes", [0, 1])
@pytest.mark.parametrize("body", [ASK, STREAM], ids=["json", "stream"])
def test_a_compressed_answer_is_read(
    http: httpx.Client, anthropic_fake: FakeProvider, coding: Coding, chunk_bytes: int, body: dict[str, object]
) -> None:
    """An answer that comes compressed unasked, whole or byte by byte, reaches the client readable."""
    anthropic_fake.script(reply.message(TEXT).compressed(coding).in_chunks(chunk_bytes))
    answer = ask(http, body)
    assert way(answer) == (200, "anthropic", "1")
    assert (deltas(answer.content) if body is STREAM else answer.json()["content"][0]["text"]) == TEXT


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_a_compressed_error_is_read(http: httpx.Client, anthropic_fake: FakeProvider, coding: Coding) -> None:
    """So does an error."""
    anthropic_fake.script(reply.bad_request(f"no {TEXT}").compressed(coding))
    assert error_of(ask(http))["message"] == f"no {TEXT}"


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("body", [ASK, STREAM], ids=["json", "stream"])
def test_every_framing_of_an_answer(
    http: httpx.Client,
    anthropic_fake: FakeProvider,
    framing: Literal["chunked", "length", "close"],
    body: dict[str, object],
) -> None:
    """Chunked, with a length, or ended by closing: the answer is whole."""
    anthropic_fake.script(reply.message(TEXT).framed(framing))
    answer = ask(http, body)
    assert way(answer) == (200, "anthropic", "1")
    assert TEXT in answer.content.decode()


@pytest.mark.parametrize("piece_bytes", [1, 7])
def test_utf8_may_be_split_anywhere(http: httpx.Client, installation: Installation, piece_bytes: int) -> None:
    """Request and answer in pieces that split every character: both arrive whole."""
    installation.anthropic.script(reply.message(TEXT).in_chunks(piece_bytes).repeated(2))
    pieces = (PLAIN[at : at + piece_bytes] for at in range(0, len(PLAIN), piece_bytes))
    headers = HEADERS | {"content-type": "application/json"}
    answer = http.post("/v1/messages", content=pieces, headers=headers)
    assert answer.request.headers.get("transfer-encoding") == "chunked"
    assert answer.json()["content"][0]["text"] == TEXT
    assert installation.anthropic.requests[0].body == PLAIN
    assert installation.anthropic.requests[0].header("content-length") == str(len(PLAIN))
    assert deltas(ask(http, STREAM).content) == TEXT


def test_ten_megabytes_each_way(http: httpx.Client, anthropic_fake: FakeProvider) -> None:
    """A large request and a large answer arrive whole, JSON and stream."""
    anthropic_fake.script(reply.large(4_000_000).repeated(2))
    large = "ä" * 5_000_000
    body = ASK | {"messages": [{"role": "user", "content": large}]}
    assert len(ask(http, body).json()["content"][0]["text"]) == 4_000_000
    assert len(deltas(ask(http, body | {"stream": True}).content)) == 4_000_000
    assert anthropic_fake.requests[0].json["messages"] == body["messages"]


@pytest.fixture(scope="module")
def small_proxy(shared_installation: Installation) -> Iterator[Proxy]:
    """A proxy that takes 100,000 bytes."""
    made = shared_installation.start_proxy({"MAX_BODY_BYTES": "100000"})
    yield made
    made.stop()


@pytest.fixture
def small(installation: Installation, small_proxy: Proxy) -> httpx.Client:  # noqa: ARG001 - the installation is made ready first
    """Its address; each request on a connection of its own, since a refused body is not read to its end."""
    return client_of(small_proxy.url)


@pytest.mark.parametrize("chunked", [False, True], ids=["content-length", "chunked"])
def test_a_body_over_the_limit_is_413(small: httpx.Client, installation: Installation, *, chunked: bool) -> None:
    """Over MAX_BODY_BYTES the request is refused in Anthropic's shape, whatever it says of its length."""
    body = b'{"model": "claude-opus-5-5", "x": "' + b"x" * 200_000 + b'"}'
    with small:
        pieces = (body[at : at + 10_000] for at in range(0, len(body), 10_000))
        answer = small.post("/v1/messages", content=pieces if chunked else body, headers=HEADERS)
        assert answer.status_code == 413
        assert error_of(answer)["type"] == "request_too_large"
        assert "MAX_BODY_BYTES" in error_of(answer)["message"]
        assert installation.anthropic.requests == []
        assert small.post("/v1/messages", json=ASK, headers=HEADERS).status_code == 200


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_a_decompression_bomb_is_413(small: httpx.Client, installation: Installation, coding: str) -> None:
    """A small body that becomes a large one is refused before it does."""
    bomb = compressed(b"0" * 50_000_000, coding)
    assert len(bomb) < 100_000
    with small:
        answer = small.post("/v1/messages", content=bomb, headers=HEADERS | {"content-encoding": coding})
    assert answer.status_code == 413
    assert installation.anthropic.requests == []


@pytest.mark.parametrize(("coding", "body"), [("gzip", b"no gzip"), ("snappy", PLAIN), ("zstd", b"\x28\xb5\x2f\xfd")])
def test_a_body_that_is_not_what_it_says(
    small: httpx.Client, installation: Installation, coding: str, body: bytes
) -> None:
    """A broken or unknown coding is the client's fault, told at once."""
    with small:
        answer = small.post("/v1/messages", content=body, headers=HEADERS | {"content-encoding": coding})
    assert answer.status_code == 400
    assert error_of(answer)["type"] == "invalid_request_error"
    assert installation.anthropic.requests == []


def test_a_body_that_is_no_json_goes_nowhere(http: httpx.Client, anthropic_fake: FakeProvider) -> None:
    """What can't be read here could be read otherwise elsewhere, past every limit."""
    answer = http.post("/v1/messages", content=b"{ not json", headers=HEADERS)
    assert error_of(answer)["message"].startswith("The request body is not valid JSON")
    assert anthropic_fake.requests == []


def test_a_client_that_leaves_while_it_sends(proxy: Proxy, installation: Installation, http: httpx.Client) -> None:
    """A request that is never finished asks nobody, and the proxy lives on."""
    with socket.create_connection(("127.0.0.1", proxy.port)) as connection:
        connection.sendall(b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n{")
    assert ask(http).status_code == 200
    assert len(installation.anthropic.requests) == 1
