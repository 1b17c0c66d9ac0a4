"""Which decision led to this outcome, what is it worth, and what can be learned from it?

State: the profile's pending decisions. An impression makes its items shown and gives each one
negative example at once; a reward gives the positive one when it comes (fake negatives, so that
learning never waits for a window to close). When the window closes the books are written; that
gives no second example. Each reward kind counts once per item; what matches nothing is counted as
unattributed and never invented.
"""

from __future__ import annotations

from bisect import insort

from operators.arrival import HISTORY, Arrived
from operators.ids import uniform
from operators.outputs import Example, Outputs
from operators.plan import CompiledPlacement, Plan
from operators.profile import Pending, PendingItem, Profile
from schemas.decisions import SCHEMA_VERSION
from schemas.time import rfc3339

_CAP_KEYS = 128


def show(
    profile: Profile,
    pending: Pending,
    items: list[PendingItem],
    *,
    at_ms: int,
    plan: Plan,
    may_learn: bool,
    out: Outputs,
) -> None:
    """Book items as shown: for caps, for attribution, and as negative examples."""
    placement = plan.placements.get(pending.placement)
    fresh = [item for item in items if not item.shown_ms]
    for item in fresh:
        item.shown_ms = at_ms
        count_for_caps(profile, item.content_id, at_ms, plan)
    if not fresh:
        return
    out.facts["impressions", pending.placement, pending.variant or ""] += len(fresh)
    if placement is None or not (pending.learnable and may_learn and placement.heads):
        return
    share = placement.policy.model.negatives
    for item in fresh:
        # By a hash of the decision, not by chance: the same log gives the same examples.
        if share < 1.0 and uniform(f"{pending.decision_id}|{item.content_id}|negative") >= share:
            continue
        out.examples.append(
            Example(pending.placement, item.content_id, pending.features, None, 1.0 / share, at_ms)
        )


def count_for_caps(profile: Profile, content_id: str, at_ms: int, plan: Plan) -> None:
    """Count one impression of a content, as far as any cap asks for it."""
    capping = plan.capping
    content = plan.contents.by_id.get(content_id)
    own = plan.contents.caps.get(content_id, ())
    keys = [f"c:{content_id}"] if capping.per_content or own else []
    if capping.per_tag and content is not None:
        keys += [f"t:{tag}" for tag in content.tags if tag not in plan.policy.sensitive.tags]
    if not keys:
        return
    horizon = at_ms - max([capping.longest_ms, *(cap.within for cap in own)])
    most = max([capping.most, *(cap.max for cap in own)])
    for key in keys:
        times = [t for t in profile.shown.get(key, ()) if t > horizon]
        insort(times, at_ms)
        # A cap of n asks for the n-th newest and no more, however hot the profile is.
        profile.shown[key] = times[-most:]
    if len(profile.shown) > _CAP_KEYS:
        for stalest in sorted(profile.shown, key=lambda k: (profile.shown[k][-1], k))[:-_CAP_KEYS]:
            del profile.shown[stalest]


def impression(
    profile: Profile, event: Arrived, *, plan: Plan, may_learn: bool, out: Outputs
) -> None:
    """Match a reported impression with its decision; `contents` absent means all its items."""
    pending = next((p for p in profile.pending if p.decision_id == event.decision_id), None)
    if event.mode == HISTORY:
        # The decision stayed where it was made; what was seen counts for the caps here too.
        for content_id in event.contents or ((event.content_id,) if event.content_id else ()):
            count_for_caps(profile, content_id, event.occurred_ms, plan)
        return
    if pending is None:
        out.facts["impressions_unmatched",] += 1
        return
    named = event.contents
    if named is None and event.content_id:
        named = (event.content_id,)
    items = [i for i in pending.items if named is None or i.content_id in named]
    show(profile, pending, items, at_ms=event.occurred_ms, plan=plan, may_learn=may_learn, out=out)


