"""Logs and outputs as files: JSON Lines, plain or gzip.

A log line is an event as it would be on the topic. An exported line is read back to the record that
it was, bytes and append time: a JSON object follows its `received_at`, in a spelling that no other
program writes; anything else stands in `nextbest_record`. Lines are never sorted: replay follows
the log's order.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import re
import statistics
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
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
# The blank after the brace tells an exported line from one that begins with a clock of its own.
_EXPORTED: Final = re.compile(rb'\{ "received_at":"([0-9T:.-]{23}Z)",')
_PREFIX_BYTES: Final = len('{ "received_at":"2026-01-01T00:00:00.000Z",')


@contextmanager
def open_log(path: Path) -> Iterator[IO[bytes]]:
    """A log opened for reading bytes, unpacked where its name ends in .gz.

    Raises ConnectorError where it cannot be read.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as log:
            yield log  # type: ignore[misc]
    except (OSError, EOFError, zlib.error) as error:
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
    if exported := _EXPORTED.match(line):
        received_ms = to_millis(datetime.fromisoformat(exported[1].decode()))
        return RawRecord(offset, received_ms, None, b"{" + line[_PREFIX_BYTES:])
    if not line.startswith(b'{"' + RECORD_FIELD.encode()):
        return RawRecord(offset, None, None, line)
    try:
        kept: dict[str, Any] = orjson.loads(line)[RECORD_FIELD]
        received = kept["received_ms"]
        return RawRecord(
            offset,
            None if received is None else int(received),
            None if kept["key"] is None else base64.b64decode(kept["key"]),
            None if kept["value"] is None else base64.b64decode(kept["value"]),
            tuple((name, base64.b64decode(value)) for name, value in kept["headers"]),
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, binascii.Error):
        return RawRecord(offset, None, None, line)


def log_line(record: RawRecord) -> bytes:
    """A record of a topic as a line of a log, with the broker's append time as `received_at`.

    An event on one line stays readable; its key is not kept, which is the profile's id again, nor
    are headers that mean nothing to the flow. Anything else is kept as bytes, with key and headers.
    """
    value = record.value
    if value is not None and record.received_ms is not None and _is_readable(record, value):
        return b'{ "received_at":"' + rfc3339(record.received_ms).encode() + b'",' + value[1:]
    kept = {
        "received_ms": record.received_ms,
        "key": None if record.key is None else base64.b64encode(record.key).decode(),
        "value": None if value is None else base64.b64encode(value).decode(),
        "headers": [[name, base64.b64encode(data).decode()] for name, data in record.headers],
    }
    return orjson.dumps({RECORD_FIELD: kept})


def _is_readable(record: RawRecord, value: bytes) -> bool:
    # A clock that the producer sent is overridden by the topic's: it must not stand beside it.
    if value[:1] != b"{" or value != value.strip() or b'"received_at"' in value:
        return False
    if b"\n" in value or b"\r" in value or any(_has_meaning(header) for header in record.headers):
        return False
    try:
        event = Event.model_validate_json(value)
    except ValidationError:
        return False
    ids = (event.user_id, event.anonymous_id)
    return record.key is None or record.key in [name.encode() for name in ids if name]


def _has_meaning(header: tuple[str, bytes]) -> bool:
    name, value = header
    return name.startswith("ce_") or (
        name == "content-type" and value.startswith(b"application/cloudevents")
    )


def initial_clock(paths: list[Path]) -> int | None:
    """Where the clock of a log starts: the median date of its first events, None without any.

    A log without append times is its own clock, and one absurd date at its head must not set it.
    """
    dates = []
    for record in islice(read_records(paths), _SAMPLED):
        if record.received_ms is not None:
            dates.append(record.received_ms)
            continue
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
