"""Logs as files: is a record that was exported read back as it was, and what if one cannot be?"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.errors import ConnectorError
from flows.files import initial_clock, log_line, read_records
from operators.decode import Decoder
from schemas.policy import Sensitive, Time
from schemas.records import RawBatch, RawRecord
from tests.flows.bad_input import bad_records
from tests.operators.builders import T0, event

DAY = 86_400_000


def read_back(record: RawRecord, folder: Path) -> RawRecord:
    path = folder / "log.jsonl"
    path.write_bytes(log_line(record) + b"\n")
    (found,) = read_records([path])
    return found


def exported(value: bytes | None, **fields: object) -> RawRecord:
    given: dict[str, object] = {"offset": 0, "received_ms": T0, "key": b"u1", "value": value}
    return RawRecord(**(given | fields))  # type: ignore[arg-type]


def test_an_event_stays_readable_and_carries_the_topics_clock(tmp_path: Path) -> None:
    sent = orjson.dumps(event(user_id="u1"))
    line = log_line(exported(sent))
    assert orjson.loads(line) == {**orjson.loads(sent), "received_at": "2026-01-01T00:00:00.000Z"}
    found = read_back(exported(sent), tmp_path)
    assert (found.received_ms, found.value) == (T0, sent)


@pytest.mark.parametrize("bad", bad_records(T0), ids=lambda bad: bad.kind)
def test_bad_input_is_read_back_to_the_same_bytes(tmp_path: Path, bad: object) -> None:
    value, key, headers = bad.value, bad.key, bad.headers  # type: ignore[attr-defined]
    found = read_back(exported(value, key=key, headers=headers), tmp_path)
    assert (found.received_ms, found.value, found.headers) == (T0, value, headers)


@given(
    value=st.none() | st.binary() | st.from_regex(rb'\A\{"[a-z_]{1,12}": ?[0-9"\n ]{0,9}\}\Z'),
    key=st.none() | st.binary(max_size=8),
    headers=st.lists(st.tuples(st.text(max_size=8), st.binary(max_size=8)), max_size=3),
    received_ms=st.none() | st.integers(0, T0 * 2),
)
def test_any_record_is_read_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory,
    value: bytes | None,
    key: bytes | None,
    headers: list[tuple[str, bytes]],
    received_ms: int | None,
) -> None:
    record = exported(value, key=key, headers=tuple(headers), received_ms=received_ms)
    assert read_back(record, tmp_path_factory.mktemp("log")) == record


@pytest.mark.parametrize(
    "spelling",
    [
        {"indent": orjson.OPT_INDENT_2},
        {"received_at": "1999-01-01T00:00:00Z"},
        {"headers": (("ce_specversion", b"1.0"),)},
        {"headers": (("content-type", b"application/cloudevents+json"),)},
        {"key": b"someone else"},
    ],
    ids=["on several lines", "its own clock", "CloudEvents", "structured", "another key"],
)
def test_an_event_that_a_line_would_change_is_kept_as_bytes(
    tmp_path: Path, spelling: dict[str, object]
) -> None:
    fields: dict[str, Any] = {k: v for k, v in spelling.items() if k == "received_at"}
    option = spelling.get("indent", 0)
    assert isinstance(option, int)
    value = orjson.dumps(event(user_id="u1", **fields), option=option)
    own = {name: spelling[name] for name in ("headers", "key") if name in spelling}
    record = exported(value, **own)
    assert read_back(record, tmp_path) == record


def test_a_log_of_another_program_is_not_taken_for_an_exported_one(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    line = b'{"received_at":"2026-01-01T00:00:00.000Z","event_id":"e1"}'
    path.write_bytes(line + b"\n" + b'{"nextbest_record": 3}\n' + b'{"nextbest_record"\n')
    values = [record.value for record in read_records([path])]
    assert values == [line, b'{"nextbest_record": 3}', b'{"nextbest_record"']


def test_offsets_are_line_numbers_over_all_logs_and_empty_lines_count(tmp_path: Path) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz"
    first.write_bytes(b"one\n\n  \r\nfour")
    second.write_bytes(gzip.compress(b"five\n"))
    heard: list[int] = []
    found = list(read_records([first, second], on_bytes=heard.append))
    assert [(r.offset, r.value) for r in found] == [(0, b"one"), (3, b"four"), (4, b"five")]
    assert sum(heard) == len(b"one\n\n  \r\nfour") + len(b"five\n")


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"no gzip",
        gzip.compress(b"one\n" * 9_999)[:-20],
        gzip.compress(b"one\n")[:12] + b"\xff" * 9,
    ],
    ids=["missing", "not packed", "cut off", "damaged"],
)
def test_a_log_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "events.jsonl.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConnectorError, match=r"events\.jsonl\.gz cannot be read"):
        list(read_records([path]))


def test_one_absurd_date_at_the_head_of_a_log_does_not_set_its_clock(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    events = [event(at=T0 + 9_999 * DAY), *(event(at=T0 + n) for n in range(5))]
    path.write_bytes(b"nonsense\n" + b"\n".join(orjson.dumps(e) for e in events))
    assert initial_clock([path]) == T0 + 2
    decoder = Decoder(Time(), Sensitive(), frozenset(), initial_clock_ms=initial_clock([path]))
    decoded = decoder.decode(RawBatch("log", 0, 1, list(read_records([path]))))
    assert [letter.code for letter in decoded.dead_letters] == ["not_json", "in_the_future"]
    assert len(decoded.arrived) == 5


def test_a_log_without_events_has_no_clock(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"nonsense\n")
    assert initial_clock([path]) is None
