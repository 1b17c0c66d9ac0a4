"""What do all benchmarks run on? One realistic policy, a catalogue, and a log of visits.

The log is fixed by its arguments. It can hold impressions and clicks although nothing was decided
yet, because a decision's id is a hash of what causes it: with one slot, an outcome that names the
decision needs to name no content. So the flow's own loop (decide, show, learn) is exercised by a
plain file, the same for every run. Rewards do not depend on what was shown: this log measures
cost and says nothing of how well is decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import orjson

from flows.load import plan_of
from flows.personalize import DEFAULT_SHARDS
from operators.decide import Decide
from operators.decode import Decoder
from operators.ids import decision_id, shard_of
from operators.parameters import Parameters
from operators.plan import Plan
from operators.shard import Shard
from schemas.catalogue import Content
from schemas.policy import Policy
from schemas.records import RawBatch, RawRecord
from schemas.time import rfc3339

T0: Final = 1_767_225_600_000
"""2026-01-01T00:00:00Z."""
PLACEMENT: Final = "home"
SHARDS: Final = DEFAULT_SHARDS

POLICY: Final[dict[str, Any]] = {
    "name": "benchmark",
    # Long, so that a batch may be taken apart by type of event without anything being late.
    "time": {"allowed_lateness": "15m", "dedupe_for": "15m"},
    "signals": {
        "views_7d": {"kind": "count", "events": "view", "within": "7d"},
        "spent_30d": {"kind": "sum", "events": "purchase", "within": "30d"},
        "categories_1d": {
            "kind": "distinct",
            "events": "view",
            "of": "content.attributes.category",
            "within": "1d",
        },
        "last_purchase": {"kind": "last", "events": "purchase"},
        "taste": {"kind": "affinity", "weights": {"view": 1, "click": 2}, "of": "content.tags"},
    },
    "segments": {
        "fan": {"when": {"signal": "taste", "key": "t1", "at_least": 3}},
        "browsing": {"when": {"signal": "views_7d", "at_least": 5}},
        "buyer": {"when": {"done": "purchase", "within": "30d"}},
        "away": {"when": {"not_done": "view", "within": "1h"}},
    },
    "rewards": {
        "click": {"events": "click", "value": 1, "within": "30m"},
        "purchase": {"events": "purchase", "value": 10, "within": "2h"},
    },
    "placements": {
        PLACEMENT: {
            "slots": 1,
            "rewards": ["click", "purchase"],
            "features": {"context": ["device", "local_hour"]},
        }
    },
}
"""Five signals, four segments, two reward kinds, one slot; the defaults everywhere else."""


class Sent(NamedTuple):
    """One event of the log: whose it is, what it is, when, and its bytes."""

    profile_id: str
    type: str
    at_ms: int
    value: bytes


def plan(contents: int) -> Plan:
    """The policy over a catalogue of that many contents: two tags and three attributes each."""
    return plan_of(
        Policy.model_validate(POLICY),
        [
            Content(
                content_id=f"c{i:04d}",
                type="product",
                tags=(f"t{i % 10}", f"u{i % 7}"),
                attributes={"category": f"k{i % 5}", "brand": f"b{i % 23}", "price": 1.0 + i},
            )
            for i in range(contents)
        ],
    )


def visits(
    number: int,
    *,
    profiles: int,
    contents: int,
    start_ms: int = T0,
    step_ms: int = 2_000,
    bought: float = 0.02,
    seed: int = 1,
) -> list[Sent]:
    """A log of visits in order of event time, about 3.1 events each.

    A visit is a view, a request for a decision and its impression; one in ten ends in a click, a
    share of `bought` in a purchase. A visit begins every `step_ms` and lasts 12 seconds. With 6,000
    profiles and the defaults each comes back every three hours or so, and three in four have a
    decision waiting for its outcome.
    """
    rng = np.random.default_rng(seed)
    who = rng.integers(profiles, size=number).tolist()
    what = rng.integers(contents, size=number).tolist()
    luck = rng.random((number, 2)).tolist()
    log: list[Sent] = []
    for n in range(number):
        at, user = start_ms + n * step_ms, f"user-{who[n]:07d}"
        trigger = f"r{seed}-{n}"
        decision = decision_id(
            shard=shard_of(user, shards=SHARDS),
            profile_id=user,
            trigger_id=trigger,
            placement=PLACEMENT,
        )
        context = {"device": ("phone", "desktop")[n % 2], "local_hour": n // 2_000 % 24}
        content = f"c{what[n]:04d}"
        steps: list[tuple[int, str, str, dict[str, Any]]] = [
            (0, "view", "v", {"content_id": content, "context": context}),
            (1_000, "decision_requested", "r", {"placement": PLACEMENT, "context": context}),
            (2_000, "impression", "i", {"decision_id": decision}),
        ]
        if luck[n][0] < 0.1:
            steps.append((6_000, "click", "c", {"decision_id": decision}))
        if luck[n][1] < bought:
            steps.append((12_000, "purchase", "p", {"decision_id": decision, "value": 19.5}))
        for later, kind, letter, fields in steps:
            event = {
                "event_id": f"{letter}{seed}-{n}",
                "user_id": user,
                "type": kind,
                "occurred_at": rfc3339(at + later),
                **fields,
            }
            log.append(Sent(user, kind, at + later, orjson.dumps(event)))
    log.sort(key=lambda sent: sent.at_ms)
    return log


def decisions_in(log: Sequence[Sent]) -> int:
    """How many decisions the log asks for."""
    return sum(sent.type == "decision_requested" for sent in log)


def batches(log: Sequence[Sent], *, size: int = 1_000, offset: int = 0) -> list[RawBatch]:
    """The log as a source of one partition hands it out."""
    records = [
        RawRecord(offset + i, sent.at_ms, sent.profile_id.encode(), sent.value)
        for i, sent in enumerate(log)
    ]
    return [
        RawBatch("events", 0, 1, records[at : at + size]) for at in range(0, len(records), size)
    ]


def decoder_of(plan: Plan) -> Decoder:
    """A decoder as the flow makes it."""
    return Decoder(plan.policy.time, plan.policy.sensitive, plan.placement_names)


@dataclass(frozen=True)
class Machines:
    """What decides in one process: DECIDE and all of its shards."""

    decide: Decide
    shards: list[Shard]


def machines(plan: Plan, parameters: Parameters) -> Machines:
    """Empty shards that score with `parameters`."""
    decide = Decide(plan, parameters, adopt=lambda _decision_id: None)
    return Machines(decide, [Shard(number, SHARDS, decide) for number in range(SHARDS)])
