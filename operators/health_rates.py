"""Does an event type come as often as it should by now? One type's rate, minute by minute.

What is expected is a daily rhythm (the usual count per minute in each quarter of an hour, a running
mean over days, smoothed where events are few) times a level that follows the last minutes; on the
first day, of which nothing is known, it is the rate of late. Counts are compared over at least
`window` and until 100 events were due (30 where none came), so that a rare type is judged seldom
instead of wrongly.

A comparison is odd where the ratio is beyond `factor`, beyond four standard deviations of a ratio
of Poisson counts, and improbable by River's `GaussianScorer` on this type's own former ratios,
which knows how bursty it is. Two odd ones in a row begin an alarm and two ordinary ones end it.
While it lasts nothing is learned from it.

Known limits: a weekend that begins gently is followed by the level and is no alarm; a step that
comes at the same time every week, but not every day, is one.
"""

from __future__ import annotations

import math
from typing import Any, Final, Literal, NamedTuple

from river import anomaly

from schemas.health import Health
from schemas.time import MINUTE

RateVerdict = Literal["silent", "rate_up", "rate_down"]

_SLOTS: Final = 96
_SLOT: Final = 15
_DUE: Final = 30
"""Events that a usual rate must rest on, and that must have been due before none is a silence."""
_COMPARED: Final = 100
"""Events that must have been due, or twice as many that came, before a rate is judged."""
_REACH: Final = (0, 2, 6, 12, _SLOTS)
"""Quarters of an hour on either side that are averaged, until they rest on enough events."""
_FINE: Final = 2
_COARSE_FACTOR: Final = 3.0
"""The least factor on the first day, and where the rhythm is known only over hours."""
_RECENT: Final = 30
"""Minutes of which the recent rate is the running mean on the first day."""
_DAYS: Final = 0.3
"""Least weight of the newest day in the rhythm."""
_DAYS_KNOWN: Final = 5
"""Days that a running mean of that weight is worth."""
_LEVEL: Final = 0.2
_SURE: Final = 4.0
_IMPROBABLE: Final = 0.999
_IN_A_ROW: Final = 2
_COMPARISONS: Final = 500
_SCORED_AFTER: Final = 30


def _scorer() -> Any:  # River's classes are untyped
    return anomaly.GaussianScorer(  # type: ignore[no-untyped-call]
        window_size=_COMPARISONS, grace_period=_SCORED_AFTER
    )


class Change(NamedTuple):
    """A verdict that begins or ends; rates are events per minute, `was` the expected one."""

    verdict: RateVerdict
    began: bool
    was: float
    is_: float


class _Base(NamedTuple):
    """The usual rate of a quarter of an hour, the events it rests on, and if it is only coarse.

    `low` and `high` are the least and greatest of it and the quarters on either side: a step of the
    rhythm may come a little early or late.
    """

    rate: float
    behind: float
    coarse: bool
    low: float
    high: float


