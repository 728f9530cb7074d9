"""What one key made is no other key's: files, batches, results, containers and threads, whatever names them."""

import json
from typing import Any

import httpx
import pytest
from redis.exceptions import RedisError

from service.fleet.resource_index import ResourceHome, home_of, value_of
from service.ledger.events import BatchItemUsed, ClientKeyRevoked, ResourceCreated
from service.ledger.fold import advance
from tests.attacks.raw import MESSAGE, SeenRequest, answer, byte_provider
from tests.fakes import FakeProvider, reply
from tests.support.client_keys import issue
from tests.support.proxies import ASK, STREAM, Server, Serving

ISSUED = {"PROXY_API_KEYS": "ledger"}
BATCH: dict[str, Any] = {"requests": [{"custom_id": "one", "params": ASK}]}
UNKNOWN_FILE, UNKNOWN_BATCH = "file_011CNunknown0unknown0000", "msgbatch_01Unknown0unknown0000"
BODIES: dict[str, Any] = {"GET": None, "HEAD": None, "POST": {}, "PUT": {}, "PATCH": {}, "DELETE": None}
"""Each method, with a body where it has one."""


class Team:
    """Two owners with a key each, on one account."""

    def __init__(self, served: Serving) -> None:
        self.served = served
        self.ann, self.ann_id = issue(served, "ann")
        self.ben, self.ben_id = issue(served, "ben")

    async def ask(self, key: str, method: str, path: str, body: Any = None, **more: Any) -> httpx.Response:
        return await self.served.http.request(method, path, json=body, headers={"x-api-key": key}, **more)

    async def file_of(self, key: str) -> str:
        files = {"file": ("a.txt", b"secret", "text/plain")}
        made = await self.served.http.post("/v1/files", files=files, headers={"x-api-key": key})
        return str(made.json()["id"])

    async def batch_of(self, key: str) -> str:
        return str((await self.ask(key, "POST", "/v1/messages/batches", BATCH)).json()["id"])


def assert_unknown(got: httpx.Response) -> None:
    """The answer for what does not exist; it says nothing else."""
    assert got.status_code == 404
    assert "x-ccproxy-route" not in got.headers
    if got.request.method != "HEAD":
        assert got.json()["error"]["type"] == "not_found_error"


@pytest.fixture
async def team(server: Server, anthropic: FakeProvider) -> Team:
    return Team(await server.start(anthropic=anthropic, variables=ISSUED))


async def test_no_method_reaches_what_another_made(team: Team, anthropic: FakeProvider) -> None:
    """Neither a file nor a batch, nor a part of one; what does not exist is answered alike."""
    roots = {"/v1/files/": await team.file_of(team.ann), "/v1/messages/batches/": await team.batch_of(team.ann)}
    before = len(anthropic.requests)
    for root, one in roots.items():
        unknown = UNKNOWN_FILE if root == "/v1/files/" else UNKNOWN_BATCH
        for tail in ("", "/content", "/results", "/cancel", "/x/y"):
            for method, body in BODIES.items():
                answers = [await team.ask(team.ben, method, root + name + tail, body) for name in (one, unknown)]
                for got in answers:
                    assert_unknown(got)
                texts = {got.text.replace(name, "ID") for got, name in zip(answers, (one, unknown), strict=True)}
                assert len({text.partition('"request_id"')[0] for text in texts}) == 1, "they are told apart"
    assert len(anthropic.requests) == before


