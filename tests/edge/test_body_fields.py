"""What is read of a body, and what is refused since it could be read in two ways."""

from typing import Any

import msgspec
import pytest

from service.edge.body_fields import read_fields
from service.errors import ClientError
from service.protocol.body_survey import blocks_of
from service.relay import ClientRequest
from service.settings import BodyLimits

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


def read(body: Any) -> ClientRequest:
    """What is read of it."""
    return read_bytes(msgspec.json.encode(body))


def read_bytes(plain: bytes) -> ClientRequest:
    """What is read of a body as it came."""
    call = ClientRequest(request_id="q", method="POST", path="/v1/messages", plain=plain, body=plain)
    read_fields(call, BodyLimits())
    return call


def told(call: ClientRequest) -> dict[str, Any]:
    """What routing looks at."""
    return {name: getattr(call, name) for name in READ}


def test_a_usual_body() -> None:
    """All of it, and its content blocks; nothing is asked of what is not there."""
    call = read(BODY)
    assert told(call) == READ
    assert [block.type for block in blocks_of(call.messages or ())] == ["document"]
    assert told(read({})) == told(ClientRequest(request_id="q", method="POST", path="/v1/messages"))
    assert told(read(BODY | {"container": "container_022"}))["resource_ids"] == ("msg_011", "container_022", "file_011")


@pytest.mark.parametrize(
    ("field", "otherwise"),
    [
        ({"stream": None}, {"stream": False}),
        ({"max_tokens": None}, {"max_tokens": 0}),
        ({"max_tokens": 64.0}, {}),
        ({"container": None}, {"resource_ids": ("msg_011", "file_011")}),
        ({"thread": {}}, {"resource_ids": ("container_011", "file_011")}),
        ({"thread": None}, {"threaded": False, "resource_ids": ("container_011", "file_011")}),
        ({"context_management": 7}, {"trimmed": False}),
        ({"messages": [*BODY["messages"], {"role": "user", "content": [7]}]}, {}),
        ({"messages": "none"}, {"resource_ids": ("msg_011", "container_011")}),
        ({"model": "Anthropic/Claude-Opus-5-5-20260115"}, {"model": "Anthropic/Claude-Opus-5-5-20260115"}),
    ],
)
def test_an_unusual_field_spoils_no_other(field: dict[str, Any], otherwise: dict[str, Any]) -> None:
    """What has one meaning only is read, or left to the provider where it decides nothing here."""
    assert told(read(BODY | field)) == READ | otherwise


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"model": 5}, "model: Input should be a valid string"),
        ({"model": None}, "model: Input should be a valid string"),
        ({"model": "claude-opus-5-5 "}, "model: String should have no blanks"),
        ({"model": "claude opus"}, "model: String should have no blanks"),
        ({"model": "\ufeffclaude-opus-5-5"}, "model: String should have no blanks"),
        ({"model": "claude-opus-5-5\u200b"}, "model: String should have no blanks"),
        ({"model": "claude-opus-5-5\n"}, "model: String should have no blanks"),
        ({"model": "claude\u00a0opus"}, "model: String should have no blanks"),
        ({"model": "m" * 257}, "model: String should have at most 256"),
        ({"stream": 1}, "stream: Input should be a valid boolean"),
        ({"stream": "true"}, "stream: Input should be a valid boolean"),
        ({"stream": []}, "stream: Input should be a valid boolean"),
        ({"max_tokens": "64"}, "max_tokens: Input should be a valid integer"),
        ({"max_tokens": True}, "max_tokens: Input should be a valid integer"),
        ({"max_tokens": 1.5}, "max_tokens: Input should be a valid integer"),
        ({"max_tokens": -5}, "max_tokens: Input should be greater than or equal to 0"),
        ({"max_tokens": 1e30}, "max_tokens: Input should be less than or equal to"),
        ({"max_tokens": 2**63}, "max_tokens: Input should be less than or equal to"),
        ({"container": [1]}, "container: Input should be a valid string"),
        ({"container": {"id": 7}}, "container: Input should be a valid string"),
        ({"container": "c" * 129}, "at most 128 characters"),
        ({"thread": {"previous_message_id": 7}}, "thread: Input should be a valid dictionary"),
        ({"thread": "new"}, "thread: Input should be a valid dictionary"),
    ],
)
def test_a_field_that_decides_is_of_its_kind(field: dict[str, Any], words: str) -> None:
    """Whoever reads the body next might take 1 for true, or cut a blank off."""
    with pytest.raises(ClientError, match=words):
        read(BODY | field)


