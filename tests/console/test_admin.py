"""The admin API through the real server: who may, what it answers, and that changes act."""

import json
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from service.console import api_types
from service.console.event_text import describe
from service.ledger.events import CircuitReset, ClientKeyIssued, RouteDisabled, RouteReset
from tests.fakes import FakeProvider
from tests.support.proxies import Server, Serving

ADMIN, VIEWER = "admin-token-marked-0123456789", "viewer-token-marked-0123456789"
VARIABLES = {"ADMIN_TOKEN": ADMIN, "VIEWER_TOKEN": VIEWER}
API = "/admin/api"
OPEN = {("post", "/admin/api/session")}
"""What asks for no token: where one is shown."""


@pytest.fixture
async def served(server: Server, anthropic: FakeProvider) -> Serving:
    return await server.start(anthropic=anthropic, variables=VARIABLES)


def bearer(token: str = ADMIN) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def get(served: Serving, path: str, kind: Any, **more: Any) -> Any:
    """An answer, checked against its shape."""
    answer = await served.http.get(f"{API}{path}", headers=bearer(VIEWER), **more)
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return msgspec.json.decode(answer.content, type=kind)


async def operations(served: Serving) -> list[tuple[str, str]]:
    """Every operation of the admin API that the OpenAPI document names."""
    document = (await served.http.get("/schema/openapi.json")).json()
    return [
        (method, path)
        for path, item in document["paths"].items()
        for method in item
        if path.startswith(API) and (method, path) not in OPEN
    ]


async def test_nobody_without_a_token(served: Serving) -> None:
    """Every operation answers 401 without one, with a wrong one, and with a client's key; none does anything."""
    named = await operations(served)
    assert len(named) > 20
    for headers in ({}, bearer("wrong"), {"x-api-key": ADMIN}, {"cookie": "ccproxy_session=admin.9999999999.x.y"}):
        served.parts.brake._failures.clear()
        for number, (method, path) in enumerate(named):
            if number % 4 == 0:
                served.parts.brake._failures.clear()
            answer = await served.http.request(method, path.replace("{route}", "zai"), headers=headers)
            assert answer.status_code == 401, (method, path, answer.text)
            assert answer.json()["error"]["type"] == "authentication_error"
    assert served.events == []


async def test_a_viewer_changes_nothing(served: Serving) -> None:
    """Every operation that is not a GET answers 403 to a viewer, but for logging out."""
    for method, path in await operations(served):
        if method != "get" and not path.endswith("/session"):
            answer = await served.http.request(method, path, headers=bearer(VIEWER), json={})
            assert answer.status_code == 403, (method, path, answer.text)
    assert served.events == []


async def test_a_session_needs_its_csrf_token_for_changes(served: Serving) -> None:
    """The cookie is out of reach of scripts and other sites; a change shows what no other site can know."""
    answer = await served.http.post(f"{API}/session", json={"token": ADMIN})
    assert answer.status_code == 201
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    session = msgspec.json.decode(answer.content, type=api_types.Session)
    assert session.role == "admin"
    assert (await served.http.get(f"{API}/overview")).status_code == 200
    url = f"{API}/routes/anthropic/disable"
    assert (await served.http.post(url, json={})).status_code == 403
    assert (await served.http.post(url, json={}, headers={"x-ccproxy-csrf": "x"})).status_code == 403
    assert served.events == []
    assert (await served.http.post(url, json={}, headers={"x-ccproxy-csrf": session.csrf})).status_code == 200
    gone = await served.http.delete(f"{API}/session", headers={"x-ccproxy-csrf": session.csrf})
    assert gone.status_code == 204
    assert (await served.http.get(f"{API}/overview")).status_code == 401