async def test_the_owner_goes_on_with_a_new_key(team: Team) -> None:
    """A key that was issued again under the same name belongs to the same owner."""
    file_id, batch = await team.file_of(team.ann), await team.batch_of(team.ann)
    assert (await team.ask(team.ann, "GET", f"/v1/files/{file_id}/content")).text == "secret"
    control = team.served.parts.watcher.view.control
    advance(control, ClientKeyRevoked(event_id="r", at_ms=0, key_id=team.ann_id))
    again, _ = issue(team.served, "ann")
    assert (await team.ask(team.ann, "GET", f"/v1/files/{file_id}")).status_code == 401
    assert (await team.ask(again, "GET", f"/v1/files/{file_id}/content")).text == "secret"
    assert (await team.ask(again, "GET", f"/v1/messages/batches/{batch}/results")).status_code == 200
    assert (await team.ask(again, "DELETE", f"/v1/files/{file_id}")).status_code == 200


async def test_no_spelling_reaches_what_another_made(team: Team, anthropic: FakeProvider) -> None:
    """An id that is escaped, or lies behind a detour, is the same id or none."""
    file_id = await team.file_of(team.ann)
    before = len(anthropic.requests)
    for spelling in ("%66ile_", "file%5F", "FILE_", "./file_", "x/../file_", "file_%00", ";/file_"):
        got = await team.ask(team.ben, "GET", "/v1/files/" + spelling + file_id.removeprefix("file_"))
        assert got.status_code == 404, spelling
    assert len(anthropic.requests) == before


