"""Does a parameter set come through its bytes as it was, and is anything else refused?"""

from __future__ import annotations

import zlib
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.ids import uniform
from operators.models.factors import first_rows
from operators.parameters import (
    FactorTables,
    LocalParameters,
    Means,
    ParameterError,
    ParameterSet,
    decode_parameters,
    parameter_set,
)


def a_set(
    *, heads: tuple[str, ...] = ("click", "buy"), bits: int = 12, counter: int = 7, filled: int = 90
) -> ParameterSet:
    weights = np.zeros((len(heads), 1 << bits), np.float32)
    for row in range(len(heads)):
        for i in range(filled):
            weights[row, int(uniform(f"{row}|{i}|at") * (1 << bits))] = uniform(f"{row}|{i}") - 0.5
    return parameter_set(
        model="home",
        incarnation="life1",
        counter=counter,
        decisions=123.5,
        examples=45,
        rewarded=6,
        learned_to_ms=1_767_225_600_123,
        heads=heads,
        intercepts=np.array([-2.9, -4.1][: len(heads)], np.float32),
        weights=weights,
        digest="0badcafe",
    )


@given(
    heads=st.sampled_from([("click",), ("click", "buy")]),
    bits=st.sampled_from([10, 14, 18]),
    filled=st.sampled_from([0, 1, 90, 3_000]),
)
def test_a_set_comes_back_from_its_bytes_bit_for_bit(
    heads: tuple[str, ...], bits: int, filled: int
) -> None:
    before = a_set(heads=heads, bits=bits, filled=filled)
    after = decode_parameters(before.encoded)
    assert after.weights.tobytes() == before.weights.tobytes()
    assert after.intercepts.tobytes() == before.intercepts.tobytes()
    assert after.weights.dtype == after.intercepts.dtype == np.float32
    named = ("model", "incarnation", "counter", "decisions", "examples", "rewarded")
    for field in (*named, "learned_to_ms", "heads", "digest", "version", "bits"):
        assert getattr(after, field) == getattr(before, field)
    assert after.encoded == before.encoded


def test_the_version_names_the_life_the_count_and_the_content() -> None:
    assert a_set().version == "life1.7+0badcafe"


def test_a_set_cannot_be_changed_afterwards() -> None:
    for frozen in (a_set(), decode_parameters(a_set().encoded)):
        with pytest.raises(ValueError, match="read-only"):
            frozen.weights[0, 0] = 1.0
        with pytest.raises(ValueError, match="read-only"):
            frozen.intercepts[0] = 1.0


