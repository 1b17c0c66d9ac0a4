"""Writes the contract for others to read: JSON Schemas, and AsyncAPI for what is on Kafka.

Everything is derived from the models, so the export cannot say other than what the flow does.
`docs/schemas/` holds it; a test fails when that copy is out of date.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML

from flows.kafka.admin import default_topics
from schemas.audiences import AudienceReport, ThresholdChange
from schemas.catalogue import catalogue_schema
from schemas.dead_letter_file import dead_letter_schema
from schemas.decisions import SCHEMA_VERSION, Decision, Late, Outcome, SegmentChange, out_schema
from schemas.events import event_schema
from schemas.identity import Suggestion
from schemas.monitoring import MonitoringReport
from schemas.policy import policy_schema
from schemas.prediction_reports import PredictionReport
from schemas.receipts import Receipt
from schemas.subject import SubjectExport
from schemas.time import format_duration

ASYNCAPI: Final = "asyncapi.yaml"
KAFKA_BINDING: Final = "0.5.0"


def documents() -> dict[str, str]:
    """File name to text of the whole export."""
    schemas = {
        "event": event_schema(),
        "policy": policy_schema(),
        "content": catalogue_schema(),
        "decision": out_schema(Decision),
        "segment-change": out_schema(SegmentChange),
        "outcome": out_schema(Outcome),
        "late": out_schema(Late),
        "prediction": out_schema(PredictionReport),
        "audiences": out_schema(AudienceReport),
        "threshold-change": out_schema(ThresholdChange),
        "monitoring": out_schema(MonitoringReport),
        "suggestion": out_schema(Suggestion),
        "erasure": out_schema(Receipt),
        "held": out_schema(SubjectExport),
        "dead-letter": dead_letter_schema(),
    }
    texts = {
        schema_file(name): json.dumps(_as_written(schema), indent=2) + "\n"
        for name, schema in schemas.items()
    }
    return {**texts, ASYNCAPI: _yaml(asyncapi())}


def write(directory: Path) -> list[Path]:
    """Write the export into a directory (created where absent); returns the files written."""
    directory.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for name, text in documents().items():
        path = directory / name
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def schema_file(name: str) -> str:
    """The file name of a schema.

    >>> schema_file("event")
    'event.schema.json'
    """
    return f"{name}.schema.json"


def _as_written(schema: Any) -> Any:
    """The schema in the terms of a file, where pydantic's own differs.

    It gives the defaults of durations in milliseconds, and lets pass the names of a mapping that do
    not match their pattern, which the model refuses.
    """
    if isinstance(schema, list):
        return [_as_written(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    written = {key: _as_written(part) for key, part in schema.items()}
    default = written.get("default")
    if written.get("type") == "string" and isinstance(default, int):
        written["default"] = format_duration(default)
    items = written.get("prefixItems") or [written.get("items")]
    texts = all(isinstance(item, dict) and item.get("type") == "string" for item in items)
    if texts and isinstance(default, list) and all(isinstance(one, int) for one in default):
        written["default"] = [format_duration(one) for one in default]
    if "patternProperties" in written:
        written.setdefault("additionalProperties", False)
    return written


@dataclass(frozen=True, slots=True)
class _Topic:
    """One topic of the contract: `schema` is None where the value is not ours to describe."""

    name: str
    channel: str
    title: str
    summary: str
    schema: str | None
    received: bool
    headers: dict[str, str]
    key: str = "The profile id, UTF-8: the user id as sent."


_RECORD_ID: Final = {"record_id": "Identifies the fact; the same id twice is the same record."}
_OURS: Final = {**_RECORD_ID, "content-type": "application/json"}

TOPICS: Final = (
    _Topic(
        "events",
        "events",
        "Event",
        "What a profile did, or wants of the flow. Partition by profile id.",
        "event",
        True,
        {"content-type": "application/json, or application/cloudevents+json (structured mode)."},
    ),
    _Topic(
        "decisions",
        "decisions",
        "Decision",
        "The next best content for one profile, at one moment, in one placement. Read with "
        "isolation.level=read_committed and ignore fields you do not know.",
        "decision",
        False,
        _OURS,
    ),
    _Topic(
        "segment-changes",
        "segmentChanges",
        "SegmentChange",
        "A profile entered or left a segment.",
        "segment-change",
        False,
        _OURS,
    ),
    _Topic(
        "outcomes",
        "outcomes",
        "Outcome",
        "The books of one decision, written once, when its attribution window closes.",
        "outcome",
        False,
        _OURS,
    ),
    _Topic(
        "late",
        "late",
        "Late",
        "An event that came after the watermark had passed it; it changed nothing.",
        "late",
        False,
        _OURS,
    ),
    _Topic(
        "predictions",
        "predictions",
        "PredictionReport",
        "How good a prediction has been, told with every parameter set of it.",
        "prediction",
        False,
        _OURS,
        "The prediction's name.",
    ),
    _Topic(
        "audiences",
        "audiences",
        "AudienceReport",
        "The groups of alike profiles that were found, largest first.",
        "audiences",
        False,
        _OURS,
        "One for all: audiences.",
    ),
    _Topic(
        "thresholds",
        "thresholds",
        "ThresholdChange",
        "A segment's threshold followed its feedback, within its declared bounds.",
        "threshold-change",
        False,
        _OURS,
        "The segment's name.",
    ),
    _Topic(
        "monitoring",
        "monitoring",
        "MonitoringReport",
        "What was watched of a placement's decisions and their outcomes, in one period.",
        "monitoring",
        False,
        _OURS,
        "The placement's name.",
    ),
    _Topic(
        "suggestions",
        "suggestions",
        "Suggestion",
        "Two profiles that may be one person. Nothing is merged by it.",
        "suggestion",
        False,
        _OURS,
        "The suggestion's id.",
    ),
    _Topic(
        "erasures",
        "erasures",
        "Erasure",
        "The receipt of an erasure that was carried out; it names no one.",
        "erasure",
        False,
        _OURS,
        "The event id of the request.",
    ),
    _Topic(
        "dead-letters",
        "deadLetters",
        "DeadLetter",
        "A record that was refused: its own key, value and headers, the error in headers added. "
        "In files the form is dead-letter.schema.json.",
        None,
        False,
        {
            **_RECORD_ID,
            "__dlq.errors.topic": "The topic the record was read from.",
            "__dlq.errors.partition": "Its partition, in decimal digits.",
            "__dlq.errors.offset": "Its offset, in decimal digits.",
            "__dlq.errors.message": "What was wrong: names fields and types, never a value.",
            "__errors.stage": "Where it was refused: decode or time.",
            "__errors.code": "Why it was refused, from a closed list.",
        },
    ),
)


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI 3.0 document of the topics, schemas referred to as files beside it."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "nextbest",
            "version": f"{SCHEMA_VERSION}.0.0",
            "description": "Events in, decisions out: the next best content for each profile.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {topic.channel: _channel(topic) for topic in TOPICS},
        "operations": {_operation_id(topic): _operation(topic) for topic in TOPICS},
        "components": {"messages": {topic.title: _message(topic) for topic in TOPICS}},
    }


def _channel(topic: _Topic) -> dict[str, Any]:
    return {
        "address": topic.name,
        "description": topic.summary,
        "messages": {topic.title: {"$ref": f"#/components/messages/{topic.title}"}},
        "bindings": {
            "kafka": {
                "topic": topic.name,
                "topicConfiguration": _configuration(topic.name),
                "bindingVersion": KAFKA_BINDING,
            }
        },
    }


def _configuration(topic: str) -> dict[str, Any]:
    """The settings that `nextbest topics` creates it with, typed as the binding has them."""
    spec = next(spec for spec in default_topics() if spec.name == topic)
    settings: dict[str, Any] = {}
    for key, value in sorted(spec.config.items()):
        if key == "cleanup.policy":
            settings[key] = value.split(",")
        else:
            settings[key] = int(value) if value.isdigit() else value
    return settings


def _operation_id(topic: _Topic) -> str:
    verb = "receive" if topic.received else "send"
    return verb + topic.channel[0].upper() + topic.channel[1:]


def _operation(topic: _Topic) -> dict[str, Any]:
    return {
        "action": "receive" if topic.received else "send",
        "channel": {"$ref": f"#/channels/{topic.channel}"},
        "summary": topic.summary,
        "messages": [{"$ref": f"#/channels/{topic.channel}/messages/{topic.title}"}],
    }


def _message(topic: _Topic) -> dict[str, Any]:
    ours = topic.schema is not None
    message: dict[str, Any] = {
        "name": topic.title,
        "title": topic.title,
        "contentType": "application/json" if ours else "application/octet-stream",
    }
    if topic.headers:
        message["headers"] = {
            "type": "object",
            "properties": {
                name: {"type": "string", "description": text}
                for name, text in topic.headers.items()
            },
        }
    if topic.schema is not None:
        message["payload"] = {"$ref": f"./{schema_file(topic.schema)}"}
    else:
        message["payload"] = {"type": "string", "description": "The original bytes, unchanged."}
    key = topic.key if ours else "The original key, unchanged."
    message["bindings"] = {
        "kafka": {
            "key": {"type": "string", "description": key},
            "bindingVersion": KAFKA_BINDING,
        }
    }
    return message


def _yaml(document: dict[str, Any]) -> str:
    yaml = YAML()
    yaml.width = 10_000  # never wrap: a wrapped line ends in a space
    yaml.indent(mapping=2, sequence=4, offset=2)
    # Shared parts are written out: anchors would be correct and hard to read.
    yaml.representer.ignore_aliases = lambda *_: True
    text = io.StringIO()
    yaml.dump(document, text)
    return text.getvalue()
