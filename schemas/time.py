"""How long and when: durations and instants as integers of milliseconds, with their text forms.

Inside the flow every instant is milliseconds since the epoch in UTC and every duration is
milliseconds: integers compare, subtract and encode exactly. Text appears at the boundary only.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Final

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

SECOND: Final = 1_000
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR

_UNITS: Final = {"ms": 1, "s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY, "w": 7 * DAY}
_DURATION: Final = re.compile(r"([0-9]{1,6})(ms|s|m|h|d|w)")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


def parse_duration(text: object) -> int:
    """Milliseconds of a duration such as `90s`, `30m`, `12h`, `7d` or `2w`.

    Raises ValueError for anything else: a bare number has no unit, so it is refused.

    >>> parse_duration("30m")
    1800000
    """
    if isinstance(text, str) and (match := _DURATION.fullmatch(text.strip())):
        return int(match[1]) * _UNITS[match[2]]
    raise ValueError(
        "expected a duration: a whole number and a unit (ms, s, m, h, d, w), as in 30m"
    )


def format_duration(duration_ms: int) -> str:
    """The shortest text that `parse_duration` reads back as the same duration.

    >>> format_duration(5_400_000)
    '90m'
    """
    for unit, size in reversed(_UNITS.items()):
        if duration_ms and duration_ms % size == 0:
            return f"{duration_ms // size}{unit}"
    return f"{duration_ms}ms"


def to_millis(moment: datetime) -> int:
    """Milliseconds since the epoch of an aware datetime, rounded down exactly.

    >>> to_millis(datetime(1970, 1, 1, 0, 0, 1, 999_999, tzinfo=UTC))
    1999
    """
    return (moment - _EPOCH) // _MILLISECOND


def rfc3339(instant_ms: int) -> str:
    """RFC 3339 text in UTC with milliseconds.

    >>> rfc3339(1_767_225_600_000)
    '2026-01-01T00:00:00.000Z'
    """
    minutes, rest = divmod(instant_ms, MINUTE)
    day, minute = divmod(minutes, 1_440)
    return f"{_date(day)}T{_CLOCK[minute]}{_SECONDS[rest // SECOND]}{_MILLIS[rest % SECOND]}"


# Looked up, because formatting a number costs more than all the rest of writing an instant.
_CLOCK: Final = [f"{minute // 60:02d}:{minute % 60:02d}:" for minute in range(1_440)]
_SECONDS: Final = [f"{second:02d}." for second in range(60)]
_MILLIS: Final = [f"{milli:03d}Z" for milli in range(1_000)]


@lru_cache(maxsize=1_024)
def _date(day: int) -> str:
    # The calendar is the slow part of writing an instant, and a stream stays on a day for long.
    return (_EPOCH + timedelta(days=day)).strftime("%Y-%m-%d")


Duration = Annotated[
    int,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": "^[0-9]{1,6}(ms|s|m|h|d|w)$",
            "description": "A duration: a whole number and a unit, as in 30m or 7d.",
        }
    ),
]
"""A pydantic field holding milliseconds, written as `30m` in files."""
