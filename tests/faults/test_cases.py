"""Reports of people who run such proxies, each with its right outcome, whole and streamed, over both transports.

Not here: every fault of a provider on its own (`test_matrix`), the same in other words, statuses and endpoints
(`tests.relay.test_whose_fault`), or whose evidence weighs (`tests.routing.test_evidence`).
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes import FakeProvider, reply
from tests.support.proxies import ASK, Server, Serving
from tests.support.subscriptions import HOUR_MS, log_in, refreshes
from tests.support.waiting import wait_until

LONG_CONTEXT = {"anthropic-beta": "context-1m-2025-08-07"}
NO_LONG_CONTEXT = "The long context beta is not yet available for this subscription."
ADMIN_KEY = reply.error(401, message="an admin key is needed here")

TRANSPORTS = pytest.mark.parametrize("transport", ["lean", "httpx"])
STREAMS = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])


def ask_of(*, stream: bool = False, words: str = "hi", **more: Any) -> dict[str, Any]:
    """A request for a message."""
    return ASK | {"messages": [{"role": "user", "content": words}], "stream": stream} | more


def route_of(answer: httpx.Response) -> tuple[int, str, str]:
    """The answer's status, its route, and the number of attempts."""
    headers = answer.headers
    return answer.status_code, headers.get("x-ccproxy-route", ""), headers.get("x-ccproxy-attempts", "")


def asked(fake: FakeProvider) -> int:
    """How many messages a provider was asked for."""
    return len(fake.requests_to("/v1/messages"))


@pytest.fixture
def subscription() -> Iterator[FakeProvider]:
    """A provider of a subscription that refuses every refresh token."""
    with FakeProvider("subscription", keys={"sk-ant-oat01-new", "sk-ant-oat01-old"}) as fake:
        yield fake


async def with_subscription(server: Server, fake: FakeProvider, path: Path, **more: Any) -> Serving:
    """A proxy whose first route is a subscription with an old token; a new one is noticed at once."""
    server.patch.setattr("service.oauth.credentials.TICK_S", 0.01)
    variables = {
        "CLAUDE_CREDENTIALS_PATH": str(log_in(path / "creds.json", access="sk-ant-oat01-old", left_ms=HOUR_MS)),
        "CLAUDE_SUBSCRIPTION_BASE_URL": fake.base_url,
        "CLAUDE_OAUTH_REFRESH_URL": fake.base_url + "/v1/oauth/token",
        "CLIENT_CREDENTIALS": "never",
    }
    return await server.start(variables=variables | more.pop("variables", {}), **more)


# -- 04: a closed account


@TRANSPORTS
@STREAMS
@pytest.mark.parametrize("form", ["400", "403", "stream"])
async def test_a_closed_account_is_left_at_once(
    server: Server,
    anthropic: FakeProvider,
    zai: FakeProvider,
    form: str,
    stream: bool,  # noqa: FBT001
    transport: str,
) -> None:
    """The next route answers, and the closed one is not asked again."""
    words = "organization has been disabled"
    anthropic.default = (
        reply.stream_error("start", "invalid_request_error", words)
        if form == "stream"
        else reply.error(int(form), "invalid_request_error", words)
    )
    served = await server.start(anthropic=anthropic, zai=zai, variables={"UPSTREAM_TRANSPORT": transport})
    answers = [await served.ask(ask_of(stream=stream)) for _ in range(2)]
    assert [route_of(answer) for answer in answers] == [(200, "zai", "2"), (200, "zai", "1")]
    assert asked(anthropic) == 1


# -- 11: a beta that the plan lacks


def two_keys(anthropic: FakeProvider, second: FakeProvider) -> str:
    """A file with two routes of one vendor, with their own accounts."""
    return "".join(
        f'[[routes]]\nid = "{name}"\nprovider = "anthropic"\napi_key = "sk-ant-api03-{name}-aaaaaaaa"\n'
        f'base_url = "{fake.base_url}"\n'
        for name, fake in (("first", anthropic), ("second", second))
    )


