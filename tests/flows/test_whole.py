"""Every section of a policy at once, through the whole flow: each does its part, and repeatably.

Two hundred people visit a shop for twelve days: half of them come daily and buy, the others come
less and less. Some use two devices, some ask for erasure, one browser asks not to be profiled.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, Final

import lz4.block
import msgspec
import orjson
import pytest

from flows.load import load_plan
from flows.replay import FILES, replay
from operators.arrival import group_by_shard
from operators.decode import Decoder
from operators.pseudonyms import UNSHARED
from operators.shard import Shard
from schemas.audiences import AudienceReport, ThresholdChange
from schemas.decisions import Decision, SegmentChange
from schemas.identity import Suggestion
from schemas.prediction_reports import PredictionReport
from schemas.receipts import Receipt
from schemas.time import DAY, HOUR, MINUTE, rfc3339
from tests.operators.builders import T0, decide, raw_batch, shard_batch

DATA: Final = Path(__file__).parent / "data" / "whole"
DAYS: Final = 12
PEOPLE: Final = 200
CANARY: Final = "unspeakable"
CONTRACT: Final[dict[str, Any]] = {
    "decisions": Decision,
    "segment-changes": SegmentChange,
    "predictions": PredictionReport,
    "audiences": AudienceReport,
    "thresholds": ThresholdChange,
    "suggestions": Suggestion,
    "erasures": Receipt,
}


def events() -> list[dict[str, Any]]:
    """The log, in order of time."""
    chance = Random(7)
    made: list[tuple[int, dict[str, Any]]] = []

    def say(at: int, user: str, kind: str, **fields: Any) -> None:
        made.append((at, {"user_id": user, "type": kind, **fields}))

    for n in range(PEOPLE):
        user, loyal = f"u{n:03d}", n % 2 == 0
        say(
            T0 + n,
            user,
            "profile_updated",
            attributes={
                "plan": "pro" if loyal else "free",
                "name": f"Anna Example {n // 2 if n < 20 else n}",
                "email": f"anna{n // 2 if n < 20 else n}@example.org",
                "diagnosis": CANARY,
            },
            source="crm",
        )
        for day in range(DAYS):
            if not loyal and chance.random() > 0.9 / (1 + day):
                continue
            at = T0 + day * DAY + 8 * HOUR + chance.randrange(8 * HOUR)
            context = {"device": "phone", "location": CANARY, "gpc": n == 4}
            for step in range(4 if loyal else 1):
                say(
                    at + step * MINUTE,
                    user,
                    "view",
                    content_id=f"c{1 + (n + step) % 4}",
                    properties={"term": "shoes", "symptom": CANARY},
                    context=context,
                )
            say(at + 5 * MINUTE, user, "decision_requested", placement="home", context=context)
            if chance.random() < (0.7 if loyal else 0.1):
                say(at + 6 * MINUTE, user, "click", content_id=f"c{1 + n % 4}")
            if loyal and chance.random() < 0.4:
                say(at + 7 * MINUTE, user, "buy", content_id="c1", value=chance.randrange(5, 90))
    say(T0 + 2 * DAY, "u001", "view", content_id="c2")
    made.append(
        (T0 + 2 * DAY + 1, {"user_id": "u001", "anonymous_id": "tv", "type": "identity_linked"})
    )
    say(T0 + 11 * DAY, "u003", "erasure_requested")
    made.sort(key=lambda one: one[0])
    return [
        {"event_id": f"e{i}", "occurred_at": rfc3339(at), "received_at": rfc3339(at), **event}
        for i, (at, event) in enumerate(made)
    ]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "events.jsonl"
    path.write_bytes(b"".join(orjson.dumps(event) + b"\n" for event in events()))
    return path


@pytest.fixture(scope="module")
def done(log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    replay(load_plan(DATA / "policy.yaml", DATA / "catalogue.yaml"), [log], out, shards=4)
    return out


def lines(out: Path, stream: str) -> Iterator[dict[str, Any]]:
    for line in (out / f"{stream}.jsonl").read_bytes().splitlines():
        yield orjson.loads(line)


@pytest.mark.parametrize("stream", CONTRACT)
def test_every_stream_has_something_to_say_and_keeps_its_contract(done: Path, stream: str) -> None:
    found = list(lines(done, stream))
    assert found
    for line in found:
        CONTRACT[stream].model_validate(line)


def test_replayed_it_is_the_same_byte_for_byte(log: Path, done: Path, tmp_path: Path) -> None:
    replay(load_plan(DATA / "policy.yaml", DATA / "catalogue.yaml"), [log], tmp_path, shards=4)
    for file in FILES.values():
        assert (tmp_path / file).read_bytes() == (done / file).read_bytes(), file


def test_churn_is_foreseen_and_decides_who_is_at_risk(done: Path) -> None:
    churn = [r for r in lines(done, "predictions") if r["prediction"] == "churn"]
    assert churn[-1]["roc_auc"] > 0.6
    entered = [
        c
        for c in lines(done, "segment-changes")
        if c["segment"] == "at_risk" and c["direction"] == "entered"
    ]
    unfaithful = [int(c["profile_id"][1:]) % 2 for c in entered if c["profile_id"] != "tv"]
    assert sum(unfaithful) > len(unfaithful) / 2
    assert all("churn" in c["rule"] for c in entered)


def test_the_audiences_found_are_the_two_that_there_are(done: Path) -> None:
    newest = list(lines(done, "audiences"))[-1]
    assert len(newest["audiences"]) == 2
    views = sorted(audience["centre"]["views"] for audience in newest["audiences"])
    assert views[0] < 5 < views[1]


def test_a_threshold_moves_within_its_bounds_and_says_why(done: Path) -> None:
    moved = list(lines(done, "thresholds"))
    assert all(10 <= change["threshold_to"] <= 40 for change in moved)
    assert all(change["because"]["examples"] > 0 for change in moved)
    assert moved[0]["threshold_from"] == 26


def test_a_visit_has_an_intent_and_it_is_in_the_decision(done: Path) -> None:
    intents = {decision["intent"] for decision in lines(done, "decisions")}
    assert {"browsing", "comparing"} <= intents


def test_a_browser_that_asks_not_to_be_profiled_gets_everybodys_pick(done: Path) -> None:
    asked = [d for d in lines(done, "decisions") if d["profile_id"] == "u004"]
    assert {d["fallback"] for d in asked} == {"consent_refused"}
    assert all(d["segments"] == [] and d["intent"] is None for d in asked)


def test_probable_duplicates_are_told_and_never_merged(done: Path) -> None:
    pairs = {(s["profile_a"], s["profile_b"]) for s in lines(done, "suggestions")}
    assert ("u000", "u001") in pairs
    assert {d["profile_id"] for d in lines(done, "decisions")} >= {"u000", "u002"}


def test_nothing_sensitive_is_in_any_record(done: Path) -> None:
    for file in FILES.values():
        text = (done / file).read_bytes()
        assert CANARY.encode() not in text
        assert b"health" not in text


def test_nothing_sensitive_is_in_the_state() -> None:
    plan = load_plan(DATA / "policy.yaml", DATA / "catalogue.yaml")
    policy = plan.policy
    reader = Decoder(policy.time, policy.sensitive, plan.placement_names)
    held = Shard(0, 1, decide(plan))
    for event in events():
        decoded = reader.decode(raw_batch([event], received_ms=None))
        for batch in group_by_shard(decoded.arrived, shards=1).values():
            held.process(shard_batch(batch, watermarks=decoded.watermarks))
    state = msgspec.msgpack.decode(lz4.block.decompress(UNSHARED.open(held.snapshot()[10:])))
    text = repr(state).encode()
    assert b"anna0@example.org" in text, "the search finds what is held"
    assert CANARY.encode() not in text
    assert b"health" not in text
