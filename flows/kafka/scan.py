"""What does a topic hold between two offsets? A bounded read that ends.

One consumer, used for one scan after another; read_committed, so a scan never takes an aborted
record for a fact. It knows nothing of what the records mean.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Final

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, RetriableError

from flows.errors import ConnectorError
from flows.kafka.connection import KafkaConnection, connect, unreachable

_LOG: Final = logging.getLogger(__name__)
_STALLED_S: Final = 30.0
_ALL: Final = 10_000_000

Ranges = Mapping[int, tuple[int, int]]
"""Per partition the first offset and the one after the last."""


class Scanner:
    """Reads ranges of one topic, each to its end; use it in a `with` statement or close it."""

    def __init__(self, connection: KafkaConnection, topic: str) -> None:
        self._connection = connection
        self._topic = topic
        self._consumer: Any = connect(
            KafkaConsumer,
            connection,
            group_id=None,
            enable_auto_commit=False,
            isolation_level="read_committed",
            # A range may start below what retention has left: then there is less to read, no error.
            auto_offset_reset="earliest",
            fetch_max_wait_ms=20,
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )
        self.unread: dict[int, int] = {}
        self._moved = 0.0

    def __enter__(self) -> Scanner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close(autocommit=False, timeout_ms=2000)

    def held(self, partitions: list[int]) -> dict[int, tuple[int, int]]:
        """Per partition the first offset held and the end (of what is committed)."""
        wanted = [TopicPartition(self._topic, partition) for partition in partitions]
        try:
            first = self._consumer.beginning_offsets(wanted, timeout_ms=10_000)
            end = self._consumer.end_offsets(wanted, timeout_ms=10_000)
        except (KafkaError, OSError) as error:
            raise unreachable(self._connection, error) from error
        return {tp.partition: (int(first[tp]), int(end[tp])) for tp in wanted}

    def offsets_at(self, ms: int, partitions: list[int]) -> dict[int, int | None]:
        """Per partition the first offset appended at or after `ms`; None where there is none."""
        wanted = {TopicPartition(self._topic, partition): ms for partition in partitions}
        try:
            found = self._consumer.offsets_for_times(wanted, timeout_ms=10_000)
        except (KafkaError, OSError) as error:
            raise unreachable(self._connection, error) from error
        return {tp.partition: None if at is None else int(at.offset) for tp, at in found.items()}

    def scan(self, ranges: Ranges) -> Iterator[tuple[int, list[Any]]]:
        """Yield (partition, records), in offset order within a partition, until every end.

        Raises ConnectorError when nothing moves for 30 s.
        """
        self.begin(ranges)
        while self.unread:
            yield from self.poll().items()

    def begin(self, ranges: Ranges) -> None:
        """Start to read `ranges`; what was being read is dropped."""
        self.unread = {p: end for p, (start, end) in ranges.items() if start < end}
        self._moved = time.monotonic()
        assigned = [TopicPartition(self._topic, p) for p in self.unread]
        self._consumer.assign(assigned)
        # Trap: a partition that a former scan paused stays paused when it is assigned again.
        self._consumer.resume(*assigned)
        for partition in self.unread:
            self._consumer.seek(TopicPartition(self._topic, partition), ranges[partition][0])

    def poll(self, *, hold: Iterable[int] = ()) -> dict[int, list[Any]]:
        """Read on for up to 200 ms, except in the partitions of `hold`."""
        held = [TopicPartition(self._topic, partition) for partition in hold]
        self._consumer.pause(*held)
        try:
            # Trap: with a small max_records, partitions not yet drained are left out of the next
            # fetch, which then waits on the quiet ones. Everything fetched is taken at once.
            polled = self._consumer.poll(timeout_ms=200, max_records=_ALL)
        except RetriableError as error:
            _LOG.warning("reading topic %s: %s; trying again", self._topic, error)
            polled = {}
        except KafkaError as error:
            raise unreachable(self._connection, error) from error
        self._consumer.resume(*held)
        read: dict[int, list[Any]] = {}
        for tp, records in polled.items():
            end = self.unread[tp.partition]
            wanted = [record for record in records if record.offset < end]
            if wanted:
                read[tp.partition] = wanted
        self._finish(moved=bool(polled))
        return read

    def _finish(self, *, moved: bool) -> None:
        for partition, end in list(self.unread.items()):
            tp = TopicPartition(self._topic, partition)
            # The position and not the last record: the end may be a transaction marker, or offsets
            # that compaction has removed.
            if (self._consumer.position(tp, timeout_ms=1000) or 0) >= end:
                del self.unread[partition]
                self._consumer.pause(tp)
                moved = True
        if moved:
            self._moved = time.monotonic()
        elif time.monotonic() - self._moved > _STALLED_S:
            raise ConnectorError(
                f"reading topic {self._topic} at {self._connection.bootstrap_servers} made no "
                f"progress for {_STALLED_S:.0f} s; partitions not read to the end: "
                f"{sorted(self.unread)}"
            )
