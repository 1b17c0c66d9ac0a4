"""Probable duplicates: what is compared, how it is weighed, that each pair is suggested once."""

from __future__ import annotations

from typing import Any, Final

import pytest
from pydantic import ValidationError

from operators.duplicates import (
    GROUPS,
    MOST_IN_BLOCK,
    Contact,
    DuplicateGroup,
    Record,
    contact_of,
    evidence_of,
    no_contact,
    normal_email,
    normal_name,
    normal_phone,
    restored_duplicates,
    weigh,
)
from operators.pseudonyms import Pseudonyms
from schemas.identity import Suggest, Suggestion
from tests.operators.builders import T0, profile
from tests.operators.identity_world import SEAL

SUGGEST: Final = Suggest(email="mail", phone="tel", name="full_name", region="DE")


def contact(
    profile_id: str,
    *,
    at: int = T0,
    email: str | None = None,
    phone: str | None = None,
    name: str | None = None,
) -> Contact:
    return Contact(profile_id, email, phone, name, at)


def saying(profile_id: str, said: dict[str, str]) -> Contact:
    return Contact(profile_id, said.get("email"), said.get("phone"), said.get("name"), T0)


class Search:
    """All block groups together."""

    def __init__(self, suggest: Suggest = SUGGEST, seal: Pseudonyms = SEAL) -> None:
        self.suggest = suggest
        self.seal = seal
        self.groups = [DuplicateGroup(number, suggest, seal) for number in range(GROUPS)]

    def tell(self, *contacts: Contact) -> list[Record]:
        return [
            record
            for told in contacts
            for group in self.groups
            for record in group.process(evidence_of(told, self.suggest, self.seal))
        ]

    def resumed(self, seal: Pseudonyms | None = None) -> Search:
        other = Search(self.suggest, seal or self.seal)
        other.groups = [
            restored_duplicates(group.snapshot(), suggest=self.suggest, seal=other.seal)
            for group in self.groups
        ]
        return other


def pairs(records: list[Record]) -> list[tuple[str, str, list[str]]]:
    return [(r["profile_a"], r["profile_b"], r["matched_on"]) for r in records]


# Normal forms.


@pytest.mark.parametrize(
    "value, expected",
    [
        ("Ann@Example.org", "ann@example.org"),
        (" ann+shop@example.org ", "ann@example.org"),
        ("a.n.n+x@gmail.com", "ann@gmail.com"),
        ("a.nn@googlemail.com", "ann@gmail.com"),
        ("a.nn@example.org", "a.nn@example.org"),
        ("no address", None),
        ("x@" + "y" * 400, None),
        (7, None),
        (None, None),
        (True, None),
    ],
)
def test_an_address_is_read_as_its_mailbox_reads_it(value: Any, expected: str | None) -> None:
    assert normal_email(value) == expected


@pytest.mark.parametrize(
    "value, region, expected",
    [
        ("+49 30 901820", None, "+4930901820"),
        ("030/901820", "DE", "+4930901820"),
        ("030/901820", None, None),
        ("0030", "DE", None),
        ("call me", "DE", None),
        (30901820, "DE", None),
    ],
)
def test_a_number_is_read_as_it_is_dialled(value: Any, region: str, expected: str | None) -> None:
    assert normal_phone(value, region) == expected


@pytest.mark.parametrize(
    "value, expected",
    [
        ("José  MÜLLER", "jose muller"),
        ("Müller, José", "jose muller"),
        ("O'Neill Ann", "ann neill o"),
        ("Weiß Ann", "ann weiss"),
        ("Ann", None),
        ("7 8", None),
        (7, None),
    ],
)
def test_a_name_is_its_parts_in_any_order(value: Any, expected: str | None) -> None:
    assert normal_name(value) == expected


def test_a_contact_is_read_from_the_attributes_that_the_policy_names() -> None:
    held = profile("u1", attributes={"mail": "a@example.org", "tel": 7, "other": "x"})
    assert contact_of(held, SUGGEST, T0) == Contact("u1", "a@example.org", 7, None, T0)
    assert contact_of(held, Suggest(name="other"), T0).name == "x"


