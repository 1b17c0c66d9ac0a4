"""What does each stage cost per event on one core? Pure calls, no engine.

The whole log goes through decode, route, DECIDE, encode and LEARN in batches of 1,000, as in the
flow. Then requests alone are timed, and each part of a decision by itself on the same profiles;
what the parts leave of the whole is the record, the pending outcome and the shard's own books.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from time import process_time
from typing import Final

from benchmarks.measure import cpu_us
from benchmarks.tables import Table, number, spread
from benchmarks.workload import (
    PLACEMENT,
    SHARDS,
    Machines,
    Sent,
    batches,
    decisions_in,
    decoder_of,
    machines,
    plan,
    visits,
)
from flows.encode import change_records, decision_records, outcome_records, parted
from flows.kafka.partitions import partition_of
from operators.arrival import Arrived, group_by_shard
from operators.candidates import Eligibility
from operators.explore import draw_slate
from operators.ids import uniform
from operators.learn import Learner
from operators.moment import Moment
from operators.outputs import Outputs
from operators.parameters import LocalParameters
from operators.plan import Plan
from operators.profile import Profile
from operators.score import scorer_of
from operators.segments import update_segments
from operators.shard import ShardBatch

CANDIDATES: Final = (30, 300)
PARTITIONS: Final = 8
STAGES: Final = ("decode", "route", "decide", "encode", "learn")
TYPES: Final = ("view", "decision_requested", "impression", "click")
PROFILES: Final = 6_000


class Bench:
    """One policy, its shards and its learner, fed with logs."""

    def __init__(self, contents: int, *, profiles: int) -> None:
        self.contents = contents
        self.profiles = profiles
        self.plan: Plan = plan(contents)
        self.parameters = LocalParameters()
        self.machines: Machines = machines(self.plan, self.parameters)
        self.learner = Learner(PLACEMENT, self.plan, incarnation="benchmark")
        self.decoder = decoder_of(self.plan)
        self.learned = 0
        self._logs = 0
        self._clock_ms = visits(1, profiles=1, contents=1)[0].at_ms

    def log(self, number_of_visits: int) -> list[Sent]:
        """The next stretch of the log; time goes on."""
        self._logs += 1
        log = visits(
            number_of_visits,
            profiles=self.profiles,
            contents=self.contents,
            start_ms=self._clock_ms,
            seed=self._logs,
        )
        self._clock_ms = log[-1].at_ms
        return log

    def run(self, log: list[Sent]) -> dict[str, float]:
        """Put a log through all stages; CPU seconds by stage."""
        cost: dict[str, float] = defaultdict(float)
        for batch in batches(log):
            marks = [process_time()]
            decoded = self.decoder.decode(batch)
            assert not decoded.dead_letters, decoded.dead_letters[0]
            marks.append(process_time())
            grouped = group_by_shard(decoded.arrived, shards=SHARDS)
            marks.append(process_time())
            outputs = self.decide(grouped, decoded.watermarks)
            marks.append(process_time())
            encode(outputs)
            marks.append(process_time())
            for out in outputs:
                published, learned = self.learner.learn(out.examples)
                self.learned += learned.total()
                if published:
                    self.parameters.publish(published[-1])
            marks.append(process_time())
            for stage, begin, end in zip(STAGES, marks, marks[1:], strict=False):
                cost[stage] += end - begin
        return cost

    def decide(
        self, grouped: dict[int, list[Arrived]], watermarks: tuple[tuple[int, int], ...]
    ) -> list[Outputs]:
        """One activation of each shard that has events."""
        shards = self.machines.shards
        self.machines.decide.refresh()
        outputs = [
            shards[shard].process(ShardBatch(shard, events, watermarks, 1))
            for shard, events in grouped.items()
        ]
        assert not any(out.late for out in outputs), "the log is in order: nothing may be late"
        return outputs

    def run_by_type(self, log: list[Sent]) -> dict[str, float]:
        """DECIDE alone; each batch is taken apart by type. CPU microseconds per event."""
        taken: dict[str, float] = defaultdict(float)
        seen: Counter[str] = Counter()
        for batch in batches(log):
            decoded = self.decoder.decode(batch)
            for kind in (*TYPES, "purchase"):
                same = [event for event in decoded.arrived if event.type == kind]
                grouped = group_by_shard(same, shards=SHARDS)
                started = process_time()
                self.decide(grouped, ())
                taken[kind] += process_time() - started
                seen[kind] += len(same)
        return {kind: taken[kind] / max(1, seen[kind]) * 1e6 for kind in TYPES}

    def parts(self, log: list[Sent], *, runs: int) -> dict[str, float]:
        """Each part of a decision by itself, on the profiles of the log's requests."""
        requests = [
            event
            for batch in batches([sent for sent in log if sent.type == "decision_requested"])
            for event in decoder_of(self.plan).decode(batch).arrived
        ]
        owners = group_by_shard(requests, shards=SHARDS)
        pairs = [
            (profile, event)
            for shard, events in owners.items()
            for event in events
            if (profile := self.machines.shards[shard].look(event.profile_id)) is not None
        ]
        return _parts(self.plan, self.parameters, pairs, runs=runs)


