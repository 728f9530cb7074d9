"""Per-address backoff for failed authentication, in bounded memory. Successes are not delayed.

Guessing a key of 192 bits is hopeless at any speed; this limits load and log noise, and protects short keys chosen by
users. All authentication counts here: client keys, tokens of the console and of metrics, sessions.

Failures are answered with a growing delay. Parallel attempts do not bypass it: once `HELD` answers are delayed, an
address with failures gets no more answers, except for what it has proven before. Hence nobody is locked out by others,
though all clients may share the address of a load balancer.
"""

import asyncio
import time
from collections import OrderedDict
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from msgspec import Struct

from service.errors import AskedTooOften, ClientError

FREE_TRIES = 5
"""A mistyped key, retried by its client, is not delayed."""
FIRST_WAIT_S = 0.25
LONGEST_WAIT_S = 4.0
FORGET_S = 300.0
LATER_S = 5
ADDRESSES = 4_096
"""Maximum addresses remembered; the one whose last failure is oldest is dropped first."""
HELD = 512
"""Maximum answers delayed at a time, each with its connection."""
PROVEN = 4_096
"""Maximum pairs of an address (or its network) and what it has proven; the oldest is dropped first."""
NETWORK_BITS = 64
"""Prefix length of an IPv6 network that counts as one address: one customer has at least this, and may change addresses
within."""


class Failures(Struct):
    """Failed tries of one address, and the time of the last one."""

    tries: int = 0
    last_s: float = 0.0


class AuthThrottle:
    """Counts failures by address; `tries` in total."""

    def __init__(self) -> None:
        self.tries = 0
        self._failures: OrderedDict[str, Failures] = OrderedDict()
        self._proven: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._held = 0

    @property
    def suspects(self) -> int:
        """Number of addresses that are being delayed."""
        return sum(failures.tries > FREE_TRIES for failures in self._failures.values())

    def accept(self, address: str, proof: str) -> None:
        """Record a success; `proof` identifies the key, token or role that was proven.

        Raises AskedTooOften for a new proof while this address floods the proxy with failures.
        """
        if (address, proof) in self._proven:
            return
        network = (network_of(address), proof)
        if self._is_flooded_by(address) and network not in self._proven:
            raise too_often()
        while len(self._proven) >= PROVEN:
            self._proven.popitem(last=False)
        self._proven[address, proof] = self._proven[network] = None

    async def delay_failure(self, address: str, error: ClientError) -> ClientError:
        """Record a failure and delay its answer: `error`, or another one if too many are delayed already."""
        flooded = self._is_flooded_by(address)
        wait_s = self.note_failure(address)
        if flooded:
            return too_often()
        if wait_s:
            self._held += 1
            # The slot is taken for the whole delay, even if the client disconnects earlier.
            asyncio.get_running_loop().call_later(wait_s, self._release)
            await asyncio.sleep(wait_s)
        return error

    def note_failure(self, address: str) -> float:
        """Count a failed try and return the delay of its answer in seconds."""
        now_s = time.monotonic()
        name = network_of(address)
        failures = self._failures.pop(name, None)
        if failures is None or now_s - failures.last_s > FORGET_S:
            failures = Failures()
        failures.tries += 1
        failures.last_s = now_s
        self.tries += 1
        while len(self._failures) >= ADDRESSES:
            self._failures.popitem(last=False)
        self._failures[name] = failures
        steps = min(8, failures.tries - FREE_TRIES)
        return min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** (steps - 1)) if steps > 0 else 0.0

    def _is_flooded_by(self, address: str) -> bool:
        """True if no more answers can be delayed, and this address is one of those that fail."""
        if self._held < HELD:
            return False
        failures = self._failures.get(network_of(address))
        return failures is not None and failures.tries >= FREE_TRIES

    def _release(self) -> None:
        self._held -= 1


def too_often() -> AskedTooOften:
    """Return an error that reveals nothing about the key."""
    return AskedTooOften("too many wrong keys from this address; try again later", retry_after_s=LATER_S)


@lru_cache(maxsize=ADDRESSES)
def network_of(address: str) -> str:
    """Return what counts as one address: an IPv4 address (also mapped into IPv6), or an IPv6 network."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(found, IPv6Address):
        return str(found)
    if found.ipv4_mapped:
        return str(found.ipv4_mapped)
    return str(IPv6Address(int(found) >> (128 - NETWORK_BITS) << (128 - NETWORK_BITS)))
