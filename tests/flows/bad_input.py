"""Every kind of bad input, what refuses it, and with which code: each must be one dead letter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import orjson

from schemas.time import DAY, rfc3339

_TEN_YEARS: Final = 3_653 * DAY


@dataclass(frozen=True)
class BadRecord:
    kind: str
    value: bytes
    stage: str
    code: str
    key: bytes = b"someone"
    headers: tuple[tuple[str, bytes], ...] = ()


def _event(now_ms: int, **fields: object) -> bytes:
    event: dict[str, object] = {
        "event_id": "bad",
        "user_id": "someone",
        "type": "view",
        "occurred_at": rfc3339(now_ms),
        **fields,
    }
    return orjson.dumps({name: value for name, value in event.items() if value is not None})


def bad_records(now_ms: int) -> list[BadRecord]:
    """One of each kind, as of now."""
    e = _event
    return [
        BadRecord("16 MiB", e(now_ms, note="x" * (16 << 20)), "decode", "oversize"),
        BadRecord("nesting of 10,000", b"[" * 10_000 + b"]" * 10_000, "decode", "not_json"),
        BadRecord(
            "an event nested 10,000 deep",
            e(now_ms)[:-1] + b',"properties":{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}}",
            "decode",
            "not_json",
        ),
        BadRecord("not JSON", b"no, this is a text", "decode", "not_json"),
        BadRecord("truncated", e(now_ms)[:-7], "decode", "not_json"),
        BadRecord("not UTF-8", b'{"event_id": "\xff\xfe"}', "decode", "not_utf8"),
        BadRecord("an array", b"[1, 2, 3]", "decode", "not_an_object"),
        BadRecord("wrong types", e(now_ms, value="much", context=[1]), "decode", "invalid_field"),
        BadRecord("no event id", e(now_ms, event_id=None), "decode", "missing_field"),
        BadRecord("nobody", e(now_ms, user_id=None), "decode", "missing_profile"),
        BadRecord(
            "no such placement",
            e(now_ms, type="decision_requested", placement="attic"),
            "decode",
            "unknown_placement",
        ),
        BadRecord(
            "ten years ahead",
            e(now_ms, occurred_at=rfc3339(now_ms + _TEN_YEARS)),
            "time",
            "in_the_future",
        ),
        BadRecord(
            "ten years ago",
            e(now_ms, occurred_at=rfc3339(now_ms - _TEN_YEARS)),
            "time",
            "too_old",
        ),
        BadRecord(
            "with headers",
            b"{",
            "decode",
            "not_json",
            key=b"\x00\xffkey",
            headers=(("trace", b"\x01\x02"), ("trace", b"again"), ("empty", b"")),
        ),
    ]
