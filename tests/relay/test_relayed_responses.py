"""Responses other than messages through the relay, in memory: files, batches, lists, unknown endpoints."""

import asyncio
from typing import Any

import msgspec
import pytest

from service.errors import HomeUnknown, NotFound
from service.fleet.resource_index import IndexAway, ResourceHome, ResourceIndex
from service.http1.upstream import UpstreamError
from service.ledger.events import BatchItemUsed, ResourceCreated
from service.relay.ownership import home_of
from tests.support.fake_upstream import MESSAGE, error, reply, stream
from tests.support.relay_harness import ASK, BOTH, ONLY_ANTHROPIC, MemoryClient, RelayFactory, RelayHarness
from tests.support.streams import DELTA, END, START
from tests.support.virtual_time import advance

BATCH = "msgbatch_1"
TWO_ACCOUNTS = (
    '[[routes]]\nid = "first"\nprovider = "anthropic"\nbase_url = "https://first.test"\napi_key = "first-key"\n'
    '[[routes]]\nid = "second"\nprovider = "anthropic"\nbase_url = "https://second.test"\napi_key = "second-key"\n'
)
GET: dict[str, Any] = {"method": "GET"}
ALICE: dict[str, Any] = {"owner": "alice", "shared": True}


def created(relay: RelayHarness) -> list[str]:
    """The resources on the ledger."""
    return [event.resource_id for _, event in relay.events if isinstance(event, ResourceCreated)]


# -- bodies that nobody looks into


async def test_a_file_is_copied_as_it_comes(relays: RelayFactory) -> None:
    relay = relays.make(ONLY_ANTHROPIC)
    relay.upstream.script(
        stream(b"ab", 1.0, b"cd", 700.0, b"ef", content_type="text/plain", headers={"content-length": "6"})
    )
    client = await relay.ask(b"", "/v1/files/file_1/content", endpoint="files", **GET)
    assert client.parts == [b"ab", b"cd", b"ef"]
    assert client.headers[b"content-length"] == b"6"
    assert relay.ended == [("anthropic", "ok", "")]
    assert relay.ends[0].tokens.output == 0


async def test_a_head_has_no_body(relays: RelayFactory) -> None:
    relay = relays.make(ONLY_ANTHROPIC)
    relay.upstream.script(reply(b"", headers={"content-length": "12"}))
    client = await relay.ask(b"", "/v1/models", endpoint="models", method="HEAD")
    assert (client.status, client.body, client.ended) == (200, b"", True)
    relay.upstream.script(reply(b"", 404))
    missing = await relay.ask(b"", "/v1/models/x", endpoint="models", method="HEAD")
    assert missing.status == 404


@pytest.mark.parametrize(
    ("steps", "content_type", "output"),
    [((b"x" * 400,), "text/plain", 100), ((START, DELTA, END), "text/event-stream", 9)],
    ids=["text", "events"],
)
async def test_what_an_unknown_endpoint_generates_counts(
    relays: RelayFactory, steps: tuple[bytes, ...], content_type: str, output: int
) -> None:
    relay = relays.make(ONLY_ANTHROPIC)
    relay.upstream.script(stream(*steps, content_type=content_type))
    client = await relay.ask(b"{}", "/v1/complete", endpoint="other")
    assert client.body == b"".join(steps)
    assert relay.ends[0].tokens.output == output


async def test_a_copy_that_breaks_stays_cut(relays: RelayFactory) -> None:
    relay = relays.make()
    relay.upstream.script(stream(b"ab", b"cd", UpstreamError("reset", "broken"), content_type="text/plain"))
    client = await relay.ask(b"{}", "/v1/complete", endpoint="other")
    assert (client.body, client.broken, client.ended) == (b"abcd", True, False)
    assert relay.ended == [("anthropic", "failed", "reset")]
    assert relay.ends[0].tokens.output == 1


