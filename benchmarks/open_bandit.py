"""What would our policies earn on the Open Bandit log, and how sure can anybody be of that?

The log (Saito et al., "Open bandit dataset and pipeline", 2021) is of a fashion shop that showed
items uniformly at random; a click is the reward. Each row is decided anew by the flow's own
features, learner, scores and draw, with defaults throughout, and learned afterwards: no row is
judged by a model that has seen it. Two ways:

- learning from the whole log, weighed by propensity (benchmarks/off_policy.py);
- replay, learning only from rows in which the policy would have shown the same, as if it were live.

The log lies in the folder OPEN_BANDIT_DATA, or in shared/data/obd beside the repository, as
`random/CAMPAIGN/CAMPAIGN.csv` and `item_context.csv` of that campaign.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from benchmarks.errors import BenchmarkUnavailable
from benchmarks.off_policy import Estimate, judge, share
from benchmarks.tables import Table, number
from flows.load import plan_of
from operators.explore import draw_slate, propensities
from operators.ids import uniform
from operators.learn import Learner
from operators.moment import Moment
from operators.outputs import Example
from operators.parameters import LocalParameters
from operators.plan import Plan
from operators.predict import Predictor
from operators.profile import Profile
from operators.score import Scores
from operators.scoring import Scoring, pack_cells
from schemas.catalogue import Content
from schemas.events import Scalar
from schemas.learning import Exploration
from schemas.policy import Policy
from schemas.time import to_millis

FOLDER: Final = "OPEN_BANDIT_DATA"
_BESIDE: Final = Path(__file__).resolve().parents[2] / "shared" / "data" / "obd"
_USER: Final = tuple(f"user_feature_{i}" for i in range(4))
_LEVEL: Final = 4

_LEARNING: Final[dict[str, dict[str, Any]]] = {
    "shared": {"features": {"context": [*_USER, "position"]}},
    "popularity": {"model": {"kind": "popularity"}},
}
POLICIES: Final[dict[str, tuple[str, Exploration]]] = {
    "uniform": ("shared", Exploration(kind="uniform")),
    "greedy": ("shared", Exploration(kind="greedy")),
    "inverse-gap weighting": ("shared", Exploration()),
    "Thompson": ("shared", Exploration(kind="thompson")),
    "popularity, inverse-gap weighting": ("popularity", Exploration()),
}
"""Name: which learner, and how it explores."""


class Row(NamedTuple):
    """One decision of the log: who asked and where, what was shown, what came of it."""

    at_ms: int
    context: dict[str, Scalar]
    content_id: str
    clicked: bool
    propensity: float


@dataclass(frozen=True)
class Campaign:
    """One log and its items, in order of time."""

    name: str
    contents: list[Content]
    rows: list[Row]

    @property
    def clicks(self) -> int:
        """How many rows were rewarded: what all estimates rest on."""
        return sum(row.clicked for row in self.rows)


def campaigns(folder: Path, *, most: int | None = None) -> list[Campaign]:
    """The campaigns of the random log; BenchmarkUnavailable where there are none."""
    found = sorted(folder.glob("random/*/item_context.csv"))
    if not found:
        raise BenchmarkUnavailable(
            f"no random log of the Open Bandit dataset; set {FOLDER} to the folder that has it"
        )
    return [_campaign(items.parent, most) for items in found]


def _campaign(folder: Path, most: int | None) -> Campaign:
    with (folder / "item_context.csv").open(encoding="utf-8", newline="") as lines:
        contents = [
            Content(
                content_id=item["item_id"],
                type="item",
                attributes={
                    name: float(value) if name == "item_feature_0" else value
                    for name, value in item.items()
                    if name.startswith("item_feature_")
                },
            )
            for item in csv.DictReader(lines)
        ]
    with (folder / f"{folder.name}.csv").open(encoding="utf-8", newline="") as lines:
        rows = [
            Row(
                to_millis(datetime.fromisoformat(line["timestamp"])),
                {**{name: line[name] for name in _USER}, "position": int(line["position"])},
                line["item_id"],
                line["click"] == "1",
                float(line["propensity_score"]),
            )
            for line in csv.DictReader(lines)
        ]
    rows.sort(key=lambda row: row.at_ms)
    return Campaign(folder.name, contents, rows[:most])


def _plan(contents: list[Content]) -> Plan:
    policy = {
        "name": "open_bandit",
        "rewards": {"click": {"events": "click", "value": 1, "within": "30m"}},
        "placements": {name: {"rewards": ["click"], **its} for name, its in _LEARNING.items()},
    }
    return plan_of(Policy.model_validate(policy), contents)


class Brain:
    """One learner and what it knows so far: the machinery of the flow, row by row."""

    def __init__(self, plan: Plan, model: str) -> None:
        self._model = model
        self._placement = plan.placements[model]
        self._parameters = LocalParameters()
        predictor = Predictor(plan.predictions, self._parameters, plan.hashes)
        self._scoring = Scoring(plan, self._parameters, predictor)
        self._learner = Learner(model, plan, incarnation="benchmark")
        self._nobody = Profile("nobody", 0, 0)
        self._everything = np.arange(len(plan.contents.ids))
        self._cells: list[int] = []
        self.scores: Scores | None = None
        self.spread: Scores | None = None
        self.scale: float | None = None
        self.rewarded = 0

    def look(self, row: Row) -> None:
        """Score all items for a row, with what was learned of the rows before."""
        moment = Moment(row.at_ms, row.context)
        self._cells = self._scoring.cells_of(self._placement, self._nobody, moment, _LEVEL)
        scorer = self._scoring.scorer(self._placement)
        if scorer is not None:
            self.scores = scorer.score(self._cells, self._everything)
            self.spread = scorer.spread(self._cells, self._everything)
            self.scale = scorer.scale(self._cells, self._everything)
            self.rewarded = scorer.parameters.rewarded

    def learn(self, row: Row) -> None:
        """Learn the row last looked at."""
        cells = pack_cells(self._cells)
        kinds = (None, "click") if row.clicked else (None,)
        published, _ = self._learner.learn(
            Example(self._model, row.content_id, cells, kind, 1.0, row.at_ms) for kind in kinds
        )
        for parameters in published:
            self._parameters.publish(parameters)
        if published:
            self._scoring.refresh()


def _off_policy(campaign: Campaign) -> Iterable[tuple[str, ...]]:
    plan = _plan(campaign.contents)
    index, count, rows = plan.contents.index, len(plan.contents.ids), len(campaign.rows)
    brains = {model: Brain(plan, model) for model in _LEARNING}
    weights = {name: np.empty(rows) for name in POLICIES}
    foreseen = {name: np.zeros(rows) for name in POLICIES}
    foreseen_shown = {name: np.zeros(rows) for name in POLICIES}
    for n, row in enumerate(campaign.rows):
        at = index[row.content_id]
        for brain in brains.values():
            brain.look(row)
        for name, (model, exploration) in POLICIES.items():
            brain = brains[model]
            shares = propensities(
                brain.scores,
                count=count,
                exploration=exploration,
                rewarded=brain.rewarded,
                scale=brain.scale,
                spread=brain.spread,
                noise_of=f"{campaign.name}|{n}",
            )
            weights[name][n] = shares[at] / row.propensity
            if brain.scores is not None:
                foreseen[name][n] = shares @ brain.scores
                foreseen_shown[name][n] = brain.scores[at]
        for brain in brains.values():
            brain.learn(row)
    rewards = np.array([float(row.clicked) for row in campaign.rows])
    rarest = min(row.propensity for row in campaign.rows)
    for name, (_, exploration) in POLICIES.items():
        judged = judge(
            rewards,
            weights[name],
            largest=(1 / count if exploration.kind == "uniform" else 1.0) / rarest,
            foreseen=foreseen[name],
            foreseen_shown=foreseen_shown[name],
        )
        yield (
            f"{campaign.name}: {name}",
            _thousandths(judged.ips),
            _thousandths(judged.snips),
            _thousandths(judged.dr),
            number(judged.effective),
        )


def _replay(campaign: Campaign, name: str, *, seeds: int) -> tuple[str, ...]:
    model, exploration = POLICIES[name]
    plan = _plan(campaign.contents)
    index, count = plan.contents.index, len(plan.contents.ids)
    matched, clicks = [], []
    for seed in range(seeds):
        brain, same, clicked = Brain(plan, model), 0, 0
        for n, row in enumerate(campaign.rows):
            brain.look(row)
            identity = f"{campaign.name}|{seed}|{n}"
            drawn = draw_slate(
                brain.scores,
                count=count,
                slots=1,
                exploration=exploration,
                rewarded=brain.rewarded,
                chances=[uniform(identity)],
                scale=brain.scale,
                spread=brain.spread,
                noise_of=identity,
            )[0]
            if drawn.position == index[row.content_id]:
                same, clicked = same + 1, clicked + row.clicked
                brain.learn(row)
        matched.append(same)
        clicks.append(clicked)
    # Seeds draw from the same rows: more of them do not narrow the interval of one.
    middle = sorted(range(seeds), key=lambda s: clicks[s] / max(1, matched[s]))[seeds // 2]
    return (
        f"{campaign.name}: {name}",
        _thousandths(share(clicks[middle] / max(1, matched[middle]), matched[middle])),
        f"{min(matched)} to {max(matched)}",
        f"{min(clicks)} to {max(clicks)}",
    )


def _thousandths(estimate: Estimate) -> str:
    value, low, high = (1_000 * x for x in estimate)
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def measure(*, quick: bool) -> list[Table]:
    """Clicks per thousand decisions by policy, campaign and estimator."""
    most, seeds = (300, 1) if quick else (None, 5)
    logs = campaigns(Path(os.environ.get(FOLDER, _BESIDE)), most=most)
    facts = "; ".join(
        f"{log.name}: {len(log.rows):,} rows, {log.clicks} clicks, {len(log.contents)} items"
        for log in logs
    )
    little = (
        f"{facts}. So few clicks tell little: where intervals overlap nothing is said of which "
        "policy is better, and here nearly all do."
    )
    return [
        Table(
            "Open Bandit, random log: clicks per 1,000 decisions, learning from the whole log",
            ("campaign: policy", "IPS", "SNIPS", "DR", "effective sample size"),
            tuple(row for log in logs for row in _off_policy(log)),
            (
                little,
                "95 % intervals in brackets: of IPS and DR the empirical Bernstein bound, which "
                "always holds and is wide; of SNIPS Wilson's for the effective sample size (how "
                "many rows of its own the policy is worth), which holds about.",
                "Each row is decided before it is learned. The policies share a learner, but for "
                "popularity, whose model is the same for everybody.",
            ),
        ),
        Table(
            "Open Bandit, random log: clicks per 1,000 decisions, replay as if live",
            ("campaign: policy", "replay", "rows it would have shown", "their clicks"),
            tuple(_replay(log, name, seeds=seeds) for log in logs for name in POLICIES),
            (
                f"Of {seeds} seeds the middle one with its 95 % interval (Wilson); ranges are over "
                "seeds. A policy learns from these few rows alone, so this judges its first steps.",
            ),
        ),
    ]
