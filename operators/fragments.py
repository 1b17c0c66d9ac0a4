"""For whom, and until when, is an answer the same, so that a cache may keep it?

A shared placement answers everybody in the same segments alike for a span of time (its expiry,
counted from fixed instants): chance is drawn from the fragment's key instead of the decision's id.
Who has said what is not to be shown gets an answer of their own.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

from operators.outputs import Record
from operators.placement_plan import CompiledPlacement
from operators.plan import Plan
from operators.profile import Profile
from schemas.time import SECOND


class Fragment(NamedTuple):
    """A shared answer: chance is drawn from `seed`, `until_ms` is when it ends."""

    seed: str
    until_ms: int
    vary: tuple[str, ...]

    def record(self, contents: list[str], now_ms: int) -> Record:
        """What a decision says of it; equal keys are equal answers, for they name the contents."""
        told = "\0".join([self.seed, *contents]).encode()
        return {
            "key": blake2b(told, digest_size=12).hexdigest(),
            "max_age_s": (self.until_ms - now_ms) // SECOND,
            "vary": list(self.vary),
        }


def fragment_of(
    plan: Plan,
    placement: CompiledPlacement,
    profile: Profile,
    now_ms: int,
    version: str | None,
    *,
    why: str = "",
) -> Fragment | None:
    """The fragment that a decision is part of; None where the answer is one person's own."""
    policy = placement.policy
    # A variant may have made it personal, and a content's own caps may refuse one person.
    personal = policy.level > 1 or policy.coherence is not None
    own = profile.hidden or profile.less or (profile.shown and plan.contents.caps)
    if not policy.shared or personal or own:
        return None
    span = max(1, policy.expires_after)
    until_ms = (now_ms // span + 1) * span
    told = (
        placement.key,
        plan.policy_digest,
        plan.catalogue_version,
        version or "",
        why,
        str(until_ms),
        *(name for name in placement.varies if name in profile.segments),
    )
    seed = blake2b("\0".join(told).encode(), digest_size=12).hexdigest()
    return Fragment(seed, until_ms, placement.varies)