async def test_a_client_that_leaves_a_copy_is_recorded(relays: RelayFactory) -> None:
    relay = relays.make()
    relay.upstream.script(stream(b"x" * 400, 60.0, content_type="text/plain"))
    task = asyncio.create_task(relay.ask(b"{}", "/v1/complete", endpoint="other"))
    await advance(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (relay.ends[0].outcome, relay.ends[0].tokens.output) == ("aborted", 100)


async def test_tokens_are_counted_by_the_provider(relays: RelayFactory) -> None:
    relay = relays.make(ONLY_ANTHROPIC)
    relay.upstream.script(reply({"input_tokens": 12}))
    client = await relay.ask(ASK, "/v1/messages/count_tokens", endpoint="count_tokens")
    assert client.json == {"input_tokens": 12}


async def test_what_a_message_did_not_report_is_estimated(relays: RelayFactory) -> None:
    relay = relays.make(ONLY_ANTHROPIC)
    relay.upstream.script(reply(MESSAGE | {"usage": {}, "content": [{"type": "text", "text": "x" * 400}]}))
    await relay.ask(ASK)
    assert relay.ends[0].tokens.output >= 100
    assert relay.ends[0].tokens.input > 0


# -- batches and files


async def test_a_batch_lives_on_the_route_that_made_it(relays: RelayFactory) -> None:
    relay = relays.make({}, TWO_ACCOUNTS)
    results = "https://second.test/v1/messages/batches/msgbatch_1/results"
    relay.upstream.script(UpstreamError("connect", "refused"))
    relay.upstream.script(
        reply({"id": BATCH, "type": "message_batch", "results_url": results}), base_url="https://second.test"
    )
    made = await relay.ask({"requests": []}, "/v1/messages/batches", endpoint="batches", base_url="http://proxy")
    assert (made.status, made.route, created(relay)) == (200, "second", [BATCH])
    assert made.json["results_url"] == "http://proxy/v1/messages/batches/msgbatch_1/results"
    seen = await relay.ask(b"", f"/v1/messages/batches/{BATCH}", endpoint="batches", resource_ids=(BATCH,), **GET)
    assert seen.route == "second"
    assert created(relay) == [BATCH]


async def test_a_batch_of_unknown_home_is_looked_for_on_every_route(relays: RelayFactory) -> None:
    relay = relays.make({}, TWO_ACCOUNTS)
    relay.upstream.script(error(404, "not_found_error"), reply({"id": BATCH, "type": "message_batch"}))
    seen = await relay.ask(b"", f"/v1/messages/batches/{BATCH}", endpoint="batches", resource_ids=(BATCH,), **GET)
    assert (seen.status, seen.route) == (200, "second")


def line(custom_id: str) -> bytes:
    """A line of results."""
    return msgspec.json.encode({"custom_id": custom_id, "result": {"type": "succeeded", "message": MESSAGE}}) + b"\n"


async def test_the_results_of_a_batch_are_recorded_line_by_line(relays: RelayFactory) -> None:
    relay = relays.make(ONLY_ANTHROPIC)
    both = line("a") + line("b")
    relay.upstream.script(stream(both[:50], both[50:], content_type="application/x-jsonl"))
    client = await relay.ask(
        b"", f"/v1/messages/batches/{BATCH}/results", endpoint="batches", resource_ids=(BATCH,), **GET
    )
    assert client.body == both
    used = [event for _, event in relay.events if isinstance(event, BatchItemUsed)]
    assert [(event.custom_id, event.batch_id, event.tokens.output) for event in used] == [
        ("a", BATCH, 9),
        ("b", BATCH, 9),
    ]
    assert relay.ended == [("anthropic", "ok", "")]


async def test_an_item_of_a_batch_is_not_sent_before_it_is_recorded(relays: RelayFactory) -> None:
    """Nobody has nearly all of an item for nothing, by leaving before its line ends."""
    relay, client, first = relays.make(ONLY_ANTHROPIC), MemoryClient(), line("a")
    broken_off = (first[:-2], first[-2:] + line("b")[:-2], 3_600.0)
    relay.upstream.script(stream(*broken_off, content_type="application/x-jsonl"))
    path, ids = f"/v1/messages/batches/{BATCH}/results", (BATCH,)
    asking = asyncio.create_task(relay.ask(b"", path, client, endpoint="batches", resource_ids=ids, **GET))
    await advance(1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert client.body == first
    assert [event.custom_id for _, event in relay.events if isinstance(event, BatchItemUsed)] == ["a"]


async def test_files_and_containers_of_an_answer_are_recorded(relays: RelayFactory) -> None:
    relay = relays.make(ONLY_ANTHROPIC)
    outputs = [{"type": "code_execution_output", "file_id": "file_9"}]
    block = {"type": "code_execution_tool_result", "content": {"content": outputs}}
    relay.upstream.script(reply(MESSAGE | {"container": {"id": "container_1"}, "content": [block]}))
    await relay.ask(ASK)
    assert created(relay) == ["container_1", "file_9"]


# -- owners


class AwayIndex(ResourceIndex):
    """An index that can't be read."""

    async def home_of(self, resource_id: str, *, needs_owner: bool = False) -> ResourceHome | None:  # noqa: ARG002
        raise IndexAway


async def bind(relay: RelayHarness, resource_id: str, owner: str, route: str = "anthropic") -> None:
    await relay.resources.bind(resource_id, ResourceHome(route, relay.clock.new_id(), owner))


async def test_a_list_holds_ones_own_items_alone(relays: RelayFactory) -> None:
    relay = relays.make(ONLY_ANTHROPIC)
    await bind(relay, "file_1", "alice")
    await bind(relay, "file_2", "bob")
    items = [{"id": "file_1"}, {"id": "file_2"}, {"id": "file_3"}, {}, 7]
    relay.upstream.script(reply({"data": items, "has_more": True}), reply({"data": "none"}))
    client = await relay.ask(b"", "/v1/files", endpoint="files", **GET, **ALICE)
    assert client.json == {"data": [{"id": "file_1"}], "has_more": True}
    odd = await relay.ask(b"", "/v1/files", endpoint="files", **GET, **ALICE)
    assert odd.json == {"data": "none"}


async def test_what_a_resource_made_by_itself_belongs_to_its_owner(relays: RelayFactory) -> None:
    """Runs of a deployment, its sessions, files of a session: by what the item itself says; then they are known."""
    relay = relays.make(ONLY_ANTHROPIC)
    for resource_id, owner in (("depl_1", "alice"), ("depl_2", "bob"), ("sesn_1", "alice"), ("agent_1", "alice")):
        await bind(relay, resource_id, owner)
    await bind(relay, "drun_9", "bob")
    items = [
        {"id": "drun_1", "deployment_id": "depl_1"},
        {"id": "drun_2", "deployment_id": "depl_2", "agent": {"id": "agent_1"}},
        {"id": "drun_9", "deployment_id": "depl_1"},
        {"id": "file_1", "scope": {"id": "sesn_1", "type": "session"}},
        {"id": "file_2", "scope": {"id": "sesn_7", "type": "session"}},
        {"id": "sesn_2", "agent": {"id": "agent_1", "version": 3}, "deployment_id": None},
        {"id": "sesn_1", "scope": ["of another kind"]},
        {"deployment_id": "depl_1"},
    ]
    relay.upstream.script(reply({"data": items}), reply({"id": "drun_1"}))
    client = await relay.ask(b"", "/v1/deployment_runs", endpoint="other", **GET, **ALICE)
    assert [item["id"] for item in client.json["data"]] == ["drun_1", "file_1", "sesn_2", "sesn_1"]
    again = await relay.ask(
        b"",
        "/v1/deployment_runs/drun_1",
        endpoint="other",
        resource_ids=("drun_1",),
        names_in_path=True,
        **GET,
        **ALICE,
    )
    assert again.status == 200
    with pytest.raises(NotFound):
        await relay.ask(b"", "/v1/deployment_runs/drun_2", endpoint="other", resource_ids=("drun_2",), **GET, **ALICE)


async def test_a_list_whose_owners_nobody_knows_is_not_shown(relays: RelayFactory) -> None:
    relay = relays.make(ONLY_ANTHROPIC)
    relay.relay._runner._responses._resources = AwayIndex(None)
    relay.upstream.script(reply({"data": [{"id": "file_1"}]}))
    with pytest.raises(HomeUnknown):
        await relay.ask(b"", "/v1/files", endpoint="files", **GET, **ALICE)
    assert relay.ended == [("anthropic", "aborted", "")]


@pytest.mark.parametrize("owner", ["bob", ""])
async def test_anothers_resource_does_not_exist(relays: RelayFactory, owner: str) -> None:
    relay = relays.make(ONLY_ANTHROPIC)
    await bind(relay, "file_2", owner)
    with pytest.raises(NotFound):
        await relay.ask(b"", "/v1/files/file_2", endpoint="files", resource_ids=("file_2",), **GET, **ALICE)
    assert relay.upstream.sent == []


async def test_ones_own_resource_is_asked_for_at_home(relays: RelayFactory) -> None:
    relay = relays.make({}, TWO_ACCOUNTS)
    await bind(relay, "file_1", "alice", "second")
    relay.upstream.script(reply({"id": "file_1", "type": "file"}))
    client = await relay.ask(b"", "/v1/files/file_1", endpoint="files", resource_ids=("file_1",), **GET, **ALICE)
    assert client.route == "second"


async def test_a_resource_without_an_owner_is_for_ones_own_account_alone(relays: RelayFactory) -> None:
    relay = relays.make(ONLY_ANTHROPIC | {"CLIENT_CREDENTIALS": "prefer"})
    await bind(relay, "file_1", "", "anthropic:client")
    relay.upstream.script(reply({"id": "file_1", "type": "file"}))
    client = await relay.ask(
        b"",
        "/v1/files/file_1",
        endpoint="files",
        resource_ids=("file_1",),
        credential="sk-ant-api03-own-cccccccccccccccc",
        **GET,
        **ALICE,
    )
    assert client.route == "anthropic:client"


@pytest.mark.parametrize(
    ("method", "shared", "is_known"), [("GET", False, True), ("POST", False, False), ("GET", True, False)]
)
async def test_while_the_index_is_away_only_a_sole_owner_may_read(
    relays: RelayFactory,
    method: str,
    shared: bool,  # noqa: FBT001
    is_known: bool,  # noqa: FBT001
) -> None:
    relay = relays.make(ONLY_ANTHROPIC)
    request = relay.request(b"", endpoint="files", method=method, shared=shared, resource_ids=("file_1",))
    if is_known:
        assert await home_of(request, AwayIndex(None), has_own_account=False) == ""
    else:
        with pytest.raises(HomeUnknown):
            await home_of(request, AwayIndex(None), has_own_account=False)


async def test_an_error_whose_body_never_comes_is_known_by_its_status(relays: RelayFactory) -> None:
    relay = relays.make()
    hanging = stream(1_000.0)
    relay.upstream.script(msgspec.structs.replace(hanging, status=529))
    client = await relay.ask(ASK)
    assert client.route == "zai"
    assert relay.ends[0].kind == "overloaded"
    assert relay.ends[0].total_ms == 5_000


async def test_an_answer_for_another_proxy_key_hides_the_account(relays: RelayFactory) -> None:
    """Who shares an account would take its limits for their own."""
    limits = {"anthropic-ratelimit-requests-limit": "50"}
    relay = relays.make(BOTH)
    relay.upstream.script(reply(headers=limits))
    assert b"anthropic-ratelimit-requests-limit" in (await relay.ask(ASK)).headers
    shared = relays.make(BOTH | {"PROXY_API_KEYS": "alice:ccp_" + "k" * 40})
    shared.upstream.script(reply(headers=limits), error(400, "invalid_request_error", "no", limits))
    assert b"anthropic-ratelimit-requests-limit" not in (await shared.ask(ASK)).headers
    assert b"anthropic-ratelimit-requests-limit" not in (await shared.ask(ASK)).headers
