"""What do rewards teach? One model's learner: examples in, parameter sets out.

Key: the model (a placement). State: a River classifier with one head per reward kind, and counters.
Output: an immutable parameter set, published by the number of examples learned, never by time.

Fake negatives (Ktena et al., "Addressing delayed feedback for continuous training", RecSys 2019):
every shown item is learned as unrewarded at once, and as rewarded when the reward comes. With p the
model's own prediction, a rewarded example weighs 1 + p and an unrewarded one (1 - p)(1 + p): the
model then converges to the true rate and never waits for an attribution window to close.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Iterable
from typing import Final

import msgspec
import numpy as np

from operators.crosses import crosses_of
from operators.models.hashed_logistic import HashedLogistic
from operators.models.value_means import ValueMeans
from operators.outputs import Example
from operators.parameters import FactorTables, ParameterSet, parameter_set
from operators.placement_plan import CompiledPlacement
from operators.plan import Plan
from operators.shard_state import StateError

MAGIC: Final = b"NBLM"
VERSION: Final = 2
_FORMER: Final = 1
"""The same without the fields from `factors` on."""
_WIDTH: Final = 100
"""Crosses of an example for which a policy's alpha and l2 are meant. A step is shared by the cells
of an example: with fewer of them each must take a larger part."""
_FORGETTING: Final = 32
"""Steps of forgetting while old examples come to count half."""


def model_of(snapshot: bytes) -> str:
    """Which model a learner's snapshot is of; raises StateError like `Learner.restore`."""
    return _decode(snapshot).model


class _HeadWire(msgspec.Struct, array_like=True):
    kind: str
    intercept: float
    features: bytes
    z: bytes
    n: bytes


class _FactorWire(msgspec.Struct, array_like=True):
    rows: bytes
    values: bytes
    squares: bytes


class _Wire(msgspec.Struct, array_like=True):
    model: str
    bits: int
    decisions: float
    examples: int
    rewarded: int
    learned_to_ms: int
    heads: list[_HeadWire]
    factors: int = 0
    tables: dict[str, tuple[_FactorWire, _FactorWire]] = {}
    means: dict[str, dict[str, tuple[float, float]]] = {}
    forgotten_at: int | None = None
    alpha: float = 0.0
    l2: float = 0.0
    digest: int = 0


