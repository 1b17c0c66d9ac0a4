"""How many events per second from Kafka to Kafka, and how much of it is the connectors'?

Each round writes one log to new topics, then runs three processes in turns on it: the live flow, a
passthrough with the same source and sink, and one that only consumes. A run is measured from the
process's first look at the broker until its output topic holds all that is expected, and the CPU
time is what the system counted for the process in between. The broker has the other core.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

from benchmarks.errors import BenchmarkUnavailable
from benchmarks.kafka_arms import PASSED, ArmSettings
from benchmarks.measure import median
from benchmarks.tables import Table, number, spread
from benchmarks.workload import decisions_in, visits
from flows.kafka.admin import TopicSpec, default_topics, ensure_topics
from flows.kafka.partitions import partition_of
from tests.servers.kafka import KafkaBroker, external_kafka
from tests.servers.process import ServerFailed, ServerUnavailable

PARTITIONS: Final = 8
CONTENTS: Final = 30
PROFILES: Final = 6_000
SNAPSHOT_EVERY_S: Final = 10
_ROOT: Final = Path(__file__).resolve().parents[1]
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_WITHIN_S: Final = 120.0


@dataclass(frozen=True)
class Pace:
    """What one run of an arm cost, start-up left out."""

    events: int
    cpu_s: float
    wall_s: float

    @property
    def cpu_us(self) -> float:
        """CPU microseconds per event."""
        return self.cpu_s / self.events * 1e6


@contextmanager
def _broker() -> Iterator[str]:
    try:
        running = external_kafka()
        if running is not None:
            yield running.bootstrap
            return
        with TemporaryDirectory() as folder:
            broker = KafkaBroker(Path(folder) / "kafka")
            broker.start()
            try:
                yield broker.bootstrap
            finally:
                broker.stop()
    except (ServerUnavailable, ServerFailed) as error:
        raise BenchmarkUnavailable(f"no real Kafka: {error}") from error


def _write_log(settings: ArmSettings, number_of_visits: int) -> tuple[int, int]:
    """Put a log on the events topic; how many events it has, and how many requests."""
    step_ms = 2_000
    log = visits(
        number_of_visits,
        profiles=PROFILES,
        contents=CONTENTS,
        # The topic's clock is the append time, so the log ends now.
        start_ms=time.time_ns() // 1_000_000 - (number_of_visits + 10) * step_ms,
        step_ms=step_ms,
    )
    producer = KafkaProducer(
        bootstrap_servers=settings.bootstrap, linger_ms=20, batch_size=1 << 18, acks="all"
    )
    try:
        for sent in log:
            key = sent.profile_id.encode()
            producer.send(
                f"{settings.prefix}events",
                key=key,
                value=sent.value,
                partition=partition_of(key, settings.partitions),
            )
        producer.flush(timeout=_WITHIN_S)
    finally:
        producer.close(timeout=10)
    return len(log), decisions_in(log)


class _Output:
    """Counts what stands on a topic."""

    def __init__(self, settings: ArmSettings, topic: str) -> None:
        self._partitions = [
            TopicPartition(settings.prefix + topic, n) for n in range(settings.partitions)
        ]
        self._consumer: Any = KafkaConsumer(bootstrap_servers=settings.bootstrap)

    def records(self) -> int:
        """How many records the topic holds."""
        return sum(self._consumer.end_offsets(self._partitions).values())

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()


def _cpu_s(pid: int) -> float:
    """CPU seconds that a process has used, all of its threads."""
    # The name in parentheses may hold anything; the fields after it are plain.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _command(arm: str, settings: ArmSettings) -> list[str]:
    return [sys.executable, "-m", "benchmarks.kafka_arms", arm, json.dumps(asdict(settings))]


def _watched(arm: str, settings: ArmSettings, *, topic: str, expected: int) -> Pace:
    """Run an arm until its output topic holds all that is expected."""
    output = _Output(settings, topic)
    process = subprocess.Popen(
        _command(arm, settings), cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + _WITHIN_S
        while (held := output.records()) < expected:
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                said = process.communicate()[1].decode(errors="replace")
                raise RuntimeError(f"{arm}: {held} of {expected} records, then: {said[-2000:]}")
            time.sleep(0.01)
        cpu_s, at_s = _cpu_s(process.pid), time.perf_counter()
        process.send_signal(signal.SIGTERM)
        printed = process.communicate(timeout=60)[0]
        if (held := output.records()) != expected:
            raise RuntimeError(f"{arm}: {held} records on {topic}, expected {expected}")
        first_cpu_s, first_at_s, *_ = json.loads(printed.splitlines()[-1])
        return Pace(settings.events, cpu_s - first_cpu_s, at_s - first_at_s)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        output.close()


def _consumed(settings: ArmSettings) -> Pace:
    done = subprocess.run(
        _command("consume", settings),
        cwd=_ROOT,
        capture_output=True,
        check=True,
        timeout=_WITHIN_S,
    )
    first_cpu_s, first_at_s, cpu_s, at_s = json.loads(done.stdout.splitlines()[-1])
    return Pace(settings.events, cpu_s - first_cpu_s, at_s - first_at_s)


@dataclass(frozen=True)
class Round:
    """One log and what the arms made of it; `written` counts the live flow's records."""

    paces: dict[str, Pace]
    events: int
    decisions: int
    written: int


