"""The exported schemas say what the models say, and the copy in the docs is the export."""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML

from flows.encode import dead_letter_line, dead_letter_record
from flows.kafka.admin import default_topics
from flows.schema_export import ASYNCAPI, TOPICS, asyncapi, documents, schema_file, write
from operators.decode import Refused, parse_event
from schemas.catalogue import Content
from schemas.check import load_policy
from schemas.dead_letter_file import DeadLetterLine
from schemas.dead_letters import DeadLetter
from schemas.decisions import Decision, Late, Outcome, SegmentChange
from schemas.events import CONTROL_TYPES, REQUIRED_BY_TYPE, Event
from schemas.policy import Policy
from schemas.records import RawRecord

ROOT = Path(__file__).parents[1]
POLICIES = Path(__file__).parent / "policies"
MODELS: dict[str, type[BaseModel]] = {
    "event": Event,
    "policy": Policy,
    "content": Content,
    "decision": Decision,
    "segment-change": SegmentChange,
    "outcome": Outcome,
    "late": Late,
    "dead-letter": DeadLetterLine,
}


@cache
def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads(documents()[schema_file(name)]))


def complaints(name: str, value: Any) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in validator(name).iter_errors(value)]


def yaml_of(text: str) -> Any:
    value = YAML(typ="safe", pure=True).load(text)
    return json.loads(json.dumps(value, default=lambda moment: moment.isoformat()))


def test_the_docs_hold_the_export(tmp_path: Path) -> None:
    """If this fails: call `flows.schema_export.write` on docs/schemas."""
    written = {path.name: path.read_text() for path in write(tmp_path / "new" / "schemas")}
    assert written == documents()
    stored = {path.name: path.read_text() for path in (ROOT / "docs" / "schemas").iterdir()}
    assert stored.keys() == written.keys()
    for name, text in written.items():
        assert stored[name] == text, name


@pytest.mark.parametrize("name", MODELS)
def test_each_schema_is_a_json_schema(name: str) -> None:
    schema = json.loads(documents()[schema_file(name)])
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["title"]
    assert schema["description"]


@pytest.mark.parametrize("name", MODELS)
def test_each_schema_has_every_field_of_its_model(name: str) -> None:
    schema = json.loads(documents()[schema_file(name)])
    fields = {field.alias or key for key, field in MODELS[name].model_fields.items()}
    assert set(schema["properties"]) == fields


def defaults(schema: Any, path: str = "$") -> list[tuple[str, dict[str, Any]]]:
    if isinstance(schema, list):
        return [found for i, part in enumerate(schema) for found in defaults(part, f"{path}[{i}]")]
    if not isinstance(schema, dict):
        return []
    here = [(path, schema)] if "default" in schema and not path.endswith("properties") else []
    return [*here, *(f for key, part in schema.items() for f in defaults(part, f"{path}.{key}"))]


@pytest.mark.parametrize("name", MODELS)
def test_every_default_fits_its_own_field(name: str) -> None:
    schema = json.loads(documents()[schema_file(name)])
    for path, field in defaults(schema):
        around = {**field, "$defs": schema.get("$defs", {})}
        default = field["default"]
        assert Draft202012Validator(around).is_valid(default), f"{path}: {default!r}"


def test_durations_are_written_as_in_a_policy() -> None:
    schema = json.loads(documents()[schema_file("policy")])
    assert schema["$defs"]["Time"]["properties"]["allowed_lateness"]["default"] == "1m"


def test_the_example_policy_and_catalogue_fit_schema_and_model() -> None:
    policy = yaml_of((POLICIES / "shop.yaml").read_text())
    assert complaints("policy", policy) == []
    Policy.model_validate(policy)
    for content in yaml_of((POLICIES / "shop_catalogue.yaml").read_text()):
        assert complaints("content", content) == []
        Content.model_validate(content)


WRONG_SHAPES = [
    "placements: {}",
    "colour: red",
    "placements: {home: {level: 6}}",
    "placements: {home: {slots: 0}}",
    "placements: {home: {exploration: {kind: igx}}}",
    "signals: {A: {kind: last, events: view}}",
    "signals: {a: {kind: count, events: view}}",
    "signals: {a: {kind: count, events: view, within: 7}}",
    "signals: {a: {kind: last, events: []}}",
    "signals: {a: {kind: last, events: View}}",
    "signals: {a: {kind: last, events: view, where: {foo: 1}}}",
    "segments: {s: {when: {sgnal: x}}}",
    "segments: {s: {when: {all: []}}}",
    "segments: {s: {when: {done: view}}}",
    "segments: {s: {when: {signal: x, at_leat: 1}}}",
]


