"""The golden record: which source is believed, and that the order of arrival changes nothing."""

from __future__ import annotations

from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from operators.golden_record import (
    MOST_ATTRIBUTES,
    MOST_CHARACTERS,
    MOST_SOURCES,
    Records,
    choose,
    fold,
    state,
)
from operators.profile import Profile
from schemas.events import Scalar
from schemas.identity import Attributes, Identity
from tests.operators.builders import T0, arrived, profile

RULES: Final = ("recency", "priority", "most_complete")


def policy(rule: str = "recency", *sources: str) -> Identity:
    return Identity.model_validate({"attributes": {"rule": rule, "sources": sources or ["crm"]}})


def stated(
    held: Profile, source: str | None, at: int, identity: Identity | None, **attributes: Scalar
) -> None:
    event = arrived("profile_updated", at=T0 + at, source=source, attributes=attributes)
    fold(held, event, identity)


def test_by_recency_the_newest_statement_is_believed() -> None:
    held = profile()
    stated(held, "crm", 5, policy(), city="Ulm")
    stated(held, "app", 3, policy(), city="Bonn", plan="free")
    assert held.attributes == {"city": "Ulm", "plan": "free"}
    assert held.provenance == {"city": ("crm", T0 + 5), "plan": ("app", T0 + 3)}


def test_by_priority_the_first_source_is_believed_then_the_next() -> None:
    identity = policy("priority", "crm", "app")
    held = profile()
    stated(held, "web", 9, identity, city="Rome", age=3, plan="free")
    stated(held, "app", 5, identity, city="Bonn", age=2)
    stated(held, "crm", 1, identity, city="Ulm")
    assert held.attributes == {"city": "Ulm", "age": 2, "plan": "free"}
    assert held.provenance["city"] == ("crm", T0 + 1)


def test_the_source_that_states_most_is_believed_as_a_whole() -> None:
    identity = policy("most_complete", "app")
    held = profile()
    stated(held, "web", 9, identity, city="Rome")
    stated(held, "crm", 1, identity, city="Ulm", age=2)
    assert held.attributes == {"city": "Ulm", "age": 2}
    stated(held, "crm", 10, identity, age=None)
    # One attribute each: of two equally complete sources the newer.
    assert held.attributes == {"city": "Rome"}


@pytest.mark.parametrize("rule", RULES)
def test_what_a_source_takes_back_leaves_the_others_word(rule: str) -> None:
    identity = policy(rule, "crm")
    held = profile()
    stated(held, "app", 1, identity, city="Bonn")
    stated(held, "crm", 2, identity, city="Ulm")
    stated(held, "crm", 3, identity, city=None)
    assert held.attributes == {"city": "Bonn"}
    assert held.provenance == {"city": ("app", T0 + 1)}
    stated(held, "crm", 2, identity, city="Ulm")
    assert held.attributes == {"city": "Bonn"}, "an older statement does not bring it back"


def test_without_a_policy_for_sources_the_newest_statement_holds() -> None:
    for identity in (None, Identity()):
        held = profile()
        stated(held, "crm", 5, identity, city="Ulm")
        stated(held, None, 4, identity, city="Bonn", plan="free")
        assert held.attributes == {"city": "Ulm", "plan": "free"}
        assert held.provenance == {"city": ("crm", T0 + 5), "plan": ("", T0 + 4)}
        assert held.records == {}
        stated(held, None, 6, identity, city=None)
        stated(held, None, 5, identity, city="Ulm")
        assert held.attributes == {"plan": "free"}


def test_attributes_from_before_there_was_provenance_are_kept_until_anything_is_stated() -> None:
    for identity in (None, policy("priority", "crm")):
        held = profile(attributes={"city": "Ulm", "age": 7})
        stated(held, None, 0, identity, city="Bonn")
        assert held.attributes == {"city": "Bonn", "age": 7}


def test_a_policy_for_sources_begins_with_what_is_known_and_leaves_nothing_behind() -> None:
    held = profile()
    stated(held, "crm", 1, None, city="Ulm")
    stated(held, "app", 2, None, age=3)
    stated(held, "web", 3, policy("priority", "crm"), city="Rome")
    assert held.attributes == {"age": 3, "city": "Ulm"}
    stated(held, "web", 4, None, city="Rome")
    assert held.records == {}
    assert held.attributes == {"age": 3, "city": "Rome"}