@given(at=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_bytes_with_one_byte_changed_are_refused(at: int, flip: int) -> None:
    good = a_set().encoded
    at %= len(good)
    bad = good[:at] + bytes([good[at] ^ flip]) + good[at + 1 :]
    try:
        read = decode_parameters(bad)
    except ParameterError:
        return
    # A few bits of the compressed form carry nothing (the level it was compressed at).
    assert read.weights.tobytes() == a_set().weights.tobytes()
    assert read.version == a_set().version


@given(keep=st.integers(0, 10_000))
def test_bytes_cut_short_are_refused(keep: int) -> None:
    good = a_set().encoded
    with pytest.raises(ParameterError):
        decode_parameters(good[: keep % len(good)])


@given(st.binary(max_size=64))
def test_other_bytes_are_refused_whatever_they_are(junk: bytes) -> None:
    for payload in (junk, b"NBP1" + junk, b"NBP1" + zlib.compress(junk)):
        with pytest.raises(ParameterError):
            decode_parameters(payload)


def test_another_format_is_named_in_the_refusal() -> None:
    with pytest.raises(ParameterError, match=r"NBP9.*expected.*NBP1"):
        decode_parameters(b"NBP9" + a_set().encoded[4:])


@pytest.mark.parametrize(
    "position, value",
    [
        (7, 40),  # a table of 2^40 cells must not be allocated
        (7, 0),
        (8, ["click"]),  # fewer names than rows of weights
        (9, [-1.0]),  # fewer intercepts than heads
        (10, [b"\xff\xff\xff\xff", b""]),  # a cell beyond the table
        (11, [b"\0\0\0", b""]),  # not a whole number of floats
        (0, 5),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(position: int, value: object) -> None:
    parts = msgspec.msgpack.decode(zlib.decompress(a_set(filled=1).encoded[4:]))
    parts[position] = value
    with pytest.raises(ParameterError):
        decode_parameters(b"NBP1" + zlib.compress(msgspec.msgpack.encode(parts)))


def test_the_newest_set_of_a_model_is_seen_at_once() -> None:
    store = LocalParameters()
    assert store.latest("home") is None
    first, second = a_set(counter=1), a_set(counter=2)
    store.publish(first)
    assert store.latest("home") is first
    store.publish(second)
    assert store.latest("home") is second
    assert store.latest("other") is None


def test_a_staged_set_is_seen_after_the_next_advance_and_not_before() -> None:
    store = LocalParameters(staged=True)
    first, second = a_set(counter=1), a_set(counter=2)
    store.publish(first)
    assert store.latest("home") is None
    store.advance()
    assert store.latest("home") is first
    store.publish(second)
    assert store.latest("home") is first
    store.advance()
    store.advance()
    assert store.latest("home") is second


@pytest.mark.parametrize("heads", [("click",), ("click", "buy")])
def test_evidence_means_and_factors_come_back_bit_for_bit(heads: tuple[str, ...]) -> None:
    plain = a_set(heads=heads)
    evidence = np.abs(plain.weights) * 3
    evidence[0, 17] = 2.0  # seen, and its weight is nothing
    first = first_rows(64, 4)
    tables = FactorTables(
        np.zeros((len(heads), 64, 4), np.float32),
        np.broadcast_to(first, (len(heads), 64, 4)).copy(),
    )
    tables.profile[0, 3] = 0.5
    tables.content[-1, 9] = -0.25
    before = parameter_set(
        **{
            name: getattr(plain, name)
            for name in [
                "model",
                "incarnation",
                "counter",
                "decisions",
                "examples",
                "rewarded",
                "learned_to_ms",
                "heads",
                "intercepts",
                "weights",
                "digest",
            ]
        },
        evidence=evidence,
        means={"buy": Means(20.0, {"c1": 35.5})},
        factors=tables,
    )
    after = decode_parameters(before.encoded)
    assert after.evidence is not None
    assert after.evidence.tobytes() == evidence.tobytes()
    assert after.means == before.means
    assert after.factors is not None
    assert after.factors.profile.tobytes() == tables.profile.tobytes()
    assert after.factors.content.tobytes() == tables.content.tobytes()
    assert after.encoded == before.encoded
    with pytest.raises(ValueError, match="read-only"):
        after.factors.content[0, 0, 0] = 1.0


def test_bytes_of_the_former_format_are_still_read() -> None:
    before = a_set()
    parts = msgspec.msgpack.decode(zlib.decompress(before.encoded[4:]))[:13]
    after = decode_parameters(b"NBP1" + zlib.compress(msgspec.msgpack.encode(parts)))
    assert after.weights.tobytes() == before.weights.tobytes()
    assert after.version == before.version
    assert after.evidence is None
    assert after.factors is None
    assert after.means == {}


@pytest.mark.parametrize(
    "position, value",
    [
        (15, 65),  # more factors than there may be
        (16, 1 << 40),  # rows that must not be allocated
        (17, []),  # fewer tables than heads
        (13, [b"\0\0\0", b""]),
    ],
)
def test_factors_and_evidence_that_do_not_fit_are_refused(position: int, value: object) -> None:
    tables = FactorTables(np.ones((1, 8, 2), np.float32), first_rows(8, 2)[None].copy())
    plain = a_set(heads=("click",), filled=1)
    good = replace(plain, evidence=np.abs(plain.weights), factors=tables)
    parts = msgspec.msgpack.decode(zlib.decompress(good.encoded[4:]))
    parts[position] = value
    with pytest.raises(ParameterError):
        decode_parameters(b"NBP2" + zlib.compress(msgspec.msgpack.encode(parts)))