def content(source: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": source}]}


def result_of(blocks: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "toolu_1", "content": blocks}


def answered(blocks: list[Any]) -> dict[str, Any]:
    """A call of a tool, and its result: without the call a provider refuses the result, whoever's the file is."""
    call = {"type": "tool_use", "id": "toolu_1", "name": "read", "input": {}}
    said = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": [call]}]
    return {"messages": [*said, {"role": "user", "content": [result_of(blocks)]}]}


def naming(file_id: str) -> dict[str, bytes]:
    """Bodies of messages that name a file, all of them accepted somewhere."""
    source = {"type": "file", "file_id": file_id}
    document = {"type": "document", "source": source}
    strange = {"type": "new", "source": 5}
    image = {"type": "image", "source": source}
    own_content = {"type": "document", "source": {"type": "content", "content": [image]}}
    fetched = {"type": "web_fetch_result", "url": "https://example.com", "content": document}
    escaped = "".join(f"\\u{ord(char):04x}" for char in file_id)
    return {
        "a document": json.dumps(ASK | content([document])).encode(),
        "an image": json.dumps(ASK | content([image])).encode(),
        "within a document": json.dumps(ASK | content([own_content])).encode(),
        "an upload": json.dumps(ASK | content([{"type": "container_upload", "file_id": file_id}])).encode(),
        "within a result": json.dumps(ASK | answered([document])).encode(),
        "an image within a result": json.dumps(ASK | answered([{"type": "text", "text": "x"}, image])).encode(),
        "within a document within a result": json.dumps(ASK | answered([own_content])).encode(),
        "a result alone": json.dumps(ASK | content([result_of([document])])).encode(),
        "a result that is one block": json.dumps(ASK | content([result_of(document)])).encode(),
        "a result in a result": json.dumps(ASK | content([result_of([result_of([image])])])).encode(),
        "a fetched document": json.dumps(
            ASK | content([{"type": "web_fetch_tool_result", "tool_use_id": "srvtoolu_1", "content": fetched}])
        ).encode(),
        "behind many": json.dumps(
            ASK | content([*({"type": "text", "text": "x"} for _ in range(500)), document])
        ).encode(),
        "beside a strange block": json.dumps(ASK | content([strange, document])).encode(),
        "escaped": json.dumps(ASK | content([document])).encode().replace(file_id.encode(), escaped.encode()),
        "escaped, beside a strange block": json.dumps(ASK | content([strange, document]))
        .encode()
        .replace(file_id.encode(), escaped.encode())
        .replace(b'"file_id"', b'"file\\u005fid"'),
        "a container": json.dumps(ASK | {"container": file_id}).encode(),
        "a container's id": json.dumps(ASK | {"container": {"id": file_id, "skills": []}}).encode(),
        "a thread": json.dumps(ASK | {"thread": {"type": "continue", "previous_message_id": file_id}}).encode(),
    }


def with_skill(skill_id: str) -> dict[str, Any]:
    return ASK | {"container": {"skills": [{"type": "custom", "skill_id": skill_id, "version": "latest"}]}}


async def test_a_skill_is_its_makers(server: Server) -> None:
    """Whoever runs a skill reads it. Those of the provider itself are everybody's."""
    made = "skill_01AbCdEfGhIjKlMn"
    async with byte_provider(
        lambda seen: answer({"id": made} if seen.target == b"/v1/skills" else MESSAGE)
    ) as provider:
        team = Team(await server.start(anthropic=provider.base_url, variables=ISSUED))
        assert (await team.ask(team.ann, "POST", "/v1/skills", {})).status_code == 200
        hidden = json.dumps(with_skill(made)).replace(f'"{made}"', f'"{made}", "skill_id": "pptx"').encode()
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            assert_unknown(await team.ask(team.ben, "POST", path, with_skill(made)))
            got = await team.served.http.post(path, content=hidden, headers={"x-api-key": team.ben})
            assert got.status_code == 400, path
        batch = {"requests": [{"custom_id": "one", "params": with_skill(made)}]}
        assert_unknown(await team.ask(team.ben, "POST", "/v1/messages/batches", batch))
        assert_unknown(await team.ask(team.ben, "POST", "/v1/agents", {"skills": [{"skill_id": made}]}))
        assert len(provider.seen) == 1
        assert (await team.ask(team.ann, "POST", "/v1/messages", with_skill(made))).status_code == 200
        assert (await team.ask(team.ben, "POST", "/v1/messages", with_skill("pptx"))).status_code == 200


@pytest.mark.parametrize("agent", ["ID", {"type": "agent", "id": "ID"}], ids=["by id", "as an object"])
async def test_an_agent_is_its_makers(server: Server, agent: Any) -> None:
    """It has instructions and tools of whoever made it."""
    made = "agent_01AbCdEfGhIjKlMn"
    async with byte_provider(lambda _: answer({"id": made})) as provider:
        team = Team(await server.start(anthropic=provider.base_url, variables=ISSUED))
        assert (await team.ask(team.ann, "POST", "/v1/agents", {})).status_code == 200
        named = json.loads(json.dumps(agent).replace("ID", made))
        for body in ({"agent": named}, {"multiagent": {"agents": [named]}}, {"callable_agents": [named]}):
            assert_unknown(await team.ask(team.ben, "POST", "/v1/sessions", body))
            assert (await team.ask(team.ann, "POST", "/v1/sessions", body)).status_code == 200


NO_MESSAGES = (
    "a container",
    "a container's id",
    "a thread",
    "a result alone",
    "a result that is one block",
    "a result in a result",
    "a fetched document",
)
"""What the provider refuses with one's own file as well."""


async def test_no_body_names_what_another_made(team: Team, anthropic: FakeProvider) -> None:
    """In messages, counted, in a batch or on an unknown endpoint: an id is the caller's own, or nobody's."""
    file_id = await team.file_of(team.ann)
    mine = await team.file_of(team.ben)
    before = len(anthropic.requests)
    for name in (file_id, UNKNOWN_FILE, "x" * 300):
        for what, body in naming(name).items():
            item = b'{"custom_id":"x","params":' + body + b"}"
            batch = b'{"requests":[{"custom_id":"one","params":' + json.dumps(ASK).encode() + b"}," + item + b"]}"
            bodies = {"/v1/messages": body, "/v1/messages/count_tokens": body}
            for path, raw in (bodies | {"/v1/messages/batches": batch, "/v1/unknown": batch}).items():
                got = await team.served.http.post(path, content=raw, headers={"x-api-key": team.ben})
                assert got.status_code in (400, 404), (what, path, got.text)
    assert len(anthropic.requests) == before
    for what, body in naming(mine).items():
        if "strange" not in what and what not in NO_MESSAGES:
            got = await team.served.http.post("/v1/messages", content=body, headers={"x-api-key": team.ben})
            assert got.status_code == 200, what


async def test_what_clients_make_up_is_no_resource(team: Team) -> None:
    """A tool of the client's may have a parameter of that name."""
    call = {"type": "tool_use", "id": "toolu_1", "name": "read", "input": {"file_id": "file_of_my_own1"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "ok"}
    schema = {"name": "read", "input_schema": {"type": "object", "properties": {"file_id": {"type": "string"}}}}
    body = ASK | {
        "tools": [schema],
        "metadata": {"user_id": "user_0123456789"},
        "messages": [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}],
    }
    assert (await team.ask(team.ben, "POST", "/v1/messages", body)).status_code == 200
    batch = {"requests": [{"custom_id": "file_0123456789", "params": body}]}
    assert (await team.ask(team.ben, "POST", "/v1/messages/batches", batch)).status_code == 200


async def test_a_list_shows_the_own_alone(team: Team) -> None:
    """Whoever shares the account does not see what others have."""
    mine, others = await team.file_of(team.ben), await team.file_of(team.ann)
    batch, theirs = await team.batch_of(team.ben), await team.batch_of(team.ann)
    files = await team.ask(team.ben, "GET", "/v1/files?limit=1000")
    assert [one["id"] for one in files.json()["data"]] == [mine]
    assert others not in files.text
    batches = await team.ask(team.ben, "GET", "/v1/messages/batches")
    assert [one["id"] for one in batches.json()["data"]] == [batch]
    assert theirs not in str(batches.json()["data"])
    models = await team.ask(team.ben, "GET", "/v1/models")
    assert models.json()["data"]
    beside = await team.ask(team.ben, "GET", "/v1/files", {"file_id": mine})
    assert others not in beside.text, "a body that names one's own file does not make the list one's own"


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_what_nobody_knows_is_asked_of_the_own_account_alone(server: Server, method: str) -> None:
    """Whoever brings a credential may use what lies on its account, and nothing on the account of the proxy's owner."""
    own = "sk-ant-api03-of-ben-000000000000"

    def script(seen: SeenRequest) -> bytes:
        missing = {"type": "error", "error": {"type": "not_found_error", "message": "no such file"}}
        return answer(missing, status=404) if seen.values(b"x-api-key") == [own.encode()] else answer()

    async with byte_provider(script) as provider:
        variables = ISSUED | {"CLIENT_CREDENTIALS": "prefer"}
        team = Team(await server.start(anthropic=provider.base_url, variables=variables))
        shown = {"x-ccproxy-key": team.ben, "x-api-key": own}
        for path in (f"/v1/files/{UNKNOWN_FILE}", f"/v1/messages/batches/{UNKNOWN_BATCH}/cancel"):
            assert (await team.served.http.request(method, path, headers=shown)).status_code == 404
        named = ASK | {"container": "container_01unknown00"}
        assert (await team.served.http.post("/v1/messages", json=named, headers=shown)).status_code == 404
        assert {tuple(seen.values(b"x-api-key")) for seen in provider.seen} == {(own.encode(),)}


async def test_of_one_owner_all_is_his(server: Server, anthropic: FakeProvider) -> None:
    """With one owner only, what nobody knows (made by other means) is asked for as before."""
    served = await server.start(anthropic=anthropic, variables=ISSUED)
    ann, _ = issue(served, "ann")
    headers = {"x-api-key": ann}
    got = await served.http.get(f"/v1/files/{UNKNOWN_FILE}", headers=headers)
    assert (got.status_code, got.headers.get("x-ccproxy-route")) == (404, "anthropic"), "it was asked for"
    assert (await served.http.get("/v1/files", headers=headers)).json()["data"] == []


async def test_what_a_revoked_owner_made_is_nobodys(team: Team) -> None:
    """That an owner has gone makes what he had no other's."""
    file_id = await team.file_of(team.ann)
    advance(team.served.parts.watcher.view.control, ClientKeyRevoked(event_id="r", at_ms=0, key_id=team.ann_id))
    assert_unknown(await team.ask(team.ben, "GET", f"/v1/files/{file_id}"))


async def test_static_keys_are_owners_too(server: Server, anthropic: FakeProvider) -> None:
    """Keys of the settings own what they made, by their names."""
    served = await server.start(
        anthropic=anthropic, variables={"PROXY_API_KEYS": "ann:key-of-ann-0123456789,ben:key-of-ben-0123456789"}
    )
    files = {"file": ("a.txt", b"secret", "text/plain")}
    made = await served.http.post("/v1/files", files=files, headers={"x-api-key": "key-of-ann-0123456789"})
    path = f"/v1/files/{made.json()['id']}/content"
    assert_unknown(await served.http.get(path, headers={"x-api-key": "key-of-ben-0123456789"}))
    assert (await served.http.get(path, headers={"x-api-key": "key-of-ann-0123456789"})).text == "secret"
    [created] = [event for _, event in served.events if isinstance(event, ResourceCreated)]
    assert created.client_key == "ann"


async def test_a_place_in_the_list_is_no_owner(server: Server, anthropic: FakeProvider) -> None:
    """Keys without names are called after their places, which others get when the first one goes."""
    first, second = "key-of-ann-0123456789", "key-of-ben-0123456789"
    made: Any = {}
    for listed in (f"{first},{second}", second):
        served = await server.start(
            anthropic=anthropic, variables={"PROXY_API_KEYS": f"{listed},cy:key-of-cy-0123456789"}
        )
        index = served.parts.resources
        made = index._known = made or index._known  # as Redis keeps it
        if listed != second:
            files = {"file": ("a.txt", b"secret", "text/plain")}
            file = await served.http.post("/v1/files", files=files, headers={"x-api-key": first})
        path = f"/v1/files/{file.json()['id']}/content"
        assert_unknown(await served.http.get(path, headers={"x-api-key": second}))
    assert served.parts.settings.client_keys[0].key_id == "key-1", "it is counted by its place as ever"


@pytest.mark.parametrize("owner", ["ann", "ann ", "ann\n", "a b", ""])
def test_an_owner_in_redis_is_the_same_owner(owner: str) -> None:
    """Blanks in a name are a part of it."""
    home = ResourceHome("anthropic", "event", owner)
    assert home_of(value_of(home).encode()) == home


class Away:
    """A Redis that does not answer."""

    async def getex(self, *_: object, **__: object) -> bytes:
        raise RedisError("away")

    async def set(self, *_: object, **__: object) -> bytes:
        raise RedisError("away")


async def test_with_the_index_away_nobody_guesses(team: Team, anthropic: FakeProvider) -> None:
    """As long as nobody can tell whose it is, it is nobody's; what this process has seen itself goes on."""
    file_id = await team.file_of(team.ann)
    before = len(anthropic.requests)
    team.served.parts.resources._redis = Away()  # type: ignore[assignment]
    assert (await team.ask(team.ann, "GET", f"/v1/files/{file_id}/content")).text == "secret"
    got = await team.ask(team.ben, "GET", f"/v1/files/{UNKNOWN_FILE}")
    assert (got.status_code, got.headers["x-should-retry"]) == (503, "true")
    assert len(anthropic.requests) == before + 1


OUTPUT = {"type": "bash_code_execution_output", "file_id": "file_01made0by0code"}
RESULT = {
    "type": "bash_code_execution_tool_result",
    "tool_use_id": "srvtoolu_1",
    "content": {"type": "bash_code_execution_result", "content": [OUTPUT]},
}
DICTATED = {"type": "tool_use", "id": "toolu_1", "name": "x", "input": {"file_id": "file_01dictated00"}}
WHOLE = {"type": "message", "content": [RESULT, DICTATED], "usage": {"input_tokens": 1, "output_tokens": 1}}
EVENTS: list[dict[str, Any]] = [
    {"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 1}}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x"}},
    {"type": "content_block_start", "index": 1, "content_block": RESULT},
    {"type": "content_block_start", "index": 2, "content_block": DICTATED},
    {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 1}},
    {"type": "message_stop"},
]
STREAMED = "".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in EVENTS).encode()