def _written(settings: ArmSettings) -> int:
    found = 0
    for topic in ("decisions", "outcomes", "segment-changes", "late", "dead-letters"):
        output = _Output(settings, topic)
        found += output.records()
        output.close()
    return found


def _round(bootstrap: str, number_of_visits: int) -> Round:
    prefix = f"benchmark-{uuid.uuid4().hex[:8]}-"
    with TemporaryDirectory() as folder:
        settings = ArmSettings(
            bootstrap=bootstrap,
            prefix=prefix,
            folder=folder,
            contents=CONTENTS,
            partitions=PARTITIONS,
            events=0,
            snapshot_every_s=SNAPSHOT_EVERY_S,
        )
        passed = TopicSpec(name=prefix + PASSED, partitions=PARTITIONS, replication=1)
        specs = [*default_topics(prefix=prefix, partitions=PARTITIONS), passed]
        ensure_topics(settings.connection, specs)
        try:
            events, decisions = _write_log(settings, number_of_visits)
            settings = replace(settings, events=events)
            paces = {
                "live": _watched("live", settings, topic="decisions", expected=decisions),
                "passthrough": _watched("passthrough", settings, topic=PASSED, expected=events),
                "consume": _consumed(settings),
            }
            written = _written(settings)
        finally:
            admin = KafkaAdminClient(bootstrap_servers=bootstrap)
            try:
                admin.delete_topics([spec.name for spec in specs])
            finally:
                admin.close()
    return Round(paces, events, decisions, written)


def _row(name: str, paces: list[Pace]) -> tuple[str, ...]:
    costs = [pace.cpu_us for pace in paces]
    rates = [pace.events / pace.wall_s for pace in paces]
    return (
        name,
        f"{number(median(rates))} ({spread(rates)})",
        f"{number(median(costs))} ({spread(costs)})",
        number(1e6 / median(costs)),
    )


def measure(*, quick: bool) -> list[Table]:
    """Events per second and CPU per event of the three processes."""
    size, rounds = (300, 1) if quick else (12_000, 3)
    found: dict[str, list[Pace]] = {"live": [], "passthrough": [], "consume": []}
    with _broker() as bootstrap:
        turns = [_round(bootstrap, size) for _ in range(rounds)]
    for turn in turns:
        for arm, pace in turn.paces.items():
            found[arm].append(pace)
    events, decisions = turns[-1].events, turns[-1].decisions
    written = turns[-1].written / events
    consume = [pace.cpu_us for pace in found["consume"]]
    produce = [
        whole.cpu_us - part.cpu_us
        for whole, part in zip(found["passthrough"], found["consume"], strict=True)
    ]
    flow = [
        whole.cpu_us - part.cpu_us
        for whole, part in zip(found["live"], found["consume"], strict=True)
    ]
    return [
        Table(
            "Kafka to Kafka, one process",
            (
                "what",
                "events per second of wall time",
                "CPU µs per event",
                "events per CPU second",
            ),
            (
                _row("the live flow", found["live"]),
                _row("passthrough: same source, sink and store", found["passthrough"]),
                _row("consume only", found["consume"]),
            ),
            (
                f"{events:,} events ({decisions:,} requests) of {PROFILES:,} profiles on "
                f"{PARTITIONS} partitions, all there before the start; {CONTENTS} candidates, one "
                f"slot, learning included, a snapshot every {SNAPSHOT_EVERY_S} s; a local broker, "
                f"acks=all. Median (least to most) of {rounds} rounds, in turns.",
                "CPU time is of the whole process, the client's threads included.",
            ),
        ),
        Table(
            "Where the CPU goes, µs",
            ("stage", "per event read", "how"),
            (
                ("consume", f"{number(median(consume))} ({spread(consume)})", "consume only"),
                (
                    "produce, one record",
                    f"{number(median(produce))} ({spread(produce)})",
                    "passthrough less consume",
                ),
                (
                    "everything after consume, in the live flow",
                    f"{number(median(flow))} ({spread(flow)})",
                    "live less consume",
                ),
            ),
            (
                f"The live flow writes {written:.2f} records for each event it reads (decisions, "
                "outcomes, segment changes), the passthrough one.",
            ),
        ),
    ]