@pytest.mark.parametrize("text", WRONG_SHAPES)
def test_what_an_editor_underlines_is_what_check_refuses(text: str) -> None:
    raw = {"name": "shop", "placements": {"home": {}}, **yaml_of(text)}
    assert complaints("policy", raw)
    with pytest.raises(ValidationError):
        Policy.model_validate(raw)
    assert load_policy(json.dumps(raw), name="p.yaml")[0] is None


def test_a_single_event_type_may_stand_without_a_list() -> None:
    text = "{name: s, signals: {a: {kind: last, events: view}}, placements: {h: {triggers: view}}}"
    assert complaints("policy", yaml_of(text)) == []


IDS = st.sampled_from(["u1", "", "é" * 5, "x" * 300, None, 7])
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
MOMENTS = st.sampled_from(
    [
        "2026-01-05T10:00:00Z",
        "2026-01-05 10:00:00.123456+02:00",
        "2026-01-05T10:00:00",
        "2026-01-05",
        "1767600000",
        1767600000,
        1767600000.5,
        None,
        "soon",
    ]
)
EVENT_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "user_id": IDS,
    "anonymous_id": IDS,
    "received_at": MOMENTS,
    "content_id": IDS,
    "placement": IDS,
    "decision_id": IDS,
    "session_id": IDS,
    "value": SCALARS,
    "context": st.dictionaries(st.text(max_size=3), st.one_of(SCALARS, st.lists(SCALARS)))
    | st.none(),
    "properties": st.dictionaries(
        st.text(max_size=3), st.recursive(SCALARS, lambda part: st.lists(part, max_size=2))
    ),
    "candidates": st.lists(IDS | st.fixed_dictionaries({"content_id": IDS, "x": SCALARS})),
    "slots": st.integers(-1, 101) | st.floats(0, 3) | st.booleans() | st.none(),
    "contents": st.lists(IDS) | st.none(),
    "feedback": st.sampled_from(["like", "hide", "love", None]),
    "tag": IDS,
    "attributes": st.dictionaries(st.text(max_size=3), SCALARS) | st.none(),
    "consent": st.dictionaries(st.text(max_size=3), st.booleans() | st.integers(0, 1)) | st.none(),
    "unknown": SCALARS,
}
TYPES = st.sampled_from(
    ["view", "Click", "", "a" * 65, "view\n", *REQUIRED_BY_TYPE, *sorted(CONTROL_TYPES)]
)
# Mostly right at the top, so that enough events are accepted for the test to mean something.
EVENTS = st.fixed_dictionaries(
    {"event_id": st.just("e1") | IDS, "type": TYPES, "occurred_at": MOMENTS},
    optional=EVENT_FIELDS,
)
GOOD_EVENTS = st.fixed_dictionaries(
    {
        "event_id": st.just("e1"),
        "type": st.sampled_from(["view", *REQUIRED_BY_TYPE]),
        "occurred_at": st.just("2026-01-05T10:00:00Z"),
        "user_id": st.just("u1"),
    },
    optional={
        **{name: st.just("x1") for name in ("placement", "decision_id", "content_id", "tag")},
        "anonymous_id": st.just("a1") | st.none(),
        "feedback": st.just("hide") | st.none(),
        "consent": st.just({"ads": True}),
        "attributes": st.just({"plan": "free", "age": 3, "x": None}),
        "contents": st.just(["c1"]),
        "slots": st.just(2),
        "value": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-9, 9),
        "candidates": st.just(["c1", {"content_id": "c2", "margin": 3}]),
    },
)


def accepted(event: dict[str, Any]) -> bool:
    try:
        parse_event(RawRecord(0, None, None, json.dumps(event).encode()))
    except Refused:
        return False
    return True


@settings(max_examples=400, deadline=None)
@given(EVENTS | GOOD_EVENTS)
def test_an_event_that_the_flow_accepts_fits_the_schema(event: dict[str, Any]) -> None:
    if accepted(event):
        assert complaints("event", event) == []


@settings(max_examples=200, deadline=None)
@given(GOOD_EVENTS)
def test_an_event_of_the_right_types_fits_the_schema_only_if_it_is_accepted(
    event: dict[str, Any],
) -> None:
    assert accepted(event) == (complaints("event", event) == [])


