"""Slows down whoever guesses secrets, by address, in bounded memory. A right secret is never kept waiting.

Guessing a key of 192 bits is hopeless at any speed; what this stops is the load and the noise, and short keys of
somebody's own making. Behind a load balancer all clients have one address: hence nobody is locked out by others.
"""

import asyncio
import time
from collections import OrderedDict

from msgspec import Struct

from service.errors import AskedTooOften, ClientError

FREE_TRIES = 5
"""A mistyped key, tried again by its client, costs nothing."""
FIRST_WAIT_S = 0.25
LONGEST_WAIT_S = 4.0
FORGET_S = 300.0
LATER_S = 5
ADDRESSES = 4_096
"""The address that was wrong longest ago is forgotten first."""
WAITING = 64
"""More than these are not kept waiting: they are answered at once, and told to come later."""


class Wrong(Struct):
    """What came from one address: wrong tries, and when the last one was."""

    tries: int = 0
    last_s: float = 0.0


class Brake:
    """Counts wrong secrets by address; `tries` in all."""

    def __init__(self) -> None:
        self.tries = 0
        self._wrong: OrderedDict[str, Wrong] = OrderedDict()
        self._waiting = 0

    @property
    def suspects(self) -> int:
        """Addresses that are being slowed down."""
        return sum(wrong.tries > FREE_TRIES for wrong in self._wrong.values())

    def wait_s(self, address: str) -> float:
        """Note a wrong try; how long its answer is to be kept back."""
        now_s = time.monotonic()
        wrong = self._wrong.pop(address, None)
        if wrong is None or now_s - wrong.last_s > FORGET_S:
            wrong = Wrong()
        wrong.tries += 1
        wrong.last_s = now_s
        self.tries += 1
        while len(self._wrong) >= ADDRESSES:
            self._wrong.popitem(last=False)
        self._wrong[address] = wrong
        steps = min(8, wrong.tries - FREE_TRIES)
        return min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** (steps - 1)) if steps > 0 else 0.0

    async def slow(self, address: str, error: ClientError) -> ClientError:
        """Note a wrong try and keep its answer back: `error`, or another one when too many are waiting already."""
        wait_s = self.wait_s(address)
        if not wait_s:
            return error
        if self._waiting >= WAITING:
            return AskedTooOften("too many wrong keys come at once; ask again later", retry_after_s=LATER_S)
        self._waiting += 1
        try:
            await asyncio.sleep(wait_s)
        finally:
            self._waiting -= 1
        return error
