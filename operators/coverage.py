"""Are there enough contents for everybody: in which placement is whose choice too small?

For each placement and segment it imagines a profile in that segment, in those that its condition
implies, and in no other, and counts the contents that would be eligible at an instant. A condition
that asks for more than segments can neither be affirmed nor denied of such a profile: contents that
hang on one are counted apart. Consent is taken to be granted for what personalising needs; what
tests change is left aside. State: none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from operators.rules import RULED_OUT, fits
from schemas.catalogue import Content
from schemas.check_catalogue import is_fit, qualifies
from schemas.conditions import AllOf, AnyOf, Condition, InSegment, NotOf
from schemas.placements import Placement
from schemas.policy import Policy
from schemas.rules import Rule
from schemas.time import to_millis

Truth = bool | None
"""After Kleene: None cannot be told."""
Segments = frozenset[str]

NOT_SCHEDULED: Final = "not_scheduled"
OUT_OF_STOCK: Final = "out_of_stock"
SENSITIVE: Final = "sensitive"
NOT_IN_AUDIENCE: Final = "not_in_audience"
_HOLDS: Final = "holds"
_UNTOLD: Final = "untold"
_NOWHERE: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Covered:
    """What one placement could show to those in one segment (None: to those in none).

    `holds` contents are eligible, of `untold` it hangs on what is not known here; `wanted` is how
    many there should be. `refused` counts the candidates that are out, by reason.
    """

    placement: str
    segment: str | None
    holds: int
    untold: int
    wanted: int
    refused: Mapping[str, int] = field(default_factory=dict)

    @property
    def short(self) -> bool:
        """Whether there may be too few."""
        return self.holds < self.wanted

    @property
    def surely_short(self) -> bool:
        """Whether there are too few even if everything untold holds."""
        return self.holds + self.untold < self.wanted


def coverage(
    policy: Policy, catalogue: Sequence[Content], *, at_ms: int, at_least: int = 3
) -> list[Covered]:
    """Placement by placement, what those in each segment and those in none could be shown.

    Wanted are as many contents as the placement has slots, and `at_least` more to choose from. Left
    out are placements whose candidates come with the request, and segments that a placement's
    `eligibility` shuts out. A placement at level 0 shows everybody the same: it has one line, with
    segment None, and there is nothing to choose.
    """
    found: list[Covered] = []
    imagined = [(None, _NOWHERE), *((name, implied(policy, name)) for name in policy.segments)]
    for name, placement in policy.placements.items():
        if placement.candidates.source == "request":
            continue
        rules = _rules_of(policy, name, placement, at_ms)
        refused, groups = _grouped(policy, name, placement, catalogue, rules, at_ms)
        wanted = placement.slots + (at_least if placement.level else 0)
        for segment, segments in imagined if placement.level else imagined[:1]:
            if placement.level and truth(placement.eligibility, segments) is False:
                continue
            sums = _counted(groups, rules, segments, personal=placement.level > 0)
            holds, untold = sums.pop(_HOLDS, 0), sums.pop(_UNTOLD, 0)
            found.append(Covered(name, segment, holds, untold, wanted, refused + sums))
    return found


def truth(condition: Condition | None, segments: Segments) -> Truth:
    """What can be told of a condition by memberships alone; absent: it holds."""
    match condition:
        case None:
            return True
        case AllOf():
            return _all(truth(part, segments) for part in condition.all)
        case AnyOf():
            return _not(_all(_not(truth(part, segments)) for part in condition.any))
        case NotOf():
            return _not(truth(condition.not_, segments))
        case InSegment():
            return condition.segment in segments
        case _:
            return None


def implied(policy: Policy, segment: str) -> Segments:
    """A segment with those that its condition cannot hold without."""
    found: set[str] = set()
    waiting = [segment]
    while waiting:
        if (name := waiting.pop()) not in found:
            found.add(name)
            waiting += _needed(policy.segments[name].when)
    return frozenset(found)


def _needed(condition: Condition) -> Iterator[str]:
    if isinstance(condition, InSegment):
        yield condition.segment
    elif isinstance(condition, AllOf):
        for part in condition.all:
            yield from _needed(part)


def _all(parts: Iterable[Truth]) -> Truth:
    seen = set(parts)
    return False if False in seen else None if None in seen else True


def _not(part: Truth) -> Truth:
    return None if part is None else not part


class _Group(NamedTuple):
    """What makes contents alike: their condition, whether consent is open, which rules fit them."""

    condition: Condition | None
    consent: Truth
    taken: tuple[bool, ...]


def _rules_of(policy: Policy, name: str, placement: Placement, at_ms: int) -> tuple[Rule, ...]:
    """The rules that may narrow the candidates of a placement at an instant."""
    if placement.never_personalised:
        return ()
    return tuple(
        rule
        for rule in policy.rules.values()
        if (rule.only is not None or rule.exclude is not None)
        and (rule.placements is None or name in rule.placements)
        # At level 0 nothing is asked of the person.
        and (rule.when is None or placement.level > 0)
        and (rule.valid_from is None or to_millis(rule.valid_from) <= at_ms)
        and (rule.valid_until is None or at_ms < to_millis(rule.valid_until))
    )


def _grouped(
    policy: Policy,
    name: str,
    placement: Placement,
    catalogue: Sequence[Content],
    rules: Sequence[Rule],
    at_ms: int,
) -> tuple[Counter[str], list[tuple[_Group, int]]]:
    """How many are refused whoever asks, and how many of the others are alike."""
    granted = {None, policy.consent.collect, policy.consent.personalise}
    refused: Counter[str] = Counter()
    alike: dict[tuple[str, Truth, tuple[bool, ...]], tuple[_Group, int]] = {}
    # At level 0 the fallback answers, and it may name what is no candidate.
    editorial = () if placement.level else placement.fallback.contents
    for content in catalogue:
        if not qualifies(content, name, placement) and content.content_id not in editorial:
            continue
        if not _in_season(content, at_ms):
            refused[NOT_SCHEDULED] += 1
        elif content.stock is not None and content.stock <= 0:
            refused[OUT_OF_STOCK] += 1
        elif not is_fit(content, placement):
            refused[SENSITIVE] += 1
        else:
            known = content.asks_consent is None and content.needs_consent in granted
            group = _Group(
                content.eligibility,
                True if known else None,
                tuple(_takes_away(rule, content) for rule in rules),
            )
            asked = content.eligibility
            key = ("" if asked is None else asked.model_dump_json(), *group[1:])
            alike[key] = group, alike.get(key, (group, 0))[1] + 1
    return refused, list(alike.values())


def _in_season(content: Content, at_ms: int) -> bool:
    begun = content.valid_from is None or to_millis(content.valid_from) <= at_ms
    return begun and (content.valid_until is None or at_ms < to_millis(content.valid_until))


def _takes_away(rule: Rule, content: Content) -> bool:
    """Whether a rule, where it is in force, takes a content from the candidates."""
    kept = rule.only is None or fits(rule.only, content)
    return not kept or (rule.exclude is not None and fits(rule.exclude, content))


def _counted(
    groups: Iterable[tuple[_Group, int]],
    rules: Sequence[Rule],
    segments: Segments,
    *,
    personal: bool,
) -> Counter[str]:
    """How many contents are eligible, untold, or refused and why."""
    in_force = [truth(rule.when, segments) for rule in rules]
    sums: Counter[str] = Counter()
    for group, number in groups:
        holds = truth(group.condition, segments)
        if not personal and group.condition is not None:
            holds = False  # nothing is asked of the person, so what asks is not shown
        ruled = _all(_not(held) for held, taken in zip(in_force, group.taken, strict=True) if taken)
        if holds is False:
            sums[NOT_IN_AUDIENCE] += number
        elif ruled is False:
            sums[RULED_OUT] += number
        else:
            told = _all((holds, ruled, group.consent))
            sums[_HOLDS if told else _UNTOLD] += number
    return sums
