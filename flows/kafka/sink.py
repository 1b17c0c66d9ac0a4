"""How does what the flow says come to a Kafka topic, once each by its id?

Key: a partition of the topic. Input: (partition name, list of `OutRecord`). State: one offset,
below which every record of the partition belongs to a closed epoch. Outputs: records with the
header `record_id`. It does not make ids; it counts on the flow to make the same id again after a
resume.

After a resume the flow makes again what it had said since the snapshot. The sink reads the topic
from the snapshot's offset to its end, and what it finds there (*pending*) is not sent again. The
snapshot is the offset of the first pending record, or the next offset where none is left: with the
end offset instead, a second crash before the first tail was made again wrote 2,666 of 320,000
records twice (measured). Without a snapshot the scan starts at the beginning of the topic, for the
first crash may come before the first snapshot (26,000 twice otherwise).

What is still open: a batch that a killed process had handed to its socket may land after its
successor's scan. Closing that takes a transactional producer per partition; consumers are told to
read committed, so that it can come later.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from flows.kafka.admin import topic_partitions
from flows.kafka.commits import OffsetCommitter
from flows.kafka.connection import KafkaConnection
from flows.kafka.outbox import Outbox
from flows.kafka.scan import Scanner
from flows.kafka.tail import record_id_of
from flows.part_names import partition_key
from schemas.records import OutRecord

_LOG: Final = logging.getLogger(__name__)

RELEASE_AFTER: Final = 100
"""Snapshots without a hit after which pending ids are given up.

Safe, because the flow makes again what it had said since the snapshot while it reads again what it
had read since then, and that is about one epoch of input, whichever former run read it: a hit comes
within an epoch or two, or never. An id that never comes is of a fact that is no longer made
(another policy, another version). Holding on to it would keep the snapshot's offset, and so the
next scan, back for ever. The count starts anew with each hit, so a long reprocessing keeps its ids.
"""


def tail_group(name: str) -> str:
    """The consumer group that holds the lower bound of the tail of the sink called `name`."""
    return f"{name}.tail"


class KafkaSink(FixedPartitionedSink[list[OutRecord], int]):
    """Writes to `topic`; the key of an item is `partition_key(partition)`.

    Each record is acknowledged by all replicas before its epoch closes. At most
    `max_in_flight_records` and `max_in_flight_bytes` are unacknowledged. `max_request_size` is the
    largest record in bytes. A snapshot waits up to `delivery_timeout_s` for the broker.
    `tail_of` names the flow: the position of two snapshots ago is then committed to the group
    `<name>.tail`, where `read_tail` finds it before a flow starts. For `stop`, `waiting` and
    `acknowledged` see `Outbox`. Raises DeliveryError and ConnectorError from inside the engine.
    """

    def __init__(
        self,
        topic: str,
        *,
        connection: KafkaConnection,
        linger_ms: int = 5,
        max_request_size: int = 1 << 20,
        max_in_flight_records: int = 10_000,
        max_in_flight_bytes: int = 32 << 20,
        delivery_timeout_s: float = 60.0,
        tail_of: str | None = None,
        stop: Callable[[], bool] = lambda: False,
        waiting: Callable[[], None] = lambda: None,
        acknowledged: Callable[[int], None] | None = None,
    ) -> None:
        self.topic = topic
        self._connection = connection
        self._new_outbox: Callable[[], Outbox] = lambda: Outbox(
            connection,
            topic=topic,
            linger_ms=linger_ms,
            max_request_size=max_request_size,
            max_in_flight_records=max_in_flight_records,
            max_in_flight_bytes=max_in_flight_bytes,
            delivery_timeout_s=delivery_timeout_s,
            stop=stop,
            waiting=waiting,
            acknowledged=acknowledged,
        )
        self._outbox: Outbox | None = None
        self._scanner: Scanner | None = None
        self._open = 0
        self._committer = (
            OffsetCommitter(connection, topic=topic, group=tail_group(tail_of))
            if tail_of is not None
            else None
        )

    def list_parts(self) -> list[str]:
        """The names of all partitions of the topic."""
        return [
            partition_key(partition)
            for partition in range(topic_partitions(self._connection, self.topic))
        ]

    def part_fn(self, item_key: str) -> int:
        """The partition that the item's key names."""
        return int(item_key)

    def build_part(
        self, step_id: str, for_part: str, resume_state: int | None
    ) -> StatefulSinkPartition[list[OutRecord], int]:
        """Start or resume one partition: find out what the topic says already."""
        del step_id
        partition = int(for_part)
        if self._outbox is None:
            self._outbox = self._new_outbox()
        if self._scanner is None:
            # One consumer for the scans of all partitions; the first write disconnects it.
            self._scanner = Scanner(self._connection, self.topic)
        self._open += 1
        pending, end = _pending(self._scanner, partition, resume_state)
        if pending:
            _LOG.info(
                "topic %s, partition %d: %d records may be made again and will not be sent twice",
                self.topic,
                partition,
                len(pending),
            )
        return _SinkPartition(
            partition,
            outbox=self._outbox,
            pending=pending,
            end=end,
            committer=self._committer,
            on_write=self._scanned,
            on_close=self._closed,
        )

    def _scanned(self) -> None:
        if self._scanner is not None:
            self._scanner.close()
            self._scanner = None

    def _closed(self) -> None:
        self._open -= 1
        if self._open:
            return
        self._scanned()
        if self._committer is not None:
            self._committer.close()
        if self._outbox is not None:
            self._outbox.close()
            self._outbox = None