class Learner:
    """Learns one model from examples, in order.

    `incarnation` names this life of the learner: versions of another life are never reused.
    """

    def __init__(self, model: str, plan: Plan, *, incarnation: str) -> None:
        placement = plan.models[model]
        self.model = model
        self._plan = plan
        self._placement = placement
        self._policy = placement.policy.model
        self._kinds = placement.heads
        self._crosses = crosses_of(placement, plan.contents)
        # By the root: some features of an example come together, others independently.
        share = math.sqrt(_WIDTH / self._crosses.width)
        self._classifier = HashedLogistic(
            self._kinds,
            cells=1 << self._policy.bits,
            implicit=True,
            factors=self._crosses.factors,
            factor_rows=self._crosses.factor_rows,
            base_rates={
                kind: reward.base_rate or self._policy.base_rate
                for kind, reward in zip(placement.heads, placement.rewards, strict=True)
            },
            alpha=self._policy.alpha * share,
            l2=self._policy.l2 / share,
        )
        self._means = {
            kind: ValueMeans()
            for kind, reward in zip(placement.heads, placement.rewards, strict=True)
            if reward.times == "value"
        }
        self._doubts = _asks_how_sure(plan, placement)
        self._forgotten_at = 0
        self._digest = 0
        self._unrewarded = dict.fromkeys(self._kinds, False)
        self._incarnation = incarnation
        self._counter = 0
        self._decisions = 0.0
        self._examples = 0
        self._rewarded = 0
        self._learned_to_ms = 0
        self._published_at = 0

    def adopt(self, plan: Plan) -> None:
        """Go on under another plan with the same heads and model settings.

        How fast it learns was set by the contents of the start, and stays until the next one.
        """
        placement = plan.models[self.model]
        self._plan, self._placement = plan, placement
        self._crosses = crosses_of(placement, plan.contents)
        self._means = {
            kind: self._means.get(kind) or ValueMeans()
            for kind, reward in zip(placement.heads, placement.rewards, strict=True)
            if reward.times == "value"
        }
        self._doubts = _asks_how_sure(plan, placement)

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
        own = np.frombuffer(example.features, np.uint32).astype(np.int64)
        features = self._crosses.example(own, index)
        if example.kind is None:
            labels = self._unrewarded
            self._decisions += example.weight
        elif example.kind in self._unrewarded:
            labels = {example.kind: True}
            self._rewarded += 1
            if example.kind in self._means:
                self._means[example.kind].add(example.content_id, example.value, example.weight)
        else:
            return "unknown_kind"
        self._classifier.learn_one(features, labels, example.weight, fake_negatives=True)
        self._examples += 1
        self._forget()
        self._learned_to_ms = max(self._learned_to_ms, example.at_ms)
        # Of what was learned and in which order: the tables themselves are megabytes.
        told = f"{example.content_id}|{example.kind}|{example.weight}|{example.value}".encode()
        self._digest = zlib.crc32(told, zlib.crc32(example.features, self._digest))
        return "unrewarded" if example.kind is None else "rewarded"

    def _forget(self) -> None:
        half = self._policy.forget_after
        if half is None:
            return
        step = max(1, half // _FORGETTING)
        if self._examples - self._forgotten_at >= step:
            self._forgotten_at = self._examples
            share = 2.0 ** (-step / half)
            self._classifier.forget(share)
            for means in self._means.values():
                means.forget(share)

    def publish(self) -> ParameterSet:
        """The parameter set of now; it names itself by all that was learned up to it."""
        weights = self._classifier.weights.copy()
        bilinear = self._classifier.bilinear
        factors = None
        if bilinear is not None:
            factors = FactorTables(bilinear.profile.copy(), bilinear.content.copy())
        means = {kind: means.means(self._plan.contents.ids) for kind, means in self._means.items()}
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
            digest=f"{self._digest:08x}",
            evidence=self._classifier.n.astype(np.float32) if self._doubts else None,
            means=means,
            factors=factors,
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
            factors=self._crosses.factors,
            tables=self._tables(),
            means={kind: means.keep() for kind, means in self._means.items()},
            forgotten_at=self._forgotten_at,
            alpha=self._classifier.alpha,
            l2=self._classifier.l2,
            digest=self._digest,
        )
        return MAGIC + VERSION.to_bytes(2, "big") + msgspec.msgpack.encode(wire)

    def _tables(self) -> dict[str, tuple[_FactorWire, _FactorWire]]:
        bilinear = self._classifier.bilinear
        if bilinear is None:
            return {}
        found = {}
        for row, kind in enumerate(self._kinds):
            one, other = bilinear.keep(row)
            found[kind] = (
                _FactorWire(*(part.tobytes() for part in one)),
                _FactorWire(*(part.tobytes() for part in other)),
            )
        return found

    def restore(self, snapshot: bytes) -> ParameterSet | None:
        """Take over a snapshot; the set to serve at once, so that no decision falls to the prior.

        A changed table width starts the model anew (None); a reward kind that is new starts at the
        prior beside those that are kept; factors start anew where their number changed.

        Raises StateError for other versions and damaged bytes.
        """
        wire = _decode(snapshot)
        if wire.bits != self._policy.bits:
            return None
        self._decisions, self._examples = wire.decisions, wire.examples
        self._rewarded, self._learned_to_ms = wire.rewarded, wire.learned_to_ms
        self._digest = wire.digest
        for kept in wire.heads:
            if kept.kind in self._unrewarded:
                # What was learned was learned on top of this intercept, whatever is configured now.
                self._classifier.intercepts[self._kinds.index(kept.kind)] = kept.intercept
                self._classifier.restore_head(
                    kept.kind,
                    np.frombuffer(kept.features, np.uint32),
                    np.frombuffer(kept.z),
                    np.frombuffer(kept.n),
                    # Version 1 took a policy's alpha and l2 as they are.
                    alpha=wire.alpha or self._policy.alpha,
                    l2=wire.l2 if wire.alpha else self._policy.l2,
                )
                self._restore_factors(wire, kept.kind)
        for kind, means in self._means.items():
            means.restore(wire.means.get(kind, {}))
        # Version 1 did not forget: what it learned counts whole as of now.
        self._forgotten_at = wire.examples if wire.forgotten_at is None else wire.forgotten_at
        return self.publish()

    def _restore_factors(self, wire: _Wire, kind: str) -> None:
        bilinear, kept = self._classifier.bilinear, wire.tables.get(kind)
        if bilinear is None or kept is None or wire.factors != bilinear.factors:
            return
        for content, side in enumerate(kept):
            bilinear.restore(
                self._kinds.index(kind),
                bool(content),
                np.frombuffer(side.rows, np.uint32),
                np.frombuffer(side.values, np.float32),
                np.frombuffer(side.squares),
            )


def _asks_how_sure(plan: Plan, placement: CompiledPlacement) -> bool:
    """Whether anything that is scored by this model asks for the spread of its scores."""
    asked = [placement.policy.exploration]
    for test in plan.policy.experiments.tests.values():
        changed = (variant.changes.exploration for variant in test.variants.values())
        asked += [exploration for exploration in changed if exploration is not None]
    return any(one.kind == "thompson" or one.optimism for one in asked)


def _decode(snapshot: bytes) -> _Wire:
    version = int.from_bytes(snapshot[4:6], "big")
    if snapshot[:4] != MAGIC or version not in (_FORMER, VERSION):
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
    for kind, sides in wire.tables.items():
        for side in sides:
            rows, odd = divmod(len(side.rows), 4)
            fits = len(side.squares) == 8 * rows and len(side.values) == 4 * rows * wire.factors
            if odd or not fits or (np.frombuffer(side.rows, np.uint32) >> wire.bits).any():
                raise StateError(f"the learner's state is damaged: {kind} has odd factors")
    return wire
