"""How do events come from a Kafka topic into the flow, once each and in order?

Key: a partition of the topic, assigned by the engine. State: the offset to read next, an int, which
is all of a snapshot. Outputs: `RawBatch`es; each tells which partitions of this process are read to
the end. It decodes nothing.

Traps avoided here, all measured: every partition wakes at least every 50 ms (one that sleeps longer
holds up every epoch); `next_batch` never blocks; what an epoch may read is bounded, because the
engine's back-pressure acts only at epoch boundaries and a fast source beside a slow peer would fill
its memory; the start is resolved once to an offset, so that 'latest' means the same after a resume.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from flows.errors import NextbestError
from flows.kafka.admin import held_offsets, topic_partitions
from flows.kafka.commits import OffsetCommitter
from flows.kafka.connection import KafkaConnection
from flows.kafka.reader import NoProgress, Reader, SourceProgress, expired
from flows.part_names import partition_key
from schemas.records import RawBatch

_BUSY_GAP: Final = timedelta(milliseconds=2)
_QUIET_GAP: Final = timedelta(milliseconds=10)
_QUIET_AFTER_S: Final = 1.0


class KafkaSource(FixedPartitionedSource[RawBatch, int]):
    """The records of `topic` in batches, from the snapshot's offset or from `start`.

    `stop` is asked before each read: once it says True the partitions end cleanly. `now_ms` is the
    wall clock. `batch_records` bounds a batch, `max_records_per_epoch` what a partition gives
    between two snapshots. A partition read to its end for `idle_after_ms` is listed in
    `RawBatch.idle`; when nothing arrives a batch without records comes every `tick_ms`. `group` is
    told the position after each snapshot, for those who watch; None tells nobody.

    Raises ConnectorError (unreachable, no such topic) and OffsetExpiredError from inside the
    engine; call `check_kafka` first to have the former without a backtrace.
    """

    def __init__(
        self,
        topic: str,
        *,
        connection: KafkaConnection,
        stop: Callable[[], bool],
        now_ms: Callable[[], int],
        start: Literal["earliest", "latest"] = "earliest",
        batch_records: int = 1000,
        max_records_per_epoch: int = 200_000,
        idle_after_ms: int = 1000,
        tick_ms: int = 1000,
        group: str | None = None,
        on_progress: SourceProgress | None = None,
    ) -> None:
        self.topic = topic
        self.connection = connection
        self.stop = stop
        self.now_ms = now_ms
        self.batch_records = batch_records
        self.max_records_per_epoch = max_records_per_epoch
        self.tick_s = tick_ms / 1000
        self.progress: SourceProgress = on_progress or NoProgress()
        self.committer = (
            OffsetCommitter(connection, topic=topic, group=group) if group is not None else None
        )
        self.partitions = 0
        self.emitted_at = time.monotonic()
        self._start = start
        self._idle_after_s = idle_after_ms / 1000
        self._reader: Reader | None = None
        self._thread = 0
        self._held: dict[int, tuple[int, int]] = {}

    def list_parts(self) -> list[str]:
        """The names of all partitions of the topic."""
        self.partitions = topic_partitions(self.connection, self.topic)
        return [partition_key(partition) for partition in range(self.partitions)]

    def build_part(
        self, step_id: str, for_part: str, resume_state: int | None
    ) -> StatefulSourcePartition[RawBatch, int]:
        """Start or resume one partition."""
        del step_id
        partition = int(for_part)
        if self._reader is None:
            self._held = held_offsets(self.connection, self.topic)
            self._thread = threading.get_ident()
            self._reader = Reader(
                self.connection,
                topic=self.topic,
                idle_after_s=self._idle_after_s,
                progress=self.progress,
            )
        if threading.get_ident() != self._thread:
            raise NextbestError(
                "one consumer serves one worker: run one worker in each process (threads would "
                "share the interpreter's lock and be slower than one)"
            )
        first, end = self._held[partition]
        if resume_state is None:
            offset = first if self._start == "earliest" else end
        else:
            offset = resume_state
        if not first <= offset <= end:
            raise expired(self.topic, partition, wanted=offset, first=first, end=end)
        self._reader.add(partition, offset)
        return _KafkaPartition(self, self._reader, partition)


class _KafkaPartition(StatefulSourcePartition[RawBatch, int]):
    def __init__(self, source: KafkaSource, reader: Reader, partition: int) -> None:
        self._source = source
        self._reader = reader
        self._partition = partition
        self._left = source.max_records_per_epoch
        self._more = False
        self._busy_at = time.monotonic()

    def next_batch(self) -> list[RawBatch]:
        source = self._source
        if source.stop():
            raise StopIteration
        source.progress.turned()
        self._reader.poll()
        most = min(source.batch_records, self._left)
        records = self._reader.take(self._partition, most)
        self._left -= len(records)
        self._more = len(records) == source.batch_records
        now = time.monotonic()
        if records:
            self._busy_at = now
        elif now - source.emitted_at < source.tick_s:
            return []
        source.emitted_at = now
        return [
            RawBatch(
                source=source.topic,
                partition=self._partition,
                partitions=source.partitions,
                records=records,
                idle=self._reader.idle(source.now_ms()),
            )
        ]

    def next_awake(self) -> datetime | None:
        if self._more:
            return None
        quiet = time.monotonic() - self._busy_at > _QUIET_AFTER_S
        return datetime.now(UTC) + (_QUIET_GAP if quiet else _BUSY_GAP)

    def snapshot(self) -> int:
        self._left = self._source.max_records_per_epoch
        self._source.progress.snapshot_taken()
        position = self._reader.position(self._partition)
        if self._source.committer is not None:
            self._source.committer.put(self._partition, position)
        return position

    def close(self) -> None:
        if self._reader.remove(self._partition) and self._source.committer is not None:
            self._source.committer.close()
