"""Ids that follow from other ids. Fresh ids take a clock and a random source (`service.fleet.clock`)."""

from hashlib import sha256


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


def format_uuid(bits: int) -> str:
    """128 bits in the usual five groups."""
    digits = f"{bits:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
