"""How does a decision look on the wire? The record of topic `decisions`, as its schema has it."""

from __future__ import annotations

from typing import Final

import numpy as np

from operators.arrival import Arrived
from operators.choose import Choice
from operators.outputs import Record
from operators.plan import CompiledPlacement, Plan
from operators.profile import Profile
from operators.reasons import fallback_reason, item_reasons, likes
from operators.segments import intent_of, memberships
from schemas.decisions import SCHEMA_VERSION
from schemas.time import rfc3339

_UNCONSENTED: Final = frozenset({"consent_refused", "consent_unknown", "privacy_signal"})
_LEAST_PROPENSITY: Final = float(np.finfo(np.float64).tiny)


def decision_record(
    profile: Profile,
    event: Arrived,
    placement: CompiledPlacement,
    identity: str,
    variant: str | None,
    choice: Choice,
    now_ms: int,
    plan: Plan,
) -> Record:
    """The record of one decision."""
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
    # What was inferred of a person goes nowhere that the person has not allowed it to go.
    told = choice.fallback not in _UNCONSENTED
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
        "segments": memberships(profile) if told else [],
        "intent": intent_of(profile) if told else None,
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
