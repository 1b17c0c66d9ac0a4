"""Where should a segment's threshold lie? It follows the feedback of members, within bounds.

The members at the edge decide. Where those just inside the threshold are rewarded more often than
the target, the segment can take in more; where less often, it must be narrower. That is the search
for the root of a noisy function, solved by stochastic approximation (Robbins, Monro, "A stochastic
approximation method", Ann. Math. Statist. 22, 1951):

    threshold <- threshold -/+ gain * range * (rate - target) / target     (at_least: -, at_most: +)

with the relative error held to [-1, 1] and the threshold to its bounds. The gain is step / (1 + the
number of times the error changed its sign), since far from the root the sign stays and steps
should not shrink (Kesten, "Accelerated stochastic approximation", Ann. Math. Statist. 29, 1958). So
that a root that moves is followed, that number is halved whenever the sign held four times in a
row, and the gain is never below a tenth of `step`. The rate is of a batch of outcomes, large enough
to expect ten rewards: a single outcome of a rare reward says nothing.

Only outcomes of members whose value lay in the band inside the threshold count: without any the
threshold stays. The band has a width, so the threshold settles where the mean rate *over the band*
meets the target. That assumes a rate that grows with the distance inside; where it falls instead
the threshold runs to a bound, which is what bounds are for.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec
import numpy as np
from pydantic import BaseModel

from operators.outputs import Record
from operators.parameters import ParameterSet, parameter_set
from operators.profile import Pending
from operators.shard_state import StateError
from schemas.audiences import SCHEMA_VERSION, Bound, Follow
from schemas.conditions import NotOf, SignalIs
from schemas.policy import Policy, Segment
from schemas.time import rfc3339

MODEL: Final = "segment.thresholds"
"""The model under which thresholds are published; no placement can bear a name with a dot."""
MAGIC: Final = b"NBTH"
VERSION: Final = 1

_LEAST: Final = 50
_MOST: Final = 10_000
_REWARDS_EXPECTED: Final = 10
_SLOWEST: Final = 0.1
_GONE_ON: Final = 4
_USUAL_OVER: Final = 20_000
"""Outcomes over which the usual rate, the target where none is declared, is a running mean."""
_WHOLE: Final = frozenset({"count", "distinct", "sequence", "streak", "session"})


class Followed(NamedTuple):
    """The outcome of one shown decision, and where the profile stood when it was made.

    `value` is the followed signal's, None where it had none; `member` says whether the profile was
    in the segment.
    """

    segment: str
    value: float | None
    member: bool
    rewarded: bool
    closed_ms: int


@dataclass(frozen=True, slots=True)
class Following:
    """A segment's `follow`, checked against its condition. `band` is in units of the signal."""

    segment: str
    signal: str
    bound: Bound
    lowest: float
    highest: float
    reward: str
    target: float | None
    step: float
    band: float
    declared: float

    def held(self, threshold: float) -> float:
        """A threshold within the bounds, as the float32 that it is published as."""
        return float(np.float32(min(max(threshold, self.lowest), self.highest)))

    def at_the_edge(self, value: float, threshold: float) -> bool:
        """Whether a value lies inside the threshold by less than the band."""
        inside = value - threshold if self.bound == "at_least" else threshold - value
        return 0 <= inside < self.band


def followed_leaves(segment: Segment) -> list[SignalIs]:
    """The parts of a segment's condition whose bound its `follow` moves; one is right."""
    follow = segment.follow
    if follow is None:
        return []
    return [
        leaf
        for leaf in _signal_leaves(segment.when)
        if leaf.signal == follow.signal
        and leaf.key is None
        and getattr(leaf, follow.bound) is not None
    ]


def _signal_leaves(condition: BaseModel) -> Iterator[SignalIs]:
    if isinstance(condition, SignalIs):
        yield condition
    if isinstance(condition, SignalIs | NotOf):
        return  # within a `not` a bound keeps people out: moving it would do the opposite
    for name in type(condition).model_fields:
        part = getattr(condition, name)
        for inner in part if isinstance(part, tuple) else (part,):
            if isinstance(inner, BaseModel):
                yield from _signal_leaves(inner)


