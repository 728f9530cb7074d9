"""Every fault that a script can ask for is on the wire as asked, seen with httpx and bare sockets."""

from __future__ import annotations

import socket
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.fakes import FakeProvider, Reply, Usage, closed_port, reply
from tests.fakes.api import error_fields
from tests.fakes.language import Encoding, Error
from tests.fakes.zai_codes import ZAI_CODES

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADERS = {"x-api-key": "k", "anthropic-version": "2023-06-01"}
ASK = {"model": "claude-opus-5-5", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
STREAM = ASK | {"stream": True}
BROKEN = (httpx.RemoteProtocolError, httpx.ReadError)


@pytest.fixture
def fake() -> Iterator[FakeProvider]:
    with FakeProvider("anthropic") as provider:
        yield provider


@pytest.fixture
def client(fake: FakeProvider) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=fake.base_url, headers=HEADERS, trust_env=False, timeout=5) as http:
        yield http


def ask(client: httpx.Client, body: dict[str, Any] = STREAM) -> httpx.Response:
    return client.post("/v1/messages", json=body)


def read_until_broken(client: httpx.Client, body: dict[str, Any] = STREAM) -> tuple[bytes, str]:
    """What came before the break, and the kind of break."""
    got = b""
    try:
        with client.stream("POST", "/v1/messages", json=body) as response:
            for part in response.iter_raw():
                got += part
    except BROKEN as error:
        return got, type(error).__name__
    return got, "none"


def exchange(fake: FakeProvider, body: bytes) -> bytes:
    """All bytes that come until the fake ends the connection."""
    with socket.create_connection(("127.0.0.1", httpx.URL(fake.base_url).port or 0)) as sock:
        sock.sendall(b"POST /v1/messages HTTP/1.1\r\nx-api-key: k\r\nanthropic-version: 1\r\n")
        sock.sendall(b"content-length: %d\r\n\r\n" % len(body) + body)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def names(got: bytes) -> list[str]:
    return [line[7:].decode() for line in got.split(b"\n") if line.startswith(b"event: ")]


