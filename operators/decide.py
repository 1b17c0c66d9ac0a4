"""What happens to one profile when one event arrives: the order of an event's life.

time passes -> consent -> signals -> segments -> impressions and rewards -> predictions ->
decisions. State: the profile. Outputs: the streams of `operators.outputs`. It knows one profile and
one moment; shards, watermarks, duplicates and lateness are the caller's (`operators.shard`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from operators.adaptive import MODEL, thresholds
from operators.arrival import HISTORY, LIVE, Arrived
from operators.attribute import close_windows, impression, reward, show, write_books
from operators.audience import look
from operators.budget import Budget
from operators.choose import Chooser, pack_cells
from operators.consent import honour_gpc, refusal, state_consent
from operators.controls import forget_behaviour, hide, holds_behaviour, reset_taste
from operators.duplicates import contact_of, no_contact
from operators.filters import number_of
from operators.golden_record import fold
from operators.ids import decision_id
from operators.moment import ALWAYS, NOTHING, Context, Moment
from operators.outputs import Made, Outputs, Record
from operators.parameters import Parameters
from operators.plan import CompiledPlacement, Plan
from operators.predict import Cases, Predictor, forget_cases
from operators.profile import FAR, Pending, PendingItem, Profile
from operators.records import decision_record
from operators.segments import POLICY, leave_segments, pass_time, update_segments
from schemas.events import CONTROL_TYPES

_WITHDRAWN: Final = ("consent_refused", "privacy_signal")
EXPIRED: Final = "expired"
"""The cause of leaving where a profile was idle beyond its TTL."""

Adopt = Callable[[str], Record | None]
"""The recorded decision of an id, where the topic already has one."""
Since = Mapping[int, int]
"""From when on a signal was watched, by slot (ms); absent: always."""


class Decide:
    """Applies events to profiles under one plan, scoring with the newest parameters.

    `refresh` is called at the start of each activation: parameters are read there and nowhere
    else, so that every decision of an activation uses one set.
    """

    def __init__(self, plan: Plan, parameters: Parameters, *, adopt: Adopt) -> None:
        self.plan = plan
        self._adopt = adopt
        self._budget = Budget(plan)
        self._parameters = parameters
        self._predictor = Predictor(plan.predictions, parameters, plan.hashes)
        self._chooser = Chooser(plan, parameters, self._predictor)
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
    ) -> None:
        """Apply one accepted event (not late, not a duplicate) to its profile."""
        plan = self.plan
        consent = plan.policy.consent
        # A profile's time never runs backwards; an event older than that (within the allowed
        # lateness) still counts in its own instant of every window.
        now_ms = max(profile.now_ms, event.occurred_ms)
        moment = self.moment(now_ms, since=since, context=event.context)
        if profile.plan:  # a new profile is evaluated by what its first event does
            self.adopt_policy(profile, profile.now_ms, since=since, out=out)
        passed = pass_time(profile, plan, moment)
        out.changes += passed
        profile.now_ms = now_ms
        version = profile.version
        # As a timer counts them: the version must not tell which of the two came first.
        profile.version += 1 + len(passed)
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
        if event.type == "consent_changed":
            if not refused:
                out.changes += update_segments(
                    profile, plan, moment, event.event_id, events=event.names
                )
            out.counts["used"] += live
            return
        requested = event.type == "decision_requested"
        if not refused:
            out.counts["used"] += live
            self._remember(profile, event, moment, version, out)
        elif event.type == "feedback":
            # Do-not-show is what the person states; that they reacted is behaviour and not kept.
            out.counts["used"] += live
            hide(profile, event)
        else:
            # A request is answered all the same (with the fallback); nothing of it is kept.
            out.counts["used" if requested else "suppressed"] += live
        if not live:
            return
        if requested and event.placement is not None:
            self._decide(profile, event, event.placement, moment, shard, out)
        for placement in () if refused else plan.triggered_by.get(event.type, ()):
            self._decide(profile, event, placement, moment, shard, out)

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

    def pass_time(self, profile: Profile, until_ms: int, *, since: Since, out: Outputs) -> bool:
        """Let everything due by an instant happen; True where others may see the difference."""
        changed = False
        if profile.plan not in (0, self.plan.mark):
            due_ms = max(profile.now_ms, min(profile.deadline(), until_ms))
            changed = self.adopt_policy(profile, due_ms, since=since, out=out)
        while True:
            # One instant after the other: a case must not see what time changed after it.
            now_ms = min(profile.deadline(), until_ms)
            changes = pass_time(profile, self.plan, self.moment(now_ms, since=since))
            profile.version += len(changes)
            out.changes += changes
            changed = changed or bool(changes)
            close_windows(profile, now_ms, out=out)
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
        close_windows(profile, FAR, out=out)
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
        if profile.consent or profile.hidden or profile.gpc_ms or profile.segments:
            return False
        return refusal(self.plan.policy.consent, profile, "collect") is not None

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

    def _remember(
        self, profile: Profile, event: Arrived, moment: Moment, version: int, out: Outputs
    ) -> None:
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
            hide(profile, event)
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
        out.changes += update_segments(
            profile,
            plan,
            moment,
            event.event_id,
            events=None if anew else event.names,
            attributes=stated,
        )
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

    def _attribute(self, profile: Profile, event: Arrived, out: Outputs) -> None:
        plan = self.plan
        may_learn = refusal(plan.policy.consent, profile, "learn") is None
        if event.type == "impression":
            impression(profile, event, plan=plan, may_learn=may_learn, out=out)
        elif event.mode != HISTORY and any(name in plan.rewards_of for name in event.names):
            reward(profile, event, plan=plan, may_learn=may_learn, out=out)

    def _decide(
        self, profile: Profile, event: Arrived, name: str, moment: Moment, shard: int, out: Outputs
    ) -> None:
        placement = self.plan.placements[name]
        identity = decision_id(
            shard=shard, profile_id=profile.profile_id, trigger_id=event.event_id, placement=name
        )
        recorded = self._adopt(identity)
        if recorded is None:
            variant = self._chooser.variant(profile)
            choice = self._chooser.choose(profile, event, placement, identity, variant, moment)
            record = decision_record(
                profile, event, placement, identity, variant, choice, moment.now_ms, self.plan
            )
            features = choice.features
        else:
            # The topic is the truth: what was recorded is taken over, whatever would be chosen
            # now under other parameters, so that state, topic and Redis name the same content.
            record = recorded
            features = pack_cells(self._chooser.cells_of(placement, profile, moment))
        out.decisions.append(Made(record, profile.version, recorded is not None, event.received_ms))
        self._await_outcome(profile, placement, record, features, moment.now_ms, out)

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
            stood={
                f.segment: (
                    number_of(self.plan.by_name[f.signal].value(profile.signals, now_ms)),
                    f.segment in profile.segments,
                )
                for f in self.plan.followings
            },
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
