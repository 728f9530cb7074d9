"""The admin API's changes. Each is an event with its author, and takes effect on every proxy.

Not here: permissions (`auth`: the guard `admin`), and what the events mean (`service.ledger`).
"""

import secrets
from typing import Annotated, Any

import msgspec
from litestar import Controller, Request, delete, post, put
from litestar.params import JSONBody, PathParameter
from msgspec.structs import asdict

from service.console.api_types import (
    Disable,
    Done,
    Drop,
    Dropped,
    ForgottenView,
    IssuedKey,
    KeyLimits,
    KeyView,
    NewKey,
    Replayed,
    ResetDone,
    RouteLimit,
    Stream,
)
from service.console.auth import address_of, admin, viewer
from service.console.console import Console, Desk
from service.console.error_responses import documented
from service.console.overview import key_of
from service.errors import NotFound, Taken
from service.ledger.events import (
    ClientKeyIssued,
    ClientKeyLimited,
    ClientKeyRevoked,
    ControlEvent,
    DropAsked,
    QuotaLimitChanged,
    ReplayAsked,
    RouteDisabled,
    RouteEnabled,
)
from service.ledger.keys import SECRET_BYTES, make_key
from service.ledger.state import ClientKey
from service.routing.reset import describe_forgotten

RouteId = Annotated[str, PathParameter(max_length=64)]
KeyId = Annotated[str, PathParameter(max_length=64)]
Asked = Request[Any, Any, Any]
CHANGING = (400, 401, 403, 404, 429)


class Routes(Controller):
    """Changes to a route."""

    path = "/routes/{route:str}"
    guards = [viewer, admin]  # noqa: RUF012 - required by Litestar
    tags = ["actions"]  # noqa: RUF012

    @post("/disable", status_code=200, responses=documented(*CHANGING), summary="Disable a route")
    async def disable(self, request: Asked, console: Desk, route: RouteId, data: JSONBody[Disable]) -> Done:
        """It gets no new requests; those in progress are completed."""
        console = require_route(console, route)
        return await record_command(
            console, RouteDisabled(**common_fields(console, request), route=route, reason=data.reason)
        )

    @post("/enable", status_code=200, responses=documented(*CHANGING), summary="Enable a route")
    async def enable(self, request: Asked, console: Desk, route: RouteId) -> Done:
        """It gets requests again."""
        console = require_route(console, route)
        return await record_command(console, RouteEnabled(**common_fields(console, request), route=route))

    @post("/reset", status_code=200, responses=documented(*CHANGING), summary="Reset a route")
    async def reset(self, request: Asked, console: Desk, route: RouteId) -> ResetDone:
        """Forgets its circuit, cool-downs, windows, missing models and unknown errors; usage stays counted."""
        command, forgot = await require_route(console, route).reset(route, author_of(request))
        return ResetDone(
            event_id=command.event_id,
            at_ms=command.at_ms,
            forgot=ForgottenView(**asdict(forgot)),
            words=describe_forgotten(forgot),
        )

    @put("/limit", responses=documented(*CHANGING), summary="Change a route's weekly limit")
    async def limit(self, request: Asked, console: Desk, route: RouteId, data: JSONBody[RouteLimit]) -> Done:
        """None restores the configured limit."""
        console = require_route(console, route)
        event = QuotaLimitChanged(**common_fields(console, request), route=route, weekly_tokens=data.weekly_tokens)
        return await record_command(console, event)


