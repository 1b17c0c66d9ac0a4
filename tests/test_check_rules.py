"""What a check says of rules that name what is not there, or ask for what cannot be done."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from operators.coverage import coverage
from operators.plan import compile_plan
from operators.reason_texts import BUILT_IN
from schemas.check import load
from schemas.check_rules import BUILT_IN_REASONS
from tests.test_check import (
    VALUES,
    completed,
    marked,
    one,
    parts,
    plain,
    replaced,
    told,
    with_catalogue,
)

RULES = {
    "conditions and placements": """
rules:
  r:
    when:
      all:
        - {signal: viws, at_least: 1}  #! rules.r.when.all.0.signal
        - {segment: vip}  #! rules.r.when.all.1.segment
    placements: [home, hoem]  #! rules.r.placements.1
    force: [c1]
  context: {when: {context: page, is: home}, force: [c1]}
""",
    "a placement that is never personalised": """
placements:
  home: {rewards: [click]}
  legal: {never_personalised: true}
rules:
  r: {placements: [home, legal], force: [c1]}  #! rules.r.placements.1
  s: {force: [c1]}
""",
    "what one answer for everybody must not depend on": """
segments: {active: {when: {signal: views, at_least: 1}}}
placements:
  home: {rewards: [click]}
  part: {shared: true, level: 1, rewards: [click]}
rules:
  a: {when: {signal: views, at_least: 1}, force: [c1]}  #! rules.a.when
  b: {when: {signal: views, at_least: 1}, placements: [home], force: [c1]}
  c: {when: {segment: active}, placements: [part], force: [c1]}
""",
    "ranks": """
placements:
  home: {rewards: [click], slots: 3}
  mail: {rewards: [click]}
rules:
  a:
    pin:
      - {content: c1, rank: 3}
      - {content: c2, rank: 4}  #! rules.a.pin.1.rank
      - {content: c3, rank: 3}  #! rules.a.pin.2.rank
      - {content: c1, rank: 2}  #! rules.a.pin.3.content
  b: {placements: [mail], pin: [{content: c1, rank: 2}]}  #! rules.b.pin.0.rank
""",
    "rules against themselves": """
rules:
  a:
    force: [c1, c2]  #! rules.a.force.1
    pin: [{content: c3}]  #! rules.a.pin.0.content
    exclude: {contents: [c2, c3]}
  b: {boost: {tags: [sale], by: 0.5}}  #! rules.b.boost.by
  c: {bury: {tags: [sale], by: 1}}  #! rules.c.bury.by
""",
    "what is sensitive": """
sensitive: {tags: [health], attributes: [faith]}
rules:
  a: {boost: {tags: [sale, health]}}  #! rules.a.boost.tags.1
  b: {only: {attributes: {faith: any}}}  #! rules.b.only.attributes.faith
""",
    "reasons without a sentence": """
reasons: {templates: {editors: {en: "{title}, our choice"}}}
rules:
  a: {force: [c1], reason: editors}
  b: {force: [c1], reason: popular}
  c: {force: [c1], reason: editor}  #? rules.c.reason
""",
    "nothing to do": """
rules:
  a: {when: {context: page, is: home}}  #! rules.a
  b: {explore: false}
  c: {only: {}}  #! rules.c.only
""",
}


@pytest.mark.parametrize("text", RULES.values(), ids=RULES.keys())
def test_each_mistake_of_a_rule_is_told_at_its_line_and_field(text: str) -> None:
    mistakes = load(completed(text), policy_name="policy.yaml").mistakes
    assert told(mistakes) == marked(text), [str(m) for m in mistakes]
    assert told(mistakes, "warning") == marked(text, "warning"), [str(m) for m in mistakes]


def test_what_a_rule_names_is_looked_up_in_the_catalogue() -> None:
    text = """
rules:
  a:
    force: [c1, c11]  #! rules.a.force.1
    pin:
      - content: c8  #! rules.a.pin.0.content
    only: {contents: [c2, c7]}  #! rules.a.only.contents.1
  b:
    boost:
      tags: [sale, sal]  #? rules.b.boost.tags.1
      types: [product, artcle]  #? rules.b.boost.types.1
      attributes:
        brand: acme
        brnd: acme  #? rules.b.boost.attributes.brnd
"""
    lines = """
- {content_id: c1, type: product, tags: [sale], attributes: {brand: acme}}
- {content_id: c2, type: article}
"""
    checked = with_catalogue(lines, policy=completed("name: shop" + text))
    assert told(checked.mistakes) == marked("name: shop" + text)
    assert told(checked.mistakes, "warning") == marked("name: shop" + text, "warning")
    by_field = {mistake.field: mistake for mistake in checked.mistakes}
    assert by_field["rules.a.force.1"].expected == "a content of the catalogue (did you mean c1?)"
    tag = by_field["rules.b.boost.tags.1"]
    assert (tag.found, tag.expected) == (
        "'sal', which no content has",
        "a tag of the catalogue: sale (did you mean sale?)",
    )
    assert by_field["rules.b.boost.types.1"].expected == (
        "a type of the catalogue: one of product, article (did you mean article?)"
    )


def test_the_words_say_what_would_be_right() -> None:
    assert one("rules: {a: {placements: [hom], force: [c1]}}").expected == (
        "a declared placement: home (did you mean home?)"
    )
    assert one("rules: {a: {pin: [{content: c, rank: 2}]}}").expected == (
        "a rank of at most 1: no placement of it has more slots"
    )
    assert one("rules: {a: {boost: {tags: [x], by: 0.5}}}").expected == (
        "a number above 1: for the other direction there is bury"
    )


def test_the_reasons_that_need_no_template_are_those_with_a_sentence() -> None:
    assert {code.partition(":")[0] for code in BUILT_IN} == set(BUILT_IN_REASONS)


PAGE = (Path(__file__).parents[1] / "docs/policy.md").read_text()
RAW = plain(YAML(typ="safe", pure=True).load("".join(re.findall(r"```yaml\n(.*?)```", PAGE, re.S))))
CONTENTS = [
    json.loads(re.findall(r"```json\n(.*?)```", PAGE, re.S)[0]),
    {"content_id": "bestsellers", "type": "list"},
]
SECTIONS = ("rules", "placements", "rewards", "reasons", "feedback", "monitoring", "consent")
WORDS = st.sampled_from(["p1", "brand", "attributes.brand", "value", "web", "igw", "home", "sale"])


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([path for path in parts(RAW) if path and path[0] in SECTIONS]),
    st.one_of(VALUES, WORDS),
)
def test_whatever_stands_in_a_section_is_a_mistake_or_compiles_and_is_covered(
    path: tuple[str | int, ...], value: Any
) -> None:
    checked = load(
        json.dumps(replaced(RAW, path, value)),
        policy_name="p.yaml",
        catalogue_text="\n".join(map(json.dumps, CONTENTS)),
        catalogue_name="c.jsonl",
    )
    assert checked.failed == (checked.policy is None or checked.contents is None)
    if checked.policy is not None and checked.contents is not None:
        compile_plan(checked.policy, checked.contents, policy_digest="p", catalogue_version="c")
        for line in coverage(checked.policy, checked.contents, at_ms=0):
            assert line.holds + line.untold + sum(line.refused.values()) <= len(CONTENTS)
