"""Which contents, for this profile in this placement at this moment, and with what probability?

Eligibility and guardrails shape the candidates, rules what they may and must be, the model scores
them, the draw is last. Where the decision is not the model's to make, the fallback answers and says
why. State: none but the newest parameter sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from operators.aggregate_quota import Quota
from operators.arrival import Arrived
from operators.choices import UNASKED, Asked, Choice, Chosen
from operators.coherence import kept
from operators.consent import refusal
from operators.experiments import Assigned, in_holdout
from operators.explore import Drawn, draw_slate
from operators.fallback import Link, fallback_order, slate
from operators.fragments import Fragment, fragment_of
from operators.guards import Guards
from operators.ids import uniform
from operators.levels import level_of
from operators.moment import Moment
from operators.parameters import Parameters
from operators.penalties import Penalties
from operators.placement_plan import CompiledPlacement
from operators.plan import Plan
from operators.predict import Predictor
from operators.profile import Profile
from operators.rules import FORCE, Guidance, guide, weigh
from operators.score import Indices, Scorer, Scores
from operators.scoring import Scoring, pack_cells
from schemas.learning import Exploration

PRIOR: Final = "prior"
_UNIFORM: Final = Exploration(kind="uniform")
_GREEDY: Final = Exploration(kind="greedy", optimism=0.0)
_TIE: Final = 1e-12


class Chooser:
    """Chooses under one plan, scoring with the newest parameters as of the last `refresh`."""

    def __init__(self, plan: Plan, parameters: Parameters, predictor: Predictor) -> None:
        self._plan = plan
        self._scoring = Scoring(plan, parameters, predictor)
        self._guards = Guards(plan, self._scoring)
        self._penalties = Penalties(
            plan.contents, plan.policy.feedback, sensitive=plan.policy.sensitive.tags
        )

    def refresh(self) -> None:
        """Take over the newest parameter sets."""
        self._scoring.refresh()

    def variant(self, profile: Profile) -> str | None:
        """Which arm of the holdout a profile is in; None where there is no holdout."""
        holdout = self._plan.policy.experiments.holdout
        if holdout is None:
            return None
        return "holdout" if in_holdout(holdout, profile.profile_id) else "personalised"

    def assigned(self, profile: Profile, name: str, moment: Moment) -> list[Assigned]:
        """The variants of tests that a profile is in at a placement."""
        plan = self._plan
        if plan.tests is None or plan.placements[name].policy.never_personalised:
            return []
        consent = plan.policy.consent
        if refusal(consent, profile, "collect") or refusal(consent, profile, "personalise"):
            return []
        shares = {} if self._scoring.view is None else self._scoring.view.shares()
        return plan.tests.assign(profile, moment, name, shares)

    def cells_of(
        self, placement: CompiledPlacement, profile: Profile, moment: Moment, level: int
    ) -> list[int]:
        """The profile's feature cells at a moment: what a decision logs; none without a model."""
        return self._scoring.cells_of(placement, profile, moment, level)

    def choose(
        self,
        profile: Profile,
        event: Arrived,
        placement: CompiledPlacement,
        identity: str,
        variant: str | None,
        moment: Moment,
        *,
        quota: Quota | None = None,
    ) -> Choice:
        """The choice for one trigger; chance is drawn from `identity`, the decision's id."""
        policy = placement.policy
        requested: Sequence[str] | None = event.candidates
        if requested is None and policy.candidates.source == "request":
            requested = ()
        asked = Asked(
            profile,
            event,
            placement,
            identity,
            variant,
            moment,
            quota,
            level_of(profile.preferences, placement.name, policy.level),
            min(event.slots or policy.slots, policy.slots),
            requested,
            self._guards.on_page(profile, placement, moment.now_ms),
        )
        why = self._guards.why_not(asked)
        if why is not None:
            return self._fall_back(asked, why)
        eligibility = self._guards.eligibility(placement)
        crowded = self._guards.crowded(asked)
        found = eligibility.narrow(
            profile, moment, asked=requested, crowded=crowded, elsewhere=asked.elsewhere
        )
        if not len(found.positions):
            return self._fall_back(
                asked, "no_eligible_candidate", found.considered, found.rejections
            )
        guidance = _unguided(found.positions)
        if placement.rules:
            guidance = guide(placement.rules, profile, moment, found.positions, asked.slots)
            for reason, count in guidance.rejections.items():
                found.rejections[reason] = found.rejections.get(reason, 0) + count
            if not len(guidance.positions):
                return self._fall_back(
                    asked, "no_eligible_candidate", found.considered, found.rejections
                )
        return self._draw(asked, guidance, found.considered, found.rejections)

    def _draw(
        self, asked: Asked, guidance: Guidance, considered: int, rejections: dict[str, int]
    ) -> Choice:
        profile, placement, moment = asked.profile, asked.placement, asked.moment
        positions = guidance.positions
        held = asked.variant == "holdout"
        scorer = None if held else self._scoring.scorer(placement)
        cells = self._scoring.cells_of(placement, profile, moment, asked.level)
        learned = None if scorer is None else scorer.score(cells, positions)
        version = PRIOR if placement.heads and not held else None
        if scorer is not None:
            version = scorer.parameters.version
        fragment = fragment_of(self._plan, placement, profile, moment.now_ms, version)
        mode = placement.policy.learning
        fixed = self._fixed(asked, guidance)
        drawn = self._slate(asked, guidance, scorer, learned, cells, fixed, fragment)
        shadow = None
        weighs = not held and mode != "logging_only"
        teaches = bool(placement.heads) and mode != "logging_only"
        if mode != "online" and not held:
            if mode == "apprentice":
                shadow = [self._id(positions, d.position) for d in drawn]
            drawn = self._incumbents(asked, positions, fixed)
        sources = dict(fixed.values())
        acts = "model" if mode == "online" or held else "incumbent"
        items = [
            self._item(positions, rank, d, learned, sources.get(d.position, acts), guidance)
            for rank, d in enumerate(drawn, start=1)
        ]
        return Choice(
            items,
            considered,
            rejections,
            None,
            version,
            pack_cells(cells),
            asked.level,
            guidance.names if weighs else _placing(placement, guidance.names),
            teaches,
            learned is not None,
            shadow,
            fragment,
        )

    def _slate(
        self,
        asked: Asked,
        guidance: Guidance,
        scorer: Scorer | None,
        learned: Scores | None,
        cells: list[int],
        fixed: dict[int, tuple[int, str]],
        fragment: Fragment | None,
    ) -> list[Drawn]:
        """Draw: everything that shapes scores comes before, and nothing after."""
        placement, positions = asked.placement, guidance.positions
        exploration = placement.policy.exploration if guidance.explore else _GREEDY
        scores = learned
        if asked.variant != "holdout":
            for factors in (
                guidance.factors,
                self._penalties.factors(asked.profile.less, positions, asked.moment.now_ms),
            ):
                scores = scores if factors is None else weigh(scores, factors)
        spread = None
        if scorer is not None and (exploration.kind == "thompson" or exploration.optimism):
            spread = scorer.spread(cells, positions)
        scale = None if scorer is None else scorer.scale(cells, positions)
        if learned is None:
            scores, exploration = self._unlearned(asked, positions, scores, exploration)
        chance = asked.identity if fragment is None else fragment.seed
        return draw_slate(
            scores,
            count=len(positions),
            slots=asked.slots,
            exploration=exploration,
            rewarded=0 if scorer is None else scorer.parameters.rewarded,
            chances=[uniform(f"{chance}|{rank}") for rank in range(asked.slots)],
            scale=scale,
            spread=spread,
            noise_of=chance,
            fixed={rank: at for rank, (at, _) in fixed.items()} if fixed else {},
            limit=None if placement.limit is None else placement.limit.among(positions),
        )

    def _unlearned(
        self, asked: Asked, positions: Indices, factors: Scores | None, exploration: Exploration
    ) -> tuple[Scores | None, Exploration]:
        """What to draw by before anything was learned, and how.

        By the factors of rules and feedback, as if all scores were equal; greedily the largest of
        them, and where there are none, as it would be without a model.
        """
        if asked.variant == "holdout":
            return None, _UNIFORM
        if exploration.kind == "greedy":
            rank = {at: i for i, at in enumerate(self._incumbent_order(asked, positions))}
            order = np.array([-rank.get(i, len(rank)) for i in range(len(positions))], np.float64)
            return (order if factors is None else factors + order * _TIE), _GREEDY
        return (None, _UNIFORM) if factors is None else (factors, exploration)

    def _fixed(self, asked: Asked, guidance: Guidance) -> dict[int, tuple[int, str]]:
        """What is not drawn: rank to (candidate, source). Rules come before what is kept."""
        policy = asked.placement.policy
        free_to_turn = asked.variant == "holdout" or policy.learning != "online"
        stable = None if free_to_turn else policy.coherence
        if not guidance.fixed and stable is None:
            return {}  # as nearly always
        forced = {
            at
            for rule in asked.placement.rules
            for rank, at in rule.fixed
            if rank == FORCE and rule.name in guidance.names
        }
        found = {
            rank: (at, "forced" if int(guidance.positions[at]) in forced else "pinned")
            for rank, at in guidance.fixed.items()
        }
        if stable is None:
            return found
        stays = kept(
            asked.profile,
            asked.placement.name,
            stable,
            contents=self._plan.contents,
            positions=guidance.positions,
            slots=asked.slots,
            now_ms=asked.moment.now_ms,
            taken=guidance.fixed,
        )
        room = min(asked.slots, len(guidance.positions))
        free = [rank for rank in range(room) if rank not in found]
        # Of a slate that became shorter what stays moves up, in its order.
        for last, at in sorted((stays or {}).items(), reverse=True):
            rank = max(rank for rank in free if rank <= last)
            free = [other for other in free if other < rank]
            found[rank] = (at, "sticky")
        return found

    def _id(self, positions: Indices, at: int) -> str:
        return self._plan.contents.ids[int(positions[at])]

    def _item(
        self,
        positions: Indices,
        rank: int,
        drawn: Drawn,
        learned: Scores | None,
        source: str,
        guidance: Guidance,
    ) -> Chosen:
        at = drawn.position
        return Chosen(
            self._id(positions, at),
            rank,
            drawn.propensity,
            None if learned is None else float(learned[at]),
            drawn.greedy,
            source,
            drawn.learnable,
            guidance.reasons.get(at),
        )

    def _incumbents(
        self, asked: Asked, positions: Indices, fixed: dict[int, tuple[int, str]]
    ) -> list[Drawn]:
        """What would be shown without a model: the order of the request, else of the fallback.

        Rules and diversity hold for it too, whoever acts.
        """
        order = self._incumbent_order(asked, positions)
        place = {at: nth for nth, at in enumerate(order)}
        put = {rank: place[at] for rank, (at, _) in fixed.items()}
        teaches = asked.placement.policy.learning == "apprentice"
        links: list[Link] = [(int(positions[at]), None) for at in order]
        candidate = {position: at for (position, _), at in zip(links, order, strict=True)}
        certain = {at for at, _ in fixed.values()}
        found = slate(links, put, slots=asked.slots, limit=asked.placement.limit)
        chosen = [candidate[position] for _, (position, _) in found]
        return [Drawn(at, 1.0, True, teaches and at not in certain) for at in chosen]

    def _incumbent_order(self, asked: Asked, positions: Indices) -> list[int]:
        """The candidates in the order of the request, else of the fallback."""
        at = {int(position): i for i, position in enumerate(positions)}
        index = self._plan.contents.index
        order = (
            asked.placement.order
            if asked.candidates is None
            else [index[c] for c in asked.candidates if c in index]
        )
        return [at[i] for i in dict.fromkeys(order) if i in at]

    def _fall_back(
        self,
        asked: Asked,
        why: str,
        considered: int = 0,
        rejections: dict[str, int] | None = None,
    ) -> Choice:
        profile, placement, moment = asked.profile, asked.placement, asked.moment
        now_ms = moment.now_ms
        personal = why not in UNASKED and asked.level > 0
        open_ = self._guards.eligibility(placement).open_to_anybody(
            profile, now_ms, crowded=self._guards.crowded(asked), elsewhere=asked.elsewhere
        )
        nothing = placement.policy.fallback.none or why == "capped"
        order = (
            []
            if nothing
            else fallback_order(
                placement,
                self._plan.contents,
                profile,
                open_=open_,
                asked=asked.candidates,
                popular=()
                if self._scoring.view is None
                else self._scoring.view.popular(placement.name),
                personal=personal,
            )
        )
        guidance = _unguided(np.array([at for at, _ in order], np.intp))
        if placement.rules and order:
            # Without consent only what holds for everybody may be asked.
            asked_of = [r for r in placement.rules if personal or r.evaluate is None]
            guidance = guide(asked_of, profile, moment, guidance.positions, asked.slots)
            links = dict(order)
            order = [(int(at), links[int(at)]) for at in guidance.positions]
        ids = self._plan.contents.ids
        items = [
            Chosen(ids[at], rank + 1, 1.0, None, True, "fallback", False, link)
            for rank, (at, link) in slate(
                order, guidance.fixed, slots=asked.slots, limit=placement.limit
            )
        ]
        fragment = fragment_of(self._plan, placement, profile, now_ms, None, why=why)
        return Choice(
            items,
            considered,
            rejections or {},
            why,
            None,
            b"",
            0,
            _placing(placement, guidance.names),
            False,
            fragment=fragment,
        )


def _placing(placement: CompiledPlacement, names: list[str]) -> list[str]:
    """Of these rules those that narrow or place: without scores a weight changes nothing."""
    placing = {
        rule.name
        for rule in placement.rules
        if rule.fixed or rule.only is not None or rule.exclude is not None
    }
    return [name for name in names if name in placing]


def _unguided(positions: Indices) -> Guidance:
    return Guidance(positions, {}, None, {}, True, [], {})
