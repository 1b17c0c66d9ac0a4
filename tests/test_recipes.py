"""Do the recipes do what they say? Each is checked, replayed and held against its `expected.yaml`.

A recipe is a folder of `docs/recipes`: README.md, policy.yaml, catalogue.yaml, events.jsonl and
expected.yaml. The commands of its README are run, and must print what the README shows; what its
`yaml` blocks show must stand in its files; what is expected must hold for any luck of the draw.
`docs/recipes/README.md` explains `expected.yaml` to those who write one; in short:

    decisions:                     # each names one decision, and says what must be so
      - event: e07                 # its trigger, or `entered: SEGMENT` / `left: SEGMENT`
        profile: ana               # who; needed where no event is named
        placement: home            # where; needed where the trigger asks in several
        why: Trail shoes first, because she reads about trails.
        proves: personal           # or guardrail; each recipe has at least one of either
        none: true                 # there is no such decision; else any of
        shows: [a, b]              # exactly these contents, best first ([]: nothing)
        first: a
        includes: [a]              # some of what is shown
        excludes: [c]              # not shown
        among: [a, b, c]           # nothing else is shown: for what is left to chance
        count: 2                   # so many items
        fallback: holdout          # null: not a fallback
        rules: [season]            # exactly the rules that shaped it
        segments: [hiker]          # the person was in these
        rejections: {hidden: 1}    # exactly these
        sources: {a: pinned}       # by content: who put it there
        reasons: {a: "affinity:taste=trail"}
        says: {a: "Because you like trail"}
        record: {level: 4, fragment.max_age_s: 60}      # any field, nested ones by dots
        unlike: {event: e09, fields: [items.0.content_id]}
        same_as: {event: e05, fields: [fragment.key]}
    changes:                       # entries and exits that must be there (`none: true`: must not)
      - {profile: ana, entered: hiker, at: 2026-03-02T09:04:00Z, cause: e05}
    outcomes:                      # what the books of a decision say, by reward kind, exactly
      - {event: e07, rewards: {click: 1}}
    counts: {decisions: 9, segment_changes: 3, outcomes: 8, late: 0, dead_letters: 0}
"""

from __future__ import annotations

import json
import re
from collections import Counter
from textwrap import dedent
from typing import Final

import pytest

from flows.check_cli import load_files
from operators.ids import uniform
from schemas.decisions import Decision, Outcome, SegmentChange
from tests.recipe_checks import (
    FENCED,
    RECIPES,
    ExpectedChange,
    ExpectedDecision,
    at_second,
    contrary,
    cooked,
    differences,
    instant,
    read_file,
)

NAMES: Final = sorted(path.parent.name for path in RECIPES.glob("*/expected.yaml"))
FILES: Final = {"README.md", "policy.yaml", "catalogue.yaml", "events.jsonl", "expected.yaml"}
COUNTED: Final = {
    "decisions": "decisions",
    "segment_changes": "segment-changes",
    "outcomes": "outcomes",
    "late": "late",
    "dead_letters": "dead-letters",
}
WHO: Final = ("user_id", "anonymous_id")
_EVENT_ID: Final = re.compile(r"`([a-z]\d+)`")

each_recipe: Final = pytest.mark.parametrize("name", NAMES)


def test_there_are_recipes_and_the_index_names_each() -> None:
    folders = sorted(path.name for path in RECIPES.iterdir() if path.is_dir())
    assert folders == NAMES, "a recipe without an expected.yaml"
    linked = re.findall(r"\]\((\w+)/README\.md\)", (RECIPES / "README.md").read_text())
    assert sorted(linked) == NAMES
    assert NAMES


@each_recipe
def test_a_recipe_is_whole_and_has_no_mistake_and_no_warning(name: str) -> None:
    folder = RECIPES / name
    assert {path.name for path in folder.iterdir()} == FILES
    checked = load_files(folder / "policy.yaml", catalogue=folder / "catalogue.yaml")
    assert [str(mistake) for mistake in checked.mistakes] == []
    assert checked.policy is not None
    assert checked.policy.name == name


@each_recipe
def test_the_log_is_a_story_that_people_can_read(name: str) -> None:
    lines = (RECIPES / name / "events.jsonl").read_text().splitlines()
    assert 20 <= len(lines) <= 100
    events = [json.loads(line) for line in lines]
    times = [event.get("received_at", event["occurred_at"]) for event in events]
    assert times == sorted(times, key=instant)


@each_recipe
def test_the_commands_of_a_recipe_print_what_its_readme_shows(name: str) -> None:
    cook = cooked(name)
    assert [command.split()[:2] for command, _ in cook.shown][:2] == [
        ["nextbest", "check"],
        ["nextbest", "replay"],
    ]
    assert cook.printed == [said for _, said in cook.shown]


@each_recipe
def test_every_record_of_a_recipe_is_as_the_contract_has_it(name: str) -> None:
    records = cooked(name).records
    for decision in records["decisions"]:
        Decision.model_validate_json(json.dumps(decision))
    for outcome in records["outcomes"]:
        Outcome.model_validate_json(json.dumps(outcome))
    for change in records["segment-changes"]:
        SegmentChange.model_validate_json(json.dumps(change))
    assert records["decisions"]


