"""Does the calendar say so now, where the person is, and until when?

Time of day, weekdays, and dates near the present: what no event changes, only time. Every answer
is (holds, until): the truth at an instant in ms and the first instant at which it differs (None:
never). Days begin and end as clocks there show them, changes to and from summer time included.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Final, get_args
from zoneinfo import ZoneInfo

from schemas.dates import Weekday, day_or_instant
from schemas.time import DAY, to_millis

Outlook = tuple[bool, int | None]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_AHEAD: Final = 9
"""Days looked ahead: a weekday comes round in 7, and once a year its hour may be left out."""
_REMEMBERED: Final = 1_024


def local_time(now_ms: int, zone: ZoneInfo) -> datetime:
    """The instant as clocks in a zone show it; OverflowError outside the years 1 to 9999."""
    return (_EPOCH + timedelta(milliseconds=now_ms)).astimezone(zone)


def start_of_day(day: date, zone: ZoneInfo) -> int:
    """The first instant (ms) of a day in a zone, also where its midnight is left out."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=zone)
    start = to_millis(midnight)
    shown = local_time(start, zone)
    if shown.replace(tzinfo=None) == midnight.replace(tzinfo=None):
        return start
    return _transition(start - DAY // 2, start, zone) or start


def _transition(low: int, high: int, zone: ZoneInfo) -> int | None:
    """The first instant of the offset that holds at `high`; None where it holds at `low` too."""
    offset = local_time(high, zone).utcoffset()
    if local_time(low, zone).utcoffset() == offset:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if local_time(middle, zone).utcoffset() == offset:
            high = middle
        else:
            low = middle
    return high


class LocalHours:
    """A part of the day, on some weekdays: minutes since midnight, half open; 0 is Monday.

    A part that ends before it begins lasts over midnight. The weekday is that of the instant, so
    after midnight it is the next one.
    """

    def __init__(self, hours: tuple[int, int] | None, weekdays: Iterable[int] | None) -> None:
        self._begin, self._end = hours or (0, 24 * 60)
        days = range(7) if weekdays is None else weekdays
        self._days = frozenset(days)
        self._always = hours is None and len(self._days) == 7
        edges = {self._begin % 1_440, self._end % 1_440, 0}
        self._edges = [divmod(edge, 60) for edge in sorted(edges)]
        # Many profiles share a zone, and an answer holds for hours: each is worked out once.
        self._known: dict[str, tuple[int, int, bool]] = {}

    def outlook(self, now_ms: int, zone: ZoneInfo) -> Outlook:
        """Whether it is that time now, and until when that stays so."""
        if self._always:
            return True, None
        known = self._known.get(zone.key)
        if known is not None and known[0] <= now_ms < known[1]:
            return known[2], known[1]
        holds = self._holds(now_ms, zone)
        until = self._turn(now_ms, holds, zone)
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[zone.key] = now_ms, until, holds
        return holds, until

    def _holds(self, now_ms: int, zone: ZoneInfo) -> bool:
        shown = local_time(now_ms, zone)
        if shown.weekday() not in self._days:
            return False
        minute = shown.hour * 60 + shown.minute
        if self._begin < self._end:
            return self._begin <= minute < self._end
        return minute >= self._begin or minute < self._end

    def _turn(self, now_ms: int, holds: bool, zone: ZoneInfo) -> int:
        """The first instant that differs, or one to ask again at where none is near."""
        today = local_time(now_ms, zone).replace(tzinfo=None, hour=0, minute=0)
        today = today.replace(second=0, microsecond=0)
        instants = {
            to_millis((today + timedelta(days=n)).replace(hour=h, minute=m, tzinfo=zone, fold=fold))
            for n in range(_AHEAD + 1)
            for h, m in self._edges
            for fold in (0, 1)
        }
        # Where clocks are put forward or back, an edge is jumped over or met a second time.
        for n in range(_AHEAD):
            low = now_ms + n * DAY
            if (turn := _transition(low, low + DAY, zone)) is not None:
                instants.add(turn)
        for instant in sorted(instants):
            if instant > now_ms and self._holds(instant, zone) != holds:
                return instant
        return now_ms + _AHEAD * DAY


def anniversary_outlook(text: object, within_ms: int, now_ms: int, zone: ZoneInfo) -> Outlook:
    """Whether a date's day comes round again within a time, or is today.

    29 February is kept on 28 February in other years. The day itself, as written, is none of its
    anniversaries. What is no date never holds.
    """
    found = day_or_instant(text)
    if found is None:
        return False, None
    day = found if isinstance(found, date) else datetime.fromisoformat(str(text)).date()
    year = local_time(now_ms, zone).year
    for candidate in range(max(year, day.year + 1), max(year, day.year) + 3):
        again = _in_year(day, candidate)
        end = start_of_day(again + timedelta(days=1), zone)
        if end > now_ms:
            begin = _before(again, within_ms, zone)
            return (True, end) if now_ms >= begin else (False, begin)
    return False, None


def _in_year(day: date, year: int) -> date:
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return date(year, day.month, 28 if (day.month, day.day) == (2, 29) and not leap else day.day)


def _before(day: date, span_ms: int, zone: ZoneInfo) -> int:
    """A span before a day begins; whole days are days of the calendar there."""
    days, rest = divmod(span_ms, DAY)
    return start_of_day(day - timedelta(days=days), zone) - rest


def _after(day: date, span_ms: int, zone: ZoneInfo) -> int:
    """A span after a day ends; whole days are days of the calendar there."""
    days, rest = divmod(span_ms, DAY)
    return start_of_day(day + timedelta(days=days + 1), zone) + rest


def next_outlook(text: object, within_ms: int, now_ms: int, zone: ZoneInfo) -> Outlook:
    """Whether a date lies within a time ahead: from that long before it until it, or its day, ends.

    What is no date never holds.
    """
    found = day_or_instant(text)
    if found is None:
        return False, None
    if isinstance(found, date):
        return _between(_before(found, within_ms, zone), _after(found, 0, zone), now_ms)
    return _between(found - within_ms, found, now_ms)


def last_outlook(text: object, within_ms: int, now_ms: int, zone: ZoneInfo) -> Outlook:
    """Whether a date lies within a time past: from its (day's) begin until that long after its end.

    What is no date never holds.
    """
    found = day_or_instant(text)
    if found is None:
        return False, None
    if isinstance(found, date):
        return _between(start_of_day(found, zone), _after(found, within_ms, zone), now_ms)
    return _between(found, found + within_ms, now_ms)


def _between(begin: int, end: int, now_ms: int) -> Outlook:
    if now_ms < begin:
        return False, begin
    return (True, end) if now_ms < end else (False, None)


def clock_text(now_ms: int, zone: ZoneInfo) -> str:
    """The weekday and time of day that clocks in a zone show, to the minute.

    >>> clock_text(0, ZoneInfo("Europe/Berlin"))
    'thu 01:00'
    """
    shown = local_time(now_ms, zone)
    day = get_args(Weekday)[shown.weekday()]
    return f"{day} {shown.hour:02d}:{shown.minute:02d}"
