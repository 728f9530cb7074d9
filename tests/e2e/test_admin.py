"""The admin API of real proxies with a real worker: history by way of the queue, and the live feed."""

import time
from typing import Any

import httpx
import msgspec
import pytest

from service.console import api_types
from service.ledger import wire
from tests.fakes import reply
from tests.support.installation import Installation, Proxy
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

ADMIN = "admin-token-marked-0123456789"
API = "/admin/api"


@pytest.fixture(scope="module")
def proxy(shared_installation: Installation) -> Proxy:
    """A proxy whose token the test knows."""
    return shared_installation.start_proxy({"ADMIN_TOKEN": ADMIN})


@pytest.fixture
def api(proxy: Proxy) -> Any:
    with httpx.Client(
        base_url=proxy.url, headers={"authorization": f"Bearer {ADMIN}"}, timeout=20, trust_env=False
    ) as made:
        yield made


def get(api: httpx.Client, path: str, kind: Any) -> Any:
    """An answer in its shape."""
    answer = api.get(f"{API}{path}")
    assert answer.status_code == 200, answer.text
    return msgspec.json.decode(answer.content, type=kind)


def ask_once(installation: Installation, proxy: Proxy) -> httpx.Response:
    """A request that falls over to Z.AI."""
    installation.anthropic.script(reply.error(529))
    body = {"model": "claude-sonnet-4-6", "max_tokens": 16, "messages": [{"role": "user", "content": "hi"}]}
    return httpx.post(f"{proxy.url}/v1/messages", json=body, timeout=20, trust_env=False)


def test_a_request_is_found_wherever_it_lies(installation: Installation, proxy: Proxy, api: httpx.Client) -> None:
    """Its attempts in their order: from the stream at once, and from Postgres when the stream has gone."""
    answer = ask_once(installation, proxy)
    assert answer.status_code == 200
    request_id = answer.headers["x-ccproxy-request-id"]
    live = get(api, f"/requests/{request_id}", api_types.RequestView)
    assert [(one.route, one.outcome) for one in live.attempts] == [("anthropic", "failed"), ("zai", "ok")]
    assert live.verdict == "ok"
    page = get(api, f"/events?request={request_id}", api_types.EventPage)
    assert page.source == "stream"
    assert {event.type for event in page.events} == {"attempt_started", "attempt_ended"}
    eventually(lambda: len(history(api, request_id)) == 4)
    with installation.redis() as redis:
        for stream in ("anthropic", "zai"):
            redis.xtrim(wire.events_key(stream), maxlen=0)
    kept = get(api, f"/requests/{request_id}", api_types.RequestView)
    assert [(one.route, one.outcome, one.tokens) for one in kept.attempts] == [
        (one.route, one.outcome, one.tokens) for one in live.attempts
    ]


def history(api: httpx.Client, request_id: str) -> list[api_types.EventView]:
    """A request's events in Postgres."""
    page: api_types.EventPage = get(
        api, f"/events?request={request_id}&before=h:ffffffff-ffff-ffff-ffff-ffffffffffff", api_types.EventPage
    )
    assert page.source == "history"
    return page.events


def test_history_is_told_in_its_shapes(installation: Installation, proxy: Proxy, api: httpx.Client) -> None:
    """Usage and latency, grouped and filtered; what can't be asked for is a 400 in words."""
    assert ask_once(installation, proxy).status_code == 200
    eventually(lambda: get(api, "/usage?by=route&since=2h", api_types.UsageReport).total.attempts >= 2)
    report = get(api, "/usage?by=hour,route,model,key&since=2h", api_types.UsageReport)
    assert {row.route for row in report.rows} >= {"anthropic", "zai"}
    assert all(row.hour and row.hour.endswith(":00Z") for row in report.rows)
    eventually(lambda: attempts(api, "by=day&route=zai") == attempts(api, "by=route", "zai") > 0)
    latency = get(api, "/latency?by=route", api_types.LatencyReport)
    assert all(row.total_p50_ms is not None and row.total_p50_ms <= (row.total_p99_ms or 0) for row in latency.rows)
    for asked in ("/usage?by=colour", "/usage?since=soon", "/latency?since=90d"):
        refused = api.get(f"{API}{asked}")
        assert refused.status_code == 400, asked
        assert refused.json()["error"]["message"]
    assert get(api, "/fleet", api_types.Fleet).workers == 1


def attempts(api: httpx.Client, asked: str, route: str = "") -> int:
    """The attempts of a report, or of its rows of one route."""
    rows = get(api, f"/usage?since=2h&{asked}", api_types.UsageReport).rows
    return sum(row.attempts for row in rows if row.route == (route or None))


