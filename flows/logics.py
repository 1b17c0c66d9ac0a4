"""The few lines that know the engine: a shard and a learner as Bytewax logics.

Everything that decides or learns is in `operators`; here its machines are handed batches, asked
for snapshots, and their counts are passed to the metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain
from time import perf_counter
from typing import NamedTuple

from bytewax.operators import StatefulBatchLogic

from flows.in_force import InForce
from flows.telemetry import Telemetry
from operators.learn import Learner, model_of
from operators.outputs import Example, Outputs
from operators.parameters import Parameters, ParameterSet
from operators.pseudonyms import Pseudonyms
from operators.shard import Shard, ShardBatch, restored


class ModelExamples(NamedTuple):
    """Examples for one model, in order."""

    model: str
    examples: list[Example]


class Learned(NamedTuple):
    """What one activation of LEARN gives: how many lists it took in, and the newest set."""

    taken: int
    published: ParameterSet | None


@dataclass
class Due:
    """When each shard of this process next has something to do, and what it holds.

    `watermark_ms` is the lowest watermark of the partitions that this process reads. The source
    reads `next_ms`: a quiet shard is not woken by the mere passing of time, because an awoken
    shard's state is written again at the next snapshot.
    """

    next_ms: dict[int, int] = field(default_factory=dict)
    profiles: dict[int, int] = field(default_factory=dict)
    bytes_held: dict[int, int] = field(default_factory=dict)
    snapshot_seconds: float = 0.0
    watermark_ms: int | None = None
    erased: Callable[[], None] = field(default=lambda: None)


class ShardLogic(StatefulBatchLogic[ShardBatch, Outputs, bytes]):
    """One shard of DECIDE. Its snapshot is bytes of our own, so no class is ever pickled.

    The engine does not tell a logic its key, so a new shard learns its number from its first batch
    and a resumed one from its snapshot.
    """

    def __init__(
        self,
        resume: bytes | None,
        *,
        shards: int,
        in_force: InForce,
        with_views: bool,
        due: Due,
        telemetry: Telemetry,
        pseudonyms: Pseudonyms,
    ) -> None:
        self._shards = shards
        self._in_force = in_force
        self._with_views = with_views
        self._due = due
        self._telemetry = telemetry
        self._pseudonyms = pseudonyms
        self._shard: Shard | None = None
        if resume is not None:
            self._shard = restored(
                resume,
                shards=shards,
                decide=in_force.decide,
                with_views=with_views,
                pseudonyms=pseudonyms,
            )
            self._note(self._shard)

    def on_batch(self, values: list[ShardBatch]) -> tuple[Iterable[Outputs], bool]:
        """Process each batch with the newest plan and parameters; never discarded."""
        started = perf_counter()
        decide = self._in_force.turn()
        shard = self._shard
        if shard is None:
            shard = self._shard = Shard(
                values[0].shard, self._shards, decide, self._with_views, self._pseudonyms
            )
        if shard.decide is not decide:
            shard.adopt(decide)
        decide.refresh()
        outputs = [shard.process(batch) for batch in values]
        events = sum(len(batch.events) for batch in values)
        if events:
            self._telemetry.observe("decide_seconds", (perf_counter() - started) / events)
        self._note(shard)
        if any(out.receipts for out in outputs):
            self._due.erased()
        for out in outputs:
            count_outputs(out, self._telemetry)
        return outputs, StatefulBatchLogic.RETAIN

    def _note(self, shard: Shard) -> None:
        self._due.next_ms[shard.number] = shard.next_due_ms
        self._due.profiles[shard.number] = shard.profiles

    def snapshot(self) -> bytes:
        """The shard's state."""
        assert self._shard is not None  # the engine snapshots only what it has awoken
        started = perf_counter()
        snapshot = self._shard.snapshot()
        self._due.bytes_held[self._shard.number] = len(snapshot)
        self._due.snapshot_seconds += perf_counter() - started
        return snapshot


