"""Which instant, day, time of day or time zone does a text name?

A date without a time is a day: midnight in UTC where a policy fixes one, and in the person's own
zone where an attribute holds one. Zones are those of the IANA database; an unknown name is no zone.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Annotated, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, WithJsonSchema

from schemas.mistakes import did_you_mean
from schemas.time import rfc3339, to_millis

_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIME: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])|24:00")
_LONGEST: Final = 64

Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
"""In the order of `datetime.weekday()`: Monday is 0."""


def day_or_instant(text: object) -> date | int | None:
    """The day of an ISO date, the instant (ms) of an RFC 3339 text; None for anything else.

    >>> day_or_instant("1990-02-28"), day_or_instant("1970-01-01T01:00:00+01:00")
    (datetime.date(1990, 2, 28), 0)
    """
    if not isinstance(text, str) or len(text) > _LONGEST:
        return None
    try:
        if _DAY.fullmatch(text):
            return date.fromisoformat(text)
        moment = datetime.fromisoformat(text)
        return None if moment.tzinfo is None else to_millis(moment)
    except (ValueError, OverflowError):
        return None


def parse_instant(text: object) -> int:
    """Milliseconds of an ISO date (midnight in UTC) or an RFC 3339 text; else ValueError.

    >>> parse_instant("1970-01-02")
    86400000
    """
    # What was read already is milliseconds: a model must accept what it serialises from.
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    found = day_or_instant(text)
    if found is None:
        raise ValueError(
            "expected a date, or a date and time with an offset, as in 2026-01-31 or "
            "2026-01-31T12:00:00Z"
        )
    if isinstance(found, date):
        return to_millis(datetime(found.year, found.month, found.day, tzinfo=UTC))
    return found


def parse_time_of_day(text: object) -> int:
    """Minutes since midnight of `09:30`, up to `24:00`; else ValueError.

    >>> parse_time_of_day("09:30")
    570
    """
    if isinstance(text, str) and _TIME.fullmatch(text):
        hours, minutes = text.split(":")
        return int(hours) * 60 + int(minutes)
    raise ValueError("expected a time of day in quotes, as in '09:30'")


def format_time_of_day(minutes: int) -> str:
    """The text that `parse_time_of_day` reads back.

    >>> format_time_of_day(570)
    '09:30'
    """
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


@lru_cache(maxsize=1_024)
def zone_of(name: str) -> ZoneInfo | None:
    """The time zone of an IANA name such as `Europe/Berlin`; None where there is none.

    >>> zone_of("Europe/Berlni") is None
    True
    """
    if len(name) > _LONGEST:
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def known_zone(name: str) -> str:
    """The name, where it is a time zone's; else ValueError."""
    if zone_of(name) is None:
        hint = did_you_mean(name, sorted(available_timezones()))
        raise ValueError(f"expected a time zone, as in Europe/Berlin{hint}")
    return name


Instant = Annotated[
    int,
    BeforeValidator(parse_instant),
    PlainSerializer(rfc3339, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}(T.+)?$",
            "description": "A date (midnight in UTC), or a date and time with an offset.",
        }
    ),
]
"""A pydantic field holding milliseconds, written as `2026-01-31` in files."""

TimeOfDay = Annotated[
    int,
    BeforeValidator(parse_time_of_day),
    PlainSerializer(format_time_of_day, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": "^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$",
            "description": "A time of day, as in 09:30; 24:00 is the end of the day.",
        }
    ),
]
"""A pydantic field holding minutes since midnight, written as `"09:30"` in files."""

Zone = Annotated[str, AfterValidator(known_zone)]
"""A pydantic field holding the name of a time zone."""
