"""Which decision led to this outcome, what is it worth, and what can be learned from it?

State: the profile's pending decisions. An impression makes its items shown and gives each one
negative example at once; a reward gives the positive one when it comes (fake negatives, so that
learning never waits for a window to close). When the window closes the books are written; that
gives no second example. Each reward kind counts once per item; what matches nothing is counted as
unattributed and never invented.
"""

from __future__ import annotations

from bisect import insort

from operators.aggregate import Seen
from operators.arrival import HISTORY, Arrived
from operators.ids import uniform
from operators.monitor_watch import closed
from operators.outputs import Example, Outputs
from operators.placement_plan import CompiledPlacement, event_factor
from operators.plan import Plan
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
    placement = plan.teaches(pending)
    fresh = [item for item in items if not item.shown_ms]
    if not fresh:
        return
    # One report for each item is still one slate.
    first = not any(item.shown_ms for item in pending.items)
    for item in fresh:
        item.nth = 1 + _seen_before(profile, item.content_id)
    for item in fresh:
        item.shown_ms = at_ms
        count_for_caps(profile, item.content_id, at_ms, plan)
        if plan.aggregated:
            tests = tuple(pending.tests.items())
            out.seen.append(Seen(pending.placement, item.content_id, at_ms, None, 0.0, tests))
    if first:
        count_placement(profile, pending.placement, at_ms, plan)
    out.facts["impressions", pending.placement, pending.variant or ""] += len(fresh)
    if placement is None or not (may_learn and _may_teach(pending, placement)):
        return
    share = placement.policy.model.negatives
    for item in fresh:
        if not item.learnable:
            continue
        # By a hash of the decision, not by chance: the same log gives the same examples.
        if share < 1.0 and uniform(f"{pending.decision_id}|{item.content_id}|negative") >= share:
            continue
        out.examples.append(
            Example(
                placement.model,
                item.content_id,
                pending.features,
                None,
                1.0 / share,
                at_ms,
            )
        )


def _may_teach(pending: Pending, placement: CompiledPlacement) -> bool:
    """Whether what follows of a decision is for the learner of this placement.

    Where a variant's own model is gone with its test, the placement's must not get the rewards
    alone of what the other one was told as unrewarded.
    """
    same = pending.model in ("", placement.model)
    return pending.learnable and same and bool(placement.heads)


def count_for_caps(profile: Profile, content_id: str, at_ms: int, plan: Plan) -> None:
    """Count one impression of a content, as far as any cap asks for it."""
    capping = plan.capping
    content = plan.contents.by_id.get(content_id)
    own = plan.contents.caps.get(content_id, ())
    keys = [f"c:{content_id}"] if capping.per_content or own else []
    if capping.per_tag and content is not None:
        keys += [f"t:{tag}" for tag in content.tags if tag not in plan.policy.sensitive.tags]
    longest_ms = max([capping.longest_ms, *(cap.within for cap in own)])
    _count(profile, keys, at_ms, longest_ms, max([capping.most, *(cap.max for cap in own)]))


def count_placement(profile: Profile, name: str, at_ms: int, plan: Plan) -> None:
    """Count one slate shown in a placement, as far as a cap asks for it or for its channel."""
    capping, placement = plan.capping, plan.policy.placements.get(name)
    keys = [f"p:{name}"] if name in capping.placements else []
    if placement is not None and placement.channel in capping.channels:
        keys.append(f"n:{placement.channel}")
    _count(profile, keys, at_ms, capping.longest_ms, capping.most)


def _count(profile: Profile, keys: list[str], at_ms: int, longest_ms: int, most: int) -> None:
    if not keys:
        return
    horizon = at_ms - longest_ms
    for key in keys:
        times = [t for t in profile.shown.get(key, ()) if t > horizon]
        insort(times, at_ms)
        # A cap of n asks for the n-th newest and no more, however hot the profile is.
        profile.shown[key] = times[-most:]
    if len(profile.shown) > _CAP_KEYS:
        # Placements and channels are few, and many contents must not make them forgotten.
        shown = profile.shown
        stalest = sorted(shown, key=lambda k: (k[0] in "pn", shown[k][-1], k))
        for key in stalest[:-_CAP_KEYS]:
            del shown[key]


def _seen_before(profile: Profile, content_id: str) -> int:
    """How often a profile was shown a content, as far as caps or open decisions know."""
    counted = len(profile.shown.get(f"c:{content_id}", ()))
    open_ = sum(
        item.content_id == content_id and item.shown_ms > 0
        for pending in profile.pending
        for item in pending.items
    )
    return max(counted, open_)