class LearnLogic(StatefulBatchLogic[ModelExamples, Learned, bytes]):
    """One model of LEARN; publishes to the parameter store as sets fall due.

    A model whose placement is gone, or that no reward teaches any more, is kept as it is, so that
    rolling the policy back finds it.
    """

    def __init__(
        self,
        resume: bytes | None,
        *,
        in_force: InForce,
        parameters: Parameters,
        incarnation: str,
        telemetry: Telemetry,
    ) -> None:
        self._resume = resume
        self._in_force = in_force
        self._plan = in_force.plan
        self._parameters = parameters
        self._incarnation = incarnation
        self._telemetry = telemetry
        self._learner: Learner | None = None
        if resume is not None:
            self._learner = self._build(model_of(resume))
        if resume is not None and self._learner is not None:
            kept = self._learner.restore(resume)
            if kept is not None:
                # At once, before the first event: no decision falls back to the prior.
                parameters.publish(kept)

    def _build(self, model: str) -> Learner | None:
        if model not in self._plan.models:
            return None
        return Learner(model, self._plan, incarnation=self._incarnation)

    def on_batch(self, values: list[ModelExamples]) -> tuple[Iterable[Learned], bool]:
        """Learn all examples in order; only the newest set of an activation is published."""
        self._in_force.turn()
        plan, learner = self._in_force.plan, self._learner
        if plan is not self._plan:
            self._plan = plan
            if learner is not None:
                learner.adopt(plan)
        if learner is None:
            learner = self._learner = self._build(values[0].model)
        if learner is None:
            return [Learned(len(values), None)], StatefulBatchLogic.RETAIN
        published, learned = learner.learn(chain.from_iterable(v.examples for v in values))
        for label, name in (("rewarded", "positive"), ("unrewarded", "negative")):
            if learned[label]:
                self._telemetry.count(
                    "examples_learned_total", learned[label], model=learner.model, label=name
                )
        newest = published[-1] if published else None
        if newest is not None:
            self._parameters.publish(newest)
            self._telemetry.count("parameters_published_total", model=learner.model)
        return [Learned(len(values), newest)], StatefulBatchLogic.RETAIN

    def snapshot(self) -> bytes:
        """The learner's state."""
        if self._learner is None:
            assert self._resume is not None  # a new key always has a learner or a former state
            return self._resume
        return self._learner.snapshot()


def count_outputs(out: Outputs, telemetry: Telemetry) -> None:
    """Pass the counts of an activation to the metrics."""
    for outcome, n in out.counts.items():
        telemetry.count("events_total", n, outcome=outcome)
    for made in out.decisions:
        record = made.record
        if made.adopted:
            telemetry.count("adopted_decisions_total")
            continue
        experiment = record["experiment"]
        telemetry.count(
            "decisions_total",
            placement=record["placement"],
            fallback=record["fallback"] or "none",
            explored="true" if record["explored"] else "false",
            arm=experiment["variant"] if experiment else "personalised",
        )
    for change in out.changes:
        telemetry.count(
            "segment_changes_total", segment=change["segment"], direction=change["direction"]
        )
    for fact, amount in out.facts.items():
        match fact:
            case ("impressions", placement, arm):
                telemetry.count(
                    "impressions_total", amount, placement=placement, arm=arm or "personalised"
                )
            case ("rewards", placement, kind, arm):
                telemetry.count(
                    "rewards_total",
                    amount,
                    placement=placement,
                    kind=kind,
                    arm=arm or "personalised",
                )
            case ("reward_value", placement, kind, arm):
                telemetry.count_signed(
                    "reward_value_total",
                    amount,
                    placement=placement,
                    kind=kind,
                    arm=arm or "personalised",
                )
            case ("profiles_shrunk",):
                telemetry.count("profiles_shrunk_total", amount)
            case ("profile_gave_up", step):
                telemetry.count("profile_gave_up_total", amount, step=step)
            case ("profiles_dropped",):
                telemetry.count("profiles_dropped_total", amount)
            case ("unattributed", _):
                telemetry.count("outcomes_unattributed_total", amount)
