"""Numbers and times as people type them: one parser for settings, the TOML file and the options of all commands.

A parser raises ValueError with what is wrong and what to write instead; the caller adds the name of the setting or
option. Not here: numbers of requests and answers, which are JSON.
"""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

MOST_INTEGER = 2**53
"""The largest number that JSON readers take exactly."""
NUMBER = re.compile(r"([+-]?(?:\d{1,3}(?:,\d{3})+|\d+(?:_\d+)*)?(?:\.\d{0,15})?) ?([kmgt]?)", re.ASCII | re.IGNORECASE)
SIZES = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
SPAN = re.compile(r"(\d{1,6})\s?([smhdw])", re.ASCII)
UNITS = {
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
TIME_FORMS = "a date (2026-11-02), a time (2026-11-02T15:00), or a duration (30m, 12h, 7d, 4w)"


def exact(text: str) -> Decimal:
    """A number: `2_000_000`, `2,000,000`, `1.5k`, `20M`."""
    found = NUMBER.fullmatch(text.strip())
    digits = found[1].replace(",", "").replace("_", "") if found else ""
    if not found or not any(map(str.isdecimal, digits)):
        raise ValueError(f"{text!r} is not a number; use one such as 20M, 1.5k or 2_000_000")
    if found[2] not in SIZES:
        raise ValueError(f"{text!r}: use k, M, G or T for thousands, millions, billions and trillions")
    return Decimal(digits) * SIZES[found[2]]


def whole_number(text: str, least: float, most: float) -> int:
    """A whole number within bounds."""
    found = exact(text)
    if found != found.to_integral_value():
        raise ValueError(f"{text!r} is not a whole number")
    check_bounds(text, found, least, most)
    return int(found)


def number(text: str, least: float, most: float) -> float:
    """A number within bounds."""
    found = exact(text)
    check_bounds(text, found, least, most)
    return float(found)


def check_bounds(text: str, found: Decimal | float, least: float, most: float) -> None:
    """Raises ValueError unless a number is within bounds."""
    if not least <= found <= most:
        raise ValueError(f"{text} is not {bounds_in_words(least, most)}")


def bounds_in_words(least: float, most: float) -> str:
    """Bounds as errors and the documentation name them."""
    upper = "2^53" if most == MOST_INTEGER else shown_number(most)
    return f"between {shown_number(least)} and {upper}"


def shown_number(number: float) -> str:
    """A number as it is written in settings and in the documentation."""
    return str(int(number)) if number == int(number) else str(number)


def span_of(text: str) -> timedelta | None:
    """A duration such as 30s, 10m, 12h, 7d or 4w; None if it is none."""
    found = SPAN.fullmatch(text.strip())
    return int(found[1]) * UNITS[found[2]] if found else None


def past_time(text: str, now: datetime) -> datetime:
    """A time, or how long ago it was; times without a zone are UTC."""
    span = span_of(text)
    return moment(text, now, -span if span else None)


def future_time(text: str, now: datetime) -> datetime:
    """A time, or how long until then; a date alone means its end. Times without a zone are UTC."""
    is_date = len(text.strip()) <= len("2027-01-31")
    return moment(text, now, span_of(text), end=timedelta(days=is_date))


def moment(text: str, now: datetime, span: timedelta | None, end: timedelta = timedelta()) -> datetime:
    """`span` from now, else the time of a text and `end` after it, in UTC."""
    try:
        if span is not None:
            return now + span
        found = datetime.fromisoformat(text.strip())
        return (found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)) + end
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is not a time; use {TIME_FORMS}; times are UTC") from None
