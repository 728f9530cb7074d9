"""Traces over OTLP: a span for each request, with a child span for each attempt, by OpenTelemetry's conventions for
generative AI (github.com/open-telemetry/semantic-conventions, `gen-ai`). Contains no prompt, no answer, and no client's
key.

Spans are made from this process's events when attempts end, and exported by a thread of OpenTelemetry's SDK from a
bounded queue that drops what does not fit. Disabled, at no cost, unless OTEL_EXPORTER_OTLP_ENDPOINT is set and the
extra `otlp` is installed. Not here: metrics (`metrics`).
"""

import asyncio
import logging
import os
from hashlib import sha256
from typing import Any

from service.ledger.events import AttemptEnded, Event
from service.ledger.ids import time_of_request_id_ms
from service.ledger.usage_lines import served_model
from service.settings import Settings
from service.version import DISTRIBUTION

log = logging.getLogger("ccproxy.traces")

PATH = "/v1/traces"
EXPORT_S = 2.0
"""Timeout of an export, also during a stop."""
SERVICE = "claude-code-proxy"
NS = 1_000_000


class Traces:
    """Makes spans from AttemptEnded events."""

    def __init__(self, settings: Settings, version: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        named = {} if "OTEL_SERVICE_NAME" in os.environ else {"service.name": SERVICE}
        exporter = OTLPSpanExporter(settings.otlp_endpoint.rstrip("/") + PATH, timeout=EXPORT_S)
        self._providers = {route.id: route.provider.id for route in (*settings.routes, settings.client_route)}
        self._processor = BatchSpanProcessor(exporter)
        self._span: Any = ReadableSpan
        self._own = {
            "resource": Resource.create({**named, "service.version": version}),
            "instrumentation_scope": InstrumentationScope(SERVICE, version),
        }

    def record_event(self, route: str, event: Event) -> None:
        """Make the spans of an event of this process."""
        if not isinstance(event, AttemptEnded):
            return
        self._tell(event, self._attempt(route, event), own=event.attempt_id, parent=event.request_id)
        if event.final:
            self._tell(event, request_of(event), own=event.request_id, parent="")

    def _attempt(self, route: str, event: AttemptEnded) -> dict[str, Any]:
        from opentelemetry.trace import SpanKind

        chats = event.endpoint == "messages"
        attributes = {"ccproxy.route": route, "gen_ai.provider.name": self._providers.get(route, "")}
        attributes |= usage_of(event) if chats else {}
        return {
            "name": f"chat {event.model_sent}" if chats else event.endpoint,
            "kind": SpanKind.CLIENT,
            "start_time": event.started_at_ms * NS,
            "attributes": span_attributes(event) | attributes,
        }

    def _tell(self, event: AttemptEnded, fields: dict[str, Any], *, own: str, parent: str) -> None:
        from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags

        def context(name: str) -> SpanContext:
            """Derive trace and span ids, so that a child span knows its parent before that has ended."""
            trace, span = number(f"trace {event.request_id}", 16), number(f"span {name}", 8)
            return SpanContext(trace, span, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))

        span = self._span(
            **fields,
            **self._own,
            context=context(own),
            parent=context(parent) if parent else None,
            end_time=event.at_ms * NS,
            status=Status(StatusCode.ERROR if event.outcome == "failed" else StatusCode.UNSET),
        )
        self._processor.on_end(span)

    async def stop(self) -> None:
        """Export queued spans, within the exporter's timeout."""
        await asyncio.to_thread(self._processor.shutdown)


def open_traces(settings: Settings, version: str) -> Traces | None:
    """Create the tracer if the settings enable it."""
    if not settings.otlp_endpoint:
        return None
    try:
        return Traces(settings, version)
    except ImportError:
        log.warning("traces.off", extra={"mend": f"pip install {DISTRIBUTION}[otlp]"})
        return None


def request_of(event: AttemptEnded) -> dict[str, Any]:
    """Return a request span's fields from its last attempt; the start time is taken from the request id."""
    from opentelemetry.trace import SpanKind

    arrived_ms = min(time_of_request_id_ms(event.request_id), event.started_at_ms)
    return {
        "name": f"request {event.endpoint}",
        "kind": SpanKind.SERVER,
        "start_time": arrived_ms * NS,
        "attributes": span_attributes(event),
    }


def span_attributes(event: AttemptEnded) -> dict[str, Any]:
    """Return the attributes common to both kinds of span."""
    found: dict[str, Any] = {"ccproxy.request_id": event.request_id, "ccproxy.outcome": event.outcome}
    if event.endpoint == "messages":
        found |= {"gen_ai.operation.name": "chat", "gen_ai.request.model": event.model_asked}
    if event.status:
        found["http.response.status_code"] = event.status
    if event.kind:
        found["error.type"] = event.kind
    return found


def usage_of(event: AttemptEnded) -> dict[str, Any]:
    """Return the model and usage attributes; the conventions count cached input as input."""
    tokens = event.tokens
    written = tokens.cache_write_5m + tokens.cache_write_1h
    return {
        "gen_ai.response.model": served_model(event),
        "gen_ai.usage.input_tokens": tokens.input + tokens.cache_read + written,
        "gen_ai.usage.output_tokens": tokens.output,
        "gen_ai.usage.cache_read.input_tokens": tokens.cache_read,
        "gen_ai.usage.cache_creation.input_tokens": written,
    }


def number(name: str, size_bytes: int) -> int:
    """Derive an OpenTelemetry id from a name."""
    return int.from_bytes(sha256(name.encode()).digest()[:size_bytes], "big")
