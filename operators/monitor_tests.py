"""Does what was expected of items come true, and has that changed?

Progressive validation (Blum, Kalai and Langford, "Beating the hold-out", COLT 1999): every shown
item is a test of the score that it had when it was decided, before anything was learned from it.
Of a report's period, and of a day, a uniform sample is kept: those whose hash is lowest, so that
neither the order of arrival nor the load plays a part. Rewards follow the hours of the day; so a
detector of drift (River's ADWIN) sees a day when it is over, in an order in which the hour plays no
part.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from heapq import heappush, heapreplace
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from river import drift

from operators.ids import hash64
from operators.monitor_quality import Quality, quality_of
from schemas.time import DAY

TESTS: Final = 4_000
"""Tests that figures are of; at most twice as many are kept, and a day more."""
SAMPLE: Final = 1_000
"""Kept of a day, and of a report's period."""
UNKNOWN: Final = -1.0
_LEAST: Final = 1e-6
_LEAST_WINDOW: Final = 50
_DRIFT: Final[Any] = drift  # River's detectors bear no types

ScoreTest = tuple[int, float, float, float]
"""Minus its hash; expected reward; probability (-1: unknown); reward. Rewards are in the unit."""


def try_score(
    sample: list[ScoreTest], identity: str, score: float, chance: float | None, reward: float
) -> None:
    """Take one test into a sample; `identity` spreads the hashes, and may be any text."""
    text = repr(score)
    said = text if chance == score != 0.0 else repr(chance)  # often they are the same
    key = -(hash64(f"{identity}|{text}|{said}|{reward!r}") >> 1)
    if len(sample) < SAMPLE or key >= sample[0][0]:  # of a full one hardly any gets this far
        known = UNKNOWN if chance is None else chance
        keep(sample, (key, _within(score), known, _within(reward)))


def _within(value: float) -> float:
    return 0.0 if math.isnan(value) else min(max(value, -1.0), 1.0)


def keep(sample: list[ScoreTest], test: ScoreTest) -> None:
    """Take a test into a heap of the `SAMPLE` with the lowest hashes."""
    if len(sample) < SAMPLE:
        heappush(sample, test)
    elif test > sample[0]:
        heapreplace(sample, test)


def loss_of(score: float, chance: float, reward: float) -> float:
    """The log loss of the probability; where there is none, the squared error of the score."""
    if chance < 0.0:
        return (score - reward) ** 2
    p = min(max(chance, _LEAST), 1.0 - _LEAST)
    return -math.log(p if reward > 0.0 else 1.0 - p)


class Drift(NamedTuple):
    """What changed: the reward of an impression rose (1) or fell (-1), the loss grew."""

    reward: int
    loss: bool


class ScoreTestsWire(msgspec.Struct, array_like=True):
    """The tests of days that are over (float32), and the sample of the running day."""

    scores: bytes = b""
    chances: bytes = b""
    rewards: bytes = b""
    day: int = -1
    running: list[ScoreTest] = msgspec.field(default_factory=list)


class ScoreTests:
    """A bounded sample of tests, the newest days last, and the detectors that have seen them."""

    def __init__(self) -> None:
        self._kept = (array("f"), array("f"), array("f"))
        self._day = -1
        self._today: list[ScoreTest] = []
        self._detect()

    def _detect(self) -> None:
        """Begin the detectors anew with what is kept: they are always what it makes them."""
        self._reward, self._loss = _detector(), _detector()
        self._feed(zip(*self._kept, strict=True))

    def _feed(self, tests: Iterable[tuple[float, ...]]) -> Drift:
        turned, grew = 0, False
        for score, chance, reward in tests:
            turned = _changed(self._reward, reward) or turned
            grew = _changed(self._loss, loss_of(score, chance, reward)) > 0 or grew
        return Drift(turned, grew)

    def add(self, at_ms: int, sample: Iterable[ScoreTest]) -> Drift:
        """Take in a period's sample; what changed by the end of the day before it."""
        found = Drift(0, False)
        if at_ms // DAY > self._day:
            over = [test[1:] for test in sorted(self._today, reverse=True)]
            for i, kept in enumerate(self._kept):
                kept.extend(test[i] for test in over)
            begin = len(self._kept[0]) - len(over)
            found = self._feed(zip(*(kept[begin:] for kept in self._kept), strict=True))
            self._day, self._today = at_ms // DAY, []
            self._trim()
        for test in sample:
            keep(self._today, test)
        return found

    def _trim(self) -> None:
        surplus = len(self._kept[0]) - TESTS
        if surplus < TESTS:
            return
        for kept in self._kept:
            del kept[:surplus]
        self._detect()

    def quality(self) -> Quality:
        """The figures of the newest tests."""
        running = sorted(self._today, reverse=True)
        today = [np.array([test[i] for test in running], np.float64) for i in (1, 2, 3)]
        before = TESTS - len(running)  # a day has fewer
        past = [np.frombuffer(kept[-before:], np.float32) for kept in self._kept]
        newest = np.hstack((past, today))
        return quality_of(newest[0], newest[1], newest[2] > 0.0)

    def wire(self) -> ScoreTestsWire:
        """Everything, to be given to `restored`."""
        scores, chances, rewards = (kept.tobytes() for kept in self._kept)
        return ScoreTestsWire(scores, chances, rewards, self._day, self._today)

    @classmethod
    def restored(cls, wire: ScoreTestsWire) -> ScoreTests:
        """The tests that `wire` gave; raises ValueError where the parts do not fit together."""
        tests = cls()
        for kept, given in zip(tests._kept, (wire.scores, wire.chances, wire.rewards), strict=True):
            kept.frombytes(given)
        if len({len(kept) for kept in tests._kept}) != 1 or len(wire.running) > SAMPLE:
            raise ValueError("the tests of a monitor do not fit together")
        tests._day, tests._today = wire.day, wire.running
        tests._detect()
        return tests


def _changed(detector: Any, value: float) -> int:
    """1 where the mean has risen, -1 where it fell, 0 where it did not change."""
    before = detector.estimation
    detector.update(value)
    if not detector.drift_detected:
        return 0
    return 1 if detector.estimation > before else -1


def _detector() -> Any:
    return _DRIFT.ADWIN(min_window_length=_LEAST_WINDOW, grace_period=2 * _LEAST_WINDOW)
