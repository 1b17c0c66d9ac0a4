"""Do the documents say what the code does? What they claim is read out of them and held against it.

The blocks made from code are `tests.doc_blocks`' business; here they are compared, and what is
written by hand is checked for names, commands, links and examples that do not exist.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, get_args

import pytest
from bytewax.visualize import to_rendered
from pydantic import BaseModel

from flows.cli import every_command
from flows.diagram import edges, example_flow, mermaid
from flows.kafka.admin import default_topics
from flows.load import plan_of
from flows.personalize import DEFAULT_SHARDS, FLOW_ID
from flows.settings import Settings
from operators.decode import parse_event
from schemas.check import load
from schemas.dead_letters import Code
from schemas.decisions import Decision, FallbackReason, Late, Outcome, SegmentChange
from schemas.events import REQUIRED_BY_TYPE, FeedbackKind
from schemas.identity import Suggestion
from schemas.receipts import Receipt
from schemas.records import RawRecord
from tests.doc_blocks import BLOCKS, EXAMPLES, ROOT, documents, made, named_blocks, replayed

README: Final = ROOT / "README.md"
POLICY: Final = ROOT / "docs/policy.md"
CONSUMING: Final = ROOT / "docs/consuming.md"
DECISIONS: Final = sorted((ROOT / "docs/decisions").glob("*.md"))

_FENCED: Final = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_LINK: Final = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING: Final = re.compile(r"^#+ (.+)$", re.MULTILINE)

TEST_VARIABLES: Final = {"NEXTBEST_REQUIRE_SERVERS", "NEXTBEST_CACHE", "NEXTBEST_NO_INSTALL"}
GLOSSARY: Final = """event profile signal segment placement candidate eligibility capping fallback
    decision impression outcome reward attribution_window propensity policy parameter_set watermark
    epoch snapshot shard dead_letter replay intent prediction audience golden_record alias receipt
    watched sweep"""


def each_document() -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "path", documents(), ids=lambda path: str(path.relative_to(ROOT))
    )


def fenced(path: Path, language: str) -> list[str]:
    return [body for said, body in _FENCED.findall(path.read_text()) if said == language]


def prose_and_code(paths: list[Path]) -> str:
    return "\n".join(path.read_text() for path in paths)


# Blocks that are made from the code.


@each_document()
def test_what_is_made_from_the_code_is_fresh(path: Path) -> None:
    """If this fails: `python -m tests.doc_blocks` writes the blocks anew."""
    text = path.read_text()
    assert made(text) == text


def test_every_block_is_somewhere_in_the_documents() -> None:
    named = [name for path in documents() for name in named_blocks(path.read_text())]
    assert sorted(named) == sorted(BLOCKS)


def test_a_stale_block_is_noticed() -> None:
    text = README.read_text().replace("s_decode --> s_route", "s_decode --> s_decide")
    assert made(text) == README.read_text()


# The diagram.


def test_the_diagram_draws_every_step_of_the_flow_or_takes_it_for_an_arrow() -> None:
    flow = example_flow()
    drawn = {step for edge in edges(flow) for step in edge}
    steps = {step.step_id.removeprefix(f"{FLOW_ID}.") for step in to_rendered(flow).substeps}
    reshaping = {"activations", "examples", "learned", "given", "sets", "serve"}
    reshaping |= {"watched", "told"}
    reshaping |= {"reports", "taken"}  # which lead nowhere here: nothing reports, nobody counts
    parts = {step for step in steps if step.endswith("-parts")}
    assert steps - drawn == reshaping | parts


def test_the_diagram_follows_the_flow() -> None:
    pairs = edges(example_flow())
    assert ("decide", "learn") in pairs
    assert ("learn", "parameters") in pairs
    assert {step for source, step in pairs if source == "decide"} == {
        *("decisions", "segment-changes", "outcomes", "late", "erasures", "serving", "learn"),
        "monitor",
    }
    assert "-. " in mermaid(example_flow()).splitlines()[-1]


WITHOUT: Final = """
name: without
signals: {views: {kind: count, events: view, within: 7d}}
rewards: {click: {events: click, value: 1, within: 30m}}
"""
PLAIN: Final = "placements: {home: {rewards: [click]}}\n"
OPTIONAL: Final = """
audiences: {clusters: 2}
placements: {home: {rewards: [click], fallback: {popular: true}}}
identity: {suggest: {email: email}}
predictions: {leaves: {target: {not_done: view, within: 30d}}}
segments:
  keen:
    when: {signal: views, at_least: 8}
    follow: {signal: views, between: [3, 20], reward: click}
"""


def steps_of(policy: str) -> tuple[set[str], set[str]]:
    """All steps of a policy's flow, and those of them that keep state."""
    checked = load(policy, policy_name="policy", catalogue_text="[]", catalogue_name="catalogue")
    assert checked.policy is not None, checked.mistakes
    flow = to_rendered(example_flow(plan_of(checked.policy, [])))
    named = {step.step_id.removeprefix(f"{FLOW_ID}."): step.op_type for step in flow.substeps}
    return set(named), {step for step, kind in named.items() if kind == "stateful_batch"}


