"""How does a decision look on the wire? The record of topic `decisions`, as its schema has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from operators.arrival import Arrived
from operators.choices import UNASKED, Choice, Chosen
from operators.experiments import Assigned
from operators.levels import BEHAVIOURAL
from operators.moment import Moment
from operators.outputs import Record
from operators.placement_plan import CompiledPlacement
from operators.plan import Plan
from operators.profile import Profile
from operators.reason_texts import Languages, Reason
from operators.reasons import Liking, fallback_reason, item_reasons, likes
from operators.segments import intent_of, memberships
from schemas.decisions import SCHEMA_VERSION
from schemas.time import rfc3339

_LEAST_PROPENSITY: Final = float(np.finfo(np.float64).tiny)


def decision_record(
    profile: Profile,
    event: Arrived,
    placement: CompiledPlacement,
    identity: str,
    variant: str | None,
    assigned: Sequence[Assigned],
    choice: Choice,
    moment: Moment,
    plan: Plan,
) -> Record:
    """The record of one decision."""
    now_ms, personal = moment.now_ms, choice.fallback is None
    # Only what was drawn as the best is explained by likings, and only where they may be used.
    named = choice.level >= BEHAVIOURAL and any(one.greedy and not one.code for one in choice.items)
    liked = likes(profile, plan=plan, now_ms=now_ms) if named else []
    # What was inferred of a person goes nowhere that the person has not allowed it to go.
    told = choice.fallback not in UNASKED
    # What is shared must not depend on who happened to ask for it.
    alone = choice.fragment is None
    languages = plan.texts.languages(
        moment.context if alone else {}, profile.attributes if alone and told else {}
    )
    slate = 1.0
    for chosen in choice.items:
        # A hundred slots of thousands of contents: the product must not vanish to 0.
        slate = max(slate * chosen.propensity, _LEAST_PROPENSITY)
    until_ms = now_ms + placement.policy.expires_after
    fragment = choice.fragment
    ids = [chosen.content_id for chosen in choice.items]
    return {
        "decision_id": identity,
        "profile_id": profile.profile_id,
        "placement": placement.name,
        "decided_at": rfc3339(now_ms),
        "expires_at": rfc3339(until_ms if fragment is None else fragment.until_ms),
        "trigger": {"event_id": event.event_id, "type": event.type},
        "items": [
            {
                "content_id": chosen.content_id,
                "rank": chosen.rank,
                "score": None if chosen.score is None else round(chosen.score, 6),
                "propensity": chosen.propensity,
                "source": chosen.source,
                "learnable": chosen.learnable,
                "reasons": _reasons(chosen, choice, placement, liked, languages, plan),
            }
            for chosen in choice.items
        ],
        "candidates": choice.considered,
        "rejections": choice.rejections,
        "segments": memberships(profile) if told else [],
        "intent": intent_of(profile) if told else None,
        "experiment": None if variant is None else {"id": "holdout", "variant": variant},
        "exposures": [
            {"test": one.test, "layer": one.layer, "variant": one.variant, "share": one.share}
            for one in assigned
        ],
        "rules": choice.rules,
        "shadow": None
        if choice.shadow is None
        else {"content_ids": choice.shadow, "agrees": choice.shadow == ids},
        "fragment": None if fragment is None else fragment.record(ids, now_ms),
        "explored": choice.scored and any(not chosen.greedy for chosen in choice.items),
        "learnable": any(chosen.learnable for chosen in choice.items),
        "fallback": choice.fallback,
        "slate_propensity": slate,
        "model_version": choice.model_version,
        "policy_digest": plan.policy_digest,
        "catalogue_version": plan.catalogue_version,
        "level": choice.level if personal else 0,
        "schema_version": SCHEMA_VERSION,
    }


def _reasons(
    chosen: Chosen,
    choice: Choice,
    placement: CompiledPlacement,
    liked: list[Liking],
    languages: Languages,
    plan: Plan,
) -> list[Reason]:
    content, texts = plan.contents.by_id[chosen.content_id], plan.texts
    if choice.fallback is not None and chosen.code is None:
        return fallback_reason(choice.fallback, content, languages=languages, texts=texts)
    return item_reasons(
        content,
        liked=liked,
        # Where nothing else could have been drawn, nothing was explored.
        greedy=chosen.greedy or chosen.propensity == 1.0,
        source=chosen.source,
        rule=chosen.code,
        popular=placement.policy.model.kind == "popularity",
        languages=languages,
        texts=texts,
    )
