"""What the tests ask, and how they read the answers."""

import ssl
from itertools import count
from typing import Any

import anthropic
import httpx
import msgspec

from tests.fakes import Usage

MODEL = "claude-opus-5-5"
GLM = "glm-5.2"
"""What Claude's larger models are called at Z.AI."""
HI: list[Any] = [{"role": "user", "content": "hi"}]
ASK: dict[str, Any] = {"model": MODEL, "max_tokens": 64, "messages": HI}
STREAM = ASK | {"stream": True}
TOOLS: list[Any] = [{"name": "Read", "description": "read", "input_schema": {"type": "object"}}]
HEADERS = {"anthropic-version": "2023-06-01", "x-api-key": "the-clients-own-placeholder"}
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Made once, without certificates: all is plain HTTP here, and loading them costs 30 ms a client."""
OWN_HEADERS = ("x-ccproxy-request-id", "x-ccproxy-attempts", "request-id")
"""On every answer under /v1, whatever it is; those of an attempt bear `x-ccproxy-route` as well."""


STRANGERS = count(1)


def client_of(url: str, timeout_s: float = 30.0, connections: int = 10) -> httpx.Client:
    """A client that sends what it is told to, and no more."""
    limits = httpx.Limits(max_connections=connections)
    return httpx.Client(base_url=url, trust_env=False, timeout=timeout_s, limits=limits, verify=NO_TLS)


def stranger_to(url: str) -> httpx.Client:
    """A client at an address of its own, so that nobody else's wrong keys slow it down."""
    address = f"127.0.{next(STRANGERS)}.1"
    return httpx.Client(base_url=url, timeout=30, transport=httpx.HTTPTransport(local_address=address, verify=NO_TLS))


def ask(
    client: httpx.Client, body: dict[str, Any] | None = None, headers: dict[str, str] | None = None, path: str = ""
) -> httpx.Response:
    """One request for a message, read to its end."""
    return client.post(path or "/v1/messages", json=body or ASK, headers={**HEADERS, **(headers or {})})


def way(answer: httpx.Response) -> tuple[int, str | None, str]:
    """Status, route and number of attempts; the answer bears all that every answer must."""
    assert [name for name in OWN_HEADERS if not answer.headers.get(name)] == []
    return answer.status_code, answer.headers.get("x-ccproxy-route"), answer.headers["x-ccproxy-attempts"]


def event_names(content: bytes) -> list[str]:
    """The names of a stream's events, in order."""
    return [line[7:].decode() for line in content.splitlines() if line.startswith(b"event: ")]


def deltas(content: bytes) -> str:
    """The text of a stream."""
    parts = [line[6:] for line in content.splitlines() if line.startswith(b"data: ")]
    events: list[dict[str, Any]] = [msgspec.json.decode(part) for part in parts]
    return "".join(event["delta"].get("text", "") for event in events if event["type"] == "content_block_delta")


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """The error in Anthropic's envelope."""
    body: dict[str, Any] = answer.json()
    assert body["type"] == "error", body
    assert {"type", "message"} <= set(body["error"]), body
    found: dict[str, Any] = body["error"]
    return found


def usage_of(usage: anthropic.types.Usage) -> Usage:
    """The SDK's usage in the fakes' words."""
    created = usage.cache_creation
    return Usage(
        input=usage.input_tokens,
        output=usage.output_tokens,
        cache_read=usage.cache_read_input_tokens or 0,
        cache_write_5m=created.ephemeral_5m_input_tokens if created else 0,
        cache_write_1h=created.ephemeral_1h_input_tokens if created else 0,
    )
