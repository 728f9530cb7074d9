"""Who may ask what: every route that is served, for everybody. A new one is guarded, or stands in a table here."""

import re
import sys
from typing import Any, NamedTuple

import pytest
from litestar import Litestar

from service import app
from service import auth_throttle as brake
from service.console import auth
from tests.attacks.raw import byte_provider
from tests.support.proxies import Server, Serving

ADMIN, VIEWER = "admin-token-marked-0123456789", "viewer-token-marked-0123456789"
CLIENT = "client-key-marked-0123456789"
VARIABLES = {"ADMIN_TOKEN": ADMIN, "VIEWER_TOKEN": VIEWER, "PROXY_API_KEYS": CLIENT}
OPEN = {
    ("GET", "/"), ("HEAD", "/"), ("GET", "/api/hello"), ("HEAD", "/api/hello"), ("GET", "/livez"), ("HEAD", "/livez"),
    ("GET", "/readyz"), ("HEAD", "/readyz"), ("GET", "/health"), ("HEAD", "/health"), ("GET", "/metrics"),
    ("GET", "/logs/ui"), ("GET", "/dashboard"), ("GET", "/dashboard/{digest:str}/{name:path}"), ("GET", "/schema"),
    ("GET", "/schema/openapi.json"), ("GET", "/schema/{path:str}"), ("POST", "/admin/api/session"),
}  # fmt: skip
"""What tells nothing that is anybody's: health, static pages, and where a token is shown."""
OF_VIEWERS = {("DELETE", "/admin/api/session")}
"""Changes that a viewer may make."""


class Caller(NamedTuple):
    """Somebody, and what they may: nothing, look, change. `nearly`: who is like another, and asked for some routes."""

    name: str
    headers: dict[str, str]
    may: str
    nearly: bool = False


@pytest.fixture
async def served(server: Server, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A proxy, and the routes that it serves beside the Messages API."""
    made: list[Litestar] = []

    class Noted(Litestar):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            made.append(self)

    monkeypatch.setattr(app, "Litestar", Noted)
    monkeypatch.setattr(auth, "REQUEST_BURST", sys.maxsize)
    monkeypatch.setattr(auth, "REQUESTS_PER_S", sys.maxsize)
    monkeypatch.setattr(brake, "FREE_TRIES", sys.maxsize)
    async with byte_provider() as provider:
        served = await server.start(anthropic=provider.base_url, variables=VARIABLES)
        yield served, operations(made[0])


def operations(made: Litestar) -> list[tuple[str, str]]:
    """All of them, but OPTIONS."""
    found = [(method, route.path) for route in made.routes for method in getattr(route, "methods", ())]
    return sorted((method, path) for method, path in found if method != "OPTIONS" and not path.startswith("/v1"))


def bearer(token: str) -> dict[str, str]:
    """As scripts show a token."""
    return {"authorization": f"Bearer {token}"}


async def session(served: Serving, token: str, *, with_csrf: bool) -> dict[str, str]:
    """As a browser does, or another site in its place."""
    answer = await served.http.post("/admin/api/session", json={"token": token})
    cookie = answer.headers["set-cookie"].partition(";")[0]
    served.http.cookies.clear()
    return {"cookie": cookie} | ({"x-ccproxy-csrf": answer.json()["csrf"]} if with_csrf else {})


async def callers(served: Serving) -> list[Caller]:
    """Everybody."""
    viewers = await session(served, VIEWER, with_csrf=True)
    admins = await session(served, ADMIN, with_csrf=True)
    return [
        Caller("nobody", {}, "nothing"),
        Caller("a wrong token", bearer("wrong"), "nothing", nearly=True),
        Caller("a token as another scheme", {"authorization": f"Basic {ADMIN}"}, "nothing", nearly=True),
        Caller("an admin's token as a key", {"x-api-key": ADMIN}, "nothing", nearly=True),
        Caller("a client", bearer(CLIENT), "nothing"),
        Caller("a forged session", {"cookie": "ccproxy_session=admin.9999999999.x.y"}, "nothing", nearly=True),
        Caller("a raised session", {"cookie": viewers["cookie"].replace("viewer", "admin")}, "nothing", nearly=True),
        Caller("a viewer's token", bearer(VIEWER), "look"),
        Caller("a viewer's session", viewers, "look", nearly=True),
        Caller("another's CSRF token", {**admins, "x-ccproxy-csrf": viewers["x-ccproxy-csrf"]}, "look", nearly=True),
        Caller("no CSRF token", await session(served, ADMIN, with_csrf=False), "look"),
        Caller("an admin's token", bearer(ADMIN), "change"),
        Caller("an admin's session", admins, "change", nearly=True),
    ]


def wanted(caller: Caller, operation: tuple[str, str]) -> int:
    """401, 403, or 200 for whatever it is that is not refused."""
    if operation in OPEN or caller.may == "change":
        return 200
    if caller.may == "nothing":
        return 401
    is_viewers = operation in OF_VIEWERS and "CSRF" not in caller.name
    return 200 if operation[0] in ("GET", "HEAD") or is_viewers else 403


async def status(served: Serving, operation: tuple[str, str], headers: dict[str, str]) -> int:
    """What comes of it, without waiting for streams to end; 200 for whatever is no refusal of the caller."""
    method, path = operation
    path = re.sub(r"{route:str}", "zai", path)
    path = re.sub(r"{\w+:\w+}", "x1", path)
    async with served.http.stream(
        method, path, headers=headers, json={} if method in ("POST", "PUT") else None
    ) as answer:
        assert answer.status_code != 500, operation
        return answer.status_code if answer.status_code in (401, 403) else 200


async def test_everybody_may_what_the_tables_say(served: tuple[Serving, list[tuple[str, str]]]) -> None:
    """And nothing else: every route, whether the schema names it or not."""
    proxy, named = served
    assert set(named) >= OPEN | OF_VIEWERS
    assert len(named) > 40
    for caller in await callers(proxy):
        for operation in named[::5] if caller.nearly else named:
            if operation == ("DELETE", "/admin/api/session"):
                continue  # ends the session: below
            open_to_wrong = operation in OPEN and caller.may == "nothing"
            found = await status(proxy, operation, caller.headers)
            assert found == wanted(caller, operation) or open_to_wrong, (caller.name, operation, found)


async def test_a_session_that_was_ended_is_nobody(served: tuple[Serving, list[tuple[str, str]]]) -> None:
    """A viewer may end its own, with its CSRF token; afterwards nobody has it."""
    proxy, _ = served
    operation = ("DELETE", "/admin/api/session")
    mine = await session(proxy, VIEWER, with_csrf=True)
    assert await status(proxy, operation, {"cookie": mine["cookie"]}) == 403
    assert await status(proxy, operation, mine) == 200
    assert await status(proxy, ("GET", "/admin/api/overview"), mine) == 401
    assert await status(proxy, operation, {}) == 401
