"""Was everything that was sent also acknowledged?

A producer with a bound: it remembers what is in flight, looks at every acknowledgement, and knows
the position after the last acknowledged record of each partition. State: records sent and not yet
seen to be acknowledged. It does not know what a record means.

Traps of kafka-python 3 avoided here: the producer takes any amount without holding the caller back
(200k records with the broker frozen), so what is in flight is counted here; and the idempotent
producer wedges for good when a batch that was tried once expires: nothing is sent any more, futures
stay pending, a flush without a time-out never returns. So each flush has a time-out, and a record
failed or pending after it is fatal: the epoch stays open and the process resumes from its snapshot.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from kafka import KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError, MessageSizeTooLargeError

from flows.errors import DeliveryError
from flows.kafka.connection import KafkaConnection, connect
from flows.kafka.tail import RECORD_ID
from schemas.records import OutRecord

_SLICE_S: Final = 0.5
_STOP_GRACE_S: Final = 15.0
_HEADERS_ALLOWANCE: Final = 1 << 20


class Outbox:
    """Sends to the partitions of one topic; `settle` returns only when all was acknowledged.

    `stop` says that the process was asked to end: then an outage is waited for at most 15 s.
    `waiting` is called twice a second while an outage holds the caller up. `acknowledged` is called
    with a record's `received_ms` when the broker has it, on the client's own thread.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        *,
        topic: str,
        linger_ms: int,
        max_request_size: int,
        max_in_flight_records: int,
        max_in_flight_bytes: int,
        delivery_timeout_s: float,
        stop: Callable[[], bool],
        waiting: Callable[[], None],
        acknowledged: Callable[[int], None] | None,
    ) -> None:
        self._topic = topic
        self._address = connection.bootstrap_servers
        self._most_records = max_in_flight_records
        self._most_bytes = max_in_flight_bytes
        self._timeout_s = delivery_timeout_s
        self._stop = stop
        self._waiting = waiting
        self._acknowledged = acknowledged
        self._max_request_size = max_request_size
        self._in_flight: deque[tuple[Any, int, str, int]] = deque()
        self._bytes = 0
        self._next: dict[int, int] = {}
        self._producer: Any = connect(
            KafkaProducer,
            connection,
            acks="all",
            enable_idempotence=True,
            compression_type="lz4",
            linger_ms=linger_ms,
            batch_size=256 << 10,
            # The client's limit is on what it would send uncompressed, headers included.
            max_request_size=max_request_size + _HEADERS_ALLOWANCE,
            request_timeout_ms=min(15_000, int(delivery_timeout_s * 500)),
            delivery_timeout_ms=int(delivery_timeout_s * 1000),
            allow_auto_create_topics=False,
            metrics_enabled=False,
            # A send waits for the topic's metadata at most this long.
            max_block_ms=15_000,
        )

    def send(self, partition: int, record: OutRecord) -> None:
        """Send one record; waits while too much is in flight.

        Raises DeliveryError where a record was refused, or not acknowledged in time.
        """
        size = len(record.key or b"") + len(record.value or b"")
        headers = [*record.headers, (RECORD_ID, record.record_id.encode())]
        try:
            # The partition is explicit: the engine routed the record by it, and the sink's state
            # counts on it. It is also a third cheaper than to have the client choose.
            future = self._producer.send(
                self._topic,
                value=record.value,
                key=record.key,
                headers=headers,
                partition=partition,
            )
        except MessageSizeTooLargeError as error:
            raise DeliveryError(
                f"topic {self._topic}: record {record.record_id} has {size} bytes, more than the "
                f"{self._max_request_size} that this sink may send; raise its max_request_size and "
                "the topic's max.message.bytes"
            ) from error
        except (KafkaError, AssertionError) as error:
            raise self._failed(record.record_id, error) from error
        if self._acknowledged is not None and record.received_ms is not None:
            acknowledged, received_ms = self._acknowledged, record.received_ms
            future.add_callback(lambda _: acknowledged(received_ms))
        self._in_flight.append((future, partition, record.record_id, size))
        self._bytes += size
        if len(self._in_flight) > self._most_records or self._bytes > self._most_bytes:
            self._reap()
            if len(self._in_flight) > self._most_records or self._bytes > self._most_bytes:
                self.settle()

    def settle(self) -> None:
        """Wait until every record sent is acknowledged; DeliveryError where one is not."""
        if not self._in_flight:
            return
        now = time.monotonic()
        deadline = now + self._timeout_s + _SLICE_S
        while self._in_flight and now < deadline:
            try:
                self._producer.flush(timeout=_SLICE_S)
                # Flush returns when the batch is done; the record's own future is set just after.
                self._in_flight[-1][0].get(timeout=_SLICE_S)
            except KafkaTimeoutError:
                self._waiting()
            except KafkaError as error:
                raise self._failed(self._in_flight[-1][2], error) from error
            self._reap()
            now = time.monotonic()
            if self._stop():
                deadline = min(deadline, now + _STOP_GRACE_S)
        if self._in_flight:
            raise self._failed(self._in_flight[0][2], None)

    def position(self, partition: int, *, otherwise: int) -> int:
        """The offset after the last acknowledged record of `partition`, if any was sent."""
        return max(self._next.get(partition, 0), otherwise)

    def close(self) -> None:
        """Send what is buffered if that works at once, and disconnect."""
        # Trap: a wedged producer raises here. What it held was never acknowledged, so it is made
        # again after the resume; the error that ends the flow must not be hidden by this one.
        with suppress(KafkaError):
            self._producer.close(timeout=2)

    def _reap(self) -> None:
        """Look at the acknowledgements that have come, oldest first."""
        in_flight, positions = self._in_flight, self._next
        while in_flight and in_flight[0][0].is_done:
            future, partition, record_id, size = in_flight[0]
            if future.exception is not None:
                raise self._failed(record_id, future.exception)
            in_flight.popleft()
            self._bytes -= size
            # -1 for a duplicate that the broker no longer knows: the position then stays lower,
            # which only makes the next scan longer.
            if future.value.offset >= positions.get(partition, 0):
                positions[partition] = future.value.offset + 1

    def _failed(self, record_id: str, error: BaseException | None) -> DeliveryError:
        cause = f"{type(error).__name__}: {error}" if error else f"within {self._timeout_s:.0f} s"
        return DeliveryError(
            f"topic {self._topic} at {self._address}: record {record_id} and up to "
            f"{max(0, len(self._in_flight) - 1)} more were not acknowledged ({cause}). Nothing is "
            "lost: start again and the flow resumes from its last snapshot"
        )