def test_the_steps_that_sections_add_are_in_the_readme() -> None:
    _, always = steps_of(WITHOUT + PLAIN)
    steps, stateful = steps_of(WITHOUT + OPTIONAL)
    table = re.search(r"^\| in the policy .*?\n\n", README.read_text(), re.MULTILINE | re.DOTALL)
    assert table is not None
    column = [row.split("|")[2] for row in table[0].strip().splitlines()]
    told = set(re.findall(r"`(\w+)`", " ".join(column)))
    assert told <= steps
    assert stateful - always
    assert stateful - always <= told


# The example.


def test_the_example_has_no_mistake_and_no_warning() -> None:
    checked = load(
        (EXAMPLES / "policy.yaml").read_text(),
        policy_name="policy.yaml",
        catalogue_text=(EXAMPLES / "catalogue.yaml").read_text(),
        catalogue_name="catalogue.yaml",
    )
    assert checked.mistakes == ()
    assert checked.contents is not None


def test_the_example_log_has_twenty_lines_and_each_ends_where_the_readme_says() -> None:
    lines = (EXAMPLES / "events.jsonl").read_text().splitlines()
    assert len(lines) == 20
    printed = replayed().printed["replay-run"].splitlines()
    assert printed[1] == (
        "events read 20 = used 16 + suppressed 1 + duplicates 1 + late 1 + dead letters 1"
    )
    records = replayed().records
    assert [record["event_id"] for record in records["late"]] == ["e11"]
    assert [record["offset"] for record in records["dead-letters"]] == [8]
    assert json.loads(lines[8])["event_id"] == "e08"


def test_the_example_decides_as_the_readme_explains() -> None:
    by_trigger = {d["trigger"]["event_id"]: d for d in replayed().records["decisions"]}
    shown = {
        trigger: {item["content_id"] for item in decision["items"]}
        for trigger, decision in by_trigger.items()
    }
    cooking, garden = {"bread", "soup"}, {"tomatoes", "compost"}
    assert shown["e02"] <= cooking | garden, "lisbon is over, welcome is no article"
    assert len(shown["e02"]) == len(shown["e16"]) == 2
    assert shown["e05"] == {"kitchen_letter"}
    assert shown["e06"] == {"welcome", "tomatoes"}, "editorial choice, then priority"
    assert not by_trigger["e06"]["learnable"]
    assert not shown["e10"] & garden, "hidden"
    assert by_trigger["e10"]["fallback"] == "no_eligible_candidate"
    assert shown["e14"] == set()
    assert shown["e18"] == cooking, "the cap is over, what is hidden stays hidden"
    assert by_trigger["e18"]["segments"] == ["cook"], "left active_today by a timer"


def test_the_example_books_the_rewards_that_the_readme_names() -> None:
    booked = {
        (outcome["placement"], kind): value
        for outcome in replayed().records["outcomes"]
        for item in outcome["items"]
        for kind, value in item["rewards"].items()
    }
    assert booked == {("front", "read"): 1, ("letter", "signup"): 10}


# The policy.


def test_the_blocks_of_the_policy_page_are_one_policy_without_a_mistake() -> None:
    catalogue = f"{fenced(POLICY, 'json')[0]}" + '{"content_id": "bestsellers", "type": "list"}\n'
    checked = load(
        "".join(fenced(POLICY, "yaml")),
        policy_name="policy.md",
        catalogue_text=catalogue,
        catalogue_name="catalogue.jsonl",
    )
    assert [str(mistake) for mistake in checked.mistakes] == []
    assert checked.policy is not None


@pytest.mark.parametrize("part", ["signals", "segments", "rewards", "placements", "holdout"])
def test_the_policy_page_shows_every_part(part: str) -> None:
    assert f"{part}:" in "".join(fenced(POLICY, "yaml"))


# Commands, settings, topics, names.


def test_every_command_is_in_the_readme() -> None:
    text = README.read_text()
    missing = [
        name
        for name in every_command()
        if f"nextbest {name}" not in text and f"make {name}" not in text
    ]
    assert missing == []


