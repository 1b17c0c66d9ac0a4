"""What is a variant worth? Metrics per profile, from decisions, outcomes and events.

A profile counts for the variant that decided for it first (its exposure), whatever came after that;
what it does counts for a fixed time from then on, and it enters the figures when that time is over.
So each profile gives one finished number, independent of all others, and what is said of them holds
however often one looks (see `operators.sequential`).

Feed it in this order: all exposures, then outcomes and events, each in any order.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from operators.sequential import Compared, Moments, SampleRatio, compare
from schemas.check_experiments import OF_A_REWARD
from schemas.time import DAY, MINUTE, SECOND

SESSION_GAP_MS: Final = 30 * MINUTE
BACK_AFTER_MS: Final = DAY
"""A profile is back when it is seen a day or more after its exposure, within the horizon."""
POINTS: Final = 60
FROM_EVENTS: Final = frozenset({"retention", "session_time", "satisfaction"})
FEEDBACK: Final[Mapping[str, int]] = {
    "like": 1,
    "dislike": -1,
    "hide": -1,
    "not_interested": -1,
    "less_like_this": -1,
}
_SURE: Final = 1e-6
_VISITS: Final = 1_000


@dataclass(slots=True)
class Exposed:
    """One profile in one test: since when in which variant, and what it did since."""

    variant: str
    share: float | None
    first_ms: int
    first_id: str
    moved: bool = False
    rewards: dict[str, list[float]] = field(default_factory=dict)
    visits: list[tuple[int, int]] = field(default_factory=list)
    back: bool = False
    liked: int = 0


@dataclass(slots=True)
class Exposures:
    """All profiles of one test; `shares` are the lowest and highest that each variant was given."""

    layer: str = ""
    profiles: dict[str, Exposed] = field(default_factory=dict)
    placements: set[str] = field(default_factory=set)
    shares: dict[str, tuple[float, float]] = field(default_factory=dict)
    last_ms: int = 0
    closing_ms: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be compared in a test; `shares`: as declared, None: as recorded."""

    control: str
    variants: tuple[str, ...]
    metrics: tuple[str, ...]
    guardrails: tuple[str, ...] = ()
    shares: Mapping[str, float] | None = None


class Point(NamedTuple):
    """The comparison as it was when so many profiles of the two arms were finished."""

    at_ms: int
    profiles: int
    compared: Compared | None


@dataclass(frozen=True, slots=True)
class VariantLift:
    """One variant by one metric: its value, and where it stands beside the control."""

    variant: str
    profiles: int
    value: float | None
    course: tuple[Point, ...] = ()

    @property
    def compared(self) -> Compared | None:
        """The newest comparison; None for the control, and while there is too little."""
        return self.course[-1].compared if self.course else None


@dataclass(frozen=True, slots=True)
class MetricLift:
    """One metric of a test, the control first; `missing` says why it could not be had."""

    metric: str
    guardrail: bool
    variants: tuple[VariantLift, ...]
    missing: str | None = None


@dataclass(frozen=True, slots=True)
class Lift:
    """What a test has shown.

    `ratio_p` is the anytime-valid p-value of the shares being as declared, None where they cannot
    be checked. `moved` profiles met more than one variant. `alpha` is that of each comparison.
    """

    test: str
    layer: str
    control: str
    alpha: float
    exposed: Mapping[str, int]
    ratio_p: float | None
    shares_moved: bool
    moved: int
    metrics: tuple[MetricLift, ...]


