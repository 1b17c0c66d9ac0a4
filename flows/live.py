"""The live flow: Kafka in, Kafka and Redis out, alone or as one process of a cluster.

In order: servers are reached or named in a clear error; the recovery store is locked; parameters
are loaded; the tail of the decisions topic is read, so that what was decided before a crash is
adopted instead of decided again; only then the first event is read.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from typing import Final

import orjson

from flows import recovery, scrub
from flows.aggregate_logic import AGGREGATE_CROSSING
from flows.audience_logic import Feedback, Looks
from flows.engine import StopFlag, run_flow, stop_on_signals
from flows.errors import RecoveryError
from flows.health_watch import watch_of
from flows.identify_logics import IDENTITY_CROSSING
from flows.kafka.admin import check_kafka
from flows.kafka.partitions import partition_of
from flows.kafka.sink import KafkaSink, tail_group
from flows.kafka.source import KafkaSource
from flows.kafka.tail import read_compacted, read_tail
from flows.keys import pseudonyms_of
from flows.load import load_plan
from flows.logics import Due, ModelExamples
from flows.monitor_logic import MONITOR_CROSSING
from flows.personalize import FLOW_ID, Core, Outlet, personalize
from flows.prediction_logic import LabelledCases
from flows.redis.connection import check_redis
from flows.redis.parameters import RedisParameters
from flows.redis.serving import ServingSink, ServingWrite
from flows.reload import show_in_force, version_topics, versions_of
from flows.settings import Settings, SettingsError
from flows.shop.plan import SEED, shop_plan, shop_policy
from flows.simulate.shop import Shop
from flows.streams import STREAMS, StreamName
from flows.telemetry import Health, Telemetry, TelemetryServer
from operators.adaptive import MODEL as THRESHOLDS
from operators.adaptive import Followed
from operators.aggregate_view import MODEL as AGGREGATES
from operators.arrival import Arrived
from operators.audience import MODEL as CLUSTERS
from operators.audience import Sampled
from operators.decode import Decoder
from operators.outputs import Example, Labelled, Outputs, Record
from operators.parameters import (
    LocalParameters,
    ParameterError,
    Parameters,
    ParameterSet,
    decode_parameters,
)
from operators.plan import Plan
from operators.pseudonyms import Pseudonyms
from operators.shard import ShardBatch
from operators.shard_state import StateError

_LOG: Final = logging.getLogger(__name__)
_MIB: Final = 1 << 20
_LARGEST: Final[dict[StreamName, int]] = {"dead-letters": 32 * _MIB, "parameters": 16 * _MIB}
CROSSING: Final = (
    Arrived,
    ShardBatch,
    Example,
    ModelExamples,
    Labelled,
    LabelledCases,
    Sampled,
    Looks,
    Followed,
    Feedback,
    ServingWrite,
    *IDENTITY_CROSSING,
    *AGGREGATE_CROSSING,
    *MONITOR_CROSSING,
)
"""What one process may hand to another; the engine pickles it, and nothing else is let in."""


def now_ms() -> int:
    """The wall clock in milliseconds."""
    return time.time_ns() // 1_000_000


def plan_of_settings(settings: Settings) -> Plan:
    """The plan of the configured files, or of the simulated shop where none is configured."""
    if settings.policy is None and settings.catalogue is None:
        return shop_plan(Shop(SEED), shop_policy())
    if settings.policy is None or settings.catalogue is None:
        raise SettingsError("give both NEXTBEST_POLICY and NEXTBEST_CATALOGUE, or neither")
    return load_plan(settings.policy, settings.catalogue)


class _Progress:
    """Passes what the source does to the metrics and the health probes."""

    def __init__(self, telemetry: Telemetry, health: Health, due: Due) -> None:
        self._telemetry = telemetry
        self._health = health
        self._due = due
        self._read_at = time.monotonic()
        telemetry.watch("source_idle_seconds", lambda: time.monotonic() - self._read_at)

    def turned(self) -> None:
        """The loop turned once more."""
        self._health.tick()
        self._health.done("partitions assigned")

    def consumed(self, topic: str, partition: int, records: int) -> None:
        """Records were handed to the flow."""
        self._read_at = time.monotonic()
        self._telemetry.count("events_read_total", records, topic=topic, partition=str(partition))

    def lag(self, topic: str, partition: int, records: int) -> None:
        """Records not yet handed to the flow."""
        self._telemetry.set(
            "kafka_consumer_lag_records", records, topic=topic, partition=str(partition)
        )

    def snapshot_taken(self) -> None:
        """An epoch closes; the shards' part of the one before it is known by now."""
        self._health.snapshot_done()
        self._telemetry.set("last_snapshot_timestamp_seconds", time.time())
        if self._due.snapshot_seconds:
            self._telemetry.observe("snapshot_duration_seconds", self._due.snapshot_seconds)
            self._due.snapshot_seconds = 0.0