@pytest.mark.parametrize("asked", [ASK, STREAM], ids=["whole", "streamed"])
async def test_files_that_a_container_made_are_the_clients(server: Server, asked: dict[str, Any]) -> None:
    """What the provider's code execution made in an answer can be fetched by whoever asked; what a model only named
    can't."""

    def script(seen: SeenRequest) -> bytes:
        if seen.method == b"GET":
            return answer(b"bytes", content_type="text/plain")
        return answer(WHOLE) if asked is ASK else answer(STREAMED, content_type="text/event-stream")

    async with byte_provider(script) as provider:
        team = Team(await server.start(anthropic=provider.base_url, variables=ISSUED))
        assert (await team.ask(team.ann, "POST", "/v1/messages", asked)).status_code == 200
        path = "/v1/files/file_01made0by0code/content"
        assert (await team.ask(team.ann, "GET", path)).text == "bytes"
        assert_unknown(await team.ask(team.ben, "GET", path))
        assert_unknown(await team.ask(team.ann, "GET", "/v1/files/file_01dictated00/content"))


async def test_what_unknown_endpoints_make_is_owned_too(server: Server) -> None:
    """Containers, sessions and what may come: made by a POST, they are the maker's, by any method."""
    name = "container_01abc0def0ghi"
    listed: dict[str, Any] = {"data": [{"id": name}, {"id": "container_01other0000"}, 5]}
    made: dict[str, Any] = {"id": name}
    async with byte_provider(lambda seen: answer(listed if seen.method == b"GET" else made)) as provider:
        team = Team(await server.start(anthropic=provider.base_url, variables=ISSUED))
        assert (await team.ask(team.ann, "POST", "/v1/containers", {})).status_code == 200
        for method, body in BODIES.items():
            assert_unknown(await team.ask(team.ben, method, f"/v1/containers/{name}/files", body))
        assert (await team.ask(team.ann, "GET", "/v1/containers")).json() == {"data": [{"id": name}]}
        assert (await team.ask(team.ben, "GET", "/v1/containers")).json() == {"data": []}
        assert_unknown(await team.ask(team.ben, "POST", "/v1/sessions", {"resources": [{"container_id": name}]}))
        assert_unknown(await team.ask(team.ben, "POST", "/v1/sessions", {"environment_id": "env_01abcdefgh"}))


