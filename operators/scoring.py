"""What is known when candidates are scored: the newest parameter sets, as of the last refresh."""

from __future__ import annotations

from typing import Final

import numpy as np

from operators.aggregate_view import MODEL as AGGREGATES
from operators.aggregate_view import AggregateView
from operators.crosses import Crosses, crosses_of
from operators.moment import Moment
from operators.parameters import Parameters, ParameterSet
from operators.placement_plan import CompiledPlacement
from operators.plan import Plan
from operators.predict import Predictor
from operators.profile import Profile
from operators.score import Scorer, scorer_of

_PREDICTIVE: Final = 4


class Scoring:
    """Scorers by placement, and what is counted over all profiles (`view`; None: not yet)."""

    def __init__(self, plan: Plan, parameters: Parameters, predictor: Predictor) -> None:
        self._plan = plan
        self._parameters = parameters
        self._predictor = predictor
        self._scorers: dict[str, Scorer] = {}
        self._crosses: dict[str, Crosses] = {}
        self._newest: dict[str, ParameterSet | None] = {}
        self._counted: ParameterSet | None = None
        self.view: AggregateView | None = None

    def refresh(self) -> None:
        """Take over the newest parameter sets."""
        latest = self._parameters.latest
        self._newest = {model: latest(model) for model in self._plan.models}
        counted = latest(AGGREGATES) if self._plan.aggregated else None
        if counted is not None and counted is not self._counted:
            self.view, self._counted = AggregateView(counted, self._plan), counted

    def newest(self, model: str) -> ParameterSet | None:
        """The newest set of a model; None before the first."""
        return self._newest.get(model)

    def scorer(self, placement: CompiledPlacement) -> Scorer | None:
        """The scorer of a placement; None before anything was learned."""
        newest = self._newest.get(placement.model)
        if newest is None or not placement.heads:
            return None
        known = self._scorers.get(placement.key)
        if known is None or known.parameters is not newest:
            known = self._scorers[placement.key] = self._scorer_of(placement, newest)
        return known

    def _scorer_of(self, placement: CompiledPlacement, newest: ParameterSet) -> Scorer:
        contents = self._plan.contents
        crosses = self._crosses.get(placement.key)
        if crosses is None:
            crosses = self._crosses[placement.key] = crosses_of(placement, contents)
        return scorer_of(placement, contents, newest, crosses=crosses)

    def cells_of(
        self, placement: CompiledPlacement, profile: Profile, moment: Moment, level: int
    ) -> list[int]:
        """The profile's feature cells at a moment: what a decision logs; none without a model."""
        if not placement.heads:
            return []
        now_ms = moment.now_ms
        cells = placement.features_at(level).cells(profile, now_ms, moment.context)
        foreseen = placement.policy.features.predictions
        if foreseen and level >= _PREDICTIVE:
            cells += self._predictor.feature_cells(foreseen, profile, now_ms)
        return cells


def pack_cells(cells: list[int]) -> bytes:
    """Feature cells as they are logged: uint32, little-endian."""
    return np.array(cells, np.uint32).tobytes()