class Study:
    """Collects what profiles did after their exposure; memory grows with profiles, not with logs.

    `horizon_ms` is how long a profile is looked at from its exposure on.
    """

    def __init__(self, horizon_ms: int) -> None:
        self.horizon_ms = horizon_ms
        self.tests: dict[str, Exposures] = {}
        self.clock_ms = 0
        self._of: dict[str, list[Exposed]] = {}
        self._events = False

    def expose(
        self,
        test: str,
        variant: str,
        *,
        profile_id: str,
        decision_id: str,
        placement: str,
        at_ms: int,
        layer: str = "",
        share: float | None = None,
    ) -> None:
        """A decision that a variant made."""
        exposures = self.tests.setdefault(test, Exposures(layer))
        exposures.placements.add(placement)
        exposures.last_ms = max(exposures.last_ms, at_ms)
        self.clock_ms = max(self.clock_ms, at_ms)
        if share is not None:
            low, high = exposures.shares.get(variant, (share, share))
            exposures.shares[variant] = min(low, share), max(high, share)
        known = exposures.profiles.get(profile_id)
        if known is None:
            known = Exposed(variant, share, at_ms, decision_id)
            exposures.profiles[profile_id] = known
            self._of.setdefault(profile_id, []).append(known)
            return
        known.moved |= variant != known.variant
        if (at_ms, decision_id) < (known.first_ms, known.first_id):
            known.variant, known.share = variant, share
            known.first_ms, known.first_id = at_ms, decision_id

    def book(
        self,
        profile_id: str,
        *,
        placement: str,
        decided_ms: int,
        closed_ms: int,
        rewards: Iterable[tuple[str, float]],
    ) -> None:
        """The books of a decision: its rewards as (kind, value), one for each item and kind."""
        self.clock_ms = max(self.clock_ms, closed_ms)
        booked = list(rewards)
        for exposures in self.tests.values():
            if placement not in exposures.placements:
                continue
            exposures.closing_ms = max(exposures.closing_ms, closed_ms - decided_ms)
            exposed = exposures.profiles.get(profile_id)
            if exposed is None or decided_ms > exposures.last_ms:
                continue
            if not exposed.first_ms <= decided_ms < exposed.first_ms + self.horizon_ms:
                continue
            for kind, value in booked:
                sums = exposed.rewards.setdefault(kind, [0.0, 0.0])
                sums[0] += 1.0
                sums[1] += value

    def act(self, profile_id: str, at_ms: int) -> None:
        """The person did something: was seen."""
        self._events = True
        for exposed in self._of.get(profile_id, ()):
            if exposed.first_ms <= at_ms < exposed.first_ms + self.horizon_ms:
                exposed.back |= at_ms >= exposed.first_ms + BACK_AFTER_MS
                _visit(exposed.visits, at_ms)

    def react(self, profile_id: str, at_ms: int, kind: str) -> None:
        """The person gave feedback, of a kind in `FEEDBACK`."""
        for exposed in self._of.get(profile_id, ()):
            if exposed.first_ms <= at_ms < exposed.first_ms + self.horizon_ms:
                exposed.liked += FEEDBACK[kind]

    def result(self, test: str, asked: Asked, *, alpha: float) -> Lift:
        """What a test has shown by now; alpha is shared out among the variants."""
        exposures = self.tests[test]
        others = [variant for variant in asked.variants if variant != asked.control]
        each = alpha / max(1, len(others))
        order = sorted(exposures.profiles.items(), key=lambda item: (item[1].first_ms, item[0]))
        in_order = [exposed for _, exposed in order]
        shares_moved = any(high - low > _SURE for low, high in exposures.shares.values())
        metrics = [(name, False) for name in asked.metrics]
        metrics += [(name, True) for name in asked.guardrails]
        return Lift(
            test=test,
            layer=exposures.layer,
            control=asked.control,
            alpha=each,
            exposed={
                variant: sum(exposed.variant == variant for exposed in in_order)
                for variant in asked.variants
            },
            ratio_p=None if shares_moved else _ratio_p(in_order, exposures, asked),
            shares_moved=shares_moved,
            moved=sum(exposed.moved for exposed in in_order),
            metrics=tuple(
                self._metric(name, guardrail, in_order, exposures, asked, each, shares_moved)
                for name, guardrail in dict.fromkeys(metrics)
            ),
        )

    def _metric(
        self,
        metric: str,
        guardrail: bool,
        in_order: list[Exposed],
        exposures: Exposures,
        asked: Asked,
        alpha: float,
        weighted: bool,
    ) -> MetricLift:
        missing = self._missing(metric)
        if missing is not None:
            return MetricLift(metric, guardrail, (), missing)
        wait_ms = self.horizon_ms
        wait_ms += 0 if metric in FROM_EVENTS else exposures.closing_ms
        firsts = [exposed.first_ms for exposed in in_order]
        finished = in_order[: bisect_left(firsts, self.clock_ms - wait_ms + 1)]
        moments = {variant: Moments() for variant in asked.variants}
        courses: dict[str, list[Point]] = {v: [] for v in moments if v != asked.control}
        control = moments[asked.control]
        looks = {round((n + 1) * len(finished) / POINTS) for n in range(POINTS)}
        for number, exposed in enumerate(finished, start=1):
            y, x = value_of(exposed, metric)
            arm = moments.get(exposed.variant)
            if arm is not None:
                share = exposed.share if weighted and exposed.share else 1.0
                arm.add(y, x, propensity=share)
            if number not in looks:
                continue
            for variant, course in courses.items():
                said = compare(control, moments[variant], alpha)
                profiles = control.units + moments[variant].units
                course.append(Point(exposed.first_ms + wait_ms, profiles, said))
        first = (asked.control, *courses)
        return MetricLift(
            metric,
            guardrail,
            tuple(
                VariantLift(v, moments[v].units, moments[v].value, tuple(courses.get(v, ())))
                for v in first
            ),
        )

    def _missing(self, metric: str) -> str | None:
        if metric in FROM_EVENTS and not self._events:
            return "needs the events"
        if metric == "retention" and self.horizon_ms <= BACK_AFTER_MS:
            return "needs a horizon of more than a day"
        return None


