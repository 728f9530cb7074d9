"""The ids of events and requests: how they are made of a time and random bits, what follows from one, and the time in
one. Pure. Fresh ids take a clock and a random source (`service.fleet.clock`)."""

from hashlib import sha256

REQUEST_TIME_DIGITS = 11
"""Hexadecimal digits of a request's id that are its time; `Clock.new_request_id` makes them."""


def uuid7(at_ms: int, random: int) -> str:
    """The UUIDv7 of this time and the lower 74 of these random bits."""
    return (
        f"{at_ms >> 16:08x}-{at_ms & 0xFFFF:04x}-7{random >> 62 & 0xFFF:03x}-"
        f"{0x8000 | random >> 48 & 0x3FFF:04x}-{random & 0xFFFF_FFFF_FFFF:012x}"
    )


def lowest_id(at_ms: int) -> str:
    """The lowest id of an event of this millisecond, for searches; no event has it."""
    return f"{at_ms >> 16:08x}-{at_ms & 0xFFFF:04x}-0000-0000-000000000000"


def derived_id(event_id: str, suffix: str) -> str:
    """The UUIDv7 that belongs to `event_id` and `suffix`: same time, the random bits a hash of both.

    Made twice it is the same id, so that an attempt's end, whoever writes it down and however often, counts once.
    """
    drawn = sha256(f"{event_id}/{suffix}".encode()).hexdigest()
    variant = int(event_id[19], 16) & 0b1100 | int(drawn[16], 16) & 0b0011
    return f"{event_id[:15]}{drawn[13:16]}-{variant:x}{drawn[17:20]}-{drawn[20:32]}"


def ended_id(attempt_id: str) -> str:
    """The id of the `AttemptEnded` of this attempt."""
    return derived_id(attempt_id, "ended")


def lost_id(attempt_id: str) -> str:
    """The id of the `AttemptLost` of this attempt."""
    return derived_id(attempt_id, "lost")


def time_of_id_ms(event_id: str) -> int:
    """The Unix milliseconds inside a UUIDv7."""
    return int(event_id[:8] + event_id[9:13], 16)


def time_of_request_id_ms(request_id: str) -> int:
    """The Unix milliseconds inside a request's id. Raises ValueError for an id of another shape."""
    return int(request_id[:REQUEST_TIME_DIGITS], 16)
