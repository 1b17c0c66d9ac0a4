"""Which parts of the docs are made from the code, and how? Each block between markers is.

    <!-- made: NAME -->   ...   <!-- /made -->

`python -m tests.doc_blocks` rewrites every block; `tests/test_docs.py` fails where one is stale.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from flows.diagram import example_flow, mermaid
from flows.files import initial_clock, read_records
from flows.kafka.admin import default_topics
from flows.load import load_plan
from flows.personalize import DEFAULT_SHARDS, FLOW_ID
from flows.recovery import init_store
from flows.settings import Settings
from operators.arrival import group_by_shard
from operators.decide import Decide
from operators.decode import Decoder
from operators.ids import shard_key
from operators.parameters import LocalParameters
from operators.pseudonyms import Pseudonyms
from operators.shard import Shard, ShardBatch
from schemas.catalogue import Content
from schemas.guidance import Feedback, Group, LessLikeThis, Monitoring, Reasons
from schemas.learning import Exploration, Features, Learner, Reward
from schemas.placements import (
    Candidates,
    Coherence,
    Diversity,
    Fallback,
    Needs,
    Placement,
    PlacementCap,
)
from schemas.policy import Consent, Retention, Time
from schemas.records import RawBatch
from schemas.rules import Pin, Rule, Select
from schemas.signals import (
    Affinity,
    Count,
    Distinct,
    First,
    Last,
    Max,
    Mean,
    Min,
    Ratio,
    Rfm,
    Sequence,
    Session,
    Streak,
    Sum,
)
from schemas.time import format_duration

ROOT: Final = Path(__file__).parents[1]
EXAMPLES: Final = ROOT / "examples"
_BLOCK: Final = re.compile(r"(<!-- made: ([a-z-]+) -->\n)(.*?)(<!-- /made -->)", re.DOTALL)
_SECONDS: Final = re.compile(r"in \d+\.\d s")

COMMANDS: Final = {
    "replay-check": ".venv/bin/nextbest check examples/policy.yaml examples/catalogue.yaml",
    "replay-run": ".venv/bin/nextbest replay examples/events.jsonl --policy examples/policy.yaml "
    "--catalogue examples/catalogue.yaml --out out/example",
    "replay-look": "grep '\"e02\"' out/example/decisions.jsonl | .venv/bin/python -m json.tool",
    "check-estimate": ".venv/bin/nextbest check examples/policy.yaml examples/catalogue.yaml "
    "--estimate",
    "profile-look": ".venv/bin/nextbest profile ana --policy examples/policy.yaml "
    "--catalogue examples/catalogue.yaml",
}
"""The README's commands on its example, run in this order; the last sees what a live flow kept."""

_TOPICS: Final = {
    "events": ("profile id", "what happened; you write it"),
    "decisions": ("profile id", "what to show; the truth"),
    "segment-changes": ("profile id", "who entered or left which segment"),
    "dead-letters": ("as it was", "refused records, byte for byte, the reason in headers"),
    "outcomes": ("profile id", "the books of a decision, once its attribution window has closed"),
    "late": ("profile id", "events older than the watermark, by id"),
    "suggestions": ("suggestion id", "two profiles that may be one person; nothing is merged"),
    "erasures": ("event id of the request", "receipts of erasures; they name nobody"),
    "predictions": ("prediction", "how good each prediction has been"),
    "audiences": ("`audiences`", "groups of alike profiles, in words; no profile by name"),
    "thresholds": ("segment", "each move of a threshold that follows feedback, and why"),
    "monitoring": ("placement", "how decisions fare: reward, coverage, drift, fairness"),
    "parameters": ("model", "parameter sets; internal"),
    "catalogue": ("content id", "what can be shown, as published; a tombstone withdraws it"),
    "policies": ("digest", "policies as published; `current` names the one in force"),
}