def followings(policy: Policy) -> tuple[Following, ...]:
    """Every segment that follows feedback. Raises ValueError where the condition has no such bound.

    `schemas.check` reports that properly.
    """
    found = []
    for name, segment in policy.segments.items():
        follow = segment.follow
        if follow is None:
            continue
        leaves = followed_leaves(segment)
        if len(leaves) != 1:
            raise ValueError(
                f"{name}: expected one {follow.bound} of {follow.signal} in its condition, "
                f"found {len(leaves)}"
            )
        declared = float(getattr(leaves[0], follow.bound))
        found.append(_following(name, follow, declared, policy))
    return tuple(found)


def _following(name: str, follow: Follow, declared: float, policy: Policy) -> Following:
    lowest, highest = follow.between
    band = (highest - lowest) / 10
    if policy.signals[follow.signal].kind in _WHOLE:
        # Between two whole numbers there is nobody: a narrower band would never hear anything.
        band = max(band, 1.0)
    return Following(
        segment=name,
        signal=follow.signal,
        bound=follow.bound,
        lowest=lowest,
        highest=highest,
        reward=follow.reward,
        target=follow.target,
        step=follow.step,
        band=band,
        declared=declared,
    )


def outcomes(
    following: Iterable[Following], pending: Pending, stood: Mapping[str, tuple[float | None, bool]]
) -> list[Followed]:
    """What a decision whose books are closed says of thresholds.

    `stood` maps a segment to the signal's value and the membership when the decision was made.
    A decision that was never shown, or was the holdout's, says nothing.
    """
    if pending.variant == "holdout" or not any(item.shown_ms for item in pending.items):
        return []
    rewarded = {kind for item in pending.items for kind in item.rewards}
    return [
        Followed(f.segment, *stood[f.segment], f.reward in rewarded, pending.closes_ms)
        for f in following
        if f.segment in stood
    ]


def thresholds(published: ParameterSet | None, following: Iterable[Following]) -> dict[str, float]:
    """The threshold in force of every segment that follows feedback.

    That is the published one held to the bounds of today's policy, or else the declared one.
    """
    moved: dict[str, float] = {}
    if published is not None:
        moved = dict(zip(published.heads, published.intercepts.tolist(), strict=True))
    return {f.segment: f.held(moved.get(f.segment, f.declared)) for f in following}


class _State(msgspec.Struct, array_like=True):
    signal: str
    threshold: float
    declared: float
    examples: int = 0
    rewarded: int = 0
    sign: int = 0
    turns: int = 0
    run: int = 0
    changes: int = 0
    seen: int = 0
    usual: float = 0.0


