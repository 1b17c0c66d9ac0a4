"""Which pairs does each kind of model see, and what is a match?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from operators.crosses import Crosses, crosses_of
from operators.features import BIAS
from operators.ids import hash32
from operators.outputs import Example
from operators.plan import Plan
from operators.score import scorer_of
from tests.operators.builders import content, placement_policy, plan
from tests.operators.decision_builders import all_positions, features_of, learner

TASTE = {"kind": "affinity", "weights": {"view": 1}, "of": "content.tags"}
BITS = 14
MASK = (1 << BITS) - 1


def _plan(*, signals: dict[str, Any] | None = None, features: Any = None, **model: Any) -> Plan:
    top = {"signals": signals} if signals else None
    policy = placement_policy(model={"bits": BITS, **model}, top=top, features=features or {})
    return plan(
        policy,
        [
            content("a", tags=["red"]),
            content("b", tags=["blue"]),
            content("c", tags=["red"], sensitive=True),
        ],
    )


def _affinity() -> dict[str, Any]:
    return {"taste": TASTE}


def _crosses(of: Plan) -> Crosses:
    return crosses_of(of.models["home"], of.contents)


OWN = hash32("taste=red")
LOGGED = np.array([BIAS, OWN], np.int64)
PARTS = ("1", "id=a", "type=product", "tag=red")


def _pairs(own: int, *texts: str) -> set[int]:
    return {(own + hash32(f"content:{text}")) & MASK for text in texts}


def test_a_shared_model_sees_every_pair() -> None:
    found = _crosses(_plan()).example(LOGGED, 0)
    assert set(found) == _pairs(BIAS, *PARTS) | _pairs(OWN, *PARTS)


def test_a_model_per_content_sees_the_content_as_itself_only() -> None:
    crosses = _crosses(_plan(kind="per_content"))
    assert set(crosses.example(LOGGED, 0)) == _pairs(BIAS, "id=a") | _pairs(OWN, "id=a")
    # A sensitive content has no id to be known by.
    assert set(crosses.example(LOGGED, 2)) == _pairs(BIAS, "1") | _pairs(OWN, "1")


def test_popularity_knows_no_profile() -> None:
    crosses = _crosses(_plan(kind="popularity"))
    assert set(crosses.example(LOGGED, 0)) == _pairs(BIAS, *PARTS)
    assert crosses.example(LOGGED, 0) == crosses.example(np.array([BIAS], np.int64), 0)


def test_a_factorised_model_pairs_others_through_factors() -> None:
    crosses = _crosses(_plan(kind="factorised"))
    assert crosses.factors == 8
    found = set(crosses.example(LOGGED, 0))
    plain = {cell for cell in found if cell <= MASK}
    assert plain == _pairs(BIAS, *PARTS) | _pairs(OWN, "1")
    rows = crosses.factor_rows
    assert {c - MASK - 1 for c in found if MASK < c <= MASK + rows} == {
        int(c) & (rows - 1) for c in LOGGED
    }
    assert len([c for c in found if c > MASK + rows]) == len(PARTS)


def test_a_liking_matches_what_has_it_and_the_favourite_more() -> None:
    of = _plan(signals=_affinity())
    crosses = _crosses(of)
    own = np.array([BIAS, hash32("taste=red"), hash32("taste^red"), hash32("taste=green")])
    plain, favourite = hash32("match:taste") & MASK, hash32("match:taste^") & MASK
    assert {plain, favourite} <= set(crosses.example(own, 0))
    assert not {plain, favourite} & set(crosses.example(own, 1))
    # A sensitive content matches nothing.
    assert not {plain, favourite} & set(crosses.example(own, 2))


def test_matches_can_be_turned_off() -> None:
    assert _crosses(_plan(signals=_affinity())).matches
    assert not _crosses(_plan(signals=_affinity(), features={"match": False})).matches
    assert not _crosses(_plan(signals=_affinity(), kind="popularity")).matches


def test_a_liking_holds_for_a_content_never_shown() -> None:
    """Red is liked by who likes red: learned on some contents and tags, true of a new tag's."""
    tags = [f"t{n}" for n in range(8)]
    policy = placement_policy(
        model={"bits": BITS}, top={"signals": _affinity()}, features={"signals": ["taste"]}
    )
    of = plan(policy, [content(tag, tags=[tag]) for tag in tags])
    pupil = learner(of)
    for n in range(4_000):
        liked, shown = tags[n % 7], tags[(n // 7) % 7]
        logged = features_of(of, BIAS, hash32(f"taste={liked}"), hash32(f"taste^{liked}"))
        pupil.learn([Example("home", shown, logged, None, 1.0, n)])
        if liked == shown and n % 2:
            pupil.learn([Example("home", shown, logged, "click", 1.0, n)])
    scorer = scorer_of(of.models["home"], of.contents, pupil.publish())
    fan = scorer.score([BIAS, hash32("taste=t7"), hash32("taste^t7")], all_positions(of))
    assert int(fan.argmax()) == of.contents.index["t7"]
    stranger = scorer.score([BIAS, hash32("taste=zz"), hash32("taste^zz")], all_positions(of))
    assert fan[of.contents.index["t7"]] > 3 * stranger[of.contents.index["t7"]]


@pytest.mark.parametrize("kind", ["shared", "per_content", "popularity", "factorised"])
def test_two_pairs_in_one_cell_count_twice(kind: str) -> None:
    of = _plan(kind=kind, signals=_affinity())
    crosses = _crosses(of)
    own = np.array([BIAS, OWN, OWN + (1 << BITS)], np.int64)
    found = crosses.example(own, 0)
    expected = 1.0 if kind == "popularity" else 2.0
    assert max(found.values()) == expected
