"""Does `nextbest lift` read logs as they are written, say what they show, and refuse garbage?"""

from __future__ import annotations

import gzip
import json
import random
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final

import click
import pytest
from click.testing import CliRunner, Result

from flows.cli import _Commands
from flows.files import log_line
from flows.lift_cli import lift
from flows.load import load_plan
from flows.replay import replay
from schemas.records import RawRecord
from schemas.time import DAY, HOUR, MINUTE, rfc3339
from tests.operators.builders import T0

NASTY: Final = "<script>alert('$x$')</script>"
POLICY: Final = """
name: shop
rewards:
  click: {events: click, value: 1, within: 1h}
  purchase: {events: purchase, value: 20, within: 1h}
placements:
  home: {rewards: [click, purchase]}
experiments:
  holdout: {share: 0.2}
  tests:
    ranking:
      variants: {plain: {}, bold: {}}
      metrics: [conversion, order_value.purchase, retention]
      guardrails: [satisfaction, session_time]
"""


@click.group(cls=_Commands)
def main() -> None:
    """The program, with this command."""


main.add_command(lift)


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["lift", *map(str, arguments)], env={"COLUMNS": "160"})


def _decision(person: str, at: int, **more: Any) -> dict[str, Any]:
    return {
        "decision_id": f"001-{person}-{at}",
        "profile_id": person,
        "placement": "home",
        "decided_at": rfc3339(at),
        "expires_at": rfc3339(at + HOUR),
        "trigger": {"event_id": "e", "type": "view"},
        "items": [{"content_id": "c", "rank": 1, "propensity": 1.0, "reasons": []}],
        "experiment": None,
        **more,
    }


def _outcome(person: str, at: int, rewards: dict[str, float]) -> dict[str, Any]:
    return {
        "decision_id": f"001-{person}-{at}",
        "profile_id": person,
        "placement": "home",
        "decided_at": rfc3339(at),
        "closed_at": rfc3339(at + 2 * HOUR),
        "items": [{"content_id": "c", "rank": 1, "shown": True, "rewards": rewards}],
    }


def _event(person: str, at: int, kind: str = "view", **more: Any) -> dict[str, Any]:
    named = {"event_id": f"{person}-{at}-{kind}", "type": kind, "user_id": person}
    return {**named, "occurred_at": rfc3339(at), **more}


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


class Logs:
    """Logs of a shop in which `bold` sells more, and the holdout least."""

    def __init__(self, folder: Path, *, bold: str = "bold", people: int = 4_000) -> None:
        chance = random.Random(5)
        made: list[dict[str, Any]] = []
        booked: list[dict[str, Any]] = []
        done: list[dict[str, Any]] = []
        for n in range(people):
            person, at = f"u{n}", T0 + n * 3 * MINUTE
            held = chance.random() < 0.2
            variant = chance.choice(["plain", bold])
            exposure = {"test": "ranking", "layer": "main", "variant": variant, "share": 0.5}
            made.append(
                _decision(
                    person,
                    at,
                    experiment={"id": "holdout", "variant": "holdout" if held else "personalised"},
                    exposures=[] if held else [exposure],
                )
            )
            rate = 0.05 if held else 0.3 if variant == bold else 0.15
            bought = chance.random() < rate
            booked.append(_outcome(person, at, {"purchase": 20.0} if bought else {}))
            done += [_event(person, at), _event(person, at + 5 * MINUTE)]
            if chance.random() < 0.2:
                kind = chance.choice(["like", "hide"])
                done.append(_event(person, at + 1, "feedback", feedback=kind, content_id="c"))
            if chance.random() < 0.3:
                done.append(_event(person, at + 2 * DAY))
        last = T0 + people * 3 * MINUTE + 9 * DAY
        made.append(_decision("last", last))
        booked.append(_outcome("last", last, {}))
        self.decisions = folder / "decisions.jsonl"
        self.outcomes = folder / "outcomes.jsonl.gz"
        self.events = folder / "events.jsonl"
        self.policy = folder / "policy.yaml"
        self.decisions.write_bytes(_lines(made))
        self.outcomes.write_bytes(gzip.compress(_lines(booked)))
        self.events.write_bytes(_lines(done))
        self.policy.write_text(POLICY)

    @property
    def needed(self) -> tuple[object, ...]:
        return "--decisions", self.decisions, "--outcomes", self.outcomes

    @property
    def all(self) -> tuple[object, ...]:
        return *self.needed, "--events", self.events, "--policy", self.policy


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Logs:
    return Logs(tmp_path_factory.mktemp("logs"))


