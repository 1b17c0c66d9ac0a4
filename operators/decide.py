"""What happens to one profile when one event arrives: the order of an event's life.

time passes -> consent -> signals -> segments -> impressions and rewards -> predictions ->
decisions. State: the profile. Outputs: the streams of `operators.outputs`. It knows one profile and
one moment; shards, watermarks, duplicates and lateness are the caller's (`operators.shard`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from operators.adaptive import MODEL, thresholds
from operators.aggregate_quota import Quota
from operators.arrival import HISTORY, LIVE, Arrived
from operators.attribute import close_windows, impression, reward
from operators.audience import look
from operators.budget import Budget
from operators.choose import Chooser
from operators.consent import honour_gpc, refusal, state_consent
from operators.controls import forget_behaviour, hide, holds_behaviour, reset_taste
from operators.deciding import Adopt as Adopt
from operators.deciding import Deciding
from operators.duplicates import contact_of, no_contact
from operators.golden_record import fold
from operators.levels import state_levels
from operators.moment import ALWAYS, NOTHING, Context, Moment
from operators.outputs import Outputs, Record
from operators.parameters import Parameters
from operators.penalties import state_less
from operators.plan import Plan
from operators.predict import Cases, Predictor, forget_cases
from operators.profile import FAR, Profile
from operators.segments import POLICY, TIMER, leave_segments, pass_time, update_segments
from schemas.events import CONTROL_TYPES

_STATEMENTS: Final = ("feedback", "preferences_set")
_WITHDRAWN: Final = ("consent_refused", "privacy_signal")
EXPIRED: Final = "expired"
"""The cause of leaving where a profile was idle beyond its TTL."""

Since = Mapping[int, int]
"""From when on a signal was watched, by slot (ms); absent: always."""


class _Triggers(NamedTuple):
    """What a decision needs beside its profile, wherever it is triggered."""

    shard: int
    since: Since
    quota: Quota | None
    out: Outputs


class Decide:
    """Applies events to profiles under one plan, scoring with the newest parameters.

    `refresh` is called at the start of each activation: parameters are read there and nowhere
    else, so that every decision of an activation uses one set.
    """

    def __init__(self, plan: Plan, parameters: Parameters, *, adopt: Adopt) -> None:
        self.plan = plan
        self._budget = Budget(plan)
        self._parameters = parameters
        self._predictor = Predictor(plan.predictions, parameters, plan.hashes)
        self._chooser = Chooser(plan, parameters, self._predictor)
        self._deciding = Deciding(plan, self._chooser, adopt=adopt)
        self._cases = Cases(plan.predictions, self._predictor)

    def refresh(self) -> None:
        """Take over the newest parameter sets."""
        self._chooser.refresh()
        self._predictor.refresh()
        plan = self.plan
        if plan.followings:
            plan.in_force.update(thresholds(self._parameters.latest(MODEL), plan.followings))

    def moment(self, now_ms: int, *, since: Since, context: Context = NOTHING) -> Moment:
        """An instant, with all that a condition may see at it."""
        return Moment(now_ms, context, since, self._predictor)

    def apply(
        self,
        profile: Profile,
        event: Arrived,
        *,
        shard: int,
        out: Outputs,
        since: Since = ALWAYS,
        quota: Quota | None = None,
    ) -> None:
        """Apply one accepted event (not late, not a duplicate) to its profile.

        `quota` is the shard's part of the caps that are never exceeded.
        """
        plan = self.plan
        consent = plan.policy.consent
        # A profile's time never runs backwards; an event older than that (within the allowed
        # lateness) still counts in its own instant of every window.
        now_ms = max(profile.now_ms, event.occurred_ms)
        moment = self.moment(now_ms, since=since, context=event.context)
        if profile.plan:  # a new profile is evaluated by what its first event does
            self.adopt_policy(profile, profile.now_ms, since=since, out=out)
        version = profile.version
        triggers = _Triggers(shard, since, quota, out)
        # As a timer counts them: the version must not tell which of the two came first.
        self._let_pass(profile, now_ms, triggers)
        profile.now_ms = now_ms
        profile.version += 1
        live = event.mode == LIVE
        before = refusal(consent, profile, "collect")
        said = honour_gpc(profile, event.context.get("gpc"), consent, event.occurred_ms)
        if event.type == "consent_changed":
            said = True
            stated = event.consent or {}
            if event.mode == HISTORY:
                # A grant on a device says nothing against what its user has stated.
                stated = {p: g for p, g in stated.items() if not g or p not in profile.consent}
            state_consent(profile, stated, event.occurred_ms, asked=plan.purposes)
        refused = refusal(consent, profile, "collect")
        if before and not refused:
            profile.first_ms = now_ms  # what came before was not watched, whatever the grant's date
        if said and refused in _WITHDRAWN:
            self._forget(profile, moment, event.event_id, out)
        if said and refusal(consent, profile, "learn") is not None:
            forget_cases(profile)
        requested = event.type == "decision_requested"
        changes: list[Record] = []
        if event.type == "preferences_set":
            state_levels(profile.preferences, event.preferences or {}, event.occurred_ms)
        if event.type == "consent_changed":
            out.counts["used"] += live
            if not refused:
                waited = not profile.plan and bool(profile.signals)
                names = event.names
                changes = update_segments(profile, plan, moment, event.event_id, events=names)
                out.changes += changes
                if waited:
                    changes = []  # back in what a policy that asks had ended: no news to act on
        elif not refused:
            out.counts["used"] += live
            changes = self._remember(profile, event, moment, version, out)
        elif event.type in _STATEMENTS:
            # Do-not-show is what the person states; that they reacted is behaviour and not kept.
            out.counts["used"] += live
            self._heed(profile, event)
        else:
            # A request is answered all the same (with the fallback); nothing of it is kept.
            out.counts["used" if requested else "suppressed"] += live
        if not live:
            return
        deciding = self._deciding
        for trigger, name in deciding.by_event(event, refused=refused is not None):
            deciding.decide(profile, trigger, name, moment, shard=shard, out=out, quota=quota)
        if changes and plan.on_change:
            for trigger, name in deciding.by_change(changes, event, profile):
                deciding.decide(profile, trigger, name, moment, shard=shard, out=out, quota=quota)

    def _let_pass(self, profile: Profile, now_ms: int, triggers: _Triggers) -> int:
        """Let deadlines of segments up to an instant fire, and what they trigger be decided."""
        changed = 0
        while (due_ms := profile.segment_deadline()) <= now_ms:
            moment = self.moment(due_ms, since=triggers.since)
            changes = pass_time(profile, self.plan, moment)
            changed += len(changes)
            profile.version += len(changes)
            triggers.out.changes += changes
            if not self.plan.on_change:
                continue
            timed = [change for change in changes if change["cause"] == TIMER]
            for trigger, name in self._deciding.by_change(timed, None, profile):
                self._deciding.decide(
                    profile,
                    trigger,
                    name,
                    moment,
                    shard=triggers.shard,
                    out=triggers.out,
                    quota=triggers.quota,
                )
        return changed

    def apply_outcome(self, profile: Profile, event: Arrived, *, out: Outputs) -> None:
        """Match an outcome with a decision made before a link; nothing else comes of it."""
        consent = self.plan.policy.consent
        if refusal(consent, profile, "collect") is None:
            profile.version += 1
            self._attribute(profile, event, out)

    def retire(self, profile: Profile, event: Arrived, *, since: Since, out: Outputs) -> None:
        """End the profile of an id that is an alias from now on: its history was carried over.

        What the person stated stays, and so do open decisions, whose outcomes still come.
        """
        moment = self.moment(max(profile.now_ms, event.occurred_ms), since=since)
        pending = list(profile.pending)
        before = len(out.changes)
        self._forget(profile, moment, event.event_id, out)
        profile.pending = pending
        profile.version += 1 + len(out.changes) - before

    def pass_time(
        self,
        profile: Profile,
        until_ms: int,
        *,
        shard: int,
        since: Since,
        out: Outputs,
        quota: Quota | None = None,
    ) -> bool:
        """Let everything due by an instant happen; True where others may see the difference."""
        triggers = _Triggers(shard, since, quota, out)
        changed = False
        if profile.plan not in (0, self.plan.mark):
            due_ms = max(profile.now_ms, min(profile.deadline(), until_ms))
            changed = self.adopt_policy(profile, due_ms, since=since, out=out)
        while True:
            # One instant after the other: a case must not see what time changed after it.
            now_ms = min(profile.deadline(), until_ms)
            changed = bool(self._let_pass(profile, now_ms, triggers)) or changed
            close_windows(profile, now_ms, plan=self.plan, out=out)
            self._cases.close(profile, now_ms, out.labelled)
            if now_ms >= until_ms:
                return changed

    def adopt_policy(self, profile: Profile, now_ms: int, *, since: Since, out: Outputs) -> bool:
        """Evaluate a profile anew that was last evaluated under another policy.

        Only what the policy declares is kept, and nothing of who refuses what it asks for. That is
        no sign of life: how long the profile was idle stays as it was. True where others may see
        the difference.
        """
        plan = self.plan
        if profile.plan == plan.mark:
            return False
        for slot in [slot for slot in profile.signals if slot not in plan.slots]:
            del profile.signals[slot]
        for held in (profile.last, profile.last_ms, profile.turned):
            for name in [name for name in held if name not in plan.placements]:
                del held[name]
        moment = self.moment(now_ms, since=since)
        before = len(out.changes)
        refused = refusal(plan.policy.consent, profile, "collect")
        if refused is None:
            out.changes += update_segments(profile, plan, moment, POLICY)
        elif refused in _WITHDRAWN:
            self._forget(profile, moment, POLICY, out)
        else:
            # Not asked yet, under a policy that asks: what is held waits for the next event.
            out.changes += leave_segments(profile, plan, moment, POLICY)
        profile.version += len(out.changes) - before
        return len(out.changes) > before

    def reduce_to_statements(self, profile: Profile, now_ms: int, *, out: Outputs) -> bool:
        """Forget an idle profile's behaviour; True where there was any."""
        close_windows(profile, FAR, plan=self.plan, out=out)
        if not holds_behaviour(profile):
            return False
        self._forget(profile, self.moment(now_ms, since=ALWAYS), EXPIRED, out)
        profile.first_ms = now_ms  # what was dropped says nothing about what was done
        profile.version += 1
        return True

    def _forget(self, profile: Profile, moment: Moment, cause: str, out: Outputs) -> None:
        """Drop the behaviour, and all that was made of it elsewhere."""
        suggest = self.plan.suggest
        if suggest is not None and profile.attributes:
            out.contacts.append(no_contact(profile.profile_id, moment.now_ms))
        forget_behaviour(profile)
        out.changes += leave_segments(profile, self.plan, moment, cause)

    def holds_nothing(self, profile: Profile) -> bool:
        """Whether there is nothing that may be kept of a profile, not even a statement."""
        stated = (profile.consent, profile.hidden, profile.gpc_ms, profile.preferences)
        if any(stated) or profile.less or profile.prompted or profile.segments:
            return False
        return refusal(self.plan.policy.consent, profile, "collect") is not None

    def is_recorded(self, event: Arrived, *, shard: int) -> bool:
        """Whether the topic already has a decision that this event triggered."""
        return self._deciding.is_recorded(event, shard=shard)

    def _remember(
        self, profile: Profile, event: Arrived, moment: Moment, version: int, out: Outputs
    ) -> list[Record]:
        """Keep what an event says of a profile; the changes of segments that it made."""
        plan = self.plan
        reset = event.type == "taste_reset"
        # Watched for longer than was known: what was unknown may be known now.
        anew = reset
        # A control event applies whatever its date: that others were watched for it does not say.
        if event.type not in CONTROL_TYPES and event.occurred_ms < profile.first_ms:
            anew = True
            profile.first_ms = event.occurred_ms
        if reset:
            reset_taste(profile, [signal.slot for signal in plan.tastes])
        elif event.type == "feedback":
            self._heed(profile, event)
        if event.attributes is not None:
            fold(profile, event, plan.policy.identity, asked=plan.attributes)
            if plan.suggest is not None:
                out.contacts.append(contact_of(profile, plan.suggest, moment.now_ms))
        content = plan.contents.by_id.get(event.content_id) if event.content_id else None
        # A sensitive content is never a source of signals: not even that there was something.
        names = () if content is not None and content.sensitive else event.names
        for name in names:
            for signal in plan.signals_of.get(name, ()):
                if name != event.type and event.type in signal.events:
                    continue  # fed already, under the type: one event counts once
                signal.add(profile.signals, event, content)
        for signal in plan.any_signals if names else ():
            signal.add(profile.signals, event, content)
        stated = event.attributes is not None
        anew |= self._budget.keep(profile, since_version=version, at_once=stated, out=out)
        changes = update_segments(
            profile,
            plan,
            moment,
            event.event_id,
            events=None if anew else event.names,
            attributes=stated,
        )
        out.changes += changes
        self._attribute(profile, event, out)
        may_learn = refusal(plan.policy.consent, profile, "learn") is None
        audiences = plan.policy.audiences
        if audiences is not None and may_learn:
            seen = look(profile, plan.compared, every_ms=audiences.every, now_ms=moment.now_ms)
            if seen is not None:
                out.samples.append(seen)
        if plan.predictions:
            self._cases.observe(
                profile,
                event,
                content,
                moment.now_ms,
                may_learn=may_learn,
                out=out.labelled,
            )
        return changes

    def _heed(self, profile: Profile, event: Arrived) -> None:
        """Keep what a person says of what is shown."""
        if event.type == "feedback":
            policy = self.plan.policy
            hide(profile, event)
            state_less(
                profile.less,
                event,
                policy.feedback,
                max(profile.now_ms, event.occurred_ms),
                sensitive=policy.sensitive.tags,
            )

    def _attribute(self, profile: Profile, event: Arrived, out: Outputs) -> None:
        plan = self.plan
        may_learn = refusal(plan.policy.consent, profile, "learn") is None
        if event.type == "impression":
            impression(profile, event, plan=plan, may_learn=may_learn, out=out)
        elif event.mode != HISTORY and any(name in plan.rewards_of for name in event.names):
            reward(profile, event, plan=plan, may_learn=may_learn, out=out)
