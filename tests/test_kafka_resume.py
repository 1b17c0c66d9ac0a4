"""Is anything lost or written twice when the flow is killed and resumes?

`python -m tests.test_kafka_resume SETTINGS` is the flow under test, a process that the tests kill:
each event becomes one record, named by its partition and offset.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import bytewax.operators as op
from bytewax.dataflow import Dataflow

from flows.engine import leave, run_flow, stop_on_signals
from flows.errors import NextbestError
from flows.kafka import KafkaConnection, KafkaSink, KafkaSource, partition_key, partition_of
from flows.kafka.admin import held_offsets
from flows.kafka.tail import record_id_of
from flows.recovery import StoreLock, init_store
from schemas.records import OutRecord, RawBatch
from tests.kafka_topics import connection_to, eventually, make_topic, produce, records_in
from tests.servers.kafka import RunningKafka
from tests.servers.process import free_ports

PARTITIONS = 12
EVENTS = 20_000


@dataclass(frozen=True, kw_only=True)
class Settings:
    bootstrap: str
    events: str
    decisions: str
    store: str
    epoch_s: float = 0.2
    die_after: int = 1 << 30
    process_id: int = 0
    addresses: list[str] = field(default_factory=list)


def decide_and_die(settings: Settings) -> None:
    """The flow: dies by its own hand after so many events, as if killed from outside."""
    connection = KafkaConnection(bootstrap_servers=settings.bootstrap)
    seen = 0

    def decide(batch: RawBatch) -> list[tuple[str, list[OutRecord]]]:
        nonlocal seen
        said: dict[int, list[OutRecord]] = {}
        for record in batch.records:
            seen += 1
            if seen > settings.die_after:
                os.kill(os.getpid(), signal.SIGKILL)
            name = f"{batch.partition}-{record.offset}"
            to = partition_of(name.encode(), PARTITIONS)
            said.setdefault(to, []).append(OutRecord(name, record.key or b"", record.value))
        return [(partition_key(partition), records) for partition, records in said.items()]

    with (
        stop_on_signals() as stop,
        StoreLock(
            Path(settings.store),
            process_id=settings.process_id,
            addresses=settings.addresses,
            now_ms=lambda: time.time_ns() // 1_000_000,
        ),
    ):
        init_store(Path(settings.store), partitions=2)
        flow = Dataflow("resume")
        source = KafkaSource(
            settings.events,
            connection=connection,
            stop=stop,
            now_ms=lambda: time.time_ns() // 1_000_000,
            batch_records=25,
        )
        decided = op.flat_map("decide", op.input("events", flow, source), decide)
        op.output("decisions", decided, KafkaSink(settings.decisions, connection=connection))
        run_flow(
            flow,
            process_id=settings.process_id,
            addresses=settings.addresses,
            epoch_interval=timedelta(seconds=settings.epoch_s),
            recovery_dir=Path(settings.store),
        )


@contextmanager
def running(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.test_kafka_resume", json.dumps(asdict(settings))],
        cwd=Path(__file__).parents[1],
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()


def prepared(bootstrap: str, prefix: str, store: Path) -> Settings:
    """Topics with all events in them, and a flow that has not run yet."""
    events = make_topic(bootstrap, f"{prefix}-events", partitions=PARTITIONS)
    decisions = make_topic(bootstrap, f"{prefix}-decisions", partitions=PARTITIONS)
    produce(bootstrap, events, [b"%d" % n for n in range(EVENTS)], partitions=PARTITIONS)
    return Settings(bootstrap=bootstrap, events=events, decisions=decisions, store=str(store))


def written(settings: Settings) -> int:
    held = held_offsets(connection_to(settings.bootstrap), settings.decisions)
    return sum(end for _, end in held.values())


def finish(settings: Sequence[Settings]) -> None:
    """Run the processes until every event was decided, then end them by SIGTERM."""
    if not settings:
        return
    with running(settings[0]) as process:
        more = settings[1:]
        if more:
            with running(more[0]) as peer:
                eventually(lambda: written(settings[0]) >= EVENTS, what="every decision written")
                process.send_signal(signal.SIGTERM)
                peer.send_signal(signal.SIGTERM)
                assert process.wait(30) == 0
                assert peer.wait(30) == 0
        else:
            eventually(lambda: written(settings[0]) >= EVENTS, what="every decision written")
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0


def assert_each_event_was_decided_once(settings: Settings) -> None:
    held = records_in(settings.bootstrap, settings.decisions, partitions=PARTITIONS)
    ids = [record_id_of(record) for records in held.values() for record in records]
    values = {int(record.value) for records in held.values() for record in records}
    assert values == set(range(EVENTS))
    assert len(ids) == len(set(ids)) == EVENTS
    for partition, records in held.items():
        # More than ten partitions: had names not been padded, they would be elsewhere.
        for record in records:
            assert partition_of((record_id_of(record) or "").encode(), PARTITIONS) == partition


def test_nothing_is_lost_or_written_twice_over_three_kills(
    kafka: RunningKafka, topic_prefix: str, tmp_path: Path
) -> None:
    settings = prepared(kafka.bootstrap, topic_prefix, tmp_path / "store")
    kills = [
        # Before the first snapshot: the next run begins anew over a topic that is not empty.
        replace(settings, epoch_s=60, die_after=4000),
        # With snapshots after every step, and before the tail of the first was made again.
        replace(settings, epoch_s=0, die_after=1000),
        replace(settings, epoch_s=0.2, die_after=9000),
    ]
    for killed in kills:
        before = written(settings)
        with running(killed) as process:
            assert process.wait(60) == -signal.SIGKILL
        assert written(settings) >= before
    assert 1000 < written(settings) < EVENTS  # the kills came in the middle of the work

    finish([settings])

    assert_each_event_was_decided_once(settings)


def test_a_stopped_flow_resumes_with_nothing_to_make_again(
    kafka: RunningKafka, topic_prefix: str, tmp_path: Path
) -> None:
    settings = prepared(kafka.bootstrap, topic_prefix, tmp_path / "store")
    with running(replace(settings, epoch_s=60)) as process:
        eventually(lambda: written(settings) > 0, what="the first decisions")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
        assert (process.returncode, errors) == (0, b"")
    finish([settings])
    assert_each_event_was_decided_once(settings)


def test_a_cluster_of_two_resumes_after_one_of_its_processes_was_killed(
    kafka: RunningKafka, topic_prefix: str, tmp_path: Path
) -> None:
    settings = prepared(kafka.bootstrap, topic_prefix, tmp_path / "store")
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    both = [replace(settings, process_id=n, addresses=addresses) for n in range(2)]

    with running(both[0]) as process, running(replace(both[1], die_after=3000)) as peer:
        assert peer.wait(60) == -signal.SIGKILL
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"process 0 ended because another process of the cluster did" in errors

    finish(both)
    assert_each_event_was_decided_once(settings)


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    try:
        decide_and_die(Settings(**json.loads(sys.argv[1])))
    except NextbestError as error:
        logging.error("%s", error)
        leave(error.exit_code)
