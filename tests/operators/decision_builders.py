"""What do tests of deciding and learning build on, beside the common builders?

A parameter set with known probabilities, a small stream of decisions and their follow-ups, and one
check that everything that came out has the shape that the contract promises.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from river import linear_model, optim

from operators.arrival import Arrived
from operators.decide import Adopt, Decide
from operators.ids import hash32
from operators.learn import Learner
from operators.outputs import Example, Outputs, Record
from operators.parameters import LocalParameters, Parameters, ParameterSet, parameter_set
from operators.plan import Plan
from operators.profile import Profile
from operators.score import Scorer, Scores
from schemas.decisions import Decision, Late, Outcome, SegmentChange
from tests.operators.builders import T0, arrived, nothing_recorded, profile

SECOND: Final = 1_000
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR


class PaperFtrl(optim.base.Optimizer):
    """Algorithm 1 of McMahan et al. (2013) with lambda1 = 0, one coordinate at a time.

    The yardstick of the product's own: plain Python, dictionaries, nothing shared with it.
    """

    def __init__(self, alpha: float = 0.1, beta: float = 1.0, l2: float = 1.0) -> None:
        self.alpha, self.beta, self.l2 = alpha, beta, l2
        self.z: dict[Any, float] = {}
        self.n: dict[Any, float] = {}
        self.n_iterations = 0

    def weight(self, cell: Any) -> float:
        """The weight that follows from the gradients seen so far."""
        scale = (self.beta + math.sqrt(self.n.get(cell, 0.0))) / self.alpha + self.l2
        return -self.z.get(cell, 0.0) / scale

    def _step_with_dict(self, w: Any, g: Any) -> Any:
        for cell, slope in g.items():
            before = self.n.get(cell, 0.0)
            sigma = (math.sqrt(before + slope * slope) - math.sqrt(before)) / self.alpha
            self.z[cell] = self.z.get(cell, 0.0) + slope - sigma * self.weight(cell)
            self.n[cell] = before + slope * slope
            w[cell] = self.weight(cell)
        return w


class PaperModel:
    """River's own logistic regression with `PaperFtrl` and the weights of Ktena et al. (2019)."""

    def __init__(
        self,
        *,
        base_rate: float = 0.05,
        implicit: bool = False,
        alpha: float = 0.1,
        l2: float = 1.0,
    ) -> None:
        self._implicit = implicit
        self._step = PaperFtrl(alpha, l2=l2)
        self._river: Any = linear_model.LogisticRegression(
            optimizer=self._step, intercept_init=logit(base_rate), intercept_lr=0.0
        )

    def predict(self, cells: Mapping[int, float]) -> float:
        """P(reward), by River."""
        return float(self._river.predict_proba_one(cells)[True])

    def learn(self, cells: Mapping[int, float], *, rewarded: bool, weight: float) -> None:
        """One step, with the importance weight of a fake negative or its correction."""
        p = self.predict(cells)
        weight *= (1 + p) if rewarded else (1 - p) * (1 + p)
        if self._implicit:
            weight *= self._held_back(cells, p, float(rewarded), weight)
        self._river.learn_one(cells, rewarded, w=weight)

    def _held_back(
        self, cells: Mapping[int, float], p: float, truth: float, weight: float
    ) -> float:
        """The share of a plain step after which its own gradient is what is left of the slope."""
        step = self._step
        reach = sum(
            count * count / ((step.beta + math.sqrt(step.n.get(cell, 0.0))) / step.alpha + step.l2)
            for cell, count in cells.items()
        )
        low, high = 0.0, 1.0
        for _ in range(60):
            share = (low + high) / 2
            after = logit(p) - reach * share * weight * (p - truth)
            left = (1 / (1 + math.exp(-after)) - truth) / (p - truth)
            low, high = (share, high) if left > share else (low, share)
        # A step of one in log-odds is never held back.
        return min(1.0, max(low, 1.0 / (reach * weight * abs(p - truth))))


def rivers(taught: Learner) -> PaperModel:
    """What River would be with the step and regularisation of a learner's own model."""
    own = taught._classifier
    return PaperModel(implicit=True, alpha=own.alpha, l2=own.l2)


def logit(probability: float) -> float:
    """The log-odds of a probability."""
    return math.log(probability / (1.0 - probability))