@each_recipe
def test_the_decisions_of_a_recipe_are_as_expected(name: str) -> None:
    cook = cooked(name)
    wrong = []
    for wanted in cook.expected.decisions:
        if fields := differences(cook, wanted):
            found = cook.matching(wanted)
            wrong.append(f"{wanted.why} {fields}: {json.dumps(found, indent=1)}")
    assert not wrong, "\n".join(wrong)


@each_recipe
def test_the_changes_outcomes_and_counts_of_a_recipe_are_as_expected(name: str) -> None:
    cook = cooked(name)
    changes = cook.records["segment-changes"]
    for wanted in cook.expected.changes:
        found = [
            c
            for c in changes
            if c["profile_id"] == wanted.profile
            and c["segment"] == (wanted.entered or wanted.left)
            and c["direction"] == ("entered" if wanted.entered else "left")
            and wanted.cause in (None, c["cause"])
            and at_second(wanted.at, c["changed_at"])
        ]
        assert len(found) == (0 if wanted.none else 1), (wanted, changes)
    books = {outcome["decision_id"]: outcome for outcome in cook.records["outcomes"]}
    for told in cook.expected.outcomes:
        booked: Counter[str] = Counter()
        for item in books[cook.one(told)["decision_id"]]["items"]:
            booked.update(item["rewards"])
        assert dict(booked) == pytest.approx(told.rewards), told
    counts = {kind: len(cook.records[COUNTED[kind]]) for kind in cook.expected.counts}
    assert counts == cook.expected.counts


@each_recipe
def test_a_recipe_proves_a_guardrail_and_a_personal_decision(name: str) -> None:
    proved = Counter(wanted.proves for wanted in cooked(name).expected.decisions)
    assert proved["guardrail"]
    assert proved["personal"]


@each_recipe
def test_the_opposite_of_what_is_expected_is_noticed(name: str) -> None:
    """An expectation that would hold whatever is decided would prove nothing."""
    cook = cooked(name)
    tried = 0
    for wanted in cook.expected.decisions:
        if wanted.none:
            continue  # see the test below
        decision = cook.one(wanted)
        for field in wanted.said():
            against = contrary(field, getattr(wanted, field), decision)
            if against is not None:
                changed = wanted.model_copy(update={field: against})
                assert field in differences(cook, changed), (wanted.why, field)
                tried += 1
    assert tried


@each_recipe
def test_what_is_expected_does_not_hang_on_the_luck_of_a_draw(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left to chance is said as a set: another draw must be as good."""

    def another(text: str) -> float:
        return uniform(text if text.startswith("holdout|") else f"another|{text}")

    monkeypatch.setattr("operators.choose.uniform", another)
    cook = cooked.__wrapped__(name)
    wrong = {wanted.why: differences(cook, wanted) for wanted in cook.expected.decisions}
    assert {why: fields for why, fields in wrong.items() if fields} == {}


@each_recipe
def test_what_must_not_be_there_could_have_been_there(name: str) -> None:
    """A name that is spelled wrong is never there: that would prove nothing either."""
    cook, folder = cooked(name), RECIPES / name
    policy = read_file(folder / "policy.yaml")
    lines = (folder / "events.jsonl").read_text().splitlines()
    events = {event["event_id"]: event for event in map(json.loads, lines)}
    profiles = {event[who] for event in events.values() for who in WHO if who in event}
    told: list[ExpectedDecision | ExpectedChange] = [*cook.expected.decisions]
    for wanted in [*told, *cook.expected.changes]:
        if wanted.none:
            assert wanted.profile is None or wanted.profile in profiles
            for segment in (wanted.entered, wanted.left):
                assert segment is None or segment in policy["segments"]
            if isinstance(wanted, ExpectedDecision):
                assert wanted.event is None or wanted.event in events
                assert wanted.placement in policy["placements"]


@each_recipe
def test_what_a_readme_shows_of_the_files_stands_in_them(name: str) -> None:
    folder = RECIPES / name
    text = (folder / "README.md").read_text()
    files = [(folder / file).read_text().splitlines() for file in ("policy.yaml", "catalogue.yaml")]
    blocks = [body for language, body in FENCED.findall(text) if language == "yaml"]
    assert blocks
    for body in blocks:
        shown = body.rstrip().splitlines()
        assert any(_stands_in(shown, lines) for lines in files), body
        assert all(len(shown) < len(lines) / 2 for lines in files[:1]), "a chunk, not the file"


def _stands_in(shown: list[str], lines: list[str]) -> bool:
    wanted = dedent("\n".join(shown))
    size = len(shown)
    return any(
        dedent("\n".join(lines[at : at + size])) == wanted for at in range(len(lines) - size + 1)
    )


@each_recipe
def test_the_events_that_a_readme_names_are_in_the_log(name: str) -> None:
    folder = RECIPES / name
    lines = (folder / "events.jsonl").read_text().splitlines()
    named = set(_EVENT_ID.findall((folder / "README.md").read_text()))
    assert named
    assert named <= {json.loads(line)["event_id"] for line in lines}
