"""What does one decision cost, part by part and by kind of exploration, beside Vowpal Wabbit's?

Profiles and requests are those of the flow's own log, the model is what it learned from it. Vowpal
Wabbit gets as many profile features and the same features of the same candidates, with the same
crosses (`-q`); its probabilities are not yet a decision: nothing is narrowed, drawn or recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np

from benchmarks.measure import cpu_us
from benchmarks.stages import Bench
from benchmarks.tables import Table, number
from benchmarks.workload import PLACEMENT, batches, decoder_of
from operators.arrival import Arrived, group_by_shard
from operators.candidates import Eligibility
from operators.choose import Chooser
from operators.explore import Drawn, draw_slate
from operators.features import content_features
from operators.ids import uniform
from operators.moment import Moment
from operators.outputs import Record
from operators.predict import Predictor
from operators.profile import Profile
from operators.records import decision_record
from operators.score import Scores
from operators.scoring import Scoring
from schemas.learning import Exploration

CANDIDATES: Final = (30, 300, 1_000)
KINDS: Final = ("igw", "epsilon_greedy", "softmax", "thompson", "uniform", "greedy")
_PROFILES: Final = 1_000


class Asked(NamedTuple):
    """One request, and whose it is."""

    profile: Profile
    event: Arrived
    moment: Moment


class Desk:
    """Everything that a decision among so many candidates needs, with a model that has learned."""

    def __init__(self, candidates: int, *, warm: int, requests: int) -> None:
        bench = Bench(candidates, profiles=min(_PROFILES, warm))
        bench.run(bench.log(warm))
        log = bench.log(requests)
        bench.run(log)
        self.plan = bench.plan
        self.placement = bench.plan.placements[PLACEMENT]
        predictor = Predictor(self.plan.predictions, bench.parameters, self.plan.hashes)
        self.scoring = Scoring(self.plan, bench.parameters, predictor)
        self.scoring.refresh()
        self.chooser = Chooser(self.plan, bench.parameters, predictor)
        self.chooser.refresh()
        self.eligibility = Eligibility(self.placement, self.plan.contents)
        shards = bench.machines.shards
        found = [
            (profile, event)
            for batch in batches([sent for sent in log if sent.type == "decision_requested"])
            for shard, events in group_by_shard(
                decoder_of(self.plan).decode(batch).arrived, shards=len(shards)
            ).items()
            for event in events
            if (profile := shards[shard].look(event.profile_id)) is not None
        ]
        now_ms = max(profile.now_ms for profile, _ in found)
        self.asked = [Asked(p, e, Moment(now_ms, e.context)) for p, e in found]

    def cells(self, asked: Asked) -> list[int]:
        """The profile's features as a decision logs them."""
        level = self.placement.policy.level
        return self.scoring.cells_of(self.placement, asked.profile, asked.moment, level)

    def choose(self, asked: Asked) -> Any:
        """The choice, without its record."""
        identity = asked.event.event_id
        return self.chooser.choose(
            asked.profile, asked.event, self.placement, identity, None, asked.moment
        )

    def decide(self, asked: Asked) -> Record:
        """The record of the choice."""
        return decision_record(
            asked.profile,
            asked.event,
            self.placement,
            asked.event.event_id,
            None,
            [],
            self.choose(asked),
            asked.moment,
            self.plan,
        )


def _parts(desk: Desk, *, runs: int) -> dict[str, float]:
    scorer = desk.scoring.scorer(desk.placement)
    assert scorer is not None, "the log is long enough for a first parameter set"
    everything = np.arange(len(desk.plan.contents.ids))
    asked = desk.asked
    cells = [desk.cells(one) for one in asked]
    scores = [scorer.score(own, everything) for own in cells]
    rule = desk.placement.policy.exploration
    works: dict[str, Callable[[], object]] = {
        "candidates": lambda: [
            desk.eligibility.narrow(one.profile, one.moment, asked=None) for one in asked
        ],
        "features": lambda: [desk.cells(one) for one in asked],
        "score": lambda: [scorer.score(own, everything) for own in cells],
        "draw": lambda: [
            _draw(known, rule, one.event.event_id) for known, one in zip(scores, asked, strict=True)
        ],
        "choose, all of it": lambda: [desk.choose(one) for one in asked],
        "choose and record": lambda: [desk.decide(one) for one in asked],
    }
    return {name: cpu_us(work, per=len(asked), runs=runs) for name, work in works.items()}