class RateWatch:
    """The rate of one event type; `minute` is called once per minute of the log's clock."""

    def __init__(self, health: Health) -> None:
        self._window = health.window // MINUTE
        self._factor = math.log(health.factor)
        self._accept = health.accept_after // MINUTE
        self._usual: list[float | None] = [None] * _SLOTS
        self._days = [0] * _SLOTS
        self._base: _Base | None = None
        self._slot, self._slot_sum, self._slot_minutes = -1, 0, 0
        self._recent, self._minutes = 0.0, 0
        self._level = 0.0
        self._begin_comparison()
        self._scorer: Any = _scorer()
        self._verdict: RateVerdict | None = None
        self._since = 0
        self._next: RateVerdict | None = None
        self._row = 0
        self.expected = 0.0

    @property
    def alarm(self) -> RateVerdict | None:
        """The alarm that is on."""
        return self._verdict

    def minute(self, minute: int, count: int, *, warm: bool) -> list[Change]:
        """Take in one minute (since the epoch) and what came in it; the changes it brings.

        Before the type is `warm` it is only learned.
        """
        self._minutes += 1
        slot = minute // _SLOT % _SLOTS
        if slot != self._slot:
            self._turn_to(slot)
        self._slot_sum += count
        self._slot_minutes += 1
        base = self._base
        level = 1.0 if base is None else math.exp(self._level)
        self.expected = self._recent if base is None else base.rate * level
        if warm:
            self._came += count
            self._due += self.expected
            self._low += self.expected if base is None else base.low * level
            self._high += self.expected if base is None else base.high * level
            self._over += 1
        changes: list[Change] = []
        if self._over >= self._window and self._tells():
            changes = self._judge(minute)
            self._begin_comparison()
        if self._verdict is None and self._row == 0:
            share = max(1.0 / self._minutes, 1.0 / _RECENT)
            self._recent += share * (count - self._recent)
        return changes

    def _begin_comparison(self) -> None:
        self._came, self._over = 0, 0
        self._due = self._low = self._high = 0.0

    def _tells(self) -> bool:
        # Nothing at all where something was due is told sooner than more or less of it.
        if not self._came or self._verdict == "silent":
            return self._due >= _DUE
        return self._due >= _COMPARED or self._came >= 2 * _COMPARED

    def _turn_to(self, slot: int) -> None:
        usual = self._usual[self._slot]
        # An outage on the first day is not taken for the rhythm; one later day hardly shows.
        learns = self._verdict is None or self._minutes > _SLOTS * _SLOT
        if self._slot_minutes >= _SLOT * 2 // 3 and learns:
            rate = self._slot_sum / self._slot_minutes
            days = self._days[self._slot] = self._days[self._slot] + 1
            share = max(_DAYS, 1 / days)
            self._usual[self._slot] = rate if usual is None else usual + share * (rate - usual)
        self._slot, self._slot_sum, self._slot_minutes = slot, 0, 0
        former = self._base
        self._base = None if self._usual[slot] is None else self._around(slot, former)
        if former is None and self._base is not None:
            # Today need not be like the only day known: the level starts at what came of late, as
            # far as that is more than chance.
            lately = self._recent * _RECENT
            apart = math.log((self._recent + 0.01) / (self._base.rate + 0.01))
            self._level = apart * lately / (lately + _DUE)

    def _around(self, slot: int, former: _Base | None) -> _Base:
        mean, behind, coarse = self._smoothed(slot)
        near = [mean]
        if former is not None:
            near.append(former.rate)  # as it was before today was learned
        if self._usual[(slot + 1) % _SLOTS] is not None:
            near.append(self._smoothed((slot + 1) % _SLOTS)[0])
        return _Base(mean, max(behind, 1.0), coarse, min(near), max(near))

    def _smoothed(self, slot: int) -> tuple[float, float, bool]:
        for reach in _REACH:
            near = range(slot - reach, slot + reach + 1) if reach < _SLOTS else range(_SLOTS)
            known = [rate for i in near if (rate := self._usual[i % _SLOTS]) is not None]
            mean = sum(known) / len(known)
            behind = mean * _SLOT * len(known) * min(self._days[slot], _DAYS_KNOWN)
            # Where a quarter of an hour brings few events its own mean is mostly chance.
            if behind >= _DUE:
                break
        return mean, behind, reach > _FINE

    def _judge(self, minute: int) -> list[Change]:
        base = self._base
        if base is None:
            recent = self._recent
            base = _Base(recent, max(recent * _RECENT, 1.0), True, recent, recent)
        came = self._came + 0.5
        apart = math.log(came / (self._due + 0.5))
        ratio = max(0.0, math.log(came / (self._high + 0.5)))
        ratio = ratio or min(0.0, math.log(came / (self._low + 0.5)))
        least = max(self._factor, math.log(_COARSE_FACTOR)) if base.coarse else self._factor
        spread = math.sqrt(1.0 / (self._due + 0.5) + 1.0 / base.behind)
        if self._verdict is not None and (ratio > 0) == (self._verdict == "rate_up"):
            odd = abs(ratio) >= least / 2  # what ends an alarm is nearer to normal
        else:
            odd = abs(ratio) >= max(least, _SURE * spread)
            if odd and self._scorer.gaussian.n_samples >= _SCORED_AFTER:
                odd = self._scorer.score_one(None, ratio) >= _IMPROBABLE
        verdict: RateVerdict | None = None
        if odd:
            verdict = "silent" if not self._came else "rate_up" if ratio > 0 else "rate_down"
        changes = self._settle(verdict, minute)
        if self._verdict is None:
            self._scorer.learn_one(None, ratio)
            if verdict is None:
                held = max(-self._factor / 2, min(self._factor / 2, apart))
                self._level += _LEVEL * held if self._base is not None else 0.0
        elif self._verdict != "silent" and minute - self._since >= self._accept:
            changes.append(self._end())
            self._level += apart
            self._recent = self._came / self._over
        return changes

    def _settle(self, verdict: RateVerdict | None, minute: int) -> list[Change]:
        if verdict == self._verdict:
            self._next, self._row = None, 0
            return []
        self._row = self._row + 1 if verdict == self._next else 1
        self._next = verdict
        if self._row < _IN_A_ROW:
            return []
        self._row = 0
        changes = [self._end()] if self._verdict is not None else []
        if verdict is not None:
            self._verdict, self._since = verdict, minute
            changes.append(self._change(verdict, began=True))
        return changes

    def _end(self) -> Change:
        verdict = self._verdict
        assert verdict is not None  # only an alarm that is on can end
        self._verdict = None
        return self._change(verdict, began=False)

    def _change(self, verdict: RateVerdict, *, began: bool) -> Change:
        return Change(verdict, began=began, was=self._due / self._over, is_=self._came / self._over)