async def test_a_spent_key_is_refused_by_all_methods(team: Team, anthropic: FakeProvider) -> None:
    """Whatever may use tokens, or hand out what was not counted yet, waits for the next week."""
    spent, _ = issue(team.served, "cy", weekly_tokens=0)
    dear, _ = issue(team.served, "di", weekly_cost_nusd=0)
    for path in ("/v1/complete", "/v1/messages/batches", "/v1/files", "/v1/unknown", "/v1/messages"):
        for method, body in BODIES.items():
            wanted = 405 if path == "/v1/messages" and method != "POST" else 429  # 405: it is never forwarded
            for key in (spent, dear):
                got = await team.ask(key, method, path, ASK if path == "/v1/messages" and body is not None else body)
                assert (got.status_code, got.headers["x-should-retry"]) == (wanted, "false"), (method, path)
    assert anthropic.requests == []
    assert (await team.ask(spent, "GET", "/v1/models")).status_code == 200
    assert (await team.ask(spent, "POST", "/v1/messages/count_tokens", ASK)).status_code == 200
    assert (await team.ask(spent, "POST", f"/v1/messages/batches/{UNKNOWN_BATCH}/cancel")).status_code == 404


async def test_a_key_of_some_models_has_no_way_round(team: Team, anthropic: FakeProvider) -> None:
    """What does not say which model it asks may ask any."""
    haiku, _ = issue(team.served, "cy", models=("claude-haiku-*",))
    for path in (
        "/v1/complete",
        "/v1/messages/batches",
        "/v1/unknown",
        f"/v1/messages/batches/{UNKNOWN_BATCH}/results",
    ):
        for method, body in BODIES.items():
            named = {"model": "claude-haiku-4-6", "requests": []} if body is not None else None
            assert (await team.ask(haiku, method, path, named)).status_code == 400, (method, path)
    assert anthropic.requests == []


