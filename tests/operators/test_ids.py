"""Ids and chance are fixed for good: state, topics and Redis hold them."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from operators.ids import decision_id, hash32, hash64, shard_key, shard_of, uniform


def test_hashes_never_change() -> None:
    """If this fails, every shard, slot and decision id of existing state is orphaned."""
    assert hash64("nextbest") == 6695205382285351527
    assert hash64("") == 13020603013274838756
    assert hash64("zażółć 🙂") == 16293579124485413521
    assert hash32("nextbest") == 2263789710
    assert shard_of("u1", shards=64) == 18
    assert uniform("a") == 0.18460693099188663


def test_a_decision_id_never_changes() -> None:
    made = decision_id(shard=7, profile_id="u1", trigger_id="e1", placement="home")
    assert made == "007-2749df32db550c450282df15"


@given(st.text(), st.integers(1, 4_096))
def test_a_shard_is_one_of_the_shards(profile_id: str, shards: int) -> None:
    assert 0 <= shard_of(profile_id, shards=shards) < shards


def test_shards_are_filled_evenly() -> None:
    held = Counter(shard_of(f"user-{i}", shards=64) for i in range(64_000))
    assert len(held) == 64
    # 1,000 expected with a standard deviation of 31: five of those either way.
    assert 845 < min(held.values()) <= max(held.values()) < 1_155


def test_shard_keys_sort_as_their_numbers_do() -> None:
    keys = [shard_key(shard) for shard in range(1_100)]
    assert keys == sorted(keys)


def test_a_decision_id_differs_with_each_of_its_causes() -> None:
    one = {"shard": 1, "profile_id": "u", "trigger_id": "e", "placement": "p"}
    others = [
        {**one, name: value}
        for name, value in (
            ("shard", 2),
            ("profile_id", "v"),
            ("trigger_id", "f"),
            ("placement", "q"),
        )
    ]
    ids = {decision_id(**cause) for cause in [one, *others]}  # type: ignore[arg-type]
    assert len(ids) == 5


def test_a_decision_id_begins_with_its_shard() -> None:
    for shard in (0, 63, 255, 4_095):
        made = decision_id(shard=shard, profile_id="u", trigger_id="e", placement="p")
        assert int(made.split("-")[0], 16) == shard


@given(st.text())
def test_chance_lies_between_zero_and_one_and_is_fixed_for_a_text(text: str) -> None:
    assert 0.0 <= uniform(text) < 1.0
    assert uniform(text) == uniform(text)


def test_chance_is_uniform_over_texts() -> None:
    tenths = Counter(int(uniform(f"d{i}|0") * 10) for i in range(20_000))
    assert sorted(tenths) == list(range(10))
    # 2,000 expected with a standard deviation of 42.
    assert all(1_790 < n < 2_210 for n in tenths.values())