@dataclass(frozen=True)
class Replayed:
    """What the three commands printed, and the records that they left."""

    printed: dict[str, str]
    records: dict[str, list[dict[str, Any]]]


@cache
def replayed() -> Replayed:
    """The README's commands run by a shell, in a folder with the examples and a flow's state."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "examples").symlink_to(EXAMPLES)
        (folder / ".venv").mkdir()
        (folder / ".venv/bin").symlink_to(Path(sys.executable).parent)
        _keep_state(folder / "recovery")
        printed = {block: _printed(command, folder) for block, command in COMMANDS.items()}
        records = {
            path.stem: [json.loads(line) for line in path.read_text().splitlines()]
            for path in sorted((folder / "out/example").glob("*.jsonl"))
        }
    return Replayed(printed, records)


def _keep_state(store: Path) -> None:
    """Leave what a live flow would have kept of the example's log, as the engine writes it."""
    log, secret = EXAMPLES / "events.jsonl", b"the secret of the example"
    plan = load_plan(EXAMPLES / "policy.yaml", EXAMPLES / "catalogue.yaml")
    policy = plan.policy
    decoder = Decoder(
        policy.time, policy.sensitive, plan.placement_names, initial_clock_ms=initial_clock([log])
    )
    records = list(read_records([log], on_bytes=lambda _count: None))
    decoded = decoder.decode(RawBatch(log.name, 0, 1, records))
    decide = Decide(plan, LocalParameters(), adopt=lambda _decision_id: None)
    init_store(store, partitions=1)
    (store / "pseudonym.key").write_bytes(secret)
    with closing(sqlite3.connect(store / "part-0.sqlite3")) as database:
        grouped = group_by_shard(decoded.arrived, shards=DEFAULT_SHARDS)
        for number, events in grouped.items():
            shard = Shard(number, DEFAULT_SHARDS, decide, pseudonyms=Pseudonyms(secret))
            shard.process(ShardBatch(number, events, decoded.watermarks, decoded.partitions))
            row = (f"{FLOW_ID}.decide", shard_key(number), 1, pickle.dumps(shard.snapshot()))
            database.execute(
                "INSERT INTO snaps (step_id, state_key, snap_epoch, ser_change, created_at)"
                " VALUES (?, ?, ?, ?, '2026-03-04 09:05:02')",
                row,
            )
        database.commit()


