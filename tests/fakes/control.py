"""The control endpoint of a fake that runs as its own process: `/_fake/...`, in the language of replies as JSON.

It listens on a port of its own, so that it can be reached while the provider refuses connections.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from tests.fakes.delivery import Answer
from tests.fakes.language import Received, Reply
from tests.fakes.sse import Piece

if TYPE_CHECKING:
    from tests.fakes.api import Api
    from tests.fakes.book import Book
    from tests.fakes.listener import Listener


class State(msgspec.Struct, kw_only=True):
    """What else is worth knowing of a fake."""

    request_count: int
    scripted_left: int
    keys: list[str] | None
    refresh_tokens: list[str]
    issued: list[tuple[str, str]]


class Control:
    """Routes of the control endpoint.

    | route | body -> answer |
    |---|---|
    | POST /_fake/script | list of replies |
    | PUT /_fake/default | a reply |
    | PUT /_fake/headers | headers of every answer |
    | PUT /_fake/keys | list of valid credentials, or null for any |
    | GET /_fake/requests, /_fake/served, /_fake/state | -> list, list, object |
    | POST /_fake/refuse, /_fake/listen | refuse connections, listen again |
    | POST /_fake/reset | forget scripts, requests and answers |
    """

    def __init__(self, api: Api, book: Book, listener: Listener) -> None:
        self._api = api
        self._book = book
        self._listener = listener
        self._routes: dict[str, _Route] = {
            "POST /_fake/script": self._script,
            "PUT /_fake/default": self._default,
            "PUT /_fake/headers": self._headers,
            "PUT /_fake/keys": self._keys,
            "GET /_fake/requests": self._requests,
            "GET /_fake/served": self._served,
            "GET /_fake/state": self._state,
            "POST /_fake/refuse": self._refuse,
            "POST /_fake/listen": self._listen,
            "POST /_fake/reset": self._reset,
        }

    async def serve(self, request: Received) -> Answer:
        route = self._routes.get(f"{request.method} {request.path}")
        if route is None:
            return _answer(
                404, {"error": f"no such control: {request.method} {request.path}", "known": [*self._routes]}
            )
        try:
            return _answer(200, await route(request.body))
        except msgspec.DecodeError as error:
            return _answer(400, {"error": str(error)})

    async def _script(self, body: bytes) -> object:
        self._book.script(msgspec.json.decode(body, type=list[Reply]))
        return {}

    async def _default(self, body: bytes) -> object:
        self._book.default = msgspec.json.decode(body, type=Reply)
        return {}

    async def _headers(self, body: bytes) -> object:
        self._book.extra_headers = msgspec.json.decode(body, type=dict[str, str])
        return {}

    async def _keys(self, body: bytes) -> object:
        self._api.credentials.valid = msgspec.json.decode(body, type=set[str] | None)
        return {}

    async def _requests(self, _: bytes) -> object:
        return self._book.requests()

    async def _served(self, _: bytes) -> object:
        return self._book.served()

    async def _state(self, _: bytes) -> object:
        valid = self._api.credentials.valid
        return State(
            request_count=self._book.request_count,
            scripted_left=self._book.scripted_left,
            keys=None if valid is None else sorted(valid),
            refresh_tokens=sorted(self._api.oauth.refresh_tokens),
            issued=list(self._api.oauth.issued),
        )

    async def _refuse(self, _: bytes) -> object:
        await self._listener.refuse()
        return {}

    async def _listen(self, _: bytes) -> object:
        await self._listener.open()
        return {}

    async def _reset(self, _: bytes) -> object:
        self._book.reset()
        return {}


_Route: TypeAlias = Callable[[bytes], Awaitable[object]]


def _answer(status: int, value: object) -> Answer:
    return Answer(
        status=status,
        headers=[("content-type", "application/json")],
        pieces=[Piece("body", msgspec.json.encode(value))],
    )