def _json(*arguments: object) -> dict[str, Any]:
    done = _run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _verdicts(test: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {
        metric["metric"]: {v["variant"]: v["verdict"] for v in metric["variants"]}
        for metric in test["metrics"]
    }


def test_with_a_policy_its_tests_metrics_and_guardrails_are_shown(logs: Logs) -> None:
    found = _json(*logs.all)
    assert [test["test"] for test in found["tests"]] == ["holdout", "ranking"]
    holdout, ranking = found["tests"]
    assert _verdicts(holdout) == {"conversion": {"holdout": None, "personalised": "better"}}
    assert _verdicts(ranking) == {
        "conversion": {"plain": None, "bold": "better"},
        "order_value.purchase": {"plain": None, "bold": "too little"},  # always 20: no spread
        "retention": {"plain": None, "bold": "open"},
        "satisfaction": {"plain": None, "bold": "no harm shown"},
        "session_time": {"plain": None, "bold": "no harm shown"},
    }
    assert [test["sample_ratio_broken"] for test in found["tests"]] == [False, False]
    assert holdout["ratio_p"] > 0.001
    values = {v["variant"]: v["value"] for m in ranking["metrics"][:1] for v in m["variants"]}
    assert values["plain"] == pytest.approx(0.15, abs=0.03)
    assert values["bold"] == pytest.approx(0.30, abs=0.03)
    session = ranking["metrics"][4]["variants"][0]["value"]
    assert session == pytest.approx(300 / 1.3, rel=0.05)  # three in ten also came for an instant


def test_the_table_says_it_to_people(logs: Logs) -> None:
    done = _run(*logs.all)
    assert done.exit_code == 0, done.output
    assert "ranking, layer main: each variant beside plain" in done.stdout
    assert "satisfaction (guardrail)" in done.stdout
    assert "shares are as declared" in done.stdout
    assert "better" in done.stdout
    assert "decisions: 4,001, outcomes: 4,001" in done.stdout


def test_without_a_policy_conversion_is_compared_with_a_control_that_is_named(logs: Logs) -> None:
    plain = _json(*logs.needed, "--test", "ranking", "--control", "plain")
    (test,) = plain["tests"]
    assert (test["control"], _verdicts(test)) == (
        "plain",
        {"conversion": {"plain": None, "bold": "better"}},
    )
    (first,) = _json(*logs.needed, "--test", "ranking")["tests"]
    assert _verdicts(first) == {"conversion": {"bold": None, "plain": "worse"}}


def test_what_needs_events_says_so(logs: Logs) -> None:
    done = _run(*logs.needed, "--metric", "retention")
    assert done.exit_code == 0
    assert "needs the events" in done.stdout


def test_what_is_read_twice_counts_once(logs: Logs) -> None:
    twice = _json(*logs.all, *logs.all[:6], "--metric", "purchase", "--metric", "satisfaction")
    once = _json(*logs.all, "--metric", "purchase", "--metric", "satisfaction")
    assert twice["tests"] == once["tests"]
    assert twice["decisions"] == 2 * once["decisions"]


def test_the_order_of_lines_does_not_matter(logs: Logs, tmp_path: Path) -> None:
    mixed = []
    for path in (logs.decisions, logs.outcomes, logs.events):
        opened = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        lines = opened.splitlines()
        random.Random(1).shuffle(lines)
        mixed.append(tmp_path / path.name.removesuffix(".gz"))
        mixed[-1].write_bytes(b"\n".join(lines))
    again = _json(
        *("--decisions", mixed[0], "--outcomes", mixed[1], "--events", mixed[2]),
        *("--policy", logs.policy),
    )
    assert again["tests"] == _json(*logs.all)["tests"]


def test_logs_as_export_writes_them_are_read(logs: Logs, tmp_path: Path) -> None:
    exported = tmp_path / "decisions.jsonl"
    records = [
        RawRecord(n, T0, b"k", value)
        for n, value in enumerate(logs.decisions.read_bytes().splitlines())
    ]
    tombstone = RawRecord(9, T0, b"k", None)
    exported.write_bytes(b"\n".join(log_line(record) for record in [*records, tombstone]))
    again = _json("--decisions", exported, "--outcomes", logs.outcomes)
    assert again["tests"] == _json(*logs.needed)["tests"]


def test_what_replay_writes_is_read_as_it_is(tmp_path: Path) -> None:
    """One variant learns what is clicked, the other goes on drawing at random."""
    policy, catalogue, log = (tmp_path / n for n in ("p.yaml", "c.jsonl", "events.jsonl"))
    policy.write_text(
        """
name: shop
rewards: {click: {events: click, value: 1, within: 30m}}
placements: {home: {rewards: [click], impressions: assumed, expires_after: 15m}}
experiments:
  holdout: {share: 0.2}
  tests:
    drawing:
      variants: {learns: {}, random: {changes: {exploration: {kind: uniform}}}}
      metrics: [conversion, click]
"""
    )
    catalogue.write_bytes(_lines([{"content_id": f"c{n}", "type": "a"} for n in (1, 2, 3)]))
    chance = random.Random(1)
    rows: list[tuple[int, dict[str, Any]]] = []
    for n in range(1_500):
        at = T0 + n * 2 * MINUTE
        rows.append((at, _event(f"u{n}", at, "decision_requested", placement="home")))
        if chance.random() < 0.4:
            rows.append((at + MINUTE, _event(f"u{n}", at + MINUTE, "click", content_id="c1")))
    last = T0 + 20 * DAY
    rows.append((last, _event("last", last, "decision_requested", placement="home")))
    log.write_bytes(_lines([row for _, row in sorted(rows, key=lambda row: row[0])]))
    replay(load_plan(policy, catalogue), [log], tmp_path / "out")
    found = _json(
        *("--decisions", tmp_path / "out/decisions.jsonl"),
        *("--outcomes", tmp_path / "out/outcomes.jsonl"),
        *("--events", log, "--policy", policy),
    )
    drawing, holdout = found["tests"]
    assert sum(holdout["exposed"].values()) == 1_501
    assert sum(drawing["exposed"].values()) == holdout["exposed"]["personalised"]
    assert (drawing["control"], drawing["layer"], drawing["shares_moved"]) == (
        "learns",
        "main",
        False,
    )
    assert drawing["ratio_p"] > 0.001
    assert _verdicts(drawing)["conversion"] == {"learns": None, "random": "worse"}


def test_shares_that_are_not_as_declared_are_shouted(logs: Logs, tmp_path: Path) -> None:
    other = tmp_path / "policy.yaml"
    other.write_text(POLICY.replace("plain: {}", "plain: {weight: 2}"))
    done = _run(*logs.all[:6], "--policy", other)
    assert done.exit_code == 0
    assert "SHARES ARE NOT AS DECLARED" in done.stdout


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not any(name.startswith("on") for name, _ in attrs)
        assert not any("http" in (value or "") for _, value in attrs)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_escapes_everything_and_is_the_same_each_time(tmp_path: Path) -> None:
    logs = Logs(tmp_path, bold=NASTY, people=1_500)
    page = tmp_path / "deep" / "lift.html"
    done = _run(*logs.needed, "--control", "plain", "--test", "ranking", "--html", page)
    assert done.exit_code == 0, done.output
    assert "page:" in done.stdout
    text = page.read_text()
    tags = _Tags()
    tags.feed(text)
    assert "script" not in tags.tags
    assert {"svg", "table"} <= tags.tags
    assert NASTY in tags.text
    assert "script>" not in text.replace("&lt;script&gt;", "").replace("&lt;/script&gt;", "")
    _run(*logs.needed, "--control", "plain", "--test", "ranking", "--html", page)
    assert page.read_text() == text


# --- garbage --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"not json", "not a JSON object in UTF-8"),
        (b"\xff\xfe", "not a JSON object in UTF-8"),
        (b"[1, 2]", "Expected `object`"),
        (b'{"decision_id": "x"}', "missing required field"),
        (b'{"nextbest_record": {}}', "missing required field"),
    ],
)
def test_a_line_that_is_no_decision_is_told_with_its_place(
    logs: Logs, tmp_path: Path, line: bytes, said: str
) -> None:
    broken = tmp_path / "decisions.jsonl"
    broken.write_bytes(logs.decisions.read_bytes().splitlines()[0] + b"\n\n" + line + b"\n")
    done = _run("--decisions", broken, "--outcomes", logs.outcomes)
    assert done.exit_code == 2
    assert f"{broken}:3: this line is not a decision: " in done.stderr
    assert said in done.stderr


