"""Traces through the real server and OpenTelemetry's own exporter, before a receiver on the loopback."""

import asyncio
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.fakes import FakeProvider, reply
from tests.support.proxies import STREAM, Server

HIDDEN = "words-of-the-prompt-marked"


class Receiver(ThreadingHTTPServer):
    """Takes what an exporter sends."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies: list[bytes] = []
        self.paths: set[str] = set()
        self.url = f"http://127.0.0.1:{self.server_port}"

    @property
    def spans(self) -> list[Span]:
        """All that came."""
        sent = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        return [
            span for one in sent for resource in one.resource_spans for scope in resource.scope_spans
            for span in scope.spans
        ]  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    """One request of the exporter."""

    server: Receiver

    def do_POST(self) -> None:
        """Remember it."""
        self.server.paths.add(self.path)
        self.server.bodies.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        thread = Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def values(span: Span) -> dict[str, str | int]:
    """Its attributes."""
    return {one.key: one.value.string_value or one.value.int_value for one in span.attributes}


async def test_a_request_is_a_span_and_so_is_each_attempt(
    server: Server, anthropic: FakeProvider, zai: FakeProvider, receiver: Receiver
) -> None:
    """Parent and children in one trace, under the agreed names; sent at the latest when the proxy ends."""
    served = await server.start(
        anthropic=anthropic, zai=zai, variables={"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url + "/"}
    )
    anthropic.script(reply.error(529))
    answer = await served.ask(STREAM | {"messages": [{"role": "user", "content": HIDDEN}]})
    assert answer.status_code == 200
    assert served.parts.traces is not None
    await served.parts.traces.stop()
    assert receiver.paths == {"/v1/traces"}
    failed, answered, request = receiver.spans
    assert {span.trace_id for span in (failed, answered, request)} == {request.trace_id}
    assert (failed.parent_span_id, answered.parent_span_id, request.parent_span_id) == (*[request.span_id] * 2, b"")
    assert len({failed.span_id, answered.span_id, request.span_id}) == 3
    assert request.start_time_unix_nano <= failed.start_time_unix_nano <= answered.start_time_unix_nano
    assert answered.end_time_unix_nano == request.end_time_unix_nano
    assert (failed.status.code, answered.status.code) == (Status.STATUS_CODE_ERROR, Status.STATUS_CODE_UNSET)
    assert values(failed)["error.type"] == "overloaded"
    end = served.ends[-1][1]
    assert values(answered) == {
        "ccproxy.request_id": answer.headers["x-ccproxy-request-id"],
        "ccproxy.outcome": "ok",
        "ccproxy.route": "zai",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "zai",
        "gen_ai.request.model": STREAM["model"],
        "gen_ai.response.model": end.model_sent,
        "gen_ai.usage.input_tokens": end.tokens.input + end.tokens.cache_read,
        "gen_ai.usage.output_tokens": end.tokens.output,
        "gen_ai.usage.cache_read.input_tokens": end.tokens.cache_read,
        "gen_ai.usage.cache_creation.input_tokens": 0,
        "http.response.status_code": 200,
    }
    assert not any(HIDDEN.encode() in body for body in receiver.bodies)


async def test_a_collector_that_is_away_costs_no_request(server: Server, anthropic: FakeProvider) -> None:
    """Nor does it keep the proxy from ending."""
    away = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    served = await server.start(anthropic=anthropic, variables=away)
    assert (await served.ask()).status_code == 200
    assert served.parts.traces is not None
    async with asyncio.timeout(20):
        await served.parts.traces.stop()


async def test_without_the_extra_it_says_so_and_serves(
    server: Server, anthropic: FakeProvider, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A variable that was meant for others ends nothing."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    served = await server.start(anthropic=anthropic, variables={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})
    assert served.parts.traces is None
    assert "traces.off" in caplog.text
    assert (await served.ask()).status_code == 200
