"""What crosses the edge of the flow: records as read, records as written.

The connectors (Kafka, files, in-memory) speak only these types, so that the same graph runs on
each. They are plain tuples: an item that crosses processes is pickled by the engine, and a tuple of
builtins is the cheapest thing to pickle.
"""

from __future__ import annotations

from typing import NamedTuple


class RawRecord(NamedTuple):
    """One record as it was read: bytes and coordinates, nothing decoded.

    `received_ms` is the broker's append time in milliseconds since the epoch; None where the input
    carries no clock of its own (a log file), in which case decode keeps a running maximum.
    """

    offset: int
    received_ms: int | None
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class RawBatch(NamedTuple):
    """Records of one source partition, in order, plus what is known of the quiet partitions.

    `source` is the topic or the log's name and `partitions` the number of partitions it has.
    `idle` lists (partition, clock in ms) for partitions that this reader has read to the end: their
    watermark may follow the clock although nothing arrives. A batch with no records is a tick.
    `final` says that a replay has read its last record: timers due by the log's clock may fire.
    """

    source: str
    partition: int
    partitions: int
    records: list[RawRecord]
    idle: tuple[tuple[int, int], ...] = ()
    final: bool = False


class OutRecord(NamedTuple):
    """One record for a sink.

    `record_id` identifies the fact (decision id, segment change id, dead letter id): a sink that
    resumes skips the ids it finds already written. `adopted` marks a decision that was taken over
    from the topic: it must not be written a second time. `received_ms` is the append time of what
    caused the record, for the latency from end to end.
    """

    record_id: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    adopted: bool = False
    received_ms: int | None = None
