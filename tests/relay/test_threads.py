"""Threads: continued where they live; where that is not possible, the client is asked for the whole conversation."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from anthropic import AsyncAnthropic
from redis.exceptions import RedisError

from service.ledger.events import RouteDisabled
from service.ledger.wire import CONTROL
from tests.fakes import FakeProvider, reply
from tests.support.proxies import ASK, STREAM, ZAI_KEY, Server, Serving

OTHER_KEY = "sk-ant-api03-second-marked-cccccccccc"
ROUTES = """
[[routes]]
id = "first"
provider = "anthropic"
base_url = "{first}"
api_key = "sk-ant-api03-owner-marked-aaaaaaaaaaaa"

[[routes]]
id = "second"
provider = "{provider}"
base_url = "{second}"
api_key = "{key}"
"""
TOKEN = "capability_rejected: beta_header:message-threads-2026-08-12"
CREATE = {"thread": {"type": "create"}}


@pytest.fixture
def second() -> Iterator[FakeProvider]:
    with FakeProvider("anthropic", keys={OTHER_KEY}) as fake:
        yield fake


async def served_by(server: Server, first: FakeProvider, second: FakeProvider, provider: str = "anthropic") -> Serving:
    """A proxy with two routes."""
    path = server.home / "ccproxy.toml"
    key = OTHER_KEY if provider == "anthropic" else ZAI_KEY
    path.write_text(ROUTES.format(first=first.base_url, second=second.base_url, provider=provider, key=key))
    return await server.start(variables={"CCPROXY_CONFIG": str(path)})


@pytest.fixture
async def served(server: Server, anthropic: FakeProvider, second: FakeProvider) -> Serving:
    """Two accounts of Anthropic."""
    return await served_by(server, anthropic, second)


def go_on(message_id: str | None) -> dict[str, Any]:
    """What continues a thread."""
    return {"thread": {"type": "continue", "previous_message_id": message_id}}


def check_asks_for_all(answer: httpx.Response) -> None:
    """The client is asked for the whole conversation, in words that Claude Code and the SDKs know."""
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (400, "invalid_request_error")
    assert error["message"].startswith(TOKEN + ";")
    assert error["details"] == {"error_code": "thread_not_found"}


async def begun(served: Serving, fake: FakeProvider, body: dict[str, Any] = ASK) -> str:
    """A thread that was begun on this fake; the id of its last message."""
    assert (await served.ask(body | CREATE)).status_code == 200
    message_id = fake.served[-1].message_id
    assert message_id
    return message_id


@pytest.mark.parametrize("body", [ASK, STREAM], ids=["whole", "stream"])
@pytest.mark.parametrize(
    "fault",
    [
        reply.error(529),
        reply.error(500),
        reply.error(401),
        reply.error(429, retry_after_s=600),
        reply.reset(),
    ],
    ids=["overloaded", "failing", "key", "limit", "reset"],
)
async def test_a_home_that_fails_asks_for_all(
    served: Serving, anthropic: FakeProvider, second: FakeProvider, body: dict[str, Any], fault: Any
) -> None:
    """Nothing of a thread goes to another account; the whole conversation does, and goes on there as a thread."""
    message_id = await begun(served, anthropic, body)
    anthropic.script(fault.forever())
    check_asks_for_all(await served.ask(body | go_on(message_id)))
    assert second.requests == []
    whole = await served.ask(body | CREATE)
    assert (whole.status_code, whole.headers["x-ccproxy-route"]) == (200, "second")
    anthropic.script()
    answer = await served.ask(body | go_on(second.served[-1].message_id))
    assert (answer.status_code, answer.headers["x-ccproxy-route"]) == (200, "second")


async def test_a_home_that_is_disabled_asks_for_all(served: Serving, anthropic: FakeProvider) -> None:
    """Without a look at any provider."""
    message_id = await begun(served, anthropic)
    event = RouteDisabled(event_id=served.parts.clock.new_id(), at_ms=served.parts.clock.now_ms(), route="first")
    await served.parts.outbox.append(CONTROL, event)
    seen = len(anthropic.requests)
    check_asks_for_all(await served.ask(STREAM | go_on(message_id)))
    assert len(anthropic.requests) == seen
    assert (await served.ask(STREAM | CREATE)).headers["x-ccproxy-route"] == "second"


async def test_another_account_asks_for_all(served: Serving, anthropic: FakeProvider) -> None:
    """A route that logged in elsewhere has lost its threads."""
    message_id = await begun(served, anthropic)
    anthropic.resources.message_ids.clear()
    check_asks_for_all(await served.ask(ASK | go_on(message_id)))
    assert (await served.ask(ASK | CREATE)).headers["x-ccproxy-route"] == "first"


async def test_a_fault_of_the_request_is_the_providers_answer(served: Serving, anthropic: FakeProvider) -> None:
    """Also within a thread, in the provider's words."""
    message_id = await begun(served, anthropic)
    anthropic.script(reply.bad_request("max_tokens"))
    answer = await served.ask(ASK | go_on(message_id))
    assert answer.status_code == 400
    assert "capability_rejected" not in answer.text