def serving_writes(newest: Callable[[], Plan]) -> Callable[[Outputs], list[ServingWrite]]:
    """How an activation's outputs are served: latest decisions and profiles, by version.

    `newest` is the newest plan; all that a running flow adopts have the same placements.
    """

    def writes(out: Outputs) -> list[ServingWrite]:
        plan = newest()
        ttl = plan.policy.retention.profile_ttl
        found = [
            ServingWrite(
                "decision",
                made.record["placement"],
                made.record["profile_id"],
                made.version,
                orjson.dumps(made.record),
                plan.placements[made.record["placement"]].policy.expires_after,
            )
            for made in out.decisions
        ]
        for state in out.profiles:
            view = None if state.view is None else orjson.dumps(state.view)
            found.append(ServingWrite("profile", "", state.profile_id, state.version, view, ttl))
            if view is None:
                found += [
                    ServingWrite("decision", name, state.profile_id, state.version, None, ttl)
                    for name in plan.placements
                ]
        return found

    return writes


def run_live(settings: Settings, *, process_id: int = 0, addresses: Sequence[str] = ()) -> None:
    """Run the flow until a signal or an error ends it.

    `addresses` (host:port of every process, in order) make this process number `process_id` of a
    cluster. Raises NextbestError with a message that says what to do.
    """
    plan = plan_of_settings(settings)
    if len(addresses) > 1 and settings.redis is None:
        raise SettingsError(
            "a cluster needs NEXTBEST_REDIS_URL: its processes share parameters through Redis"
        )
    topics = {name: settings.topic(name) for name in ("events", *STREAMS)}
    partitions = check_kafka(settings.kafka, [*topics.values(), *version_topics(settings)])
    if settings.redis is not None:
        check_redis(settings.redis, prefix=settings.redis_prefix)
    with ExitStack() as stack:
        recovery.init_store(settings.recovery_dir, partitions=settings.recovery_partitions)
        scrub.tidy(settings.recovery_dir)
        lock = stack.enter_context(
            recovery.StoreLock(
                settings.recovery_dir, process_id=process_id, addresses=addresses, now_ms=now_ms
            )
        )
        stop = stack.enter_context(stop_on_signals())
        kept_scrubbed = stack.enter_context(
            scrub.KeptScrubbed(
                settings.recovery_dir, settle_s=2.0 * settings.snapshot_every_s + 1.0
            )
        )
        telemetry, due = Telemetry(), Due(erased=kept_scrubbed.erased)
        versions = versions_of(settings, telemetry)
        if versions is not None:
            stack.callback(versions.close)
            plan = versions.initial() or plan
        pseudonyms = pseudonyms_of(settings, make=True)
        health = Health(time.monotonic, snapshot_every_s=float(settings.snapshot_every_s))
        server = TelemetryServer(
            telemetry, health, host=settings.telemetry_host, port=settings.telemetry_port
        )
        stack.callback(server.close)
        _LOG.info("metrics and health on http://%s:%d", settings.telemetry_host, server.port)
        parameters, latest = _parameters(settings, plan, telemetry, stack)
        health.done("parameters loaded")
        if versions is not None:
            versions.start(plan)
        recorded = read_tail(
            settings.kafka,
            topics["decisions"],
            group=tail_group(topics["decisions"]),
            from_start=recovery.is_fresh(settings.recovery_dir),
        )
        if recorded:
            _LOG.info("%d recorded decisions may be adopted", len(recorded))
        core = Core(
            watch=watch_of(plan.policy, telemetry).saw,
            plan=plan,
            decoder=Decoder(plan.policy.time, plan.policy.sensitive, plan.placement_names),
            parameters=parameters,
            # Later than every set that was ever published, also by a machine whose clock was ahead.
            incarnation=max(lock.started, _after(latest)),
            shards=settings.shards,
            adopt=lambda decision_id: _adopted(recorded, decision_id),
            telemetry=telemetry,
            due=due,
            pseudonyms=pseudonyms,
            newest=None if versions is None else versions.newest,
            taken=partial(show_in_force, telemetry),
        )
        progress = _Progress(telemetry, health, due)
        serving = _serving(settings, telemetry, pseudonyms)
        if serving is not None:
            # The engine does not promise to close a sink when a flow ends by an error.
            stack.callback(serving.close)
        flow = personalize(
            core,
            source=_source(settings, topics["events"], stop, progress),
            outlets={
                name: Outlet(
                    _sink(settings, name, topics[name], stop, health, telemetry),
                    partial(partition_of, partitions=partitions[topics[name]]),
                )
                for name in STREAMS
            },
            serving=serving,
            serve=serving_writes((lambda: plan) if versions is None else versions.newest),
        )
        _watch(telemetry, due, plan)
        _LOG.info(
            "policy %s (%s), %d contents, process %d of %d",
            plan.policy.name,
            plan.policy_digest,
            len(plan.contents.ids),
            process_id,
            max(1, len(addresses)),
        )
        try:
            run_flow(
                flow,
                process_id=process_id,
                addresses=addresses,
                epoch_interval=timedelta(seconds=settings.snapshot_every_s),
                recovery_dir=settings.recovery_dir,
                allow=CROSSING,
            )
        except StateError as error:
            raise RecoveryError(f"recovery store {settings.recovery_dir}: {error}") from error
    scrub.tidy(settings.recovery_dir)
    _LOG.info("ended cleanly")


