"""What lives on one route is asked for there; uploads stream through; downloads are nobody's to judge."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator

import httpx
import pytest
from redis.exceptions import RedisError

from service.ledger.events import ResourceCreated
from tests.fakes import FakeProvider, reply
from tests.support.proxies import ASK, STREAM, Server, Serving, connected
from tests.support.waiting import wait_until

OTHER_KEY = "sk-ant-api03-second-marked-cccccccccc"
ROUTES = """
[[routes]]
id = "first"
provider = "anthropic"
base_url = "{first}"
api_key = "sk-ant-api03-owner-marked-aaaaaaaaaaaa"

[[routes]]
id = "second"
provider = "anthropic"
base_url = "{second}"
api_key = "sk-ant-api03-second-marked-cccccccccc"
"""
CONTENT = "/v1/files/file_011CNha8iCJcU1wXNR6q4V8w/content"
RESULTS = "/v1/messages/batches/msgbatch_013Zva2CMHLNnXjNJJKqJ2EF/results"
BATCH = {"requests": [{"custom_id": "one", "params": ASK}]}


@pytest.fixture
def second() -> Iterator[FakeProvider]:
    with FakeProvider("anthropic", keys={OTHER_KEY}) as fake:
        yield fake


@pytest.fixture
async def served(server: Server, anthropic: FakeProvider, second: FakeProvider) -> Serving:
    """A proxy with two routes of the same provider."""
    path = server.home / "ccproxy.toml"
    path.write_text(ROUTES.format(first=anthropic.base_url, second=second.base_url))
    return await server.start(variables={"CCPROXY_CONFIG": str(path)})


async def test_a_batch_stays_on_the_route_that_made_it(served: Serving, anthropic: FakeProvider) -> None:
    """Made on the second route, a batch is read, listed in results and ended there, though the first is well again."""
    with anthropic.refusing():
        made = await served.http.post("/v1/messages/batches", json=BATCH)
    assert made.headers["x-ccproxy-route"] == "second"
    batch = made.json()["id"]
    [created] = [event for _, event in served.events if isinstance(event, ResourceCreated)]
    assert created.resource_id == batch
    seen = await served.http.get(f"/v1/messages/batches/{batch}")
    assert seen.headers["x-ccproxy-route"] == "second"
    url = seen.json()["results_url"]
    assert url.startswith(served.url + "/v1/messages/batches/"), "results come through the proxy"
    results = await served.http.get(url)
    assert results.status_code == 200
    assert results.headers["x-ccproxy-route"] == "second"
    assert "one" in results.text
    assert anthropic.requests == []
    gone = await served.http.delete(f"/v1/messages/batches/{batch}")
    assert gone.headers["x-ccproxy-route"] == "second"


async def test_a_resource_of_a_route_that_fails_is_not_looked_for_elsewhere(
    served: Serving, anthropic: FakeProvider, second: FakeProvider
) -> None:
    """While its route fails, a batch is an error, not a 404 of another route."""
    batch = (await served.http.post("/v1/messages/batches", json=BATCH)).json()["id"]
    anthropic.script(reply.error(500).when(f"/v1/messages/batches/{batch}"))
    answer = await served.http.get(f"/v1/messages/batches/{batch}")
    assert answer.status_code == 500
    assert second.requests == []


class Away:
    """A Redis that does not answer."""

    async def getex(self, *_: object, **__: object) -> bytes:
        raise RedisError("away")

    async def set(self, *_: object, **__: object) -> bytes:
        raise RedisError("away")


async def test_what_nobody_knows_is_looked_for(served: Serving, anthropic: FakeProvider, second: FakeProvider) -> None:
    """With Redis away reads try the routes until one has it; a route without it is not to blame."""
    with anthropic.refusing():
        batch = (await served.http.post("/v1/messages/batches", json=BATCH)).json()["id"]
    served.parts.resources._known.clear()
    served.parts.resources._redis = Away()  # type: ignore[assignment]
    seen = await served.http.get(f"/v1/messages/batches/{batch}")
    assert (seen.status_code, seen.headers["x-ccproxy-route"]) == (200, "second")
    gone = await served.http.get("/v1/messages/batches/msgbatch_01nowhere0")
    assert gone.status_code == 404
    assert [request.method for request in (*anthropic.requests, *second.requests)].count("GET") == 4


async def test_what_nobody_knows_is_not_written_to(served: Serving, anthropic: FakeProvider) -> None:
    """With Redis away a write to a resource that this process has not seen is a 503, not a guess."""
    served.parts.resources._redis = Away()  # type: ignore[assignment]
    ended = await served.http.post("/v1/messages/batches/msgbatch_01nowhere0/cancel")
    assert (ended.status_code, ended.headers["x-should-retry"]) == (503, "true")
    assert "while Redis is unavailable" in ended.json()["error"]["message"]
    assert anthropic.requests == []


async def test_a_file_goes_where_it_is_used(served: Serving, anthropic: FakeProvider) -> None:
    """A request that names a file goes to the file's route."""
    with anthropic.refusing():
        made = await upload(served, b"content")
    assert made.headers["x-ccproxy-route"] == "second"
    source = {"type": "file", "file_id": made.json()["id"]}
    messages = [{"role": "user", "content": [{"type": "document", "source": source}]}]
    answer = await served.ask(STREAM | {"messages": messages})
    assert answer.headers["x-ccproxy-route"] == "second"
    assert (await served.ask()).headers["x-ccproxy-route"] == "first"


