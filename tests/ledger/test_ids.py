"""Ids: what they are made of, and what follows from them."""

from hashlib import sha256
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.fleet.clock import Clock
from service.ledger.ids import (
    derived_id,
    ended_id,
    lost_id,
    lowest_id,
    time_of_id_ms,
    time_of_request_id_ms,
    uuid7,
)

TIMES_MS = st.integers(0, 2**48 - 1)


@st.composite
def uuid7s(draw: st.DrawFn) -> str:
    """Any UUIDv7."""
    return uuid7(draw(TIMES_MS), draw(st.integers(0, 2**80 - 1)))


@given(uuid7s(), st.text(max_size=8))
def test_a_derived_id_is_a_uuid7_of_the_same_time(event_id: str, suffix: str) -> None:
    """Version, variant and time are those of the id that it comes from, so that it lands in the same partition."""
    derived = derived_id(event_id, suffix)
    assert (UUID(derived).version, str(UUID(derived))) == (7, derived)
    assert time_of_id_ms(derived) == time_of_id_ms(event_id)


@pytest.mark.parametrize("variant", "89ab")
@pytest.mark.parametrize("last", "0123")
def test_a_derived_id_takes_its_random_bits_from_the_hash(variant: str, last: str) -> None:
    """All of them, and none from the id that it comes from: only the time is that one's."""
    event_id = f"019a9f3c-5e00-7abc-{variant}def-0123456789a{last}"
    drawn = sha256(f"{event_id}/ended".encode()).hexdigest()
    bits = int("019a9f3c5e00" + "7" + drawn[13:16] + drawn[16:32], 16) & ~(3 << 62) | 2 << 62
    assert ended_id(event_id) == str(UUID(int=bits))


@given(uuid7s(), uuid7s())
def test_an_attempt_has_one_end_and_one_loss(one: str, other: str) -> None:
    """Whoever derives them comes to the same ids; end, loss and attempt, and those of two attempts, differ."""
    assert (ended_id(one), lost_id(one)) == (derived_id(one, "ended"), derived_id(one, "lost"))
    made = {name(attempt) for name in (str, ended_id, lost_id) for attempt in (one, other)}
    assert len(made) == 3 * len({one, other})


@given(TIMES_MS)
def test_the_time_inside_an_id_is_read(at_ms: int) -> None:
    """Unix milliseconds, all 48 bits of them."""
    assert time_of_id_ms(uuid7(at_ms, 0)) == time_of_id_ms(lowest_id(at_ms)) == at_ms


@given(TIMES_MS, st.integers(0, 2**74 - 1))
def test_an_id_is_made_of_its_time_and_all_random_bits(at_ms: int, random: int) -> None:
    """RFC 9562: 48 bits of time, version 7, 12 random bits, the variant, 62 random bits; and its canonical text."""
    bits = at_ms << 80 | 7 << 76 | (random >> 62) << 64 | 2 << 62 | random & 2**62 - 1
    assert uuid7(at_ms, random) == str(UUID(int=bits))
    assert lowest_id(at_ms) == str(UUID(int=at_ms << 80)) < uuid7(at_ms, random)


def test_the_time_inside_a_request_id_is_read() -> None:
    """A request's id has 18 digits, and begins with its time."""
    clock = Clock()
    before_ms = clock.now_ms()
    request_id = clock.new_request_id()
    assert len(request_id) == 18
    assert before_ms <= time_of_request_id_ms(request_id) <= clock.now_ms()


def test_derived_ids_never_change() -> None:
    """The rule is part of the contract: two versions that derive differently would count an end twice."""
    assert ended_id("019a9f3c-5e00-7abc-8def-0123456789ab") == "019a9f3c-5e00-72a1-be04-b2be5c0a7bd8"
