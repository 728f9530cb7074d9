"""The fake satisfies the real Anthropic SDK, on every path that the proxy relays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anthropic
import pytest

from tests.fakes import FakeProvider, Text, Thinking, ToolUse, Usage, reply

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL = "claude-opus-5-5"
ASK: list[Any] = [{"role": "user", "content": "hi"}]
TOOLS: list[Any] = [{"name": "Read", "description": "read", "input_schema": {"type": "object"}}]
USAGE = Usage(input=21, output=9, cache_read=7, cache_write_5m=5, cache_write_1h=3)


@pytest.fixture
def fake() -> Iterator[FakeProvider]:
    with FakeProvider("anthropic", keys={"key-1"}) as provider:
        yield provider


@pytest.fixture
def client(fake: FakeProvider) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=fake.base_url, api_key="key-1", max_retries=0) as sdk:
        yield sdk


def test_create_reads_text_and_usage(fake: FakeProvider, client: anthropic.Anthropic) -> None:
    """A scripted message comes back as JSON with exactly its usage, and stands so in what was served."""
    fake.script(reply.message("hello", usage=USAGE))
    message = client.messages.create(model=MODEL, max_tokens=50, messages=ASK)
    assert [block.type for block in message.content] == ["text"]
    assert read_usage(message.usage) == USAGE
    [served] = fake.served
    assert (served.usage, served.complete, served.message_id) == (USAGE, True, message.id)
    assert message._request_id == served.request_id


def test_stream_carries_thinking_text_and_tool_use(fake: FakeProvider, client: anthropic.Anthropic) -> None:
    """A stream gives back every block as scripted and the same usage as JSON would."""
    arguments = {"file_path": "/tmp/ä.txt", "limit": 3}  # noqa: S108 - a name only
    fake.script(reply.message(blocks=(Thinking("why?"), Text("naïve 🙂"), ToolUse("Read", arguments)), usage=USAGE))
    with client.messages.stream(model=MODEL, max_tokens=50, messages=ASK, tools=TOOLS) as stream:
        message = stream.get_final_message()
    thinking, text, tool = message.content
    assert thinking.type == "thinking"
    assert thinking.thinking == "why?"
    assert thinking.signature.startswith("sig-anthropic-")
    assert text.type == "text"
    assert text.text == "naïve 🙂"
    assert tool.type == "tool_use"
    assert tool.input == arguments
    assert message.stop_reason == "tool_use"
    assert read_usage(message.usage) == USAGE
    assert fake.usage_served == USAGE


def test_unscripted_usage_is_the_same_in_every_run(fake: FakeProvider, client: anthropic.Anthropic) -> None:
    """Answers that no script describes carry small usages that differ, and whose sum is known."""
    seen = [read_usage(client.messages.create(model=MODEL, max_tokens=5, messages=ASK).usage) for _ in range(3)]
    assert len(set(seen)) == 3
    assert fake.usage_served == Usage(input=39, output=21, cache_read=18, cache_write_5m=6, cache_write_1h=2)


def test_count_tokens_is_no_inference(fake: FakeProvider, client: anthropic.Anthropic) -> None:
    """Counting takes no scripted message, and never counts nothing."""
    fake.script(reply.message("kept"))
    assert client.messages.count_tokens(model=MODEL, messages=ASK).input_tokens > 0
    assert fake.scripted_left == 1
    assert fake.usage_served == Usage()


def test_models_are_paged(fake: FakeProvider, client: anthropic.Anthropic) -> None:
    """The list of models comes in pages of the size asked for, and a model by its id."""
    names = [model.id for model in client.models.list(limit=3)]
    assert len(names) == len(set(names)) == 4
    assert len(fake.requests_to("/v1/models")) == 2
    assert client.models.retrieve(names[0]).id == names[0]
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("claude-none")


def test_batch_results_lie_at_an_absolute_url(fake: FakeProvider, client: anthropic.Anthropic) -> None:
    """A batch goes from creation to results, which the SDK fetches at the absolute URL it was given."""
    params: Any = {"model": MODEL, "max_tokens": 5, "messages": ASK}
    batch = client.messages.batches.create(requests=[{"custom_id": name, "params": params} for name in "ab"])
    assert batch.processing_status == "in_progress"
    ended = client.messages.batches.retrieve(batch.id)
    assert ended.results_url == f"{fake.root_url}/v1/messages/batches/{batch.id}/results"
    assert [(line.custom_id, line.result.type) for line in client.messages.batches.results(batch.id)] == [
        ("a", "succeeded"),
        ("b", "succeeded"),
    ]
    assert [each.id for each in client.messages.batches.list()] == [batch.id]


def test_a_canceled_batch_has_canceled_results(client: anthropic.Anthropic) -> None:
    """A batch that was cancelled ends without messages."""
    params: Any = {"model": MODEL, "max_tokens": 5, "messages": ASK}
    batch = client.messages.batches.create(requests=[{"custom_id": "a", "params": params}])
    assert client.messages.batches.cancel(batch.id).processing_status == "canceling"
    assert client.messages.batches.retrieve(batch.id).request_counts.canceled == 1
    assert [line.result.type for line in client.messages.batches.results(batch.id)] == ["canceled"]


def test_files_come_back_as_uploaded(client: anthropic.Anthropic) -> None:
    """An uploaded file keeps its name, type and bytes until it is deleted."""
    content = bytes(range(256)) + b"\r\n--\r\n"
    made = client.files.upload(file=("a.bin", content, "application/octet-stream"))
    assert (made.filename, made.size_bytes) == ("a.bin", len(content))
    assert client.files.download(made.id).read() == content
    assert [each.id for each in client.files.list()] == [made.id]
    client.files.delete(made.id)
    with pytest.raises(anthropic.NotFoundError):
        client.files.retrieve_metadata(made.id)


def test_a_thread_continues_only_where_it_began(client: anthropic.Anthropic) -> None:
    """A message of another provider can't be continued: 404 thread_not_found with its details."""
    first = client.messages.create(model=MODEL, max_tokens=5, messages=ASK, extra_body={"thread": {"type": "create"}})
    go_on = {"thread": {"type": "continue", "previous_message_id": first.id}}
    client.messages.create(model=MODEL, max_tokens=5, messages=ASK, extra_body=go_on)
    elsewhere = {"thread": {"type": "continue", "previous_message_id": "msg_other"}}
    with pytest.raises(anthropic.NotFoundError) as caught:
        client.messages.create(model=MODEL, max_tokens=5, messages=ASK, extra_body=elsewhere)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"]["details"] == {"error_code": "thread_not_found"}