def calls_in(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(command, options) of each call of the program in a code span or a shell block."""
    shell = "\n".join([*fenced(path, "sh"), *fenced(path, "console")]).replace("\\\n", " ")
    spans = re.findall(r"`([^`\n]+)`", _FENCED.sub("", path.read_text()))
    for line in [*shell.splitlines(), *spans]:
        called = re.match(r"(?:\$ )?(?:\.venv/bin/)?nextbest ([a-z]+)([^#]*)", line)
        if called:
            yield called[1], re.findall(r"(?<!\S)--?[a-z][a-z-]*", called[2])


def test_the_search_for_calls_finds_them() -> None:
    assert ("replay", ["--policy", "--catalogue", "--out"]) in list(calls_in(README))
    assert ("run", ["-i", "-a", "-a"]) in list(calls_in(README))


@each_document()
def test_every_call_in_the_documents_has_a_command_and_options_that_exist(path: Path) -> None:
    wrong = []
    for name, options in calls_in(path):
        command = every_command().get(name)
        known = {flag for option in command.params for flag in option.opts} if command else set()
        wrong += [] if command else [name]
        wrong += [f"{name} {flag}" for flag in options if flag not in known | {"--help", "-h"}]
    assert wrong == []


@each_document()
def test_every_setting_in_the_documents_exists(path: Path) -> None:
    known = {f"NEXTBEST_{name.upper()}" for name in Settings.model_fields} | TEST_VARIABLES
    named = set(re.findall(r"\bNEXTBEST_[A-Z_]*[A-Z]", path.read_text()))
    assert named - known == set()


def test_every_setting_is_in_the_readme() -> None:
    text = README.read_text()
    missing = [n for n in Settings.model_fields if f"`NEXTBEST_{n.upper()}`" not in text]
    assert missing == []


def test_every_topic_is_explained_to_those_who_use_them() -> None:
    text = CONSUMING.read_text()
    assert [t.name for t in default_topics() if f"| `{t.name}` |" not in text] == []


def test_every_field_of_a_decision_is_explained() -> None:
    text = CONSUMING.read_text()
    assert [name for name in Decision.model_fields if f"`{name}`" not in text] == []


def test_every_code_that_a_consumer_may_meet_is_listed() -> None:
    text = CONSUMING.read_text()
    codes = [*get_args(FallbackReason), *get_args(Code), *get_args(FeedbackKind), *REQUIRED_BY_TYPE]
    assert [code for code in codes if f"`{code}`" not in text] == []


def test_every_reason_for_refusing_a_candidate_is_listed() -> None:
    source = (ROOT / "operators/candidates.py").read_text()
    reasons = set(re.findall(r'"([a-z]+(?:_[a-z]+)+|hidden|capped|unavailable)"', source))
    assert {"not_scheduled", "capped", "unknown_content"} <= reasons, "the search finds them"
    text = CONSUMING.read_text()
    assert [reason for reason in sorted(reasons) if f"`{reason}`" not in text] == []


TOLD: Final[dict[type[BaseModel], str]] = {
    SegmentChange: "segment-changes",
    Outcome: "outcomes",
    Late: "late",
    Suggestion: "suggestions",
    Receipt: "erasures",
}


@pytest.mark.parametrize("model", TOLD, ids=lambda model: model.__name__)
def test_what_is_said_of_other_records_names_their_fields(model: type[BaseModel]) -> None:
    said = TOLD[model]
    found = re.search(rf"^\* \*\*`{said}`\*\*(.*?)(?=^\* |\Z)", CONSUMING.read_text(), re.M | re.S)
    assert found is not None
    named = set(re.findall(r"`([a-z_]+)`", found[1]))
    assert named
    values = {"entered", "left", "timer", "policy", "expired", "decision_id"}
    assert named - values <= {*model.model_fields, "shown", "rewards", "nth"}


def test_the_event_that_is_shown_is_an_event() -> None:
    (shown,) = fenced(CONSUMING, "json")
    event = parse_event(RawRecord(0, None, None, shown.encode()))
    assert event.type == "decision_requested"


def test_the_number_of_shards_that_the_decisions_name_is_the_default() -> None:
    assert f"({DEFAULT_SHARDS} unless set otherwise)" in DECISIONS[0].read_text()


def test_the_glossary_has_the_words_of_the_code() -> None:
    text = README.read_text()
    glossary = text[text.index("## Glossary") :]
    words = [word.replace("_", " ") for word in GLOSSARY.split()]
    assert [word for word in words if f"| **{word}** |" not in glossary] == []


# Form.


@each_document()
def test_links_between_documents_resolve(path: Path) -> None:
    broken = []
    for target in _LINK.findall(path.read_text()):
        if target.startswith(("https://", "http://")):
            continue
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        if not found.exists() or (anchor and anchor not in anchors_of(found)):
            broken.append(target)
    assert broken == []


def anchors_of(path: Path) -> set[str]:
    headings = _HEADING.findall(path.read_text())
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_document()
def test_a_document_names_nobodys_machine(path: Path) -> None:
    found = re.search(r"(?<![\w.])/(work|root|farm|home|Users)\b\S*|/tmp/\w+", path.read_text())
    assert found is None, found


@each_document()
def test_python_in_a_document_compiles_and_json_parses(path: Path) -> None:
    for code in fenced(path, "python"):
        compile(code, str(path), "exec")
    for text in fenced(path, "json"):
        json.loads(text)


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_record_has_its_five_parts_and_its_number(path: Path) -> None:
    text = path.read_text()
    number = DECISIONS.index(path) + 1
    assert path.name.startswith(f"{number:04d}-")
    assert text.startswith(f"# {number}. ")
    parts = ["Status", "Context", "Decision", "Consequences", "Rejected"]
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == parts


def test_each_release_says_what_it_means_for_state_topics_and_decisions() -> None:
    releases = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[2:]
    assert releases
    for release in releases:
        parts = re.findall(r"^### (.+)$", release, re.MULTILINE)
        assert {"State", "Topics", "Decisions"} <= set(parts)


def test_the_picture_of_the_demo_is_small_enough_for_a_readme() -> None:
    picture = ROOT / "docs/images/demo.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < 400_000
