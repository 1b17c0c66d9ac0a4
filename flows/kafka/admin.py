"""Which topics does nextbest need, are they there, and what do they hold?

Creates what is missing, reports what differs and changes nothing that exists: a topic's settings
are its owner's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from kafka import TopicPartition
from kafka.admin import ConfigResource, OffsetSpec
from kafka.errors import TopicAlreadyExistsError

from flows.errors import ConnectorError
from flows.kafka.connection import KafkaConnection, admin_client

_MIB: Final = 1 << 20
_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS


@dataclass(frozen=True, kw_only=True)
class TopicSpec:
    """A topic as it should be; `config` holds Kafka's own topic settings."""

    name: str
    partitions: int
    replication: int
    config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TopicReport:
    """What `ensure_topics` found: `differences` reads "retention.ms is 1, expected 2"."""

    name: str
    created: bool
    differences: tuple[str, ...] = ()


def default_topics(
    *, prefix: str = "", partitions: int = 8, replication: int = 1
) -> tuple[TopicSpec, ...]:
    """Every topic of the flow, named `prefix` + its name."""

    def topic(name: str, **config: int | str) -> TopicSpec:
        settings = {key.replace("_", "."): str(value) for key, value in config.items()}
        return TopicSpec(
            name=prefix + name, partitions=partitions, replication=replication, config=settings
        )

    kept: dict[str, int | str] = {"cleanup_policy": "delete", "retention_ms": 7 * _DAY_MS}
    # Small, about no one, and read as a history.
    reported: dict[str, int | str] = {"cleanup_policy": "delete", "retention_ms": 90 * _DAY_MS}
    compacted: dict[str, int | str] = {"cleanup_policy": "compact"}
    return (
        # The append time is the flow's clock: a producer's own clock may be years off. A payload of
        # 16 MiB must become a dead letter, so it must be accepted here first.
        topic("events", message_timestamp_type="LogAppendTime", max_message_bytes=17 * _MIB),
        topic("decisions", **kept),
        topic("segment-changes", **kept),
        # A dead letter carries the original bytes and its headers: larger than any event.
        topic("dead-letters", **kept, max_message_bytes=32 * _MIB),
        topic("outcomes", **kept),
        topic("late", **kept, max_message_bytes=17 * _MIB),
        # It names two profiles: kept no longer than what else names one.
        topic("suggestions", **kept),
        # A receipt names nobody, and is to be shown long after.
        topic("erasures", cleanup_policy="delete", retention_ms=400 * _DAY_MS),
        topic("predictions", **reported),
        topic("audiences", **reported),
        topic("thresholds", **reported),
        topic("monitoring", **reported),
        # A decision names the parameters it used: those of the last day can be had for a replay.
        topic(
            "parameters",
            **compacted,
            min_compaction_lag_ms=24 * _HOUR_MS,
            max_message_bytes=16 * _MIB,
        ),
        # Small, and read in one order: one partition, whatever the others have.
        replace(topic("catalogue", **compacted), partitions=1),
        replace(topic("policies", **compacted), partitions=1),
    )


def ensure_topics(connection: KafkaConnection, specs: Sequence[TopicSpec]) -> list[TopicReport]:
    """Create the topics that are missing; report the others, in the order of `specs`.

    Safe to repeat and to run twice at once. Raises ConnectorError where the broker refuses.
    """
    with admin_client(connection) as admin:
        known = {topic["name"]: topic for topic in _described(admin, [s.name for s in specs])}
        missing = [spec for spec in specs if spec.name not in known]
        for spec in missing:
            try:
                admin.create_topics(
                    {
                        spec.name: {
                            "num_partitions": spec.partitions,
                            "replication_factor": spec.replication,
                            "configs": dict(spec.config),
                        }
                    }
                )
            except TopicAlreadyExistsError:
                continue  # another process was quicker
        if missing:
            # A broker confirms a topic before each of its partitions has a leader.
            admin.wait_for_topics([spec.name for spec in missing], timeout_ms=15_000)
        existing = [spec for spec in specs if spec.name in known]
        configs = _configs(admin, existing)
        return [
            TopicReport(
                name=spec.name,
                created=spec.name not in known,
                differences=_differences(spec, known[spec.name], configs[spec.name])
                if spec.name in known
                else (),
            )
            for spec in specs
        ]


def check_kafka(connection: KafkaConnection, topics: Iterable[str] = ()) -> dict[str, int]:
    """Make sure that Kafka answers and that `topics` exist; their numbers of partitions.

    Call it before the flow is built: from inside the engine the same error comes with a backtrace.
    Raises ConnectorError within 15 s, naming the address or every missing topic.
    """
    wanted = list(topics)
    with admin_client(connection) as admin:
        counts = {
            topic["name"]: len(topic["partitions"])
            for topic in (_described(admin, wanted) if wanted else ())
        }
    if missing := [topic for topic in wanted if topic not in counts]:
        raise ConnectorError(
            f"no topic {', '.join(missing)} at Kafka {connection.bootstrap_servers}; "
            "create it with `nextbest topics`, or correct its name in the settings"
        )
    return counts


def topic_partitions(connection: KafkaConnection, topic: str) -> int:
    """How many partitions `topic` has; ConnectorError where it does not exist."""
    return check_kafka(connection, [topic])[topic]


def held_offsets(connection: KafkaConnection, topic: str) -> dict[int, tuple[int, int]]:
    """Per partition of `topic` the first offset held and the one that comes next."""
    partitions = range(topic_partitions(connection, topic))
    wanted = [TopicPartition(topic, partition) for partition in partitions]
    with admin_client(connection) as admin:
        first = admin.list_partition_offsets(dict.fromkeys(wanted, OffsetSpec.EARLIEST))
        end = admin.list_partition_offsets(dict.fromkeys(wanted, OffsetSpec.LATEST))
    return {tp.partition: (int(first[tp].offset), int(end[tp].offset)) for tp in wanted}


def _described(admin: Any, names: list[str]) -> list[dict[str, Any]]:
    return [topic for topic in admin.describe_topics(names) if topic["error_code"] == 0]


def _configs(admin: Any, specs: Sequence[TopicSpec]) -> dict[str, dict[str, Any]]:
    resources = [ConfigResource("topic", spec.name, list(spec.config)) for spec in specs]
    if not resources:
        return {}
    described: dict[str, dict[str, Any]] = admin.describe_configs(resources, config_filter="all")[
        "topic"
    ]
    return described


def _differences(
    spec: TopicSpec, found: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[str, ...]:
    pairs = [("partitions", len(found["partitions"]), spec.partitions)]
    pairs += [
        ("replication", len(partition["replica_nodes"]), spec.replication)
        for partition in found["partitions"][:1]
    ]
    values = [(key, config.get(key, {}).get("value"), want) for key, want in spec.config.items()]
    return tuple(
        f"{name} is {have}, expected {want}"
        for name, have, want in [*pairs, *values]
        if have != want
    )
