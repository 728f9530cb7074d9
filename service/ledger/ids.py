"""Ids of events and requests: composed of a time and random bits, derived ids, and the time in an id. Pure;
`service.fleet.clock` supplies clock and random bits for new ids."""

from hashlib import sha256

REQUEST_TIME_DIGITS = 11
"""Hexadecimal digits of the time in a request id; `Clock.new_request_id` makes them."""


def uuid7(at_ms: int, random: int) -> str:
    """Return the UUIDv7 of this time and the lower 74 of these random bits."""
    return (
        f"{at_ms >> 16:08x}-{at_ms & 0xFFFF:04x}-7{random >> 62 & 0xFFF:03x}-"
        f"{0x8000 | random >> 48 & 0x3FFF:04x}-{random & 0xFFFF_FFFF_FFFF:012x}"
    )


def lowest_id(at_ms: int) -> str:
    """Return the lowest event id of a millisecond, for searches; no event has it."""
    return f"{at_ms >> 16:08x}-{at_ms & 0xFFFF:04x}-0000-0000-000000000000"


def derived_id(event_id: str, suffix: str) -> str:
    """Return the UUIDv7 that belongs to `event_id` and `suffix`: same time, the random bits a hash of both.

    It is deterministic, so that an attempt's end counts once, whoever records it and however often.
    """
    drawn = sha256(f"{event_id}/{suffix}".encode()).hexdigest()
    variant = int(event_id[19], 16) & 0b1100 | int(drawn[16], 16) & 0b0011
    return f"{event_id[:15]}{drawn[13:16]}-{variant:x}{drawn[17:20]}-{drawn[20:32]}"


def ended_id(attempt_id: str) -> str:
    """Return the id of the `AttemptEnded` of this attempt."""
    return derived_id(attempt_id, "ended")


def lost_id(attempt_id: str) -> str:
    """Return the id of the `AttemptLost` of this attempt."""
    return derived_id(attempt_id, "lost")


def repriced_id(event_id: str) -> str:
    """Return the id of the `UsageRepriced` that follows the price of this event."""
    return derived_id(event_id, "repriced")


def time_of_id_ms(event_id: str) -> int:
    """Return the Unix milliseconds in a UUIDv7."""
    return int(event_id[:8] + event_id[9:13], 16)


def time_of_request_id_ms(request_id: str) -> int:
    """Return the Unix milliseconds in a request id. Raises ValueError for an id of another shape."""
    return int(request_id[:REQUEST_TIME_DIGITS], 16)