@pytest.mark.parametrize("retry_after_s", [30, 600])
async def test_where_nobody_else_could_serve_the_wait_is_told(
    server: Server, anthropic: FakeProvider, retry_after_s: int
) -> None:
    """The whole conversation would only wait as well, and lose its thread."""
    served = await server.start(anthropic=anthropic)
    message_id = await begun(served, anthropic)
    anthropic.script(reply.error(429, retry_after_s=retry_after_s).forever())
    answer = await served.ask(ASK | go_on(message_id))
    assert (answer.status_code, answer.headers["retry-after"]) == (429, str(retry_after_s))


async def test_another_vendor_begins_a_thread_and_asks_for_all(
    server: Server, anthropic: FakeProvider, zai: FakeProvider
) -> None:
    """It is sent the whole conversation, and no thread; it can't continue one."""
    served = await served_by(server, anthropic, zai, "zai")
    with anthropic.refusing():
        answer = await served.ask(ASK | CREATE, headers={"anthropic-beta": "message-threads-2026-08-12"})
    assert (answer.status_code, answer.headers["x-ccproxy-route"]) == (200, "second")
    [sent] = zai.requests
    assert "thread" not in sent.json
    assert "message-threads" not in (sent.header("anthropic-beta") or "")
    check_asks_for_all(await served.ask(ASK | go_on(answer.json()["id"])))
    assert len(zai.requests) == 1
    assert len(anthropic.requests) == 0


class Away:
    """A Redis that does not answer."""

    async def getex(self, _: str, **__: int) -> bytes:
        raise RedisError("away")

    get = getex


async def test_an_unknown_home_asks_for_all(served: Serving, anthropic: FakeProvider) -> None:
    """While Redis can't say where a thread lives, nobody has to wait for it."""
    message_id = await begun(served, anthropic)
    served.parts.resources._known.clear()
    served.parts.resources._redis = Away()  # type: ignore[assignment]
    check_asks_for_all(await served.ask(ASK | go_on(message_id)))


async def test_a_thread_of_another_key_asks_for_all(server: Server, anthropic: FakeProvider) -> None:
    """As one that does not exist does; its text is nobody else's."""
    keys = {"PROXY_API_KEYS": "alice:0123456789abcdef0123,bob:bbbb456789abcdef0123"}
    served = await server.start(anthropic=anthropic, variables=keys)
    alice, bob = ({"x-api-key": key.partition(":")[2]} for key in keys["PROXY_API_KEYS"].split(","))
    made = await served.ask(ASK | CREATE, headers=alice)
    seen = len(anthropic.requests)
    check_asks_for_all(await served.ask(ASK | go_on(made.json()["id"]), headers=bob))
    assert len(anthropic.requests) == seen
    assert (await served.ask(ASK | go_on(made.json()["id"]), headers=alice)).status_code == 200


@pytest.mark.parametrize("behaviour", ["error", "continue_unthreaded"])
async def test_the_sdk_goes_on(served: Serving, anthropic: FakeProvider, behaviour: Any) -> None:
    """Anthropic's SDK sends the whole conversation by itself, and continues the thread on the other route."""
    async with AsyncAnthropic(api_key="none", base_url=served.url, max_retries=0) as client:
        thread = client.beta.messages.thread(
            max_tokens=64, model="claude-opus-5-5", unsupported_request_behavior=behaviour
        )
        await thread.send({"role": "user", "content": "one"})
        with anthropic.refusing():
            await thread.send({"role": "user", "content": "two"})
        await thread.send({"role": "user", "content": "three"})
    assert [route for route, outcome, _ in served.told if outcome == "ok"] == ["first", "second", "second"]
    assert len(thread.messages) == 6
