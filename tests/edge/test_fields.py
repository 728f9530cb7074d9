"""What is read of a body: by types, and field by field where something in it is strange."""

from typing import Any

import msgspec
import pytest

from service.edge.calls import read_fields
from service.relay import Call

BODY: dict[str, Any] = {
    "model": "claude-opus-5-5",
    "max_tokens": 64,
    "stream": True,
    "container": {"id": "container_011"},
    "thread": {"previous_message_id": "msg_011"},
    "context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]},
    "system": [{"type": "text", "text": "a system"}],
    "messages": [
        {"role": "user", "content": "hi"},
        {"role": "user", "content": [{"type": "document", "source": {"type": "file", "file_id": "file_011"}}]},
    ],
}
READ: dict[str, Any] = {
    "model": "claude-opus-5-5",
    "max_tokens": 64,
    "stream": True,
    "threaded": True,
    "trimmed": True,
    "resource_ids": ("msg_011", "container_011", "file_011"),
}


def read(body: Any) -> Call:
    """What is read of it."""
    plain = msgspec.json.encode(body)
    call = Call(request_id="q", method="POST", path="/v1/messages", plain=plain, body=plain)
    read_fields(call)
    return call


def told(call: Call) -> dict[str, Any]:
    """What routing looks at."""
    return {name: getattr(call, name) for name in READ}


def test_a_usual_body() -> None:
    """All of it, and its content blocks; nothing is asked of what is not there."""
    call = read(BODY)
    assert told(call) == READ
    assert [block.type for block in call.blocks or ()] == ["document"]
    assert told(read({})) == told(Call(request_id="q", method="POST", path="/v1/messages"))
    assert told(read(BODY | {"container": "container_022"}))["resource_ids"] == ("msg_011", "container_022", "file_011")


@pytest.mark.parametrize(
    ("strange", "otherwise"),
    [
        ({"model": 5}, {"model": ""}),
        ({"model": None}, {"model": ""}),
        ({"stream": "yes"}, {"stream": False}),
        ({"max_tokens": "many"}, {"max_tokens": 0}),
        ({"max_tokens": 1.5}, {"max_tokens": 0}),
        ({"max_tokens": -1}, {"max_tokens": 0}),
        ({"container": [1]}, {"resource_ids": ("msg_011", "file_011")}),
        ({"container": {"id": 7}}, {"resource_ids": ("msg_011", "file_011")}),
        ({"container": "c" * 129}, {"resource_ids": ("msg_011", "file_011")}),
        ({"thread": {"previous_message_id": 7}}, {"resource_ids": ("container_011", "file_011")}),
        ({"thread": "new"}, {"threaded": False, "resource_ids": ("container_011", "file_011")}),
        ({"context_management": 7}, {"trimmed": False}),
        ({"messages": [*BODY["messages"], {"role": "user", "content": [7]}]}, {}),
        ({"messages": "none"}, {"resource_ids": ("msg_011", "container_011")}),
    ],
)
def test_a_strange_field_spoils_no_other(strange: dict[str, Any], otherwise: dict[str, Any]) -> None:
    """Each is read as if the others were as usual."""
    assert told(read(BODY | strange)) == READ | otherwise
