"""Replay: the same log gives the same bytes, and what a log gives can be checked by eye."""

from __future__ import annotations

import base64
import gzip
from collections import Counter
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

import flows.replay
from flows.errors import ConnectorError
from flows.load import load_plan
from flows.replay import Replayed, replay
from schemas.dead_letter_file import DeadLetterLine
from schemas.decisions import Decision, Late, Outcome, SegmentChange
from tests.flows.bad_input import bad_records
from tests.flows.traffic import sent_event
from tests.operators.builders import T0

DATA = Path(__file__).parent / "data"
HAND, LIVE = DATA / "hand", DATA / "live"
EVENTS = 400

ALWAYS: Final = {
    "decisions.jsonl",
    "segment-changes.jsonl",
    "outcomes.jsonl",
    "late.jsonl",
    "dead-letters.jsonl",
    "erasures.jsonl",
    "monitoring.jsonl",
}
"""Written whatever the policy asks for."""


def replayed(logs: list[Path], out: Path, *, data: Path = LIVE) -> Replayed:
    plan = load_plan(data / "policy.yaml", data / "catalogue.yaml")
    return replay(plan, logs, out)


def lines(out: Path, name: str) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in (out / f"{name}.jsonl").read_bytes().splitlines()]


def log_lines(events: int = EVENTS) -> list[bytes]:
    """A busy shop: half a second of event time per event; now and then one is late or repeated."""
    sent = []
    for n in range(events):
        at = T0 + n * 500
        sent.append(sent_event(n, at_ms=at - 60_000 if n % 97 == 96 else at))
        if n % 50 == 49:
            sent.append(sent[-1])
    return [orjson.dumps(event) for event in sent]


def with_garbage(good: list[bytes]) -> tuple[list[bytes], list[tuple[bytes, str]]]:
    """The log with one line of each kind of bad input in the middle, and what must become of it."""
    # A line break would make two lines of one record.
    bad = [(b.value, b.code) for b in bad_records(T0 + EVENTS * 250) if b"\n" not in b.value]
    half = len(good) // 2
    return [*good[:half], *(value for value, _ in bad), *good[half:]], bad


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "events.jsonl"
    path.write_bytes(b"\n".join(with_garbage(log_lines())[0]) + b"\n")
    return path


@pytest.fixture(scope="module")
def done(log: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Replayed, Path]:
    out = tmp_path_factory.mktemp("out")
    return replayed([log], out), out


# --- the log that is decided by hand --------------------------------------------------------------

# What ann, bob and cat do is in data/hand/events.jsonl; read it beside this table.
BY_HAND = {
    # trigger: who sees what, and why not the rest
    "e02": ("ann", {"hat", "coat"}, None, {"out_of_stock": 1, "not_in_audience": 1}),
    # bob's page offers two contents, one of which nobody knows
    "e03": ("bob", {"coat"}, None, {"unknown_content": 1}),
    # ann has hidden winter (coat, scarf) and has seen the hat: nothing is left
    "e07": (
        "ann",
        {"voucher"},
        "no_eligible_candidate",
        {"out_of_stock": 1, "hidden": 2, "capped": 1},
    ),
    # bob is no regular (scarf), and has seen the coat
    "e14": ("bob", {"hat"}, None, {"out_of_stock": 1, "not_in_audience": 1, "capped": 1}),
    # ann likes winter again and is a regular: the scarf, which she has not seen
    "e16": ("ann", {"scarf"}, None, {"out_of_stock": 1, "capped": 2}),
}


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> tuple[Replayed, Path]:
    out = tmp_path_factory.mktemp("hand")
    return replayed([HAND / "events.jsonl"], out, data=HAND), out


def test_a_log_of_twenty_events_gives_the_decisions_one_would_make_by_hand(
    by_hand: tuple[Replayed, Path],
) -> None:
    made = {
        decision["trigger"]["event_id"]: (
            decision["profile_id"],
            {item["content_id"] for item in decision["items"]},
            decision["fallback"],
            decision["rejections"],
        )
        for decision in lines(by_hand[1], "decisions")
    }
    assert made == BY_HAND