def _parts(
    plan: Plan, parameters: LocalParameters, pairs: list[tuple[Profile, Arrived]], *, runs: int
) -> dict[str, float]:
    placement = plan.placements[PLACEMENT]
    newest = parameters.latest(PLACEMENT)
    assert newest is not None, "the log is long enough for a first parameter set"
    scorer = scorer_of(placement, plan.contents, newest)
    eligibility = Eligibility(placement, plan.contents)
    exploration = placement.policy.exploration
    now_ms = max(profile.now_ms for profile, _ in pairs)
    found = [eligibility.narrow(p, Moment(now_ms, e.context), asked=None) for p, e in pairs]
    cells = [placement.features.cells(p, now_ms, e.context) for p, e in pairs]
    scores = [scorer.score(c, f.positions) for c, f in zip(cells, found, strict=True)]
    works: dict[str, Callable[[], object]] = {
        "segments (those a request touches)": lambda: [
            update_segments(p, plan, Moment(now_ms), e.event_id, events=e.names) for p, e in pairs
        ],
        "candidates": lambda: [
            eligibility.narrow(p, Moment(now_ms, e.context), asked=None) for p, e in pairs
        ],
        "features": lambda: [placement.features.cells(p, now_ms, e.context) for p, e in pairs],
        "score": lambda: [scorer.score(c, f.positions) for c, f in zip(cells, found, strict=True)],
        "explore": lambda: [
            draw_slate(
                s,
                count=len(s),
                slots=1,
                exploration=exploration,
                rewarded=newest.rewarded,
                chances=[uniform(f"{e.event_id}|0")],
            )
            for s, (_, e) in zip(scores, pairs, strict=True)
        ],
    }
    return {name: cpu_us(work, per=len(pairs), runs=runs) for name, work in works.items()}


def encode(outputs: Iterable[Outputs]) -> int:
    """The records of an activation's outputs by partition, as the flow makes them; how many."""
    count = 0
    for out in outputs:
        for records in (decision_records(out), change_records(out), outcome_records(out)):
            count += len(parted(records, lambda key: partition_of(key, PARTITIONS)))
    return count


