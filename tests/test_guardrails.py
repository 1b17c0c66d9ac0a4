"""Does docs/guardrails.md say what holds? Its examples are loaded, its codes are the code's."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any, Final, get_args

from ruamel.yaml import YAML

from operators.coherence import turned
from operators.decode import parse_event
from operators.penalties import strength_of
from operators.profile import Profile
from operators.prompts import ANSWERED, ASKED_OFTEN, DEFAULT_CAPS
from operators.reason_texts import BUILT_IN
from operators.rules import RULED_OUT
from schemas.catalogue import Content
from schemas.check import load
from schemas.decisions import FallbackReason
from schemas.guidance import Feedback, Monitoring
from schemas.policy import Policy
from schemas.records import RawRecord
from schemas.time import DAY
from tests.doc_blocks import ROOT
from tests.operators.builders import T0

PAGE: Final = (ROOT / "docs/guardrails.md").read_text()
BESIDE: Final[dict[str, Any]] = {
    "name": "page",
    "signals": {
        "taste": {"kind": "affinity", "weights": {"view": 1}},
        "night_reading": {"kind": "count", "events": "view", "within": "7d"},
    },
    "rewards": {"click": {"events": "click", "value": 1, "within": "30m"}},
    "placements": {"offers": {"rewards": ["click"]}, "mail": {"rewards": ["click"]}},
}
"""What the page's examples take for granted."""
SHOWN: Final = [
    {"content_id": name, "type": "page", "attributes": {"brand": name}, "priority": 1}
    for name in ("imprint", "bestsellers", "new_arrivals", "other")
]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", PAGE, re.MULTILINE | re.DOTALL)


def parsed() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The policy and the catalogue that the page's examples make together."""
    policy: dict[str, Any] = json.loads(json.dumps(BESIDE))
    catalogue: list[dict[str, Any]] = list(SHOWN)
    for block in blocks("yaml"):
        value = YAML(typ="safe").load(block)
        if isinstance(value, list):
            catalogue += value
        else:
            merge(policy, value)
    return policy, catalogue


def merge(into: dict[str, Any], more: dict[str, Any]) -> None:
    for name, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            merge(into[name], value)
        else:
            into[name] = value


def as_text(value: Any) -> str:
    def written(instant: datetime) -> str:
        return instant.replace(tzinfo=UTC).isoformat()

    return json.dumps(value, default=written)


def codes_of(table: str) -> set[str]:
    """The codes in the first column of the table with this head."""
    found = re.search(rf"^\| `{table}` \|.*?\n\n", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    return {
        code for row in found[0].strip().splitlines()[2:] for code in codes_in(row.split("|")[1])
    }


def codes_in(text: str) -> list[str]:
    return re.findall(r"`([a-z_]+)`", text)


def test_the_examples_are_one_policy_and_catalogue_without_a_mistake() -> None:
    policy, catalogue = parsed()
    checked = load(
        as_text(policy),
        policy_name="guardrails.md",
        catalogue_text=as_text(catalogue),
        catalogue_name="catalogue",
    )
    assert [str(mistake) for mistake in checked.mistakes] == []
    assert checked.policy is not None
    front = checked.policy.placements["front"]
    assert front.coherence is not None
    assert (front.slots, front.coherence.changes, len(front.caps)) == (3, 2, 2)
    assert checked.policy.placements["legal_notice"].level == 0


def test_the_values_that_the_page_shows_as_the_usual_ones_are_the_defaults() -> None:
    policy, _ = parsed()
    assert Feedback.model_validate(policy["feedback"]) == Feedback()
    usual = Policy.model_validate({"name": "x", "placements": {"home": {}}})
    assert policy["refused_tags"] == list(usual.refused_tags)
    assert Monitoring() == usual.monitoring
    assert Content.model_fields["ask_again_after"].default == 180 * DAY
    assert DEFAULT_CAPS == ((3, 30 * DAY),), "three times in 30 days at most"


def test_the_arithmetic_of_saying_it_twice_is_right() -> None:
    assert "96% and 64% (1 − 0.2², 1 − 0.6²)" in PAGE
    weights = Feedback().less_like_this
    twice = [strength_of(2, weights.content), strength_of(2, weights.tags)]
    assert [round(strength, 9) for strength in twice] == [0.96, 0.64]
    faded = [strength_of(0.5, weights.content), strength_of(0.5, weights.tags)]
    assert faded == [0.4, 0.2], "40% and 20%"


def test_three_slates_in_half_an_hour_is_what_the_example_says() -> None:
    policy, catalogue = parsed()
    coherence = Policy.model_validate_json(as_text(policy)).placements["front"].coherence
    assert coherence is not None
    assert catalogue
    person = Profile("ana", T0, T0)
    for i in range(9):
        turned(person, "front", coherence, [f"c{i}"], T0 + i)
    assert len(person.turned["front"]) == 3


def test_the_preferences_that_are_shown_are_an_event() -> None:
    (shown,) = blocks("json")
    event = parse_event(RawRecord(0, None, None, shown.encode()))
    assert event.preferences == {"level": 3, "level.front": 1}


def test_every_fallback_is_explained() -> None:
    assert codes_of("fallback") == set(get_args(FallbackReason))


def test_every_rejection_is_explained_and_none_is_made_up() -> None:
    source = "".join(
        (ROOT / f"operators/{name}.py").read_text() for name in ("candidates", "contents")
    )
    told = re.findall(r'keep\([^"\n]*, "([a-z_]+)"\)', source)
    told += re.findall(r'^ +"([a-z_]+)": int\(', source, re.MULTILINE)
    told += re.findall(r'return "([a-z_]+)"', source)
    told += re.findall(r'\([^()"]*, "([a-z_]+)"\)', source)
    told += re.findall(r'\{"([a-z_]+)": len\(', source)
    assert {"hidden", "capped", "out_of_stock", "unknown_content", "unavailable"} <= set(told)
    told += [ANSWERED, ASKED_OFTEN, RULED_OUT]
    explained = codes_of("rejections")
    named = set(codes_in(PAGE))
    assert set(told) <= named
    assert explained <= set(told)


def test_every_sentence_that_may_be_replaced_is_named() -> None:
    assert {code for code in BUILT_IN if ":" not in code} <= set(codes_in(PAGE))


def test_no_level_is_left_out() -> None:
    assert re.findall(r"^\| ([0-9]) \|", PAGE, re.MULTILINE) == list("012345")