def _source(settings: Settings, topic: str, stop: StopFlag, progress: _Progress) -> KafkaSource:
    return KafkaSource(
        topic,
        connection=settings.kafka,
        stop=stop,
        now_ms=now_ms,
        start=settings.start,
        batch_records=settings.batch_records,
        group=f"{settings.topic_prefix}{FLOW_ID}",
        on_progress=progress,
    )


def _sink(
    settings: Settings,
    name: StreamName,
    topic: str,
    stop: StopFlag,
    health: Health,
    telemetry: Telemetry,
) -> KafkaSink:
    def acknowledged(received_ms: int) -> None:
        telemetry.observe("end_to_end_latency_seconds", (now_ms() - received_ms) / 1_000)

    return KafkaSink(
        topic,
        connection=settings.kafka,
        max_request_size=_LARGEST.get(name, _MIB),
        # Room for what is in flight, whatever its size: one dead letter may be 16 MiB.
        max_in_flight_bytes=64 * _MIB,
        tail_of=topic if name == "decisions" else None,
        stop=stop,
        waiting=health.tick,
        acknowledged=acknowledged,
    )


def _serving(
    settings: Settings, telemetry: Telemetry, pseudonyms: Pseudonyms
) -> ServingSink | None:
    if settings.redis is None:
        return None
    return ServingSink(
        settings.redis,
        partitions=settings.shards,
        prefix=settings.redis_prefix,
        telemetry=telemetry,
        pseudonyms=pseudonyms,
    )


def _parameters(
    settings: Settings, plan: Plan, telemetry: Telemetry, stack: ExitStack
) -> tuple[Parameters, list[ParameterSet]]:
    """The parameter store, filled with the newest archived set of each model."""
    archived = []
    for payload in read_compacted(settings.kafka, settings.topic("parameters")).values():
        try:
            archived.append(decode_parameters(payload))
        except ParameterError as error:
            _LOG.warning("an archived parameter set is left out: %s", error)
    models = list(plan.models)
    models += [prediction.model for prediction in plan.predictions]
    models += [CLUSTERS, THRESHOLDS, AGGREGATES]
    store: LocalParameters | RedisParameters
    if settings.redis is None:
        store = LocalParameters()
    else:
        store = RedisParameters(
            settings.redis, models=models, prefix=settings.redis_prefix, telemetry=telemetry
        )
        stack.callback(store.close)
        store.load_all()
    for found in archived:
        known = store.latest(found.model)
        if known is None or (known.incarnation, known.counter) < (found.incarnation, found.counter):
            store.publish(found)
    return store, [p for name in models if (p := store.latest(name)) is not None]


def _after(sets: list[ParameterSet]) -> str:
    newest = max((p.incarnation for p in sets), default="0")
    try:
        return f"{int(newest, 16) + 1:012x}"
    except ValueError:
        return ""


def _adopted(recorded: dict[str, bytes], decision_id: str) -> Record | None:
    value = recorded.get(decision_id)
    if value is None:
        return None
    record: Record = orjson.loads(value)
    return record


def _watch(telemetry: Telemetry, due: Due, plan: Plan) -> None:
    telemetry.watch("state_profiles", lambda: float(sum(due.profiles.values())))
    telemetry.watch("state_bytes", lambda: float(sum(due.bytes_held.values())))
    telemetry.watch(
        "watermark_lag_seconds",
        lambda: 0.0 if due.watermark_ms is None else (now_ms() - due.watermark_ms) / 1_000,
    )
    telemetry.set("start_timestamp_seconds", time.time())
    show_in_force(telemetry, plan)
