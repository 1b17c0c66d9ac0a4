"""What is added up of one placement between two reports?

State: counts and exact sums, so that the order in which shards hand on what is watched changes
nothing. Bounded: by content (those of the catalogue), by group (`VALUES` each), by a sample of
tests.
"""

from __future__ import annotations

from bisect import insort
from typing import Final

import msgspec

from operators.ids import hash64
from operators.monitor_figures import Cost, Sums
from operators.monitor_tests import ScoreTest, try_score
from operators.monitor_watch import PERSONALISED, Closed, ClosedItem, Decided, group_value
from operators.plan import Plan
from schemas.guidance import Group, Monitoring

OTHER: Final = "other"
VALUES: Final = 256
"""Values of one group that are counted apart."""
_NAMES: Final = 64
_NTH: Final = ("", "1", "2", "3", "4-5", "4-5")
MANY: Final = "6+"


class GroupCount(msgspec.Struct, array_like=True):
    """Of a group of profiles: decisions, personalised ones, seen ones, rewarded ones.

    Of a group of contents: items decided on (twice), items shown, items rewarded.
    """

    chosen: int = 0
    exposed: int = 0
    seen: int = 0
    rewarded: int = 0

    def take(self, other: GroupCount) -> None:
        """Add what another group counted."""
        self.chosen += other.chosen
        self.exposed += other.exposed
        self.seen += other.seen
        self.rewarded += other.rewarded


class Window(msgspec.Struct, array_like=True):
    """The counts of one period, from `begins_ms` to before `ends_ms` of event time.

    `answers` counts decisions by the reason of their fallback (`personalised`, `empty`), `draws`
    items by how they were drawn; `rewards` is of seen decisions, `item_rewards` of shown items;
    `predicted` and `observed` of shown items with a score.
    """

    begins_ms: int
    ends_ms: int
    decisions: int = 0
    answers: dict[str, int] = msgspec.field(default_factory=dict)
    candidates: int = 0
    contents: dict[str, int] = msgspec.field(default_factory=dict)
    draws: dict[str, int] = msgspec.field(default_factory=dict)
    repeated: int = 0
    repeatable: int = 0
    books: int = 0
    rewards: Sums = msgspec.field(default_factory=Sums)
    item_rewards: Sums = msgspec.field(default_factory=Sums)
    kinds: dict[str, Sums] = msgspec.field(default_factory=dict)
    arms: dict[str, Sums] = msgspec.field(default_factory=dict)
    predicted: Sums = msgspec.field(default_factory=Sums)
    observed: Sums = msgspec.field(default_factory=Sums)
    cost: Cost = msgspec.field(default_factory=Cost)
    fatigue: dict[str, tuple[int, int]] = msgspec.field(default_factory=dict)
    groups: dict[str, dict[str, GroupCount]] = msgspec.field(default_factory=dict)
    tests: list[ScoreTest] = msgspec.field(default_factory=list)