def impression(
    profile: Profile, event: Arrived, *, plan: Plan, may_learn: bool, out: Outputs
) -> None:
    """Match a reported impression with its decision; `contents` absent means all its items."""
    if event.mode == HISTORY:
        # The decision stayed where it was made; what was seen counts for the caps here too.
        for content_id in event.contents or ((event.content_id,) if event.content_id else ()):
            count_for_caps(profile, content_id, event.occurred_ms, plan)
        if event.placement is not None:
            count_placement(profile, event.placement, event.occurred_ms, plan)
        return
    pending = next((p for p in profile.pending if p.decision_id == event.decision_id), None)
    if pending is None:
        out.facts["impressions_unmatched",] += 1
        return
    named = event.contents
    if named is None and event.content_id:
        named = (event.content_id,)
    items = [i for i in pending.items if named is None or i.content_id in named]
    for item in items:
        if item.shown_ms == pending.decided_ms:
            # A reward that came first proved it, or it was assumed: now it is known when.
            item.shown_ms = max(item.shown_ms, event.occurred_ms)
    show(
        profile,
        pending,
        items,
        at_ms=event.occurred_ms,
        plan=plan,
        may_learn=may_learn,
        out=out,
    )


def reward(profile: Profile, event: Arrived, *, plan: Plan, may_learn: bool, out: Outputs) -> None:
    """Attribute an event to the item that led to it, for every reward kind it stands for.

    By `decision_id` where the event bears one, else to the last impression of that content whose
    window is open.
    """
    kinds = [kind for name in event.names for kind in plan.rewards_of.get(name, ())]
    content = plan.contents.by_id.get(event.content_id) if event.content_id else None
    for kind in dict.fromkeys(kinds):
        counts = plan.reward_filters[kind]
        if counts is not None and not counts(event, content):
            continue
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
        own = event_factor(placement.rewards[head], event.value)
        value *= own
        before = sum(other.rewards.get(kind, 0.0) for other in pending.items)
        item.rewards[kind] = value
        arm = pending.variant or ""
        out.facts["rewards", pending.placement, kind, arm] += 1
        out.facts["reward_value", pending.placement, kind, arm] += value
        if plan.aggregated:
            tests = tuple(pending.tests.items())
            out.seen.append(
                Seen(
                    pending.placement,
                    item.content_id,
                    event.occurred_ms,
                    kind,
                    value,
                    tests,
                    before,
                )
            )
        teaches = item.learnable and may_learn and _may_teach(pending, placement)
        if teaches and index is not None:
            out.examples.append(
                Example(
                    placement.model,
                    item.content_id,
                    pending.features,
                    kind,
                    1.0,
                    event.occurred_ms,
                    own,
                )
            )


def _match(
    profile: Profile, event: Arrived, kind: str, plan: Plan
) -> tuple[Pending, PendingItem, CompiledPlacement] | None:
    best: tuple[Pending, PendingItem, CompiledPlacement] | None = None
    for pending in profile.pending:
        placement = plan.teaches(pending)
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


def close_windows(profile: Profile, until_ms: int, *, plan: Plan, out: Outputs) -> None:
    """Write the books of every pending decision whose window ends by an instant."""
    if not any(pending.closes_ms <= until_ms for pending in profile.pending):
        return
    for pending in profile.pending:
        if pending.closes_ms <= until_ms:
            write_books(profile, pending, closed_ms=pending.closes_ms, plan=plan, out=out)
    profile.pending = [p for p in profile.pending if p.closes_ms > until_ms]


def write_books(
    profile: Profile, pending: Pending, *, closed_ms: int, plan: Plan, out: Outputs
) -> None:
    """Emit the outcome of one decision; kept whole where a threshold follows it."""
    if pending.stood:
        out.closed.append(pending)
    books = {
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
                "learnable": item.learnable,
                "shown": bool(item.shown_ms),
                "nth": item.nth,
                "rewards": item.rewards,
            }
            for item in pending.items
        ],
        "reward": sum((sum(item.rewards.values()) for item in pending.items), 0.0),
        "tests": pending.tests,
        "schema_version": SCHEMA_VERSION,
    }
    out.outcomes.append(books)
    if plan.monitored:
        watched = closed(
            pending,
            closed_ms=closed_ms,
            placement=plan.teaches(pending),
            index=plan.contents.index,
            explored={item.content_id: item.explored for item in pending.items},
        )
        out.watched.append(watched)