def test_a_dead_letter_is_shown_and_dropped(installation: Installation, api: httpx.Client) -> None:
    """What nobody can read is listed, stays after a replay, and goes when it is dropped; `verify` agrees."""
    with installation.redis() as redis:
        redis.xadd(wire.events_key("zai"), {wire.ENTRY_FIELD: b"nothing that anybody reads"})
    eventually(lambda: get(api, "/dead-letters", api_types.PutAsidePage).dead_letters == 1)
    [row] = get(api, "/dead-letters?stream=zai", api_types.PutAsidePage).rows
    assert row.raw == "nothing that anybody reads"
    assert api.post(f"{API}/dead-letters/replay", json={}).json() == {"read": 0, "left": 1}
    assert api.post(f"{API}/dead-letters/drop", json={"ids": ["zai/x"]}).status_code == 400
    assert api.post(f"{API}/dead-letters/drop", json={"ids": [row.id]}).json() == {"dropped": 1}
    assert get(api, "/dead-letters", api_types.PutAsidePage).dead_letters == 0
    with installation.redis() as redis:
        eventually(lambda: redis.hget(wire.route_key("zai"), "dead") == b"0")
    asked = get(api, "/events?stream=control", api_types.EventPage).events
    assert [(event.type, event.by) for event in asked[:3]] == [
        ("drop_asked", "admin at 127.0.0.1"),
        ("drop_asked", "admin at 127.0.0.1"),
        ("replay_asked", "admin at 127.0.0.1"),
    ]
    assert row.id in asked[0].words


def test_the_live_feed_shows_what_happens(installation: Installation, proxy: Proxy, api: httpx.Client) -> None:
    """A failover is seen by whoever watches, within moments."""
    with api.stream("GET", f"{API}/live") as answer:
        lines = answer.iter_lines()
        assert next(lines) == "event: overview"
        request_id = ask_once(installation, proxy).headers["x-ccproxy-request-id"]
        give_up_s = time.monotonic() + 20
        for line in lines:
            if request_id in line and '"outcome":"failed"' in line:
                break
            assert time.monotonic() < give_up_s


def test_a_session_that_was_logged_out_is_over_on_all_proxies(installation: Installation, proxy: Proxy) -> None:
    """Who has kept the cookie can't use it any more, wherever it is shown."""
    other = installation.start_proxy({"ADMIN_TOKEN": ADMIN})
    answer = httpx.post(f"{proxy.url}{API}/session", json={"token": ADMIN}, trust_env=False)
    kept = {"cookie": f"ccproxy_session={answer.cookies['ccproxy_session']}"}
    urls = [f"{one.url}{API}/session" for one in (proxy, other)]
    assert [httpx.get(url, headers=kept, trust_env=False).status_code for url in urls] == [200, 200]
    headers = kept | {"x-ccproxy-csrf": answer.json()["csrf"]}
    assert httpx.delete(urls[0], headers=headers, trust_env=False).status_code == 204
    assert [httpx.get(url, headers=kept, trust_env=False).status_code for url in urls] == [401, 401]


def test_a_key_that_was_spent_on_one_proxy_is_spent_on_all(
    installation: Installation, proxy: Proxy, api: httpx.Client
) -> None:
    """As soon as another proxy's view shows it, that proxy admits nothing, though it has served none of it."""
    other = installation.start_proxy({"ADMIN_TOKEN": ADMIN})
    issued = api.post(f"{API}/keys", json={"name": "spends here", "weekly_tokens": 1}).json()
    key_id, headers = issued["view"]["key_id"], {"x-ccproxy-key": issued["key"]}
    body = {"model": "claude-sonnet-4-6", "max_tokens": 16, "messages": [{"role": "user", "content": "hi"}]}
    assert httpx.post(f"{proxy.url}/v1/messages", json=body, headers=headers, trust_env=False).status_code == 200

    def is_spent_there() -> bool:
        answer = api.get(f"{other.url}{API}/keys")
        views = msgspec.json.decode(answer.content, type=list[api_types.KeyView])
        return any(view.key_id == key_id and view.state == "spent" for view in views)

    eventually(is_spent_there)
    before = len(installation.anthropic.requests)
    refused = httpx.post(f"{other.url}/v1/messages", json=body, headers=headers, trust_env=False)
    assert (refused.status_code, refused.json()["error"]["type"]) == (429, "billing_error")
    assert len(installation.anthropic.requests) == before
