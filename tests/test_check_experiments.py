"""Is every mistake in the section `experiments` found, with its place?"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from schemas.check_conditions import Declared
from schemas.check_experiments import check_experiments
from schemas.documents import read_yaml
from schemas.experiments import Experiments

BASE = """
signals: {visits: {kind: count, events: view, within: 7d}}
segments: {keen: {when: {signal: visits, at_least: 3}}}
sensitive: {attributes: [health]}
rewards:
  click: {events: click, value: 1, within: 30m}
  purchase: {events: purchase, value: 10, within: 7d}
rules: {calm: {exclude: {tags: [loud]}}}
placements:
  home: {rewards: [click]}
  legal: {never_personalised: true}
"""


def _mistakes(experiments: str) -> list[str]:
    document, broken = read_yaml(BASE + experiments, name="p.yaml")
    assert document is not None
    assert broken == []
    return [str(m) for m in check_experiments(document, Declared.by(document))]


def _test(fields: str) -> str:
    variants = "" if "variants:" in fields else "variants: {a: {}, b: {}}, "
    return f"experiments:\n  tests:\n    t: {{{variants}{fields}}}\n"


def test_a_right_section_has_no_mistake() -> None:
    assert (
        _mistakes(
            """
experiments:
  holdout: {share: 0.1}
  tests:
    ranking:
      placements: [home]
      when: {segment: keen}
      metrics: [conversion, conversion.purchase, order_value, click]
      guardrails: [retention, satisfaction, session_time]
      variants:
        control: {}
        bold: {changes: {rewards: [purchase], rules: [calm], features: {signals: [visits]}}}
      promote: {reward: click, floor: 0.1}
    colours:
      layer: looks
      variants: {control: {}, red: {changes: {slots: 2}}}
"""
        )
        == []
    )


def test_the_example_of_the_page_has_no_mistake() -> None:
    page = Path(__file__).parents[1] / "docs/experiments.md"
    (example,) = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    assert _mistakes(example) == []
    document, _ = read_yaml(example, name="experiments.md")
    assert document is not None
    assert Experiments.model_validate(document.value["experiments"]).holdout is not None


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        ("placements: [hone]", "placements.0", "did you mean home?"),
        ("placements: [legal]", "placements.0", "never personalised"),
        ("when: {segment: kean}", "when.segment", "did you mean keen?"),
        ("metrics: [convresion]", "metrics.0", "did you mean conversion?"),
        ("metrics: [conversion.purchas]", "metrics.0", "did you mean purchase?"),
        ("metrics: [retention.click]", "metrics.0", "a metric or a declared reward"),
        ("guardrails: [clik]", "guardrails.0", "did you mean click?"),
        ("promote: {reward: clik}", "promote.reward", "did you mean click?"),
        ("promote: {reward: click, floor: 0.5}", "promote.floor", "less than 1/2"),
        (
            "variants: {a: {}, b: {changes: {rewards: [clik]}}}",
            "variants.b.changes.rewards.0",
            "did you mean click?",
        ),
        (
            "variants: {a: {}, b: {changes: {rules: [clam]}}}",
            "variants.b.changes.rules.0",
            "did you mean calm?",
        ),
        (
            "variants: {a: {}, b: {changes: {features: {segments: [kean]}}}}",
            "variants.b.changes.features.segments.0",
            "did you mean keen?",
        ),
        (
            "variants: {a: {}, b: {changes: {features: {attributes: [health]}}}}",
            "variants.b.changes.features.attributes.0",
            "does not list as sensitive",
        ),
        (
            "variants: {a: {}, b: {changes: {fallback: {segments: {kean: [c1]}}}}}",
            "variants.b.changes.fallback.segments.kean",
            "did you mean keen?",
        ),
    ],
)
def test_each_mistake_is_told_where_it_is(fields: str, field: str, said: str) -> None:
    (mistake,) = _mistakes(_test(fields))
    assert mistake.startswith(f"p.yaml:14: experiments.tests.t.{field}: ")
    assert said in mistake


def test_a_test_may_not_be_called_as_the_holdout_is() -> None:
    (mistake,) = _mistakes("experiments: {tests: {holdout: {variants: {a: {}, b: {}}}}}")
    assert "another name" in mistake


def test_layers_that_change_the_same_are_warned_of() -> None:
    both = """
experiments:
  tests:
    one: {variants: {a: {}, b: {changes: {slots: 2}}}}
    two: {layer: other, placements: [home], variants: {a: {}, b: {changes: {slots: 3}}}}
"""
    (mistake,) = _mistakes(both)
    assert "warning: experiments.tests.two" in mistake
    assert "slots of home" in mistake
    assert _mistakes(both.replace("layer: other, ", "")) == []
    assert _mistakes(both.replace("slots: 3", "level: 3")) == []
    assert _mistakes(both.replace("[home]", "[]")) == []


@pytest.mark.parametrize(
    "garbage",
    [
        "experiments: 7",
        "experiments: {tests: [a]}",
        "experiments: {tests: {t: 3}}",
        "experiments: {tests: {t: {variants: [1], metrics: {a: 1}, promote: no, when: 4}}}",
        "experiments: {tests: {t: {variants: {a: 1, b: {changes: 2}}, promote: {floor: x}}}}",
    ],
)
def test_what_has_the_wrong_shape_is_left_to_the_model(garbage: str) -> None:
    assert _mistakes(garbage) == []
