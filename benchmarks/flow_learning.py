"""Does the policy learn as well inside the whole flow as its bare parts do in a loop?

The simulation of `benchmarks.bandit_world`, the same visitors, contents, luck and delays three
times: with learner, scorer and draw called one after the other (`benchmarks.bandit_players.Ours`,
as in `benchmarks.bandit`); through the dataflow in the engine, where requests, impressions and
clicks are events in JSON, attribution finds what a click belongs to, and parameter sets are
published from one step to the other; and with the bare parts again, but given the flow's events in
the flow's batches: what the flow makes of the parts is then told apart from what batches cost.
Results go to `benchmarks/results/flow_learning.json`.
"""

from __future__ import annotations

import heapq
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import orjson

from benchmarks.bandit_players import Ours, bandit_plan, play
from benchmarks.bandit_players import Tally as Played
from benchmarks.bandit_world import Setting, Visit, World
from benchmarks.tables import Table
from flows.replay import run_lockstep
from flows.tally import Tally
from operators.explore import draw_slate
from operators.ids import decision_id, uniform
from operators.learn import Learner
from operators.outputs import Example, Made, Outputs, Record
from operators.plan import Plan
from operators.profile import Profile
from operators.score import Scorer, scorer_of
from schemas.records import RawBatch, RawRecord
from schemas.time import SECOND, rfc3339

RESULTS: Final = Path(__file__).resolve().parent / "results" / "flow_learning.json"
DELAYS: Final = (0, 300)
_STEPS: Final = 8_000
_SEEDS: Final = (1, 2, 3, 4, 5, 6, 7, 8)
_PLACEMENT: Final = "home"
_T0: Final = 1_767_225_600_000
_AT_ONCE: Final = 20
"""Visits in one batch of the flow: what is decided in it is reported in the next."""
_SHARDS: Final = 1
"""One, so that what is taught is taught in the order of the events."""
_STUDENT: Final = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36}


class Front:
    """The shop front: sends events to the flow, and reacts to what it decided."""

    def __init__(self, setting: Setting, *, seed: int, delay: float) -> None:
        self.world = World(setting, seed)
        self.tally = Played()
        self._visits: Iterator[tuple[int, Visit]] = enumerate(self.world.visits())
        self._names = [content.name for content in self.world.contents]
        self._delay = delay
        # As `play` draws them.
        self._late = np.random.default_rng(seed + 10_000).exponential(delay or 1.0, setting.steps)
        self._due: list[tuple[float, int, Record]] = []
        self._open: dict[int, Visit] = {}
        self._step = self._sent = 0

    def following(self, outputs: list[Outputs]) -> RawBatch | None:
        """The next visits, after what came of those that were decided on; None at the end."""
        sent = [event for out in outputs for made in out.decisions for event in self._shown(made)]
        visits = list(islice(self._visits, _AT_ONCE))
        if visits:
            self._step = visits[0][0]
        elif not sent and not self._due:
            assert not self._open, "every visit was decided on"
            return None
        while self._due and (self._due[0][0] <= self._step or not visits):
            sent.append(heapq.heappop(self._due)[2])
        for step, visit in visits:
            self._open[step] = visit
            sent.append(self._request(step, visit))
        return RawBatch("visits", 0, 1, [self._record(event) for event in sent])

    def _request(self, step: int, visit: Visit) -> Record:
        return {
            "type": "decision_requested",
            "user_id": f"u{step}",
            "event_id": f"{step}",
            "placement": _PLACEMENT,
            "context": {f"f{n:02d}": f"v{value}" for n, value in enumerate(visit.values)},
            "candidates": [self._names[at] for at in visit.live],
        }

    def _shown(self, made: Made) -> list[Record]:
        """The impression of a decision; its click as well unless that comes late."""
        record = made.record
        step = int(record["trigger"]["event_id"])
        visit = self._open.pop(step)
        [item] = record["items"]
        assert record["fallback"] is None
        assert item["learnable"]
        chosen = self._names.index(item["content_id"])
        probability = float(visit.probabilities[visit.live.tolist().index(chosen)])
        self.tally.got += probability
        self.tally.best += float(visit.probabilities.max())
        self.tally.blind += float(visit.probabilities.mean())
        about = {"user_id": f"u{step}", "decision_id": record["decision_id"]}
        events = [{"type": "impression", "event_id": f"{step}.shown", **about}]
        if visit.luck < probability:
            click = {"type": "click", "event_id": f"{step}.click", **about}
            click["content_id"] = item["content_id"]
            if self._delay:
                heapq.heappush(self._due, (step + float(self._late[step]), step, click))
            else:
                events.append(click)
        return events

    def _record(self, event: Record) -> RawRecord:
        # Time goes on by a second with every visit; a batch is of one instant.
        at = _T0 + self._step * SECOND
        self._sent += 1
        dated = {**event, "occurred_at": rfc3339(at), "received_at": rfc3339(at)}
        return RawRecord(self._sent, at, None, orjson.dumps(dated), ())


def through_the_flow(setting: Setting, *, seed: int, delay: float) -> Played:
    """The simulation played by the whole dataflow; what it got."""
    front = Front(setting, seed=seed, delay=delay)
    plan = bandit_plan(front.world, candidates={"from": "request"})
    tally = Tally(plan)
    with TemporaryDirectory() as out:
        examples = run_lockstep(
            plan,
            front.following,
            out=Path(out),
            tally=tally,
            initial_clock_ms=_T0,
            shards=_SHARDS,
        )
        assert not (Path(out) / "late.jsonl").read_bytes()
    assert (tally.decisions, tally.dead_letters) == (setting.steps, 0)
    assert examples
    return front.tally


