"""Does a slate repeat a value only as often as its placement allows?"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.diversity import Limit, compile_limits
from operators.explore import draw_slate
from operators.ids import uniform
from schemas.learning import Exploration
from schemas.placements import Diversity
from tests.operators.catalogues import compiled


def limits(*diversity: tuple[str, int], of: list[dict[str, Any]]) -> Limit:
    made = compile_limits(
        tuple(Diversity(by=by, most=most) for by, most in diversity), compiled(*of)
    )
    assert made is not None
    return made


def opened(limit: Limit, *chosen: int) -> list[int] | None:
    """The candidates that may still follow; None: all."""
    flags = limit.open(chosen)
    return None if flags is None else np.flatnonzero(flags).tolist()


def test_a_placement_without_diversity_limits_nothing() -> None:
    assert compile_limits((), compiled({}, {})) is None


def test_at_first_everything_is_open() -> None:
    assert limits(("type", 1), of=[{}, {}]).open([]) is None


def test_one_of_a_type_closes_the_others_of_that_type() -> None:
    limit = limits(("type", 1), of=[{"type": "a"}, {"type": "b"}, {"type": "a"}])
    assert opened(limit, 0) == [1]
    assert opened(limit, 1) == [0, 2]
    assert opened(limit, 0, 1) == []


def test_two_of_a_brand_may_be_there() -> None:
    brands = [{"attributes": {"brand": brand}} for brand in "xxxy"]
    limit = limits(("attributes.brand", 2), of=brands)
    assert opened(limit, 0) is None
    assert opened(limit, 0, 2) == [3]


def test_each_tag_is_limited_by_itself() -> None:
    tags = [["t", "u"], ["u"], ["v", "t"], ["w"], []]
    limit = limits(("tags", 1), of=[{"tags": given} for given in tags])
    assert opened(limit, 0) == [3, 4]
    assert opened(limit, 3) == [0, 1, 2, 4]


def test_a_tag_given_twice_counts_once() -> None:
    limit = limits(("tags", 2), of=[{"tags": ["t", "t"]}, {"tags": ["t"]}, {"tags": ["t"]}])
    assert opened(limit, 0) is None


def test_a_content_without_the_field_is_never_limited() -> None:
    limit = limits(("attributes.brand", 1), of=[{}, {}, {"attributes": {"brand": "x"}}])
    assert opened(limit, 0, 1) is None
    assert opened(limit, 2) == [0, 1]


def test_the_fields_of_a_sensitive_content_are_not_read() -> None:
    limit = limits(
        ("type", 1),
        ("tags", 1),
        of=[{"tags": ["t"], "sensitive": True}, {"tags": ["t"], "type": "other"}],
    )
    assert opened(limit, 0) is None
    assert opened(limit, 1) == [0]


def test_true_and_one_are_different_values_and_three_is_three() -> None:
    values = [True, 1.0, 3, 3.0]
    limit = limits(("attributes.v", 1), of=[{"attributes": {"v": value}} for value in values])
    assert opened(limit, 0) == [1, 2, 3]
    assert opened(limit, 2) == [0, 1]


def test_several_limits_hold_together() -> None:
    of = [
        {"type": "a", "attributes": {"brand": "x"}},
        {"type": "b", "attributes": {"brand": "x"}},
        {"type": "a", "attributes": {"brand": "y"}},
        {"type": "b", "attributes": {"brand": "y"}},
    ]
    assert opened(limits(("type", 1), ("attributes.brand", 1), of=of), 0) == [3]


def test_limits_narrow_to_the_candidates_of_a_decision() -> None:
    kinds = [{"type": kind} for kind in "abab"]
    limit = limits(("type", 1), of=kinds).among(np.array([3, 0, 1]))
    assert opened(limit, 0) == [1]
    assert opened(limit, 1) == [0, 2]


types = st.lists(st.sampled_from("abcd"), min_size=1, max_size=8)


@given(
    types=types,
    most=st.integers(1, 3),
    slots=st.integers(1, 8),
    seed=st.integers(0, 1_000),
    fixed=st.dictionaries(st.integers(0, 7), st.integers(0, 7), max_size=2),
    kind=st.sampled_from(["igw", "uniform", "greedy", "thompson", "softmax"]),
)
def test_no_slate_breaks_its_limit_and_none_ends_short_for_nothing(
    types: list[str],
    most: int,
    slots: int,
    seed: int,
    fixed: dict[int, int],
    kind: str,
) -> None:
    count = len(types)
    put: dict[int, int] = {}
    for rank, at in fixed.items():
        if at < count and at not in put.values():
            put[rank] = at
    limit = limits(("type", most), of=[{"type": name} for name in types])
    drawn = draw_slate(
        np.linspace(0.1, 0.9, count),
        count=count,
        slots=slots,
        exploration=Exploration.model_validate({"kind": kind, "draws": 16}),
        rewarded=3,
        chances=[uniform(f"{seed}|{rank}") for rank in range(slots)],
        spread=np.full(count, 0.2),
        fixed=put,
        limit=limit,
    )
    items = [item.position for item in drawn]
    assert len(set(items)) == len(items)
    pinned = {at for rank, at in put.items() if rank < min(slots, count)}
    assert pinned <= set(items)
    assert {item.position for item in drawn if not item.learnable} == pinned
    often = Counter(types[at] for at in items)
    by_hand = Counter(types[at] for at in pinned)
    assert all(often[name] <= max(most, by_hand[name]) for name in often)
    if len(items) < min(slots, count):
        left = [at for at in range(count) if at not in items]
        assert all(often[types[at]] >= most for at in left)


@pytest.mark.parametrize("scores", [None, np.array([0.9, 0.8, 0.1, 0.2])])
def test_what_is_fixed_below_counts_for_the_ranks_above(scores: Any) -> None:
    limit = limits(("type", 1), of=[{"type": kind} for kind in "aabb"])
    drawn = draw_slate(
        scores,
        count=4,
        slots=2,
        exploration=Exploration(kind="greedy"),
        rewarded=0,
        chances=[0.0, 0.0],
        fixed={1: 1},
        limit=limit,
    )
    assert drawn[0].position in (2, 3)
    assert drawn[1].position == 1


def test_where_the_limit_leaves_nothing_what_is_fixed_below_moves_up() -> None:
    limit = limits(("type", 1), of=[{"type": kind} for kind in "aab"])
    drawn = draw_slate(
        np.array([0.3, 0.2, 0.1]),
        count=3,
        slots=3,
        exploration=Exploration(kind="greedy"),
        rewarded=0,
        chances=[0.0] * 3,
        fixed={2: 2},
        limit=limit,
    )
    assert [(d.position, d.learnable) for d in drawn] == [(0, True), (2, False)]
