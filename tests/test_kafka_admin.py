"""Are the topics made as they should be, read in one order, and errors of connection clear?"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from kafka import KafkaAdminClient

from flows.errors import ConnectorError
from flows.kafka import (
    KafkaConnection,
    TopicSpec,
    check_kafka,
    default_topics,
    ensure_topics,
    export_range,
    partition_key,
    partition_of,
    read_compacted,
    topic_partitions,
)
from schemas.records import RawRecord
from tests.kafka_topics import connection_to, make_topic, produce
from tests.servers.kafka import RunningKafka
from tests.servers.process import free_ports


def test_missing_topics_are_created_and_a_second_call_changes_nothing(
    kafka: RunningKafka, topic_prefix: str
) -> None:
    specs = default_topics(prefix=f"{topic_prefix}-", partitions=3)
    connection = connection_to(kafka.bootstrap)

    first = ensure_topics(connection, specs)
    second = ensure_topics(connection, specs)

    assert [report.name for report in first] == [spec.name for spec in specs]
    assert all(report.created for report in first)
    assert not any(report.created or report.differences for report in second)
    assert topic_partitions(connection, f"{topic_prefix}-events") == 3


def test_a_topic_that_differs_is_reported_and_left_alone(
    kafka: RunningKafka, topic_prefix: str
) -> None:
    topic = make_topic(kafka.bootstrap, f"{topic_prefix}-late", config={"retention.ms": "5000"})
    spec = TopicSpec(
        name=topic, partitions=4, replication=1, config={"retention.ms": "9000", "segment.ms": "1"}
    )

    (report,) = ensure_topics(connection_to(kafka.bootstrap), [spec])

    assert not report.created
    assert report.differences == (
        "partitions is 1, expected 4",
        "retention.ms is 5000, expected 9000",
        "segment.ms is 604800000, expected 1",
    )
    assert topic_partitions(connection_to(kafka.bootstrap), topic) == 1


def test_the_default_topics_carry_the_settings_that_the_flow_counts_on() -> None:
    config = {spec.name: spec.config for spec in default_topics(prefix="", partitions=1)}
    assert config["events"]["message.timestamp.type"] == "LogAppendTime"
    assert config["decisions"]["cleanup.policy"] == "delete"
    assert config["dead-letters"]["max.message.bytes"] == str(32 << 20)
    assert config["dead-letters"]["retention.ms"] == str(7 * 86_400_000)
    assert config["parameters"]["min.compaction.lag.ms"] == str(86_400_000)
    compacted = {
        name for name, settings in config.items() if settings.get("cleanup.policy") == "compact"
    }
    assert compacted == {"parameters", "catalogue", "policies"}


def test_every_missing_topic_is_named(kafka: RunningKafka, topic_prefix: str) -> None:
    there = make_topic(kafka.bootstrap, f"{topic_prefix}-there")
    with pytest.raises(
        ConnectorError, match=f"{topic_prefix}-a, {topic_prefix}-b.*nextbest topics"
    ):
        check_kafka(
            connection_to(kafka.bootstrap), [there, f"{topic_prefix}-a", f"{topic_prefix}-b"]
        )


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.timeout(15)
def test_a_broker_that_never_answers_is_an_error_within_fifteen_seconds(silent_port: int) -> None:
    with pytest.raises(ConnectorError, match=f"127.0.0.1:{silent_port}.*cannot be used"):
        check_kafka(connection_to(f"127.0.0.1:{silent_port}"))


@pytest.mark.timeout(15)
def test_a_closed_port_is_an_error_that_names_the_address_and_the_cause() -> None:
    (port,) = free_ports(1)
    with pytest.raises(ConnectorError, match=rf"127.0.0.1:{port}.*(?i:refused|connect)"):
        check_kafka(connection_to(f"127.0.0.1:{port}"))


def test_a_connection_shows_no_password() -> None:
    connection = KafkaConnection(
        bootstrap_servers="a:1, b:2",
        security_protocol="SASL_SSL",
        sasl_mechanism="SCRAM-SHA-512",
        sasl_plain_username="flow",
        sasl_plain_password="hunter2",
        ssl_password="hunter3",
    )
    assert "hunter" not in repr(connection)
    assert "sasl_plain_password=***" in repr(connection)
    config = connection.client_config()
    assert config["sasl_plain_password"] == "hunter2"
    assert config["bootstrap_servers"] == ["a:1", "b:2"]


def test_a_connection_configures_every_client(kafka: RunningKafka) -> None:
    unknown = set(connection_to("x:1").client_config()) - set(KafkaAdminClient.DEFAULT_CONFIG)
    assert not unknown
    assert check_kafka(connection_to(kafka.bootstrap)) == {}


# Values of the murmur2 test of Apache Kafka's own clients, as signed 32-bit integers.
@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_a_key_goes_where_java_sends_it(key: bytes, hashed: int) -> None:
    for partitions in (1, 3, 12, 64):
        assert partition_of(key, partitions) == (hashed & 0x7FFFFFFF) % partitions


def test_partition_names_sort_as_numbers_and_never_change_their_width() -> None:
    names = [partition_key(partition) for partition in range(1200)]
    assert names == sorted(names)
    assert {len(name) for name in names} == {5}


def test_a_compacted_topic_is_its_newest_values(kafka: RunningKafka, topic_prefix: str) -> None:
    topic = make_topic(kafka.bootstrap, f"{topic_prefix}-c", partitions=2)
    produce(kafka.bootstrap, topic, [b"a1", b"b1", b"c1", b"d1"], partitions=2)
    produce(kafka.bootstrap, topic, [b"a2", None], partitions=2)

    newest = read_compacted(connection_to(kafka.bootstrap), topic)

    assert newest == {b"key 0": b"a2", b"key 2": b"c1", b"key 3": b"d1"}


def test_a_topic_without_records_reads_as_nothing(kafka: RunningKafka, topic_prefix: str) -> None:
    topic = make_topic(kafka.bootstrap, f"{topic_prefix}-empty", partitions=3)
    connection = connection_to(kafka.bootstrap)
    assert read_compacted(connection, topic) == {}
    assert list(export_range(connection, topic)) == []


def merge_key(exported: tuple[int, RawRecord]) -> tuple[int, int, int]:
    partition, record = exported
    assert record.received_ms is not None
    return record.received_ms, partition, record.offset


def test_an_export_merges_the_partitions_by_append_time(
    kafka: RunningKafka, topic_prefix: str
) -> None:
    topic = make_topic(kafka.bootstrap, f"{topic_prefix}-e", partitions=3)
    values = [b"%d" % n for n in range(3000)]
    for start in range(0, 3000, 1000):
        produce(kafka.bootstrap, topic, values[start : start + 1000], partitions=3)

    exported = list(export_range(connection_to(kafka.bootstrap), topic))

    assert sorted(int(record.value or b"") for _, record in exported) == list(range(3000))
    assert exported == sorted(exported, key=merge_key)


def test_an_export_by_time_and_one_by_offsets_give_their_part(
    kafka: RunningKafka, topic_prefix: str
) -> None:
    topic = make_topic(kafka.bootstrap, f"{topic_prefix}-r", partitions=2)
    connection = connection_to(kafka.bootstrap)
    for value in (b"first", b"second", b"third"):
        produce(kafka.bootstrap, topic, [value, value], partitions=2)
    whole = list(export_range(connection, topic))
    second_ms = min(merge_key(e)[0] for e in whole if e[1].value == b"second")
    third_ms = min(merge_key(e)[0] for e in whole if e[1].value == b"third")

    by_time = list(export_range(connection, topic, start_ms=second_ms, end_ms=third_ms))
    by_offset = list(export_range(connection, topic, start_offsets={0: 2}, end_offsets={1: 1}))
    after = list(export_range(connection, topic, start_ms=third_ms + 3_600_000))

    assert by_time == [e for e in whole if second_ms <= merge_key(e)[0] < third_ms]
    assert [record.value for _, record in by_time] == [b"second", b"second"]
    assert {(p, record.offset) for p, record in by_offset} == {(0, 2), (1, 0)}
    assert after == []
