"""What does a policy ask about everybody together: caps, what is popular, shares of tests?"""

from __future__ import annotations

from schemas.placements import PlacementCap
from schemas.policy import Policy

CapKey = tuple[str, int, int]
"""What tells soft caps apart: (per, max, within_ms)."""


def cap_key(cap: PlacementCap) -> CapKey:
    """What tells a cap over everybody from another; the same cap of two placements is one."""
    return cap.per, cap.max, cap.within


def over_everybody(cap: PlacementCap, *, hard: bool) -> bool:
    """Whether a cap counts a content or tag for all profiles, by quota (`hard`) or softly."""
    return cap.over == "everybody" and cap.hard == hard and cap.per in ("content", "tag")


def global_caps(policy: Policy, *, hard: bool) -> tuple[CapKey, ...]:
    """The hard or the soft caps over everybody of a policy, each once."""
    found = {
        cap_key(cap)
        for placement in policy.placements.values()
        for cap in placement.caps
        if over_everybody(cap, hard=hard)
    }
    return tuple(sorted(found))


def popular_placements(policy: Policy) -> tuple[str, ...]:
    """The placements that fall back to what is popular, or do in a variant of a test."""
    found = {name for name, placement in policy.placements.items() if placement.fallback.popular}
    for test in policy.experiments.tests.values():
        changed = (variant.changes.fallback for variant in test.variants.values())
        if any(fallback is not None and fallback.popular for fallback in changed):
            found.update(policy.placements if test.placements is None else test.placements)
    return tuple(name for name in policy.placements if name in found)


def asked_of_everybody(policy: Policy) -> bool:
    """Whether a policy asks for anything that the aggregate step tells."""
    promotes = any(test.promote is not None for test in policy.experiments.tests.values())
    return promotes or bool(global_caps(policy, hard=False) or popular_placements(policy))
