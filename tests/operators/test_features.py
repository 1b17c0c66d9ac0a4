"""What does the model see of a profile and a content, and what does it never see?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.features import Hashes, content_cells, content_features, crossed_cells, number_bin
from operators.ids import hash32
from operators.moment import Context
from operators.plan import Plan
from operators.profile import Profile
from schemas.policy import Sensitive
from tests.operators.builders import T0, arrived, content, placement_policy, plan, profile
from tests.operators.decision_builders import DAY, HOUR, deciding, follow

SIGNALS: dict[str, Any] = {
    "views": {"kind": "count", "events": "view", "within": "7d"},
    "spent": {"kind": "sum", "events": "purchase", "of": "value", "within": "30d"},
    "seen": {"kind": "last", "events": "view"},
    "taste": {"kind": "affinity", "weights": {"view": 1, "like": 3}, "half_life": "7d"},
}
SEGMENTS: dict[str, Any] = {
    "busy": {"when": {"signal": "views", "at_least": 2}},
    "buyer": {"when": {"done": "purchase", "within": "30d"}},
}


def _plan(level: int = 5, *, sensitive: dict[str, Any] | None = None, **features: Any) -> Plan:
    policy = placement_policy(
        level=level,
        features=features,
        top={"signals": SIGNALS, "segments": SEGMENTS, "sensitive": sensitive or {}},
    )
    return plan(
        policy,
        [
            content("shoe", tags=["red", "leather"]),
            content("hat", tags=["blue"]),
            content("pill", tags=["illness"], attributes={"dose": 3}, sensitive=True),
        ],
    )


def _busy(of: Plan) -> Profile:
    """A profile that viewed shoes twice and bought one."""
    person, _ = follow(
        deciding(of),
        [
            arrived("view", content_id="shoe"),
            arrived("view", content_id="shoe", at=T0 + HOUR),
            arrived("purchase", content_id="shoe", value=40.0, at=T0 + 2 * HOUR),
            arrived("profile_updated", attributes={"city": "Bern", "age": 41}, at=T0 + 2 * HOUR),
        ],
    )
    return person


def _cells(of: Plan, person: Profile, context: Context | None = None) -> list[int]:
    return of.placements["home"].features.cells(person, T0 + 2 * HOUR, context or {})


def _has(cells: list[int], text: str) -> bool:
    return hash32(text) in cells


CHOSEN: dict[str, Any] = {"context": ["device"], "attributes": ["city"]}
BY_LEVEL = {
    1: ["segment=busy", "segment=buyer"],
    2: ["views~1", "spent~5", "seen~2", "taste=red", "taste=leather"],
    3: ["context.device=phone"],
    4: ["own.city=Bern"],
    5: ["profile=u1"],
}


@pytest.mark.parametrize("level", range(6))
def test_what_the_model_sees_grows_with_the_level(level: int) -> None:
    of = _plan(level, **CHOSEN)
    cells = _cells(of, _busy(of), {"device": "phone", "os": "x"})
    for needed, texts in BY_LEVEL.items():
        assert [_has(cells, text) for text in texts] == [needed <= level] * len(texts), needed
    assert cells[0] == hash32("1")
    assert len(cells) == len(set(cells))


def test_only_the_named_context_and_attributes_are_features() -> None:
    of = _plan(**CHOSEN)
    person = _busy(of)
    with_more = _cells(of, person, {"device": "phone", "os": "x", "locale": "de"})
    assert with_more == _cells(of, person, {"device": "phone"})
    assert not _has(with_more, "own.age~10.0")


def test_absent_and_null_values_give_no_feature() -> None:
    of = _plan(**CHOSEN)
    assert _cells(of, profile(), {"device": None}) == _cells(of, profile(), {})


def test_small_whole_numbers_are_categories_and_other_numbers_are_binned() -> None:
    of = _plan(3, context=["hour", "width", "flag"])
    assert _has(_cells(of, profile(), {"hour": 23}), "context.hour=23")
    assert _has(_cells(of, profile(), {"width": 1_080}), f"context.width~{number_bin(1_080)}")
    assert _has(_cells(of, profile(), {"hour": 1.5}), "context.hour~1.0")
    assert _has(_cells(of, profile(), {"flag": True}), "context.flag=True")


@pytest.mark.parametrize("whole, point", [(3, 3.0), (0, 0.0)])
def test_a_whole_number_is_one_category_however_the_client_writes_it(
    whole: int, point: float
) -> None:
    of = _plan(3, context=["hour"])
    assert _cells(of, profile(), {"hour": whole}) == _cells(of, profile(), {"hour": point})


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_number_has_a_bin_and_signs_are_apart(number: float) -> None:
    name = number_bin(number)
    assert name.startswith("-") or number >= 0
    if abs(number) > 1e-300 and abs(number) < 1e300:
        assert number_bin(number * 4) != name or number == 0


def test_a_feature_outlives_its_signals_window_only_as_zero() -> None:
    of = _plan(2)
    person = _busy(of)
    features = of.placements["home"].features
    later = features.cells(person, T0 + 60 * DAY, {})
    assert _has(later, "views~0")
    assert _has(later, "spent~0")
    assert not _has(later, "views~1")


def test_sensitive_fields_are_never_features_of_a_profile() -> None:
    sensitive = {"context": ["device"], "attributes": ["city"], "tags": ["leather"]}
    of = _plan(sensitive=sensitive, **CHOSEN)
    cells = _cells(of, _busy(of), {"device": "phone"})
    for text in ("context.device=phone", "own.city=Bern", "taste=leather"):
        assert not _has(cells, text)
    assert _has(cells, "taste=red")


def test_a_sensitive_content_has_no_features_but_the_bias() -> None:
    pill = content("pill", tags=["illness"], attributes={"dose": 3}, sensitive=True)
    assert content_features(pill, Sensitive()) == ["1"]


def test_sensitive_tags_and_attributes_are_no_features_of_a_content() -> None:
    shoe = content("shoe", tags=["red", "secret"], attributes={"brand": "x", "diet": "y"})
    found = content_features(shoe, Sensitive(tags=("secret",), attributes=("diet",)))
    assert found == ["1", "id=shoe", "type=product", "tag=red", "brand=x"]


@pytest.mark.parametrize(
    "signal",
    [
        {"kind": "affinity", "weights": {"view": 1}, "of": "content_id"},
        {"kind": "affinity", "weights": {"view": 1}, "of": "properties.topic"},
        {"kind": "distinct", "events": "view", "of": "content_id", "within": "7d"},
        {"kind": "count", "events": "view", "within": "7d"},
        {"kind": "last", "events": "view"},
        {"kind": "sum", "events": "view", "of": "value", "within": "7d"},
    ],
    ids=lambda signal: f"{signal['kind']} of {signal.get('of')}",
)
def test_touching_a_sensitive_content_leaves_no_trace_in_the_signals(
    signal: dict[str, Any],
) -> None:
    policy = placement_policy(level=5, top={"signals": {"trace": signal}})
    of = plan(policy, [content("shoe"), content("pill", tags=["illness"], sensitive=True)])
    touched = arrived("view", content_id="pill", value=3.0, properties={"topic": "illness"})
    person, _ = follow(deciding(of), [touched])
    assert person.signals == {}
    assert _cells(of, person) == _cells(of, profile())


def test_content_rows_of_different_length_are_padded_and_the_padding_counts_for_nothing() -> None:
    rows = [["1", "id=a", "tag=x"], ["1"], []]
    cells, real = content_cells(rows, Hashes())
    assert cells.shape == real.shape == (3, 3)
    assert real.sum(axis=1).tolist() == [3, 1, 0]
    assert cells[0].tolist() == [hash32(f"content:{text}") for text in rows[0]]


@given(
    own=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=6),
    other=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=6),
    bits=st.sampled_from([10, 18, 24]),
)
def test_every_profile_feature_is_crossed_with_every_content_feature(
    own: list[int], other: list[int], bits: int
) -> None:
    crossed = crossed_cells(np.array(own, np.int64), np.array(other, np.int64), bits=bits)
    assert sorted(crossed) == sorted((a + b) % 2**bits for a in own for b in other)


def test_forgetting_remembered_hashes_changes_no_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("operators.features._REMEMBERED", 3)
    hashes = Hashes()
    texts = [f"t{n % 7}" for n in range(40)]
    assert [hashes(text) for text in texts] == [hash32(text) for text in texts]