def test_what_is_greedy_before_anything_was_learned_is_certain(
    by_hand: tuple[Replayed, Path],
) -> None:
    items = {d["trigger"]["event_id"]: d for d in lines(by_hand[1], "decisions")}
    # No parameters were ever published: what is greedy then takes the order of the fallback.
    assert [item["propensity"] for item in items["e02"]["items"]] == [1.0, 1.0]
    assert items["e02"]["model_version"] == "prior"
    assert [item["propensity"] for item in items["e16"]["items"]] == [1.0]
    assert (items["e07"]["learnable"], items["e07"]["level"]) == (False, 0)


def test_ann_becomes_a_regular_and_ceases_to_be_one_by_time_alone(
    by_hand: tuple[Replayed, Path],
) -> None:
    changes = [
        (c["profile_id"], c["segment"], c["direction"], c["changed_at"], c["cause"])
        for c in lines(by_hand[1], "segment-changes")
    ]
    assert changes == [
        ("ann", "regular", "entered", "2026-03-02T10:05:00.000Z", "e06"),
        # An hour after the first of her three views, long before anything else happens.
        ("ann", "regular", "left", "2026-03-02T11:00:00.000Z", "timer"),
    ]
    assert {d["trigger"]["event_id"]: d["segments"] for d in lines(by_hand[1], "decisions")} == {
        "e02": [],
        "e03": [],
        "e07": ["regular"],
        "e14": [],
        "e16": ["regular"],
    }


def test_the_click_is_booked_where_it_belongs_and_an_erased_profile_has_no_books(
    by_hand: tuple[Replayed, Path],
) -> None:
    trigger = {d["decision_id"]: d["trigger"]["event_id"] for d in lines(by_hand[1], "decisions")}
    booked = {
        trigger[o["decision_id"]]: {i["content_id"]: i["rewards"] for i in o["items"]}
        for o in lines(by_hand[1], "outcomes")
    }
    assert booked == {
        "e02": {"hat": {"click": 1.0}, "coat": {}},
        "e07": {"voucher": {}},
        "e16": {"scarf": {}},
    }


def test_the_twenty_events_are_accounted_for_by_hand(by_hand: tuple[Replayed, Path]) -> None:
    done, out = by_hand
    accounting = done.tally.accounting
    assert accounting.read == 20
    assert (accounting.used, accounting.suppressed) == (15, 0)
    assert (accounting.duplicates, accounting.late, accounting.dead_letters) == (1, 1, 3)
    assert accounting.missing == 0
    assert [record["event_id"] for record in lines(out, "late")] == ["e10"]
    assert [(d["offset"], d["code"]) for d in lines(out, "dead-letters")] == [
        (9, "not_json"),
        (11, "unknown_placement"),
        (17, "in_the_future"),
    ]


# --- a longer log ---------------------------------------------------------------------------------


def test_a_replay_replayed_gives_the_same_bytes(
    log: Path, done: tuple[Replayed, Path], tmp_path: Path
) -> None:
    replayed([log], tmp_path)
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {path.name for path in done[1].iterdir()}
    assert written >= ALWAYS
    for name in written:
        assert (tmp_path / name).read_bytes() == (done[1] / name).read_bytes(), name
    for name in ALWAYS - {"erasures.jsonl", "monitoring.jsonl"}:
        assert (tmp_path / name).stat().st_size > 0, name


def test_the_outputs_keep_the_contract(done: tuple[Replayed, Path]) -> None:
    for name, model in (
        ("decisions", Decision),
        ("segment-changes", SegmentChange),
        ("outcomes", Outcome),
        ("late", Late),
        ("dead-letters", DeadLetterLine),
    ):
        found = lines(done[1], name)
        assert found
        for line in found:
            model.model_validate(line)


