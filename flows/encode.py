"""How do the core's outputs look on the wire? Records for the sinks, grouped by partition.

A sink item is a list of records for one partition: an item per record would cost the engine more
than writing it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from typing import Any, Final

import orjson

from flows.monitor_logic import Told
from flows.part_names import partition_key
from flows.streams import StreamName
from operators.outputs import Made, Outputs, Record
from operators.parameters import ParameterSet
from schemas.dead_letters import DeadLetter
from schemas.records import OutRecord

JSON: Final = (("content-type", b"application/json"),)
Partition = Callable[[bytes], int]
Parted = list[tuple[str, list[OutRecord]]]


def parted(records: Iterable[OutRecord], partition_of: Partition) -> Parted:
    """Records grouped by the partition of their key, in order within each."""
    groups: dict[int, list[OutRecord]] = {}
    for record in records:
        groups.setdefault(partition_of(record.key or b""), []).append(record)
    return [(partition_key(partition), group) for partition, group in groups.items()]


def decision_record(made: Made) -> OutRecord:
    """A decision for topic `decisions`."""
    record = made.record
    return OutRecord(
        record["decision_id"],
        record["profile_id"].encode(),
        orjson.dumps(record),
        JSON,
        made.adopted,
        made.received_ms,
    )


def _keyed(records: Iterable[Record], identity: Callable[[Record], str]) -> list[OutRecord]:
    return [
        OutRecord(identity(record), record["profile_id"].encode(), orjson.dumps(record), JSON)
        for record in records
    ]


def decision_records(out: Outputs) -> list[OutRecord]:
    """The decisions of an activation."""
    return [decision_record(made) for made in out.decisions]


def change_records(out: Outputs) -> list[OutRecord]:
    """The segment changes of an activation."""
    return _keyed(out.changes, lambda record: str(record["change_id"]))


def outcome_records(out: Outputs) -> list[OutRecord]:
    """The outcomes of an activation; each names its decision."""
    return _keyed(out.outcomes, lambda record: str(record["decision_id"]))


def receipt_records(out: Outputs) -> list[OutRecord]:
    """The receipts of an activation's erasures, keyed by the request: they name no profile."""
    return [
        OutRecord(
            record["receipt_id"], record["request_event_id"].encode(), orjson.dumps(record), JSON
        )
        for record in out.receipts
    ]


def suggestion_records(suggestion: Record) -> list[OutRecord]:
    """A suggestion that two profiles are one person, keyed by the pair."""
    identity = suggestion["suggestion_id"]
    return [OutRecord(identity, identity.encode(), orjson.dumps(suggestion), JSON)]


def monitoring_records(told: Told) -> list[OutRecord]:
    """The reports on a placement, keyed by it."""
    return [
        OutRecord(report["report_id"], report["placement"].encode(), orjson.dumps(report), JSON)
        for report in told.reports
    ]


_REPORTED: Final[dict[str, tuple[str, str | None]]] = {
    "predictions": ("model_version", "prediction"),
    "audiences": ("report_id", None),
    "thresholds": ("change_id", "segment"),
}
"""Stream to the fields that identify a report and that are its key (None: the stream's name)."""


def report_records(stream: StreamName, report: tuple[StreamName, Record]) -> list[OutRecord]:
    """A report, where it is one for this stream."""
    name, record = report
    if name != stream:
        return []
    identity, key = _REPORTED[name]
    keyed_by = name if key is None else record[key]
    return [OutRecord(record[identity], keyed_by.encode(), orjson.dumps(record), JSON)]


def late_records(out: Outputs) -> list[OutRecord]:
    """The late events of an activation."""
    return _keyed(out.late, lambda record: str(record["event_id"]))


def dead_letter_record(letter: DeadLetter) -> OutRecord:
    """A dead letter for Kafka: original key, value and headers; the error in headers.

    `__dlq.errors.*` are the names of KIP-1191, `__errors.*` ours.
    """
    error = {
        "__dlq.errors.topic": letter.source,
        "__dlq.errors.partition": str(letter.partition),
        "__dlq.errors.offset": str(letter.offset),
        "__dlq.errors.message": letter.message,
        "__errors.stage": letter.stage,
        "__errors.code": letter.code,
    }
    return OutRecord(
        letter.dead_letter_id,
        letter.key,
        letter.value,
        (*letter.headers, *((name, text.encode()) for name, text in error.items())),
    )


def dead_letter_line(letter: DeadLetter) -> OutRecord:
    """A dead letter as one JSON object, for a file; the bytes are in base64."""
    line: dict[str, Any] = {
        "dead_letter_id": letter.dead_letter_id,
        "source": letter.source,
        "partition": letter.partition,
        "offset": letter.offset,
        "stage": letter.stage,
        "code": letter.code,
        "message": letter.message,
        "key_base64": None if letter.key is None else base64.b64encode(letter.key).decode(),
        "value_base64": None if letter.value is None else base64.b64encode(letter.value).decode(),
        "headers": [[name, base64.b64encode(value).decode()] for name, value in letter.headers],
    }
    return OutRecord(letter.dead_letter_id, b"", orjson.dumps(line))


def parameter_records(parameters: ParameterSet | None) -> list[OutRecord]:
    """A parameter set for the archive, topic `parameters`, key = model; nothing for none."""
    if parameters is None:
        return []
    return [OutRecord(parameters.version, parameters.model.encode(), parameters.encoded)]
