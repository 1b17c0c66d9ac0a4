"""What has arrived on the partitions of this process, and which of them are read to the end?

One consumer serves all partitions of a worker (measured: 16 consumers cost 17 threads, 54 file
descriptors and 40 % of a core when idle; one costs 2, 9 and 7 %). State: a buffer per partition,
the offset that each emits next, and when a broker last confirmed that a partition had nothing more.
It does not know the engine. Not safe for two threads; only `_fetched` runs on the client's own.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import Any, Final, Protocol

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, OffsetOutOfRangeError, RetriableError

from flows.errors import ConnectorError, OffsetExpiredError
from flows.kafka.admin import held_offsets
from flows.kafka.connection import KafkaConnection, connect, unreachable
from flows.kafka.records import raw_record
from schemas.records import RawRecord

_LOG: Final = logging.getLogger(__name__)
_ALL: Final = 10_000_000
_POLL_AT_LEAST_EVERY_S: Final = 0.05
_CONFIRMED_WITHIN_S: Final = 2.0
_PROGRESS_EVERY_S: Final = 1.0
_BUFFERED_RECORDS: Final = 20_000
_BUFFERED_BYTES: Final = 8 << 20


class SourceProgress(Protocol):
    """What telemetry may want to know of a source; called on the worker's thread, must be cheap."""

    def turned(self) -> None:
        """The loop turned once more."""

    def consumed(self, topic: str, partition: int, records: int) -> None:
        """Records were handed to the flow."""

    def lag(self, topic: str, partition: int, records: int) -> None:
        """Records not yet handed to the flow, about once a second."""

    def snapshot_taken(self) -> None:
        """A partition's snapshot was taken: an epoch is closing."""


class NoProgress:
    """Tells nobody."""

    def turned(self) -> None:
        """Do nothing."""

    def consumed(self, topic: str, partition: int, records: int) -> None:
        """Do nothing."""

    def lag(self, topic: str, partition: int, records: int) -> None:
        """Do nothing."""

    def snapshot_taken(self) -> None:
        """Do nothing."""


class _Lane:
    """One partition: what was read and not yet emitted."""

    def __init__(self, tp: TopicPartition, offset: int) -> None:
        self.tp = tp
        self.buffer: deque[Any] = deque()
        self.bytes = 0
        self.next_offset = offset  # the next to emit: the snapshot
        self.fetch_offset = offset  # the next to fetch
        self.paused = False
        self.caught_up_since: float | None = None
        self.confirmed: tuple[float, int] = (0.0, -1)  # (asked at, from which offset): no more

    @property
    def full(self) -> bool:
        return len(self.buffer) >= _BUFFERED_RECORDS or self.bytes >= _BUFFERED_BYTES