def value_of(exposed: Exposed, metric: str) -> tuple[float, float]:
    """What one profile adds to a metric: numerator and denominator.

    conversion: whether any reward above 0 came (or the one named); order_value: the value of such
    rewards for each of them; retention: whether it was seen a day or more later; session_time:
    seconds for each session; satisfaction: likes less what was disliked or hidden; else the value
    of one reward kind.
    """
    match metric:
        case "retention":
            return float(exposed.back), 1.0
        case "session_time":
            lengths = sum(end - begin for begin, end in exposed.visits)
            return lengths / SECOND, float(len(exposed.visits))
        case "satisfaction":
            return float(exposed.liked), 1.0
    metric, _, kind = metric.partition(".")
    if metric not in OF_A_REWARD:
        return exposed.rewards.get(metric, (0.0, 0.0))[1], 1.0
    named = [sums for name, sums in exposed.rewards.items() if not kind or name == kind]
    good = [sums for sums in named if kind or sums[1] > 0.0]
    if metric == "conversion":
        return float(bool(good)), 1.0
    return sum(sums[1] for sums in good), sum(sums[0] for sums in good)


def _visit(visits: list[tuple[int, int]], at_ms: int) -> None:
    """Add an instant to sessions, which are silences of 30 minutes apart, in any order."""
    begin = end = at_ms
    touching = [
        visit
        for visit in _around(visits, at_ms)
        if visit[0] - SESSION_GAP_MS <= at_ms <= visit[1] + SESSION_GAP_MS
    ]
    for visit in touching:
        begin, end = min(begin, visit[0]), max(end, visit[1])
        visits.remove(visit)
    # A robot asks for ever: what is beyond the bound tells nothing of people.
    if len(visits) < _VISITS:
        insort(visits, (begin, end))


def _around(visits: list[tuple[int, int]], at_ms: int) -> Iterator[tuple[int, int]]:
    at = bisect_left(visits, (at_ms, at_ms))
    yield from visits[max(0, at - 1) : at + 1]


def _ratio_p(in_order: list[Exposed], exposures: Exposures, asked: Asked) -> float | None:
    shares = asked.shares
    if shares is None:
        shares = {variant: high for variant, (_, high) in exposures.shares.items()}
        total = sum(shares.values())
        if not shares or total > 1.0 + _SURE:
            return None
        if total < 1.0 - _SURE:
            shares = {**shares, "": 1.0 - total}  # a variant that nobody has met
    arms = {variant: arm for arm, variant in enumerate(shares)}
    if len(arms) < 2 or any(exposed.variant not in arms for exposed in in_order):
        return None
    check = SampleRatio(list(shares.values()))
    for exposed in in_order:
        check.add(arms[exposed.variant])
    return check.p_value