def in_the_same_batches(setting: Setting, *, seed: int, delay: float) -> Played:
    """The simulation played by learner, scorer and draw, told what the flow is told."""
    front = Front(setting, seed=seed, delay=delay)
    plan = bandit_plan(front.world, candidates={"from": "request"})
    parts = _Parts(plan)
    made: list[Made] = []
    while (batch := front.following([Outputs(decisions=made)])) is not None:
        made = parts.told([orjson.loads(record.value or b"") for record in batch.records])
    return front.tally


class _Parts:
    """The bare parts; no state of profiles, no attribution: each event says what it belongs to."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._placement = plan.models[_PLACEMENT]
        self._learner = Learner(_PLACEMENT, plan, incarnation="benchmark")
        self._scorer: Scorer | None = None
        self._seen: dict[str, tuple[str, bytes]] = {}

    def told(self, events: list[Record]) -> list[Made]:
        """Decide and learn; what was learned is used from the next batch on."""
        share = self._placement.policy.model.negatives
        made, examples = [], []
        for event in events:
            if event["type"] == "decision_requested":
                made.append(Made(self._decide(event), 0, False, 0))
                continue
            identity, kind, weight = event["decision_id"], None, 1.0
            content_id, features = self._seen[identity]
            if event["type"] == "click":
                kind = "click"
            else:
                if uniform(f"{identity}|{content_id}|negative") >= share:
                    continue
                weight = 1.0 / share
            examples.append(Example(_PLACEMENT, content_id, features, kind, weight, 0))
        published, _ = self._learner.learn(examples)
        if published:
            self._scorer = scorer_of(self._placement, self._plan.contents, published[-1])
        return made

    def _decide(self, event: Record) -> Record:
        identity = decision_id(
            shard=0,
            profile_id=event["user_id"],
            trigger_id=event["event_id"],
            placement=_PLACEMENT,
        )
        nobody, scorer = Profile("p", 0, 0), self._scorer
        cells = self._placement.features.cells(nobody, 0, event["context"])
        index = self._plan.contents.index
        positions = np.array(sorted(index[c] for c in event["candidates"]), np.intp)
        exploration = self._placement.policy.exploration
        scores = spread = None
        if scorer is not None:
            scores = scorer.score(cells, positions)
            if exploration.kind == "thompson" or exploration.optimism:
                spread = scorer.spread(cells, positions)
        [drawn] = draw_slate(
            scores,
            count=len(positions),
            slots=1,
            exploration=exploration,
            rewarded=0 if scorer is None else scorer.parameters.rewarded,
            chances=[uniform(f"{identity}|0")],
            spread=spread,
            noise_of=identity,
        )
        content_id = self._plan.contents.ids[positions[drawn.position]]
        self._seen[identity] = content_id, np.array(cells, np.uint32).tobytes()
        return {
            "decision_id": identity,
            "trigger": {"event_id": event["event_id"]},
            "items": [{"content_id": content_id, "learnable": drawn.learnable}],
            "fallback": None,
        }


def _interval(values: Sequence[float], digits: int = 3) -> str:
    """The mean with its 95 % interval by Student's t over seeds."""
    half = _STUDENT[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.fmean(values):.{digits}f} ± {half:.{digits}f}"


def measure(*, quick: bool) -> list[Table]:
    """The bare parts beside the whole flow, at once and late."""
    steps, seeds = (300, (1, 2)) if quick else (_STEPS, _SEEDS)
    setting = replace(Setting(), steps=steps)
    table: list[tuple[str, ...]] = []
    kept: list[Record] = []
    for delay in (0, 30) if quick else DELAYS:
        bare = [play(Ours, setting, seed=seed, delay=delay) for seed in seeds]
        parts = [in_the_same_batches(setting, seed=seed, delay=delay) for seed in seeds]
        flow = [through_the_flow(setting, seed=seed, delay=delay) for seed in seeds]
        for name, found in (
            ("whole flow", flow),
            ("bare parts, the same batches", parts),
            ("bare parts, visit by visit", bare),
        ):
            less = [f.closed - one.closed for f, one in zip(flow, found, strict=True)]
            table.append(
                (
                    f"{delay:,}" if delay else "none",
                    name,
                    _interval([one.closed for one in found]),
                    _interval([one.regret for one in found], 1),
                    "–" if found is flow else _interval(less),
                )
            )
            kept += [
                {
                    "delay": delay,
                    "seed": seed,
                    "steps": steps,
                    "what": name,
                    "gap_closed": round(one.closed, 4),
                    "regret": round(one.regret, 2),
                }
                for seed, one in zip(seeds, found, strict=True)
            ]
    if not quick:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_bytes(orjson.dumps(kept, option=orjson.OPT_INDENT_2) + b"\n")
    return [
        Table(
            "The same policy as bare parts and through the whole flow",
            ("mean delay, visits", "what", "gap closed", "regret", "flow's gap closed less this"),
            tuple(table),
            (
                f"{steps:,} visits, {len(seeds)} seeds; mean ± 95 % (Student's t over seeds), the "
                "difference over pairs. Visitors, contents, luck and delays are the same for all.",
                f"The flow takes {_AT_ONCE} visits at a time and hears of them in the next batch. "
                "In the same batches the bare parts draw by the same decision ids: any difference "
                "is the flow's. Visit by visit they learn at once and draw by other chances: there "
                "the difference is also that of two runs with different luck in exploring.",
            ),
        )
    ]
