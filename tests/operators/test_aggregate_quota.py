"""Is a hard cap over everybody never exceeded, whatever the shards decide and when?"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.aggregate_quota import Quota, part_of
from operators.plan import Plan
from operators.shard_state import StateError
from schemas.time import HOUR, MINUTE, parse_duration
from tests.operators.builders import T0, content, contents, plan, policy

SHARDS = 4


def capped(*caps: dict[str, Any], number: int = 4, **fields: Any) -> Plan:
    hard = [{"over": "everybody", "hard": True, **cap} for cap in caps]
    home = {"rewards": ["click"], "slots": 2, "caps": hard, **fields}
    return plan(policy(placements={"home": home}), contents(number))


def shards_of(of: Plan) -> list[Quota]:
    return [Quota(of, shard=shard, shards=SHARDS) for shard in range(SHARDS)]


def open_in(quota: Quota, of: Plan, at: int, slots: int = 2) -> list[str]:
    """What a slate may bear, as the placement's own caps say."""
    closed = quota.at_cap(of.placements["home"].policy.caps, at, slots=slots)
    return [c for i, c in enumerate(of.contents.ids) if closed is None or not closed[i]]


@given(st.text(max_size=8), st.integers(1, 1_000), st.integers(1, 64))
def test_the_parts_of_all_shards_are_the_whole(key: str, most: int, shards: int) -> None:
    parts = [part_of(key, most, shard=shard, shards=shards) for shard in range(shards)]
    assert sum(parts) == most
    assert max(parts) - min(parts) <= 1


def test_the_shards_that_have_one_more_differ_between_contents() -> None:
    first = Counter(
        next(s for s in range(8) if part_of(f"c:{i}", 1, shard=s, shards=8)) for i in range(400)
    )
    assert set(first) == set(range(8))
    assert max(first.values()) < 100


STEPS = st.lists(
    st.tuples(
        st.integers(0, SHARDS - 1),
        st.integers(0, 3 * HOUR),
        st.sampled_from(["decide", "decide", "decide", "expire", "restart"]),
    ),
    max_size=120,
)


@settings(max_examples=60)
@given(STEPS, st.integers(1, 9), st.integers(1, 9), st.sampled_from(["1m", "1h", "7777s"]))
def test_no_window_ever_holds_more_than_max(
    steps: list[tuple[int, int, str]], of_content: int, of_tag: int, within: str
) -> None:
    of = capped(
        {"max": of_content, "within": within},
        {"per": "tag", "max": of_tag, "within": within},
    )
    quotas = shards_of(of)
    floors = [T0] * SHARDS
    decided: list[tuple[str, int]] = []
    for shard, moved, what in steps:
        if what == "expire":
            floors[shard] = max(floors[shard], T0 + moved)
            quotas[shard].expire(floors[shard])
        elif what == "restart":
            kept, quotas[shard] = quotas[shard].encode(), Quota(of, shard=shard, shards=SHARDS)
            quotas[shard].restore(kept)
            assert quotas[shard].encode() == kept
        else:
            at = max(T0 + moved, floors[shard])  # out of order, but not before the watermark
            for content in open_in(quotas[shard], of, at)[:2]:
                quotas[shard].take(content, at)
                decided.append((content, at))
    for _, begin in decided:
        window = [c for c, at in decided if begin <= at <= begin + parse_duration(within)]
        assert max(Counter(window).values()) <= of_content
        tags = Counter(tag for c in window for tag in of.contents.by_id[c].tags)
        assert max(tags.values()) <= of_tag


def test_all_of_max_can_be_used_when_every_shard_decides() -> None:
    of = capped({"max": 10, "within": "1h"}, number=1)
    shown = 0
    for quota in shards_of(of):
        while open_in(quota, of, T0):
            quota.take("c1", T0)
            shown += 1
    assert shown == 10


