"""Which value of an attribute is believed, where several sources state it?

State: what every source said, with its date (`Profile.records`), from which the chosen attributes
and their provenance follow. A pure function of the set of statements: the order in which they came
changes nothing. A source takes a value back with null; the other sources' values then count.

Bounded: 8 sources of 64 attributes each, texts cut at 512 characters. What does not fit is left out
by name, never by order of arrival: declared sources and attributes that the policy uses come first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final, NamedTuple, TypeVar

from operators.arrival import Arrived
from operators.profile import Profile
from schemas.events import Scalar
from schemas.identity import Attributes, Identity

MOST_ATTRIBUTES: Final = 64
MOST_SOURCES: Final = 8
MOST_CHARACTERS: Final = 512
UNNAMED: Final = ""
"""The source of an event that names none."""

Stated = dict[str, tuple[Scalar, int]]
"""Attribute to (value, as of ms) of one source; the value None: taken back."""
Records = dict[str, Stated]
"""Source to what it stated."""

_NEWEST: Final = Attributes()
_Standing = tuple[tuple[float, ...], str]
V = TypeVar("V")


class Golden(NamedTuple):
    """The chosen attributes, and of each its source and as of when (ms)."""

    attributes: dict[str, Scalar]
    provenance: dict[str, tuple[str, int]]


def fold(
    profile: Profile, event: Arrived, identity: Identity | None, *, asked: Collection[str] = ()
) -> None:
    """Take an event's attributes into a profile; `asked` are those that the policy uses.

    Without a policy for sources only the newest statement of each attribute is kept.
    """
    if event.attributes is None:
        return
    source = event.source or UNNAMED
    policy = None if identity is None else identity.attributes
    if policy is None:
        profile.records = {}
        _newest(profile, source, event.attributes, event.occurred_ms, asked)
        return
    if not profile.records:
        # Attributes from before there was a policy for sources are one source's statement each.
        for name, (value, (said_by, at_ms)) in _held(profile).items():
            state(profile.records, said_by, {name: value}, at_ms, policy=policy, asked=asked)
    state(profile.records, source, event.attributes, event.occurred_ms, policy=policy, asked=asked)
    profile.attributes, profile.provenance = choose(profile.records, policy, asked=asked)


def state(
    records: Records,
    source: str,
    attributes: Mapping[str, Scalar],
    at_ms: int,
    *,
    policy: Attributes = _NEWEST,
    asked: Collection[str] = (),
) -> None:
    """Write down, in `records`, what a source said at an instant."""
    stated = records.setdefault(source, {})
    for name, value in _kept(attributes).items():
        known = stated.get(name)
        if known is None or (at_ms, _order(value)) > (known[1], _order(known[0])):
            stated[name] = (value, at_ms)
    _bound(stated, MOST_ATTRIBUTES, lambda name: (name not in asked, name))
    _bound(records, MOST_SOURCES, lambda name: (_place(policy, name), name))


def choose(records: Records, policy: Attributes, *, asked: Collection[str] = ()) -> Golden:
    """The value of every attribute that some source states, by the policy's rule."""
    best: dict[str, tuple[_Standing, Scalar, int]] = {}
    for source, stated in records.items():
        believed = _belief(policy, source, stated)
        for name, (value, at_ms) in stated.items():
            if value is None:
                continue
            newest = float(at_ms)
            rank = (newest, *believed) if policy.rule == "recency" else (*believed, newest)
            # The source's name decides where nothing else does.
            standing = (rank, source)
            if name not in best or standing > best[name][0]:
                best[name] = (standing, value, at_ms)
    _bound(best, MOST_ATTRIBUTES, lambda name: (name not in asked, name))
    return Golden(
        {name: best[name][1] for name in sorted(best)},
        {name: (best[name][0][1], best[name][2]) for name in sorted(best)},
    )


def _newest(
    profile: Profile,
    source: str,
    attributes: Mapping[str, Scalar],
    at_ms: int,
    asked: Collection[str],
) -> None:
    held = _held(profile)
    for name, value in _kept(attributes).items():
        known = held.get(name)
        if known is None or (at_ms, _order(value), source) > (
            known[1][1],
            _order(known[0]),
            known[1][0],
        ):
            held[name] = (value, (source, at_ms))
    _bound(held, MOST_ATTRIBUTES, lambda name: (name not in asked, name))
    # What was taken back stays in the provenance: an older statement must not bring it back.
    profile.provenance = {name: held[name][1] for name in sorted(held)}
    profile.attributes = {n: value for n in sorted(held) if (value := held[n][0]) is not None}


def _held(profile: Profile) -> dict[str, tuple[Scalar, tuple[str, int]]]:
    """Each attribute's value (None: taken back) with its source and date.

    State from before there was provenance knows neither: anything stated since is newer.
    """
    unknown = (UNNAMED, 0)
    names = {**profile.attributes, **profile.provenance}
    return {
        name: (profile.attributes.get(name), profile.provenance.get(name, unknown))
        for name in names
    }


def _kept(attributes: Mapping[str, Scalar]) -> dict[str, Scalar]:
    return {
        name: value[:MOST_CHARACTERS] if isinstance(value, str) else value
        for name, value in attributes.items()
        if len(name) <= MOST_CHARACTERS
    }


def _order(value: Scalar) -> tuple[int, float, str]:
    """An order over values of any type, for two statements of one instant: taking back wins."""
    match value:
        case None:
            return (3, 0.0, "")
        case bool():
            return (0, float(value), "")
        case str():
            return (2, 0.0, value)
        case _:
            return (1, float(value), repr(value))


def _belief(policy: Attributes, source: str, stated: Stated) -> tuple[float, ...]:
    """How much a source is believed, larger for more, whatever the attribute."""
    place = -float(_place(policy, source))
    if policy.rule != "most_complete":
        return (place,)
    given = [at_ms for value, at_ms in stated.values() if value is not None]
    return (float(len(given)), float(max(given, default=0)), place)


def _place(policy: Attributes, source: str) -> int:
    sources = policy.sources
    return sources.index(source) if source in sources else len(sources)


def _bound(held: dict[str, V], most: int, key: Callable[[str], tuple[int, str]]) -> None:
    if len(held) > most:
        for name in sorted(held, key=key)[most:]:
            del held[name]