def measure(*, quick: bool) -> list[Table]:
    """Costs by stage, by type of event and by part of a decision."""
    warm, length, runs = (300, 300, 2) if quick else (12_000, 6_000, 5)
    mixed: dict[int, dict[str, list[float]]] = {}
    by_type: dict[int, dict[str, float]] = {}
    parts: dict[int, dict[str, float]] = {}
    per_decision: list[float] = []
    learn_us: dict[int, list[float]] = {}
    events_per_decision = 0.0
    for contents in CANDIDATES:
        bench = Bench(contents, profiles=min(PROFILES, warm))
        bench.run(bench.log(warm))
        stages: dict[str, list[float]] = {stage: [] for stage in STAGES}
        learn_us[contents] = []
        for _ in range(runs):
            log, before = bench.log(length), bench.learned
            cost = bench.run(log)
            examples = bench.learned - before
            for stage in STAGES:
                stages[stage].append(cost[stage] / len(log) * 1e6)
            learn_us[contents].append(cost["learn"] / max(1, examples) * 1e6)
            per_decision.append(examples / decisions_in(log))
            events_per_decision = len(log) / decisions_in(log)
        mixed[contents] = stages
        typed = [bench.run_by_type(bench.log(max(300, length // 3))) for _ in range(runs)]
        by_type[contents] = {t: statistics.median(cost[t] for cost in typed) for t in TYPES}
        last = bench.log(max(300, length // 3))
        bench.run(last)
        parts[contents] = bench.parts(last, runs=runs)
    return [
        _mixed_table(mixed, learn_us, per_decision, events_per_decision, runs=runs),
        _parts_table(by_type, parts, runs=runs),
    ]


def _mixed_table(
    mixed: dict[int, dict[str, list[float]]],
    learn_us: dict[int, list[float]],
    per_decision: list[float],
    events_per_decision: float,
    *,
    runs: int,
) -> Table:
    columns = [f"K = {contents}" for contents in CANDIDATES]
    rows = []
    totals = {
        contents: [sum(run) for run in zip(*stages.values(), strict=True)]
        for contents, stages in mixed.items()
    }
    for stage in STAGES:
        cells = [mixed[contents][stage] for contents in CANDIDATES]
        rows.append((stage, *(f"{number(statistics.median(c))} ({spread(c)})" for c in cells)))
    rows.append(
        ("all stages", *(number(statistics.median(totals[contents])) for contents in CANDIDATES))
    )
    rows.append(
        (
            "all stages, per decision",
            *(number(statistics.median(totals[c]) * events_per_decision) for c in CANDIDATES),
        )
    )
    rows.append(
        (
            "learn, per example",
            *(number(statistics.median(learn_us[contents])) for contents in CANDIDATES),
        )
    )
    return Table(
        "CPU µs per event by stage, one core, pure calls",
        ("stage", *columns),
        tuple(rows),
        (
            f"Median (least to most) of {runs} runs. K is the number of candidates; one slot.",
            f"{events_per_decision:.1f} events per decision: views, requests, impressions, clicks "
            "and purchases; "
            f"{statistics.median(per_decision):.2f} examples learned per decision.",
            "An example of an unrewarded item teaches both models (click and purchase), one of a "
            "reward its own. Publishing parameter sets is part of learn, taking them up of decide.",
        ),
    )


def _parts_table(
    by_type: dict[int, dict[str, float]], parts: dict[int, dict[str, float]], *, runs: int
) -> Table:
    rows: list[tuple[str, ...]] = [
        (f"a `{kind}`", *(number(by_type[contents][kind]) for contents in CANDIDATES))
        for kind in TYPES
        if kind != "decision_requested"
    ]
    request = "decision_requested"
    rows.append((f"**a `{request}`**", *(f"**{number(by_type[c][request])}**" for c in CANDIDATES)))
    for name in parts[CANDIDATES[0]]:
        rows.append((f"… of which {name}", *(number(parts[c][name]) for c in CANDIDATES)))
    rest = [by_type[c][request] - sum(parts[c].values()) for c in CANDIDATES]
    rows.append(("… the rest: record, pending outcome, timer, duplicates", *map(number, rest)))
    return Table(
        "CPU µs of DECIDE per event, by type of event",
        ("event", *(f"K = {contents}" for contents in CANDIDATES)),
        tuple(rows),
        (
            f"Median of {runs} runs. The aim for a decision with 30 candidates is at most 40 µs.",
            "A view updates three signals and the segments that they feed.",
        ),
    )