async def test_a_disabled_route_is_passed_by_at_once(served: Serving) -> None:
    """The change is an event that says who; the next request goes elsewhere, until it is taken back."""
    answer = await served.http.post(f"{API}/routes/anthropic/disable", json={"reason": "maintenance"}, headers=bearer())
    assert answer.status_code == 200
    [(stream, event)] = served.events
    assert stream == "control"
    assert isinstance(event, RouteDisabled)
    assert event.by == "admin at 127.0.0.1"
    assert (await served.ask()).status_code == 503
    overview = await get(served, "/overview", api_types.Overview)
    assert (overview.level, overview.serving) == ("problem", "")
    assert "maintenance" in overview.serving_reason
    await served.http.post(f"{API}/routes/anthropic/enable", headers=bearer())
    assert (await served.ask()).status_code == 200
    assert (await get(served, "/overview", api_types.Overview)).serving == "anthropic"


async def test_a_reset_says_what_it_forgot(served: Serving) -> None:
    """In the answer, and among what happened last; an event on the route's stream, and one for all readers."""
    answer = await served.http.post(f"{API}/routes/anthropic/reset", headers=bearer())
    done = msgspec.json.decode(answer.content, type=api_types.ResetDone)
    assert (done.words, done.forgot.cool_downs) == ("nothing was held against it", 0)
    (own_stream, reset), (stream, command) = served.events[-2:]
    assert (own_stream, stream) == ("anthropic", "control")
    assert isinstance(reset, RouteReset)
    assert isinstance(command, CircuitReset)
    assert (reset.by, command.event_id) == ("admin at 127.0.0.1", done.event_id)
    assert describe(reset) == ("ok", "reset: nothing was held against it")


async def test_a_key_is_issued_limited_and_revoked(served: Serving) -> None:
    """It is shown once, works at once, obeys new limits, and is gone at once."""
    made = await served.http.post(f"{API}/keys", json={"name": "ann", "models": ["claude-*"]}, headers=bearer())
    assert made.status_code == 201, made.text
    issued = msgspec.json.decode(made.content, type=api_types.IssuedKey)
    key = {"x-ccproxy-key": issued.key}
    assert (await served.ask(headers=key)).status_code == 200
    [listed] = await get(served, "/keys", list[api_types.KeyView])
    assert (listed.key_id, listed.name, listed.used_tokens > 0) == (issued.view.key_id, "ann", True)
    url = f"{API}/keys/{listed.key_id}"
    limited = await served.http.put(f"{url}/limits", json={"weekly_tokens": 1}, headers=bearer())
    assert limited.json()["state"] == "spent"
    assert (await served.ask(headers=key)).status_code == 429
    assert (await served.http.post(f"{API}/keys", json={"name": "ann"}, headers=bearer())).status_code == 409
    assert (await served.http.delete(url, headers=bearer())).status_code == 204
    assert (await served.ask(headers=key)).status_code == 401
    assert (await served.http.delete(url, headers=bearer())).status_code == 404
    stored = [event for _, event in served.events if isinstance(event, ClientKeyIssued)]
    assert issued.key not in str(stored)


async def test_the_shapes_hold(served: Serving) -> None:
    """What needs neither workers nor Redis answers without them, in the promised shapes; the rest says so."""
    assert (await served.ask()).status_code == 200
    [first, *_] = await get(served, "/routes", list[api_types.RouteView])
    assert (first.route, first.serves, first.attempts) == ("anthropic", True, 1)
    assert sum(first.quota.hours) == first.quota.used_tokens
    assert await get(served, "/attempts", list[api_types.LiveAttempt]) == []
    fleet = await get(served, "/fleet", api_types.Fleet)
    assert fleet.redis_up is False
    for path in ("/usage", "/latency", "/dead-letters", "/events"):
        answer = await served.http.get(f"{API}{path}", headers=bearer())
        assert answer.status_code == 503, path
        assert "REDIS_URL" in answer.json()["error"]["message"]


async def test_the_schema_has_a_page_without_scripts(served: Serving) -> None:
    """The page is made here: no script, no other host, and all operations."""
    page = await served.http.get("/schema")
    assert page.status_code == 200
    assert "<script" not in page.text
    assert "http://" not in page.text.replace("http://127", "")
    assert "/admin/api/overview" in page.text


