"""Does a mistake in `predictions` come out with its place and what was expected?"""

from __future__ import annotations

from textwrap import dedent

import pytest

from schemas.check_conditions import Declared
from schemas.check_predictions import check_predictions
from schemas.documents import read_yaml
from schemas.mistakes import Mistake
from schemas.policy import Policy
from schemas.validation import validate

_REST = """
name: test
placements: {home: {}}
signals:
  views: {kind: count, events: view, within: 7d}
  orders: {kind: count, events: purchase, within: 90d}
segments:
  vip: {when: {signal: orders, at_least: 5}}
  likely: {when: {prediction: p, at_least: 0.5}}
retention: {profile_ttl: 60d}
sensitive: {attributes: [illness], properties: [diagnosis]}
predictions:
  p:
"""


def _mistakes(prediction: str) -> list[Mistake]:
    text = _REST + "\n".join(f"    {line}" for line in dedent(prediction).strip().splitlines())
    document, broken = read_yaml(text, name="policy.yaml")
    assert document is not None
    assert not broken
    return list(check_predictions(document, Declared.by(document)))


@pytest.mark.parametrize(
    ("prediction", "found", "expected"),
    [
        ("target: {segment: vop}", "'vop'", "did you mean vip"),
        ("target: {done: taste_reset, within: 7d}", "'taste_reset'", "an event of behaviour"),
        ("target: {done: view, within: 60d}", "'60d'", "retention.profile_ttl (60d)"),
        (
            "target: {sum: view, of: properties.diagnosis, within: 7d}",
            "properties.diagnosis",
            "does not list as sensitive",
        ),
        (
            "target: {done: view, within: 7d, where: {properties.diagnosis: x}}",
            "properties.diagnosis",
            "does not list as sensitive",
        ),
        (
            "target: {done: view, within: 7d}\nfeatures: {signals: [view]}",
            "'view'",
            "did you mean views",
        ),
        (
            "target: {done: view, within: 7d}\nfeatures: {attributes: [illness]}",
            "'illness'",
            "does not list as sensitive",
        ),
        (
            "target: {done: view, within: 7d}\nfeatures: {segments: [likely]}",
            "'likely'",
            "feed on itself",
        ),
        (
            "target: {segment: vip}\nfeatures: {signals: [orders]}",
            "'orders'",
            "repeat its definition",
        ),
        (
            "target: {segment: vip}\nfeatures: {segments: [vip]}",
            "'vip'",
            "repeat its definition",
        ),
    ],
)
def test_a_mistake_says_what_was_expected(prediction: str, found: str, expected: str) -> None:
    [mistake] = _mistakes(prediction)
    assert found.strip("'") in mistake.found
    assert expected in mistake.expected
    assert mistake.severity == "error"


def test_cases_more_often_than_are_kept_are_worth_a_warning() -> None:
    [mistake] = _mistakes("target: {done: view, within: 16d}\nevery: 1d")
    assert mistake.severity == "warning"
    assert "2d" in mistake.expected


@pytest.mark.parametrize(
    "prediction",
    [
        "target: {done: purchase, within: 7d}\nfeatures: {signals: [orders], segments: [vip]}",
        "target: {segment: vip}\nfeatures: {signals: [views]}",
        "target: {not_done: [view, purchase], within: 30d}",
    ],
)
def test_what_is_right_has_no_mistakes(prediction: str) -> None:
    assert _mistakes(prediction) == []


def test_the_wrong_shape_is_the_models_to_report() -> None:
    for prediction in ("target: 3", "target: {done: 3, within: x}", "features: [a]\nevery: often"):
        assert _mistakes(prediction) == []


def test_a_prediction_of_the_context_is_refused_with_what_is_there() -> None:
    text = _REST + "    target: {done: view, within: 7d}\n    features: {context: [device]}\n"
    document, _ = read_yaml(text, name="policy.yaml")
    assert document is not None
    policy, mistakes = validate(Policy, document)
    assert policy is None
    [mistake] = mistakes
    assert "signals" in mistake.expected
