"""Which files a request names: wherever Anthropic's documentation lets them stand, and in bodies that are strange."""

import json
from typing import Any

import pytest

from service.edge.body_fields import MOST_FILE_IDS, read_fields
from service.errors import ClientError
from service.ledger.events import Endpoint
from service.protocol.file_refs import Block, ResourceId, file_ids, named_ids
from service.relay import ClientRequest
from service.settings import BodyLimits


def named_in(*content: Any) -> tuple[str, ...]:
    """What is looked up for a request with these content blocks."""
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": list(content)}]}).encode()
    call = ClientRequest(request_id="q", method="POST", path="/v1/messages", plain=body, body=body)
    read_fields(call, BodyLimits())
    assert call.model == "m"
    return call.resource_ids


def source(file_id: Any) -> dict[str, Any]:
    return {"type": "document", "source": {"type": "file", "file_id": file_id}}


@pytest.mark.parametrize(
    "block",
    [
        source("file_1"),
        {"type": "container_upload", "file_id": "file_1"},
        {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "see"}, source("file_1")]},
        {
            "type": "bash_code_execution_tool_result",
            "tool_use_id": "t",
            "content": {"type": "bash_code_execution_result", "content": [{"type": "x", "file_id": "file_1"}]},
        },
        {
            "type": "document",
            "source": {"type": "content", "content": [{"type": "text", "text": "a"}, source("file_1")]},
        },
        {"type": "document", "source": {"type": "content", "content": source("file_1")}},
        {"type": "tool_result", "content": [{"type": "document", "source": {"content": [source("file_1")]}}]},
    ],
)
def test_a_file_is_found_where_it_may_stand(block: dict[str, Any]) -> None:
    """A request goes where its files live."""
    assert named_in({"type": "text", "text": "Read it."}, block) == ("file_1",)


def test_all_files_are_named_in_their_order() -> None:
    """The first ones tell, should there be many."""
    names = [f"file_{number}" for number in range(MOST_FILE_IDS + 4)]
    assert named_in(*map(source, names)) == tuple(names[:MOST_FILE_IDS])


def test_ids_beyond_measure_are_refused() -> None:
    """They are no ids, and too many would have to be asked for."""
    with pytest.raises(ClientError, match="at most 128 characters"):
        named_in(source("f" * 129))
    with pytest.raises(ClientError, match="more than 1000"):
        named_in(*(source(f"file_{number}") for number in range(1001)))


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
        {"type": "search_result", "source": "https://example.org/file_1", "content": [{"type": "text", "text": "a"}]},
        {"type": "tool_use", "id": "toolu_1", "name": "read", "input": {"file_id": "file_1"}},
        {"type": "text", "text": '"file_id": "file_1"'},
        {"type": "tool_result", "tool_use_id": "t", "content": "text"},
        {"type": "tool_result", "tool_use_id": "t", "content": None},
        {"type": "document", "source": {"type": "content", "content": "file_1"}},
        {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "file_1"}]}},
    ],
)
def test_what_is_no_file_of_the_api_is_none(block: dict[str, Any]) -> None:
    """Words, the input of a tool of the client's own, and ids beyond measure."""
    assert named_in(block) == ()


@pytest.mark.parametrize("strange", [{"type": 7}, {"source": []}, {"content": 5}, {"content": [[]]}, "text", None])
def test_a_strange_block_hides_no_file(strange: Any) -> None:
    """The body is looked through all the same."""
    assert named_in(strange, source("file_1")) == ("file_1",)


