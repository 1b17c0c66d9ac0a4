"""Does the numpy scorer say what River itself would say, for all contents at once?"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import operators.score
from operators.features import crossed_cells
from operators.ids import hash32, uniform
from operators.parameters import ParameterSet
from operators.plan import Plan
from schemas.catalogue import Content
from tests.operators.builders import content, placement_policy, plan
from tests.operators.decision_builders import (
    PaperModel,
    all_positions,
    example,
    features_of,
    known_set,
    learner,
    rivers,
    scorer_of,
)

TWO_REWARDS = {
    "click": {"events": "click", "value": 1, "within": "30m"},
    "buy": {"events": "purchase", "value": 20, "times": "margin", "within": "1d"},
}


def _catalogue() -> list[Content]:
    """Contents of different widths, one of them sensitive, one without tags."""
    return [
        content("a", tags=["red", "new"], attributes={"brand": "x", "price": 9.5}, margin=0.5),
        content("b", tags=["red"], attributes={"price": 120.0}),
        content("c", tags=["blue", "new", "sale"], margin=2.0),
        content("d"),
        content("e", tags=["red"], sensitive=True),
        content("f", tags=["blue"], attributes={"brand": "y", "in_season": True}, margin=-1.0),
    ]


def _two_heads(bits: int) -> Plan:
    policy = placement_policy(rewards=TWO_REWARDS, model={"bits": bits})
    both = policy.placements["home"].model_copy(update={"rewards": ("click", "buy")})
    return plan(policy.model_copy(update={"placements": {"home": both}}), _catalogue())


def _people(number: int) -> list[list[int]]:
    return [
        [hash32("1"), *(hash32(f"taste={uniform(f'{p}|{i}') * 9:.0f}") for i in range(p % 7))]
        for p in range(number)
    ]


def _crossed(of: Plan, person: list[int], content_id: str) -> dict[int, float]:
    placement = of.placements["home"]
    index = of.contents.index[content_id]
    own = placement.cells[index][placement.real[index] > 0]
    cells = crossed_cells(np.array(person, np.int64), own, bits=placement.policy.model.bits)
    return {cell: float(times) for cell, times in Counter(cells).items()}


def _taught(of: Plan, *, examples: int) -> tuple[ParameterSet, dict[str, PaperModel]]:
    """What the learner publishes after some examples, and River taught the same ones."""
    taught = learner(of)
    river = {head: rivers(taught) for head in of.placements["home"].heads}
    people = _people(12)
    ids = of.contents.ids
    for n in range(examples):
        person = people[int(uniform(f"{n}|who") * len(people))]
        shown = ids[int(uniform(f"{n}|what") * len(ids))]
        kind = (None, None, "click", "buy")[int(uniform(f"{n}|kind") * 4)]
        weight = 4.0 if kind is None else 1.0
        features = features_of(of, *person)
        taught.learn([example(of, shown, kind=kind, weight=weight, features=features)])
        for head in river if kind is None else [kind]:
            cells = _crossed(of, person, shown)
            river[head].learn(cells, rewarded=kind is not None, weight=weight)
    return taught.publish(), river


@pytest.mark.parametrize("bits", [10, 18])
def test_the_scorer_agrees_with_river_for_every_candidate_and_reward_kind(bits: int) -> None:
    of = _two_heads(bits)
    parameters, river = _taught(of, examples=400)
    assert parameters.heads == ("click", "buy")
    spread = []
    for row, head in enumerate(parameters.heads):
        only = np.zeros((2, len(of.contents.ids)))
        only[row] = 1.0
        scorer = scorer_of(of, parameters, values=only)
        for person in _people(12):
            scores = scorer.score(person, all_positions(of))
            said = [river[head].predict(_crossed(of, person, c)) for c in of.contents.ids]
            assert scores == pytest.approx(said, abs=1e-5)
            spread += said
    assert max(spread) - min(spread) > 0.2, "the models have learned nothing to compare"


def test_a_tiny_table_has_collisions_that_learning_and_scoring_count_alike() -> None:
    of = _two_heads(10)
    # Two profile features a table's width apart share every cell: each cross counts twice.
    person = [hash32("1"), 5, 5 + 1024]
    taught = learner(of)
    river = rivers(taught)
    for n in range(60):
        kind = "click" if n % 3 == 0 else None
        taught.learn([example(of, "a", kind=kind, features=features_of(of, *person))])
        river.learn(_crossed(of, person, "a"), rewarded=n % 3 == 0, weight=1.0)
    assert 2.0 in _crossed(of, person, "a").values()
    clicks = np.array([[1.0] * 6, [0.0] * 6])
    scores = scorer_of(of, taught.publish(), values=clicks).score(person, all_positions(of))
    said = [river.predict(_crossed(of, person, c)) for c in of.contents.ids]
    assert scores == pytest.approx(said, abs=1e-5)
    assert scores[0] > 0.1


def test_a_score_is_the_sum_of_value_times_probability_margins_and_dislikes_included() -> None:
    rewards = {
        "buy": {"events": "purchase", "value": 10, "times": "margin", "within": "1d"},
        "dislike": {"events": "dislike", "value": -2, "within": "1d"},
    }
    policy = placement_policy(rewards=rewards | {"click": TWO_REWARDS["click"]})
    both = policy.placements["home"].model_copy(update={"rewards": ("buy", "dislike")})
    of = plan(policy.model_copy(update={"placements": {"home": both}}), _catalogue())
    scores = scorer_of(of, known_set(of, {"a": 0.2, "b": 0.2, "f": 0.1})).score(
        [hash32("1")], all_positions(of)
    )
    # The margins are 0.5, absent (counts as 1) and -1.
    assert scores[0] == pytest.approx(0.2 * (10 * 0.5 - 2), abs=1e-6)
    assert scores[1] == pytest.approx(0.2 * (10 - 2), abs=1e-6)
    assert scores[5] == pytest.approx(0.1 * (-10 - 2), abs=1e-6)


def test_scores_follow_the_candidates_asked_for_in_their_order() -> None:
    of = plan(placement_policy(), _catalogue())
    scorer = scorer_of(of, known_set(of, {"a": 0.2, "b": 0.3, "c": 0.4}))
    everything = scorer.score([hash32("1")], all_positions(of))
    some = np.array([2, 0, 5])
    assert scorer.score([hash32("1")], some).tolist() == everything[some].tolist()
    assert scorer.score([hash32("1")], some[:0]).tolist() == []


def test_more_profile_features_than_the_scorer_keeps_change_no_score() -> None:
    of = _two_heads(12)
    parameters, _ = _taught(of, examples=200)
    worn = scorer_of(of, parameters)
    everything = all_positions(of)
    crowd = [[hash32("1"), *(hash32(f"p{p}|{i}") for i in range(6))] for p in range(800)]
    answers = [worn.score(person, everything).tolist() for person in crowd]
    assert len(worn._row_of) <= len(worn._rows) <= 4_096
    for p in (0, 1, 340, 341, 342, 799):
        fresh = scorer_of(of, parameters)
        assert fresh.score(crowd[p], everything).tolist() == answers[p]
        assert worn.score(crowd[p], everything).tolist() == answers[p]


def test_a_profile_wider_than_all_the_rows_kept_is_scored_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of = _two_heads(12)
    parameters, _ = _taught(of, examples=200)
    wide = [hash32(f"p{i}") for i in range(70)]
    roomy = scorer_of(of, parameters).score(wide, all_positions(of)).tolist()
    monkeypatch.setattr(operators.score, "_KEPT_CELLS", 1)
    tight = scorer_of(of, parameters)
    for _ in range(3):
        assert tight.score(wide, all_positions(of)).tolist() == roomy
        tight.score(wide[:5], all_positions(of))


def test_what_is_little_known_has_the_wider_spread_and_learning_narrows_it() -> None:
    of = plan(placement_policy(exploration={"optimism": 1.0}), _catalogue())
    taught, person = learner(of), [hash32("1"), hash32("taste=x")]
    widths = []
    for n in range(1, 601):
        kind = "click" if n % 4 == 0 else None
        taught.learn([example(of, "a", kind=kind, features=features_of(of, *person))])
        if n in (20, 600):
            parameters = taught.publish()
            spread = scorer_of(of, parameters).spread(person, all_positions(of))
            assert spread is not None
            assert (spread > 0).all()
            widths.append(spread[0])
            # d shares nothing with a but the bias and its type.
            scores = scorer_of(of, parameters).score(person, all_positions(of))
            assert spread[3] / scores[3] > spread[0] / scores[0]
    assert widths[1] < widths[0]


def test_the_spread_of_what_was_never_seen_is_that_of_the_prior() -> None:
    of = plan(placement_policy(exploration={"kind": "thompson"}), _catalogue())
    scorer = scorer_of(of, learner(of).publish())
    spread = scorer.spread([hash32("1"), 7], np.array([2, 0]))
    raised = 1 / (1 + 19 * np.exp(-1.5))
    assert spread == pytest.approx([raised - 0.05] * 2, abs=1e-6)


def test_without_evidence_there_is_no_spread() -> None:
    of = plan(placement_policy(exploration={"optimism": 0.0}), _catalogue())
    parameters = learner(of).publish()
    assert parameters.evidence is None
    assert scorer_of(of, parameters).spread([hash32("1")], all_positions(of)) is None
