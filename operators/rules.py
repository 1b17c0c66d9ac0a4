"""What do people's rules do to the candidates of a decision, before the draw?

A rule is in force while its condition holds (what is unknown does not) and its dates last. Those in
force apply in the order of the policy:

- `only` and `exclude` narrow the candidates, one rule after the other: what one has taken away no
  other brings back, and it is neither forced nor pinned.
- `boost` and `bury` multiply; of several rules the product counts.
- `pin` puts a content at its rank, `force` at the first rank that is free: within one rule the pins
  first. The first rule to ask for a rank has it, and a content stands where the first rule put it.
  What is not eligible is passed over, and so is a rank that the slate does not have.
- one rule with `explore: false` is enough.

Nothing here draws or scores. State: none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from operators.conditions import Compiler
from operators.contents import Contents, Flags
from operators.moment import Moment
from operators.profile import Profile
from operators.score import Indices, Scores
from operators.verdicts import Evaluate
from schemas.catalogue import Content
from schemas.policy import Policy
from schemas.rules import Rule, Select
from schemas.time import to_millis

RULED_OUT: Final = "ruled_out"
"""The rejection of what `only` or `exclude` took away."""
FORCE: Final = -1
"""The rank of what goes to the first free one."""
_ALWAYS: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """A rule ready to apply; flags and factors are over the whole catalogue, times are ms.

    `fixed` holds (rank from 0 or `FORCE`, position in the catalogue), the pins first; `factor` is 1
    where the rule weighs nothing.
    """

    name: str
    placements: frozenset[str] | None
    evaluate: Evaluate | None
    from_ms: int
    until_ms: int
    only: Flags | None
    exclude: Flags | None
    factor: Scores | None
    fixed: tuple[tuple[int, int], ...]
    explore: bool
    reason: str | None

    def in_force(self, profile: Profile, moment: Moment) -> bool:
        """Whether it applies to a decision on this profile at this moment."""
        if not self.from_ms <= moment.now_ms < self.until_ms:
            return False
        return self.evaluate is None or self.evaluate(profile, moment).holds is True


class Guidance(NamedTuple):
    """What the rules make of the candidates.

    `positions` are those left (positions in the catalogue), `factors` their weights (None: all 1),
    `fixed` maps a rank (from 0) to an index into `positions`, `names` are the rules that changed
    anything, `reasons` the reason templates of what was put in place, by index into `positions`.
    """

    positions: Indices
    rejections: dict[str, int]
    factors: Scores | None
    fixed: dict[int, int]
    explore: bool
    names: list[str]
    reasons: dict[int, str]


def compile_rules(
    policy: Policy, contents: Contents, compiler: Compiler
) -> tuple[CompiledRule, ...]:
    """The rules of a policy in its order, for one catalogue.

    Contents that the catalogue does not have are passed over; a signal that is not declared raises
    KeyError. Conditions are compiled with the policy's others, so that what they count is kept.
    """
    return tuple(_compile(name, rule, contents, compiler) for name, rule in policy.rules.items())


def _compile(name: str, rule: Rule, contents: Contents, compiler: Compiler) -> CompiledRule:
    factor: Scores | None = None
    for weigh, up in ((rule.boost, True), (rule.bury, False)):
        if weigh is not None:
            factor = np.ones(len(contents.ids)) if factor is None else factor
            factor[selected(weigh, contents)] *= weigh.by if up else 1.0 / weigh.by
    asked = [(pin.rank - 1, pin.content) for pin in rule.pin]
    asked += [(FORCE, content_id) for content_id in rule.force]
    return CompiledRule(
        name=name,
        placements=None if rule.placements is None else frozenset(rule.placements),
        evaluate=None if rule.when is None else compiler.compile(rule.when),
        from_ms=-_ALWAYS if rule.valid_from is None else to_millis(rule.valid_from),
        until_ms=_ALWAYS if rule.valid_until is None else to_millis(rule.valid_until),
        only=None if rule.only is None else selected(rule.only, contents),
        exclude=None if rule.exclude is None else selected(rule.exclude, contents),
        factor=factor,
        fixed=tuple((rank, contents.index[c]) for rank, c in asked if c in contents.index),
        explore=rule.explore,
        reason=rule.reason,
    )


def selected(select: Select, contents: Contents) -> Flags:
    """Which contents of the catalogue fit any of what is named, shape (contents,)."""
    return np.array([fits(select, contents.by_id[c]) for c in contents.ids], np.bool_)


def fits(select: Select, content: Content) -> bool:
    """Whether a content fits any of what is named."""
    if content.content_id in select.contents or content.type in select.types:
        return True
    return not set(select.tags).isdisjoint(content.tags) or any(
        # By class too: True equals 1 and is another value.
        content.attributes.get(name) == value
        and isinstance(content.attributes[name], bool) is isinstance(value, bool)
        for name, value in select.attributes.items()
    )


def rules_of(
    rules: Iterable[CompiledRule], placement: str, among: Collection[str] | None = None
) -> tuple[CompiledRule, ...]:
    """The rules of a placement, in order; `among`: of these names only (what a variant allows)."""
    return tuple(
        rule
        for rule in rules
        if (rule.placements is None or placement in rule.placements)
        and (among is None or rule.name in among)
    )


def guide(
    rules: Sequence[CompiledRule],
    profile: Profile,
    moment: Moment,
    positions: Indices,
    slots: int,
) -> Guidance:
    """What the rules in force make of these eligible candidates (positions in the catalogue)."""
    applied = [rule for rule in rules if rule.in_force(profile, moment)]
    if not applied:
        return Guidance(positions, {}, None, {}, True, [], {})
    names: set[str] = set()
    left = positions
    for rule in applied:
        for flags, keep in ((rule.only, True), (rule.exclude, False)):
            if flags is not None:
                kept = left[flags[left] if keep else ~flags[left]]
                if len(kept) < len(left):
                    names.add(rule.name)
                left = kept
    refused = len(positions) - len(left)
    factors: Scores | None = None
    for rule in applied:
        if rule.factor is not None and (own := rule.factor[left]).size and (own != 1.0).any():
            factors = own if factors is None else np.clip(factors * own, 1e-12, 1e12)
            names.add(rule.name)
    fixed, reasons = _placed(applied, left, min(slots, len(left)), names)
    names.update(rule.name for rule in applied if not rule.explore)
    return Guidance(
        left,
        {RULED_OUT: refused} if refused else {},
        factors,
        fixed,
        all(rule.explore for rule in applied),
        [rule.name for rule in applied if rule.name in names],
        reasons,
    )


def _placed(
    rules: Iterable[CompiledRule], positions: Indices, slots: int, names: set[str]
) -> tuple[dict[int, int], dict[int, str]]:
    """What stands at which rank, and the reasons of it; rules that put anything are named."""
    fixed: dict[int, int] = {}
    reasons: dict[int, str] = {}
    index: dict[int, int] | None = None
    for rule in rules:
        if rule.fixed and index is None:
            index = {int(position): i for i, position in enumerate(positions)}
        for asked, position in rule.fixed:
            at = index.get(position) if index is not None else None
            if at is None or at in fixed.values():
                continue
            rank = asked
            if rank == FORCE:
                rank = next((r for r in range(slots) if r not in fixed), slots)
            if rank >= slots or rank in fixed:
                continue
            fixed[rank] = at
            names.add(rule.name)
            if rule.reason is not None:
                reasons[at] = rule.reason
    return fixed, reasons


def weigh(scores: Scores | None, factors: Scores | None) -> Scores | None:
    """Scores with the rules' factors; a factor above 1 raises a negative score too.

    Without scores the factors themselves order the candidates; None where there is neither.
    """
    if factors is None or scores is None:
        return scores if factors is None else factors
    return scores + np.abs(scores) * (factors - 1.0)
