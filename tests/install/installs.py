"""What a program installed from the wheel is asked for. Not here: installing it (`tests.support.wheels`)."""

from __future__ import annotations

import json
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from tests.support.wheels import START_S

ROOT = Path(__file__).parents[2]
MESSAGE = json.dumps(
    {"model": "claude-sonnet-4-6", "max_tokens": 16, "messages": [{"role": "user", "content": "hello"}]}
).encode()


def answers(port: int) -> bool:
    """Whether it answers the first request, with what the provider has sent."""
    connection = HTTPConnection("127.0.0.1", port, timeout=START_S)
    headers = {"content-type": "application/json", "anthropic-version": "2023-06-01"}
    try:
        connection.request("POST", "/v1/messages", MESSAGE, headers)
        answer = connection.getresponse()
        return answer.status == 200 and b'"usage"' in answer.read()
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def health(port: int) -> dict[str, object]:
    """What the proxy says about itself."""
    connection = HTTPConnection("127.0.0.1", port, timeout=START_S)
    try:
        connection.request("GET", "/health")
        told: dict[str, object] = json.loads(connection.getresponse().read())
        return told
    finally:
        connection.close()
