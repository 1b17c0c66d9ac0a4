"""What the Kafka tests share: topics, records in and out, a source driven without the engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

from bytewax.inputs import StatefulSourcePartition
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition

from flows.kafka.admin import TopicSpec, ensure_topics
from flows.kafka.connection import KafkaConnection
from flows.kafka.records import raw_record
from flows.kafka.scan import Scanner
from flows.kafka.source import KafkaSource
from schemas.records import OutRecord, RawBatch, RawRecord

MIB = 1 << 20


def connection_to(bootstrap: str) -> KafkaConnection:
    return KafkaConnection(bootstrap_servers=bootstrap)


def make_topic(
    bootstrap: str, topic: str, *, partitions: int = 1, config: Mapping[str, str] | None = None
) -> str:
    spec = TopicSpec(
        name=topic,
        partitions=partitions,
        replication=1,
        config={"message.timestamp.type": "LogAppendTime"} | dict(config or {}),
    )
    assert ensure_topics(connection_to(bootstrap), [spec])[0].created
    return topic


def produce(
    bootstrap: str, topic: str, values: Sequence[bytes | None], *, partitions: int = 1
) -> None:
    """Send values round robin over the partitions, in order."""
    producer = KafkaProducer(
        bootstrap_servers=bootstrap, linger_ms=5, max_request_size=40 * MIB, batch_size=1 << 18
    )
    try:
        sent = [
            producer.send(topic, key=b"key %d" % n, value=value, partition=n % partitions)
            for n, value in enumerate(values)
        ]
        producer.flush(timeout=60)
        for future in sent:
            future.get(timeout=1)
    finally:
        producer.close(timeout=10)


def delete_before(bootstrap: str, topic: str, *, partition: int, offset: int) -> None:
    """What retention does."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        admin.delete_records({TopicPartition(topic, partition): offset})
    finally:
        admin.close()


def records_in(bootstrap: str, topic: str, *, partitions: int = 1) -> dict[int, list[Any]]:
    """Everything the topic holds, as the client gives it, by partition."""
    held: dict[int, list[Any]] = {partition: [] for partition in range(partitions)}
    with Scanner(connection_to(bootstrap), topic) as scanner:
        for partition, records in scanner.scan(scanner.held(list(held))):
            held[partition].extend(records)
    return held


def values_in(bootstrap: str, topic: str, *, partitions: int = 1) -> list[bytes]:
    held = records_in(bootstrap, topic, partitions=partitions)
    return [record.value for records in held.values() for record in records]


def raw_records_in(bootstrap: str, topic: str) -> list[RawRecord]:
    return [raw_record(record) for record in records_in(bootstrap, topic)[0]]


def out(name: str, *, value: bytes | None = b"value", adopted: bool = False) -> OutRecord:
    return OutRecord(name, b"key", value, (("kind", b"test"),), adopted)


def eventually(condition: Callable[[], bool], *, what: str, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


class DrivenSource:
    """A source whose partitions are turned by the test, as the engine would."""

    def __init__(
        self, source: KafkaSource, *, resume: Mapping[int, int | None] | None = None
    ) -> None:
        self.source = source
        self.parts: dict[int, StatefulSourcePartition[RawBatch, int]] = {
            int(name): source.build_part("step", name, (resume or {}).get(int(name)))
            for name in source.list_parts()
        }

    def turn(self) -> list[RawBatch]:
        return [batch for part in self.parts.values() for batch in part.next_batch()]

    def until(self, enough: Callable[[list[RawBatch]], bool], *, what: str) -> list[RawBatch]:
        batches: list[RawBatch] = []

        def turned() -> bool:
            batches.extend(self.turn())
            return enough(batches)

        eventually(turned, what=what)
        return batches

    def read(self, records: int) -> list[RawBatch]:
        return self.until(lambda read: count_of(read) >= records, what=f"{records} records")

    def snapshots(self) -> dict[int, int]:
        return {partition: part.snapshot() for partition, part in self.parts.items()}


def count_of(batches: Sequence[RawBatch]) -> int:
    return sum(len(batch.records) for batch in batches)


def by_partition(batches: Sequence[RawBatch]) -> dict[int, list[RawRecord]]:
    read: dict[int, list[RawRecord]] = {}
    for batch in batches:
        read.setdefault(batch.partition, []).extend(batch.records)
    return read


@contextmanager
def driven(
    bootstrap: str,
    topic: str,
    *,
    resume: Mapping[int, int | None] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Iterator[DrivenSource]:
    """A source on a clock that ticks one millisecond at each look."""
    clock = count(1_000_000)
    given: dict[str, Any] = {"stop": lambda: False, "now_ms": lambda: next(clock)}
    source = KafkaSource(
        topic, connection=connection_to(bootstrap), **(given | dict(options or {}))
    )
    driven = DrivenSource(source, resume=resume)
    try:
        yield driven
    finally:
        for part in driven.parts.values():
            part.close()