BESIDE = (
    b'"tools":[{"type":"advisor_20260301","name":"advisor","model":"claude-opus-4-8"}]',
    b'"tools":[{"type":"advisor_20260301","mod\\u0065l":"claude-opus-4-8"}]',
    b'"tools":[{"model":"claude-opus-4-8","model":"claude-haiku-4-6"}]',
    b'"tools":[{"model":["claude-opus-4-8"]}]',
    b'"fallbacks":["claude-opus-4-8"]',
    b'"fallbacks":[{"model":"claude-opus-4-8"}]',
    b'"fallbacks":"default"',
)


async def test_no_model_is_named_beside_the_own(team: Team, anthropic: FakeProvider) -> None:
    """An advisor, or a model to fall back to, is another model as well."""
    haiku, _ = issue(team.served, "cy", models=("claude-haiku-*",))
    head = b'{"model":"claude-haiku-4-6","max_tokens":8,"messages":[{"role":"user","content":"hi"}],'
    for more in BESIDE:
        got = await team.served.http.post("/v1/messages", content=head + more + b"}", headers={"x-api-key": haiku})
        assert got.status_code == 400, more
    assert anthropic.requests == []


async def test_tools_may_have_a_parameter_called_model(team: Team) -> None:
    """What a client's own tool takes is its business."""
    haiku, _ = issue(team.served, "cy", models=("claude-haiku-*",))
    schema = {"type": "object", "properties": {"model": {"type": "string", "enum": ["opus"]}}}
    body = ASK | {"model": "claude-haiku-4-6", "tools": [{"name": "task", "input_schema": schema}], "fallbacks": []}
    assert (await team.ask(haiku, "POST", "/v1/messages", body)).status_code == 200