@pytest.mark.parametrize("endpoint", ["batches", "files", "other"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("value", ["[]", "{}", "1"])
def test_bodies_of_other_endpoints_are_bounded(endpoint: Endpoint, encoding: str, value: str) -> None:
    """32 MB of lists would be eleven million, a gigabyte and a quarter of a minute in which nothing else runs."""
    body = f'{{"requests":[{",".join([value] * 7_000)}]}}'.encode(encoding)
    with pytest.raises(ClientError, match="MAX_CONTENT_BLOCKS"):
        named_ids(body, endpoint, BodyLimits(content_blocks=2_000))


def test_what_is_no_json_names_nothing() -> None:
    """Whatever bytes an upload has."""
    assert named_ids(b"\0[[[,,," * 500_000, "other", BodyLimits()) == ()
    assert named_ids(b"--x\r\n" + b"[,{" * 500_000, "other", BodyLimits()) == ()


def test_files_are_found_however_deep() -> None:
    """The decoder of newer Pythons goes deeper than a function may call itself: that was a 500."""
    block = Block(file_id=ResourceId("file_1"))
    for _ in range(3_000):
        block = Block(content=[Block(type="text"), block])
    assert list(file_ids([block, Block(file_id=ResourceId("file_2"))])) == ["file_1", "file_2"]


def test_words_hold_no_blocks() -> None:
    """Neither a text in place of blocks nor nothing at all hides the file behind it."""
    blocks = [Block(content="text"), Block(content=""), Block(content=None), Block(file_id=ResourceId("file_1"))]
    assert list(file_ids(blocks)) == ["file_1"]


def batch(*params: Any) -> Any:
    """A body that makes a batch of these requests."""
    return {"requests": [{"custom_id": f"item_1abcdef{number}", "params": each} for number, each in enumerate(params)]}


SAYS_FILE = [{"role": "user", "content": [source("file_1")]}, {"role": "user", "content": "text"}]


@pytest.mark.parametrize(
    ("body", "ids"),
    [
        pytest.param(batch({"messages": SAYS_FILE}, {"messages": SAYS_FILE}), ("file_1",), id="a file, named twice"),
        pytest.param(batch({"container": "container_1"}), ("container_1",), id="a container"),
        pytest.param(batch({"thread": {"previous_message_id": "msg_1"}}), ("msg_1",), id="a thread"),
        pytest.param(batch({"thread": {}}, {"thread": None}, {}), (), id="no thread"),
        pytest.param(
            batch({"container": "c", "thread": {"previous_message_id": "m"}, "messages": SAYS_FILE}),
            ("c", "m", "file_1"),
            id="all of them",
        ),
        pytest.param(batch({"file_id": "file_1", "input": {"file_id": "file_2"}}), (), id="where no file stands"),
        pytest.param(batch({"container": {"id": "container_1"}}), ("container_1",), id="a container as an object"),
        pytest.param(batch({"container": 7}), (), id="a number"),
        pytest.param({"requests": "x", "file_id": "file_1"}, ("file_1",), id="another shape"),
    ],
)
def test_what_the_requests_of_a_batch_name(body: Any, ids: tuple[str, ...]) -> None:
    """Read where the documentation has it; in a body of any other shape, wherever it stands."""
    assert named_ids(json.dumps(body).encode(), "batches", BodyLimits()) == ids


@pytest.mark.parametrize(
    ("plain", "reason"),
    [
        (b'{"requests":[{"params":{"container":"a","container":"b"}}]}', "Duplicate key on the way"),
        (b'{"requests":"x","file_id":"a","file_id":"b"}', "a key twice"),
        (b'{"requests":[', "not valid JSON"),
        (b"  [1, 2", "not valid JSON"),
    ],
)
def test_no_id_is_hidden_from_the_check(plain: bytes, reason: str) -> None:
    """A provider might read the other one."""
    with pytest.raises(ClientError, match=reason):
        named_ids(plain, "batches", BodyLimits())


@pytest.mark.parametrize("plain", [b"", b"text", b" \n", b"7"])
def test_a_body_that_cannot_hold_an_id_names_none(plain: bytes) -> None:
    assert named_ids(plain, "batches", BodyLimits()) == named_ids(plain, "files", BodyLimits()) == ()


AGENT = "agent_01AbCdEf"


@pytest.mark.parametrize(
    ("body", "known", "unknown"),
    [
        ({"file_id": "f", "container": "c", "batch_id": ["b", 7]}, {"f", "c", "b"}, {"f", "c", "b"}),
        ({"a": [{"b": {"session_id": "s"}}]}, {"s"}, {"s"}),
        ({"container": {"id": "c"}, "file_id": {"id": "f"}}, {"c"}, {"c"}),
        ({"skill_id": "skill_01AbCdEf"}, {"skill_01AbCdEf"}, {"skill_01AbCdEf"}),
        ({"skill_id": "pptx"}, set(), set()),
        ({"agent": AGENT}, set(), {AGENT}),
        ({"agents": [{"id": AGENT}, {"name": "x"}]}, set(), {AGENT}),
        ({"vault_id": "vault_1AbCdEf", "vault_ids": ["vault_2AbCdEf"]}, set(), {"vault_1AbCdEf", "vault_2AbCdEf"}),
        ({"vault_id": "words_alone", "vault": "vault_1AbCdEf", "id": "vault_3AbCdEf"}, set(), set()),
        ({"input": {"file_id": "f"}, "metadata": {"container": "c"}, "custom_id": "item_1AbCdEf"}, set(), set()),
    ],
    ids=["names", "however deep", "objects", "a skill", "one of the provider's", "an agent", "agents", "any other name",
         "what is no name", "what clients make up"],
)  # fmt: skip
def test_what_other_bodies_name(body: Any, known: set[str], unknown: set[str]) -> None:
    """On endpoints that are not known, whatever looks like an id in a field that ends like a name."""
    plain = json.dumps(body).encode()
    assert set(named_ids(plain, "files", BodyLimits())) == known
    assert set(named_ids(plain, "other", BodyLimits())) == unknown
