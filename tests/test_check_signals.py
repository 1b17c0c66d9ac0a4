"""What a check says of signals that read what is hidden, or divide what cannot be divided."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.check_conditions import Declared
from schemas.check_signals import check_signal
from schemas.documents import read_yaml

POLICY = """
sensitive: {tags: [health], attributes: [religion], properties: [income], context: []}
signals:
  views: {kind: count, events: view, within: 1d}
  taste: {kind: affinity, weights: {view: 1}}
  seen: {kind: last, events: view}
  half: {kind: ratio, of: views, to: views}
  asked: %s
"""


def mistakes(signal: str) -> list[str]:
    document, broken = read_yaml(POLICY % signal, name="p.yaml")
    assert document is not None
    assert not broken
    declared = Declared.by(document)
    asked: Any = declared.signals["asked"]
    return [str(m) for m in check_signal(document, declared, ("signals", "asked"), asked)]


@pytest.mark.parametrize(
    ("signal", "said"),
    [
        (
            "{kind: ratio, of: veiws, to: views}",
            "signals.asked.of: found 'veiws' - expected a declared signal: views "
            "(did you mean views?)",
        ),
        (
            "{kind: ratio, of: views, to: taste}",
            "signals.asked.to: found 'taste' - expected a signal that is one number, views: "
            "taste is of kind affinity",
        ),
        (
            "{kind: ratio, of: half, to: seen}",
            "signals.asked.of: found 'half' - expected a signal that is one number, views: "
            "half is of kind ratio",
        ),
        (
            "{kind: mean, events: buy, of: properties.income, within: 1d}",
            "signals.asked.of: found 'properties.income' - expected something that the policy "
            "does not list as sensitive",
        ),
        (
            "{kind: sequence, first: {events: view}, gap: 1h, within: 1d, "
            "then: {events: buy, where: {content.tags: [red, health]}}}",
            "signals.asked.then.where.content.tags.1: found 'health' - expected something that "
            "the policy does not list as sensitive",
        ),
        (
            "{kind: streak, events: view, per: day, where: {content.attributes.religion: a}}",
            "signals.asked.where.content.attributes.religion: found "
            "'content.attributes.religion' - expected something that the policy does not list "
            "as sensitive",
        ),
    ],
)
def test_a_mistake_names_the_field_and_what_was_expected(signal: str, said: str) -> None:
    assert mistakes(signal)[0] == f"p.yaml:8: {said}"


@pytest.mark.parametrize(
    "signal",
    [
        "{kind: ratio, of: views, to: views}",
        "{kind: ratio, of: [views], to: 3}",
        "{kind: sequence, first: nothing, gap: 1h, within: 1d}",
        "{kind: session, measure: depth, of: content.type}",
    ],
)
def test_what_is_right_and_what_the_model_reports_are_passed_over(signal: str) -> None:
    assert mistakes(signal) == []
