"""What does one learned example cost beside River's own FTRL, and one scoring beside River's loop?

Both learners get the same examples: the crosses of a profile's and a content's features. River's is
`LogisticRegression` with `optim.FTRLProximal` on a dict of crosses; ours is the learner of the
flow, two reward kinds and the decoding of the logged features included, so its figure is given per
example and per step of one model. Scoring is the flow's (all candidates at once, from exported
parameters) beside `predict_proba_one` in a loop, for two reward kinds each.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from river import linear_model, optim

from benchmarks.measure import cpu_us
from benchmarks.tables import Table, number
from benchmarks.workload import PLACEMENT, plan
from operators.crosses import crosses_of
from operators.features import crossed_cells
from operators.learn import Learner
from operators.outputs import Example
from operators.parameters import ParameterSet
from operators.plan import Plan
from operators.score import scorer_of

CANDIDATES: Final = (30, 300, 1_000)
_PROFILE_FEATURES: Final = 13
_OPEN: Final = 400
"""Different profile features there are: bins, tags, hours, devices."""


def _examples(plan: Plan, count: int) -> list[Example]:
    rng = np.random.default_rng(1)
    vocabulary = rng.integers(1 << 32, size=_OPEN, dtype=np.uint64).astype(np.uint32)
    ids = plan.contents.ids
    return [
        Example(
            PLACEMENT,
            ids[int(rng.integers(len(ids)))],
            rng.choice(vocabulary, _PROFILE_FEATURES, replace=False).tobytes(),
            "click" if rng.random() < 0.1 else None,
            1.0,
            n,
        )
        for n in range(count)
    ]


def _crosses(plan: Plan, example: Example) -> dict[int, float]:
    placement = plan.placements[PLACEMENT]
    index = plan.contents.index[example.content_id]
    own = np.frombuffer(example.features, np.uint32).astype(np.int64)
    content = placement.cells[index][placement.real[index] > 0]
    return dict.fromkeys(crossed_cells(own, content, bits=placement.policy.model.bits), 1.0)


def _river() -> Any:
    return linear_model.LogisticRegression(optimizer=optim.FTRLProximal(alpha=0.1, l2=1.0))


def _learning(examples: list[Example], of: Plan, *, runs: int) -> Table:
    crosses = [(_crosses(of, example), int(example.kind is not None)) for example in examples]
    steps = sum(2 if example.kind is None else 1 for example in examples)

    def ours() -> None:
        Learner(PLACEMENT, of, incarnation="benchmark").learn(examples)

    def without_publishing() -> None:
        learner = Learner(PLACEMENT, of, incarnation="benchmark")
        for example in examples:
            learner._one(example)

    def rivers() -> None:
        model = _river()
        for features, label in crosses:
            model.learn_one(features, label)

    per_example = cpu_us(ours, per=len(examples), runs=runs)
    bare = cpu_us(without_publishing, per=len(examples), runs=runs)
    river = cpu_us(rivers, per=len(crosses), runs=runs)
    width = sum(len(features) for features, _ in crosses) / len(crosses)
    return Table(
        "Learning, CPU µs",
        ("learner", "per example", "per step of one model"),
        (
            ("ours, publishing included", number(per_example), "–"),
            ("ours", number(bare), number(bare * len(examples) / steps)),
            ("River's own FTRL, features ready", number(river), number(river)),
        ),
        (
            f"Median of {runs} runs over {len(examples):,} examples of {width:.0f} crosses each, "
            f"{steps / len(examples):.2f} model steps per example.",
        ),
    )


def _trained(of: Plan, examples: list[Example]) -> ParameterSet:
    learner = Learner(PLACEMENT, of, incarnation="benchmark")
    learner.learn(examples)
    return learner.publish()


def _scoring(contents: int, *, profiles: int, runs: int) -> tuple[str, ...]:
    of = plan(contents)
    placement = of.placements[PLACEMENT]
    trained = _trained(of, _examples(of, 300))
    scorer = scorer_of(placement, of.contents, trained)
    asked = [
        np.frombuffer(example.features, np.uint32).tolist() for example in _examples(of, profiles)
    ]
    everything = np.arange(contents)
    crosses = crosses_of(placement, of.contents)

    def fresh() -> None:
        new = scorer_of(placement, of.contents, trained, crosses=crosses)
        for cells in asked:
            new.score(cells, everything)

    def known() -> None:
        for cells in asked:
            scorer.score(cells, everything)

    model = _river()
    for example in _examples(of, 300):
        model.learn_one(_crosses(of, example), example.kind is not None)
    # River's loop takes milliseconds a decision: a few decisions say what it costs.
    few = [
        [
            _crosses(of, Example(PLACEMENT, c, np.array(a, np.uint32).tobytes(), None, 1, 0))
            for c in of.contents.ids
        ]
        for a in asked[:3]
    ]

    def loop() -> None:
        for crosses in few:
            for _head in placement.heads:
                for features in crosses:
                    model.predict_proba_one(features)

    known()
    ours = cpu_us(known, per=len(asked), runs=runs)
    river = cpu_us(loop, per=len(few), runs=runs)
    return (
        str(contents),
        number(ours),
        number(cpu_us(fresh, per=len(asked), runs=runs)),
        number(river),
        f"{river / ours:,.0f}",
    )


def measure(*, quick: bool) -> list[Table]:
    """Learning and scoring beside River's."""
    examples, profiles, runs = (200, 50, 1) if quick else (4_000, 1_000, 5)
    of = plan(30)
    return [
        _learning(_examples(of, examples), of, runs=runs),
        Table(
            "Scoring all candidates of one decision, CPU µs",
            (
                "candidates",
                "ours",
                "ours, just after a new parameter set",
                "River's loop, features ready",
                "times slower",
            ),
            tuple(_scoring(contents, profiles=profiles, runs=runs) for contents in CANDIDATES),
            (
                f"Median of {runs} runs; {_PROFILE_FEATURES} profile features, two reward kinds.",
                f"A new parameter set is scored {profiles:,} times here before the next one.",
            ),
        ),
    ]