async def test_a_thread_and_a_container_stay_on_their_route(
    served: Serving, anthropic: FakeProvider, second: FakeProvider
) -> None:
    """A thread is continued, and a container used again, where they were made: by streams and whole answers alike."""
    for body in (ASK, STREAM):
        anthropic.script(reply.error(529))
        await served.ask(body | {"thread": {"type": "create"}})
        previous = second.served[-1].message_id
        served.parts.watcher.view.routes.clear()
        answer = await served.ask(body | {"thread": {"type": "continue", "previous_message_id": previous}})
        assert (answer.status_code, answer.headers["x-ccproxy-route"]) == (200, "second")


async def upload(served: Serving, content: bytes) -> httpx.Response:
    """A file, as the SDK sends it."""
    return await served.http.post("/v1/files", files={"file": ("a.bin", content, "application/octet-stream")})


async def test_an_upload_streams_through(server: Server, anthropic: FakeProvider) -> None:
    """A file larger than any body that is read goes up as it comes, and arrives whole."""
    served = await server.start(anthropic=anthropic, variables={"MAX_BODY_BYTES": "1024"})
    content = bytes(range(256)) * 8_000
    made = await upload(served, content)
    assert made.status_code == 200
    [(_, stored)] = anthropic.resources.files.values()
    assert stored == content
    assert served.told == [("anthropic", "ok", "")]
    assert framing_of(anthropic.requests[0].headers) == {"content-length": made.request.headers["content-length"]}


