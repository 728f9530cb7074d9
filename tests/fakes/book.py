"""What a fake was told and what it saw: the scripts, the requests, the answers. Shared by its loop and the test.

Every access takes one lock, so that a test may look from another thread. It decides nothing about HTTP.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from tests.fakes.language import Match, Received, Reply, Served, Usage
from tests.fakes.reply import message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


@dataclass
class _Scripted:
    reply: Reply
    left: int  # how often it may still be used; below zero for ever


class Book:
    """The memory of one fake. With `records` off it counts requests and adds up usage, but keeps no bodies."""

    def __init__(self, *, records: bool = True) -> None:
        self._changed = threading.Condition()
        self._script: deque[_Scripted] = deque()
        self._requests: list[Received] = []
        self._served: list[Served] = []
        self.request_count = 0
        self._records = records
        self.default: Reply = message()
        self.extra_headers: dict[str, str] = {}
        self.faults: list[BaseException] = []

    def fail(self, fault: BaseException) -> None:
        """Remember a fault of the fake itself; stopping it raises the first."""
        self.faults.append(fault)

    def script(self, replies: Iterable[Reply]) -> None:
        with self._changed:
            self._script.extend(_Scripted(reply, reply.times if reply.times > 0 else -1) for reply in replies)

    def take(self, request: Received, path: str) -> Reply | None:
        """The first scripted reply that is for this request, used up by one."""
        with self._changed:
            for scripted in self._script:
                if matches(scripted.reply.match, request, path):
                    scripted.left -= 1
                    if scripted.left == 0:
                        self._script.remove(scripted)
                    return scripted.reply
        return None

    @property
    def scripted_left(self) -> int:
        """How many scripted replies have not been used up."""
        with self._changed:
            return len(self._script)

    def received(self, request: Received) -> None:
        """Take a request in; its index is its place among all."""
        with self._changed:
            request.index = self.request_count
            request.received_s = time.monotonic()
            self.request_count += 1
            if self._records:
                self._requests.append(request)
            self._changed.notify_all()

    def opened(self, served: Served) -> None:
        with self._changed:
            if self._records:
                self._served.append(served)

    def note(self, change: Callable[[], None]) -> None:
        """Make a change to a request or an answer, and tell those who wait."""
        with self._changed:
            change()
            self._changed.notify_all()

    def requests(self) -> list[Received]:
        with self._changed:
            return list(self._requests)

    def served(self) -> list[Served]:
        with self._changed:
            return [msgspec.structs.replace(each) for each in self._served]

    def usage(self) -> Usage:
        """All usage that was put on the wire, whole answers or not."""
        return sum((each.usage for each in self.served()), Usage())

    def reset(self) -> None:
        """Forget scripts, requests and answers; credentials and resources stay."""
        with self._changed:
            self._script.clear()
            self._requests.clear()
            self._served.clear()
            self.request_count = 0
            self.default = message()
            self.extra_headers = {}

    def wait_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until the condition holds; False when it does not in time. Looked at after every change."""
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                return False
            with self._changed:
                self._changed.wait(min(left_s, 0.02))  # a change between look and wait costs one short round
        return True


def matches(match: Match, request: Received, path: str) -> bool:
    """Whether every condition of the match holds; `path` comes without the vendor's base path."""
    if match.path not in (path, "*") or (match.method and match.method != request.method):
        return False
    if match.header and request.header(match.header[0]) != match.header[1]:
        return False
    if match.credential and match.credential != request.credential:
        return False
    return not match.body or match.body.encode() in request.body
