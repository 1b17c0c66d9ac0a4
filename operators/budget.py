"""What does a profile give up that takes more bytes than the policy allows, and in what order?

The measure is the encoded profile. In this order, each step only as far as need be:

1.  cases: open cases of predictions, the newest first (least of what became of it is known)
2.  last: the contents of the last decisions, which are only shown
3.  values: distinct values, the half that was not seen for longest
4.  detail: older steps of sequences, older visits, streaks and instants
5.  windows: steps of an eighth of the window instead of a 64th, then the samples kept one by one
6.  likings: the weaker half of an affinity
7.  statements: what sources said of an attribute that is not believed
8.  less: what less is wanted of, the oldest statements first
9.  attributes: the longest, those that the policy does not use first
10. pending: decisions waiting for their outcome, the oldest first; their books are written

Of equals the largest gives first. Never given up: consent, Global Privacy Control, do-not-show,
what caps count, memberships with their deadlines, and the newest event of each signal; each has a
bound of its own. So a profile may stay above the limit, and `nextbest check --estimate` says where
a policy asks for that. What happens depends on the profile alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from operators.attribute import write_books
from operators.kinds import Kind
from operators.outputs import Outputs
from operators.plan import Plan
from operators.profile import FAR, Profile, encode_profile
from operators.reductions import (
    Reduce,
    coarser,
    fewer_likings,
    fewer_values,
    less_detail,
)

CHECKED_EVERY: Final = 64
"""Versions of a profile between two measurements: encoding it costs as much as a few events."""
_ROOM: Final = 8
"""Too large a profile shrinks by an eighth more: room for what comes until the next look."""

_ENCODER: Final = msgspec.msgpack.Encoder()
_Step = Callable[[Profile, int, Outputs], int]
"""(profile, bytes too many, outputs) to the bytes that were given up."""


def encoded_size(profile: Profile) -> int:
    """The bytes that a profile takes where it is kept encoded."""
    return len(encode_profile(profile, due_ms=FAR))


class Budget:
    """Keeps profiles within `retention.profile_bytes` of one plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.limit = plan.policy.retention.profile_bytes
        self._asked = plan.attributes
        kinds = {signal.slot: signal.kind for signal in plan.signals}
        self._steps: tuple[tuple[str, _Step], ...] = (
            ("cases", _cases),
            ("last", _last),
            ("values", _signals(fewer_values, kinds)),
            ("detail", _signals(less_detail, kinds)),
            ("windows", _signals(coarser, kinds)),
            ("likings", _signals(fewer_likings, kinds)),
            ("statements", _statements),
            ("less", _less),
            ("attributes", self._attributes),
            ("pending", self._pending),
        )

    def keep(
        self,
        profile: Profile,
        *,
        since_version: int,
        at_once: bool = False,
        out: Outputs,
    ) -> bool:
        """Shrink a profile that is due for a look and too large; True where anything gave way.

        Due is one whose version passed a multiple of 64 since `since_version`, or that has just
        been told attributes (`at_once`). What was foretold of its segments no longer holds then:
        all of them must be evaluated.
        """
        if not at_once and since_version // CHECKED_EVERY == profile.version // CHECKED_EVERY:
            return False
        return bool(self.shrink(profile, out=out))

    def shrink(self, profile: Profile, *, out: Outputs) -> list[str]:
        """Bring a profile that is above the limit under it; which steps gave something up."""
        size = encoded_size(profile)
        if size <= self.limit:
            return []
        aim = self.limit - self.limit // _ROOM
        given = []
        for name, step in self._steps:
            if step(profile, size - aim, out):
                given.append(name)
                out.facts["profile_gave_up", name] += 1
                size = encoded_size(profile)
                if size <= aim:
                    break
        out.facts["profiles_shrunk",] += 1
        return given

    def _pending(self, profile: Profile, excess: int, out: Outputs) -> int:
        freed = 0
        while profile.pending and freed < excess:
            oldest = profile.pending.pop(0)
            write_books(profile, oldest, closed_ms=profile.now_ms, plan=self._plan, out=out)
            out.facts["pending_evicted",] += 1
            freed += _size(oldest)
        return freed

    def _attributes(self, profile: Profile, excess: int, _out: Outputs) -> int:
        # Of one that was taken back, the date remains until now, and what other sources said.
        names = {*profile.attributes, *profile.provenance}
        names.update(name for stated in profile.records.values() for name in stated)

        def held(name: str) -> int:
            return _size(name) + _size(
                [
                    profile.attributes.get(name),
                    profile.provenance.get(name),
                    [stated.get(name) for stated in profile.records.values()],
                ]
            )

        sizes = {name: held(name) for name in names}
        freed = 0
        for name in sorted(names, key=lambda n: (n in self._asked, -sizes[n], n)):
            if freed >= excess:
                break
            profile.attributes.pop(name, None)
            profile.provenance.pop(name, None)
            for source in list(profile.records):
                _take_out(profile, source, name)
            freed += sizes[name]
        return freed


def _size(part: Any) -> int:
    return len(_ENCODER.encode(part))


def _take_out(profile: Profile, source: str, name: str) -> None:
    stated = profile.records[source]
    stated.pop(name, None)
    if not stated:
        del profile.records[source]


def _signals(reduce: Reduce, kinds: dict[int, Kind]) -> _Step:
    """A step that makes states of signals smaller, the largest first."""

    def step(profile: Profile, excess: int, _out: Outputs) -> int:
        signals = profile.signals
        sizes = {slot: _size(state) for slot, state in signals.items() if slot in kinds}
        freed = 0
        while sizes and freed < excess:
            largest = max(sizes, key=lambda slot: (sizes[slot], slot))
            smaller = reduce(kinds[largest], signals[largest])
            size = sizes[largest] if smaller is None else _size(smaller)
            if size >= sizes[largest]:
                del sizes[largest]
                continue
            signals[largest] = smaller
            freed += sizes[largest] - size
            sizes[largest] = size
        return freed

    return step


def _less(profile: Profile, excess: int, _out: Outputs) -> int:
    freed = 0
    for key in sorted(profile.less, key=lambda key: (profile.less[key][-1], key)):
        if freed >= excess:
            break
        freed += _size(key) + _size(profile.less.pop(key))
    return freed


def _cases(profile: Profile, excess: int, _out: Outputs) -> int:
    # By age and not by what they saw: what is taken out then tells nothing of how cases end.
    opened = sorted(
        (case for case in profile.cases if case.features),
        key=lambda case: (case.at_ms, case.prediction),
    )
    freed = 0
    while opened and freed < excess:
        newest = opened.pop()
        profile.cases = [case for case in profile.cases if case is not newest]
        freed += _size(newest)
    return freed


def _last(profile: Profile, excess: int, _out: Outputs) -> int:
    freed = 0
    for placement in sorted(profile.last, key=lambda p: (-_size(profile.last[p]), p)):
        if freed >= excess:
            break
        freed += _size(placement) + _size(profile.last.pop(placement))
    return freed


def _statements(profile: Profile, excess: int, _out: Outputs) -> int:
    believed = profile.provenance
    lost = [
        (-_size(said), source, name)
        for source, stated in profile.records.items()
        for name, said in stated.items()
        if name not in profile.attributes or believed.get(name, ("",))[0] != source
    ]
    freed = 0
    for size, source, name in sorted(lost):
        if freed >= excess:
            break
        _take_out(profile, source, name)
        freed += _size(name) - size
    return freed
