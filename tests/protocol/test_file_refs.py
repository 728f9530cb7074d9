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