def _pending(
    scanner: Scanner, partition: int, resume_state: int | None
) -> tuple[dict[str, int], int]:
    """Record id -> offset of what stands from `resume_state` on, in offset order; and the end."""
    first, end = scanner.held([partition])[partition]
    pending: dict[str, int] = {}
    for _, records in scanner.scan({partition: (max(first, resume_state or 0), end)}):
        for record in records:
            name = record_id_of(record)
            if name is not None:
                pending.setdefault(name, record.offset)
    return pending, end


class _SinkPartition(StatefulSinkPartition[list[OutRecord], int]):
    def __init__(
        self,
        partition: int,
        *,
        outbox: Outbox,
        pending: dict[str, int],
        end: int,
        committer: OffsetCommitter | None,
        on_write: Callable[[], None],
        on_close: Callable[[], None],
    ) -> None:
        self._partition = partition
        self._outbox = outbox
        self._pending = pending
        self._end = end
        self._committer = committer
        self._on_write = on_write
        self._on_close = on_close
        self._without_hit = 0
        self._recent: deque[int] = deque(maxlen=3)

    def write_batch(self, values: list[list[OutRecord]]) -> None:
        self._on_write()
        pending, send, partition = self._pending, self._outbox.send, self._partition
        for records in values:
            for record in records:
                if pending and pending.pop(record.record_id, None) is not None:
                    self._without_hit = 0
                elif not record.adopted:
                    send(partition, record)

    def snapshot(self) -> int:
        # Trap: the engine calls this only for a partition written to in the epoch. That suffices:
        # all partitions share the outbox, and one that was not written to has nothing in flight.
        self._outbox.settle()
        if self._pending:
            self._without_hit += 1
            if self._without_hit > RELEASE_AFTER:
                _LOG.info("%d recorded ids were not made again: released", len(self._pending))
                self._pending.clear()
        position = self._outbox.position(self._partition, otherwise=self._end)
        # A dict keeps its order, and ids came in by offset: the first is the lowest.
        state = next(iter(self._pending.values()), position)
        self._recent.append(state)
        if self._committer is not None and len(self._recent) == 3:
            # Two snapshots ago, because that epoch is closed for certain and in every process.
            self._committer.put(self._partition, self._recent[0])
        return state

    def close(self) -> None:
        self._on_close()
