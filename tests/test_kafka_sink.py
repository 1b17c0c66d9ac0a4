"""Is every record written once by its id, acknowledged before its epoch closes, and never lost?"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from bytewax.outputs import StatefulSinkPartition

from flows.errors import DeliveryError
from flows.kafka import KafkaSink, partition_key, read_tail, tail_group
from flows.kafka.sink import RELEASE_AFTER
from flows.kafka.tail import record_id_of
from schemas.records import OutRecord
from tests.kafka_topics import (
    MIB,
    connection_to,
    eventually,
    make_topic,
    out,
    produce,
    records_in,
    values_in,
)
from tests.servers.kafka import KafkaBroker, RunningKafka

Part = StatefulSinkPartition[list[OutRecord], int]


@pytest.fixture
def own_broker(kafka: RunningKafka, tmp_path: Path) -> Iterator[KafkaBroker]:
    """A broker that a test may kill."""
    if kafka.broker is None:
        pytest.skip("KAFKA_BOOTSTRAP_SERVERS names a broker that is not ours to kill")
    broker = KafkaBroker(tmp_path / "kafka")
    broker.start()
    yield broker
    broker.stop()


@contextmanager
def sink_part(
    bootstrap: str, topic: str, *, resume: int | None = None, options: dict[str, Any] | None = None
) -> Iterator[Part]:
    """The first partition of a sink on `topic`."""
    sink = KafkaSink(topic, connection=connection_to(bootstrap), **(options or {}))
    part = sink.build_part("step", partition_key(0), resume)
    try:
        yield part
    finally:
        part.close()


def ids_in(bootstrap: str, topic: str) -> list[str | None]:
    return [record_id_of(record) for record in records_in(bootstrap, topic)[0]]


def test_a_record_is_written_with_its_key_value_headers_and_id(
    kafka: RunningKafka, topic_prefix: str
) -> None:
    topic = make_topic(kafka.bootstrap, f"{topic_prefix}-d")
    with sink_part(kafka.bootstrap, topic) as part:
        part.write_batch([[out("one", value=b"v"), out("gone", value=None)]])
        assert part.snapshot() == 2

    value, tombstone = records_in(kafka.bootstrap, topic)[0]
    assert (value.key, value.value) == (b"key", b"v")
    assert value.headers == [("kind", b"test"), ("record_id", b"one")]
    assert tombstone.value is None
    assert tombstone.headers[-1] == ("record_id", b"gone")


def test_each_of_twelve_partitions_gets_what_names_it(
    kafka: RunningKafka, topic_prefix: str
) -> None:
    topic = make_topic(kafka.bootstrap, f"{topic_prefix}-p", partitions=12)
    sink = KafkaSink(topic, connection=connection_to(kafka.bootstrap))
    names = sink.list_parts()
    parts = {name: sink.build_part("step", name, None) for name in names}
    for partition in range(12):
        # As the engine does: the index that part_fn gives, into the sorted names.
        name = sorted(names)[sink.part_fn(partition_key(partition)) % 12]
        parts[name].write_batch([[out(f"{partition}", value=b"%d" % partition)]])
    assert {part.snapshot() for part in parts.values()} == {1}
    for part in parts.values():
        part.close()

    held = records_in(kafka.bootstrap, topic, partitions=12)
    assert {p: [r.value for r in records] for p, records in held.items()} == {
        partition: [b"%d" % partition] for partition in range(12)
    }


def test_an_adopted_record_is_not_written(kafka: RunningKafka, topic_prefix: str) -> None:
    topic = make_topic(kafka.bootstrap, f"{topic_prefix}-a")
    with sink_part(kafka.bootstrap, topic) as part:
        part.write_batch([[out("new"), out("recorded", adopted=True)]])
        part.snapshot()
    assert ids_in(kafka.bootstrap, topic) == ["new"]


def test_what_stands_after_the_snapshot_is_not_written_again(
    kafka: RunningKafka, topic_prefix: str
) -> None:
    topic = make_topic(kafka.bootstrap, f"{topic_prefix}-t")
    with sink_part(kafka.bootstrap, topic) as part:
        part.write_batch([[out("a"), out("b")]])
        state = part.snapshot()
        part.write_batch([[out("c"), out("d")]])
    with sink_part(kafka.bootstrap, topic, resume=state) as part:
        part.write_batch([[out("c"), out("d", adopted=True), out("e")]])
        assert part.snapshot() == 5
    assert ids_in(kafka.bootstrap, topic) == ["a", "b", "c", "d", "e"]


def test_a_second_crash_before_the_tail_was_made_again_writes_nothing_twice(
    kafka: RunningKafka, topic_prefix: str
) -> None:
    topic = make_topic(kafka.bootstrap, f"{topic_prefix}-u")
    names = [f"{n}" for n in range(10)]
    with sink_part(kafka.bootstrap, topic) as part:
        part.write_batch([[out(name) for name in names]])
    # No snapshot: the next run begins anew, makes three again, closes an epoch and crashes.
    with sink_part(kafka.bootstrap, topic) as part:
        part.write_batch([[out(name) for name in names[:3]]])
        state = part.snapshot()
    assert state == 3
    with sink_part(kafka.bootstrap, topic, resume=state) as part:
        part.write_batch([[out(name) for name in [*names[3:], "10"]]])
        assert part.snapshot() == 11
    assert ids_in(kafka.bootstrap, topic) == [*names, "10"]


def test_the_snapshot_is_the_first_record_not_made_again_whatever_the_order(
    kafka: RunningKafka, topic_prefix: str
) -> None:
    topic = make_topic(kafka.bootstrap, f"{topic_prefix}-o")
    with sink_part(kafka.bootstrap, topic) as part:
        part.write_batch([[out(name) for name in "abcd"]])
    with sink_part(kafka.bootstrap, topic) as part:
        part.write_batch([[out("c"), out("a"), out("e")]])
        assert part.snapshot() == 1
        part.write_batch([[out("d")]])
        assert part.snapshot() == 1
        part.write_batch([[out("b")]])
        assert part.snapshot() == 5
    assert ids_in(kafka.bootstrap, topic) == list("abcde")


def test_ids_that_are_never_made_again_are_released(kafka: RunningKafka, topic_prefix: str) -> None:
    topic = make_topic(kafka.bootstrap, f"{topic_prefix}-r")
    with sink_part(kafka.bootstrap, topic) as part:
        part.write_batch([[out("other policy"), out("same")]])
    with sink_part(kafka.bootstrap, topic) as part:
        part.write_batch([[out("same")]])
        states = [part.snapshot() for _ in range(RELEASE_AFTER + 2)]
    assert states[:RELEASE_AFTER] == [0] * RELEASE_AFTER
    assert states[-1] == 2


def test_records_of_other_producers_are_ignored(kafka: RunningKafka, topic_prefix: str) -> None:
    topic = make_topic(kafka.bootstrap, f"{topic_prefix}-f")
    produce(kafka.bootstrap, topic, [b"foreign"] * 3)
    with sink_part(kafka.bootstrap, topic) as part:
        part.write_batch([[out("a")]])
        assert part.snapshot() == 4


def test_a_record_of_sixteen_mebibytes_fits_a_topic_and_a_sink_made_for_it(
    kafka: RunningKafka, topic_prefix: str
) -> None:
    topic = make_topic(
        kafka.bootstrap, f"{topic_prefix}-l", config={"max.message.bytes": str(32 * MIB)}
    )
    large = os.urandom(16 * MIB)
    with sink_part(kafka.bootstrap, topic, options={"max_request_size": 32 * MIB}) as part:
        part.write_batch([[out("large", value=large), out("small")]])
        part.snapshot()
    assert values_in(kafka.bootstrap, topic) == [large, b"value"]


def test_a_record_that_the_sink_may_not_send_is_a_delivery_error_with_the_limit(
    kafka: RunningKafka, topic_prefix: str
) -> None:
    topic = make_topic(kafka.bootstrap, f"{topic_prefix}-s")
    with (
        sink_part(kafka.bootstrap, topic) as part,
        pytest.raises(DeliveryError, match="record big has 3145731 bytes, more than the 1048576"),
    ):
        part.write_batch([[out("big", value=b"x" * 3 * MIB)]])


def test_a_record_that_the_broker_refuses_keeps_the_epoch_open(
    kafka: RunningKafka, topic_prefix: str
) -> None:
    topic = make_topic(kafka.bootstrap, f"{topic_prefix}-n", config={"max.message.bytes": "2000"})
    with sink_part(kafka.bootstrap, topic) as part:
        part.write_batch([[out("big", value=os.urandom(9000))]])
        with pytest.raises(DeliveryError, match=f"{topic_prefix}-n.*record big.*not acknowledged"):
            part.snapshot()
        with pytest.raises(DeliveryError):
            part.snapshot()


def test_more_than_may_be_in_flight_is_waited_for(kafka: RunningKafka, topic_prefix: str) -> None:
    topic = make_topic(kafka.bootstrap, f"{topic_prefix}-b")
    options = {"max_in_flight_records": 10, "linger_ms": 0}
    with sink_part(kafka.bootstrap, topic, options=options) as part:
        for start in range(0, 500, 50):
            part.write_batch([[out(f"{start + n}") for n in range(50)]])
            # Nothing but the last few can be missing, though no snapshot was taken.
            assert len(ids_in(kafka.bootstrap, topic)) >= start + 39
        assert part.snapshot() == 500


def test_a_short_outage_is_waited_for(own_broker: KafkaBroker) -> None:
    topic = make_topic(own_broker.bootstrap, "decisions")
    waits = threading.Event()
    with sink_part(own_broker.bootstrap, topic, options={"waiting": waits.set}) as part:
        part.write_batch([[out("before")]])
        part.snapshot()
        own_broker.kill()

        def start_again() -> None:
            waits.wait(30)
            own_broker.start()

        starting = threading.Thread(target=start_again)
        starting.start()
        part.write_batch([[out(f"during {n}") for n in range(100)]])
        assert part.snapshot() == 101
        starting.join()
    expected = ["before", *(f"during {n}" for n in range(100))]
    assert ids_in(own_broker.bootstrap, topic) == expected


def test_an_outage_longer_than_the_delivery_timeout_keeps_the_epoch_open(
    own_broker: KafkaBroker,
) -> None:
    topic = make_topic(own_broker.bootstrap, "decisions")
    with sink_part(own_broker.bootstrap, topic, options={"delivery_timeout_s": 2.0}) as part:
        part.write_batch([[out("before")]])
        state = part.snapshot()
        own_broker.kill()
        part.write_batch([[out("during")]])
        with pytest.raises(DeliveryError, match=r"record during.*not acknowledged"):
            part.snapshot()
    own_broker.start()
    with sink_part(own_broker.bootstrap, topic, resume=state) as part:
        part.write_batch([[out("during")]])
        part.snapshot()
    assert ids_in(own_broker.bootstrap, topic) == ["before", "during"]


def test_the_tail_begins_two_snapshots_back(kafka: RunningKafka, topic_prefix: str) -> None:
    topic = make_topic(kafka.bootstrap, f"{topic_prefix}-y")
    name = f"{topic_prefix}-flow"
    connection = connection_to(kafka.bootstrap)

    def tail(*, from_start: bool) -> dict[str, bytes]:
        return read_tail(connection, topic, group=tail_group(name), from_start=from_start)

    with sink_part(kafka.bootstrap, topic, options={"tail_of": name}) as part:
        for record in "abcd":
            part.write_batch([[out(record, value=record.encode())]])
            part.snapshot()
        # Snapshots 1, 2, 3 and 4: when the last was taken, 2 was certain to be closed.
        expected = {"c": b"c", "d": b"d"}
        eventually(lambda: tail(from_start=False) == expected, what="the tail's bound")
    assert list(tail(from_start=True)) == list("abcd")


def test_without_a_bound_the_tail_is_the_whole_topic_and_tombstones_are_no_decisions(
    kafka: RunningKafka, topic_prefix: str
) -> None:
    topic = make_topic(kafka.bootstrap, f"{topic_prefix}-z")
    with sink_part(kafka.bootstrap, topic) as part:
        part.write_batch([[out("a", value=b"first"), out("b", value=None)]])
        part.snapshot()
    produce(kafka.bootstrap, topic, [b"foreign"])
    found = read_tail(
        connection_to(kafka.bootstrap), topic, group=f"{topic_prefix}-none", from_start=False
    )
    assert found == {"a": b"first"}
