"""The fakes' accounts: subscription tokens that rotate, windows in headers, Z.AI's quota page."""

from __future__ import annotations

import httpx

from tests.fakes import FakeProvider, reply
from tests.fakes.vendors import OAUTH_BETA, OAUTH_CLIENT_ID

ASK = {"model": "claude-opus-5-5", "max_tokens": 5, "messages": []}


def bearer(token: str, beta: str = OAUTH_BETA) -> dict[str, str]:
    return {"authorization": f"Bearer {token}", "anthropic-beta": f"a,{beta}", "anthropic-version": "2023-06-01"}


def test_a_subscription_wants_bearer_and_beta() -> None:
    """Without the OAuth beta, with a key, or with a token that is not valid: 401."""
    with FakeProvider("subscription", keys={"sk-ant-oat01-a"}) as fake, httpx.Client(base_url=fake.base_url) as client:

        def status(headers: dict[str, str]) -> int:
            return client.post("/v1/messages", json=ASK, headers=headers).status_code

        assert status(bearer("sk-ant-oat01-a")) == 200
        assert status(bearer("sk-ant-oat01-a", beta="b")) == 401
        assert status(bearer("sk-ant-oat01-b")) == 401
        assert status({"x-api-key": "sk-ant-oat01-a", **bearer("sk-ant-oat01-a")}) == 401


def test_a_refresh_token_works_once() -> None:
    """A refresh gives a token that works and a new refresh token; the one used is dead."""
    with (
        FakeProvider("subscription", keys=set(), refresh_tokens={"r-1"}) as fake,
        httpx.Client(base_url=fake.base_url) as client,
    ):
        ask = {"grant_type": "refresh_token", "refresh_token": "r-1", "client_id": OAUTH_CLIENT_ID}
        issued = client.post("/v1/oauth/token", json=ask).json()
        assert client.post("/v1/oauth/token", json=ask).json()["error"] == "invalid_grant"
        assert fake.oauth.refresh_tokens == {issued["refresh_token"]}
        assert client.post("/v1/messages", json=ASK, headers=bearer(issued["access_token"])).status_code == 200
        usage = client.get("/api/oauth/usage", headers=bearer(issued["access_token"])).json()
        assert usage["seven_day"]["utilization"] == 34.0


def test_the_token_endpoint_can_be_scripted() -> None:
    """A reply for the token endpoint's path goes before its own answer."""
    with FakeProvider("subscription") as fake:
        fake.script(reply.error(429, retry_after_s=5).when("/v1/oauth/token"))
        assert httpx.post(fake.base_url + "/v1/oauth/token", json={}).headers["retry-after"] == "5"


def test_subscription_answers_carry_the_unified_headers() -> None:
    """Good answers say `allowed`; a spent window says `rejected`, on a 429 or on a 200."""
    with FakeProvider("subscription") as fake, httpx.Client(base_url=fake.base_url) as client:
        fake.script(
            reply.message(),
            reply.unified_limit(window="7d", retry_after_s=121180, reset_s=1774472400),
            reply.unified_limit(window="5h", status=200),
        )
        good, spent, paid = (client.post("/v1/messages", json=ASK, headers=bearer("sk-ant-oat01-a")) for _ in range(3))
    prefix = "anthropic-ratelimit-unified-"
    assert (good.status_code, good.headers[prefix + "status"]) == (200, "allowed")
    assert (spent.status_code, spent.headers[prefix + "status"]) == (429, "rejected")
    assert spent.headers[prefix + "representative-claim"] == "seven_day"
    assert spent.headers[prefix + "reset"] == spent.headers[prefix + "7d-reset"] == "1774472400"
    assert spent.headers["retry-after"] == "121180"
    assert (paid.status_code, paid.headers[prefix + "status"]) == (200, "rejected")


def test_zai_shows_its_quota_to_the_raw_key() -> None:
    """The quota page wants the key without `Bearer`, and shows the 5 h window and the week."""
    with FakeProvider("zai", keys={"z"}) as fake:
        url = fake.root_url + "/api/monitor/usage/quota/limit"
        fake.quota.week_percent = 97.0
        limits = httpx.get(url, headers={"authorization": "z"}).json()["data"]["limits"]
        assert [(limit["unit"], limit["percentage"]) for limit in limits] == [(3, 12.0), (6, 97.0)]
        assert httpx.get(url, headers={"authorization": "Bearer z"}).json()["success"] is False


def test_zai_lies_under_its_base_path() -> None:
    """Outside its base path Z.AI's fake serves nothing, and within it only GLM models."""
    with FakeProvider("zai") as fake, httpx.Client(headers={"x-api-key": "z"}) as client:
        ask = ASK | {"model": "glm-5.2"}
        assert client.post(fake.root_url + "/v1/messages", json=ask).status_code == 404
        assert client.post(fake.base_url + "/v1/messages", json=ask).status_code == 200
        assert client.post(fake.base_url + "/v1/messages", json=ASK).json()["error"]["code"] == "1211"
