"""The admin API's read endpoints. `api_types` lists all endpoints; changes are in `actions`.

Not here: the data (`overview`, `fleet_status`, `stream_reader`, `reports`), and permissions (`auth`).
"""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from litestar import Controller, Request, Router, delete, get, post
from litestar.datastructures import ResponseHeader, State
from litestar.exceptions import HTTPException
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody, PathParameter, QueryParameter
from litestar.response import Response, Stream
from msgspec import Struct

from service.console.actions import ACTIONS
from service.console.api_types import (
    EventPage,
    EventView,
    Fleet,
    KeyView,
    LatencyReport,
    LiveAttempt,
    Login,
    Overview,
    PutAsidePage,
    RequestView,
    RouteView,
    Session,
    SettingView,
    UsageReport,
)
from service.console.auth import address_of, viewer
from service.console.console import Console, Desk
from service.console.error_responses import ERRORS, documented, fail
from service.console.event_text import views_of_rows
from service.console.overview import attempts_of, keys_of, routes_of
from service.console.redacted_settings import redacted_settings_view
from service.console.requests import request_of
from service.errors import BadReport, NotFound, ProxyError
from service.ledger.events import EVENT_NAMES
from service.ledger.ids import lowest_id

HISTORY = "h:"
"""Prefix of a page cursor in Postgres; other cursors are stream entries."""
FilterText = Annotated[str, QueryParameter(max_length=256)]
TimeText = Annotated[str, QueryParameter(max_length=32)]
"""A date, a time, or a duration ago: `2026-11-02`, `2026-11-02T15:00`, `12h`, `7d`, `4w`."""
ByText = Annotated[str, QueryParameter(max_length=64)]
GONE = {204: ResponseSpec(None, description="Logged out", generate_examples=False)}
LIVE = {200: ResponseSpec(str, media_type="text/event-stream", description="The live feed", generate_examples=False)}


class Filters(Struct, frozen=True):
    """Filters of events; "" matches any."""

    stream: str
    type: str
    route: str
    key: str
    model: str
    request: str
    outcome: str
    since: int
    until: int

    def wants(self, view: EventView) -> bool:
        """True if an event matches."""
        pairs = (
            (self.stream, view.stream),
            (self.type, view.type),
            (self.route, view.route),
            (self.key, view.client_key),
            (self.model, view.model),
            (self.request, view.request_id),
            (self.outcome, view.outcome),
        )
        if any(wanted and wanted != there for wanted, there in pairs):
            return False
        return self.since <= view.at_ms < (self.until or view.at_ms + 1)


class Sessions(Controller):
    """Browser sessions."""

    path = "/session"
    tags = ["session"]  # noqa: RUF012 - required by Litestar

    @post(responses=documented(400, 401, 429), summary="Log in with a token")
    async def log_in(self, request: Request[Any, Any, Any], console: Desk, data: JSONBody[Login]) -> Response[Session]:
        """Returns a session and sets its cookie, which scripts can't read."""
        secure = request.url.scheme == "https"
        session, cookie = await console.access.log_in(data.token, address_of(request), secure=secure)
        return Response(session, status_code=201, cookies=[cookie])

    @get(guards=[viewer], responses=documented(401, 429), summary="Current session")
    async def session(self, request: Request[Any, Any, Any], console: Desk) -> Session:
        """The session of this request."""
        return console.access.session_of(request.state.asker)

    @delete(guards=[viewer], responses=GONE | documented(401, 403, 429), summary="Log out")
    async def log_out(self, request: Request[Any, Any, Any], console: Desk) -> Response[None]:
        """Ends the session on all proxies and deletes its cookie."""
        cookie = await console.access.log_out(request.state.asker, secure=request.url.scheme == "https")
        return Response(None, status_code=204, cookies=[cookie])


class Now(Controller):
    """The current state."""

    path = "/"
    guards = [viewer]  # noqa: RUF012 - required by Litestar
    tags = ["now"]  # noqa: RUF012

    @get("/overview", responses=documented(401, 429), summary="Overview")
    async def overview(self, console: Desk) -> Overview:
        """Health, the serving route and why, quotas, recent events."""
        return await console.overview()

    @get("/routes", responses=documented(401, 429), summary="Routes", sync_to_thread=False)
    def routes(self, console: Desk) -> list[RouteView]:
        """The routes in the order in which they are tried."""
        return routes_of(console.settings, console.view, console.now_ms())

    @get("/attempts", responses=documented(401, 429), summary="Attempts in progress", sync_to_thread=False)
    def attempts(self, console: Desk) -> list[LiveAttempt]:
        """Open attempts, oldest first, at most 500."""
        return attempts_of(console.view)

    @get("/fleet", responses=documented(401, 429), summary="Replicas, streams and lag")
    async def fleet(self, console: Desk) -> Fleet:
        """Replicas, workers, and the state of the ledger."""
        return await console.fleet.fleet(console.now_ms(), await console.reports.workers())

    @get("/keys", responses=documented(401, 429), summary="Client keys", sync_to_thread=False)
    def keys(self, console: Desk) -> list[KeyView]:
        """All valid keys with their limits and this week's usage."""
        return keys_of(console.settings, console.view, console.under_way(), console.now_ms())

    @get("/settings", responses=documented(401, 429), summary="Effective settings", sync_to_thread=False)
    def settings(self, console: Desk) -> list[SettingView]:
        """Settings in force; secrets are redacted."""
        return redacted_settings_view(console.settings)

    @get(
        "/live",
        responses=LIVE | documented(401, 429, 503),
        summary="Server-sent events",
        media_type="text/event-stream",
    )
    async def live(self, console: Desk) -> Stream:
        """Server-sent events `overview` and `event`."""
        return Stream(await console.feed.watch(), media_type="text/event-stream")


