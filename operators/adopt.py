"""May a running flow go over from one plan to another, and who is then evaluated anew?

The graph of steps, the models' tables and what is stripped at decoding are built once, at the
start. Everything else (contents, rules, segments, signals, eligibility, exploration, texts) belongs
to the plan and may change between two batches. Pure: plans and profiles in, a sentence and ids out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from operators.plan import Plan
from operators.profile import Profile, head_of

FIXED: Final[Mapping[str, Callable[[Plan], object]]] = {
    "time": lambda plan: plan.policy.time,
    "sensitive": lambda plan: plan.policy.sensitive,
    "identity": lambda plan: plan.policy.identity,
    # The step that links people asks for consent by itself.
    "consent (with identity)": lambda plan: plan.policy.identity and plan.policy.consent,
    "predictions": lambda plan: plan.policy.predictions,
    "audiences": lambda plan: plan.policy.audiences,
    "the signals that audiences compare": lambda plan: [s.slot for s in plan.compared],
    "thresholds that follow feedback": lambda plan: plan.followings,
    "health": lambda plan: plan.policy.health,
    "monitoring": lambda plan: plan.policy.monitoring,
    # Caps, what is popular, shares of tests: the step is there only where one of them is.
    "whether anything is counted of everybody": lambda plan: plan.aggregated,
}
"""What a running flow cannot take over, by name, and where it stands in a plan."""


def why_not_hot(old: Plan, new: Plan) -> str | None:
    """Why a flow that runs on `old` must be restarted for `new`; None: it may go on under it."""
    found = [name for name, part in FIXED.items() if part(old) != part(new)]
    found += _names("placements", old.placements, new.placements)
    found += _names("models", old.models, new.models)
    for name in sorted(old.models.keys() & new.models.keys()):
        before, after = old.models[name], new.models[name]
        if before.heads != after.heads:
            found.append(f"the rewards that model {name} learns")
        if before.policy.model != after.policy.model:
            found.append(f"the settings of model {name}")
    return "; ".join(found) or None


def _names(what: str, old: Mapping[str, object], new: Mapping[str, object]) -> Iterator[str]:
    for said, names in (("new", new.keys() - old.keys()), ("gone", old.keys() - new.keys())):
        if names:
            yield f"{what} that are {said} ({', '.join(sorted(names))})"


def stale_profiles(
    cold: Mapping[str, bytes], hot: Mapping[str, Profile], *, mark: int
) -> list[str]:
    """Who was last evaluated under another policy than that of `mark`, the last id first."""
    known = (0, mark)  # 0: nothing to evaluate before its next event
    stale = [profile_id for profile_id, block in cold.items() if head_of(block)[2] not in known]
    stale += [profile_id for profile_id, profile in hot.items() if profile.plan not in known]
    return sorted(stale, reverse=True)