class Keys(Controller):
    """Changes to client keys."""

    path = "/keys"
    guards = [viewer, admin]  # noqa: RUF012 - required by Litestar
    tags = ["actions"]  # noqa: RUF012

    @post(responses=documented(400, 401, 403, 409, 429), summary="Issue a client key")
    async def issue(self, request: Asked, console: Desk, data: JSONBody[NewKey]) -> IssuedKey:
        """Only this response contains the key itself."""
        names = {key.name for key in console.view.control.keys.values()}
        if data.name in names | {key.key_id for key in console.settings.client_keys}:
            raise Taken(f"a key named {data.name!r} exists already")
        made = make_key(data.name, secrets.token_bytes(SECRET_BYTES + 3))
        event = ClientKeyIssued(
            **common_fields(console, request), key_id=made.key_id, name=data.name, sha256=made.sha256, **limits_of(data)
        )
        await console.command(event)
        key = ClientKey(name=data.name, sha256="", issued_at_ms=event.at_ms, **limits_of(data))
        return IssuedKey(key=made.text, view=key_of(made.key_id, key, console.view, console.settings, console.now_ms()))

    @put("/{key_id:str}/limits", responses=documented(*CHANGING), summary="Replace a key's limits")
    async def limit(self, request: Asked, console: Desk, key_id: KeyId, data: JSONBody[KeyLimits]) -> KeyView:
        """Replaces all limits; a missing field removes that limit."""
        key = require_key(console, key_id)
        await console.command(ClientKeyLimited(**common_fields(console, request), key_id=key_id, **limits_of(data)))
        key = msgspec.structs.replace(key, **limits_of(data))
        return key_of(key_id, key, console.view, console.settings, console.now_ms())

    @delete("/{key_id:str}", responses=documented(*CHANGING), summary="Revoke a key")
    async def revoke(self, request: Asked, console: Desk, key_id: KeyId) -> None:
        """It stops working on all proxies within a second."""
        require_key(console, key_id)
        await console.command(ClientKeyRevoked(**common_fields(console, request), key_id=key_id))


class DeadLetters(Controller):
    """Changes to dead letters and quarantined events."""

    path = "/dead-letters"
    guards = [viewer, admin]  # noqa: RUF012 - required by Litestar
    tags = ["actions"]  # noqa: RUF012

    @post("/replay", status_code=200, responses=documented(400, 401, 403, 429, 503), summary="Retry dead letters")
    async def replay(self, request: Asked, console: Desk, data: JSONBody[Stream]) -> Replayed:
        """The workers fold those that they can decode by now."""
        await console.command(ReplayAsked(**common_fields(console, request), of=data.stream))
        return msgspec.convert(await console.reports.ask("replay", stream=data.stream), Replayed)

    @post(
        "/drop",
        status_code=200,
        responses=documented(400, 401, 403, 429, 503),
        summary="Drop dead letters and quarantined events",
    )
    async def drop(self, request: Asked, console: Desk, data: JSONBody[Drop]) -> Dropped:
        """Takes the ids from the list of dead letters."""
        await console.command(DropAsked(**common_fields(console, request), rows=tuple(data.ids)))
        found = await console.reports.ask("drop", ids=data.ids, by=author_of(request))
        return msgspec.convert(found, Dropped)


ACTIONS = (Routes, Keys, DeadLetters)


def require_route(console: Console, route: str) -> Console:
    """Return the console if the route exists. Raises NotFound."""
    if route not in {one.id for one in console.settings.routes}:
        raise NotFound(f"no route {route!r}")
    return console


def require_key(console: Console, key_id: str) -> ClientKey:
    """Return an active key. Raises NotFound."""
    key = console.view.control.keys.get(key_id)
    if key is None:
        raise NotFound(f"the ledger has no key {key_id!r}")
    return key


def author_of(request: Asked) -> str:
    """Return the author of a change, for the audit."""
    return f"{request.state.asker.role} at {address_of(request)}"


def common_fields(console: Console, request: Asked) -> dict[str, Any]:
    """Return the fields common to all commands."""
    return console.stamp(author_of(request))


async def record_command(console: Console, event: ControlEvent) -> Done:
    """Record a command."""
    await console.command(event)
    return Done(event_id=event.event_id, at_ms=event.at_ms)


def limits_of(given: KeyLimits) -> dict[str, Any]:
    """Return a key's limits as event fields."""
    return {
        "weekly_tokens": given.weekly_tokens,
        "weekly_cost_nusd": given.weekly_cost_nusd,
        "models": tuple(given.models),
        "routes": tuple(given.routes),
        "concurrency": given.concurrency,
        "expires_at_ms": given.expires_at_ms,
    }