class Events(Controller):
    """Events and requests."""

    path = "/"
    guards = [viewer]  # noqa: RUF012 - required by Litestar
    tags = ["events"]  # noqa: RUF012

    @get("/events", responses=documented(400, 401, 429, 503), summary="Events, newest first")
    async def events(
        self,
        console: Desk,
        stream: FilterText = "",
        type_: Annotated[str, QueryParameter(name="type", max_length=256)] = "",
        route: FilterText = "",
        key: FilterText = "",
        model: FilterText = "",
        request_id: Annotated[str, QueryParameter(name="request", max_length=256)] = "",
        outcome: FilterText = "",
        since: Annotated[int, QueryParameter(ge=0, le=2**53)] = 0,
        until: Annotated[int, QueryParameter(ge=0, le=2**53)] = 0,
        before: Annotated[str, QueryParameter(max_length=64, pattern=r"^(\d{1,19}-\d{1,19}|h:[0-9a-f-]{36})?$")] = "",
        limit: Annotated[int, QueryParameter(ge=1, le=500)] = 100,
    ) -> EventPage:
        """Read from the streams first, then from Postgres through the workers."""
        if type_ and type_ not in EVENT_NAMES:
            raise BadReport(f"no event has the type {type_!r}; types: {', '.join(EVENT_NAMES)}")
        filters = Filters(stream, type_, route, key, model, request_id, outcome, since, until)
        if console.tail and not before.startswith(HISTORY):
            page = await console.tail.page(
                [stream] if stream else await console.tail.streams(), before, limit, filters.wants
            )
            following = page.next or (HISTORY + lowest_id((oldest_ms(page.events, until) or console.now_ms()) + 1))
            return EventPage(events=page.events, next=following, source="stream")
        asked = msgspec.structs.asdict(filters) | {"before": before.removeprefix(HISTORY), "limit": limit}
        found = await console.reports.ask("events", **asked)
        return EventPage(
            events=views_of_rows(found["rows"]), next=HISTORY + found["next"] if found["next"] else "", source="history"
        )

    @get("/requests/{request_id:str}", responses=documented(401, 404, 429, 503), summary="One request")
    async def request(self, console: Desk, request_id: Annotated[str, PathParameter(max_length=64)]) -> RequestView:
        """A request and its attempts, as a timeline."""
        views: Sequence[EventView] = []
        if console.tail:
            views = await console.tail.of_request(request_id, await console.tail.streams())
        if not views:
            views = views_of_rows(await console.reports.ask("request", request_id=request_id))
        if not views:
            raise NotFound(f"the ledger has no request {request_id}")
        return request_of(request_id, views)


class History(Controller):
    """Reports from Postgres through the workers."""

    path = "/"
    guards = [viewer]  # noqa: RUF012 - required by Litestar
    tags = ["history"]  # noqa: RUF012

    @get("/usage", responses=documented(400, 401, 429, 503), summary="Tokens and cost over time")
    async def usage(
        self,
        console: Desk,
        since: TimeText = "",
        until: TimeText = "",
        by: ByText = "day",
        route: FilterText = "",
        model: FilterText = "",
        key: FilterText = "",
    ) -> UsageReport:
        """Grouped by any of hour, day, week, route, model, key."""
        asked = {"since": since, "until": until, "by": by, "route": route, "model": model, "key": key}
        return msgspec.convert(await console.reports.ask("usage", **asked), UsageReport)

    @get("/latency", responses=documented(400, 401, 429, 503), summary="Latency percentiles")
    async def latency(
        self, console: Desk, since: TimeText = "24h", until: TimeText = "", by: ByText = "hour"
    ) -> LatencyReport:
        """Grouped by any of hour, day, route, model."""
        return msgspec.convert(await console.reports.ask("latency", since=since, until=until, by=by), LatencyReport)

    @get("/dead-letters", responses=documented(400, 401, 429, 503), summary="Dead letters and quarantined events")
    async def dead_letters(
        self, console: Desk, stream: FilterText = "", limit: Annotated[int, QueryParameter(ge=1, le=500)] = 100
    ) -> PutAsidePage:
        """Dead letters and quarantined events, newest first."""
        return msgspec.convert(await console.reports.ask("put_aside", stream=stream, limit=limit), PutAsidePage)


def console_of(state: State) -> Console:
    """Return the console of this process."""
    console: Console = state.console
    return console


def admin_router() -> Router:
    """Return the router of the admin API."""
    return Router(
        "/admin/api",
        route_handlers=[Sessions, Now, Events, History, *ACTIONS],
        exception_handlers={ProxyError: fail, HTTPException: fail, **ERRORS},
        response_headers=[
            ResponseHeader(name="cache-control", value="no-store", documentation_only=False),
            ResponseHeader(name="x-content-type-options", value="nosniff", documentation_only=False),
        ],
        security=[{"bearer": []}, {"session": []}],
    )


def oldest_ms(events: Sequence[EventView], until: int) -> int:
    """Return the time from which on the streams are complete."""
    return min((view.at_ms for view in events), default=until)