def _draw(
    scores: Scores,
    rule: Exploration,
    identity: str,
    *,
    slots: int = 1,
    spread: Scores | None = None,
) -> list[Drawn]:
    return draw_slate(
        scores,
        count=len(scores),
        slots=slots,
        exploration=rule,
        rewarded=100,
        chances=[uniform(f"{identity}|{rank}") for rank in range(slots)],
        spread=spread,
        noise_of=identity,
    )


def _vowpal(desk: Desk, *, runs: int) -> dict[str, float]:
    try:
        from vowpalwabbit import Workspace
    except ImportError:
        return {}
    sensitive = desk.plan.policy.sensitive
    lines = [
        "|c " + " ".join(content_features(content, sensitive)[1:]).replace(":", "_")
        for content in desk.plan.contents.by_id.values()
    ]
    few = desk.asked[: max(20, 6_000 // len(lines))]
    examples = [
        "\n".join(["shared |p " + " ".join(f"f{cell}" for cell in desk.cells(one)), *lines])
        for one in few
    ]
    vowpal = Workspace("--cb_explore_adf --squarecb -q pc --quiet --random_seed 1")
    for n, example in enumerate(examples[:20]):
        head, *rest = example.split("\n")
        at = n % len(rest)
        rest[at] = f"0:{-(n % 2)}:{1 / len(rest)} {rest[at]}"
        vowpal.learn("\n".join([head, *rest]))

    def text() -> None:
        for example in examples:
            vowpal.predict(example)

    parsed = [vowpal.parse(example) for example in examples]

    def ready() -> None:
        for example in parsed:
            vowpal.predict(example)

    costs = {
        "Vowpal Wabbit squarecb, probabilities from text": cpu_us(
            text, per=len(examples), runs=runs
        ),
        "… from examples parsed before": cpu_us(ready, per=len(examples), runs=runs),
    }
    for example in parsed:
        vowpal.finish_example(example)
    vowpal.finish()
    return costs


def _by_kind(kind: str, *, slots: int, draws: int, runs: int) -> list[str]:
    rng = np.random.default_rng(1)
    rule = Exploration.model_validate({"kind": kind})
    cells = []
    for candidates in CANDIDATES:
        scores = rng.random((draws, candidates)) * 0.1
        spread = scores * 0.3

        def work(scores: Scores = scores, spread: Scores = spread) -> None:
            for n, known in enumerate(scores):
                _draw(known, rule, str(n), slots=slots, spread=spread[n])

        cells.append(number(cpu_us(work, per=draws, runs=runs)))
    return cells


def measure(*, quick: bool) -> list[Table]:
    """Costs by part beside Vowpal Wabbit's, and of the draw by kind."""
    warm, requests, draws, runs = (300, 100, 10, 1) if quick else (3_000, 1_500, 300, 5)
    parts: dict[int, dict[str, float]] = {}
    for candidates in CANDIDATES:
        desk = Desk(candidates, warm=warm, requests=requests)
        parts[candidates] = _parts(desk, runs=runs) | _vowpal(desk, runs=runs)
    columns = tuple(f"K = {candidates:,}" for candidates in CANDIDATES)
    return [
        Table(
            "One decision, CPU µs",
            ("part", *columns),
            tuple(
                (name, *(number(parts[candidates][name]) for candidates in CANDIDATES))
                for name in parts[CANDIDATES[0]]
            ),
            (
                f"Median of {runs} runs; one slot, two reward kinds, the shared model.",
                "Each part by itself, in a loop that keeps it in the processor's caches: what they "
                "leave of the whole is glue and caches.",
                "Vowpal Wabbit is measured where it is installed (`pip install vowpalwabbit`).",
            ),
        ),
        Table(
            "The draw by kind of exploration, CPU µs",
            ("kind, slots", *columns),
            tuple(
                (f"{kind}, {slots}", *_by_kind(kind, slots=slots, draws=draws, runs=runs))
                for kind in KINDS
                for slots in (1, 3)
            ),
            (
                f"Median of {runs} runs. Thompson takes {Exploration().draws} samples of every "
                "score; for more slots they are taken once.",
            ),
        ),
    ]
