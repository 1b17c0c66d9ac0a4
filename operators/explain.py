"""Why does a condition hold, or not, in words that a person may read?

A rule is a condition compiled together with its words and with what each of its leaves looks at.
Texts are made once, values are read when a change is emitted or a view is made, never before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from operators.calendar import clock_text
from operators.conditions import INTENT, Compiler
from operators.leaves import moving_leaf, zone_for
from operators.moment import Moment
from operators.profile import Profile
from operators.verdicts import Evaluate, all_of, any_of, negation
from operators.wording import leaf_text
from schemas.conditions import (
    AllOf,
    AnyOf,
    AttributeIs,
    Condition,
    ContextIs,
    Done,
    HasIntent,
    InSegment,
    LocalTimeIs,
    NotDone,
    NotOf,
    PredictionIs,
    SignalIs,
    WeekdayIs,
)
from schemas.events import Scalar
from schemas.time import rfc3339

See = Callable[[Profile, Moment], Scalar]
"""What a leaf looks at: a number, a text, a truth, or nothing."""

_LONGEST: Final = 400
_MOST: Final = 32


class Moving(NamedTuple):
    """A leaf one bound of which moves, and how to read where it is (None: as declared)."""

    leaf: SignalIs
    bound: str
    in_force: Callable[[], float | None]


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition with its words; `parts` are those of a combination, `see` is a leaf's.

    `moved` reads the bound of a leaf that moves.
    """

    kind: Literal["all", "any", "not", "leaf"]
    text: str
    evaluate: Evaluate
    parts: tuple[Rule, ...] = ()
    see: See | None = None
    moved: Callable[[], float | None] | None = None

    def deciding(self, profile: Profile, moment: Moment, *, held: bool) -> Rule:
        """The part that made it hold (or not): of alternatives the first that holds, and so on."""
        if self.kind != ("any" if held else "all"):
            return self
        for part in self.parts:
            if (part.evaluate(profile, moment).holds is True) == held:
                return part.deciding(profile, moment, held=held)
        return self

    def leaves(self) -> Iterator[Rule]:
        """Every leaf, in order of mention."""
        if self.kind == "leaf":
            yield self
        for part in self.parts:
            yield from part.leaves()

    def values(self, profile: Profile, moment: Moment) -> dict[str, Scalar]:
        """What every leaf sees, by its words; the first 32 of them."""
        seen: dict[str, Scalar] = {}
        for leaf in self.leaves():
            if leaf.see is not None and len(seen) < _MOST:
                seen[leaf.text] = leaf.see(profile, moment)
                if leaf.moved is not None and (bound := leaf.moved()) is not None:
                    seen[f"{leaf.text}, moved to"] = _rounded(bound)
        return seen

    def reasons(self, profile: Profile, moment: Moment) -> list[str]:
        """The leaves (and negations) that make it hold, each with what it sees; none: it does not.

        An example: `view done at least 3 times within 7d: 5`.
        """
        if self.evaluate(profile, moment).holds is not True:
            return []
        if self.kind in ("all", "any"):
            found = [reason for part in self.parts for reason in part.reasons(profile, moment)]
            return list(dict.fromkeys(found))[:_MOST]
        leaves = [leaf for leaf in self.leaves() if leaf.see is not None]
        seen = ", ".join([shown(leaf.see(profile, moment)) for leaf in leaves if leaf.see])
        return [f"{self.text}: {seen}"]


def shown(value: Scalar) -> str:
    """A value as a person writes it.

    >>> shown(None), shown(True), shown(2.5), shown("x")
    ('none', 'yes', '2.5', 'x')
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def explained(condition: Condition, compiler: Compiler, moving: Moving | None = None) -> Rule:
    """A condition as a rule; raises KeyError as `Compiler.compile` does."""
    match condition:
        case AllOf():
            parts = tuple([explained(part, compiler, moving) for part in condition.all])
            evaluate = all_of([part.evaluate for part in parts])
            return Rule("all", _joined(parts, " and "), evaluate, parts)
        case AnyOf():
            parts = tuple([explained(part, compiler, moving) for part in condition.any])
            evaluate = any_of([part.evaluate for part in parts])
            return Rule("any", _joined(parts, " or "), evaluate, parts)
        case NotOf():
            part = explained(condition.not_, compiler, moving)
            return Rule("not", _cut(f"not ({part.text})"), negation(part.evaluate), (part,))
        case _:
            text, see = _cut(leaf_text(condition)), _see(condition, compiler)
            if moving is not None and condition is moving.leaf:
                signal = compiler.signals[moving.leaf.signal]
                evaluate = moving_leaf(moving.leaf, signal, moving.bound, moving.in_force)
                return Rule("leaf", text, evaluate, see=see, moved=moving.in_force)
            return Rule("leaf", text, compiler.compile(condition), see=see)


def _joined(parts: tuple[Rule, ...], word: str) -> str:
    if len(parts) == 1:
        return parts[0].text
    texts = [f"({part.text})" if len(part.parts) > 1 else part.text for part in parts]
    return _cut(word.join(texts))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _see(condition: Condition, compiler: Compiler) -> See | None:
    match condition:
        case SignalIs() | Done() | NotDone():
            return _signal_seen(condition, compiler)
        case AttributeIs():
            attribute = condition.attribute
            return lambda profile, _moment: profile.attributes.get(attribute)
        case ContextIs():
            field = condition.context
            return lambda _profile, moment: moment.context.get(field)
        case InSegment():
            segment = condition.segment
            return lambda profile, _moment: segment in profile.segments
        case HasIntent():
            return lambda profile, _moment: intent_of(profile)
        case PredictionIs():
            name = condition.prediction
            return lambda profile, moment: _rounded(moment.predict(name, profile, moment.now_ms))
        case LocalTimeIs() | WeekdayIs():
            return _clock_seen(condition.zone)
        case _:
            return None


def intent_of(profile: Profile) -> str | None:
    """The profile's intent; None where none holds."""
    for name in profile.segments:
        if name.startswith(INTENT):
            return name.removeprefix(INTENT)
    return None


def _signal_seen(condition: SignalIs | Done | NotDone, compiler: Compiler) -> See:
    signal = compiler.signal_of(condition)
    if signal is None:
        raise KeyError(condition)
    key = condition.key if isinstance(condition, SignalIs) else None
    of_age = isinstance(condition, SignalIs) and (condition.within or condition.not_within)

    def see(profile: Profile, moment: Moment) -> Scalar:
        value = signal.value(profile.signals, moment.now_ms, key)
        if isinstance(value, (int, float)):
            # An age says little after the fact: when it happened says it for good.
            return rfc3339(moment.now_ms - int(value)) if of_age else _rounded(value)
        return value

    return see


def _clock_seen(named: str | None) -> See:
    def see(profile: Profile, moment: Moment) -> Scalar:
        zone = zone_for(named, profile)
        return None if zone is None else clock_text(moment.now_ms, zone)

    return see


def _rounded(value: float | None) -> float | int | None:
    if value is None:
        return None
    return int(value) if value.is_integer() else round(value, 6)
