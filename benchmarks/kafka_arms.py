"""One process of the Kafka benchmark: `python -m benchmarks.kafka_arms ARM SETTINGS`.

`live` is `nextbest run` on the benchmark's policy. `passthrough` is the engine with the same source
and sink and the same recovery store, each record only wrapped for output. `consume` reads
everything and drops it. When it has ended, each prints the instant of its first look at the broker
(CPU seconds used until then, and the monotonic clock): what came before is start-up. Nothing later
will do, because a consumer fetches far ahead of what the flow has taken.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Final

import bytewax.operators as op
import orjson
from bytewax.dataflow import Dataflow

from benchmarks.flow_memory import Discard
from benchmarks.workload import POLICY, plan
from flows.encode import parted
from flows.engine import leave, run_flow, stop_on_signals
from flows.errors import NextbestError
from flows.kafka.connection import KafkaConnection
from flows.kafka.partitions import partition_of
from flows.kafka.reader import Reader
from flows.kafka.sink import KafkaSink
from flows.kafka.source import KafkaSource
from flows.live import now_ms, run_live
from flows.recovery import init_store
from flows.settings import read_settings
from schemas.records import OutRecord, RawBatch

PASSED: Final = "passed"


class FirstPoll:
    """When the source first asked the broker for records."""

    def __init__(self) -> None:
        self.cpu_s = 0.0
        self.at_s: float | None = None

    def install(self) -> None:
        """Watch every reader of this process."""
        poll = Reader.poll

        def watched(reader: Reader) -> None:
            if self.at_s is None:
                self.cpu_s, self.at_s = process_time(), perf_counter()
            poll(reader)

        Reader.poll = watched  # type: ignore[method-assign, assignment]


@dataclass(frozen=True, kw_only=True)
class ArmSettings:
    """What a process is told: where Kafka is, which topics, how much there is to read."""

    bootstrap: str
    prefix: str
    folder: str
    contents: int
    partitions: int
    events: int
    snapshot_every_s: int

    @property
    def connection(self) -> KafkaConnection:
        """How Kafka is reached."""
        return KafkaConnection(bootstrap_servers=self.bootstrap)


def live(settings: ArmSettings) -> None:
    """The flow itself, until it is told to end."""
    folder = Path(settings.folder)
    policy, catalogue = folder / "policy.yaml", folder / "catalogue.jsonl"
    policy.write_bytes(orjson.dumps(POLICY))  # JSON is YAML
    contents = plan(settings.contents).contents.by_id.values()
    catalogue.write_text("".join(f"{c.model_dump_json(exclude_defaults=True)}\n" for c in contents))
    run_live(
        read_settings(
            kafka_bootstrap_servers=settings.bootstrap,
            topic_prefix=settings.prefix,
            policy=policy,
            catalogue=catalogue,
            recovery_dir=folder / "live",
            snapshot_every_s=settings.snapshot_every_s,
            telemetry_port=0,
        )
    )


def passthrough(settings: ArmSettings) -> None:
    """The engine between the same connectors, until it is told to end."""
    store = Path(settings.folder) / "passthrough"
    init_store(store, partitions=2)
    partitions = settings.partitions

    def wrapped(batch: RawBatch) -> list[tuple[str, list[OutRecord]]]:
        return parted(
            [
                OutRecord(f"{batch.partition}-{r.offset}", r.key or b"", r.value)
                for r in batch.records
            ],
            lambda key: partition_of(key, partitions),
        )

    with stop_on_signals() as stop:
        flow = Dataflow("passthrough")
        source = KafkaSource(
            f"{settings.prefix}events", connection=settings.connection, stop=stop, now_ms=now_ms
        )
        passed = op.flat_map("pass", op.input("events", flow, source), wrapped)
        sink = KafkaSink(f"{settings.prefix}{PASSED}", connection=settings.connection, stop=stop)
        op.output("out", passed, sink)
        run_flow(
            flow,
            epoch_interval=timedelta(seconds=settings.snapshot_every_s),
            recovery_dir=store,
        )


def consume(settings: ArmSettings) -> None:
    """Read everything and drop it."""
    seen = 0

    def dropped(batch: RawBatch) -> list[Any]:
        nonlocal seen
        seen += len(batch.records)
        return []

    flow = Dataflow("consume")
    source = KafkaSource(
        f"{settings.prefix}events",
        connection=settings.connection,
        stop=lambda: seen >= settings.events,
        now_ms=now_ms,
    )
    op.output("out", op.flat_map("drop", op.input("events", flow, source), dropped), Discard())
    run_flow(flow, epoch_interval=timedelta(seconds=settings.snapshot_every_s))


ARMS: Final = {"live": live, "passthrough": passthrough, "consume": consume}


def main(arm: str, settings: ArmSettings) -> None:
    """Run one arm and print its mark: CPU seconds and clock at the first poll, then at the end."""
    first = FirstPoll()
    first.install()
    ARMS[arm](settings)
    print(json.dumps([first.cpu_s, first.at_s, process_time(), perf_counter()]))


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    try:
        main(sys.argv[1], ArmSettings(**json.loads(sys.argv[2])))
    except NextbestError as error:
        print(error, file=sys.stderr)
        leave(error.exit_code)