@pytest.mark.parametrize(("kind", "fields"), REQUIRED_BY_TYPE.items())
def test_the_schema_asks_for_what_a_type_of_event_needs(kind: str, fields: tuple[str, ...]) -> None:
    event = {"event_id": "e", "type": kind, "occurred_at": "2026-01-05T10:00:00Z", "user_id": "u"}
    for name in fields:
        if name in event:
            continue
        for wrong in (event, {**event, name: None}):
            assert complaints("event", wrong)
            assert not accepted(wrong)


def test_an_event_without_a_profile_fits_neither() -> None:
    event = {"event_id": "e", "type": "view", "occurred_at": "2026-01-05T10:00:00Z"}
    for wrong in (event, {**event, "user_id": None}):
        assert complaints("event", wrong)
        assert not accepted(wrong)


DECISION = {
    "decision_id": "d1",
    "profile_id": "u1",
    "placement": "home",
    "decided_at": "2026-01-05T10:00:00.000Z",
    "expires_at": "2026-01-05T10:30:00.000Z",
    "trigger": {"event_id": "e1", "type": "decision_requested"},
    "items": [
        {"content_id": "c1", "rank": 1, "score": 0.2, "propensity": 0.5, "reasons": []},
        {"content_id": "c2", "rank": 2, "score": None, "propensity": 1, "reasons": []},
    ],
    "candidates": 2,
    "rejections": {"hidden": 1},
    "segments": ["active"],
    "experiment": None,
    "explored": False,
    "learnable": True,
    "fallback": None,
    "slate_propensity": 0.5,
    "model_version": None,
    "policy_digest": "0" * 12,
    "catalogue_version": "1" * 12,
    "level": 4,
    "schema_version": 1,
}


def test_a_decision_fits_the_schema_and_consumers_tolerate_new_fields() -> None:
    Decision.model_validate_json(json.dumps(DECISION))
    assert complaints("decision", DECISION) == []
    assert complaints("decision", {**DECISION, "new": 1, "trigger": {**TRIGGER, "new": 1}}) == []
    assert complaints("decision", {**DECISION, "slate_propensity": 0})
    assert complaints("decision", {k: v for k, v in DECISION.items() if k != "items"})


TRIGGER = {"event_id": "e1", "type": "decision_requested"}
LETTER = DeadLetter(
    "events", 3, 14, "decode", "not_json", "the value is not JSON", None, b"\xff{", (("h", b"\0"),)
)


def test_a_dead_letter_in_a_file_fits_the_schema_and_gives_back_its_bytes() -> None:
    value = dead_letter_line(LETTER).value
    assert value is not None
    assert complaints("dead-letter", json.loads(value)) == []
    assert DeadLetterLine.model_validate_json(value).letter() == LETTER


def test_asyncapi_is_read_back_as_it_was_meant() -> None:
    text = documents()[ASYNCAPI]
    assert YAML(typ="safe", pure=True).load(io.StringIO(text)) == asyncapi()
    assert asyncapi()["asyncapi"] == "3.0.0"


def references(value: Any) -> list[str]:
    if isinstance(value, list):
        return [found for part in value for found in references(part)]
    if not isinstance(value, dict):
        return []
    own = [value["$ref"]] if "$ref" in value else []
    return [*own, *(found for part in value.values() for found in references(part))]


def test_every_reference_of_asyncapi_leads_somewhere() -> None:
    document = asyncapi()
    for reference in references(document):
        if reference.startswith("./"):
            assert reference[2:] in documents()
            continue
        part: Any = document
        for key in reference.removeprefix("#/").split("/"):
            part = part[key]
        assert part


def test_asyncapi_has_every_topic_with_the_settings_it_is_created_with() -> None:
    inner = {"parameters", "catalogue", "policies"}
    specs = {spec.name: spec for spec in default_topics() if spec.name not in inner}
    channels = {channel["address"]: channel for channel in asyncapi()["channels"].values()}
    assert channels.keys() == specs.keys()
    for name, channel in channels.items():
        kafka = channel["bindings"]["kafka"]
        assert kafka["bindingVersion"] == "0.5.0"
        settings_ = {
            key: ",".join(value) if isinstance(value, list) else str(value)
            for key, value in kafka["topicConfiguration"].items()
        }
        assert settings_ == dict(specs[name].config)


def test_asyncapi_names_the_headers_of_a_dead_letter() -> None:
    (topic,) = (topic for topic in TOPICS if topic.name == "dead-letters")
    record = dead_letter_record(LETTER)
    added = {name for name, _ in record.headers if name.startswith("__")}
    assert added
    assert added | {"record_id"} == topic.headers.keys()