def _printed(command: str, folder: Path) -> str:
    unset = {name: value for name, value in os.environ.items() if not name.startswith("NEXTBEST_")}
    done = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env={**unset, "COLUMNS": "100", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    lines = (line.rstrip() for line in done.stdout.splitlines())
    # The progress bar and the time that a run took differ from run to run.
    return "\n".join(_SECONDS.sub("in 0.0 s", line) for line in lines if "━" not in line)


def _console(block: str) -> str:
    return f"```console\n$ {COMMANDS[block]}\n{replayed().printed[block]}\n```\n"


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _decision_rows() -> Iterator[tuple[str, ...]]:
    for record in sorted(replayed().records["decisions"], key=lambda r: str(r["decided_at"])):
        items = ", ".join(f"{i['content_id']} ({i['propensity']:.2f})" for i in record["items"])
        refused = ", ".join(f"{n} {reason}" for reason, n in record["rejections"].items())
        yield (
            f"`{record['trigger']['event_id']}`",
            record["profile_id"],
            record["placement"],
            items or "nothing",
            refused or "–",
            record["fallback"] or "–",
        )


def _change_rows() -> Iterator[tuple[str, ...]]:
    for record in sorted(replayed().records["segment-changes"], key=lambda r: str(r["changed_at"])):
        when = record["changed_at"][:16].replace("T", " ")
        yield (
            when,
            record["profile_id"],
            f"{record['direction']} `{record['segment']}`",
            f"`{record['cause']}`",
        )


def _setting_rows() -> Iterator[tuple[str, ...]]:
    defaults = Settings.model_construct()
    for name, field in Settings.model_fields.items():
        value = getattr(defaults, name)
        flag = " (`--policy`)" if name == "policy" else ""
        flag = " (`--catalogue`)" if name == "catalogue" else flag
        yield (
            f"`NEXTBEST_{name.upper()}`{flag}",
            "–" if value in (None, "") else f"`{value}`",
            field.description or _PLAIN[name],
        )


_PLAIN: Final = {
    "kafka_security_protocol": "PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.",
    "kafka_sasl_mechanism": "For example SCRAM-SHA-512.",
    "kafka_sasl_username": "Login at Kafka.",
    "kafka_sasl_password": "Its password; never shown.",
    "kafka_ssl_cafile": "The authority that Kafka's certificate must come from.",
    "kafka_ssl_certfile": "Our own certificate, where Kafka asks for one.",
    "kafka_ssl_keyfile": "Its key.",
    "kafka_ssl_password": "The key's password; never shown.",
    "batch_records": "Most records of one partition taken at a time.",
    "telemetry_host": "Where metrics and health are served.",
    "telemetry_port": "0: any free port; the log names it.",
    "log_level": "DEBUG, INFO, WARNING or ERROR.",
}


def _topic_rows() -> Iterator[tuple[str, ...]]:
    for spec in default_topics():
        key, holds = _TOPICS[spec.name]
        config = spec.config
        kept = "compacted" if config.get("cleanup.policy") == "compact" else "the broker's default"
        if "retention.ms" in config:
            kept = f"{int(config['retention.ms']) // 86_400_000} days"
        yield f"`{spec.name}`", key, holds, kept


_MEANS: Final = {
    "alpha": "FTRL's step size.",
    "attribute": "Whose values make the groups; none that is sensitive.",
    "before_known": "`granted` or `refused`: what holds until something was said.",
    "by": "`type`, `tags` or `attributes.NAME`.",
    "candidates": "See below.",
    "caps": "At most `max` impressions within `within`.",
    "coherence": "See below.",
    "content_id": "Its name, everywhere.",
    "contents": "Then these contents, as far as they are open.",
    "description": "What it is for, for people.",
    "diversity": "See below.",
    "eligibility": "A condition on the profile and the request.",
    "epsilon": "For `epsilon_greedy`: the share drawn uniformly.",
    "events": "One event type or a list.",
    "expires_after": "Until when a decision holds.",
    "exploration": "See below.",
    "fallback": "See below.",
    "features": "See below.",
    "from": "`catalogue` or `request`.",
    "gamma": "For `igw`: higher is greedier. Absent: grows with the rewards learned.",
    "first": "The first step: `events`, `where`.",
    "gap": "How long after the first step at most; how long a silence ends a visit.",
    "half_life": "After this time half of a liking is left.",
    "l2": "Regularisation.",
    "less_like_this": "See below.",
    "max": "How often at most.",
    "measure": "`sessions`, `events`, `length`, `depth` or `dwell`.",
    "model": "See below.",
    "most": "How many items at most share a value.",
    "monetary": "Sums of at least these score 2, 3, 4 and 5.",
    "needs": "See below.",
    "of": "The field that is read.",
    "rewards": "Reward kinds, as declared.",
    "slots": "How many items at most.",
    "stock": "0 or less: not shown.",
    "tags": "What it is about.",
    "triggers": "Event types that cause a decision; `decision_requested` where absent.",
    "type": "What it is.",
    "types": "Any of these types.",
    "valid_from": "RFC 3339; shown from then on.",
    "valid_until": "RFC 3339; not shown from then on.",
    "within": "The window, sliding with event time; 1s to 400d.",
    "where": "Only events whose fields match.",
}
"""Where a field says nothing of itself, or too little for a table."""

_BETTER: Final = frozenset({"alpha", "epsilon", "gamma", "stock", "triggers"})


def _field_rows(model: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    schema = model.model_json_schema()
    for name, field in schema["properties"].items():
        default = field.get("default")
        if name in schema.get("required", ()):
            shown = "required"
        elif default in (None, "") or isinstance(default, (dict, list)):
            shown = "–"
        elif "(ms|s|m|h|d|w)" in field.get("pattern", ""):
            shown = f"`{format_duration(default)}`"
        else:
            shown = f"`{default}`"
        said = field.get("description", "")
        if name == "kind":
            said = f"`{field['const']}`" if "const" in field else " or ".join(field["enum"])
        elif not said and "enum" in field:
            said = " or ".join(f"`{value}`" for value in field["enum"])
        elif not said or name in _BETTER or said.startswith("A duration"):
            said = _MEANS[name]
        yield f"`{name}`", shown, said


def _fields(*models: type[BaseModel]) -> Callable[[], str]:
    def table() -> str:
        parts = []
        for model in models:
            words = re.sub(r"(?<!^)(?=[A-Z])", " ", model.__name__).lower()
            title = f"**{words}**\n\n" if len(models) > 1 else ""
            parts.append(title + _table(("field", "default", "meaning"), _field_rows(model)))
        return "\n".join(parts)

    return table


BLOCKS: Final[dict[str, Callable[[], str]]] = {
    "diagram": lambda: f"```mermaid\n{mermaid(example_flow())}\n```\n",
    "example-policy": lambda: f"```yaml\n{(EXAMPLES / 'policy.yaml').read_text()}```\n",
    "replay-check": lambda: _console("replay-check"),
    "replay-run": lambda: _console("replay-run"),
    "replay-look": lambda: _console("replay-look"),
    "check-estimate": lambda: _console("check-estimate"),
    "profile-look": lambda: _console("profile-look"),
    "example-decisions": lambda: _table(
        ("trigger", "profile", "placement", "shown (propensity)", "refused", "fallback"),
        _decision_rows(),
    ),
    "example-changes": lambda: _table(("when", "profile", "change", "cause"), _change_rows()),
    "settings": lambda: _table(("setting", "default", "meaning"), _setting_rows()),
    "topics": lambda: _table(("topic", "key", "holds", "kept"), _topic_rows()),
    "time-fields": _fields(Time),
    "consent-fields": _fields(Consent),
    "signal-fields": _fields(
        Count,
        Sum,
        Mean,
        Min,
        Max,
        Distinct,
        Last,
        First,
        Ratio,
        Affinity,
        Sequence,
        Streak,
        Session,
        Rfm,
    ),
    "reward-fields": _fields(Reward),
    "placement-fields": _fields(Placement),
    "placement-parts": _fields(PlacementCap, Diversity, Coherence, Needs, Fallback),
    "candidates-fields": _fields(Candidates),
    "features-fields": _fields(Features),
    "model-fields": _fields(Learner),
    "exploration-fields": _fields(Exploration),
    "rule-fields": _fields(Rule, Select, Pin),
    "feedback-fields": _fields(Feedback, LessLikeThis),
    "reason-fields": _fields(Reasons),
    "monitoring-fields": _fields(Monitoring, Group),
    "retention-fields": _fields(Retention),
    "content-fields": _fields(Content),
}


def documents() -> list[Path]:
    """Every document that is read by people."""
    return [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def made(text: str) -> str:
    """A document's text with every block made anew."""

    def block(found: re.Match[str]) -> str:
        return f"{found[1]}{BLOCKS[found[2]]()}{found[4]}"

    return _BLOCK.sub(block, text)


def named_blocks(text: str) -> list[str]:
    """The names of the blocks that a text has."""
    return [found[2] for found in _BLOCK.finditer(text)]


if __name__ == "__main__":
    for path in documents():
        text = path.read_text()
        if (anew := made(text)) != text:
            path.write_text(anew)
            print(f"{path.relative_to(ROOT)}: {', '.join(named_blocks(text))}")