@pytest.fixture
def second() -> Iterator[FakeProvider]:
    """The vendor's address of a second account."""
    with FakeProvider("anthropic") as fake:
        yield fake


async def with_two_keys(
    server: Server, anthropic: FakeProvider, second: FakeProvider, path: Path, **variables: str
) -> Serving:
    """A proxy with two routes of one vendor."""
    anthropic.keys = None
    file = path / "ccproxy.toml"
    file.write_text(two_keys(anthropic, second), "utf-8")
    return await server.start(variables={"CCPROXY_CONFIG": str(file), **variables})


@TRANSPORTS
@STREAMS
@pytest.mark.parametrize("form", ["400", "403", "429", "stream"])
async def test_a_beta_that_the_plan_lacks_is_served_elsewhere(
    server: Server,
    anthropic: FakeProvider,
    second: FakeProvider,
    tmp_path: Path,
    form: str,
    stream: bool,  # noqa: FBT001
    transport: str,
) -> None:
    """The account that has it answers; the other goes on with what it can do."""
    served = await with_two_keys(server, anthropic, second, tmp_path, UPSTREAM_TRANSPORT=transport)
    lacking = (
        reply.stream_error("start", "invalid_request_error", NO_LONG_CONTEXT)
        if form == "stream"
        else reply.error(int(form), "invalid_request_error", NO_LONG_CONTEXT)
    )
    anthropic.script(lacking.when(header=("anthropic-beta", LONG_CONTEXT["anthropic-beta"])).forever())
    answers = [await served.ask(ask_of(stream=stream), headers=headers) for headers in (LONG_CONTEXT, {})]
    assert [route_of(answer) for answer in answers] == [(200, "second", "2"), (200, "first", "1")]


# -- 20: Chinese words


def stamp() -> str:
    """Three hours from now, as Z.AI writes it."""
    return reply.beijing_stamp(datetime.now(UTC) + timedelta(hours=3))


SPENT_IN_CHINESE = ["已达到使用上限,将在 {} 重置", "本周限额已用完,{} 恢复", "Usage limit reached, resets at {}"]


@TRANSPORTS
@STREAMS
@pytest.mark.parametrize("words", SPENT_IN_CHINESE)
async def test_a_stamp_in_chinese_words_is_the_reset(
    server: Server,
    zai: FakeProvider,
    words: str,
    stream: bool,  # noqa: FBT001
    transport: str,
) -> None:
    """The client waits until then, and is told not to ask before."""
    zai.default = reply.zai_error(1308, message=words.format(stamp()))
    served = await server.start(zai=zai, variables={"UPSTREAM_TRANSPORT": transport})
    answers = [await served.ask(ask_of(stream=stream)) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [429, 429]
    assert {answer.headers["x-should-retry"] for answer in answers} == {"false"}
    assert all(10_500 < int(answer.headers["retry-after"]) <= 10_800 for answer in answers)
    assert asked(zai) == 1


@pytest.mark.parametrize("code", [1308, 1310, 1316, 1317, 1318, 1319, 1320, 1321])
async def test_each_code_of_a_limit_has_its_stamp(server: Server, zai: FakeProvider, code: int) -> None:
    """The code has said what it means: the words around the stamp do not matter."""
    zai.default = reply.zai_error(code, message=f"额度 {stamp()} 之后")
    served = await server.start(zai=zai)
    answer = await served.ask(ASK)
    assert 10_500 < int(answer.headers["retry-after"]) <= 10_800


# -- 38: what other endpoints answer


@TRANSPORTS
@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/organizations/cost_report"), ("POST", "/v1/messages/batches")]
)
@STREAMS
async def test_another_endpoints_refusal_is_the_clients(
    server: Server,
    anthropic: FakeProvider,
    zai: FakeProvider,
    method: str,
    path: str,
    status: int,
    stream: bool,  # noqa: FBT001
    transport: str,
) -> None:
    """As it came, without a retry; messages go on where they went."""
    anthropic.script(reply.error(status, message="an admin key is needed here").when(path).forever())
    served = await server.start(anthropic=anthropic, zai=zai, variables={"UPSTREAM_TRANSPORT": transport})
    refused = await served.http.request(method, path, json={} if method == "POST" else None)
    assert refused.status_code == status
    assert refused.json()["error"]["message"] == "an admin key is needed here"
    assert refused.headers["x-should-retry"] == "false"
    assert route_of(await served.ask(ask_of(stream=stream))) == (200, "anthropic", "1")