def test_the_provider_knows_the_calls_of_a_thread(fake: FakeProvider, client: anthropic.Anthropic) -> None:
    """A continued thread takes a tool's result alone; without the thread, nothing called that tool."""
    fake.script(reply.tool_use("Read", {"file_path": "a"}))
    first = client.messages.create(model=MODEL, max_tokens=5, messages=ASK, extra_body={"thread": {"type": "create"}})
    [call] = first.content
    assert call.type == "tool_use"
    result: list[Any] = [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id}]}]
    go_on = {"thread": {"type": "continue", "previous_message_id": first.id}}
    client.messages.create(model=MODEL, max_tokens=5, messages=result, extra_body=go_on)
    with pytest.raises(anthropic.BadRequestError, match="unexpected `tool_use_id`"):
        client.messages.create(model=MODEL, max_tokens=5, messages=result)


def test_a_container_is_named_when_asked_for(client: anthropic.Anthropic) -> None:
    """An answer names the container that was asked for, and none otherwise."""
    made = client.messages.create(model=MODEL, max_tokens=5, messages=ASK, extra_body={"container": {}})
    assert made.container is not None
    again = client.messages.create(model=MODEL, max_tokens=5, messages=ASK, extra_body={"container": made.container.id})
    assert again.container is not None
    assert again.container.id == made.container.id
    assert client.messages.create(model=MODEL, max_tokens=5, messages=ASK).container is None