def test_a_stream_has_the_events_and_the_padding_of_the_api(client: httpx.Client) -> None:
    """A plain stream has Anthropic's events in order, blanks inside its data, and its headers."""
    response = ask(client)
    order = names(response.content)
    assert order[:3] == ["message_start", "content_block_start", "ping"]
    assert order[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert b" }\n" in response.content
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert {"request-id", "anthropic-organization-id", "anthropic-ratelimit-tokens-reset"} <= set(response.headers)


def test_zai_streams_say_zero_first(client: httpx.Client) -> None:
    """Z.AI's message_start carries zeros and its message_delta all the figures."""
    with FakeProvider("zai") as zai:
        zai.script(reply.message(usage=Usage(input=30, output=4, cache_read=2)))
        got = client.post(zai.base_url + "/v1/messages", json=STREAM | {"model": "glm-5.2"}).content
        assert b'"usage":{"input_tokens":0,"output_tokens":0}' in got
        assert b'"usage":{"input_tokens":30,"output_tokens":4,"cache_read_input_tokens":2}' in got
        zai.script(reply.reset("content_block_delta"))
        read_until_broken_at(zai)
        assert zai.served[1].usage == Usage()


def read_until_broken_at(zai: FakeProvider) -> None:
    with httpx.Client(base_url=zai.base_url, headers=HEADERS, trust_env=False) as client:
        read_until_broken(client, STREAM | {"model": "glm-5.2"})


def test_refusing_holds_the_port_and_comes_back(fake: FakeProvider, client: httpx.Client) -> None:
    """While refusing, connections are refused and open ones are reset; afterwards the same address works."""
    ask(client)
    with fake.refusing():
        for _ in range(2):
            with pytest.raises((httpx.ConnectError, *BROKEN)):
                ask(client)
        with pytest.raises(httpx.ConnectError):
            ask(client)
    assert ask(client).status_code == 200


def test_a_closed_port_refuses() -> None:
    """A held port refuses every connection."""
    with closed_port() as port, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_tls_fails_at_the_tls_address(fake: FakeProvider) -> None:
    """A TLS handshake with the fake fails, and the fake lives on."""
    with pytest.raises(httpx.ConnectError):
        httpx.get(fake.failing_tls_url + "/v1/models", trust_env=False)
    assert httpx.get(fake.base_url + "/v1/models", headers=HEADERS, trust_env=False).status_code == 200


def test_a_reset_is_a_reset(fake: FakeProvider) -> None:
    """Before headers the kernel reports ECONNRESET, not an end of file."""
    fake.script(reply.reset("request"))
    with pytest.raises(ConnectionResetError):
        exchange(fake, b'{"model":"claude-x"}')
    assert fake.served[0].ended == "reset"


@pytest.mark.parametrize(
    ("scripted", "last_event"),
    [
        (reply.reset("headers"), None),
        (reply.fin("headers"), None),
        (reply.reset("message_start"), "message_start"),
        (reply.fin("content_block_delta"), "content_block_delta"),
        (reply.reset("events", 3), "ping"),
        (reply.fin("events", -1), "message_delta"),
        (reply.reset("end"), "message_stop"),
    ],
    ids=lambda value: None if isinstance(value, Reply) else str(value),
)
def test_a_stream_breaks_where_the_script_says(
    fake: FakeProvider, client: httpx.Client, scripted: Reply, last_event: str | None
) -> None:
    """Everything up to the break arrives, nothing after it, and the break is an error of the connection."""
    fake.script(scripted)
    got, broken = read_until_broken(client)
    assert broken != "none"
    assert names(got)[-1:] == ([last_event] if last_event else [])
    [served] = fake.served
    assert not served.complete
    assert served.events_sent == len(names(got))
    assert served.body_bytes_sent == len(got)


def test_a_break_after_bytes_counts_them(fake: FakeProvider, client: httpx.Client) -> None:
    """A reset after 100 bytes of the body lets exactly 100 through."""
    fake.script(reply.reset("bytes", 100))
    assert len(read_until_broken(client)[0]) == 100
    assert fake.served[0].usage == Usage()


def test_json_breaks_in_its_middle(fake: FakeProvider, client: httpx.Client) -> None:
    """An answer without events breaks in the middle of its body, and no usage was told."""
    fake.script(reply.fin("message_start"))
    got, broken = read_until_broken(client, ASK)
    assert broken == "RemoteProtocolError"
    assert got
    assert fake.served[0].usage == Usage()


@pytest.mark.parametrize("body", [ASK, STREAM], ids=["json", "stream"])
def test_a_truncated_answer_is_whole_http(fake: FakeProvider, client: httpx.Client, body: dict[str, Any]) -> None:
    """HTTP ends properly though the content does not, and the connection stays usable."""
    fake.script(reply.truncated(), reply.no_message_stop())
    assert b"message_stop" not in ask(client, body).content
    got = ask(client, body).content
    assert b"message_stop" not in got
    assert {each.ended for each in fake.served} == {"end"}
    assert len({each.connection for each in fake.requests}) == 1


@pytest.mark.parametrize("after", ["request", "headers", "message_start", "content_block_delta"])
def test_a_hang_lasts_until_the_client_goes(fake: FakeProvider, after: Any) -> None:
    """The fake is silent from the point on; when the client gives up, that is written down."""
    fake.script(reply.hang(after))
    with httpx.Client(base_url=fake.base_url, headers=HEADERS, trust_env=False, timeout=0.2) as client:
        with pytest.raises(httpx.ReadTimeout):
            ask(client)
        fake.wait_until(lambda: fake.requests[0].aborted)
    assert fake.served[0].ended == "hang"
    assert fake.requests[0].client_closed_s is not None


def test_a_client_that_goes_mid_stream_is_noted(fake: FakeProvider, client: httpx.Client) -> None:
    """Closing the connection during a slow stream marks the request aborted, with the usage told so far."""
    fake.script(reply.drip(20).cut("hang", "message_delta"))
    with client.stream("POST", "/v1/messages", json=STREAM) as response:
        next(response.iter_raw())
    fake.wait_until(lambda: fake.requests[0].aborted)
    assert fake.served[0].usage.input > 0
    assert not fake.served[0].complete


def test_a_pause_is_no_end(fake: FakeProvider, client: httpx.Client) -> None:
    """After silences before the headers, before the body and within it, the answer is whole."""
    fake.script(reply.slow(5).pausing(5, "headers").pausing(5, "message_start").pausing(5, "bytes", 900))
    assert names(ask(client).content)[-1] == "message_stop"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
@pytest.mark.parametrize("chunk_bytes", [0, 1])
@pytest.mark.parametrize("body", [ASK, STREAM], ids=["json", "stream"])
def test_compressed_answers_decode(
    fake: FakeProvider, client: httpx.Client, encoding: Encoding, chunk_bytes: int, body: dict[str, Any]
) -> None:
    """Every encoding, whole or byte by byte, decodes to the text that was scripted."""
    fake.script(reply.message("naïve 日本語").compressed(encoding).in_chunks(chunk_bytes))
    response = ask(client, body)
    assert response.headers["content-encoding"] == encoding
    assert "naïve 日本語" in response.content.decode()


def test_each_compressed_event_can_be_read_at_once(fake: FakeProvider, client: httpx.Client) -> None:
    """Compressed events are flushed one by one: the first is readable while the second is held back."""
    fake.script(reply.hang("message_start").compressed("gzip"))
    with client.stream("POST", "/v1/messages", json=STREAM) as response:
        assert names(next(response.iter_bytes())) == ["message_start"]


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("body", [ASK, STREAM], ids=["json", "stream"])
def test_every_framing_is_valid_http(fake: FakeProvider, client: httpx.Client, framing: Any, body: Any) -> None:
    """Chunked, with a length, or ended by closing: the client reads the same answer."""
    fake.script(reply.message("framed").framed(framing))
    response = ask(client, body)
    assert b"framed" in response.content
    assert ("content-length" in response.headers) == (framing == "length")
    assert ask(client).status_code == 200


def test_one_byte_chunks_are_one_byte(fake: FakeProvider) -> None:
    """Each HTTP chunk of such a stream holds a single byte."""
    fake.script(reply.message("é").in_chunks(1).closing())
    got = exchange(fake, b'{"model":"claude-x","stream":true}')
    assert got.partition(b"\r\n\r\n")[2].startswith(b"1\r\ne\r\n1\r\nv\r\n1\r\ne\r\n")
    assert got.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize(
    ("scripted", "status", "content_type"),
    [
        (reply.empty(), 200, "text/event-stream; charset=utf-8"),
        (reply.empty(content_type=None), 200, None),
        (reply.html(200), 200, "text/html; charset=utf-8"),
        (reply.html(), 502, "text/html; charset=utf-8"),
        (reply.garbage(), 200, "text/event-stream; charset=utf-8"),
        (reply.json_for_stream(), 200, "application/json"),
        (reply.wrong_content_type(), 200, "text/plain"),
        (reply.error(503), 503, "application/json"),
        (reply.error(429).with_headers({"x-should-retry": None}), 429, "application/json"),
    ],
)
def test_odd_answers_have_the_status_and_type_asked_for(
    fake: FakeProvider, client: httpx.Client, scripted: Reply, status: int, content_type: str | None
) -> None:
    """Empty, HTML, garbage, JSON for a stream: status and content type are the script's."""
    fake.script(scripted)
    response = ask(client)
    assert (response.status_code, response.headers.get("content-type")) == (status, content_type)
    assert "x-should-retry" not in response.headers or status == 503


def test_ten_megabytes_arrive(fake: FakeProvider, client: httpx.Client) -> None:
    """A large answer arrives whole, as JSON and as a stream."""
    fake.script(reply.large().repeated(2))
    assert len(ask(client, ASK).content) > 10_000_000
    assert len(ask(client).content) > 10_000_000
    assert all(each.complete for each in fake.served)


def test_a_stream_may_begin_with_pings_and_comments(fake: FakeProvider, client: httpx.Client) -> None:
    """The prelude comes before anything else, also before an error."""
    fake.script(reply.stream_error("start", prelude=("comment", "ping")))
    got = ask(client).content
    assert got.startswith(b": waiting\n\nevent: ping\n")
    assert names(got) == ["ping", "error"]


def test_a_dropped_connection_is_stale(fake: FakeProvider) -> None:
    """After an unannounced close the answer was whole and kept alive, and then the connection ends."""
    fake.script(reply.message("bye").closing(announced=False))
    got = exchange(fake, b'{"model":"claude-x"}')
    assert b"connection: keep-alive\r\n" in got
    assert b'"message"' in got
    assert fake.served[0].complete


def test_a_reply_waits_for_its_request(fake: FakeProvider, client: httpx.Client) -> None:
    """A reply for a path, a text or a header is kept for the first request that has it."""
    fake.script(
        reply.error(500).when("/v1/messages/count_tokens"),
        reply.error(503).when(body="needle"),
        reply.error(504).when(header=("X-Mark", "1")),
    )
    assert ask(client).status_code == 200
    assert client.post("/v1/messages/count_tokens", json=ASK).status_code == 500
    assert ask(client, STREAM | {"metadata": {"user_id": "needle"}}).status_code == 503
    assert client.post("/v1/messages", json=ASK, headers={"x-mark": "1"}).status_code == 504
    assert fake.scripted_left == 0


def test_a_reply_may_be_used_often(fake: FakeProvider, client: httpx.Client) -> None:
    """A reply is used as often as it says, and the default after it."""
    fake.script(reply.error(529).repeated(2))
    assert [ask(client).status_code for _ in range(3)] == [529, 529, 200]
    fake.script(reply.error(529).forever())
    assert [ask(client).status_code for _ in range(3)] == [529, 529, 529]


def test_requests_are_kept_as_sent(fake: FakeProvider) -> None:
    """Headers keep order and case, the query its text and the body its bytes."""
    with socket.create_connection(("127.0.0.1", httpx.URL(fake.base_url).port or 0)) as sock:
        sock.sendall(b"POST /v1/messages?beta=true&x=%20 HTTP/1.1\r\nX-Api-Key: k\r\nb: 1\r\nA: 2\r\nb: 3\r\n")
        sock.sendall(b"Content-Length: 4\r\n\r\n{\xc3\xa9}")
        assert sock.recv(12) == b"HTTP/1.1 400"
    [request] = fake.requests
    assert (request.path, request.query, request.body) == ("/v1/messages", "beta=true&x=%20", b"{\xc3\xa9}")
    assert request.headers == [("X-Api-Key", "k"), ("b", "1"), ("A", "2"), ("b", "3"), ("Content-Length", "4")]


def test_unknown_paths_are_not_found(client: httpx.Client) -> None:
    """Any other path is a 404 in Anthropic's shape."""
    response = client.post("/v1/none", json={})
    assert response.status_code == 404
    assert response.json()["error"]["type"] == "not_found_error"
    assert response.json()["request_id"] == response.headers["request-id"]


@pytest.mark.parametrize(
    ("change", "wording"),
    [
        ({"model": "glm-5.2"}, "model: glm-5.2"),
        ({"context_management": {}}, "Extra inputs are not permitted"),
        ({"messages": [{"role": "assistant", "content": [{"type": "thinking", "signature": "sig-zai-1"}]}]}, "`sig"),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "a.b"}]}]},
            "String should match pattern",
        ),
        ({"messages": [{"role": "assistant", "content": [{"type": "server_tool_use", "id": "call_1"}]}]}, "srvtoolu_"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]}, "must be non-empty"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}]}]}, "unexpected"),
        (
            {
                "max_tokens": 4_000,
                "thinking": {"type": "enabled", "budget_tokens": 1_024},
                "messages": [
                    {"role": "user", "content": "ls"},
                    {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "n", "input": {}}]},
                    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "ok"}]},
                ],
            },
            "Expected `thinking`",
        ),
    ],
    ids=[
        "model",
        "beta pair",
        "signature",
        "tool id",
        "server tool id",
        "empty text",
        "lost result",
        "no first thought",
    ],
)
def test_another_vendors_leavings_are_refused(
    fake: FakeProvider, client: httpx.Client, change: dict[str, Any], wording: str
) -> None:
    """What the real provider refuses is refused, and uses up no script."""
    fake.script(reply.message())
    response = ask(client, ASK | change)
    assert response.status_code in (400, 404)
    assert wording in response.json()["error"]["message"]
    assert fake.scripted_left == 1