@TRANSPORTS
@STREAMS
async def test_another_endpoints_401_refreshes_no_token(
    server: Server,
    subscription: FakeProvider,
    tmp_path: Path,
    stream: bool,  # noqa: FBT001
    transport: str,
) -> None:
    """The token is as good as before."""
    subscription.script(ADMIN_KEY.when("/v1/organizations/cost_report").forever())
    served = await with_subscription(server, subscription, tmp_path, variables={"UPSTREAM_TRANSPORT": transport})
    refused = await served.http.get("/v1/organizations/cost_report")
    assert route_of(refused) == (401, "subscription", "1")
    assert route_of(await served.ask(ask_of(stream=stream))) == (200, "subscription", "1")
    assert refreshes(subscription) == 0


# -- 48: a new log-in


@TRANSPORTS
@STREAMS
@pytest.mark.parametrize("status", [400, 401])
async def test_a_new_log_in_ends_the_old_ones_cool_down(
    server: Server,
    subscription: FakeProvider,
    zai: FakeProvider,
    tmp_path: Path,
    status: int,
    stream: bool,  # noqa: FBT001
    transport: str,
) -> None:
    """What held the old one says nothing about the new one."""
    subscription.script(
        reply.error(status, message="OAuth token has been revoked.").when(credential="sk-ant-oat01-old").forever()
    )
    served = await with_subscription(
        server, subscription, tmp_path, zai=zai, variables={"UPSTREAM_TRANSPORT": transport}
    )
    assert route_of(await served.ask(ask_of(stream=stream))) == (200, "zai", "2")
    assert route_of(await served.ask(ask_of(stream=stream))) == (200, "zai", "1")
    before = served.parts.credentials.accounts["subscription"]
    log_in(tmp_path / "creds.json", access="sk-ant-oat01-new", refresh="another", left_ms=HOUR_MS)
    await wait_until(lambda: served.parts.credentials.accounts["subscription"] != before)
    assert route_of(await served.ask(ask_of(stream=stream))) == (200, "subscription", "1")


# -- I: about one user


@TRANSPORTS
@STREAMS
@pytest.mark.parametrize(
    ("status", "error_type"),
    [
        (403, "user_profile_suspended"),
        (402, "linked_organization_billing"),
        (403, "permission_error"),
        (400, "user_profile_not_found"),
        (401, "end_user_blocked"),
    ],
)
async def test_what_is_about_one_user_rests_nothing(
    server: Server,
    anthropic: FakeProvider,
    zai: FakeProvider,
    status: int,
    error_type: str,
    stream: bool,  # noqa: FBT001
    transport: str,
) -> None:
    """The one user gets the provider's answer; everybody else goes on."""
    refusal = reply.error(status, error_type, "this user profile may not")
    anthropic.script(refusal.when(body='"user_id":"bad"').forever())
    served = await server.start(anthropic=anthropic, zai=zai, variables={"UPSTREAM_TRANSPORT": transport})
    refused = await served.ask(ask_of(stream=stream, metadata={"user_id": "bad"}))
    assert route_of(refused) == (status, "anthropic", "1")
    assert refused.json()["error"]["type"] == error_type
    assert route_of(await served.ask(ask_of(stream=stream, metadata={"user_id": "good"}))) == (200, "anthropic", "1")
    assert zai.requests == []