def test_logs_that_are_swapped_are_noticed(logs: Logs) -> None:
    done = _run("--decisions", logs.outcomes, "--outcomes", logs.decisions)
    assert done.exit_code == 2
    assert "this line is not a decision" in done.stderr
    done = _run("--decisions", logs.decisions, "--outcomes", logs.decisions)
    assert done.exit_code == 2
    assert "this line is not an outcome" in done.stderr


def test_an_instant_needs_an_offset_and_no_value_is_quoted(logs: Logs, tmp_path: Path) -> None:
    broken = tmp_path / "decisions.jsonl"
    broken.write_bytes(_lines([_decision("secret", T0, decided_at="2026-01-01T00:00:00")]))
    done = _run("--decisions", broken, "--outcomes", logs.outcomes)
    assert done.exit_code == 2
    assert "decided_at" in done.stderr
    assert "secret" not in done.stderr


def test_events_that_are_none_are_counted(logs: Logs, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    events.write_bytes(logs.events.read_bytes() + b'garbage\n{"type": "view"}\n')
    assert _json(*logs.needed, "--events", events)["unreadable_events"] == 2
    assert "lines that are no event: 2" in _run(*logs.needed, "--events", events).stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--test", "rankin"), "no decision names the test rankin: holdout, ranking do"),
        (("--test", "ranking", "--control", "x"), "is of the variant x: bold, plain are"),
        (("--horizon", "7"), "expected a duration"),
        (("--horizon", "0d"), "more than no time"),
        (("--alpha", "0"), "--alpha"),
    ],
)
def test_what_is_asked_wrongly_is_answered(
    logs: Logs, arguments: tuple[str, ...], said: str
) -> None:
    done = _run(*logs.needed, *arguments)
    assert done.exit_code == 2
    assert said in done.stderr


def test_a_log_without_tests_says_so(logs: Logs, tmp_path: Path) -> None:
    plain = tmp_path / "decisions.jsonl"
    plain.write_bytes(_lines([_decision("u", T0)]))
    done = _run("--decisions", plain, "--outcomes", logs.outcomes)
    assert done.exit_code == 2
    assert "names a test or the holdout" in done.stderr


def test_a_policy_with_mistakes_and_a_log_that_is_not_there_are_told(
    logs: Logs, tmp_path: Path
) -> None:
    broken = tmp_path / "policy.yaml"
    broken.write_text(POLICY.replace("share: 0.2", "share: 2"))
    done = _run(*logs.needed, "--policy", broken)
    assert done.exit_code == 2
    assert "experiments.holdout.share" in done.stderr
    done = _run("--decisions", tmp_path / "none.jsonl", "--outcomes", logs.outcomes)
    assert done.exit_code == 3
    assert "none.jsonl" in done.stderr