# Weighing.


def weighed(one: dict[str, str], other: dict[str, str]) -> tuple[float, list[str]]:
    score, matched = weigh(
        evidence_of(saying("u1", one), SUGGEST, SEAL),
        evidence_of(saying("u2", other), SUGGEST, SEAL),
    )
    return score, list(matched)


def test_evidence_adds_up_and_a_contradicting_name_speaks_against_it() -> None:
    mail, phone = {"email": "ann@example.org"}, {"phone": "+4930901820"}
    assert weighed(mail, mail) == (0.97, ["email"])
    assert weighed(phone, phone) == (0.9, ["phone"])
    assert weighed(mail | phone, mail | phone) == (0.997, ["email", "phone"])
    ann, bob = {"name": "Ann Lee"}, {"name": "Robert Zhukov"}
    assert weighed(mail | ann, mail | ann) == (0.994, ["email", "name"])
    assert weighed(mail | ann, mail | bob) == (0.776, ["email"])
    assert weighed(ann, ann) == (0.8, ["name"])
    assert weighed(ann, bob) == (0.0, [])
    assert weighed(mail, phone) == (0.0, [])


def test_a_mistyped_name_is_nearly_the_same_name() -> None:
    score, matched = weighed({"name": "Katharina Schmidt"}, {"name": "Schmitt, Katharina"})
    assert matched == ["name"]
    assert 0.8 * 0.8 < score < 0.8


def test_a_mailbox_name_at_two_providers_says_something_with_the_same_name() -> None:
    one = {"email": "katharina.s@example.org", "name": "Katharina Schmidt"}
    other = {"email": "katharina.s@example.net", "name": "Katharina Schmidt"}
    assert weighed(one, other) == (0.9, ["local_part", "name"])
    assert weighed({"email": one["email"]}, {"email": other["email"]})[0] == 0.5
    for shared in ("info", "office"):
        says = [{"email": f"{shared}@example.{end}"} for end in ("org", "net")]
        assert weighed(*says) == (0.0, [])


# Suggestions.


def test_two_profiles_with_one_mailbox_are_suggested_once() -> None:
    search = Search()
    ann = contact("u2", at=T0, email="Ann@example.org")
    assert search.tell(ann) == []
    (record,) = search.tell(contact("u1", at=T0 + 1_000, email="ann+x@example.org"))
    suggestion = Suggestion.model_validate(record)
    assert (suggestion.profile_a, suggestion.profile_b) == ("u1", "u2")
    assert suggestion.matched_on == ["email"]
    assert record["suggested_at"] == "2026-01-01T00:00:01.000Z"
    assert search.tell(ann._replace(at_ms=T0 + 2_000)) == []
    assert search.tell(contact("u1", email="ann@example.org", name="Ann Lee")) == []
    again = Search().tell(
        contact("u1", email="a@example.org"), contact("u2", email="a@example.org")
    )
    assert again[0]["suggestion_id"] == record["suggestion_id"]


def test_a_pair_that_shares_several_blocks_is_suggested_once() -> None:
    said = {"email": "katharina.s@example.org", "phone": "030 901820", "name": "Katharina Schmidt"}
    records = Search().tell(saying("u1", said), saying("u2", said))
    assert pairs(records) == [("u1", "u2", ["email", "phone", "name"])]


def test_what_is_too_little_evidence_is_not_suggested_unless_the_policy_says_so() -> None:
    said = [contact(f"u{n}", name="Katharina Schmidt") for n in (1, 2)]
    assert Search().tell(*said) == []
    lenient = Search(Suggest(name="full_name", at_least=0.7))
    assert pairs(lenient.tell(*said)) == [("u1", "u2", ["name"])]


