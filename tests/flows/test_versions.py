"""Is a publication whole and read back as it was, and who takes it over when? No servers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.in_force import InForce
from flows.kafka.compacted import Kept
from flows.load import ConfigError
from flows.publish_cli import Change, told
from flows.published import (
    CURRENT,
    NotWholeError,
    Published,
    checked,
    checksum,
    compiled,
    content_records,
    current_headers,
    whole,
)
from operators.parameters import LocalParameters
from operators.plan import Plan
from schemas.catalogue import Content
from schemas.digest import catalogue_version
from tests.operators.builders import content, contents, nothing_recorded, plan

POLICY = b"name: shop\nplacements: {home: {slots: 1}}\n"
RICH: list[dict[str, Any]] = [
    {"content_id": "a", "caps": [{"max": 2, "within": "1d"}], "valid_from": "2026-01-01T00:00:00Z"},
    {"content_id": "\u2028 b\u00e9", "attributes": {"size": 3, "on": True, "color": "red"}},
    {"content_id": "c", "eligibility": {"not_done": "view", "within": "90m"}, "stock": 0},
    {
        "content_id": "d",
        "eligibility": {"all": [{"done": "view", "within": "1d", "at_least": 2}]},
        "tags": ["x"],
    },
]


def kept(value: bytes, headers: tuple[tuple[str, bytes], ...] = ()) -> Kept:
    return Kept(value, headers, 0)


def topics(
    records: dict[bytes, bytes], *, policy: bytes = POLICY, digest: bytes = b"d1"
) -> tuple[dict[bytes, Kept], dict[bytes, Kept]]:
    policies = {digest: kept(policy), CURRENT: kept(digest, current_headers("v1", records))}
    return policies, {key: kept(value) for key, value in records.items()}


def test_nothing_was_ever_published() -> None:
    assert whole({}, {}) is None


def test_contents_are_read_back_as_they_were() -> None:
    listed = [*(Content.model_validate(c) for c in RICH), *contents()]
    found = checked(Published("d1", POLICY, None, content_records(listed)))
    assert not found.failed
    assert found.contents is not None
    assert catalogue_version(found.contents) == catalogue_version(listed)


def test_what_is_whole_is_compiled_under_the_names_that_it_was_published_with() -> None:
    published = whole(*topics(content_records(contents())))
    assert published is not None
    made = compiled(published)
    assert (made.policy_digest, made.catalogue_version) == ("d1", "v1")
    assert made.contents.ids == ("c1", "c2", "c3", "c4", "c5", "c6")


@given(st.data())
def test_any_record_changed_missing_or_more_is_not_whole(data: st.DataObject) -> None:
    records = content_records(contents())
    policies, catalogue = topics(records)
    key = data.draw(st.sampled_from([*records, b"other"]))
    value = data.draw(st.one_of(st.none(), st.binary(max_size=5)))
    if value is None:
        catalogue.pop(key, None)
    else:
        catalogue[key] = kept(value)
    if {k: v.value for k, v in catalogue.items()} == records:
        assert whole(policies, catalogue) is not None
        return
    with pytest.raises(NotWholeError, match="publish again"):
        whole(policies, catalogue)


def test_a_policy_that_is_missing_is_not_whole() -> None:
    policies, catalogue = topics(content_records(contents()))
    del policies[b"d1"]
    with pytest.raises(NotWholeError, match="'d1'"):
        whole(policies, catalogue)


def test_current_written_by_hand_goes_with_the_catalogue_that_is_there() -> None:
    policies, catalogue = topics(content_records(contents()))
    policies[CURRENT] = kept(b"d1\n")
    published = whole(policies, catalogue)
    assert published is not None
    made = compiled(published)
    assert (made.policy_digest, made.catalogue_version) == ("d1", catalogue_version(contents()))


def test_a_checksum_is_of_the_set_of_records() -> None:
    one = {b"a": b"1", b"b": b"2"}
    assert checksum(one) == checksum(dict(reversed(one.items())))
    assert len({checksum(one), checksum({b"a1": b"", b"b": b"2"}), checksum({b"a": b"1"})}) == 3


def test_mistakes_of_what_is_published_are_named() -> None:
    records = content_records([*contents(), content("x", placements=["nowhere"])])
    published = whole(*topics(records))
    assert published is not None
    with pytest.raises(ConfigError, match="nowhere"):
        compiled(published)


# Taking over.


def test_a_plan_is_taken_over_at_a_turn_and_told_once() -> None:
    offered = [plan()]
    taken: list[Plan] = []
    in_force = InForce(
        offered[0],
        LocalParameters(),
        adopt=nothing_recorded,
        newest=lambda: offered[-1],
        taken=taken.append,
    )
    first = in_force.decide
    assert in_force.turn() is first
    offered.append(plan(catalogue=contents(2)))
    assert in_force.decide is first
    second = in_force.turn()
    assert second is in_force.decide is in_force.turn()
    assert second.plan is offered[-1] is in_force.plan
    assert taken == [offered[-1]]


def test_without_publications_the_plan_stays() -> None:
    only = plan()
    in_force = InForce(only, LocalParameters(), adopt=nothing_recorded)
    assert in_force.turn() is in_force.decide
    assert in_force.plan is only


# What is printed.


def change(**fields: Any) -> Change:
    said: dict[str, Any] = {
        "policy_digest": "d2",
        "former_digest": "d1",
        "catalogue_version": "v2",
        "new": (),
        "changed": (),
        "withdrawn": (),
        "unchanged": 5,
        "written": 3,
        "restart": None,
    }
    return Change(**(said | fields))


def test_what_changed_is_said_and_long_lists_are_cut() -> None:
    many = tuple(f"c{n}" for n in range(12))
    lines = told(change(withdrawn=many, new=("x",)))
    assert lines[:2] == [
        "policy d2 (was d1)",
        "catalogue v2: 1 new, 0 changed, 12 withdrawn, 5 unchanged",
    ]
    assert "  new: x" in lines
    assert any(line.endswith("c9 and 2 more") for line in lines)
    assert "next batch" in lines[-1]


def test_what_needs_a_restart_is_said() -> None:
    assert told(change(restart="time"))[-1].endswith("restarted for this policy: time")


def test_nothing_to_publish_is_said() -> None:
    assert told(change(written=0)) == [
        "nothing to publish: policy d2 is in force with this catalogue"
    ]
