"""What does a topic already say? Read before the flow starts, to its end offsets at the call.

`read_tail` finds the decisions that a former run may have written after its last snapshot, so that
they are adopted and not made again; `read_compacted` reads the newest value of every key.
"""

from __future__ import annotations

import time
from typing import Any, Final

from kafka import TopicPartition
from kafka.errors import RetriableError

from flows.kafka.admin import topic_partitions
from flows.kafka.connection import KafkaConnection, admin_client
from flows.kafka.scan import Scanner

RECORD_ID: Final = "record_id"
"""The header that names the fact a record states."""

_COORDINATOR_WITHIN_S: Final = 10.0


def record_id_of(record: Any) -> str | None:
    """The id in a record's header; None for a record that is not ours."""
    for name, value in record.headers:
        if name == RECORD_ID and value is not None:
            return str(value, "utf-8", "replace")
    return None


def read_tail(
    connection: KafkaConnection, topic: str, *, group: str, from_start: bool
) -> dict[str, bytes]:
    """Record id -> value of what was written since the sink's position two snapshots ago.

    `group` is where the sink commits that position. `from_start` reads the whole topic instead: a
    run whose recovery store is fresh resumes from nothing, so any record may be one it makes again.
    So does a partition without a committed position. Where an id stands twice the first one counts.
    Raises ConnectorError.
    """
    partitions = list(range(topic_partitions(connection, topic)))
    bounds = {} if from_start else _committed(connection, topic, group, partitions)
    found: dict[str, bytes] = {}
    with Scanner(connection, topic) as scanner:
        held = scanner.held(partitions)
        ranges = {p: (max(bounds.get(p, 0), first), end) for p, (first, end) in held.items()}
        for _, records in scanner.scan(ranges):
            for record in records:
                name = record_id_of(record)
                if name is not None and record.value is not None:
                    found.setdefault(name, bytes(record.value))
    return found


def read_compacted(connection: KafkaConnection, topic: str) -> dict[bytes, bytes]:
    """The newest value of every key, in the order in which the keys were last written.

    A tombstone drops its key; a record without a key is skipped. Raises ConnectorError.
    """
    partitions = list(range(topic_partitions(connection, topic)))
    newest: dict[bytes, bytes] = {}
    with Scanner(connection, topic) as scanner:
        for _, records in scanner.scan(scanner.held(partitions)):
            for record in records:
                if record.key is None:
                    continue
                newest.pop(record.key, None)
                if record.value is not None:
                    newest[record.key] = record.value
    return newest


def _committed(
    connection: KafkaConnection, topic: str, group: str, partitions: list[int]
) -> dict[int, int]:
    wanted = [TopicPartition(topic, partition) for partition in partitions]
    with admin_client(connection) as admin:
        deadline = time.monotonic() + _COORDINATOR_WITHIN_S
        while True:
            try:
                offsets = admin.list_group_offsets({group: wanted}).get(group, {})
                break
            except RetriableError:
                # A cluster's first group has no coordinator for a second or so, nor has one after
                # a broker was restarted; kafka-python's admin client does not try again.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
    return {tp.partition: int(at.offset) for tp, at in offsets.items() if at.offset >= 0}
