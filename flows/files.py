"""Logs and outputs as files: JSON Lines, plain or gzip.

A log line is an event as it would be on the topic. Where a line holds `nextbest_record` instead,
it is a record that was exported as it was (bytes that are not a JSON object): it is read back to
the same bytes. Lines are never sorted: replay follows the log's order.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final

import orjson
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from pydantic import ValidationError

from flows.errors import ConnectorError
from schemas.events import Event
from schemas.records import OutRecord, RawRecord
from schemas.time import rfc3339, to_millis

RECORD_FIELD: Final = "nextbest_record"
_SAMPLED: Final = 101


@contextmanager
def open_log(path: Path) -> Iterator[IO[bytes]]:
    """A log opened for reading bytes, unpacked where its name ends in .gz.

    Raises ConnectorError where it cannot be read.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as log:
            yield log  # type: ignore[misc]
    except (OSError, EOFError) as error:
        raise ConnectorError(f"{path} cannot be read: {error}") from error


def read_records(
    paths: list[Path], *, on_bytes: Callable[[int], None] = lambda _count: None
) -> Iterator[RawRecord]:
    """The records of logs, one log after the other; empty lines are passed over.

    Offsets are line numbers counted from 0 over all logs. `on_bytes` hears of the bytes read.
    """
    offset = 0
    for path in paths:
        with open_log(path) as log:
            for line in log:
                on_bytes(len(line))
                text = line.strip()
                if text:
                    yield _record(offset, text)
                offset += 1


def _record(offset: int, line: bytes) -> RawRecord:
    if not line.startswith(b'{"' + RECORD_FIELD.encode()):
        return RawRecord(offset, None, None, line)
    try:
        kept: dict[str, Any] = orjson.loads(line)[RECORD_FIELD]
        return RawRecord(
            offset,
            int(kept["received_ms"]),
            None if kept["key"] is None else base64.b64decode(kept["key"]),
            None if kept["value"] is None else base64.b64decode(kept["value"]),
            tuple((name, base64.b64decode(value)) for name, value in kept["headers"]),
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, binascii.Error):
        return RawRecord(offset, None, None, line)


def log_line(record: RawRecord) -> bytes:
    """A record of a topic as a line of a log, with the broker's append time as `received_at`.

    A JSON object without headers of meaning stays readable: only `received_at` is added (replacing
    a value the producer sent, which the topic's clock overrides). Anything else is kept as bytes.
    """
    value = record.value
    if value is not None and not any(name.startswith("ce_") for name, _ in record.headers):
        try:
            body = orjson.loads(value)
        except orjson.JSONDecodeError:
            body = None
        if isinstance(body, dict) and RECORD_FIELD not in body and record.received_ms is not None:
            return orjson.dumps({**body, "received_at": rfc3339(record.received_ms)})
    kept = {
        "received_ms": record.received_ms,
        "key": None if record.key is None else base64.b64encode(record.key).decode(),
        "value": None if value is None else base64.b64encode(value).decode(),
        "headers": [[name, base64.b64encode(data).decode()] for name, data in record.headers],
    }
    return orjson.dumps({RECORD_FIELD: kept})


def initial_clock(paths: list[Path]) -> int | None:
    """Where the clock of a log starts: the median date of its first events, None without any.

    A log without append times is its own clock, and one absurd date at its head must not set it.
    """
    dates = []
    for record in islice(read_records(paths), _SAMPLED):
        try:
            event = Event.model_validate_json(record.value or b"")
        except ValidationError:
            continue
        dates.append(to_millis(event.received_at or event.occurred_at))
    return statistics.median_low(dates) if dates else None


class JsonLines(DynamicSink[tuple[str, list[OutRecord]]]):
    """Writes the values of records to a file, one a line, in the order of arrival."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _JsonLines:  # noqa: ARG002
        """The one writer of the file, emptied first."""
        return _JsonLines(self._path)


class _JsonLines(StatelessSinkPartition[tuple[str, list[OutRecord]]]):
    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=1 << 20)

    def write_batch(self, items: list[tuple[str, list[OutRecord]]]) -> None:
        for _, records in items:
            for record in records:
                if record.value is not None:
                    self._file.write(record.value + b"\n")

    def close(self) -> None:
        self._file.close()