def test_an_event_without_attributes_says_nothing() -> None:
    held = profile(attributes={"city": "Ulm"})
    fold(held, arrived(), policy())
    assert (held.attributes, held.records) == ({"city": "Ulm"}, {})


def test_however_much_is_stated_only_so_much_is_kept() -> None:
    held = profile()
    identity = policy("priority", "s99")
    for n in range(100):
        many: dict[str, Scalar] = {f"n{n}-{m:03d}": "x" * 2_000 for m in range(100)}
        stated(held, f"s{n:02d}", n, identity, **many)
    assert sorted(held.records) == [f"s{n:02d}" for n in range(MOST_SOURCES - 1)] + ["s99"]
    assert {len(said) for said in held.records.values()} == {MOST_ATTRIBUTES}
    assert len(held.attributes) == len(held.provenance) == MOST_ATTRIBUTES
    assert {len(str(value)) for value in held.attributes.values()} == {MOST_CHARACTERS}


def test_attributes_that_the_policy_uses_are_kept_before_others() -> None:
    for identity in (None, policy()):
        held = profile()
        many: dict[str, Scalar] = {f"a{n:03d}": n for n in range(200)}
        event = arrived("profile_updated", attributes={**many, "zip": "89073"})
        fold(held, event, identity, asked={"zip"})
        assert held.attributes["zip"] == "89073"
        assert len(held.attributes) == MOST_ATTRIBUTES


def test_a_policy_that_cannot_be_followed_is_refused() -> None:
    for wrong in ({"rule": "priority"}, {"sources": ["crm", "crm"]}, {"rule": "oldest"}):
        with pytest.raises(ValidationError):
            Attributes.model_validate(wrong)


SCALARS: Final = st.sampled_from([None, True, 1, 1.0, 2, -0.5, "", "a", "b", 2**53, 2**53 + 1])
STATEMENTS: Final = st.lists(
    st.tuples(
        st.sampled_from(["crm", "app", "web", None]),
        st.integers(0, 4),
        st.dictionaries(st.sampled_from(["city", "age", "plan"]), SCALARS, max_size=3),
    ),
    max_size=10,
)


@pytest.mark.parametrize("rule", [*RULES, None])
@settings(max_examples=150, deadline=None)
@given(statements=STATEMENTS, order=st.randoms(use_true_random=False))
def test_the_order_of_arrival_changes_nothing(
    rule: str | None, statements: list[Any], order: Any
) -> None:
    identity = None if rule is None else policy(rule, "crm", "app")
    shuffled = list(statements)
    order.shuffle(shuffled)
    one, other = profile(), profile()
    for held, arriving in ((one, statements), (other, shuffled)):
        for source, at, attributes in arriving:
            stated(held, source, at, identity, **attributes)
    # By their text: True, 1 and 1.0 are one value to Python and three to a reader.
    assert repr(one.attributes) == repr(other.attributes)
    assert one.provenance == other.provenance
    assert repr(_sorted(one.records)) == repr(_sorted(other.records))


def _sorted(records: Records) -> list[Any]:
    return sorted((source, sorted(said.items(), key=str)) for source, said in records.items())


@settings(max_examples=100, deadline=None)
@given(statements=STATEMENTS)
def test_by_recency_it_is_what_looking_at_all_statements_gives(statements: list[Any]) -> None:
    records: Records = {}
    for source, at, attributes in statements:
        state(records, source or "", attributes, at)
    chosen = choose(records, Attributes())
    for name in ("city", "age", "plan"):
        newest: dict[str, int] = {}
        for source, at, attributes in statements:
            if name in attributes:
                newest[source or ""] = max(newest.get(source or "", -1), at)
        said_last = {
            source: [
                a[name] for s, t, a in statements if (s or "", t) == (source, at) and name in a
            ]
            for source, at in newest.items()
        }
        # A source that takes it back at the same instant says nothing.
        standing = {s: at for s, at in newest.items() if None not in said_last[s]}
        assert (name in chosen.attributes) == bool(standing)
        if standing:
            assert chosen.provenance[name][1] == max(standing.values())
            assert chosen.attributes[name] in said_last[chosen.provenance[name][0]]
