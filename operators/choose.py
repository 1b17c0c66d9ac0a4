"""Which contents, for this profile in this placement at this moment, and with what probability?

Eligibility and guardrails shape the candidates, the model scores them, the draw is last. Where the
decision is not the model's to make, the fallback answers and says why. State: none but the newest
parameter sets.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from operators.arrival import Arrived
from operators.candidates import Eligibility
from operators.consent import refusal
from operators.explore import Drawn, draw_slate
from operators.ids import uniform
from operators.moment import Moment
from operators.parameters import Parameters, ParameterSet
from operators.plan import CompiledPlacement, Plan
from operators.predict import Predictor
from operators.profile import Profile
from operators.score import Scorer, Scores
from schemas.policy import Exploration

PRIOR: Final = "prior"
_PREDICTIVE: Final = 4
_UNIFORM: Final = Exploration(kind="uniform")


class Choice(NamedTuple):
    """What was chosen and how, before it becomes a record."""

    content_ids: list[str]
    drawn: list[Drawn]
    scores: Scores | None
    considered: int
    rejections: dict[str, int]
    fallback: str | None
    model_version: str | None
    features: bytes


class Chooser:
    """Chooses under one plan, scoring with the newest parameters as of the last `refresh`."""

    def __init__(self, plan: Plan, parameters: Parameters, predictor: Predictor) -> None:
        self._plan = plan
        self._predictor = predictor
        self._parameters = parameters
        self._eligibility = {
            name: Eligibility(placement, plan.contents)
            for name, placement in plan.placements.items()
        }
        self._scorers: dict[str, Scorer] = {}

    def refresh(self) -> None:
        """Take over the newest parameter sets."""
        for name, placement in self._plan.placements.items():
            newest = self._parameters.latest(name) if placement.heads else None
            if newest is None:
                continue
            known = self._scorers.get(name)
            if known is None or known.parameters is not newest:
                self._scorers[name] = self._scorer(placement, newest)

    def _scorer(self, placement: CompiledPlacement, newest: ParameterSet) -> Scorer:
        contents = self._plan.contents
        # A set learned under a former policy may have other reward kinds: match them by name.
        values = np.zeros((len(newest.heads), len(contents.ids)))
        for row, head in enumerate(newest.heads):
            if head in placement.heads:
                values[row] = placement.values[placement.heads.index(head)]
        return Scorer(newest, cells=placement.cells, real=placement.real, values=values)

    def variant(self, profile: Profile) -> str | None:
        """Which arm of the holdout a profile is in; None where there is no holdout."""
        holdout = self._plan.policy.experiments.holdout
        if holdout is None:
            return None
        held = uniform(f"holdout|{holdout.salt}|{profile.profile_id}") < holdout.share
        return "holdout" if held else "personalised"

    def cells_of(self, placement: CompiledPlacement, profile: Profile, moment: Moment) -> list[int]:
        """The profile's feature cells at a moment: what a decision logs; none without a model."""
        if not placement.heads:
            return []
        now_ms = moment.now_ms
        cells = placement.features.cells(profile, now_ms, moment.context)
        foreseen = placement.policy.features.predictions
        if foreseen and placement.policy.level >= _PREDICTIVE:
            cells += self._predictor.feature_cells(foreseen, profile, now_ms)
        return cells

    def _why_not(
        self,
        profile: Profile,
        placement: CompiledPlacement,
        variant: str | None,
        moment: Moment,
    ) -> str | None:
        """Why this decision is not the model's to make; None: it is."""
        holdout = self._plan.policy.experiments.holdout
        if placement.policy.level == 0:
            return "not_personalised"
        consent = self._plan.policy.consent
        why = refusal(consent, profile, "collect") or refusal(consent, profile, "personalise")
        if why is not None:
            return why
        if placement.eligible and not placement.eligible(profile, moment).holds:
            return "not_eligible"
        if variant == "holdout" and holdout is not None and holdout.serve == "fallback":
            return "holdout"
        return None

    def choose(
        self,
        profile: Profile,
        event: Arrived,
        placement: CompiledPlacement,
        identity: str,
        variant: str | None,
        moment: Moment,
    ) -> Choice:
        """The choice for one trigger; chance is drawn from `identity`, the decision's id."""
        now_ms = moment.now_ms
        eligibility = self._eligibility[placement.name]
        slots = min(event.slots or placement.policy.slots, placement.policy.slots)
        considered, rejections = 0, {}
        asked = event.candidates
        if asked is None and placement.policy.candidates.source == "request":
            asked = ()
        why = self._why_not(profile, placement, variant, moment)
        if why is None:
            found = eligibility.narrow(profile, moment, asked=asked)
            considered, rejections = found.considered, found.rejections
            if len(found.positions):
                scorer = None if variant == "holdout" else self._scorers.get(placement.name)
                cells = self.cells_of(placement, profile, moment)
                scores = None if scorer is None else scorer.score(cells, found.positions)
                drawn = draw_slate(
                    scores,
                    count=len(found.positions),
                    slots=slots,
                    exploration=_UNIFORM if scores is None else placement.policy.exploration,
                    rewarded=0 if scorer is None else scorer.parameters.rewarded,
                    chances=[uniform(f"{identity}|{rank}") for rank in range(slots)],
                    scale=None if scorer is None else scorer.scale(cells, found.positions),
                )
                ids = self._plan.contents.ids
                version = PRIOR if placement.heads and variant != "holdout" else None
                return Choice(
                    [ids[found.positions[d.position]] for d in drawn],
                    drawn,
                    scores,
                    considered,
                    rejections,
                    None,
                    version if scorer is None else scorer.parameters.version,
                    pack_cells(cells),
                )
            why = "no_eligible_candidate"
        chosen = eligibility.fallback(profile, now_ms, slots=slots, asked=asked)
        certain = [Drawn(i, 1.0, True) for i in range(len(chosen))]
        return Choice(chosen, certain, None, considered, rejections, why, None, b"")


def pack_cells(cells: list[int]) -> bytes:
    """Feature cells as they are logged: uint32, little-endian."""
    return np.array(cells, np.uint32).tobytes()
