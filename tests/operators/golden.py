"""What does a shard's state look like on disk? A fixed history, its snapshot and its meaning.

`python -m tests.operators.golden` writes `tests/golden/`. Do that for a new version of the state
only: what an older release wrote must stay readable, so its files never change.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec
import orjson

from operators.arrival import Arrived
from operators.plan import Plan
from operators.shard import Shard
from operators.shard_state import VERSION
from schemas.time import HOUR, MINUTE
from tests.operators.builders import (
    T0,
    arrived,
    content,
    plan,
    policy,
    request,
    shard,
    shard_batch,
)

GOLDEN: Final = Path(__file__).parents[1] / "golden"
PROFILES: Final = ("u1", "u2", "zażółć")


def golden_plan() -> Plan:
    """A plan that leaves something in every field of a profile."""
    return plan(
        policy(
            consent={"collect": "ads"},
            signals={
                "views": {"kind": "count", "events": "view", "within": "7d"},
                "spent": {"kind": "sum", "events": "buy", "within": "30d"},
                "pages": {"kind": "distinct", "events": "view", "within": "1d"},
                "bought": {"kind": "last", "events": "buy"},
                "tastes": {"kind": "affinity", "weights": {"view": 1, "buy": 4, "dislike": -2}},
            },
            segments={
                "active": {"when": {"signal": "views", "at_least": 2}},
                "lapsed": {"when": {"not_done": "buy", "within": "30d"}},
            },
            placements={
                "home": {
                    "slots": 2,
                    "rewards": ["click"],
                    "caps": [{"max": 3, "within": "1d"}, {"max": 9, "within": "7d", "per": "tag"}],
                }
            },
            experiments={"holdout": {"share": 0.5, "serve": "uniform"}},
        ),
        [content(f"c{i}", tags=["red" if i % 2 else "blue"], priority=i) for i in range(6)],
    )


def fresh_shard() -> Shard:
    """The shard of the golden snapshot, holding nothing yet."""
    return shard(golden_plan(), number=0, shards=1)


def history() -> list[Arrived]:
    """Events in order, their ids and times fixed."""
    made: list[Arrived] = []

    def say(kind: str, profile_id: str, after_ms: int, **fields: Any) -> None:
        at = T0 + after_ms
        make = request if kind == "decision_requested" else arrived
        kinds = () if kind == "decision_requested" else (kind,)
        made.append(
            make(
                *kinds,
                event_id=f"golden-{len(made)}",
                profile_id=profile_id,
                at=at,
                partition=len(made) % 2,
                **fields,
            )
        )

    for n, who in enumerate(PROFILES):
        start = n * HOUR
        say("consent_changed", who, start, consent={"ads": True, "mail": False})
        say("profile_updated", who, start, attributes={"plan": "free", "age": 40, "vip": True})
        say("view", who, start + MINUTE, content_id="c1")
        say("view", who, start + 2 * MINUTE, content_id="c2")
        say("buy", who, start + 3 * MINUTE, content_id="c1", value=12.5)
        say("feedback", who, start + 4 * MINUTE, feedback="hide", content_id="c3", tag="green")
        say("feedback", who, start + 4 * MINUTE, feedback="dislike", content_id="c4")
        say("decision_requested", who, start + 5 * MINUTE)
    say("consent_changed", "u2", 4 * HOUR, consent={"ads": False})
    return made


def golden_shard() -> Shard:
    """The shard after its history: two decisions shown and clicked, one consent withdrawn."""
    held = fresh_shard()
    for event in history():
        out = held.process(shard_batch([event], partitions=2))
        for made in out.decisions:
            record, at = made.record, event.occurred_ms
            seen = [
                arrived(
                    "impression",
                    event_id=f"{event.event_id}-shown",
                    profile_id=event.profile_id,
                    decision_id=record["decision_id"],
                    at=at + 1_000,
                ),
                arrived(
                    "click",
                    event_id=f"{event.event_id}-click",
                    profile_id=event.profile_id,
                    content_id=record["items"][0]["content_id"],
                    at=at + 2_000,
                ),
            ]
            held.process(shard_batch(seen, partitions=2))
    return held


def meaning(held: Shard) -> Any:
    """What a shard's state means, as plain JSON."""
    profiles: dict[str, Any] = {}
    for profile_id in PROFILES:
        found = held.look(profile_id)
        assert found is not None
        fields = {name: getattr(found, name) for name in found.__struct_fields__}
        profiles[profile_id] = msgspec.to_builtins(fields)
    state = {"watermark_ms": held.watermark_ms, "next_due_ms": held.next_due_ms}
    return orjson.loads(
        orjson.dumps(
            msgspec.to_builtins({**state, "profiles": profiles}),
            option=orjson.OPT_NON_STR_KEYS,
        )
    )


def write() -> None:
    """Write the files of the current version."""
    GOLDEN.mkdir(exist_ok=True)
    snapshot = golden_shard().snapshot()
    (GOLDEN / f"shard-v{VERSION}.bin").write_bytes(snapshot)
    held = fresh_shard()
    held.restore(snapshot)
    text = orjson.dumps(meaning(held), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)
    (GOLDEN / f"shard-v{VERSION}.json").write_bytes(text + b"\n")


if __name__ == "__main__":
    write()