def known_set(
    of: Plan,
    probabilities: Mapping[str, float],
    *,
    model: str = "home",
    bits: int = 18,
    rewarded: int = 0,
    counter: int = 1,
) -> ParameterSet:
    """A parameter set under which every profile rewards each named content so often (others: 1/2).

    Each content's own cell with the bias carries its log-odds, for every reward kind.
    """
    heads = of.placements[model].heads
    weights = np.zeros((len(heads), 1 << bits), np.float32)
    for content_id, probability in probabilities.items():
        cell = (hash32("1") + hash32(f"content:id={content_id}")) & ((1 << bits) - 1)
        weights[:, cell] = logit(probability)
    return parameter_set(
        model=model,
        incarnation="test",
        counter=counter,
        decisions=0.0,
        examples=0,
        rewarded=rewarded,
        learned_to_ms=T0,
        heads=heads,
        intercepts=np.zeros(len(heads), np.float32),
        weights=weights,
        digest="0",
    )


def scorer_of(
    of: Plan, parameters: ParameterSet, *, values: Scores | None = None, model: str = "home"
) -> Scorer:
    """A scorer over a plan's whole catalogue, with the placement's values unless told otherwise."""
    placement = of.placements[model]
    return Scorer(
        parameters,
        cells=placement.cells,
        real=placement.real,
        values=placement.values if values is None else values,
    )


def deciding(
    of: Plan,
    *,
    parameters: ParameterSet | Parameters | None = None,
    adopt: Adopt = nothing_recorded,
) -> Decide:
    """The machine that decides, with these parameters taken over already."""
    store: Parameters
    if isinstance(parameters, ParameterSet):
        store = LocalParameters()
        store.publish(parameters)
    else:
        store = parameters or LocalParameters()
    machine = Decide(of, store, adopt=adopt)
    machine.refresh()
    return machine


def follow(
    machine: Decide, events: Iterable[Arrived], *, person: Profile | None = None
) -> tuple[Profile, Outputs]:
    """Apply events to one profile; what it is then, and all that came out (checked for shape)."""
    person = person or profile()
    out = Outputs()
    for event in events:
        machine.apply(person, event, shard=0, out=out)
    check_shapes(out)
    return person, out


def decide_once(
    machine: Decide, event: Arrived, *, person: Profile | None = None
) -> tuple[Record, Profile, Outputs]:
    """Apply one event that triggers one decision; its record, the profile and all outputs."""
    person, out = follow(machine, [event], person=person)
    [made] = out.decisions
    return made.record, person, out


def check_shapes(out: Outputs) -> None:
    """Everything that came out validates against the contract, and its numbers agree."""
    for made in out.decisions:
        decision = Decision.model_validate(made.record)
        product = math.prod(item.propensity for item in decision.items)
        assert math.isclose(decision.slate_propensity, product, rel_tol=1e-12, abs_tol=1e-300)
        assert [item.rank for item in decision.items] == list(range(1, len(decision.items) + 1))
        assert len({item.content_id for item in decision.items}) == len(decision.items)
    for outcome in out.outcomes:
        Outcome.model_validate(outcome)
    for change in out.changes:
        SegmentChange.model_validate(change)
    for late in out.late:
        Late.model_validate(late)


def content_ids(record: Record) -> list[str]:
    """The contents of a decision, from the top."""
    return [item["content_id"] for item in record["items"]]


def impression_of(record: Record, *, at: int = T0, **fields: Any) -> Arrived:
    """The report that a decision's items were shown."""
    return arrived("impression", at=at, decision_id=record["decision_id"], **fields)


def click(content_id: str | None, *, at: int = T0, type: str = "click", **fields: Any) -> Arrived:
    """A click on a content (or another event that is a reward)."""
    return arrived(type, at=at, content_id=content_id, **fields)


def features_of(of: Plan, *cells: int, model: str = "home") -> bytes:
    """Logged features: the given profile cells, or those of a profile nothing is known of."""
    found = list(cells) or of.placements[model].features.cells(profile(), T0, {})
    return np.array(found, np.uint32).tobytes()


def example(
    of: Plan,
    content_id: str,
    *,
    kind: str | None = None,
    weight: float = 1.0,
    features: bytes | None = None,
    at: int = T0,
    model: str = "home",
) -> Example:
    """One example; a negative unless a reward kind is given."""
    logged = features_of(of, model=model) if features is None else features
    return Example(model, content_id, logged, kind, weight, at)


def learner(of: Plan, *, incarnation: str = "life1", model: str = "home") -> Learner:
    """A learner that has learned nothing yet."""
    return Learner(model, of, incarnation=incarnation)


def all_positions(of: Plan) -> npt.NDArray[np.intp]:
    """Every content of the catalogue as a candidate."""
    return np.arange(len(of.contents.ids))