def test_what_was_decided_leaves_with_its_window() -> None:
    of = capped({"max": SHARDS, "within": "1h"}, number=1)
    quota = shards_of(of)[0]
    quota.take("c1", T0)
    assert open_in(quota, of, T0 + HOUR) == []
    assert open_in(quota, of, T0 + HOUR + HOUR // 31) == ["c1"]


def test_a_slate_bears_a_tag_only_where_all_its_slots_may() -> None:
    of = capped({"per": "tag", "max": 3 * SHARDS, "within": "1h"})
    quota = shards_of(of)[0]
    quota.take("c1", T0)
    quota.take("c3", T0)
    assert open_in(quota, of, T0, slots=2) == ["c2", "c4"]
    assert open_in(quota, of, T0, slots=1) == ["c1", "c2", "c3", "c4"]


def test_a_content_of_two_full_tags_opens_with_the_later() -> None:
    listed = [content("both", tags=["x", "y"]), content("x", tags=["x"]), content("y", tags=["y"])]
    cap = {"per": "tag", "max": 1, "within": "1h", "over": "everybody", "hard": True}
    of = plan(policy(placements={"home": {"rewards": ["click"], "caps": [cap]}}), listed)
    for first, second in (("x", "y"), ("y", "x")):
        quota = Quota(of, shard=0, shards=1)
        quota.take(first, T0 + 30 * MINUTE)
        assert open_in(quota, of, T0, slots=1) == [second]
        quota.take(second, T0)
        assert open_in(quota, of, T0 + HOUR + 15 * MINUTE, slots=1) == [second]


def test_what_another_placement_decides_counts_and_only_declared_caps_refuse() -> None:
    of = capped({"max": SHARDS, "within": "1h"}, number=1)
    quota = shards_of(of)[0]
    assert quota.at_cap((), T0, slots=1) is None
    quota.take("c1", T0)
    assert quota.at_cap((), T0, slots=1) is None
    assert open_in(quota, of, T0) == []


def test_a_soft_cap_and_one_of_a_profile_are_not_a_quota() -> None:
    home = {
        "rewards": ["click"],
        "caps": [
            {"max": 1, "within": "1h"},
            {"max": 1, "within": "1h", "over": "everybody"},
        ],
    }
    of = plan(policy(placements={"home": home}), contents(2))
    quota = Quota(of, shard=0, shards=1)
    quota.take("c1", T0)
    assert quota.at_cap(of.placements["home"].policy.caps, T0, slots=1) is None


def test_another_policy_keeps_the_counts_it_asks_for() -> None:
    before = capped({"max": 2, "within": "1h"}, {"max": 1, "within": "2h"})
    after = capped({"max": 3, "within": "1h"})
    quota = Quota(before, shard=0, shards=1)
    quota.take("c1", T0)
    quota.take("c1", T0)
    resumed = Quota(after, shard=0, shards=1)
    resumed.restore(quota.encode())
    quota.adopt(after)
    assert resumed.encode() == quota.encode()
    for one in (quota, resumed):
        assert "c1" in open_in(one, after, T0)
        one.take("c1", T0)
        assert "c1" not in open_in(one, after, T0)


def test_a_withdrawn_content_is_not_held() -> None:
    of = capped({"max": 2, "within": "1h"})
    quota = Quota(of, shard=0, shards=1)
    empty = quota.encode()
    quota.take("c4", T0)
    quota.take("unknown", T0)
    quota.adopt(capped({"max": 2, "within": "1h"}, number=3))
    assert quota.encode() == empty


def test_state_is_bounded_however_long_it_runs_without_a_snapshot() -> None:
    of = capped({"max": 1_000, "within": "1h"}, number=1)
    quota = Quota(of, shard=0, shards=1)
    for minute in range(5_000):
        quota.take("c1", T0 + minute * MINUTE)
        quota.expire(T0 + minute * MINUTE)
    assert len(quota.encode()) < 1_000


def test_state_of_before_there_were_quotas_is_nothing_decided() -> None:
    of = capped({"max": 2, "within": "1h"})
    quota = Quota(of, shard=0, shards=1)
    quota.restore(b"")
    assert open_in(quota, of, T0) == list(of.contents.ids)


@pytest.mark.parametrize("encoded", [b"\x93\x63\x00\x80", b"nonsense"])
def test_damaged_state_is_refused(encoded: bytes) -> None:
    with pytest.raises(StateError, match="quotas' state"):
        Quota(capped(), shard=0, shards=1).restore(encoded)
