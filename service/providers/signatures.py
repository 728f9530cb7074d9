"""Remembers signatures of thinking blocks that a route rejected, so that they are removed from later requests to it.

Another vendor's or account's thinking stays in a conversation: without this cache, each further request would be
rejected once. It is per process and bounded: a forgotten signature is rejected once more.

Not here: recognizing the rejection (`routing.failure`), and removing the blocks (`conversation`).
"""

import re
from collections import OrderedDict
from collections.abc import Container
from hashlib import sha256

from msgspec import Struct

from service.protocol.body_survey import survey

MOST_SIGNATURES = 50_000
PLACE = re.compile(r"\bmessages\.(\d+)\.content\.(\d+)\b")
"""Names a block, as in "messages.1.content.0: Invalid `signature` in `thinking` block"."""


class RefusedSignatures:
    """Set of digests of signatures, by route; the oldest are dropped."""

    def __init__(self, most: int = MOST_SIGNATURES) -> None:
        self._most = most
        self._known: OrderedDict[bytes, None] = OrderedDict()

    def add(self, route: str, raw: bytes, error: str = "") -> None:
        """Add the signature of the block that an error names, or all of the rejected body if it names none."""
        self._known.update(dict.fromkeys(digest(route, mark) for mark in marks_in(raw, error)[-self._most :]))
        while len(self._known) > self._most:
            self._known.popitem(last=False)

    def of(self, route: str) -> Container[str]:
        """Return the signatures that a route rejected."""
        return RouteSignatures(route, self._known) if self._known else ()


class RouteSignatures(Struct, frozen=True):
    """The signatures that one route rejected."""

    route: str
    known: OrderedDict[bytes, None]

    def __contains__(self, mark: object) -> bool:
        return isinstance(mark, str) and digest(self.route, mark) in self.known


def marks_in(raw: bytes, error: str) -> list[str]:
    """Return the signature of the block that an error names; if it names none, all of a body."""
    marks = {
        (number, index): block.mark
        for number, message in enumerate(survey(raw))
        if isinstance(message.content, list)
        for index, block in enumerate(message.content)
        if block.mark
    }
    named = PLACE.search(error)
    mark = marks.get((int(named[1]), int(named[2]))) if named else None
    return [mark] if mark else list(marks.values())


def digest(route: str, mark: str) -> bytes:
    """Return a short digest, since signatures are long."""
    return sha256(f"{route} {mark}".encode()).digest()[:12]
