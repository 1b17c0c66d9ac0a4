"""One decision from trigger to state: which triggers there are, the choice, its record, the wait.

A trigger is a request, an event of a type that a placement names, or entering or leaving a segment
(by an event or by time alone). The choice is `operators.choose`'s; here it becomes a record, and
what must be remembered until its outcome is known. A decision that the topic has already is adopted
instead of made again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

from operators.aggregate import Seen
from operators.aggregate_quota import Quota
from operators.arrival import Arrived
from operators.attribute import show, write_books
from operators.choose import Chooser
from operators.coherence import turned
from operators.consent import refusal
from operators.filters import number_of
from operators.ids import decision_id
from operators.moment import NOTHING, Moment
from operators.monitor_watch import decided, group_value, says_explored
from operators.outputs import Made, Outputs, Record
from operators.placement_plan import CompiledPlacement
from operators.plan import Plan
from operators.profile import Pending, PendingItem, Profile
from operators.records import decision_record
from operators.scoring import pack_cells
from operators.segments import change_id
from schemas.time import to_millis

Adopt = Callable[[str], Record | None]
"""The recorded decision of an id, where the topic already has one."""


class Deciding:
    """Makes decisions under one plan."""

    def __init__(self, plan: Plan, chooser: Chooser, *, adopt: Adopt) -> None:
        self._plan = plan
        self._chooser = chooser
        self._adopt = adopt

    def by_event(self, event: Arrived, *, refused: bool) -> Iterator[tuple[Arrived, str]]:
        """(trigger, placement) of an event itself."""
        if event.type == "decision_requested" and event.placement is not None:
            yield event, event.placement
        if not refused:
            for name in self._plan.triggered_by.get(event.type, ()):
                yield event, name

    def by_change(
        self, changes: Iterable[Record], like: Arrived | None, profile: Profile
    ) -> Iterator[tuple[Arrived, str]]:
        """(trigger, placement) of changes of segments; `like` is the event that caused them."""
        for change in changes:
            for name in self._plan.on_change.get((change["direction"], change["segment"]), ()):
                yield _changed(change, like, profile), name

    def decide(
        self,
        profile: Profile,
        event: Arrived,
        name: str,
        moment: Moment,
        *,
        shard: int,
        out: Outputs,
        quota: Quota | None = None,
    ) -> None:
        """Decide for one trigger in one placement, and remember what its outcome needs."""
        plan = self._plan
        identity = decision_id(
            shard=shard, profile_id=profile.profile_id, trigger_id=event.event_id, placement=name
        )
        variant = self._chooser.variant(profile)
        recorded = self._adopt(identity)
        if recorded is None:
            assigned = [] if variant == "holdout" else self._chooser.assigned(profile, name, moment)
            placement = plan.arm(name, assigned)
            choice = self._chooser.choose(
                profile, event, placement, identity, variant, moment, quota=quota
            )
            record = decision_record(
                profile, event, placement, identity, variant, assigned, choice, moment, plan
            )
            features, teaches = choice.features, choice.teaches
        else:
            # The topic is the truth: what was recorded is taken over, whatever would be chosen
            # now under other parameters, so that state, topic and Redis name the same content. So
            # are the variants: shares may have moved since.
            record = recorded
            placement = plan.arm(name, plan.exposed(recorded.get("exposures", ())))
            features = b""
            if recorded["learnable"]:
                level = recorded["level"]
                features = pack_cells(self._chooser.cells_of(placement, profile, moment, level))
            teaches = bool(placement.heads) and placement.policy.learning != "logging_only"
        explored = {
            item["content_id"]
            for item in record["items"]
            if record["explored"] and says_explored(item)
        }
        out.decisions.append(Made(record, profile.version, recorded is not None, event.received_ms))
        groups = self._groups(profile)
        if plan.monitored:
            before = profile.last.get(name, ("", []))[1]
            out.watched.append(
                decided(record, groups, at_ms=moment.now_ms, last=before, explored=explored)
            )
        if plan.aggregated:
            tests = tuple((e["test"], e["variant"]) for e in record.get("exposures", ()))
            if tests:
                out.seen.append(Seen(name, "", moment.now_ms, tests=tests))
        if quota is not None:
            for item in record["items"]:
                quota.take(item["content_id"], moment.now_ms)
        self._await_outcome(
            profile, placement, record, features, teaches, explored, groups, moment, out
        )

    def is_recorded(self, event: Arrived, *, shard: int) -> bool:
        """Whether the topic already has a decision that this event triggered."""
        triggers = [(event.event_id, name) for _, name in self.by_event(event, refused=False)]
        for (direction, segment), names in self._plan.on_change.items():
            cause = change_id(
                event.profile_id, segment, event.event_id, direction, event.occurred_ms
            )
            triggers += [(cause, name) for name in names]
        return any(
            self._adopt(
                decision_id(
                    shard=shard,
                    profile_id=event.profile_id,
                    trigger_id=trigger,
                    placement=name,
                )
            )
            is not None
            for trigger, name in triggers
        )

    def _groups(self, profile: Profile) -> dict[str, str]:
        found = {}
        for name, attribute in self._plan.profile_groups:
            value = profile.attributes.get(attribute)
            if value is not None:
                found[name] = group_value(value)
        return found

    def _await_outcome(
        self,
        profile: Profile,
        placement: CompiledPlacement,
        record: Record,
        features: bytes,
        teaches: bool,
        explored: set[str],
        groups: dict[str, str],
        moment: Moment,
        out: Outputs,
    ) -> None:
        plan, now_ms = self._plan, moment.now_ms
        consent = plan.policy.consent
        policy = placement.policy
        assumed = policy.impressions == "assumed"
        shown = [item["content_id"] for item in record["items"]]
        refused = refusal(consent, profile, "collect")
        if plan.contents.asks:
            plan.prompts.book(profile, shown, now_ms)
        if refused or not shown:
            return
        name = placement.name
        if policy.coherence is not None:
            turned(profile, name, policy.coherence, shown, now_ms)
        profile.last[name] = (record["decision_id"], shown)
        if plan.timed_last:
            profile.last_ms[name] = now_ms
        pending = Pending(
            decision_id=record["decision_id"],
            placement=name,
            decided_ms=now_ms,
            closes_ms=now_ms + placement.attribution_ms + (0 if assumed else policy.expires_after),
            learnable=record["learnable"] and bool(placement.heads),
            variant=record["experiment"]["variant"] if record["experiment"] else None,
            slate_propensity=record["slate_propensity"],
            features=features if record["learnable"] and teaches else b"",
            items=[
                PendingItem(
                    item["content_id"],
                    item["rank"],
                    item["propensity"],
                    learnable=item.get("learnable", True) and teaches,
                    score=item["score"],
                    explored=item["content_id"] in explored,
                )
                for item in record["items"]
            ],
            stood={
                f.segment: (
                    number_of(plan.by_name[f.signal].value(profile.signals, now_ms)),
                    f.segment in profile.segments,
                )
                for f in plan.followings
            },
            model=placement.model,
            tests={e["test"]: e["variant"] for e in record.get("exposures", ())},
            groups=groups,
        )
        profile.pending.append(pending)
        if len(profile.pending) > plan.policy.retention.pending:
            write_books(profile, profile.pending.pop(0), closed_ms=now_ms, plan=plan, out=out)
            out.facts["pending_evicted",] += 1
        if assumed:
            show(
                profile,
                pending,
                pending.items,
                at_ms=now_ms,
                plan=plan,
                may_learn=refusal(consent, profile, "learn") is None,
                out=out,
            )


def _changed(change: Record, like: Arrived | None, profile: Profile) -> Arrived:
    """The trigger that a change of segments is."""
    at_ms = to_millis(datetime.fromisoformat(change["changed_at"]))
    return Arrived(
        event_id=change["change_id"],
        profile_id=profile.profile_id,
        type=f"segment_{change['direction']}",
        occurred_ms=at_ms,
        received_ms=at_ms if like is None else like.received_ms,
        watermark_ms=at_ms if like is None else like.watermark_ms,
        partition=0 if like is None else like.partition,
        content_id=None,
        placement=None,
        decision_id=None,
        session_id=None if like is None else like.session_id,
        value=None,
        context=dict(NOTHING) if like is None else like.context,
        properties={},
        candidates=None,
        slots=None,
        contents=None,
        feedback=None,
        tag=None,
        attributes=None,
        consent=None,
    )