def test_every_event_is_in_the_accounts_once_garbage_included(done: tuple[Replayed, Path]) -> None:
    good = log_lines()
    every, bad = with_garbage(good)
    accounting = done[0].tally.accounting
    assert accounting.missing == 0
    assert accounting.read == len(every)
    assert accounting.dead_letters == len(bad)
    assert accounting.duplicates == EVENTS // 50
    assert accounting.late == len(lines(done[1], "late")) > 0
    requests = {
        event["event_id"]
        for event in map(orjson.loads, good)
        if event["type"] == "decision_requested"
    }
    late = {record["event_id"] for record in lines(done[1], "late")}
    decided = [d["trigger"]["event_id"] for d in lines(done[1], "decisions")]
    assert Counter(decided) == Counter(requests - late)


def test_each_kind_of_garbage_is_one_dead_letter_with_the_original_bytes(
    done: tuple[Replayed, Path],
) -> None:
    _, bad = with_garbage([])
    letters = [
        (base64.b64decode(letter["value_base64"]), letter["code"])
        for letter in lines(done[1], "dead-letters")
    ]
    assert letters == bad


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_the_batch_size_changes_nothing_that_is_not_learned(
    log: Path,
    done: tuple[Replayed, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
) -> None:
    monkeypatch.setattr(flows.replay, "BATCH", size)
    other = replayed([log], tmp_path)
    assert other.tally.accounting == done[0].tally.accounting

    def by_id(out: Path, name: str) -> dict[str, dict[str, Any]]:
        return {line["change_id"]: line for line in lines(out, name)}

    assert by_id(tmp_path, "segment-changes") == by_id(done[1], "segment-changes")

    def circumstances(out: Path) -> dict[str, tuple[Any, ...]]:
        return {
            d["decision_id"]: (d["decided_at"], d["segments"], d["candidates"], d["rejections"])
            for d in lines(out, "decisions")
        }

    assert circumstances(tmp_path) == circumstances(done[1])
    assert {line["event_id"] for line in lines(tmp_path, "late")} == {
        line["event_id"] for line in lines(done[1], "late")
    }


def test_smaller_batches_learn_sooner(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flows.replay, "BATCH", 20)
    done = replayed([log], tmp_path)
    versions = [decision["model_version"] for decision in lines(tmp_path, "decisions")]
    assert len(set(versions)) > 10
    assert done.examples > EVENTS / 2


def test_a_packed_log_and_a_log_in_two_files_give_the_same_decisions(
    log: Path, done: tuple[Replayed, Path], tmp_path: Path
) -> None:
    every = log.read_bytes().splitlines(keepends=True)
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl.gz"
    first.write_bytes(b"".join(every[:150]))
    second.write_bytes(gzip.compress(b"".join(every[150:])))
    split = replayed([first, second], tmp_path / "out")
    assert split.tally.accounting == done[0].tally.accounting
    for name in ("decisions.jsonl", "segment-changes.jsonl", "outcomes.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (done[1] / name).read_bytes()


def test_logs_are_read_in_the_order_given_and_never_sorted(log: Path, tmp_path: Path) -> None:
    every = log.read_bytes().splitlines(keepends=True)
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    first.write_bytes(b"".join(every[:100]))
    second.write_bytes(b"".join(every[-100:]))
    forwards = replayed([first, second], tmp_path / "forwards").tally.accounting
    backwards = replayed([second, first], tmp_path / "backwards").tally.accounting
    assert forwards.read == backwards.read == 200
    assert backwards.late >= 95 > forwards.late


@pytest.mark.parametrize("cut", [False, True], ids=["missing", "cut off"])
def test_a_log_that_cannot_be_read_ends_the_replay_with_its_name(
    log: Path, tmp_path: Path, cut: bool
) -> None:
    path = tmp_path / "more.jsonl.gz"
    if cut:
        path.write_bytes(gzip.compress(log.read_bytes()[:200_000])[:-30])
    with pytest.raises(ConnectorError, match=r"more\.jsonl\.gz cannot be read"):
        replayed([log, path], tmp_path / "out")


def test_an_empty_log_gives_empty_outputs(tmp_path: Path) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_bytes(b"")
    done = replayed([path], tmp_path / "out")
    assert done.tally.accounting.read == 0
    assert {name: (tmp_path / "out" / name).read_bytes() for name in ALWAYS} == (
        dict.fromkeys(ALWAYS, b"")
    )