USUAL = '"model":"claude-haiku-4-6","max_tokens":9'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"model":"claude-opus-5-5",%s}', "model: Duplicate key"),
        ('{"model":"claude-haiku-4-6",%s}', "model: Duplicate key"),
        ('{ "model" : "claude-opus-5-5" , %s }', "model: Duplicate key"),
        ('{"mod\\u0065l":"claude-opus-5-5",%s}', "model: Duplicate key"),
        ('{%s,"model":"claude-haiku-4-6"}', "model: Duplicate key"),
        ('{"stream":true,%s,"stream":false}', "stream: Duplicate key"),
        ('{"max_tokens":9999,%s}', "max_tokens: Duplicate key"),
        ('{"max_tokens":99,%s}', "max_tokens: Duplicate key"),
        ('{"x":1,%s,"x":1}', "x: Duplicate key"),
        ('{"messages":[],%s,"messages":[{"role":"user","content":"x"}]}', "messages: Duplicate key"),
        ('{"container":{"id":"a","id":"b"},%s}', "container.id: Duplicate key"),
        ('{"container":{"id":"a", "i\\u0064":"b"},%s}', "container.id: Duplicate key"),
        ('{"thread":{"previous_message_id":"a","previous_message_id":null},%s}', "thread.previous_message_id: Dup"),
        ('{"messages":[{"role":"user","content":[{"file_id":"a","file_id":"b"}]}],%s}', "Duplicate key on the way"),
        ('{"messages":[{"role":"user","content":[{"file_id":"a","file_id":null}]}],%s}', "Duplicate key on the way"),
        ('{"messages":[{"content":[{"source":{"file_id":"a"},"source":"x"}]}],%s}', "Duplicate key on the way"),
        ('{"messages":[{"content":[{"f\\u0069le_id":"a","file_id":null}]}],%s}', "Duplicate key on the way"),
        ('{"messages":[{"content":[{"file_id":"a"}],"content":"x"}],%s}', "Duplicate key on the way"),
        ('{"messages":[7,{"content":[{"file_id":"a","file_id":"b"}]}],%s}', "a key twice in one object"),
    ],
)
def test_no_key_that_decides_stands_twice(text: str, words: str) -> None:
    """Some parsers take the first, some the last: limits would hold for the one, and the other be served."""
    with pytest.raises(ClientError, match=words):
        read_bytes((text % USUAL).encode())


@pytest.mark.parametrize(
    "text",
    [
        "{ %s }",
        '{\n  %s ,\t"system" : [ ] }\r\n',
        '{%s,"na\\u00efve":1,"b":"a \\"model\\": \\"x\\""}',
        '{%s,"tools":[{"name":"a","input_schema":{"properties":{"model":{},"stream":{}}}}]}',
        '{%s,"messages":[{"role":"user","content":[{"type":"text","text":"{\\"model\\":1}"}]}]}',
        '{%s,"é":1}',
    ],
)
def test_other_spellings_of_a_body_pass(text: str) -> None:
    """Blanks, escapes and keys of the same name at other places are no second key."""
    assert read_bytes((text % USUAL).encode()).model == "claude-haiku-4-6"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not valid JSON"),
        (b"[]", "should be a JSON object"),
        (b'"text"', "should be a JSON object"),
        (b"{", "not valid JSON"),
        (b'{"model":"m"} {"model":"n"}', "not valid JSON"),
        (b'\xef\xbb\xbf{"model":"m"}', "not valid JSON"),
        ('{"model":"m"}'.encode("utf-16"), "not valid JSON"),
        (b'{"model":"m","x":"\xff"}', "not valid JSON"),
        (b'{"model":"m","x":"\xed\xa0\x80"}', "not valid JSON"),
        (b'{"model":"m","x":"\\ud800"}', "no low surrogate in string"),
        (b'{"model":"m","x":NaN}', "not valid JSON"),
        (b"{'model':'m'}", "not valid JSON"),
        (b'{"model":' + b"[" * 100_000, "not valid JSON"),
    ],
)
def test_what_cant_be_read_here_is_refused_here(body: bytes, words: str) -> None:
    """Another parser might read it, and no limit would hold."""
    with pytest.raises(ClientError, match=words):
        read_bytes(body)


def test_keys_are_bounded_where_they_are_matched() -> None:
    """A key of 32 MB of escapes would be matched for half a second, in which nothing else runs."""
    for key in (b"\\n" * 10_001, b"k" * 10_001):
        with pytest.raises(ClientError, match="10000 characters"):
            read_bytes(b'{ "model":"m","' + key + b'":1}')
    assert read_bytes(b'{ "model":"m","' + b"\\n" * 9_999 + b'":1}').model == "m"


RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "a file"}]}
WORDS = {"role": "user", "content": [{"type": "text", "text": "go on"}]}
REMINDER = {"role": "system", "content": "remember"}
SEARCHED = {"role": "assistant", "content": [{"type": "web_search_tool_result", "content": []}]}


@pytest.mark.parametrize(
    ("messages", "mid_turn"),
    [
        ([], False),
        ([REMINDER], False),
        ([RESULT], True),
        ([{"role": "user", "content": [*WORDS["content"], *RESULT["content"]]}], True),
        ([RESULT, REMINDER, REMINDER], True),
        ([SEARCHED], True),
        ([RESULT, WORDS], False),
        ([RESULT, {"role": "user", "content": "go on"}], False),
        ([RESULT, {"role": 1}], False),
    ],
)
def test_results_of_tools_are_within_a_turn(messages: list[Any], *, mid_turn: bool) -> None:
    """In the last message, whatever system messages follow; earlier ones were answered."""
    assert read({"messages": messages}).mid_turn is mid_turn
