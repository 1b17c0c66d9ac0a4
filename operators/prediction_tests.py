"""Which tests of a prediction are kept: what it said, what came true, and the learner's own loss?

Labels of one kind come at one time of the day and those of the other at another (purchases in the
evening, horizons' ends at the hour at which cases were taken). So a window of tests must span days
whatever the traffic: of a busy day a thinned sample is kept. And a detector of drift that saw tests
as they came would take every evening for a change: it sees a day when it is over, in an order in
which the hour plays no part.
"""

from __future__ import annotations

import math
from array import array
from typing import Final

import msgspec

TESTS: Final = 4_000
"""Tests that figures are of; at most twice as many are kept, and a day more."""
_A_DAY: Final = 1_000


class RecentTestsWire(msgspec.Struct, array_like=True):
    """The tests as bytes (float32) and numbers."""

    predicted: bytes
    labels: bytes
    losses: bytes
    fed: int
    day: int
    stride: int
    passed: int


class RecentTests:
    """A bounded sample of tests, the newest days last; single precision is enough for figures.

    `fed` of them belong to days that are over. Of the running day every `stride`-th is kept.
    """

    def __init__(self) -> None:
        self._predicted = array("f")
        self._labels = array("f")
        self._losses = array("f")
        self._fed = 0
        self._day = -1
        self._stride = 1
        self._passed = 0

    def add(self, day: int, predicted: float, label: float, loss: float) -> array[float]:
        """Add a test (predicted below 0: nothing was); the losses of the day that is now over."""
        over = self._end_of_day(day)
        if self._passed % self._stride == 0:
            self._predicted.append(predicted)
            self._labels.append(label)
            self._losses.append(loss)
            if len(self._losses) - self._fed >= _A_DAY:
                self._thin()
        self._passed += 1
        return over

    def _end_of_day(self, day: int) -> array[float]:
        if day <= self._day:
            return array("f")
        self._day, self._stride, self._passed = day, 1, 0
        begin, end = self._fed, len(self._losses)
        for kept in (self._predicted, self._labels, self._losses):
            kept[begin:] = array("f", [kept[begin + i] for i in _mixed(end - begin)])
        self._fed = end
        return self._losses[begin:]

    def _thin(self) -> None:
        for kept in (self._predicted, self._labels, self._losses):
            kept[self._fed :] = kept[self._fed :: 2]
        self._stride *= 2

    def trim(self) -> bool:
        """Drop the oldest once there are twice as many as needed; whether it did."""
        surplus = self._fed - TESTS
        if surplus < TESTS:
            return False
        for kept in (self._predicted, self._labels, self._losses):
            del kept[:surplus]
        self._fed -= surplus
        return True

    @property
    def fed(self) -> array[float]:
        """The losses of all days that are over, as `add` gave them."""
        return self._losses[: self._fed]

    def newest(self) -> list[tuple[float, float]]:
        """(predicted, label) of the newest tests at which anything was predicted."""
        pairs = zip(self._predicted[-TESTS:], self._labels[-TESTS:], strict=True)
        return [(predicted, label) for predicted, label in pairs if predicted >= 0]

    def wire(self) -> RecentTestsWire:
        """Everything, to be given to `restored`."""
        return RecentTestsWire(
            self._predicted.tobytes(),
            self._labels.tobytes(),
            self._losses.tobytes(),
            self._fed,
            self._day,
            self._stride,
            self._passed,
        )

    @classmethod
    def restored(cls, wire: RecentTestsWire) -> RecentTests:
        """The tests that `wire` gave; raises ValueError where the parts do not fit together."""
        tests = cls()
        tests._predicted.frombytes(wire.predicted)
        tests._labels.frombytes(wire.labels)
        tests._losses.frombytes(wire.losses)
        count = len(tests._losses)
        fits = len(tests._predicted) == len(tests._labels) == count
        if not fits or not 0 <= wire.fed <= count or wire.stride < 1:
            raise ValueError("the tests of a prediction do not fit together")
        tests._fed, tests._day = wire.fed, wire.day
        tests._stride, tests._passed = wire.stride, wire.passed
        return tests


def _mixed(count: int) -> list[int]:
    """The numbers below `count` so that neighbours lie far apart (steps of the golden section)."""
    step = max(1, round(count * 0.618))
    while math.gcd(step, count) > 1:
        step += 1
    return [i * step % count for i in range(count)]
