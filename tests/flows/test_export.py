"""Is what happened live read back from its log: the same decisions asked for, the same refusals?"""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path

import orjson
import pytest

from flows.load import load_plan
from flows.replay import Replayed, replay
from schemas.dead_letter_file import DeadLetterLine
from tests.flows.books import raw_records
from tests.flows.lived import Lived


@pytest.fixture(scope="module")
def exported(lived: Lived, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    log = tmp_path_factory.mktemp("export") / "deep" / "events.jsonl.gz"
    done = lived.flow.call("export", "--out", str(log))
    assert (done.returncode, done.stderr) == (0, "")
    return log, done.stdout


@pytest.fixture(scope="module")
def again(
    lived: Lived, exported: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Replayed, Path]:
    out = tmp_path_factory.mktemp("replayed")
    plan = load_plan(lived.flow.policy, lived.flow.catalogue)
    shards = int(lived.flow.env()["NEXTBEST_SHARDS"])
    return replay(plan, [exported[0]], out, shards=shards), out


def test_every_record_of_the_topic_is_a_line_of_the_log(
    lived: Lived, exported: tuple[Path, str]
) -> None:
    log, said = exported
    assert f"{lived.sent:,} records written" in said
    assert len(gzip.decompress(log.read_bytes()).splitlines()) == lived.sent


def test_a_replay_of_the_log_makes_the_live_decisions(
    lived: Lived, again: tuple[Replayed, Path]
) -> None:
    replayed, out = again
    assert replayed.tally.accounting.missing == 0
    made = [orjson.loads(line) for line in (out / "decisions.jsonl").read_bytes().splitlines()]

    def asked(decisions: list[dict[str, object]]) -> Counter[tuple[object, ...]]:
        return Counter((d["decision_id"], d["profile_id"], d["decided_at"]) for d in decisions)

    assert asked(made) == asked(lived.books.decisions)
    assert replayed.tally.accounting.late == len(lived.books.late)


def test_a_replay_of_the_log_refuses_what_was_refused_live(
    lived: Lived, again: tuple[Replayed, Path]
) -> None:
    found = []
    for line in (again[1] / "dead-letters.jsonl").read_bytes().splitlines():
        letter = DeadLetterLine.model_validate_json(line).letter()
        found.append((letter.value, letter.stage, letter.code, letter.message))
    live = []
    for record in lived.books.dead:
        headers = dict(record.headers)
        why = ("__errors.stage", "__errors.code", "__dlq.errors.message")
        live.append((record.value, *(headers[name].decode() for name in why)))
    assert Counter(found) == Counter(live)


def test_an_export_repeated_is_the_same_file(
    lived: Lived, exported: tuple[Path, str], tmp_path: Path
) -> None:
    log = tmp_path / "events.jsonl.gz"
    assert lived.flow.call("export", "--out", str(log)).returncode == 0
    assert log.read_bytes() == exported[0].read_bytes()


def test_a_range_of_append_times_is_the_part_of_the_log_between_them(
    lived: Lived, exported: tuple[Path, str], tmp_path: Path
) -> None:
    every = [
        line
        for line in gzip.decompress(exported[0].read_bytes()).splitlines()
        if line.startswith(b"{ ")
    ]
    clocks = [orjson.loads(line)["received_at"] for line in every]
    assert clocks == sorted(clocks)
    start, end = clocks[len(clocks) // 4], clocks[len(clocks) * 3 // 4]
    assert start < end
    log = tmp_path / "part.jsonl"
    done = lived.flow.call("export", "--out", str(log), "--from", start, "--to", end)
    assert done.returncode == 0, done.stderr
    part = [line for line in log.read_bytes().splitlines() if line.startswith(b"{ ")]
    assert part == [line for line, at in zip(every, clocks, strict=True) if start <= at < end]


def test_another_topic_can_be_exported(lived: Lived, tmp_path: Path) -> None:
    log = tmp_path / "decisions.jsonl"
    topic = lived.flow.topic("decisions")
    assert lived.flow.call("export", "--out", str(log), "--topic", topic).returncode == 0
    assert len(log.read_bytes().splitlines()) == len(raw_records(lived.flow, "decisions"))


def test_a_topic_that_does_not_exist_is_named(lived: Lived, tmp_path: Path) -> None:
    done = lived.flow.call("export", "--out", str(tmp_path / "log"), "--topic", "no-such-topic")
    assert done.returncode == 3
    assert "no topic no-such-topic" in done.stderr
    assert "Traceback" not in done.stderr
