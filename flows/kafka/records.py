"""How does a record that kafka-python read become one of ours?"""

from __future__ import annotations

from typing import Any, Final

from schemas.records import RawRecord

_LOG_APPEND_TIME: Final = 1


def raw_record(record: Any) -> RawRecord:
    """The record with its coordinates and its append time.

    Only LogAppendTime is a clock. A producer's own timestamp may be years off, so a topic with
    CreateTime gives None and decode falls back to the events' own dates.
    """
    headers = record.headers
    return RawRecord(
        record.offset,
        record.timestamp if record.timestamp_type == _LOG_APPEND_TIME else None,
        record.key,
        record.value,
        tuple((name, value or b"") for name, value in headers) if headers else (),
    )
