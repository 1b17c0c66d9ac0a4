"""Are mistakes of audiences and of thresholds that follow feedback told, each where it stands?"""

from __future__ import annotations

import pytest

from schemas.audiences import Audiences, Follow
from schemas.check_audiences import check_audiences
from schemas.check_conditions import Declared
from schemas.documents import read_yaml

POLICY = """\
name: p
signals:
  views: {kind: count, events: view, within: 7d}
  taste: {kind: affinity, weights: {view: 1}}
  seen: {kind: last, events: view}
segments:
  keen:
    when: {all: [{signal: views, at_least: 5}, {done: view, within: 7d}]}
    follow: {signal: views, between: [2, 22], reward: click}
rewards:
  click: {events: click, value: 1, within: 1h}
placements: {home: {rewards: [click]}}
audiences: {signals: [views]}
"""


def told(text: str) -> list[tuple[str, str]]:
    document, _ = read_yaml(text, name="policy.yaml")
    assert document is not None
    found = check_audiences(document, Declared.by(document))
    return [(mistake.field, mistake.expected) for mistake in found]


def test_a_right_policy_has_no_mistake() -> None:
    assert told(POLICY) == []
    assert told(POLICY.replace("audiences: {signals: [views]}", "audiences: {}")) == []


@pytest.mark.parametrize(
    ("right", "wrong", "field", "expected"),
    [
        ("[views]", "[view]", "audiences.signals.0", "a signal that is one number: views"),
        ("[views]", "[taste]", "audiences.signals.0", "a signal that is one number"),
        ("reward: click", "reward: clik", "segments.keen.follow.reward", "a declared reward"),
        ("{signal: views, b", "{signal: vews, b", "segments.keen.follow.signal", "a declared"),
        ("{signal: views, b", "{signal: seen, b", "segments.keen.follow.signal", "last is not"),
        ("at_least: 5", "at_most: 5", "segments.keen.follow", "at_least of views once"),
        ("at_least: 5", "at_least: 1", "segments.keen.follow.between", "hold the declared"),
        (
            "{done: view, within: 7d}",
            "{signal: views, at_least: 9}",
            "segments.keen.follow",
            "once in the segment's condition",
        ),
        (
            "{signal: views, at_least: 5}",
            "{not: {signal: views, at_least: 5}}",
            "segments.keen.follow",
            "not within a not",
        ),
        ("kind: count", "kind: first", "audiences", "a declared signal that is one number"),
    ],
)
def test_a_mistake_is_told_where_it_stands(
    right: str, wrong: str, field: str, expected: str
) -> None:
    assert right in POLICY
    found = told(POLICY.replace(right, wrong, 1))
    assert [said for where, said in found if where == field and expected in said], found


@pytest.mark.parametrize(
    "shape",
    ["audiences: 3", "audiences: {signals: 3}", "segments: {keen: {follow: 3}}", "segments: 3"],
)
def test_what_has_the_wrong_shape_is_passed_over(shape: str) -> None:
    assert told(f"name: p\nsignals: {{views: {{kind: count}}}}\n{shape}\n") == []


@pytest.mark.parametrize("wrong", [[22, 2], [2, 2], [2]])
def test_bounds_that_are_no_range_are_refused(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match="between"):
        Follow.model_validate({"signal": "views", "between": wrong, "reward": "click"})


@pytest.mark.parametrize(
    "wrong",
    [{"clusters": 1}, {"every": "1m"}, {"signals": []}, {"signals": ["a", "a"]}, {"memory": 10}],
)
def test_audiences_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Audiences.model_validate(wrong)
