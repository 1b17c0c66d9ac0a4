"""A topic range as a log: what happened live, in a file that replay reads back to the same."""

from __future__ import annotations

import gzip
from pathlib import Path

from flows.errors import ConnectorError
from flows.files import log_line
from flows.kafka.connection import KafkaConnection
from flows.kafka.export import export_range


def export_log(
    connection: KafkaConnection,
    topic: str,
    path: Path,
    *,
    start_ms: int | None = None,
    end_ms: int | None = None,
) -> int:
    """Write the records appended from `start_ms` to before `end_ms`; the number written.

    Lines are in the order of append times. Raises ConnectorError.
    """
    records = export_range(connection, topic, start_ms=start_ms, end_ms=end_ms)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # mtime 0: the same range packed twice is the same file.
        with path.open("wb") as raw:
            log = gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) if path.suffix == ".gz" else raw
            count = 0
            for _, record in records:
                log.write(log_line(record) + b"\n")
                count += 1
            if log is not raw:
                log.close()
    except OSError as error:
        raise ConnectorError(f"{path} cannot be written: {error}") from error
    return count
