"""Which records did a topic hold in a range, in one order? The log that a replay reads.

Partitions are merged by (append time, partition, offset). State: a bounded read-ahead for each
partition, so a range of any size streams through. It writes no file.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Final

from flows.kafka.admin import topic_partitions
from flows.kafka.connection import KafkaConnection
from flows.kafka.records import raw_record
from flows.kafka.scan import Scanner
from schemas.records import RawRecord

_READ_AHEAD: Final = 10_000


def export_range(
    connection: KafkaConnection,
    topic: str,
    *,
    start_ms: int | None = None,
    end_ms: int | None = None,
    start_offsets: Mapping[int, int] | None = None,
    end_offsets: Mapping[int, int] | None = None,
) -> Iterator[tuple[int, RawRecord]]:
    """Yield (partition, record) from `start` (inclusive) to `end` (exclusive) of every partition.

    A bound is given as append times in milliseconds since the epoch or as offsets by partition;
    offsets win, and a partition not named by them is read by time, or from its beginning to its end
    at the call. The order is that of the append times, never against the offsets of a partition.
    Raises ConnectorError.
    """
    partitions = list(range(topic_partitions(connection, topic)))
    with Scanner(connection, topic) as scanner:
        held = scanner.held(partitions)
        starts = dict.fromkeys(partitions, 0)
        ends = {partition: end for partition, (_, end) in held.items()}
        if start_ms is not None:
            # No record at or after that time: nothing of the partition is in the range.
            found = scanner.offsets_at(start_ms, partitions)
            starts = {p: ends[p] if at is None else at for p, at in found.items()}
        if end_ms is not None:
            found = scanner.offsets_at(end_ms, partitions)
            ends = {p: ends[p] if at is None else at for p, at in found.items()}
        starts |= start_offsets or {}
        ends |= end_offsets or {}
        yield from _merged(
            scanner,
            {p: (max(starts[p], held[p][0]), min(ends[p], held[p][1])) for p in partitions},
        )


def _merged(
    scanner: Scanner, ranges: Mapping[int, tuple[int, int]]
) -> Iterator[tuple[int, RawRecord]]:
    scanner.begin(ranges)
    ahead: dict[int, deque[Any]] = {partition: deque() for partition in scanner.unread}
    clock = dict.fromkeys(ahead, 0)

    def head(partition: int) -> tuple[int, int]:
        # An append time can step back where the leader changed. The offsets' order comes first.
        return max(clock[partition], ahead[partition][0].timestamp), partition

    while True:
        while any(not ahead[partition] for partition in scanner.unread):
            hold = [p for p in scanner.unread if len(ahead[p]) >= _READ_AHEAD]
            for partition, records in scanner.poll(hold=hold).items():
                ahead[partition].extend(records)
        filled = [partition for partition, records in ahead.items() if records]
        if not filled:
            return
        clock[partition], _ = head(partition := min(filled, key=head))
        yield partition, raw_record(ahead[partition].popleft())
