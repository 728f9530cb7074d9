"""Counting of weekly limits: weights of token kinds, and when a week begins."""

from typing import Annotated
from zoneinfo import ZoneInfo

from msgspec import Struct

from service.settings.quantities import number as number_of
from service.settings.setting import Section, Setting
from service.settings.values import listed

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MOST_WEIGHT = 1_000


class QuotaWeights(Struct, frozen=True):
    """The weight of a token of each kind in a weekly limit. By default as the original proxy counted."""

    input: float = 1.0
    output: float = 1.0
    cache_read: float = 0.0
    cache_write_5m: float = 0.0
    cache_write_1h: float = 0.0


KINDS = QuotaWeights.__struct_fields__


def quota_weights(text: str) -> QuotaWeights:
    """Weights from `kind=number` pairs; a kind that is left out keeps its default."""
    return QuotaWeights(**dict(map(weight_of, listed(text))))


def weight_of(pair: str) -> tuple[str, float]:
    """A kind of token and its weight."""
    kind, _, number = (piece.strip() for piece in pair.partition("="))
    if not number:
        raise ValueError(f"{pair!r} is not a pair such as cache_read=0.1")
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is not one of {', '.join(KINDS)}")
    try:
        return kind, number_of(number, 0, MOST_WEIGHT)
    except ValueError as error:
        raise ValueError(f"{kind}: {error}") from None


def minute_of_week(text: str) -> int:
    """Minutes since Monday 00:00 of a text such as `fri 18:30`."""
    day, _, clock = text.lower().partition(" ")
    hour, _, minute = clock.strip().partition(":")
    known = day[:3] in WEEKDAYS and hour.isdecimal() and minute.isdecimal() and len(minute) == 2
    if not known or int(hour) > 23 or int(minute) > 59:
        raise ValueError(f"{text!r} is not a day and time such as mon 00:00")
    return (WEEKDAYS.index(day[:3]) * 24 + int(hour)) * 60 + int(minute)


def time_zone(name: str) -> str:
    """The name of a time zone that this machine knows."""
    try:
        return ZoneInfo(name).key
    except (KeyError, ValueError, OSError):  # unknown; not a name at all; a folder of the database
        raise ValueError(f"{name!r} is not a time zone; use one such as UTC or Europe/Berlin") from None


class QuotaPolicy(Struct, frozen=True, cache_hash=True):
    """The settings of weekly limits. A week begins `week_start_minute` minutes after Monday 00:00 in `timezone`."""

    weights: Annotated[
        QuotaWeights,
        Setting(
            "QUOTA_WEIGHTS",
            Section.ROUTING,
            "weight of a token of each kind: `input`, `output`, `cache_read`, `cache_write_5m`, `cache_write_1h`",
            parse=quota_weights,
            default="input=1,output=1",
        ),
    ] = QuotaWeights()
    week_start_minute: Annotated[
        int,
        Setting(
            "QUOTA_WEEK_START",
            Section.ROUTING,
            "day and time at which the week of weekly limits begins",
            parse=minute_of_week,
            default="mon 00:00",
        ),
    ] = 0
    timezone: Annotated[
        str,
        Setting(
            "QUOTA_TIMEZONE",
            Section.ROUTING,
            "time zone of that day and time, such as `Europe/Berlin`",
            parse=time_zone,
        ),
    ] = "UTC"
