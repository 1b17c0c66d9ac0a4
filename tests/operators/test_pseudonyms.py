"""State at rest is unreadable without the key, and the key can be replaced."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.pseudonyms import Pseudonyms, SealError

OLD = b"the former secret, long enough"
NEW = b"the present secret, long enough"


@given(st.binary(min_size=1, max_size=2_000))
def test_what_was_sealed_opens_and_shows_nothing(data: bytes) -> None:
    sealed = Pseudonyms(NEW).seal(data)
    assert Pseudonyms(NEW).open(sealed) == data
    assert len(data) < 4 or data not in sealed


def test_equal_bytes_seal_to_equal_bytes() -> None:
    assert Pseudonyms(NEW).seal(b"state") == Pseudonyms(NEW).seal(b"state")
    assert Pseudonyms(NEW).seal(b"state") != Pseudonyms(OLD).seal(b"state")


def test_another_key_is_refused_and_a_former_one_opens() -> None:
    sealed = Pseudonyms(OLD).seal(b"state")
    with pytest.raises(SealError, match="another key"):
        Pseudonyms(NEW).open(sealed)
    assert Pseudonyms(NEW, former=OLD).open(sealed) == b"state"


@given(st.integers(0, 60), st.integers(1, 255))
def test_what_was_altered_does_not_open(at: int, change: int) -> None:
    sealed = bytearray(Pseudonyms(NEW).seal(b"forty bytes of state, more or less, here"))
    sealed[at % len(sealed)] ^= change
    with pytest.raises(SealError):
        Pseudonyms(NEW).open(bytes(sealed))


@given(st.binary(max_size=40))
def test_any_bytes_at_all_are_refused_in_words(data: bytes) -> None:
    with pytest.raises(SealError):
        Pseudonyms(NEW).open(data)


def test_the_keyed_hash_depends_on_the_key_alone() -> None:
    assert Pseudonyms(NEW).key_of("u1") == Pseudonyms(NEW, former=OLD).key_of("u1")
    assert Pseudonyms(NEW).key_of("u1") != Pseudonyms(OLD).key_of("u1")
    assert Pseudonyms(NEW).key_of("u1") != Pseudonyms(NEW).key_of("u2")


def test_a_short_secret_is_refused_and_none_is_ever_shown() -> None:
    with pytest.raises(ValueError, match="at least 16 bytes"):
        Pseudonyms(b"short")
    with pytest.raises(ValueError, match="at least 16 bytes"):
        Pseudonyms(NEW, former=b"short")
    assert "secret" not in repr(Pseudonyms(NEW))