class Counting:
    """How what is watched is counted under one plan.

    `unit` is the most that one reward of the placement is usually worth.
    """

    def __init__(self, plan: Plan, placement: str) -> None:
        self._contents = plan.contents.by_id
        self._groups = monitoring_of(plan).groups
        self._of_profiles = {name for name, g in self._groups.items() if g.of == "profile"}
        self._by_content: dict[str, list[tuple[str, str]]] = {}
        # By the end of a period and group, once it has too many values: these by their hashes.
        self._ranked: dict[int, dict[str, list[tuple[int, str]]]] = {}
        self.unit = _unit(plan, placement)

    def decided(self, window: Window, decided: Decided) -> None:
        """Count one decision."""
        _, _, _, items, fallback, candidates, follows, groups = decided
        window.decisions += 1
        window.candidates += candidates
        _count(window.answers, fallback or (PERSONALISED if items else "empty"))
        contents, draws = window.contents, window.draws
        for content_id, _, _, draw, repeated in items:
            name = content_id if content_id in self._contents else OTHER
            contents[name] = contents.get(name, 0) + 1
            _count(draws, draw)
            if follows:
                window.repeatable += 1
                window.repeated += repeated
            for group, value in self._of_content(content_id):
                held = self._held(window, group, value)
                held.chosen += 1
                held.exposed += 1
        for group, value in groups.items():
            if group in self._of_profiles:
                held = self._held(window, group, value)
                held.chosen += 1
                held.exposed += fallback is None

    def closed(self, window: Window, closed: Closed) -> None:
        """Count one decision's books; what was never shown tells nothing."""
        window.books += 1
        identity = f"{closed.decided_ms}|{closed.closed_ms}|"
        total, seen = 0.0, False
        for i, item in enumerate(closed.items):
            if not item.shown:
                continue
            seen = True
            reward = sum(sorted(item.rewards.values())) if item.rewards else 0.0
            total += reward
            self._shown(window, item, reward)
            if item.score is not None:
                self._test(window, f"{identity}{i}|", item, reward)
        if not seen:
            return
        window.rewards.add(total)
        _sums(window.arms, closed.arm).add(total)
        for group, value in closed.groups.items():
            if group in self._of_profiles:
                held = self._held(window, group, value)
                held.seen += 1
                held.rewarded += total > 0.0

    def _shown(self, window: Window, item: ClosedItem, reward: float) -> None:
        rewarded = reward > 0.0
        window.item_rewards.add(reward)
        for kind, worth in item.rewards.items():
            _sums(window.kinds, kind).add(worth)
        nth = item.nth
        if nth > 0:
            name = _NTH[nth] if nth < len(_NTH) else MANY
            shown, paid = window.fatigue.get(name, (0, 0))
            window.fatigue[name] = shown + 1, paid + rewarded
        for group, value in self._of_content(item.content_id):
            held = self._held(window, group, value)
            held.seen += 1
            held.rewarded += rewarded

    def _test(self, window: Window, identity: str, item: ClosedItem, reward: float) -> None:
        content_id, _, nth, propensity, score, chance, _, explored = item
        assert score is not None  # what has none is no test
        window.predicted.add(score)
        window.observed.add(reward)
        if explored is not None:
            window.cost.add(reward, propensity, greedy=not explored)
        unit = self.unit
        identity = f"{identity}{content_id}|{nth}"
        try_score(window.tests, identity, score / unit, chance, reward / unit)

    def _held(self, window: Window, group: str, value: str) -> GroupCount:
        """What a value of a group is counted in.

        Of too many values the ones with the lowest hashes are held apart, whatever came first.
        """
        try:  # nearly always
            return window.groups[group][value]
        except KeyError:
            values = window.groups.setdefault(group, {})
        if value == OTHER or len(values) < VALUES + (OTHER in values):
            held = values[value] = GroupCount()
            return held
        ranked = self._ranked.setdefault(window.ends_ms, {})
        ranks = ranked.get(group)
        if ranks is None:
            ranks = ranked[group] = sorted((hash64(v), v) for v in values if v != OTHER)
        rank = hash64(value), value
        if rank > ranks[-1]:
            return values.setdefault(OTHER, GroupCount())
        insort(ranks, rank)
        held = values[value] = GroupCount()
        gone = values.pop(ranks.pop()[1])
        values.setdefault(OTHER, GroupCount()).take(gone)
        return held

    def told(self, window: Window) -> None:
        """Forget how a period was counted that is over."""
        self._ranked.pop(window.ends_ms, None)

    def _of_content(self, content_id: str) -> list[tuple[str, str]]:
        found = self._by_content.get(content_id)
        if found is None:
            content = self._contents.get(content_id)
            if content is None:
                return []
            found = self._by_content[content_id] = [
                (name, value)
                for name, group in self._groups.items()
                if (value := value_of(content.attributes, group)) is not None
            ]
        return found


def monitoring_of(plan: Plan) -> Monitoring:
    """What is asked to be watched; where a policy says nothing of it, the defaults."""
    return plan.policy.monitoring or Monitoring()


def value_of(attributes: dict[str, str | float | bool], group: Group) -> str | None:
    """A content's value of a group; None where it has none, or the group is of profiles."""
    value = attributes.get(group.attribute) if group.of == "content" else None
    return None if value is None else group_value(value)


def _unit(plan: Plan, placement: str) -> float:
    compiled = plan.placements[placement]
    unit = 0.0
    for reward, values in zip(compiled.rewards, compiled.values, strict=True):
        most = reward.at_most if reward.times == "value" and reward.at_most is not None else 1.0
        pool = abs(values[compiled.pool])
        unit = max(unit, float(pool.max(initial=0.0)) * most)
    return unit or 1.0


def _count(counts: dict[str, int], name: str) -> None:
    if name in counts:
        counts[name] += 1
        return
    if len(counts) >= _NAMES:
        name = OTHER
    counts[name] = counts.get(name, 0) + 1


def _sums(named: dict[str, Sums], name: str) -> Sums:
    held = named.get(name)
    if held is not None:
        return held
    if len(named) >= _NAMES:
        name = OTHER
    return named.setdefault(name, Sums())
