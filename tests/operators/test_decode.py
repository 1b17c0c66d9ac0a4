"""Any bytes at all give an event or a refusal, and a refusal quotes nothing of the payload."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.arrival import Arrived
from operators.decode import MAX_EVENT_BYTES, NEVER, Decoder, Refused, parse_event
from operators.profile import encode_profile
from schemas.dead_letters import Code, DeadLetter, Stage
from schemas.events import REQUIRED_BY_TYPE, Event
from schemas.records import RawRecord
from schemas.time import DAY, HOUR, MINUTE, SECOND, rfc3339
from tests.operators.builders import T0, decoder, event, policy, profile, raw_batch, record

CANARY = "xyzzyAliceSmith"
BINARY = {"ce_specversion": b"1.0"}
STRUCTURED = {"content-type": b"application/cloudevents+json; charset=UTF-8"}


def refusal(value: bytes | dict[str, Any], **headers: bytes) -> Refused:
    named = {name.replace("__", "-"): text for name, text in headers.items()}
    with pytest.raises(Refused) as caught:
        parse_event(record(value, headers=named))
    return caught.value


def decoded(
    *values: RawRecord | dict[str, Any] | bytes, by: Decoder | None = None
) -> list[Arrived]:
    result = (by or decoder()).decode(raw_batch(values))
    assert result.dead_letters == []
    return result.arrived


def letter(value: RawRecord | dict[str, Any] | bytes, by: Decoder | None = None) -> DeadLetter:
    result = (by or decoder()).decode(raw_batch([value]))
    assert result.arrived == []
    (only,) = result.dead_letters
    return only


def as_json(**fields: Any) -> str:
    """An event as text, with room for what no JSON library would write."""
    return orjson.dumps(event(**fields)).decode()


def with_raw(name: str, raw: str) -> bytes:
    return f'{as_json()[:-1]},"{name}":{raw}}}'.encode()


# What a hostile or broken producer may send.

HOSTILE: dict[str, tuple[bytes, Code]] = {
    "nothing": (b"", "not_json"),
    "white space": (b"  \n", "not_json"),
    "not JSON": (b"hello", "not_json"),
    "half an object": (as_json()[:-5].encode(), "not_json"),
    "two objects": ((as_json() + as_json()).encode(), "not_json"),
    "not UTF-8": (b'{"event_id":"\xff\xfe"}', "not_utf8"),
    "UTF-16": (as_json().encode("utf-16"), "not_utf8"),
    "a byte order mark": (b"\xef\xbb\xbf" + as_json().encode(), "not_json"),
    "null": (b"null", "not_an_object"),
    "a list": (b"[]", "not_an_object"),
    "a number": (b"1", "not_an_object"),
    "a text": (b'"event"', "not_an_object"),
    "true": (b"true", "not_an_object"),
    "an empty object": (b"{}", "missing_field"),
    "16 MiB": (b'{"a":"' + b"x" * (16 << 20) + b'"}', "oversize"),
    "nesting of 10,000": (b"[" * 10_000 + b"]" * 10_000, "not_json"),
    "nesting of 10,000 in a field": (
        with_raw("properties", '{"a":' + "[" * 10_000 + "]" * 10_000 + "}"),
        "not_json",
    ),
    "nesting of 10,000 unclosed": (b'{"a":' * 10_000, "not_json"),
    "a number of a million digits": (with_raw("value", "9" * 1_000_000), "not_json"),
    "a number of 400 digits": (with_raw("value", "9" * 400), "invalid_field"),
    "an overflowing exponent": (with_raw("value", "1e999"), "invalid_field"),
    "NaN": (with_raw("value", "NaN"), "invalid_field"),
    "NaN in the context": (with_raw("context", '{"a":NaN}'), "invalid_field"),
    "Infinity": (with_raw("value", "-Infinity"), "invalid_field"),
    "a lone surrogate": (with_raw("content_id", '"\\ud800"'), "not_json"),
    "a number as text": (with_raw("value", '"3"'), "invalid_field"),
    "a truth as number": (with_raw("value", "true"), "invalid_field"),
    "an empty id": (with_raw("content_id", '""'), "invalid_field"),
    "a long id": (with_raw("content_id", '"' + "x" * 257 + '"'), "invalid_field"),
    "a nested context": (with_raw("context", '{"a":{}}'), "invalid_field"),
    "too many candidates": (
        with_raw("candidates", "[" + ",".join(['"c"'] * 10_001) + "]"),
        "invalid_field",
    ),
    "a candidate without an id": (with_raw("candidates", '[{"price":3}]'), "invalid_field"),
    "no slots": (with_raw("slots", "0"), "invalid_field"),
    "consent in words": (with_raw("consent", '{"ads":"yes"}'), "invalid_field"),
    "an unknown feedback": (with_raw("feedback", '"love"'), "invalid_field"),
    "an attribute beyond 64 bits": (
        with_raw("attributes", '{"a":1' + "0" * 30 + "}"),
        "invalid_field",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_record_is_one_dead_letter_with_its_original_bytes(name: str) -> None:
    value, code = HOSTILE[name]
    dead = letter(record(value, offset=41))
    assert (dead.stage, dead.code) == ("decode", code)
    assert dead.value == value
    assert dead.dead_letter_id == "events-0-41"


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("headers", [BINARY, STRUCTURED], ids=["binary", "structured"])
def test_a_hostile_cloud_event_is_an_event_or_a_refusal(
    name: str, headers: dict[str, bytes]
) -> None:
    value, _ = HOSTILE[name]
    for body in (value, b'{"id":"i","data":' + value + b"}"):
        assert isinstance(outcome(body, headers), Event | Refused)


@pytest.mark.parametrize("depth", [10, 150, 199, 250, 300, 1_000, 2_000, 10_000])
@pytest.mark.parametrize("headers", [{}, BINARY], ids=["plain", "binary"])
def test_no_depth_of_nesting_stops_the_flow(depth: int, headers: dict[str, bytes]) -> None:
    body = with_raw("properties", '{"a":' + "[" * depth + "]" * depth + "}")
    result = decoder().decode(raw_batch([record(body, headers=headers), event()]))
    assert len(result.arrived) + len(result.dead_letters) == 2
    assert len(result.arrived) >= 1


def test_a_record_without_a_value_is_a_dead_letter() -> None:
    dead = letter(RawRecord(3, T0, b"u1", None))
    assert (dead.code, dead.key, dead.value) == ("not_an_object", b"u1", None)


def test_the_largest_event_allowed_is_read_and_one_byte_more_is_refused() -> None:
    bare = len(orjson.dumps(event(event_id="e", properties={"a": ""})))
    full = event(event_id="e", properties={"a": "x" * (MAX_EVENT_BYTES - bare)})
    assert len(orjson.dumps(full)) == MAX_EVENT_BYTES
    assert decoded(full)
    full["properties"]["a"] += "x"
    assert letter(full).code == "oversize"


@pytest.mark.parametrize("field", ["event_id", "type", "occurred_at"])
def test_a_missing_field_is_named(field: str) -> None:
    missing: dict[str, Any] = {field: None}
    dead = letter(event(**missing))
    assert (dead.code, dead.message) == ("missing_field", f"missing: {field}")


def test_an_event_of_nobody_is_refused() -> None:
    assert letter(event(user_id=None)).code == "missing_profile"
    assert decoded(event(user_id=None, anonymous_id="a1"))[0].profile_id == "a1"
    assert decoded(event(user_id="u1", anonymous_id="a1"))[0].profile_id == "u1"


@pytest.mark.parametrize(
    ("kind", "field"), [(k, f) for k, fs in REQUIRED_BY_TYPE.items() for f in fs]
)
def test_a_type_with_meaning_needs_its_fields(kind: str, field: str) -> None:
    whole: dict[str, Any] = {
        "placement": "home",
        "decision_id": "d",
        "feedback": "like",
        "content_id": "c1",
        "consent": {"ads": True},
        "attributes": {"plan": "free"},
        "preferences": {"level": 2},
        "anonymous_id": "a1",
        "user_id": "u1",
    }
    assert decoded(event(type=kind, **whole))
    dead = letter(event(type=kind, **{**whole, field: None}))
    assert dead.code == "missing_field"
    assert field in dead.message


def test_feedback_is_on_a_content_or_a_tag() -> None:
    dead = letter(event(type="feedback", feedback="hide"))
    assert (dead.code, dead.message) == ("missing_field", "feedback needs content_id or tag")
    assert decoded(event(type="feedback", feedback="hide", tag="red"))


def test_an_unknown_placement_is_refused() -> None:
    dead = letter(event(type="decision_requested", placement="attic"))
    assert (dead.code, dead.message) == ("unknown_placement", "the policy has no such placement")


def test_unknown_fields_are_tolerated_and_counted() -> None:
    result = decoder().decode(raw_batch([event(new_field=1, other=[2]), event()]))
    assert (len(result.arrived), result.unknown_fields) == (2, 2)


def test_of_two_equal_keys_the_last_one_counts() -> None:
    assert decoded(with_raw("content_id", '"a"')[:-1] + b',"content_id":"b"}')[0].content_id == "b"


def test_sensitive_fields_are_gone_after_decode() -> None:
    hiding = decoder(
        policy(
            sensitive={
                "tags": ["health"],
                "attributes": ["religion"],
                "context": ["ip"],
                "properties": ["note"],
            }
        )
    )
    (got,) = decoded(
        event(
            type="feedback",
            feedback="like",
            tag="health",
            attributes={"religion": CANARY, "plan": "free"},
            context={"ip": CANARY, "device": "phone"},
            properties={"note": CANARY, "page": 2},
        ),
        by=hiding,
    )
    assert CANARY not in repr(got)
    assert got.tag is None
    assert got.attributes == {"plan": "free"}
    assert got.context == {"device": "phone"}
    assert got.properties == {"page": 2}


def test_candidates_are_ids_or_objects_with_an_id() -> None:
    (got,) = decoded(
        event(
            type="decision_requested",
            placement="home",
            candidates=["a", {"content_id": "b", "price": 3}],
        )
    )
    assert got.candidates == ("a", "b")


# A refusal quotes nothing.

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(width=32) | st.just(CANARY) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.just(CANARY), inner, max_size=4),
    max_leaves=8,
)
_HEADERS = st.sampled_from([{}, BINARY, STRUCTURED, {"ce_specversion": b"1.0", "ce_id": b"\xff"}])


def outcome(value: bytes, headers: dict[str, bytes]) -> Event | Refused:
    try:
        return parse_event(record(value, headers=headers))
    except Refused as why:
        return why


@settings(max_examples=400)
@given(st.binary(max_size=400), _HEADERS)
def test_any_bytes_give_an_event_or_a_refusal(value: bytes, headers: dict[str, bytes]) -> None:
    assert isinstance(outcome(value, headers), Event | Refused)


@settings(max_examples=400)
@given(
    st.dictionaries(st.sampled_from([*Event.model_fields, "extra"]), _JSON, max_size=5), _HEADERS
)
def test_any_json_in_any_field_gives_an_event_or_a_message_without_values(
    fields: dict[str, Any], headers: dict[str, bytes]
) -> None:
    sent = msgspec.json.encode({**event(user_id=CANARY, session_id=CANARY), **fields})
    if headers is STRUCTURED:
        sent = msgspec.json.encode({"id": CANARY, "data": msgspec.Raw(sent)})
    result = outcome(sent, headers)
    if isinstance(result, Refused):
        assert CANARY not in result.message


@settings(max_examples=400)
@given(st.data())
def test_a_damaged_event_gives_an_event_or_a_message_without_values(data: st.DataObject) -> None:
    whole = bytearray(
        orjson.dumps(
            event(event_id="e", user_id=CANARY, properties={CANARY: [CANARY, 1.5]}, value=3.25)
        )
    )
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        if data.draw(st.booleans()):
            whole[at] = data.draw(st.integers(0, 255))
        else:
            del whole[at : at + data.draw(st.integers(1, 9))]
    result = outcome(bytes(whole), {})
    if isinstance(result, Refused):
        assert "Alice" not in result.message


def test_a_message_names_fields_and_never_what_they_hold() -> None:
    for value in (
        {**event(), CANARY: 1, "value": CANARY},
        {**event(), "context": {CANARY: [1]}},
        {**event(), "consent": {CANARY: 7}},
        {**event(), "candidates": [{CANARY: 1}]},
        {**event(), "type": CANARY},
        {**event(), "occurred_at": CANARY},
        {**event(), "attributes": {CANARY: 1 << 80}},
        {**event(type="decision_requested"), "placement": CANARY},
    ):
        dead = letter(msgspec.json.encode(value))
        assert CANARY not in dead.message


@settings(max_examples=200)
@given(st.dictionaries(st.text(max_size=5), _JSON, max_size=4))
def test_attributes_that_decode_accepts_can_always_be_stored(attributes: dict[str, Any]) -> None:
    """A profile that cannot be encoded would stop every later snapshot of its shard."""
    result = outcome(msgspec.json.encode({**event(), "attributes": attributes}), {})
    if isinstance(result, Event):
        held = profile(attributes=dict(result.attributes or {}))
        assert encode_profile(held, due_ms=0)


# Which clock, and how far an event may lie from it.


@pytest.mark.parametrize(
    ("age", "stage_and_code"),
    [
        (10 * 365 * DAY, ("time", "too_old")),
        (400 * DAY + 1, ("time", "too_old")),
        (400 * DAY, None),
        (3 * DAY, None),
        (-5 * MINUTE, None),
        (-5 * MINUTE - 1, ("time", "in_the_future")),
        (-10 * 365 * DAY, ("time", "in_the_future")),
    ],
)
def test_a_date_is_held_against_the_brokers_clock(
    age: int, stage_and_code: tuple[Stage, Code] | None
) -> None:
    result = decoder().decode(raw_batch([event(at=T0 - age)]))
    refused = [(dead.stage, dead.code) for dead in result.dead_letters]
    assert refused == ([stage_and_code] if stage_and_code else [])
    if stage_and_code:
        assert result.watermarks == ()


def test_a_refused_date_moves_no_watermark() -> None:
    reading = decoder()
    reading.decode(raw_batch([event(at=T0)]))
    reading.decode(raw_batch([event(at=T0 + 10 * 365 * DAY)]))
    result = reading.decode(raw_batch([event(at=T0)]))
    assert result.watermarks == ((0, T0 - MINUTE),)


@pytest.mark.parametrize("years", [10, -10])
def test_in_a_log_without_a_clock_an_absurd_date_is_refused_and_the_rest_is_used(
    years: int,
) -> None:
    absurd = event(at=T0 + years * 365 * DAY)
    sent = [event(at=T0), absurd, event(at=T0 + SECOND)]
    result = decoder().decode(raw_batch(sent, received_ms=None))
    assert [dead.stage for dead in result.dead_letters] == ["time"]
    assert [got.watermark_ms for got in result.arrived] == [T0 - MINUTE, T0 + SECOND - MINUTE]


@pytest.mark.parametrize("years", [10, -10])
def test_in_an_exported_log_an_absurd_clock_is_refused_and_the_rest_is_used(years: int) -> None:
    """`received_at` is the log's clock; one absurd value of it must not make all that follows
    late."""
    there = T0 + years * 365 * DAY
    sent = [
        event(at=T0, received_at=rfc3339(T0)),
        event(at=there, received_at=rfc3339(there)),
        event(at=T0 + SECOND, received_at=rfc3339(T0 + SECOND)),
    ]
    result = decoder().decode(raw_batch(sent, received_ms=None))
    assert result.arrived[-1].occurred_ms == T0 + SECOND
    assert result.arrived[-1].watermark_ms == T0 + SECOND - MINUTE


def test_an_initial_clock_helps_a_log_past_an_absurd_first_date() -> None:
    sent = [event(at=T0 + 10 * 365 * DAY), event(at=T0)]
    result = decoder(initial_clock_ms=T0).decode(raw_batch(sent, received_ms=None))
    assert [dead.code for dead in result.dead_letters] == ["in_the_future"]
    assert [got.occurred_ms for got in result.arrived] == [T0]


def test_the_brokers_time_wins_over_the_producers_received_at() -> None:
    (got,) = decoded(event(at=T0, received_at=rfc3339(T0 - HOUR)))
    assert got.received_ms == T0


def test_the_watermark_follows_event_time_and_never_passes_the_clock() -> None:
    reading = decoder()
    ahead = reading.decode(raw_batch([event(at=T0 + 4 * MINUTE)])).arrived[0]
    assert ahead.watermark_ms == T0 - MINUTE
    behind = decoder().decode(raw_batch([event(at=T0 - HOUR)])).arrived[0]
    assert behind.watermark_ms == T0 - HOUR - MINUTE


@given(st.lists(st.integers(-HOUR, HOUR), min_size=1, max_size=20))
def test_watermarks_of_a_partition_never_go_back(offsets: list[int]) -> None:
    reading = decoder()
    seen = NEVER
    for offset in offsets:
        sent = record(event(at=T0 + offset), received_ms=T0 + max(offset, 0))
        for got in reading.decode(raw_batch([sent])).arrived:
            assert got.watermark_ms >= seen
            seen = got.watermark_ms


def test_a_quiet_partition_counts_as_clock_minus_lateness() -> None:
    result = decoder().decode(
        raw_batch([event()], partition=0, partitions=2, idle=((1, T0 + HOUR),))
    )
    assert dict(result.watermarks) == {0: T0 - MINUTE, 1: T0 + HOUR - MINUTE}


def test_only_the_end_of_a_log_lets_the_watermark_reach_the_clock() -> None:
    reading = decoder()
    reading.decode(raw_batch([event()]))
    assert reading.decode(raw_batch([])).watermarks == ((0, T0 - MINUTE),)
    assert reading.decode(raw_batch([], final=True)).watermarks == ((0, T0),)


# CloudEvents.


def test_a_binary_cloud_event_fills_what_the_data_leaves_out() -> None:
    sent = event(event_id=None, type=None, occurred_at=None)
    headers = BINARY | {
        "ce_id": b"e1",
        "ce_type": b"view",
        "ce_time": b"2026-01-01T00:00:00Z",
        "ce_source": b"/shop",
    }
    (got,) = decoded(record(sent, headers=headers))
    assert (got.event_id, got.type, got.occurred_ms) == ("e1", "view", T0)


def test_a_structured_cloud_event_holds_its_event_as_data() -> None:
    envelope = {
        "specversion": "1.0",
        "id": "e1",
        "type": "com.shop.view",
        "time": "2026-01-01T00:00:00Z",
        "data": {"user_id": "u1", "type": "view"},
    }
    (got,) = decoded(record(orjson.dumps(envelope), headers=STRUCTURED))
    assert (got.event_id, got.type, got.occurred_ms) == ("e1", "view", T0)


def test_a_cloud_event_is_the_same_event_as_its_data_alone() -> None:
    sent = event(properties={"a": [1, {"b": None}]}, context={"device": "phone"}, value=1.5)
    (plain,) = decoded(sent)
    (binary,) = decoded(record(sent, headers=BINARY))
    (wrapped,) = decoded(record(orjson.dumps({"data": sent}), headers=STRUCTURED))
    assert plain == binary == wrapped


@pytest.mark.parametrize("body", [b"[]", b"null", b"1", b'{"data":[]}', b'{"data":null}', b"{}"])
def test_a_structured_cloud_event_without_an_object_is_refused(body: bytes) -> None:
    assert refusal(body, content__type=STRUCTURED["content-type"]).code == "not_an_object"


def test_other_headers_change_nothing() -> None:
    assert decoded(record(event(), headers={"traceparent": b"\xff\x00", "content-type": b""}))