def test_a_profile_is_compared_by_what_it_says_now() -> None:
    search = Search()
    search.tell(contact("u1", email="old@example.org"), contact("u1", email="new@example.org"))
    assert search.tell(contact("u2", email="old@example.org")) == []
    assert len(search.tell(contact("u3", email="new@example.org"))) == 1


def test_a_profile_that_is_gone_is_compared_no_more_and_leaves_no_byte() -> None:
    search = Search()
    said = {"email": "katharina.s@example.org", "phone": "030 901820", "name": "Katharina Schmidt"}
    search.tell(saying("profile-one", said), saying("profile-two", said))
    search.tell(no_contact("profile-one", T0))
    assert pairs(search.tell(saying("profile-three", said))) == [
        ("profile-three", "profile-two", ["email", "phone", "name"])
    ]
    search.tell(no_contact("profile-two", T0), no_contact("profile-three", T0))
    empty = Search()
    for group, fresh in zip(search.groups, empty.groups, strict=True):
        assert group.snapshot() == fresh.snapshot()


def test_who_comes_back_after_an_erasure_may_be_suggested_again() -> None:
    search = Search()
    one, other = (contact(u, email="a@example.org") for u in ("u1", "u2"))
    assert len(search.tell(one, other)) == 1
    assert len(search.tell(no_contact("u1", T0), one)) == 1


def test_a_block_holds_the_newest_profiles_only() -> None:
    search = Search()
    for n in range(3 * MOST_IN_BLOCK):
        search.tell(contact(f"u{n:03d}", email="family@example.org"))
    found = search.tell(contact("v", email="family@example.org"))
    newest = {f"u{n:03d}" for n in range(2 * MOST_IN_BLOCK, 3 * MOST_IN_BLOCK)}
    assert {record["profile_a"] for record in found} == newest
    held = {profile for group in search.groups for profile in group._known}
    assert len(held) == MOST_IN_BLOCK


def test_nothing_that_was_said_can_be_read_in_the_state() -> None:
    search = Search()
    said = {"email": "katharina.s@example.org", "phone": "030 901820", "name": "Katharina Schmidt"}
    search.tell(saying("visitor-one", said))
    evidence = evidence_of(saying("visitor-one", said), SUGGEST, SEAL)
    for plain in ("katharina", "schmidt", "901820"):
        assert plain not in repr(evidence).casefold()
        for group in search.groups:
            assert plain.encode() not in group.snapshot()
            assert b"visitor-one" not in group.snapshot()
    other = evidence_of(saying("visitor-one", said), SUGGEST, Pseudonyms(b"x" * 16))
    assert not {other.email, other.phone, other.name} & {
        evidence.email,
        evidence.phone,
        evidence.name,
    }


def test_a_search_stored_and_restored_at_any_time_finds_the_same() -> None:
    said = [
        contact("u1", email="katharina@example.org"),
        contact("u2", email="katharina@example.net", name="Katharina Schmidt"),
        contact("u1", email="katharina@example.org", name="Katharina Schmidt"),
        no_contact("u2", T0),
        contact("u3", email="katharina@example.org"),
    ]
    usual, resumed = Search(), Search()
    for told in said:
        expected = usual.tell(told)
        resumed = resumed.resumed()
        assert resumed.tell(told) == expected
    assert [g.snapshot() for g in resumed.groups] == [g.snapshot() for g in usual.groups]


def test_under_another_secret_the_search_begins_anew() -> None:
    search = Search()
    search.tell(contact("u1", email="a@example.org"))
    renewed = Pseudonyms(b"the secret after it", former=b"a secret of more than sixteen bytes")
    turned = search.resumed(renewed)
    assert turned.tell(contact("u2", email="a@example.org")) == []
    assert len(turned.tell(contact("u1", email="a@example.org"))) == 1


def test_a_suggestion_needs_something_to_compare() -> None:
    with pytest.raises(ValidationError, match="email, phone, name"):
        Suggest()
    assert Suggest(email="mail", name="mail").asked == ("mail",)
