"""What do tests of predictions build on? A small world of profiles, and a log in which they differ.

The world does what a shard does around predictions: signals fold, the watermark follows the newest
event, timers close cases. Nothing of it is the product's but the parts under test.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import numpy as np

from operators.arrival import LIVE, Arrived
from operators.features import Hashes
from operators.outputs import Labelled
from operators.parameters import LocalParameters
from operators.predict import Cases, Predictor, compile_predictions
from operators.prediction_learner import PredictionLearner
from operators.profile import FAR, Profile, decode_profile, encode_profile
from operators.signals import compile_signals
from schemas.policy import Policy
from schemas.time import DAY, HOUR, MINUTE
from tests.operators.builders import T0, arrived, policy

VIEWS: Final[dict[str, Any]] = {
    "views_7d": {"kind": "count", "events": "view", "within": "7d"},
    "purchases_30d": {"kind": "count", "events": "purchase", "within": "30d"},
    "since_view": {"kind": "last", "events": "view"},
}
BUYS: Final[dict[str, Any]] = {"target": {"done": "purchase", "within": "7d"}}


def predicting(
    predictions: Mapping[str, Any] | None = None, *, signals: Any = None, **sections: Any
) -> Policy:
    """A policy with predictions (by default one, `buys`) over a few signals."""
    return policy(
        signals=VIEWS if signals is None else signals,
        predictions=predictions or {"buys": BUYS},
        **sections,
    )


@dataclass
class World:
    """Profiles whose events arrive in the order given; `labelled` is what came of their cases."""

    policy: Policy
    parameters: LocalParameters = field(default_factory=LocalParameters)
    lateness_ms: int = MINUTE
    may_learn: bool = True
    labelled: list[Labelled] = field(default_factory=list)
    profiles: dict[str, Profile] = field(default_factory=dict)
    watermark_ms: int = -FAR

    def __post_init__(self) -> None:
        hashes = Hashes()
        self.signals = compile_signals(self.policy.signals)
        self.compiled = compile_predictions(self.policy, self.signals, hashes)
        self.predictor = Predictor(self.compiled, self.parameters, hashes)
        self.cases = Cases(self.compiled, self.predictor)
        self._timers: list[tuple[int, str]] = []

    def apply(self, *events: Arrived) -> None:
        """Apply events in order; a late one (before the watermark) is dropped, as a shard does."""
        for event in events:
            self.pass_time(event.occurred_ms - self.lateness_ms)
            if event.occurred_ms >= self.watermark_ms:
                self._one(event)

    def _one(self, event: Arrived) -> None:
        profile = self.profiles.get(event.profile_id)
        if profile is None:
            profile = Profile(event.profile_id, event.occurred_ms, event.occurred_ms)
            self.profiles[event.profile_id] = profile
        profile.now_ms = max(profile.now_ms, event.occurred_ms)
        for signal in self.signals.values():
            if not signal.events.isdisjoint(event.names):
                signal.add(profile.signals, event, None)
        self.cases.observe(
            profile, event, None, profile.now_ms, may_learn=self.may_learn, out=self.labelled
        )
        self._schedule(profile)

    def pass_time(self, until_ms: int) -> None:
        """Let the watermark reach an instant."""
        if until_ms <= self.watermark_ms:
            return
        self.watermark_ms = until_ms
        while self._timers and self._timers[0][0] <= until_ms:
            profile = self.profiles[heapq.heappop(self._timers)[1]]
            self.cases.close(profile, until_ms, self.labelled)
            self._schedule(profile)

    def _schedule(self, profile: Profile) -> None:
        due = min((case.closes_ms for case in profile.cases), default=FAR)
        if due < FAR:
            heapq.heappush(self._timers, (due, profile.profile_id))

    def through_bytes(self) -> None:
        """Encode and decode every profile, as between two epochs."""
        for name, profile in self.profiles.items():
            self.profiles[name] = decode_profile(encode_profile(profile, due_ms=0))

    def learner(self, name: str = "buys", *, incarnation: str = "life1") -> PredictionLearner:
        """A learner of one of the predictions."""
        return PredictionLearner(name, self.policy, incarnation=incarnation)


def seen(type: str = "view", **fields: Any) -> Arrived:
    """A live event."""
    return arrived(type, **{"mode": LIVE, **fields})


Chance = Callable[[int, int], float]
"""(views of the last 7 days, day of the log) to the probability of buying on a day."""


def buys_by_views(views: int, _day: int) -> float:
    """Who looked a lot this week buys sooner; who never looks hardly buys."""
    return min(0.6, 0.004 + 0.012 * views)


def shop_log(
    seed: int, *, users: int = 120, days: int = 60, chance: Chance = buys_by_views
) -> Iterable[Arrived]:
    """Shoppers with changing interest: each day some views, and a purchase by `chance`.

    Events come in order of time. Purchases follow from views that the signals can see.
    """
    rng = Random(seed)
    interest = [rng.random() for _ in range(users)]
    recent: list[list[int]] = [[] for _ in range(users)]
    for day in range(days):
        events = []
        for user in range(users):
            if rng.random() < 0.15:
                interest[user] = rng.random()
            views = sum(rng.random() < interest[user] ** 2 for _ in range(5))
            recent[user] = [*recent[user], views][-7:]
            start = T0 + day * DAY
            events += [(start + rng.randrange(12 * HOUR), user, "view", 0.0) for _ in range(views)]
            if rng.random() < chance(sum(recent[user]), day):
                worth = round(20 * rng.lognormvariate(0.0, 0.8), 2)
                events.append(
                    (start + 13 * HOUR + rng.randrange(8 * HOUR), user, "purchase", worth)
                )
        for at, user, kind, worth in sorted(events):
            yield seen(kind, at=at, profile_id=f"u{user}", value=worth or None)


def labelled_stream(
    seed: int,
    count: int,
    *,
    a_day: int = 100,
    chance: Callable[[int, int], float] = lambda level, _day: 0.05 + 0.1 * level,
    predictor: Predictor | None = None,
    name: str = "buys",
    horizon_ms: int = 7 * DAY,
) -> Iterable[Labelled]:
    """Labelled cases of one prediction with one informative feature of six levels, and noise.

    `chance` maps (level, day) to the probability of a label of 1. Each day positives come
    later on average, as they do where horizons end when cases were taken and buying is for the
    evening.
    """
    rng = Random(seed)
    for day in range(-(-count // a_day)):
        cases = []
        for _ in range(min(a_day, count - day * a_day)):
            level, noise = rng.randrange(6), rng.randrange(20)
            label = float(rng.random() < chance(level, day))
            moment = int((rng.random() + 0.5 * label) * 15 * HOUR)
            cases.append((moment, label, [1, 100 + level, 200 + noise]))
        for moment, label, cells in sorted(cases):
            closed_ms = T0 + day * DAY + moment
            yield Labelled(
                model=f"prediction.{name}",
                features=np.array(cells, "<u4").tobytes(),
                label=label,
                predicted=None if predictor is None else predictor.of_cells(name, cells),
                at_ms=closed_ms - horizon_ms,
                closed_ms=closed_ms,
            )
