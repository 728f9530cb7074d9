"""Ids that follow from other ids. Making a fresh id takes a clock and a random source: that is `service.clock`'s."""

from hashlib import sha256

RANDOM_A_MASK = 0x0FFF << 64
RANDOM_B_MASK = (1 << 62) - 1


def derived_id(event_id: str, suffix: str) -> str:
    """The UUIDv7 that belongs to `event_id` and `suffix`: same time, the random bits a hash of both.

    Made twice it is the same id, so that an attempt's end, whoever writes it down and however often, counts once.
    """
    bits = int(event_id.replace("-", ""), 16)
    digest = int.from_bytes(sha256(f"{event_id}/{suffix}".encode()).digest()[:16], "big")
    mask = RANDOM_A_MASK | RANDOM_B_MASK
    return format_uuid((bits & ~mask) | (digest & mask))


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
