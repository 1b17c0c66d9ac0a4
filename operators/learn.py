"""What do rewards teach? One model's learner: examples in, parameter sets out.

Key: the model (a placement). State: a River classifier with one head per reward kind, and counters.
Output: an immutable parameter set, published by the number of examples learned, never by time.

Fake negatives (Ktena et al., "Addressing delayed feedback for continuous training", RecSys 2019):
every shown item is learned as unrewarded at once, and as rewarded when the reward comes. With p the
model's own prediction, a rewarded example weighs 1 + p and an unrewarded one (1 - p)(1 + p): the
model then converges to the true rate and never waits for an attribution window to close.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable
from typing import Final

import msgspec
import numpy as np

from operators.features import crossed_cells
from operators.models.hashed_logistic import HashedLogistic
from operators.outputs import Example
from operators.parameters import ParameterSet, parameter_set
from operators.plan import Plan
from operators.shard_state import StateError

MAGIC: Final = b"NBLM"
VERSION: Final = 1


def model_of(snapshot: bytes) -> str:
    """Which model a learner's snapshot is of; raises StateError like `Learner.restore`."""
    return _decode(snapshot).model


class _HeadWire(msgspec.Struct, array_like=True):
    kind: str
    intercept: float
    features: bytes
    z: bytes
    n: bytes


class _Wire(msgspec.Struct, array_like=True):
    model: str
    bits: int
    decisions: float
    examples: int
    rewarded: int
    learned_to_ms: int
    heads: list[_HeadWire]


class Learner:
    """Learns one model from examples, in order.

    `incarnation` names this life of the learner: versions of another life are never reused.
    """

    def __init__(self, model: str, plan: Plan, *, incarnation: str) -> None:
        placement = plan.placements[model]
        self.model = model
        self._plan = plan
        self._placement = placement
        self._policy = placement.policy.model
        self._kinds = placement.heads
        self._classifier = HashedLogistic(
            self._kinds,
            cells=1 << self._policy.bits,
            base_rates={
                kind: reward.base_rate or self._policy.base_rate
                for kind, reward in zip(placement.heads, placement.rewards, strict=True)
            },
            alpha=self._policy.alpha,
            l2=self._policy.l2,
        )
        self._unrewarded = dict.fromkeys(self._kinds, False)
        self._incarnation = incarnation
        self._counter = 0
        self._decisions = 0.0
        self._examples = 0
        self._rewarded = 0
        self._learned_to_ms = 0
        self._published_at = 0

    @property
    def examples(self) -> int:
        """How many examples were learned in all."""
        return self._examples

    def learn(self, examples: Iterable[Example]) -> tuple[list[ParameterSet], Counter[str]]:
        """Learn examples; the parameter sets that fell due, and the number learned by label."""
        published: list[ParameterSet] = []
        learned: Counter[str] = Counter()
        for example in examples:
            learned[self._one(example)] += 1
            if self._examples - self._published_at >= self._due_after():
                published.append(self.publish())
        return published, learned

    def _due_after(self) -> int:
        # Early sets matter most: the first come after a few examples, later ones as configured.
        return min(self._policy.publish_every, max(10, self._published_at // 10))

    def _one(self, example: Example) -> str:
        index = self._plan.contents.index.get(example.content_id)
        if index is None:
            return "withdrawn"
        cells = self._placement.cells[index][self._placement.real[index] > 0]
        own = np.frombuffer(example.features, np.uint32).astype(np.int64)
        crossed = crossed_cells(own, cells, bits=self._policy.bits)
        features = dict.fromkeys(crossed, 1.0)
        if len(features) < len(crossed):
            # Two crosses in one cell count twice, in learning as in scoring.
            features = {cell: float(n) for cell, n in Counter(crossed).items()}
        if example.kind is None:
            labels = self._unrewarded
            self._decisions += example.weight
        elif example.kind in self._unrewarded:
            labels = {example.kind: True}
            self._rewarded += 1
        else:
            return "unknown_kind"
        self._classifier.learn_one(features, labels, example.weight, fake_negatives=True)
        self._examples += 1
        self._learned_to_ms = max(self._learned_to_ms, example.at_ms)
        return "unrewarded" if example.kind is None else "rewarded"

    def publish(self) -> ParameterSet:
        """The parameter set of now; it names itself by all that was learned up to it."""
        weights = self._classifier.weights.copy()
        digest = f"{zlib.crc32(weights.data):08x}"
        self._counter += 1
        self._published_at = self._examples
        return parameter_set(
            model=self.model,
            incarnation=self._incarnation,
            counter=self._counter,
            decisions=self._decisions,
            examples=self._examples,
            rewarded=self._rewarded,
            learned_to_ms=self._learned_to_ms,
            heads=self._kinds,
            intercepts=self._classifier.intercepts.astype(np.float32),
            weights=weights,
            digest=digest,
        )

    def snapshot(self) -> bytes:
        """The learner's state as versioned bytes: z and n per feature, no River object."""
        wire = _Wire(
            model=self.model,
            bits=self._policy.bits,
            decisions=self._decisions,
            examples=self._examples,
            rewarded=self._rewarded,
            learned_to_ms=self._learned_to_ms,
            heads=[
                _HeadWire(kind, float(intercept), cells.tobytes(), z.tobytes(), n.tobytes())
                for kind, intercept in zip(self._kinds, self._classifier.intercepts, strict=True)
                for cells, z, n in [self._classifier.head(kind)]
            ],
        )
        return MAGIC + VERSION.to_bytes(2, "big") + msgspec.msgpack.encode(wire)

    def restore(self, snapshot: bytes) -> ParameterSet | None:
        """Take over a snapshot; the set to serve at once, so that no decision falls to the prior.

        A changed table width starts the model anew (None); a reward kind that is new starts at the
        prior beside those that are kept. Raises StateError for other versions and damaged bytes.
        """
        wire = _decode(snapshot)
        if wire.bits != self._policy.bits:
            return None
        self._decisions, self._examples = wire.decisions, wire.examples
        self._rewarded, self._learned_to_ms = wire.rewarded, wire.learned_to_ms
        for kept in wire.heads:
            if kept.kind in self._unrewarded:
                # What was learned was learned on top of this intercept, whatever is configured now.
                self._classifier.intercepts[self._kinds.index(kept.kind)] = kept.intercept
                self._classifier.restore_head(
                    kept.kind,
                    np.frombuffer(kept.features, np.uint32),
                    np.frombuffer(kept.z),
                    np.frombuffer(kept.n),
                )
        return self.publish()


def _decode(snapshot: bytes) -> _Wire:
    if snapshot[:4] != MAGIC or int.from_bytes(snapshot[4:6], "big") != VERSION:
        raise StateError(
            f"the learner's state is of format {snapshot[:6]!r}, this program reads "
            f"{MAGIC!r} version {VERSION}"
        )
    try:
        wire = msgspec.msgpack.decode(snapshot[6:], type=_Wire)
    except msgspec.MsgspecError as error:
        raise StateError(f"the learner's state is damaged: {error}") from error
    for head in wire.heads:
        cells, odd = divmod(len(head.features), 4)
        fits = not odd and len(head.z) == len(head.n) == 8 * cells
        if not fits or (np.frombuffer(head.features, np.uint32) >> wire.bits).any():
            raise StateError(f"the learner's state is damaged: head {head.kind} has odd arrays")
    return wire
