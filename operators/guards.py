"""May the model decide here, and what is closed to it beside what one profile says?

What must hold before anything is chosen (level, consent, caps of the placement as a whole, the
placement's own condition, that enough is known), what the same page shows already, and what
everybody together has seen enough of.
"""

from __future__ import annotations

from operators.candidates import Eligibility
from operators.choices import Asked
from operators.consent import refusal
from operators.contents import Flags
from operators.placement_plan import CompiledPlacement
from operators.plan import Plan
from operators.profile import Profile
from operators.scoring import Scoring


class Guards:
    """The guards of one plan; `scoring` knows what was learned and counted so far."""

    def __init__(self, plan: Plan, scoring: Scoring) -> None:
        self._plan = plan
        self._scoring = scoring
        self._eligibility: dict[str, Eligibility] = {}

    def eligibility(self, placement: CompiledPlacement) -> Eligibility:
        """What narrows the candidates of a placement."""
        known = self._eligibility.get(placement.key)
        if known is None:
            known = Eligibility(placement, self._plan.contents, self._plan.prompts)
            self._eligibility[placement.key] = known
        return known

    def on_page(self, profile: Profile, placement: CompiledPlacement, now_ms: int) -> list[str]:
        """What other placements of the same view of the page show."""
        page = placement.policy.page
        if page is None:
            return []
        since = now_ms - placement.policy.page_within
        return [
            content_id
            for name in self._plan.pages[page]
            if name != placement.name and profile.last_ms.get(name, since) > since
            for content_id in profile.last.get(name, ("", []))[1]
        ]

    def crowded(self, asked: Asked) -> Flags | None:
        """Contents that everybody together has seen enough of; None where nothing limits them."""
        caps = asked.placement.everybody
        if not caps:
            return None
        now_ms = asked.moment.now_ms
        view, quota = self._scoring.view, asked.quota
        crowded = None if view is None else view.at_cap(caps, now_ms)
        if quota is not None:
            full = quota.at_cap(caps, now_ms, slots=asked.slots)
            if full is not None:
                crowded = full if crowded is None else crowded | full
        return crowded

    def why_not(self, asked: Asked) -> str | None:
        """Why this decision is not the model's to make; None: it is."""
        profile, placement, moment = asked.profile, asked.placement, asked.moment
        consent = self._plan.policy.consent
        if profile.shown and self.eligibility(placement).worn_out(profile, moment.now_ms):
            return "capped"
        if asked.level == 0:
            return "not_personalised"
        why = refusal(consent, profile, "collect") or refusal(consent, profile, "personalise")
        if why is not None:
            return why
        if placement.eligible and not placement.eligible(profile, moment).holds:
            return "not_eligible"
        holdout = self._plan.policy.experiments.holdout
        if asked.variant == "holdout" and holdout is not None and holdout.serve == "fallback":
            return "holdout"
        return "too_little_known" if self._too_little(asked) else None

    def _too_little(self, asked: Asked) -> bool:
        needs, profile = asked.placement.policy.needs, asked.profile
        if asked.variant == "holdout":
            return False
        if needs.signals and all(
            self._plan.by_name[name].empty(profile.signals, asked.moment.now_ms)
            for name in needs.signals
        ):
            return True
        if not needs.rewarded:
            return False
        newest = self._scoring.newest(asked.placement.model)
        return newest is None or newest.rewarded < needs.rewarded
