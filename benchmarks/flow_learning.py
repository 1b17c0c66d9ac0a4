"""Does the policy learn as well inside the whole flow as its bare parts do in a loop?

The simulation of `benchmarks.bandit_world`, the same visitors, contents, luck and delays twice:
once with learner, scorer and draw called one after the other (`benchmarks.bandit_players.Ours`, as
in `benchmarks.bandit`), once through the dataflow in the engine, where requests, impressions and
clicks are events in JSON, attribution finds what a click belongs to, and parameter sets are
published from one step to the other. Results go to `benchmarks/results/flow_learning.json`.
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
from typing import Any, Final

import numpy as np
import orjson

from benchmarks.bandit_players import Ours, bandit_plan, play
from benchmarks.bandit_players import Tally as Played
from benchmarks.bandit_world import Setting, Visit, World
from benchmarks.tables import Table
from flows.replay import run_lockstep
from flows.tally import Tally
from operators.outputs import Outputs, Record
from schemas.records import RawBatch, RawRecord
from schemas.time import SECOND, rfc3339

RESULTS: Final = Path(__file__).resolve().parent / "results" / "flow_learning.json"
DELAYS: Final = (0, 300)
_STEPS: Final = 8_000
_SEEDS: Final = (1, 2, 3, 4, 5, 6)
_T0: Final = 1_767_225_600_000
_AT_ONCE: Final = 20
"""Visits in one batch of the flow: what is decided in it is reported in the next."""
_SHARDS: Final = 4
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
            "placement": "home",
            "context": {f"f{n:02d}": f"v{value}" for n, value in enumerate(visit.values)},
            "candidates": [self._names[at] for at in visit.live],
        }

    def _shown(self, made: Any) -> list[Record]:
        """The impression of a decision; its click as well unless that comes late."""
        record = made.record
        step = int(record["trigger"]["event_id"])
        visit = self._open.pop(step)
        [item] = record["items"]
        assert record["fallback"] is None and item["learnable"]
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
    assert tally.decisions == setting.steps and not tally.dead_letters and examples
    return front.tally


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
        flow = [through_the_flow(setting, seed=seed, delay=delay) for seed in seeds]
        pairs = list(zip(seeds, bare, flow, strict=True))
        for name, found in (("bare parts", bare), ("whole flow", flow)):
            table.append(
                (
                    f"{delay:,}" if delay else "none",
                    name,
                    _interval([one.closed for one in found]),
                    _interval([one.regret for one in found], 1),
                    _interval([f.closed - b.closed for _, b, f in pairs]) if found is flow else "–",
                )
            )
        kept += [
            {
                "delay": delay,
                "seed": seed,
                "steps": steps,
                "bare": {"gap_closed": round(b.closed, 4), "regret": round(b.regret, 2)},
                "flow": {"gap_closed": round(f.closed, 4), "regret": round(f.regret, 2)},
            }
            for seed, b, f in pairs
        ]
    if not quick:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_bytes(orjson.dumps(kept, option=orjson.OPT_INDENT_2) + b"\n")
    return [
        Table(
            "The same policy as bare parts and through the whole flow",
            ("mean delay, steps", "what", "gap closed", "regret", "gap closed, flow less bare"),
            tuple(table),
            (
                f"{steps:,} visits, {len(seeds)} seeds; mean ± 95 % (Student's t over seeds), the "
                "difference over pairs. Visitors, contents, luck and delays are the same; what is "
                "drawn is not, since chance follows from the decision's id.",
                f"The flow takes {_AT_ONCE} visits at a time and hears of them in the next batch; "
                "the bare parts learn after every visit.",
            ),
        )
    ]
