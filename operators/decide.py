"""What happens to one profile when one event arrives: the order of an event's life.

consent -> signals -> segments -> impressions and rewards -> decisions. State: the profile.
Outputs: the streams of `operators.outputs`. It knows one profile and one moment; shards,
watermarks, duplicates and lateness are the caller's (`operators.shard`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np

from operators.arrival import Arrived
from operators.attribute import impression, reward, show, write_books
from operators.candidates import Eligibility
from operators.consent import refusal, state_consent
from operators.controls import forget_behaviour, hide
from operators.explore import Drawn, draw_slate
from operators.ids import decision_id, uniform
from operators.outputs import Made, Outputs, Record
from operators.parameters import Parameters, ParameterSet
from operators.plan import CompiledPlacement, Plan
from operators.profile import Pending, PendingItem, Profile
from operators.reasons import fallback_reason, item_reasons, likes
from operators.score import Scorer, Scores
from operators.segments import leave_segments, pass_time, update_segments
from schemas.decisions import SCHEMA_VERSION
from schemas.policy import Exploration
from schemas.time import rfc3339

PRIOR: Final = "prior"
_UNIFORM: Final = Exploration(kind="uniform")
_LEAST_PROPENSITY: Final = float(np.finfo(np.float64).tiny)

Adopt = Callable[[str], Record | None]
"""The recorded decision of an id, where the topic already has one."""


class _Choice(NamedTuple):
    """What was chosen and how, before it becomes a record."""

    content_ids: list[str]
    drawn: list[Drawn]
    scores: Scores | None
    considered: int
    rejections: dict[str, int]
    fallback: str | None
    model_version: str | None
    features: bytes


class Decide:
    """Applies events to profiles under one plan, scoring with the newest parameters.

    `refresh` is called at the start of each activation: parameters are read there and nowhere
    else, so that every decision of an activation uses one set.
    """

    def __init__(self, plan: Plan, parameters: Parameters, *, adopt: Adopt) -> None:
        self.plan = plan
        self._parameters = parameters
        self._adopt = adopt
        self._eligibility = {
            name: Eligibility(placement, plan.contents)
            for name, placement in plan.placements.items()
        }
        self._scorers: dict[str, Scorer] = {}

    def refresh(self) -> None:
        """Take over the newest parameter sets."""
        for name, placement in self.plan.placements.items():
            newest = self._parameters.latest(name) if placement.heads else None
            if newest is None:
                continue
            known = self._scorers.get(name)
            if known is None or known.parameters is not newest:
                self._scorers[name] = self._scorer(placement, newest)

    def _scorer(self, placement: CompiledPlacement, newest: ParameterSet) -> Scorer:
        contents = self.plan.contents
        # A set learned under a former policy may have other reward kinds: match them by name.
        values = np.zeros((len(newest.heads), len(contents.ids)))
        for row, head in enumerate(newest.heads):
            if head in placement.heads:
                values[row] = placement.values[placement.heads.index(head)]
        return Scorer(newest, cells=placement.cells, real=placement.real, values=values)

    def apply(self, profile: Profile, event: Arrived, *, shard: int, out: Outputs) -> None:
        """Apply one accepted event (not late, not a duplicate) to its profile."""
        plan = self.plan
        # A profile's time never runs backwards; an event older than that (within the allowed
        # lateness) still counts in its own bucket of every window.
        now_ms = max(profile.now_ms, event.occurred_ms)
        passed = pass_time(profile, plan, now_ms)
        out.changes += passed
        profile.now_ms = now_ms
        # As a timer counts them: the version must not tell which of the two came first.
        profile.version += 1 + len(passed)
        if event.type == "consent_changed":
            state_consent(profile, event.consent or {}, event.occurred_ms)
            if refusal(plan.policy.consent, profile, "collect") == "consent_refused":
                forget_behaviour(profile)
                out.changes += leave_segments(profile, plan, now_ms, event.event_id)
            out.counts["used"] += 1
            return
        refused = refusal(plan.policy.consent, profile, "collect")
        requested = event.type == "decision_requested"
        if not refused:
            out.counts["used"] += 1
            self._remember(profile, event, now_ms, out)
        elif event.type == "feedback":
            # Do-not-show is what the person states; that they reacted is behaviour and not kept.
            out.counts["used"] += 1
            hide(profile, event)
        else:
            # A request is answered all the same (with the fallback); nothing of it is kept.
            out.counts["used" if requested else "suppressed"] += 1
        if requested and event.placement is not None:
            self._decide(profile, event, event.placement, now_ms, shard, out)
        for placement in () if refused else plan.triggered_by.get(event.type, ()):
            self._decide(profile, event, placement, now_ms, shard, out)

    def is_recorded(self, event: Arrived, *, shard: int) -> bool:
        """Whether the topic already has a decision that this event triggered."""
        requested = event.type == "decision_requested" and event.placement is not None
        names = (event.placement,) if requested else self.plan.triggered_by.get(event.type, ())
        return any(
            self._adopt(
                decision_id(
                    shard=shard,
                    profile_id=event.profile_id,
                    trigger_id=event.event_id,
                    placement=name,
                )
            )
            is not None
            for name in names
            if name is not None
        )

    def _remember(self, profile: Profile, event: Arrived, now_ms: int, out: Outputs) -> None:
        plan = self.plan
        if event.type == "taste_reset":
            profile.signals.clear()
        elif event.type == "feedback":
            hide(profile, event)
        if event.attributes is not None:
            for name, value in event.attributes.items():
                if value is None:
                    profile.attributes.pop(name, None)
                else:
                    profile.attributes[name] = value
        content = plan.contents.by_id.get(event.content_id) if event.content_id else None
        # A sensitive content is never a source of signals: not even that there was something.
        names = () if content is not None and content.sensitive else event.names
        for name in names:
            for signal in plan.signals_of.get(name, ()):
                if name != event.type and event.type in signal.events:
                    continue  # fed already, under the type: one event counts once
                if signal.matches is None or signal.matches(event, content):
                    state = signal.kind.add(profile.signals.get(signal.slot), event, content)
                    if state is not None:
                        profile.signals[signal.slot] = state
        out.changes += update_segments(
            profile,
            plan,
            now_ms,
            event.event_id,
            events=None if event.type == "taste_reset" else event.names,
            attributes=event.attributes is not None,
        )
        may_learn = refusal(plan.policy.consent, profile, "learn") is None
        if event.type == "impression":
            impression(profile, event, plan=plan, may_learn=may_learn, out=out)
        elif any(name in plan.rewards_of for name in event.names):
            reward(profile, event, plan=plan, may_learn=may_learn, out=out)

    def _decide(
        self, profile: Profile, event: Arrived, name: str, now_ms: int, shard: int, out: Outputs
    ) -> None:
        placement = self.plan.placements[name]
        identity = decision_id(
            shard=shard, profile_id=profile.profile_id, trigger_id=event.event_id, placement=name
        )
        variant = self._variant(profile)
        recorded = self._adopt(identity)
        if recorded is None:
            choice = self._choose(profile, event, placement, identity, variant, now_ms)
            record = self._record(profile, event, placement, identity, variant, choice, now_ms)
            features = choice.features
        else:
            # The topic is the truth: what was recorded is taken over, whatever would be chosen
            # now under other parameters, so that state, topic and Redis name the same content.
            record = recorded
            features = self._cells(placement, profile, event, now_ms)
        out.decisions.append(Made(record, profile.version, recorded is not None, event.received_ms))
        self._await_outcome(profile, placement, record, features, now_ms, out)

    def _variant(self, profile: Profile) -> str | None:
        holdout = self.plan.policy.experiments.holdout
        if holdout is None:
            return None
        held = uniform(f"holdout|{holdout.salt}|{profile.profile_id}") < holdout.share
        return "holdout" if held else "personalised"

    def _cells(
        self, placement: CompiledPlacement, profile: Profile, event: Arrived, now_ms: int
    ) -> bytes:
        if not placement.heads:
            return b""
        return np.array(
            placement.features.cells(profile, now_ms, event.context), np.uint32
        ).tobytes()

    def _why_not(
        self,
        profile: Profile,
        event: Arrived,
        placement: CompiledPlacement,
        variant: str | None,
        now_ms: int,
    ) -> str | None:
        """Why this decision is not the model's to make; None: it is."""
        holdout = self.plan.policy.experiments.holdout
        if placement.policy.level == 0:
            return "not_personalised"
        consent = self.plan.policy.consent
        why = refusal(consent, profile, "collect") or refusal(consent, profile, "personalise")
        if why is not None:
            return why
        if placement.eligible and not placement.eligible(profile, now_ms, event.context).holds:
            return "not_eligible"
        if variant == "holdout" and holdout is not None and holdout.serve == "fallback":
            return "holdout"
        return None

    def _choose(
        self,
        profile: Profile,
        event: Arrived,
        placement: CompiledPlacement,
        identity: str,
        variant: str | None,
        now_ms: int,
    ) -> _Choice:
        eligibility = self._eligibility[placement.name]
        slots = min(event.slots or placement.policy.slots, placement.policy.slots)
        considered, rejections = 0, {}
        asked = event.candidates
        if asked is None and placement.policy.candidates.source == "request":
            asked = ()
        why = self._why_not(profile, event, placement, variant, now_ms)
        if why is None:
            found = eligibility.narrow(profile, now_ms, event.context, asked=asked)
            considered, rejections = found.considered, found.rejections
            if len(found.positions):
                scorer = None if variant == "holdout" else self._scorers.get(placement.name)
                cells = (
                    placement.features.cells(profile, now_ms, event.context)
                    if placement.heads
                    else []
                )
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
                ids = self.plan.contents.ids
                version = PRIOR if placement.heads and variant != "holdout" else None
                return _Choice(
                    [ids[found.positions[d.position]] for d in drawn],
                    drawn,
                    scores,
                    considered,
                    rejections,
                    None,
                    version if scorer is None else scorer.parameters.version,
                    np.array(cells, np.uint32).tobytes(),
                )
            why = "no_eligible_candidate"
        chosen = eligibility.fallback(profile, now_ms, slots=slots, asked=asked)
        certain = [Drawn(i, 1.0, True) for i in range(len(chosen))]
        return _Choice(chosen, certain, None, considered, rejections, why, None, b"")

    def _record(
        self,
        profile: Profile,
        event: Arrived,
        placement: CompiledPlacement,
        identity: str,
        variant: str | None,
        choice: _Choice,
        now_ms: int,
    ) -> Record:
        plan = self.plan
        slate = 1.0
        items = []
        liked = likes(profile, plan=plan, now_ms=now_ms) if choice.fallback is None else []
        for rank, (content_id, drawn) in enumerate(
            zip(choice.content_ids, choice.drawn, strict=True), start=1
        ):
            # A hundred slots of thousands of contents: the product must not vanish to 0.
            slate = max(slate * drawn.propensity, _LEAST_PROPENSITY)
            if choice.fallback is not None:
                reasons = fallback_reason(choice.fallback)
            else:
                content = plan.contents.by_id[content_id]
                reasons = item_reasons(content, liked=liked, greedy=drawn.greedy)
            scored = choice.scores is not None
            items.append(
                {
                    "content_id": content_id,
                    "rank": rank,
                    "score": round(float(choice.scores[drawn.position]), 6)  # type: ignore[index]
                    if scored
                    else None,
                    "propensity": drawn.propensity,
                    "reasons": reasons,
                }
            )
        personal = choice.fallback is None
        return {
            "decision_id": identity,
            "profile_id": profile.profile_id,
            "placement": placement.name,
            "decided_at": rfc3339(now_ms),
            "expires_at": rfc3339(now_ms + placement.policy.expires_after),
            "trigger": {"event_id": event.event_id, "type": event.type},
            "items": items,
            "candidates": choice.considered,
            "rejections": choice.rejections,
            "segments": sorted(profile.segments),
            "experiment": None if variant is None else {"id": "holdout", "variant": variant},
            "explored": personal and any(not drawn.greedy for drawn in choice.drawn),
            "learnable": personal and bool(choice.drawn),
            "fallback": choice.fallback,
            "slate_propensity": slate,
            "model_version": choice.model_version,
            "policy_digest": plan.policy_digest,
            "catalogue_version": plan.catalogue_version,
            "level": placement.policy.level if personal else 0,
            "schema_version": SCHEMA_VERSION,
        }

    def _await_outcome(
        self,
        profile: Profile,
        placement: CompiledPlacement,
        record: Record,
        features: bytes,
        now_ms: int,
        out: Outputs,
    ) -> None:
        consent = self.plan.policy.consent
        if refusal(consent, profile, "collect") or not record["items"]:
            return
        profile.last[placement.name] = (
            record["decision_id"],
            [item["content_id"] for item in record["items"]],
        )
        policy = placement.policy
        assumed = policy.impressions == "assumed"
        pending = Pending(
            decision_id=record["decision_id"],
            placement=placement.name,
            decided_ms=now_ms,
            closes_ms=now_ms + placement.attribution_ms + (0 if assumed else policy.expires_after),
            learnable=record["learnable"] and bool(placement.heads),
            variant=record["experiment"]["variant"] if record["experiment"] else None,
            slate_propensity=record["slate_propensity"],
            features=features if record["learnable"] else b"",
            items=[
                PendingItem(item["content_id"], item["rank"], item["propensity"])
                for item in record["items"]
            ],
        )
        profile.pending.append(pending)
        if len(profile.pending) > self.plan.policy.retention.pending:
            write_books(profile, profile.pending.pop(0), closed_ms=now_ms, out=out)
            out.facts["pending_evicted",] += 1
        if assumed:
            show(
                profile,
                pending,
                pending.items,
                at_ms=now_ms,
                plan=self.plan,
                may_learn=refusal(consent, profile, "learn") is None,
                out=out,
            )
