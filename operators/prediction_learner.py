"""What do labels teach of one prediction, and how good has it been?

Key: the model (`prediction.NAME`). State: a River model, and the newest tests (what was predicted,
what came true, the loss). Output: immutable parameter sets and reports, by the number of examples
learned, never by time.

A label that the target event settles is known sooner than one that the horizon's end settles, so
in the first horizon only one of the two kinds arrives. Nothing is learned before that horizon is
over; from then on both kinds arrive in their true proportion, as long as about as many profiles are
active from one horizon to the next.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

import msgspec
import numpy as np
from river import drift

from operators.models.prediction_models import Expectation, Kept, PredictionModel, Probability
from operators.outputs import Labelled, Record
from operators.parameters import ParameterSet, parameter_set
from operators.predict_plan import head_of, model_of_prediction
from operators.prediction_report import measure
from operators.prediction_tests import RecentTests, RecentTestsWire
from operators.shard_state import StateError
from schemas.decisions import SCHEMA_VERSION
from schemas.policy import Policy
from schemas.predictions import WillSum
from schemas.time import DAY, rfc3339

MAGIC: Final = b"NBPL"
VERSION: Final = 1
_FIRST: Final = 100
_EVERY: Final = 500
_FASTER: Final = 4.0
_FASTER_FOR: Final = 500
_STEP_EVERY: Final = 25
_LEAST_WINDOW: Final = 50
_UNTESTED: Final = -1.0
_DRIFT: Final[Any] = drift  # River's detectors bear no types


def prediction_of(snapshot: bytes) -> str:
    """Which model a learner's snapshot is of; raises StateError as `restore` does."""
    return _decode(snapshot).model


class _Wire(msgspec.Struct, array_like=True):
    model: str
    head: str
    bits: int
    first_ms: int
    learned_to_ms: int
    examples: int
    total: float
    rewarded: int
    skipped: int
    published_at: int
    drifts: int
    drifted: bool
    faster_left: int
    cells: bytes
    first: bytes
    second: bytes
    intercept: float
    waited: int
    tests: RecentTestsWire