@pytest.mark.parametrize("code", ZAI_CODES)
@pytest.mark.parametrize("shape", ["anthropic", "bare", "typed", "message"])
def test_zai_codes_in_every_shape(code: int, shape: Any) -> None:
    """Each code is where its shape has it, as text or as a number."""
    for number in (False, True):
        body = reply.zai_error(code, shape=shape, number=number).body
        assert isinstance(body, Error)
        error = error_fields(body, "id")["error"]
        wanted = code if number else str(code)
        found = {"typed": error.get("type"), "message": error["message"]}.get(shape, error.get("code"))
        assert found == wanted or (shape == "message" and f"[{code}]" in error["message"])
        assert ("code" in error) == (shape in ("anthropic", "bare"))


def test_a_reset_stamp_is_beijing_time() -> None:
    """Z.AI's reset is written eight hours ahead of UTC and without an offset."""
    body = reply.zai_error(1308, reset=datetime(2026, 11, 22, 20, 0, tzinfo=UTC)).body
    assert "reset at 2026-11-23 04:00:00" in getattr(body, "message", "")


def test_many_at_once_are_all_counted(fake: FakeProvider) -> None:
    """With requests from several threads, what was served adds up to what they read."""
    totals: list[int] = []

    def work() -> None:
        with httpx.Client(base_url=fake.base_url, headers=HEADERS, trust_env=False) as client:
            totals.extend(ask(client, ASK).json()["usage"]["output_tokens"] for _ in range(10))

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fake.served) == 50
    assert fake.usage_served.output == sum(totals)