def reward(profile: Profile, event: Arrived, *, plan: Plan, may_learn: bool, out: Outputs) -> None:
    """Attribute an event to the item that led to it, for every reward kind it stands for.

    By `decision_id` where the event bears one, else to the last impression of that content whose
    window is open.
    """
    kinds = [kind for name in event.names for kind in plan.rewards_of.get(name, ())]
    for kind in dict.fromkeys(kinds):
        found = _match(profile, event, kind, plan)
        if found is None:
            out.facts["unattributed", kind] += 1
            continue
        pending, item, placement = found
        if kind in item.rewards:
            out.facts["repeated", kind] += 1
            continue
        if not item.shown_ms:
            # A reward proves the impression that was never reported.
            show(
                profile,
                pending,
                [item],
                at_ms=pending.decided_ms,
                plan=plan,
                may_learn=may_learn,
                out=out,
            )
        head = placement.heads.index(kind)
        index = plan.contents.index.get(item.content_id)
        value = (
            float(placement.values[head, index])
            if index is not None
            else placement.rewards[head].value
        )
        item.rewards[kind] = value
        arm = pending.variant or ""
        out.facts["rewards", pending.placement, kind, arm] += 1
        out.facts["reward_value", pending.placement, kind, arm] += value
        if pending.learnable and may_learn and index is not None:
            out.examples.append(
                Example(
                    pending.placement,
                    item.content_id,
                    pending.features,
                    kind,
                    1.0,
                    event.occurred_ms,
                )
            )


def _match(
    profile: Profile, event: Arrived, kind: str, plan: Plan
) -> tuple[Pending, PendingItem, CompiledPlacement] | None:
    best: tuple[Pending, PendingItem, CompiledPlacement] | None = None
    for pending in profile.pending:
        placement = plan.placements.get(pending.placement)
        if placement is None or kind not in placement.heads:
            continue
        within = plan.policy.rewards[kind].within
        named = event.decision_id == pending.decision_id
        if not named and event.decision_id is not None:
            continue
        for item in pending.items:
            if event.content_id is None:
                if not named or len(pending.items) > 1:
                    continue
            elif item.content_id != event.content_id:
                continue
            if not (named or item.shown_ms):
                continue
            since = item.shown_ms or pending.decided_ms
            # A beacon may be dated after the click (an item counts as seen after a second).
            first = pending.decided_ms if named else since
            if not first <= event.occurred_ms <= since + within:
                continue
            if named:
                return pending, item, placement
            if best is None or since >= (best[1].shown_ms or best[0].decided_ms):
                best = (pending, item, placement)
    return best


def close_windows(profile: Profile, until_ms: int, *, out: Outputs) -> None:
    """Write the books of every pending decision whose window ends by an instant."""
    if not any(pending.closes_ms <= until_ms for pending in profile.pending):
        return
    for pending in profile.pending:
        if pending.closes_ms <= until_ms:
            write_books(profile, pending, closed_ms=pending.closes_ms, out=out)
    profile.pending = [p for p in profile.pending if p.closes_ms > until_ms]


def write_books(profile: Profile, pending: Pending, *, closed_ms: int, out: Outputs) -> None:
    """Emit the outcome of one decision; kept whole where a threshold follows it."""
    if pending.stood:
        out.closed.append(pending)
    out.outcomes.append(
        {
            "decision_id": pending.decision_id,
            "profile_id": profile.profile_id,
            "placement": pending.placement,
            "decided_at": rfc3339(pending.decided_ms),
            "closed_at": rfc3339(closed_ms),
            "learnable": pending.learnable,
            "variant": pending.variant,
            "slate_propensity": pending.slate_propensity,
            "items": [
                {
                    "content_id": item.content_id,
                    "rank": item.rank,
                    "propensity": item.propensity,
                    "shown": bool(item.shown_ms),
                    "rewards": item.rewards,
                }
                for item in pending.items
            ],
            "reward": sum((sum(item.rewards.values()) for item in pending.items), 0.0),
            "schema_version": SCHEMA_VERSION,
        }
    )
