"""Failed authentication is slowed by address, however it is spread; a right key is never delayed."""

import asyncio
import time

import pytest

from service import auth_throttle as brake
from service.auth_throttle import ADDRESSES, FREE_TRIES, LONGEST_WAIT_S, PROVEN, AuthThrottle, network_of
from service.errors import AskedTooOften, BadClientKey
from tests.support.waiting import wait_until

WRONG = BadClientKey("wrong")


def suspicious(address: str = "a") -> AuthThrottle:
    """A brake that knows of some failures of an address."""
    made = AuthThrottle()
    for _ in range(FREE_TRIES):
        made.note_failure(address)
    return made


def test_guessing_is_slowed_and_forgotten() -> None:
    """The first few tries cost nothing, then each waits longer, to a bound; addresses are bounded as well."""
    made = AuthThrottle()
    waits = [made.note_failure("a") for _ in range(FREE_TRIES + 12)]
    assert waits[:FREE_TRIES] == [0.0] * FREE_TRIES
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_WAIT_S
    assert made.note_failure("b") == 0.0
    assert (made.tries, made.suspects) == (FREE_TRIES + 13, 1)
    for number in range(ADDRESSES + 1_000):
        made.note_failure(str(number))
        made.accept(str(number), "key")
        made.accept(str(number), "other key")
    assert (len(made._failures), len(made._proven)) == (ADDRESSES, PROVEN)
    made.accept("2001:db8::1", "key")
    assert len(made._proven) <= PROVEN + 1


@pytest.mark.parametrize(
    ("address", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("::1", "127.0.0.1", False),
        ("", "socket", False),
    ],
)
def test_what_counts_as_one_address(address: str, other: str, same: bool) -> None:  # noqa: FBT001
    """A customer has a /64 of IPv6 at least, and changes addresses within it at will."""
    assert (network_of(address) == network_of(other)) is same
    made = suspicious(address)
    assert (made.note_failure(other) > 0) is same


async def test_failures_side_by_side_are_held_back_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """300 guesses at once: but for the free ones, none is answered soon, and a right key is accepted meanwhile."""
    monkeypatch.setattr(brake, "FIRST_WAIT_S", 20.0)
    monkeypatch.setattr(brake, "LONGEST_WAIT_S", 20.0)
    made = AuthThrottle()
    tasks = [asyncio.ensure_future(made.delay_failure("a", WRONG)) for _ in range(300)]
    done, held = await asyncio.wait(tasks, timeout=0.1)
    assert len(done) == FREE_TRIES
    made.accept("a", "right key")
    for task in held:
        task.cancel()
    await asyncio.gather(*held, return_exceptions=True)


async def test_leaving_does_not_make_room_for_more_guesses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever does not wait for the answer has used its place all the same; then it learns nothing more."""
    monkeypatch.setattr(brake, "HELD", 3)
    monkeypatch.setattr(brake, "FIRST_WAIT_S", 0.05)
    made = suspicious()
    made.accept("a", "known key")
    tasks = [asyncio.ensure_future(made.delay_failure("a", WRONG)) for _ in range(3)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    began_s = time.monotonic()
    assert isinstance(await made.delay_failure("a", WRONG), AskedTooOften)
    assert time.monotonic() - began_s < 0.04
    with pytest.raises(AskedTooOften):
        made.accept("a", "new key")
    made.accept("a", "known key")
    made.accept("b", "new key")
    assert await made.delay_failure("b", WRONG) is WRONG
    await wait_until(lambda: not made._held)
    made.accept("a", "new key")
