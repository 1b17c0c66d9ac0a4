"""The dataflow: from events to decisions, as a table of contents.

    events -> decode -> route -> DECIDE (keyed by shard) -> decisions, segment changes, outcomes,
                 |                   |                       late events, profiles for Redis
            dead letters          examples -> LEARN (keyed by model) -> parameters, read by DECIDE
                                  watched -> MONITOR (keyed by placement) -> reports

The same graph runs on Kafka, on files and in memory: only what is plugged in differs. Step ids are
public API: a renamed step silently loses its state, so a golden test holds them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import bytewax.operators as op
from bytewax.dataflow import Dataflow, Stream
from bytewax.inputs import Source
from bytewax.operators import KeyedStream
from bytewax.outputs import Sink

from flows import encode
from flows.identify_logics import identify_step, suggest_step
from flows.in_force import InForce
from flows.learners import learn, monitor
from flows.lockstep import Lockstep, LockstepSink
from flows.logics import Due, ShardLogic
from flows.redis.serving import ServingWrite
from flows.streams import REPORTS, StreamName
from flows.telemetry import NoTelemetry, Telemetry
from operators.arrival import Arrived, group_by_shard
from operators.decide import Adopt
from operators.decode import Decoded, Decoder
from operators.gather import Gathered
from operators.ids import shard_key
from operators.outputs import Outputs
from operators.parameters import Parameters
from operators.plan import Plan
from operators.pseudonyms import UNSHARED, Pseudonyms
from operators.shard import ShardBatch
from schemas.dead_letters import DeadLetter
from schemas.records import OutRecord, RawBatch

FLOW_ID: Final = "nextbest"
DEFAULT_SHARDS: Final = 64

Watch = Callable[[RawBatch, Decoded], object]
"""Looks at what is decoded, for the health of the input."""


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
    pseudonyms: Pseudonyms = UNSHARED
    watch: Watch = field(default=lambda _batch, _decoded: None)
    newest: Callable[[], Plan] | None = None
    """The newest plan that may be adopted, asked before each batch; None: `plan` for good."""
    taken: Callable[[Plan], None] = field(default=lambda _plan: None)
    """Told each plan that comes into force after the first."""


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
    in_force = InForce(
        plan, core.parameters, adopt=core.adopt, newest=core.newest, taken=partial(_taken, core)
    )
    flow = Dataflow(FLOW_ID)

    batches = op.input("events", flow, source)
    decoded = op.map("decode", batches, lambda batch: _decode(core, in_force, batch))
    _output("dead-letters", decoded, lambda d: map(dead_letter, d.dead_letters), outlets)
    everybody = lockstep is not None
    shards: KeyedStream[ShardBatch]
    identity = plan.policy.identity
    if identity is None:
        shards = op.flat_map("route", decoded, lambda d: _route(d.arrived, d, core, everybody))
    else:
        identified = identify_step(
            decoded,
            identity=identity,
            consent=plan.policy.consent,
            shards=core.shards,
            seal=core.pseudonyms,
            count_outcome=lambda outcome, n: telemetry.count("identity_total", n, outcome=outcome),
        )
        shards = op.flat_map("route", identified, lambda i: _route(i.events, i, core, everybody))

    def build_shard(resume: bytes | None) -> ShardLogic:
        return ShardLogic(
            resume,
            shards=core.shards,
            in_force=in_force,
            with_views=serving is not None,
            due=core.due,
            telemetry=telemetry,
            pseudonyms=core.pseudonyms,
        )

    decided = op.stateful_batch("decide", shards, build_shard)
    activations = op.map("activations", decided, lambda keyed: keyed[1])
    _output("decisions", activations, encode.decision_records, outlets)
    _output("segment-changes", activations, encode.change_records, outlets)
    _output("outcomes", activations, encode.outcome_records, outlets)
    _output("late", activations, encode.late_records, outlets)
    _output("erasures", activations, encode.receipt_records, outlets)
    if serving is not None and serve is not None:
        writes = op.flat_map("serve", decided, lambda keyed: _serve(keyed, serve))
        op.output("serving", writes, serving)

    if plan.suggest is not None:
        suggested = suggest_step(
            op.flat_map("contacts", activations, lambda out: out.contacts),
            suggest=plan.suggest,
            seal=core.pseudonyms,
            count_outcome=lambda outcome, n: telemetry.count("identity_total", n, outcome=outcome),
        )
        _output("suggestions", suggested, encode.suggestion_records, outlets)
    learners = learn(
        activations,
        in_force=in_force,
        parameters=core.parameters,
        incarnation=core.incarnation,
        telemetry=telemetry,
        everybody=everybody,
    )
    _output("parameters", learners.published, encode.parameter_records, outlets)
    for name in REPORTS:
        _output(name, learners.reports, partial(encode.report_records, name), outlets)

    told = None
    if plan.monitored:
        told = monitor(activations, in_force=in_force, telemetry=telemetry, everybody=everybody)
        _output("monitoring", told, encode.monitoring_records, outlets)

    if lockstep is not None:
        decisions_done = op.map("decided", activations, lambda out: (out, 1))
        learning_done = op.map("learning-done", learners.taken, lambda count: (None, count))
        done: list[Stream[Any]] = [decisions_done, learning_done]
        if told is not None:
            done.append(op.map("monitoring-done", told, lambda given: (None, given.taken)))
        settled: Stream[Any] = op.merge("settled", *done)
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


def _taken(core: Core, plan: Plan) -> None:
    # Every shard of this process is woken once: it has profiles to evaluate anew.
    core.due.next_ms.clear()
    core.taken(plan)


def _decode(core: Core, in_force: InForce, batch: RawBatch) -> Decoded:
    in_force.turn()
    decoded = core.decoder.decode(batch)
    core.watch(batch, decoded)
    core.due.watermark_ms = min((at for _, at in decoded.watermarks), default=None)
    telemetry = core.telemetry
    if decoded.unknown_fields:
        telemetry.count("unknown_fields_total", decoded.unknown_fields)
    for letter in decoded.dead_letters:
        telemetry.count("dead_letters_total", stage=letter.stage, code=letter.code)
    if decoded.dead_letters:
        telemetry.count("events_total", len(decoded.dead_letters), outcome="dead_letter")
    return decoded


def _route(
    arrived: list[Arrived], progress: Decoded | Gathered, core: Core, everybody: bool
) -> list[tuple[str, ShardBatch]]:
    grouped = group_by_shard(arrived, shards=core.shards)
    watermarks = progress.watermarks
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
            (shard_key(shard), ShardBatch(shard, events or [], watermarks, progress.partitions))
        )
    return routed


def _serve(
    keyed: tuple[str, Outputs], serve: Callable[[Outputs], list[ServingWrite]]
) -> list[tuple[str, list[ServingWrite]]]:
    key, out = keyed
    writes = serve(out)
    return [(key, writes)] if writes else []
