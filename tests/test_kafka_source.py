"""Does the source read every record once and in order, and say when a partition has no more?"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from kafka import KafkaAdminClient
from kafka.errors import RetriableError

from flows.errors import ConnectorError, OffsetExpiredError
from flows.kafka import KafkaSource
from schemas.records import RawBatch
from tests.kafka_topics import (
    MIB,
    by_partition,
    connection_to,
    count_of,
    delete_before,
    driven,
    eventually,
    make_topic,
    produce,
    raw_records_in,
)
from tests.servers.kafka import KafkaBroker, RunningKafka


@pytest.fixture
def own_broker(kafka: RunningKafka, tmp_path: Path) -> Iterator[KafkaBroker]:
    """A broker that a test may kill."""
    if kafka.broker is None:
        pytest.skip("KAFKA_BOOTSTRAP_SERVERS names a broker that is not ours to kill")
    broker = KafkaBroker(tmp_path / "kafka")
    broker.start()
    yield broker
    broker.stop()


def ticks(batches: list[RawBatch]) -> list[RawBatch]:
    return [batch for batch in batches if not batch.records]


def test_twelve_partitions_are_read_whole_and_each_in_order(
    kafka: RunningKafka, topic_prefix: str
) -> None:
    topic = make_topic(kafka.bootstrap, f"{topic_prefix}-e", partitions=12)
    produce(kafka.bootstrap, topic, [b"%d" % n for n in range(6000)], partitions=12)

    with driven(kafka.bootstrap, topic, options={"batch_records": 100}) as source:
        batches = source.read(6000)

    assert {batch.partitions for batch in batches} == {12}
    assert max(len(batch.records) for batch in batches) == 100
    for partition, records in by_partition(batches).items():
        assert [record.offset for record in records] == list(range(500))
        assert [record.value for record in records] == [
            b"%d" % n for n in range(partition, 6000, 12)
        ]


def test_a_busy_partition_does_not_hold_up_the_others(
    kafka: RunningKafka, topic_prefix: str
) -> None:
    topic = make_topic(kafka.bootstrap, f"{topic_prefix}-b", partitions=3)
    produce(kafka.bootstrap, topic, [b"x" * 500] * 60_000, partitions=1)
    produce(kafka.bootstrap, topic, [b"y"] * 3, partitions=3)

    with driven(kafka.bootstrap, topic, options={"batch_records": 100}) as source:
        batches = source.until(
            lambda read: {1, 2} <= set(by_partition(read)), what="the quiet partitions"
        )

    assert count_of(batches) < 60_000


def test_keys_headers_and_the_append_time_come_with_a_record(
    kafka: RunningKafka, topic_prefix: str
) -> None:
    topic = make_topic(kafka.bootstrap, f"{topic_prefix}-h")
    before = int(time.time() * 1000) - 5000
    produce(kafka.bootstrap, topic, [b"value", None])

    with driven(kafka.bootstrap, topic) as source:
        first, second = by_partition(source.read(2))[0]

    assert (first.key, first.value, first.headers) == (b"key 0", b"value", ())
    assert second.value is None
    assert first.received_ms is not None
    assert before < first.received_ms < before + 3_600_000


def test_a_producers_own_timestamp_is_not_taken_for_a_clock(
    kafka: RunningKafka, topic_prefix: str
) -> None:
    topic = make_topic(
        kafka.bootstrap, f"{topic_prefix}-t", config={"message.timestamp.type": "CreateTime"}
    )
    produce(kafka.bootstrap, topic, [b"value"])
    assert raw_records_in(kafka.bootstrap, topic)[0].received_ms is None


def test_a_resumed_source_goes_on_after_the_last_record_it_gave(
    kafka: RunningKafka, topic_prefix: str
) -> None:
    topic = make_topic(kafka.bootstrap, f"{topic_prefix}-e", partitions=11)
    produce(kafka.bootstrap, topic, [b"%d" % n for n in range(2200)], partitions=11)

    with driven(kafka.bootstrap, topic, options={"batch_records": 7}) as source:
        first = source.read(500)
        state = source.snapshots()
    with driven(kafka.bootstrap, topic, resume=dict(state)) as source:
        second = source.read(2200 - count_of(first))

    values = [record.value or b"" for batch in first + second for record in batch.records]
    assert sorted(values) == sorted(b"%d" % n for n in range(2200))


def test_latest_is_resolved_once_to_an_offset(kafka: RunningKafka, topic_prefix: str) -> None:
    topic = make_topic(kafka.bootstrap, f"{topic_prefix}-l")
    produce(kafka.bootstrap, topic, [b"old"] * 5)

    with driven(kafka.bootstrap, topic, options={"start": "latest"}) as source:
        state = source.snapshots()
    produce(kafka.bootstrap, topic, [b"new"])
    with driven(kafka.bootstrap, topic, resume=dict(state), options={"start": "latest"}) as source:
        batches = source.read(1)

    assert state == {0: 5}
    assert [record.value for record in by_partition(batches)[0]] == [b"new"]


def test_an_epoch_gives_no_more_than_its_bound(kafka: RunningKafka, topic_prefix: str) -> None:
    topic = make_topic(kafka.bootstrap, f"{topic_prefix}-b")
    produce(kafka.bootstrap, topic, [b"x"] * 1000)

    options = {"batch_records": 40, "max_records_per_epoch": 100, "tick_ms": 20}
    with driven(kafka.bootstrap, topic, options=options) as source:
        first = source.read(100)
        held = source.until(lambda read: len(ticks(read)) >= 5, what="ticks while it is held")
        assert [len(batch.records) for batch in first + held if batch.records] == [40, 40, 20]
        assert not any(batch.idle for batch in held)  # not read to the end, only held
        assert source.snapshots() == {0: 100}
        assert count_of(source.read(100)) == 100


def test_a_partition_read_to_its_end_is_listed_as_idle(
    kafka: RunningKafka, topic_prefix: str
) -> None:
    topic = make_topic(kafka.bootstrap, f"{topic_prefix}-i", partitions=3)
    produce(kafka.bootstrap, topic, [b"x"] * 2, partitions=2)

    with driven(kafka.bootstrap, topic, options={"idle_after_ms": 50, "tick_ms": 20}) as source:
        batches = source.until(lambda read: len(read[-1].idle) == 3 if read else False, what="idle")

    assert count_of(batches) == 2
    last = batches[-1]
    assert last.records == []
    assert [partition for partition, _ in last.idle] == [0, 1, 2]
    assert all(990_000 < clock <= 1_000_000 + len(batches) for _, clock in last.idle)


def test_a_batch_with_records_lists_the_idle_partitions_of_the_same_reader(
    kafka: RunningKafka, topic_prefix: str
) -> None:
    topic = make_topic(kafka.bootstrap, f"{topic_prefix}-j", partitions=2)
    with driven(kafka.bootstrap, topic, options={"idle_after_ms": 50, "tick_ms": 20}) as source:
        source.until(lambda read: len(read[-1].idle) == 2 if read else False, what="idle")
        produce(kafka.bootstrap, topic, [b"x"])
        (batch,) = [batch for batch in source.read(1) if batch.records]
    assert [partition for partition, _ in batch.idle] == [1]


def test_ticks_come_no_oftener_than_asked(kafka: RunningKafka, topic_prefix: str) -> None:
    topic = make_topic(kafka.bootstrap, f"{topic_prefix}-k", partitions=12)
    with driven(kafka.bootstrap, topic, options={"tick_ms": 600_000}) as source:
        for _ in range(300):
            assert source.turn() == []


def test_every_partition_wakes_within_fifty_milliseconds(
    kafka: RunningKafka, topic_prefix: str
) -> None:
    topic = make_topic(kafka.bootstrap, f"{topic_prefix}-w")
    with driven(kafka.bootstrap, topic) as source:
        source.turn()
        awake = source.parts[0].next_awake()
        assert awake is not None
        assert awake <= datetime.now(UTC) + timedelta(milliseconds=50)


def test_stop_ends_the_partition_at_once(kafka: RunningKafka, topic_prefix: str) -> None:
    topic = make_topic(kafka.bootstrap, f"{topic_prefix}-s")
    produce(kafka.bootstrap, topic, [b"x"] * 100)
    asked: list[bool] = []
    with driven(
        kafka.bootstrap, topic, options={"batch_records": 10, "stop": lambda: bool(asked)}
    ) as source:
        read = count_of(source.read(10))
        asked.append(True)
        with pytest.raises(StopIteration):
            source.turn()
        assert source.snapshots() == {0: read}


def test_an_expired_offset_is_an_error_that_names_what_is_held(
    kafka: RunningKafka, topic_prefix: str
) -> None:
    topic = make_topic(kafka.bootstrap, f"{topic_prefix}-x", partitions=2)
    produce(kafka.bootstrap, topic, [b"x"] * 40, partitions=2)
    delete_before(kafka.bootstrap, topic, partition=1, offset=15)

    message = f"{topic}, partition 1: offset 3 must be read next, but the topic holds 15 to 19"
    with (
        pytest.raises(OffsetExpiredError, match=message),
        driven(kafka.bootstrap, topic, resume={0: 3, 1: 3}),
    ):
        pass


def test_an_offset_that_expires_while_the_source_runs_is_an_error(
    kafka: RunningKafka, topic_prefix: str
) -> None:
    topic = make_topic(kafka.bootstrap, f"{topic_prefix}-y")
    produce(kafka.bootstrap, topic, [b"x"] * 20)
    with driven(kafka.bootstrap, topic, resume={0: 2}) as source:
        # Built, but it has not read anything yet.
        delete_before(kafka.bootstrap, topic, partition=0, offset=15)
        with pytest.raises(OffsetExpiredError, match=r"offset 2 must .*holds 15 to 19"):
            source.read(1)


def test_an_offset_beyond_the_end_is_an_error(kafka: RunningKafka, topic_prefix: str) -> None:
    topic = make_topic(kafka.bootstrap, f"{topic_prefix}-z")
    with (
        pytest.raises(OffsetExpiredError, match="offset 7 must be read next"),
        driven(kafka.bootstrap, topic, resume={0: 7}),
    ):
        pass


def test_a_record_of_sixteen_mebibytes_is_read(kafka: RunningKafka, topic_prefix: str) -> None:
    topic = make_topic(
        kafka.bootstrap, f"{topic_prefix}-m", config={"max.message.bytes": str(17 * MIB)}
    )
    large = os.urandom(16 * MIB)
    produce(kafka.bootstrap, topic, [b"before", large, b"after"])

    with driven(kafka.bootstrap, topic) as source:
        read = by_partition(source.read(3))[0]

    assert [record.value for record in read] == [b"before", large, b"after"]


def test_positions_are_committed_for_those_who_watch_and_never_read_back(
    kafka: RunningKafka, topic_prefix: str
) -> None:
    topic = make_topic(kafka.bootstrap, f"{topic_prefix}-g", partitions=2)
    group = f"{topic_prefix}-watch"
    produce(kafka.bootstrap, topic, [b"x"] * 10, partitions=2)
    with driven(kafka.bootstrap, topic, options={"group": group}) as source:
        source.read(10)
        source.snapshots()

        def committed() -> dict[int, int]:
            admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
            try:
                offsets = admin.list_group_offsets(group)[group]
            except RetriableError:  # the cluster's first group
                return {}
            finally:
                admin.close()
            return {tp.partition: at.offset for tp, at in offsets.items()}

        eventually(lambda: committed() == {0: 5, 1: 5}, what="positions in the group")
    with driven(kafka.bootstrap, topic, options={"group": group}) as source:
        assert count_of(source.read(10)) == 10


class Progress:
    def __init__(self) -> None:
        self.turns = 0
        self.topics: set[str] = set()
        self.read: dict[int, int] = {}
        self.behind: dict[int, int] = {}

    def turned(self) -> None:
        self.turns += 1

    def consumed(self, topic: str, partition: int, records: int) -> None:
        self.topics.add(topic)
        self.read[partition] = self.read.get(partition, 0) + records

    def lag(self, topic: str, partition: int, records: int) -> None:
        self.topics.add(topic)
        self.behind[partition] = records


def test_telemetry_is_told_what_was_read_and_what_is_left(
    kafka: RunningKafka, topic_prefix: str
) -> None:
    topic = make_topic(kafka.bootstrap, f"{topic_prefix}-p")
    produce(kafka.bootstrap, topic, [b"x"] * 50)
    progress = Progress()
    options = {"batch_records": 10, "max_records_per_epoch": 30, "on_progress": progress}
    with driven(kafka.bootstrap, topic, options=options) as source:
        source.until(lambda _: progress.behind.get(0) == 20, what="lag")
    assert progress.read == {0: 30}
    assert progress.turns > 3
    assert progress.topics == {topic}


def test_a_killed_broker_is_waited_for_and_its_partitions_are_not_called_idle(
    own_broker: KafkaBroker,
) -> None:
    topic = make_topic(own_broker.bootstrap, "events", partitions=2)
    produce(own_broker.bootstrap, topic, [b"before"] * 2, partitions=2)
    with driven(
        own_broker.bootstrap, topic, options={"idle_after_ms": 50, "tick_ms": 20}
    ) as source:
        source.until(
            lambda read: count_of(read) == 2 and len(read[-1].idle) == 2, what="read to the end"
        )
        own_broker.kill()
        # Nobody can say that nothing more was written: the watermark must not follow the clock.
        source.until(
            lambda read: bool(read) and not read[-1].idle, what="idle withdrawn in the outage"
        )
        own_broker.start()
        produce(own_broker.bootstrap, topic, [b"after"] * 2, partitions=2)
        batches = source.read(2)
        source.until(
            lambda read: bool(read) and len(read[-1].idle) == 2, what="idle after the outage"
        )
    assert {record.value for batch in batches for record in batch.records} == {b"after"}


def test_a_missing_topic_is_named(kafka: RunningKafka, topic_prefix: str) -> None:
    source = KafkaSource(
        f"{topic_prefix}-none",
        connection=connection_to(kafka.bootstrap),
        stop=lambda: False,
        now_ms=lambda: 0,
    )
    with pytest.raises(ConnectorError, match=f"no topic {topic_prefix}-none at Kafka"):
        source.list_parts()


def test_a_partition_emptied_by_retention_is_idle_at_its_end(
    kafka: RunningKafka, topic_prefix: str
) -> None:
    topic = make_topic(kafka.bootstrap, f"{topic_prefix}-n")
    produce(kafka.bootstrap, topic, [b"x"] * 10)
    delete_before(kafka.bootstrap, topic, partition=0, offset=10)
    with driven(kafka.bootstrap, topic, options={"idle_after_ms": 50, "tick_ms": 20}) as source:
        batches = source.until(lambda read: bool(read) and bool(read[-1].idle), what="idle")
        assert source.snapshots() == {0: 10}
    assert count_of(batches) == 0
