"""What will this profile do, and what came of the moments when that was asked before?

State: the profile's open cases (`operators.predict_state`). A case holds the features of one
moment; its label is made of events dated strictly after that moment, so nothing that the label is
made of can be among the features. Output: labelled cases for LEARN (`operators.outputs.Labelled`),
each once, when its label is known: at the target event, or when the watermark reaches the end of
the horizon. A target event is one dated after the case's moment and less than the horizon after it.

Cases are taken while a profile is active and while it is idle: a prediction is asked in both, and
a model that has seen active profiles only knows nothing of the others. Idle moments lie twice as
far from the last event each time, so that a profile that never comes back costs few of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np

from operators.arrival import LIVE, OUTCOME, Arrived
from operators.features import Hashes, ProfileFeatures
from operators.moment import NOTHING
from operators.outputs import Labelled
from operators.parameters import Parameters, ParameterSet
from operators.predict_plan import CompiledPrediction, compile_predictions
from operators.predict_state import UNPREDICTED, Case
from operators.profile import Profile
from schemas.catalogue import Content
from schemas.events import CONTROL_TYPES
from schemas.predictions import MAX_CASES

__all__ = ["Cases", "CompiledPrediction", "Predictor", "compile_predictions", "forget_cases"]

_NO_MOMENT: Final = CONTROL_TYPES | {"decision_requested", "impression", "profile_updated"}
"""What a person does not do of their own accord gives no case."""
_DIGITS: Final = 6
LARGEST_SUM: Final = 1e9
LARGEST_LOGIT: Final = 30.0


class _Model(NamedTuple):
    """One published set made ready: cell to weight, zeros left out."""

    parameters: ParameterSet
    weights: dict[int, float]
    intercept: float
    mask: int


class Predictor:
    """Predicts from the newest published parameters; it is a `moment.Predict`.

    Before anything was published for a target there is no prediction (None): what a prior would
    say of everybody alike is nothing to act on.
    """

    def __init__(
        self, predictions: Iterable[CompiledPrediction], parameters: Parameters, hashes: Hashes
    ) -> None:
        self._predictions = {prediction.name: prediction for prediction in predictions}
        self._parameters = parameters
        self._hashes = hashes
        self._models: dict[str, _Model] = {}

    def refresh(self) -> None:
        """Take over the newest parameter sets."""
        for name, prediction in self._predictions.items():
            newest = self._parameters.latest(prediction.model)
            if newest is None or newest.heads != (f"{prediction.mark:08x}",):
                continue  # none, or what was learned of a former target
            known = self._models.get(name)
            if known is None or known.parameters is not newest:
                self._models[name] = _model(newest)

    def __call__(self, name: str, profile: Profile, now_ms: int) -> float | None:
        """The probability (or the sum) for a profile as it is now; None: nothing learned yet.

        Raises KeyError for a prediction that is not declared.
        """
        prediction = self._predictions[name]
        if name not in self._models:
            return None
        return self.of_cells(name, prediction.features.cells(profile, now_ms, NOTHING))

    def of_cells(self, name: str, cells: list[int]) -> float | None:
        """The same for features that were read already."""
        model = self._models.get(name)
        if model is None:
            return None
        weight, mask = model.weights.get, model.mask
        raw = model.intercept
        # Twenty look-ups in a dictionary cost less than one trip into numpy and back.
        for cell in cells:
            raw += weight(cell & mask, 0.0)
        raw = min(LARGEST_LOGIT, max(-LARGEST_LOGIT, raw))
        if self._predictions[name].is_sum:
            return math.exp(raw)
        return 1.0 / (1.0 + math.exp(-raw))

    def version(self, name: str) -> str | None:
        """Which parameter set predicts; None where none does."""
        model = self._models.get(name)
        return None if model is None else model.parameters.version

    def feature_cells(self, names: Iterable[str], profile: Profile, now_ms: int) -> list[int]:
        """Predictions as features of another model: a bin each, two to the doubling of odds."""
        found = []
        for name in names:
            value = self(name, profile, now_ms)
            if value is None:
                text = "none"
            elif self._predictions[name].is_sum:
                text = f"{math.floor(2 * math.log2(1 + value))}"
            else:
                sure = min(max(value, 1e-6), 1 - 1e-6)
                text = f"{math.floor(2 * math.log2(sure / (1 - sure)))}"
            found.append(self._hashes(f"prediction.{name}~{text}"))
        return found


def _model(parameters: ParameterSet) -> _Model:
    row = parameters.weights[0]
    cells = np.flatnonzero(row)
    weights = dict(zip(cells.tolist(), row[cells].tolist(), strict=True))
    return _Model(parameters, weights, float(parameters.intercepts[0]), (1 << parameters.bits) - 1)


class Cases:
    """Takes cases of a profile, lets them see events, and closes them."""

    def __init__(self, predictions: Iterable[CompiledPrediction], predictor: Predictor) -> None:
        self._predictions = {prediction.name: prediction for prediction in predictions}
        self._predictor = predictor
        self._events = frozenset().union(*(p.events for p in self._predictions.values()))

    def observe(
        self,
        profile: Profile,
        event: Arrived,
        content: Content | None,
        now_ms: int,
        *,
        may_learn: bool,
        out: list[Labelled],
    ) -> None:
        """One accepted event: open cases see it, then it may give cases of its own.

        To be called after signals, attributes and segments have seen it; `now_ms` must not lie
        before anything that the profile has seen. Where learning is refused nothing stays open. A
        sensitive content teaches nothing, not even that there was something.
        """
        if not may_learn:
            forget_cases(profile)
            return
        if event.mode == OUTCOME or (content is not None and content.sensitive):
            return
        self._see(profile, event, content, out)
        if event.mode == LIVE and event.type not in _NO_MOMENT:
            self._take_due(profile, now_ms, out)

    def _see(
        self, profile: Profile, event: Arrived, content: Content | None, out: list[Labelled]
    ) -> None:
        if not profile.cases or self._events.isdisjoint(event.names):
            return
        settled = []
        for case in profile.cases:
            prediction = self._of(case)
            if (
                prediction is None
                or not case.features
                or not case.at_ms < event.occurred_ms < case.closes_ms
                or prediction.events.isdisjoint(event.names)
            ):
                continue
            gained = prediction.gain(event, content)
            if gained is None:
                continue
            # Rounded each time, a sum does not depend on the order of arrival in its last digit.
            gained = round(min(max(gained, -LARGEST_SUM), LARGEST_SUM), _DIGITS)
            case.total = round(case.total + gained, _DIGITS)
            if prediction.at_once is not None:
                out.append(_labelled(prediction, case, prediction.at_once, event.occurred_ms))
                settled.append(case)
        if settled:
            profile.cases = [case for case in profile.cases if case not in settled]

    def _take_due(self, profile: Profile, now_ms: int, out: list[Labelled]) -> None:
        sampled = profile.sampled
        cells: dict[ProfileFeatures, list[int]] = {}
        for name, prediction in self._predictions.items():
            last = sampled.get(name)
            if last is None or now_ms - last >= prediction.every_ms:
                self._take(profile, prediction, now_ms, cells, out)
                self._arm(profile, prediction, now_ms + prediction.every_ms)

    def close(self, profile: Profile, until_ms: int, out: list[Labelled]) -> None:
        """Let every case end whose horizon the watermark has reached, and take the idle ones due.

        In order of time, so that a watermark that leaps gives what one that creeps does.
        """
        while profile.cases:
            case = min(profile.cases, key=_by_end)
            if case.closes_ms > until_ms:
                return
            profile.cases = [other for other in profile.cases if other is not case]
            prediction = self._of(case)
            if prediction is None:
                continue  # of a target that the policy no longer has
            if case.features:
                out.append(_labelled(prediction, case, _final(prediction, case), case.closes_ms))
            else:
                self._idle(profile, prediction, case.closes_ms, out)

    def _idle(
        self, profile: Profile, prediction: CompiledPrediction, due_ms: int, out: list[Labelled]
    ) -> None:
        # Never before anything that the profile has seen: its features would know the label.
        now_ms = max(due_ms, profile.now_ms)
        idle_ms = now_ms - profile.now_ms
        if idle_ms >= prediction.idle_ms:
            return
        next_ms = profile.sampled.get(prediction.name, now_ms) + prediction.every_ms
        if next_ms <= now_ms:
            self._take(profile, prediction, now_ms, {}, out)
            next_ms = now_ms + max(prediction.every_ms, idle_ms)
        self._arm(profile, prediction, next_ms)

    def _take(
        self,
        profile: Profile,
        prediction: CompiledPrediction,
        now_ms: int,
        known: dict[ProfileFeatures, list[int]],
        out: list[Labelled],
    ) -> None:
        name, features = prediction.name, prediction.features
        own = [case for case in profile.cases if case.prediction == name]
        if any(case.mark != prediction.mark for case in own):
            profile.cases = [case for case in profile.cases if case.prediction != name]
        elif sum(bool(case.features) for case in own) >= MAX_CASES:
            return  # the older ones are kept: which one goes must not depend on what comes
        profile.sampled[name] = now_ms
        cells = known.get(features)
        if cells is None:
            cells = known[features] = features.cells(profile, now_ms, NOTHING)
        predicted = self._predictor.of_cells(name, cells)
        case = Case(
            name,
            now_ms,
            now_ms + prediction.horizon_ms,
            np.array(cells, "<u4").tobytes(),
            UNPREDICTED if predicted is None else predicted,
            mark=prediction.mark,
        )
        if prediction.segment is None:
            profile.cases.append(case)
        else:
            member = float(prediction.segment in profile.segments)
            out.append(_labelled(prediction, case, member, now_ms))

    def _arm(self, profile: Profile, prediction: CompiledPrediction, due_ms: int) -> None:
        """Let time come back for an idle moment, by a case without features."""
        for case in profile.cases:
            if not case.features and case.prediction == prediction.name:
                case.at_ms = case.closes_ms = min(case.closes_ms, due_ms)
                return
        profile.cases.append(Case(prediction.name, due_ms, due_ms, b"", mark=prediction.mark))

    def _of(self, case: Case) -> CompiledPrediction | None:
        prediction = self._predictions.get(case.prediction)
        return prediction if prediction is not None and prediction.mark == case.mark else None


def forget_cases(profile: Profile) -> None:
    """Drop all open cases: learning is refused, or what they were taken of is gone."""
    profile.cases.clear()
    profile.sampled.clear()


def _by_end(case: Case) -> tuple[int, int, str, bool]:
    return case.closes_ms, case.at_ms, case.prediction, bool(case.features)


def _final(prediction: CompiledPrediction, case: Case) -> float:
    if prediction.at_once is not None:
        return 1.0 - prediction.at_once
    return min(max(case.total, 0.0), LARGEST_SUM)


def _labelled(prediction: CompiledPrediction, case: Case, label: float, closed_ms: int) -> Labelled:
    return Labelled(
        model=prediction.model,
        features=case.features,
        label=label,
        predicted=None if case.predicted == UNPREDICTED else case.predicted,
        at_ms=case.at_ms,
        closed_ms=closed_ms,
    )