def test_a_wrong_key_uses_up_no_script(fake: FakeProvider, client: anthropic.Anthropic) -> None:
    """A wrong key is a 401, is noted as it came, and leaves the script alone."""
    fake.script(reply.message("kept"))
    with pytest.raises(anthropic.AuthenticationError):
        client.with_options(api_key="key-2").messages.create(model=MODEL, max_tokens=5, messages=ASK)
    assert (fake.requests[0].credential_kind, fake.requests[0].credential) == ("bearer", "key-2")
    assert fake.scripted_left == 1


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 413, 429, 500, 503, 504, 529])
def test_errors_have_the_shape_that_the_sdk_reads(fake: FakeProvider, client: anthropic.Anthropic, status: int) -> None:
    """An error's status, type and request id arrive in the SDK's exception."""
    fake.script(reply.error(status, retry_after_s=7))
    with pytest.raises(anthropic.APIStatusError) as caught:
        client.messages.create(model=MODEL, max_tokens=5, messages=ASK)
    assert caught.value.status_code == status
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"]["type"] == reply.ERROR_TYPES[status][0]
    assert caught.value.response.headers["retry-after"] == "7"
    assert caught.value.request_id == fake.served[0].request_id


@pytest.mark.parametrize("after", ["start", "message_start", "content"])
def test_a_stream_error_reaches_the_sdk(fake: FakeProvider, client: anthropic.Anthropic, after: Any) -> None:
    """`event: error` is raised by the SDK wherever it stands; only what was told before it counts."""
    fake.script(reply.stream_error(after))
    with (
        pytest.raises(anthropic.APIStatusError) as caught,
        client.messages.stream(model=MODEL, max_tokens=5, messages=ASK) as stream,
    ):
        stream.get_final_message()
    assert caught.value.status_code == 200
    assert (fake.usage_served == Usage()) == (after == "start")


def test_a_stream_error_without_a_stream_is_the_http_error(fake: FakeProvider, client: anthropic.Anthropic) -> None:
    """A request that asked for JSON gets the status of the same trouble."""
    fake.script(reply.stream_error("start"))
    with pytest.raises(anthropic.OverloadedError):
        client.messages.create(model=MODEL, max_tokens=5, messages=ASK)


def test_zai_tells_its_usage_last() -> None:
    """Z.AI's message_start says zeros; the SDK reads the true figures from the last message_delta."""
    with (
        FakeProvider("zai", keys={"z"}) as fake,
        anthropic.Anthropic(base_url=fake.base_url, api_key="z", max_retries=0) as client,
    ):
        fake.script(reply.message(usage=Usage(input=30, output=4, cache_read=2)))
        with client.messages.stream(model="glm-5.2", max_tokens=5, messages=ASK) as stream:
            events = list(stream)
            final = stream.get_final_message()
        assert fake.requests[0].path == "/api/anthropic/v1/messages"
    assert events[0].type == "message_start"
    assert (final.usage.input_tokens, final.usage.output_tokens, final.usage.cache_read_input_tokens) == (30, 4, 2)


async def test_the_async_sdk_works_in_the_same_loop_as_the_test(fake: FakeProvider) -> None:
    """The fake's thread answers while the test's own event loop waits."""
    async with anthropic.AsyncAnthropic(base_url=fake.base_url, api_key="key-1", max_retries=0) as client:
        await client.messages.create(model=MODEL, max_tokens=5, messages=ASK)
    await fake.wait_until_async(lambda: fake.served[0].ended == "complete")


def read_usage(usage: anthropic.types.Usage) -> Usage:
    """The SDK's usage in the fake's words."""
    created = usage.cache_creation
    assert created is not None
    return Usage(
        input=usage.input_tokens,
        output=usage.output_tokens,
        cache_read=usage.cache_read_input_tokens or 0,
        cache_write_5m=created.ephemeral_5m_input_tokens,
        cache_write_1h=created.ephemeral_1h_input_tokens,
    )