async def test_what_is_asked_too_often_is_turned_down(served: Serving) -> None:
    """A bound on what all askers together may ask."""
    served.parts.console.access._left = 1.0
    served.parts.console.access._counted_s += 3_600
    served.parts.console.access._left += 0
    answers = [(await served.http.get(f"{API}/routes", headers=bearer())).status_code for _ in range(2)]
    assert answers[0] in (200, 429)
    assert 429 in answers


async def test_the_token_is_kept_for_its_owner_alone(server: Server, anthropic: FakeProvider, tmp_path: Path) -> None:
    """Made at the first start, the same at the next, and nobody else may read the file."""
    served = await server.start(anthropic=anthropic)
    path = tmp_path / "admin-token"
    assert path.stat().st_mode & 0o777 == 0o600
    token = path.read_text().strip()
    assert (await served.http.get(f"{API}/routes", headers=bearer(token))).status_code == 200
    again = await server.start(anthropic=anthropic)
    assert path.read_text().strip() == token
    assert (await again.http.get(f"{API}/routes", headers=bearer(token))).status_code == 200


async def test_json_of_operators_drives_no_terminal(served: Serving) -> None:
    """Strangers' text stays what it is, in ASCII escapes, in answers and in the live feed: curl shows both."""
    reason = "see \u202egnp \x9b2J\x7f \u200b\U000e0041 é"
    url = f"{API}/routes/anthropic/disable"
    answer = await served.http.post(url, json={"reason": reason}, headers=bearer())
    assert answer.is_success, answer.text
    overview = await served.http.get(f"{API}/overview", headers=bearer())
    async with served.http.stream("GET", f"{API}/live", headers=bearer()) as feed:
        lines = feed.aiter_lines()
        texts = [overview.text, await anext(lines), (await anext(lines)).removeprefix("data: ")]
    assert all(text.isprintable() for text in texts)
    for text in (texts[0], texts[2]):
        assert json.dumps(reason)[1:-1] in json.dumps(json.loads(text))
    assert "é" in overview.text


async def test_the_live_feed_begins_with_an_overview(served: Serving) -> None:
    """A watcher sees how things stand at once."""
    async with served.http.stream("GET", f"{API}/live", headers=bearer()) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.aiter_lines()
        assert await anext(lines) == "event: overview"
        data = (await anext(lines)).removeprefix("data: ")
        assert msgspec.json.decode(data, type=api_types.Overview).serving == "anthropic"
    assert isinstance(served.http, httpx.AsyncClient)


@pytest.mark.parametrize(
    ("scheme", "base_path", "name"),
    [
        ("http", "", "ccproxy_session"),
        ("https", "", "__Host-ccproxy_session"),
        ("https", "/claude", "__Secure-ccproxy_session"),
    ],
)
async def test_no_other_host_of_a_domain_sets_the_cookie(
    server: Server, scheme: str, base_path: str, name: str
) -> None:
    """Over https its name has a prefix, by which browsers refuse it from others; one without the prefix is ignored."""
    variables = {"ADMIN_TOKEN": ADMIN, "TRUSTED_PROXIES": "127.0.0.1", "PROXY_BASE_PATH": base_path}
    served = await server.start(variables=variables)
    headers = {"x-forwarded-proto": scheme}
    answer = await served.http.post(f"{API}/session", json={"token": ADMIN}, headers=headers)
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"{name}=admin.")
    assert ("Secure" in cookie, "HttpOnly" in cookie, "SameSite=strict" in cookie) == (scheme == "https", True, True)
    assert f"Path={base_path or '/'};" in cookie
    served.http.cookies.clear()
    value = cookie.partition("=")[2].partition(";")[0]
    for sent, status in ((name, 200), ("ccproxy_other", 401), ("ccproxy_session", 200 if scheme == "http" else 401)):
        shown = headers | {"cookie": f"{sent}={value}"}
        assert (await served.http.get(f"{API}/session", headers=shown)).status_code == status
    csrf = answer.json()["csrf"]
    out = await served.http.delete(
        f"{API}/session", headers=headers | {"cookie": f"{name}={value}", "x-ccproxy-csrf": csrf}
    )
    assert out.headers["set-cookie"].startswith(f'{name}="";')
    assert ("Secure" in out.headers["set-cookie"]) is (scheme == "https")