class PredictionLearner:
    """Learns one prediction from labelled cases, in order.

    `incarnation` names this life of the learner: versions of another life are never reused.
    Raises KeyError for a name that the policy does not predict.
    """

    def __init__(self, name: str, policy: Policy, *, incarnation: str) -> None:
        prediction = policy.predictions[name]
        self.name = name
        self.model = model_of_prediction(name)
        self._head = head_of(prediction)
        self._horizon_ms = prediction.horizon_ms
        self._is_sum = isinstance(prediction.target, WillSum)
        self._faster = prediction.on_drift == "faster"
        self._policy = prediction.model
        self._incarnation = incarnation
        self._counter = 0
        self._first_ms: int | None = None
        self._learned_to_ms = 0
        self._examples = 0
        self._total = 0.0
        self._rewarded = 0
        self._skipped = 0
        self._published_at = 0
        self._drifts = 0
        self._drifted = False
        self._faster_left = 0
        self._tests = RecentTests()
        self._detector = _detector(())
        self._river = self._fresh()

    def _fresh(self) -> PredictionModel:
        cells = 1 << self._policy.bits
        if self._is_sum:
            return Expectation(cells=cells, alpha=self._policy.alpha)
        return Probability(cells=cells, alpha=self._policy.alpha, l2=self._policy.l2)

    @property
    def examples(self) -> int:
        """How many examples were learned in all."""
        return self._examples

    def learn(self, examples: Iterable[Labelled]) -> tuple[ParameterSet | None, Record | None]:
        """Learn examples; the newest parameter set and the newest report that fell due.

        A report tells of every drift since the last one that was given, so none is lost.
        """
        newest: ParameterSet | None = None
        report: Record | None = None
        for example in examples:
            if not self._one(example) or self._examples - self._published_at < self._due_after():
                continue
            if self._is_sum or 0 < self._rewarded < self._examples:
                newest = self.publish()
                self._published_at = self._examples
                earlier, report = report, self.report(newest.version)
                report["drift"] |= earlier is not None and earlier["drift"]
        return newest, report

    def _due_after(self) -> int:
        # Early sets matter most; a handful of examples, though, is nothing to act on.
        return min(_EVERY, max(_FIRST, self._published_at // 10))

    def _one(self, example: Labelled) -> bool:
        if self._first_ms is None or example.at_ms < self._first_ms:
            self._first_ms = example.at_ms
        if example.closed_ms < self._first_ms + self._horizon_ms:
            self._skipped += 1
            return False
        mask = (1 << self._policy.bits) - 1
        own = np.frombuffer(example.features, "<u4").tolist()
        x = {cell: float(n) for cell, n in Counter([cell & mask for cell in own]).items()}
        self._slow_down()
        loss = self._river.learn(x, example.label)
        self._examples += 1
        self._total += example.label
        self._rewarded += example.label > 0
        self._learned_to_ms = max(self._learned_to_ms, example.closed_ms)
        predicted = _UNTESTED if example.predicted is None else example.predicted
        self._look_for_drift(
            self._tests.add(self._learned_to_ms // DAY, predicted, example.label, loss)
        )
        return True

    def _slow_down(self) -> None:
        if not self._faster_left:
            return
        self._faster_left -= 1
        if self._faster_left % _STEP_EVERY == 0:
            self._river.step(self._factor())

    def _factor(self) -> float:
        """4 right after a drift, back to 1 geometrically; it changes every 25 examples."""
        left = -(-self._faster_left // _STEP_EVERY) * _STEP_EVERY
        return math.pow(_FASTER, left / _FASTER_FOR)

    def _look_for_drift(self, losses: Iterable[float]) -> None:
        grew = False
        for loss in losses:
            grew = _grew(self._detector, loss) or grew
        if grew:
            self._drifts += 1
            self._drifted = True
            if self._faster:
                self._faster_left = _FASTER_FOR
                self._river.step(self._factor())
        if self._tests.trim():
            self._detector = _detector(self._tests.fed)

    def publish(self) -> ParameterSet:
        """The parameter set of now."""
        weights = self._river.weights()
        self._counter += 1
        return parameter_set(
            model=self.model,
            incarnation=self._incarnation,
            counter=self._counter,
            decisions=float(self._examples),
            examples=self._examples,
            rewarded=self._rewarded,
            learned_to_ms=self._learned_to_ms,
            heads=(self._head,),
            intercepts=np.array([self._river.intercept], np.float32),
            weights=weights,
            digest=f"{zlib.crc32(weights.data):08x}",
        )

    def report(self, version: str) -> Record:
        """How good the prediction has been, in the shape of `schemas.prediction_reports`."""
        quality = measure(self._tests.newest(), is_sum=self._is_sum)
        drifted, self._drifted = self._drifted, False
        return {
            "prediction": self.name,
            "model_version": version,
            "examples": self._examples,
            "skipped": self._skipped,
            "base_rate": self._total / self._examples if self._examples else None,
            **quality,
            "drift": drifted,
            "drifts": self._drifts,
            "learned_to": rfc3339(self._learned_to_ms),
            "schema_version": SCHEMA_VERSION,
        }

    def snapshot(self) -> bytes:
        """The learner's state as versioned bytes with a checksum; no River object."""
        kept = self._river.keep()
        wire = _Wire(
            model=self.model,
            head=self._head,
            bits=self._policy.bits,
            first_ms=-1 if self._first_ms is None else self._first_ms,
            learned_to_ms=self._learned_to_ms,
            examples=self._examples,
            total=self._total,
            rewarded=self._rewarded,
            skipped=self._skipped,
            published_at=self._published_at,
            drifts=self._drifts,
            drifted=self._drifted,
            faster_left=self._faster_left,
            cells=kept.cells.astype("<u4").tobytes(),
            first=kept.first.astype("<f8").tobytes(),
            second=kept.second.astype("<f8").tobytes(),
            intercept=kept.intercept,
            waited=kept.waited,
            tests=self._tests.wire(),
        )
        body = msgspec.msgpack.encode(wire)
        return MAGIC + VERSION.to_bytes(2, "big") + zlib.crc32(body).to_bytes(4, "big") + body

    def restore(self, snapshot: bytes) -> ParameterSet | None:
        """Take over a snapshot; the set to serve at once, None where there is none to serve.

        Another target or another table width starts the prediction anew. Raises StateError for
        other versions and damaged bytes.
        """
        wire = _decode(snapshot)
        if (wire.head, wire.bits) != (self._head, self._policy.bits):
            return None
        try:
            tests = RecentTests.restored(wire.tests)
        except ValueError as error:
            raise StateError(f"a prediction's state is damaged: {error}") from error
        self._first_ms = None if wire.first_ms < 0 else wire.first_ms
        self._learned_to_ms = wire.learned_to_ms
        self._examples, self._total = wire.examples, wire.total
        self._rewarded, self._skipped = wire.rewarded, wire.skipped
        self._published_at = wire.published_at
        self._drifts, self._drifted = wire.drifts, wire.drifted
        self._faster_left = wire.faster_left
        self._river = self._fresh()
        self._river.step(self._factor())
        self._river.restore(
            Kept(
                np.frombuffer(wire.cells, "<u4"),
                np.frombuffer(wire.first, "<f8"),
                np.frombuffer(wire.second, "<f8"),
                wire.intercept,
                wire.waited,
            )
        )
        self._tests = tests
        self._detector = _detector(tests.fed)
        return self.publish() if self._published_at else None


def _grew(detector: Any, loss: float) -> bool:
    """Whether the loss has changed, and for the worse: learning changes it for the better."""
    before = detector.estimation
    detector.update(loss)
    return bool(detector.drift_detected) and detector.estimation > before


def _detector(losses: Iterable[float]) -> Any:
    """The detector that has seen these losses: x sees all again.

    After a trim it is built from what is left, so that it is always what the kept losses make it.
    """
    detector: Any = _DRIFT.ADWIN(min_window_length=_LEAST_WINDOW, grace_period=2 * _LEAST_WINDOW)
    for loss in losses:
        detector.update(loss)
    return detector


def _decode(snapshot: bytes) -> _Wire:
    if snapshot[:4] != MAGIC or int.from_bytes(snapshot[4:6], "big") != VERSION:
        raise StateError(
            f"a prediction's state is of format {snapshot[:6]!r}, this program reads "
            f"{MAGIC!r} version {VERSION}"
        )
    body = snapshot[10:]
    if zlib.crc32(body) != int.from_bytes(snapshot[6:10], "big"):
        raise StateError("a prediction's state is damaged: its checksum does not fit")
    try:
        wire = msgspec.msgpack.decode(body, type=_Wire)
    except msgspec.MsgspecError as error:
        raise StateError(f"a prediction's state is damaged: {error}") from error
    cells, odd = divmod(len(wire.cells), 4)
    if (
        odd
        or len(wire.first) != 8 * cells
        or len(wire.second) != 8 * cells
        or (np.frombuffer(wire.cells, "<u4") >> wire.bits).any()
    ):
        raise StateError("a prediction's state is damaged: its arrays do not fit together")
    return wire
