"""The dataflow: from events to decisions, as a table of contents.

    events -> decode -> route -> DECIDE (keyed by shard) -> decisions, segment changes, outcomes,
                 |                   |                       late events, profiles for Redis
            dead letters          examples -> LEARN (keyed by model) -> parameters, read by DECIDE

The same graph runs on Kafka, on files and in memory: only what is plugged in differs. Step ids are
public API: a renamed step silently loses its state, so a golden test holds them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import bytewax.operators as op
from bytewax.dataflow import Dataflow, Stream
from bytewax.inputs import Source
from bytewax.operators import KeyedStream
from bytewax.outputs import Sink

from flows import encode
from flows.lockstep import Lockstep, LockstepSink
from flows.logics import Due, Learned, LearnLogic, ModelExamples, ShardLogic
from flows.redis.serving import ServingWrite
from flows.telemetry import NoTelemetry, Telemetry
from operators.decide import Adopt, Decide
from operators.decode import Decoded, Decoder
from operators.ids import shard_key
from operators.outputs import Example, Outputs
from operators.parameters import Parameters
from operators.plan import Plan
from operators.shard import ShardBatch, group_by_shard
from schemas.dead_letters import DeadLetter
from schemas.records import OutRecord, RawBatch

FLOW_ID: Final = "nextbest"
DEFAULT_SHARDS: Final = 64

StreamName = Literal[
    "decisions", "segment-changes", "outcomes", "late", "dead-letters", "parameters"
]


@dataclass(frozen=True)
class Outlet:
    """A sink of partitioned records, and how a key finds its partition."""

    sink: Sink[Any]
    partition_of: encode.Partition = field(default=lambda _key: 0)


@dataclass(frozen=True)
class Core:
    """What decides and learns in this process, and how it is watched."""

    plan: Plan
    decoder: Decoder
    parameters: Parameters
    incarnation: str
    shards: int = DEFAULT_SHARDS
    adopt: Adopt = field(default=lambda _decision_id: None)
    telemetry: Telemetry = field(default_factory=NoTelemetry)
    due: Due = field(default_factory=Due)


def personalize(
    core: Core,
    *,
    source: Source[RawBatch],
    outlets: Mapping[StreamName, Outlet],
    dead_letter: Callable[[DeadLetter], OutRecord] = encode.dead_letter_record,
    serving: Sink[Any] | None = None,
    serve: Callable[[Outputs], list[ServingWrite]] | None = None,
    lockstep: Lockstep | None = None,
) -> Dataflow:
    """Build the dataflow around a source and its outlets; streams without an outlet end here.

    `dead_letter` says how a dead letter looks where it goes. `serving` takes what `serve` makes of
    an activation. With `lockstep` every shard answers every batch, and so does every learner.
    """
    plan, telemetry = core.plan, core.telemetry
    decide = Decide(plan, core.parameters, adopt=core.adopt)
    models = [name for name, placement in plan.placements.items() if placement.heads]
    flow = Dataflow(FLOW_ID)

    batches = op.input("events", flow, source)
    decoded = op.map("decode", batches, lambda batch: _decode(core, batch))
    _output("dead-letters", decoded, lambda d: map(dead_letter, d.dead_letters), outlets)
    shards: KeyedStream[ShardBatch] = op.flat_map(
        "route", decoded, lambda d: _route(d, core, everybody=lockstep is not None)
    )

    def build_shard(resume: bytes | None) -> ShardLogic:
        return ShardLogic(
            resume,
            shards=core.shards,
            decide=decide,
            with_views=serving is not None,
            due=core.due,
            telemetry=telemetry,
        )

    decided = op.stateful_batch("decide", shards, build_shard)
    activations = op.map("activations", decided, lambda keyed: keyed[1])
    _output("decisions", activations, encode.decision_records, outlets)
    _output("segment-changes", activations, encode.change_records, outlets)
    _output("outcomes", activations, encode.outcome_records, outlets)
    _output("late", activations, encode.late_records, outlets)
    if serving is not None and serve is not None:
        writes = op.flat_map("serve", decided, lambda keyed: _serve(keyed, serve))
        op.output("serving", writes, serving)

    examples: KeyedStream[ModelExamples] = op.flat_map(
        "examples", activations, lambda out: _examples(out, models, lockstep is not None)
    )

    def build_learner(resume: bytes | None) -> LearnLogic:
        return LearnLogic(
            resume,
            plan=plan,
            parameters=core.parameters,
            incarnation=core.incarnation,
            telemetry=telemetry,
        )

    learned = op.stateful_batch("learn", examples, build_learner)
    sets = op.map("sets", learned, lambda keyed: keyed[1])
    _output("parameters", sets, _parameter_records, outlets)

    if lockstep is not None:
        decisions_done = op.map("decided", activations, lambda out: (out, 1))
        learning_done = op.map("learned", sets, lambda done: (None, done.taken))
        settled: Stream[Any] = op.merge("settled", decisions_done, learning_done)
        op.output("lockstep", settled, LockstepSink(lockstep))
    return flow


def _output(
    name: StreamName,
    stream: Stream[Any],
    records: Callable[[Any], Iterable[OutRecord]],
    outlets: Mapping[StreamName, Outlet],
) -> None:
    outlet = outlets.get(name)
    if outlet is None:
        return
    partition_of = outlet.partition_of
    parts = op.flat_map(f"{name}-parts", stream, lambda x: encode.parted(records(x), partition_of))
    op.output(name, parts, outlet.sink)


def _decode(core: Core, batch: RawBatch) -> Decoded:
    decoded = core.decoder.decode(batch)
    core.due.watermark_ms = min((at for _, at in decoded.watermarks), default=None)
    telemetry = core.telemetry
    if decoded.unknown_fields:
        telemetry.count("unknown_fields_total", decoded.unknown_fields)
    for letter in decoded.dead_letters:
        telemetry.count("dead_letters_total", stage=letter.stage, code=letter.code)
    if decoded.dead_letters:
        telemetry.count("events_total", len(decoded.dead_letters), outcome="dead_letter")
    return decoded


def _route(decoded: Decoded, core: Core, *, everybody: bool) -> list[tuple[str, ShardBatch]]:
    grouped = group_by_shard(decoded.arrived, shards=core.shards)
    watermarks = decoded.watermarks
    newest = max((watermark for _, watermark in watermarks), default=None)
    routed = []
    for shard in range(core.shards):
        events = grouped.get(shard)
        if events is None:
            # A shard of this process that has nothing due is left asleep; one of another process
            # tells us nothing, so it is woken to see for itself.
            asleep = newest is None or core.due.next_ms.get(shard, newest) > newest
            if asleep and not everybody:
                continue
        routed.append(
            (shard_key(shard), ShardBatch(shard, events or [], watermarks, decoded.partitions))
        )
    return routed


def _examples(out: Outputs, models: list[str], everybody: bool) -> list[tuple[str, ModelExamples]]:
    by_model: dict[str, list[Example]] = {model: [] for model in models} if everybody else {}
    for example in out.examples:
        by_model.setdefault(example.model, []).append(example)
    return [(model, ModelExamples(model, examples)) for model, examples in by_model.items()]


def _serve(
    keyed: tuple[str, Outputs], serve: Callable[[Outputs], list[ServingWrite]]
) -> list[tuple[str, list[ServingWrite]]]:
    key, out = keyed
    writes = serve(out)
    return [(key, writes)] if writes else []


def _parameter_records(learned: Learned) -> list[OutRecord]:
    return [] if learned.published is None else [encode.parameter_record(learned.published)]
