"""Ids that follow from other ids."""

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from service.ledger.ids import derived_id, ended_id, format_uuid, lost_id, time_of_id_ms

TIMES_MS = st.integers(0, 2**48 - 1)


@st.composite
def uuid7s(draw: st.DrawFn) -> str:
    """Any UUIDv7."""
    random = draw(st.integers(0, 2**12 - 1)) << 64 | draw(st.integers(0, 2**62 - 1))
    return format_uuid(draw(TIMES_MS) << 80 | 7 << 76 | 2 << 62 | random)


@given(uuid7s(), st.text(max_size=8))
def test_a_derived_id_is_a_uuid7_of_the_same_time(event_id: str, suffix: str) -> None:
    """Version, variant and time are those of the id that it comes from, so that it lands in the same partition."""
    derived = derived_id(event_id, suffix)
    assert (UUID(derived).version, str(UUID(derived))) == (7, derived)
    assert time_of_id_ms(derived) == time_of_id_ms(event_id)


@given(uuid7s(), uuid7s())
def test_an_attempt_has_one_end_and_one_loss(one: str, other: str) -> None:
    """Whoever derives them comes to the same ids; end, loss and attempt, and those of two attempts, differ."""
    assert (ended_id(one), lost_id(one)) == (derived_id(one, "ended"), derived_id(one, "lost"))
    made = {name(attempt) for name in (str, ended_id, lost_id) for attempt in (one, other)}
    assert len(made) == 3 * len({one, other})


@given(TIMES_MS)
def test_the_time_inside_an_id_is_read(at_ms: int) -> None:
    """Unix milliseconds, all 48 bits of them."""
    assert time_of_id_ms(format_uuid(at_ms << 80 | 7 << 76 | 2 << 62)) == at_ms


def test_derived_ids_never_change() -> None:
    """The rule is part of the contract: two versions that derive differently would count an end twice."""
    assert ended_id("019a9f3c-5e00-7abc-8def-0123456789ab") == "019a9f3c-5e00-72a1-be04-b2be5c0a7bd8"