def framing_of(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """How a body's end is told."""
    return {name.lower(): value for name, value in headers if name.lower() in ("content-length", "transfer-encoding")}


async def test_an_upload_goes_up_once(served: Serving, anthropic: FakeProvider, second: FakeProvider) -> None:
    """Refused after its body was sent, an upload is not sent on as an empty one: the refusal is the answer."""
    anthropic.script(reply.error(529).when("/v1/files"))
    made = await upload(served, b"x" * 100_000)
    assert made.status_code == 529
    assert second.requests == []


async def test_a_client_that_goes_in_mid_upload_is_accounted(server: Server, anthropic: FakeProvider) -> None:
    """Half an upload and then silence: the attempt ends as aborted, and the provider gets no whole request."""
    served = await server.start(anthropic=anthropic)
    async with connected(served) as wire:
        await wire.send(b"POST /v1/files HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n" + b"x" * 500)
        await wait_until(served.open_attempts)
    await wait_until(lambda: served.told == [("anthropic", "aborted", "")])
    assert anthropic.requests == []


async def test_uploads_of_unknown_length_go_too(server: Server, anthropic: FakeProvider) -> None:
    """A chunked upload arrives whole."""
    served = await server.start(anthropic=anthropic)
    boundary = b"xyz"

    async def parts() -> AsyncIterator[bytes]:
        yield b'--xyz\r\ncontent-disposition: form-data; name="file"; filename="a"\r\ncontent-type: text/plain\r\n\r\n'
        for _ in range(5):
            await asyncio.sleep(0)
            yield b"hello "
        yield b"\r\n--xyz--\r\n"

    made = await served.http.post(
        "/v1/files", content=parts(), headers={"content-type": f"multipart/form-data; boundary={boundary.decode()}"}
    )
    assert made.status_code == 200
    [(_, stored)] = anthropic.resources.files.values()
    assert stored == b"hello " * 5
    assert framing_of(anthropic.requests[0].headers) == {"transfer-encoding": "chunked"}


@pytest.mark.parametrize(
    "content", [b"[1, 2]", b"{not json", b'{"type": "error", "error": {}}', b"", b"\xff" * 200_000]
)
async def test_a_download_is_passed_as_it_is(server: Server, anthropic: FakeProvider, content: bytes) -> None:
    """A file's content is the client's own, whatever it looks like."""
    served = await server.start(anthropic=anthropic)
    made = await served.http.post("/v1/files", files={"file": ("a.json", content, "application/json")})
    got = await served.http.get(f"/v1/files/{made.json()['id']}/content")
    assert (got.status_code, got.content) == (200, content)
    assert got.headers["content-type"] == "application/json"
    assert framing_of(got.headers.items()) == {"content-length": str(len(content))}


async def test_a_download_in_pieces_goes_on_in_pieces(server: Server, anthropic: FakeProvider) -> None:
    """Where the provider does not say how long it is, nobody does."""
    served = await server.start(anthropic=anthropic)
    anthropic.script(reply.raw(b"x" * 100, content_type="text/plain").framed("chunked").when(CONTENT))
    got = await served.http.get(CONTENT)
    assert (got.content, framing_of(got.headers.items())) == (b"x" * 100, {"transfer-encoding": "chunked"})


async def test_a_download_that_breaks_is_no_whole_one(server: Server, anthropic: FakeProvider) -> None:
    """The client sees that bytes are missing, and the attempt has failed."""
    served = await server.start(anthropic=anthropic)
    anthropic.script(
        reply.raw(b"x" * 100, content_type="text/plain").framed("length").cut("fin", "bytes", 50).when(CONTENT)
    )
    with pytest.raises(httpx.RemoteProtocolError):
        await served.http.get(CONTENT)
    assert [outcome for _, outcome, _ in served.told] == ["failed"]


async def test_results_of_a_batch_keep_their_length(server: Server, anthropic: FakeProvider) -> None:
    """They are read along, and go on as they came."""
    served = await server.start(anthropic=anthropic)
    body = b'{"custom_id":"one","result":{"type":"expired"}}' + b"\n"
    anthropic.script(reply.raw(body, content_type="application/x-jsonl").framed("length").when(RESULTS))
    got = await served.http.get(RESULTS)
    assert (got.content, framing_of(got.headers.items())) == (body, {"content-length": str(len(body))})


async def test_models_can_be_asked_for_by_head(server: Server, anthropic: FakeProvider) -> None:
    """HEAD on a path of the API is answered with a head alone, and the connection stays usable."""
    served = await server.start(anthropic=anthropic)
    head = await served.http.head("/v1/models")
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) > 0
    assert (await served.http.get("/v1/models?limit=2")).json()["data"]
    assert served.told == [("anthropic", "ok", "")] * 2


AGENT, SESSION = "agent_01AbCdEfGh1234", "sesn_01AbCdEfGh1234"


async def test_a_list_goes_to_the_route_of_what_it_is_asked_for(
    served: Serving, anthropic: FakeProvider, second: FakeProvider
) -> None:
    """The sessions of an agent are on the agent's route, whichever would be first."""
    second.script(reply.json({"id": AGENT, "type": "agent"}).when("/v1/agents"))
    with anthropic.refusing():
        made = await served.http.post("/v1/agents", json={"name": "a"})
    assert made.headers["x-ccproxy-route"] == "second"
    second.script(reply.json({"data": [], "has_more": False}).when("/v1/sessions"))
    listed = await served.http.get(f"/v1/sessions?limit=20&agent_id={AGENT}")
    assert (listed.status_code, listed.headers["x-ccproxy-route"]) == (200, "second")
    assert anthropic.requests == []


async def test_what_was_found_by_reading_is_written_to_there(
    served: Serving, anthropic: FakeProvider, second: FakeProvider
) -> None:
    """A session that a deployment has made by itself is known once it was read."""
    anthropic.script(reply.error(404).when(f"/v1/sessions/{SESSION}"))
    second.script(reply.json({"id": SESSION, "type": "session"}).when(f"/v1/sessions/{SESSION}"))
    found = await served.http.get(f"/v1/sessions/{SESSION}")
    assert found.headers["x-ccproxy-route"] == "second"
    second.script(reply.json({"data": []}).when(f"/v1/sessions/{SESSION}/events"))
    sent = await served.http.post(f"/v1/sessions/{SESSION}/events", json={"events": []})
    assert (sent.status_code, sent.headers["x-ccproxy-route"]) == (200, "second")
    assert len(anthropic.requests) == 1
