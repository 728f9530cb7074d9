"""A provider's answer that becomes gigabytes when it is decoded: memory stays bounded, and the client is told."""

import gzip
import tracemalloc
import zlib
from collections.abc import Iterator

import pytest

from tests.attacks.raw import SeenRequest, answer, byte_provider, raw_client, request
from tests.support.proxies import ASK, STREAM, Server

MOST_BYTES = 60_000_000
"""What tracing sees at the height; the bombs become twice as much and more."""
START = b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","usage":{"input_tokens":1}}}\n\n'
DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"a"}}\n\n'


def bomb(start: bytes, repeated: bytes, megabytes: int = 128) -> bytes:
    """`start` and then so many megabytes of the same, compressed twice."""
    packer = zlib.compressobj(1, wbits=31)
    block = repeated * (1_000_000 // len(repeated))
    parts = [packer.compress(start), *(packer.compress(block) for _ in range(megabytes)), packer.flush()]
    return gzip.compress(b"".join(parts))


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    ("status", "content_type", "said", "asked", "told"),
    [
        (200, "application/json", bomb(b'{"type":"message","content":"', b"0"), ASK, 502),
        (400, "application/json", bomb(b'{"type":"error","error":{"message":"', b"0"), ASK, 400),
        (529, "text/html", bomb(b"<", b"0"), ASK, 529),
        (200, "text/event-stream", bomb(START, b": nothing" * 99 + b"\n\n"), STREAM, 200),
        (200, "text/event-stream", bomb(START, b": a comment without an end"), STREAM, 200),
        (200, "text/event-stream", bomb(START + DELTA, b": nothing" * 99 + b"\n\n"), STREAM, 200),
        (200, "text/event-stream", bomb(START + DELTA, b"data: an event without an end"), STREAM, 200),
    ],
    ids=["message", "error", "page", "comments", "comment", "comments behind content", "event behind content"],
)
async def test_an_answer_is_decoded_within_bounds(
    server: Server, status: int, content_type: str, said: bytes, asked: dict[str, object], told: int
) -> None:
    """A few kilobytes that stand for more than a hundred megabytes."""

    def script(_: SeenRequest) -> bytes:
        return answer(said, status, content_type, content_encoding="gzip, gzip")

    assert len(said) < 8_000
    async with byte_provider(script) as provider:
        served = await server.start(anthropic=provider.base_url)
        tracemalloc.reset_peak()
        async with raw_client(served.url) as client:
            seen = await client.ask(request(asked))
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    assert seen.status == told
    assert len(seen.body) < MOST_BYTES
    if told == 200:
        assert b"event: error" in seen.body[-2_000:]


@pytest.mark.usefixtures("traced")
async def test_results_of_a_batch_are_decoded_within_bounds(server: Server) -> None:
    """They pass in pieces, and are cut where they grow beyond measure."""
    said = bomb(b'{"custom_id":"a","result":{"type":"errored"}}\n', b"0")
    async with byte_provider(lambda _: answer(said, content_encoding="gzip, gzip")) as provider:
        served = await server.start(anthropic=provider.base_url)
        tracemalloc.reset_peak()
        async with raw_client(served.url) as client:
            await client.send(request(target="/v1/messages/batches/msgbatch_011aaaaaa/results", method="GET"))
            assert len(await client.closed()) < MOST_BYTES
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