async def test_an_item_without_usage_counts(team: Team, anthropic: FakeProvider) -> None:
    """The results of a batch are counted when they are read, by their size if they do not say."""
    path = f"/v1/messages/batches/{await team.batch_of(team.ann)}/results"
    message = {"type": "message", "model": "m", "content": [{"text": "x" * 400}]}
    line = json.dumps({"custom_id": "o\0ne", "result": {"type": "succeeded", "message": message}})
    anthropic.script(reply.raw(line.encode(), content_type="application/x-jsonl").when(path))
    assert (await team.ask(team.ann, "GET", path)).status_code == 200
    [item] = [event for _, event in team.served.events if isinstance(event, BatchItemUsed)]
    assert item.tokens.output >= 100
    assert item.custom_id == "one", "a NUL would make reports of Postgres fail"


async def test_an_id_that_nobody_can_ask_for_is_kept_nowhere(server: Server) -> None:
    """Postgres reads no JSON with a NUL in it."""
    async with byte_provider(lambda _: answer({"id": "file_01a\0b"})) as provider:
        team = Team(await server.start(anthropic=provider.base_url, variables=ISSUED))
        assert (await team.ask(team.ann, "POST", "/v1/containers", {})).status_code == 200
    assert not [event for _, event in team.served.events if isinstance(event, ResourceCreated)]