class Reader:
    """Reads the partitions it was given, fairly, and knows which of them have no more to give."""

    def __init__(
        self,
        connection: KafkaConnection,
        *,
        topic: str,
        idle_after_s: float,
        progress: SourceProgress,
    ) -> None:
        self.topic = topic
        self._connection = connection
        self._idle_after_s = idle_after_s
        self._progress = progress
        self._lanes: dict[int, _Lane] = {}
        self._assigned = False
        self._fetched_something = False
        self._poll_due = 0.0
        self._progress_due = 0.0
        self._complained = 0.0
        self._consumer: Any = connect(
            KafkaConsumer,
            connection,
            group_id=None,
            enable_auto_commit=False,
            isolation_level="read_committed",
            # Trap: the default 'latest' skips without a word what retention has taken away.
            auto_offset_reset="none",
            # Trap: one fetch is in flight per broker, and a partition that was not drained is left
            # out of it: the fetch then waits this long for the quiet ones (500 ms by default, which
            # made 4k of 150k records/s). Together with max_records=all below.
            fetch_max_wait_ms=50,
            max_partition_fetch_bytes=2 << 20,
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )
        # The only private hook: it tells when a fetch came back, so that an idle source need not
        # poll (140 to 320 µs each, measured), and which partitions it found empty. The high-water
        # mark alone is as old as the last fetch that worked: with a broker away it would call a
        # partition idle, and the watermark would run past records being written elsewhere.
        self._handle_fetch = self._consumer._fetcher._handle_fetch_response
        self._consumer._fetcher._handle_fetch_response = self._fetched

    def add(self, partition: int, offset: int) -> None:
        """Read `partition` as well, from `offset`."""
        self._lanes[partition] = _Lane(TopicPartition(self.topic, partition), offset)
        self._assigned = False

    def remove(self, partition: int) -> bool:
        """Stop reading `partition`; the last one to go disconnects and gives True."""
        self._lanes.pop(partition, None)
        self._assigned = False
        if self._lanes:
            return False
        self._consumer.close(autocommit=False, timeout_ms=1000)
        return True

    def position(self, partition: int) -> int:
        """The offset that `partition` emits next."""
        return self._lanes[partition].next_offset

    def take(self, partition: int, most: int) -> list[RawRecord]:
        """Up to `most` records of `partition` in order; empty where none has arrived."""
        lane = self._lanes[partition]
        buffer = lane.buffer
        if not buffer or most <= 0:
            return []
        count = min(most, len(buffer))
        records = [raw_record(buffer.popleft()) for _ in range(count)]
        # Past compacted records and transaction markers too, once nothing is left in between.
        lane.next_offset = records[-1].offset + 1 if buffer else lane.fetch_offset
        lane.bytes = lane.bytes - sum(_size(record) for record in records) if buffer else 0
        self._progress.consumed(self.topic, partition, count)
        return records

    def idle(self, now_ms: int) -> tuple[tuple[int, int], ...]:
        """(partition, clock in ms) of the partitions that were read to the end for long enough.

        The clock is that of the moment when the broker was asked: slightly before `now_ms`.
        """
        now = time.monotonic()
        return tuple(
            (partition, now_ms - int((now - lane.confirmed[0]) * 1000))
            for partition, lane in self._lanes.items()
            if lane.caught_up_since is not None
            and now - lane.caught_up_since >= self._idle_after_s
            and now - lane.confirmed[0] <= _CONFIRMED_WITHIN_S
        )

    def poll(self) -> None:
        """Take what has arrived and ask for more; cheap when there is nothing to do.

        Raises OffsetExpiredError where retention has overtaken a partition, ConnectorError where
        the broker refuses; a broker that is away is waited for.
        """
        now = time.monotonic()
        if not self._fetched_something and now < self._poll_due:
            return
        self._fetched_something = False
        self._poll_due = now + _POLL_AT_LEAST_EVERY_S
        if not self._assigned:
            self._assign()
        self._hold_full_lanes()
        try:
            polled = self._consumer.poll(timeout_ms=0, max_records=_ALL)
        except OffsetOutOfRangeError as error:
            raise self._expired() from error
        except RetriableError as error:
            self._complain(error, now)
            return
        except KafkaError as error:
            raise unreachable(self._connection, error) from error
        for tp, records in polled.items():
            lane = self._lanes[tp.partition]
            lane.buffer.extend(records)
            lane.bytes += sum(_size(record) for record in records)
        for lane in self._lanes.values():
            self._look_at(lane, now)
        if now >= self._progress_due:
            self._progress_due = now + _PROGRESS_EVERY_S
            for partition, lane in self._lanes.items():
                end = self._consumer.highwater(lane.tp)
                if end is not None:
                    self._progress.lag(self.topic, partition, max(0, end - lane.next_offset))

    def _look_at(self, lane: _Lane, now: float) -> None:
        # Private, because the public look-up costs a hop to the client's thread.
        at = self._consumer._subscription.assignment[lane.tp].position
        if at is not None:
            lane.fetch_offset = at.offset
        if lane.buffer:
            lane.caught_up_since = None
            return
        lane.next_offset = lane.fetch_offset
        end = self._consumer.highwater(lane.tp)
        if end is None or lane.next_offset < end or lane.confirmed[1] != lane.next_offset:
            lane.caught_up_since = None
        elif lane.caught_up_since is None:
            lane.caught_up_since = now

    def _assign(self) -> None:
        self._consumer.assign([lane.tp for lane in self._lanes.values()])
        for lane in self._lanes.values():
            self._consumer.seek(lane.tp, lane.fetch_offset)
        self._assigned = True

    def _hold_full_lanes(self) -> None:
        for lane in self._lanes.values():
            if lane.full is not lane.paused:
                lane.paused = lane.full
                (self._consumer.pause if lane.paused else self._consumer.resume)(lane.tp)

    def _fetched(self, node: int, offsets: Any, sent: float, response: Any) -> None:
        self._handle_fetch(node, offsets, sent, response)
        if response.error_code == 0:
            brought = {
                (topic.topic, data.partition_index)
                for topic in response.responses
                for data in topic.partitions
                if data.records or data.error_code
            }
            for tp, offset in offsets.items():
                lane = self._lanes.get(tp.partition)
                if lane is not None and tp not in brought:
                    lane.confirmed = (sent, offset)
        self._fetched_something = True

    def _complain(self, error: Exception, now: float) -> None:
        if now - self._complained > _PROGRESS_EVERY_S:
            self._complained = now
            _LOG.warning("reading %s: %s; trying again", self.topic, error)

    def _expired(self) -> ConnectorError:
        held = held_offsets(self._connection, self.topic)
        for partition, lane in self._lanes.items():
            first, end = held[partition]
            if not first <= lane.fetch_offset <= end:
                return expired(
                    self.topic, partition, wanted=lane.fetch_offset, first=first, end=end
                )
        return OffsetExpiredError(
            f"topic {self.topic}: an offset to be read is out of range: "
            f"{ {p: lane.fetch_offset for p, lane in self._lanes.items()} }, held: {held}"
        )


def expired(topic: str, partition: int, *, wanted: int, first: int, end: int) -> OffsetExpiredError:
    """The error for an offset that `topic` does not hold (any more)."""
    return OffsetExpiredError(
        f"topic {topic}, partition {partition}: offset {wanted} must be read next, but the topic "
        f"holds {first} to {end - 1} and takes {end} next. Records between are gone (retention, or "
        "the topic was made anew); going on would skip them silently. Restore the topic, or start "
        "with an empty recovery directory"
    )


def _size(record: Any) -> int:
    return len(record.value or b"") + len(record.key or b"") + 64