class _Wire(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    outcomes: int
    newest_ms: int
    segments: dict[str, _State]


class Adaptive:
    """Moves the thresholds of all segments that follow feedback.

    `incarnation` names this life: versions of another life are never reused.
    """

    def __init__(self, following: Iterable[Following], *, incarnation: str) -> None:
        self._following = {f.segment: f for f in following}
        self._states = {
            f.segment: _State(f.signal, f.held(f.declared), f.declared)
            for f in self._following.values()
        }
        self._incarnation = incarnation
        self._counter = 0
        self._outcomes = 0
        self._newest_ms = 0

    def threshold(self, segment: str) -> float | None:
        """The threshold now; None for a segment that follows nothing."""
        state = self._states.get(segment)
        return None if state is None else state.threshold

    def learn(self, followed: Iterable[Followed]) -> tuple[ParameterSet | None, list[Record]]:
        """Take in outcomes, in order; the set to publish if a threshold moved, and each change."""
        changes: list[Record] = []
        for one in followed:
            following = self._following.get(one.segment)
            if following is None:
                continue
            self._outcomes += 1
            self._newest_ms = max(self._newest_ms, one.closed_ms)
            change = self._one(one, following, self._states[one.segment])
            if change is not None:
                changes.append(change)
        if not changes:
            return None, []
        published = self.publish()
        return published, [{**change, "model_version": published.version} for change in changes]

    def _one(self, one: Followed, following: Following, state: _State) -> Record | None:
        state.seen = min(state.seen + 1, _USUAL_OVER)
        state.usual += (one.rewarded - state.usual) / state.seen
        if one.value is None or not one.member:
            return None
        if not following.at_the_edge(one.value, state.threshold):
            return None
        state.examples += 1
        state.rewarded += one.rewarded
        target = state.usual if following.target is None else following.target
        if target <= 0 or state.examples < _enough(target):
            return None
        return self._move(following, state, target)

    def _move(self, following: Following, state: _State, target: float) -> Record | None:
        examples, rate = state.examples, state.rewarded / state.examples
        state.examples = state.rewarded = 0
        error = min(max((rate - target) / target, -1.0), 1.0)
        sign = (error > 0) - (error < 0)
        if sign * state.sign < 0:
            state.turns, state.run = state.turns + 1, 0
        elif sign:
            state.run += 1
            if state.run % _GONE_ON == 0:
                state.turns //= 2
        state.sign = sign or state.sign
        gain = max(following.step / (1 + state.turns), _SLOWEST * following.step)
        move = gain * (following.highest - following.lowest) * error
        before = state.threshold
        state.threshold = following.held(
            before - move if following.bound == "at_least" else before + move
        )
        if state.threshold == before:
            return None
        state.changes += 1
        return {
            "change_id": f"{following.segment}-{state.changes}-{self._newest_ms}",
            "segment": following.segment,
            "signal": following.signal,
            "bound": following.bound,
            "threshold_from": before,
            "threshold_to": state.threshold,
            "because": {
                "reward": following.reward,
                "rate": round(rate, 6),
                "target": round(target, 6),
                "examples": examples,
            },
            "changed_at": rfc3339(self._newest_ms),
            "schema_version": SCHEMA_VERSION,
        }

    def publish(self) -> ParameterSet:
        """The thresholds of now as an immutable set: one head per segment, its intercept."""
        values = np.array([state.threshold for state in self._states.values()], np.float32)
        self._counter += 1
        return parameter_set(
            model=MODEL,
            incarnation=self._incarnation,
            counter=self._counter,
            decisions=float(self._outcomes),
            examples=self._outcomes,
            rewarded=0,
            learned_to_ms=self._newest_ms,
            heads=tuple(self._states),
            intercepts=values,
            weights=np.zeros((len(values), 2), np.float32),
            digest=f"{zlib.crc32(values.tobytes()):08x}",
        )

    def snapshot(self) -> bytes:
        """The state as versioned, checked bytes."""
        body = msgspec.msgpack.encode(_Wire(self._outcomes, self._newest_ms, self._states))
        head = MAGIC + VERSION.to_bytes(2, "big") + zlib.crc32(body).to_bytes(4, "big")
        return head + body

    def restore(self, snapshot: bytes) -> ParameterSet | None:
        """Take over a snapshot; the set to publish at once, or None where no segment follows any.

        A segment that follows another signal now, or whose declared threshold was edited, starts
        at what is declared; narrower bounds hold at once. Raises StateError for other versions and
        damaged bytes.
        """
        wire = _decode(snapshot)
        self._outcomes, self._newest_ms = wire.outcomes, wire.newest_ms
        for name, state in wire.segments.items():
            following = self._following.get(name)
            if following is None or state.signal != following.signal:
                continue
            if state.declared != following.declared:
                continue
            state.threshold = following.held(state.threshold)
            self._states[name] = state
        return self.publish() if self._states else None


def _enough(target: float) -> int:
    return min(max(_LEAST, math.ceil(_REWARDS_EXPECTED / target)), _MOST)


def _decode(snapshot: bytes) -> _Wire:
    if snapshot[:4] != MAGIC or int.from_bytes(snapshot[4:6], "big") != VERSION:
        raise StateError(
            f"the thresholds' state is of format {snapshot[:6]!r}, this program reads "
            f"{MAGIC!r} version {VERSION}"
        )
    body = snapshot[10:]
    if zlib.crc32(body).to_bytes(4, "big") != snapshot[6:10]:
        raise StateError("the thresholds' state is damaged: its checksum differs")
    try:
        return msgspec.msgpack.decode(body, type=_Wire)
    except msgspec.MsgspecError as error:
        raise StateError(f"the thresholds' state is damaged: {error}") from error
