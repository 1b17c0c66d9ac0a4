"""State is bytes with a version: what was written is read back, by this release and later ones.

`tests/golden/shard-vN.bin` is a snapshot as version N wrote it and `shard-vN.json` what it means.
None may change. A new version of the state gets new files beside them, written by
`python -m tests.operators.golden`, and an upgrade that reads the former ones.
"""

from __future__ import annotations

import json
from typing import Final

import lz4.block
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.predict_state import Case
from operators.profile import (
    FAR,
    Pending,
    PendingItem,
    Profile,
    decode_profile,
    encode_profile,
    head_of,
)
from operators.pseudonyms import UNSHARED
from operators.shard import Shard
from operators.shard_state import MAGIC, VERSION
from schemas.time import DAY, MINUTE
from tests.operators.builders import T0, profile, shard_batch
from tests.operators.golden import GOLDEN, fresh_shard, meaning

HEAD: Final = 20
_INT = st.integers(-(2**63), 2**63 - 1)
_KEY = st.text(max_size=8)
_SCALAR = st.none() | st.booleans() | _INT | st.floats(allow_nan=False) | st.text(max_size=8)
_SIGNAL_STATE = (
    _INT
    | st.dictionaries(_INT, _INT, max_size=4)
    | st.dictionaries(_KEY, _INT, max_size=4)
    | st.tuples(_INT, st.dictionaries(_KEY, st.floats(allow_nan=False), max_size=4)).map(list)
)
_ITEM = st.builds(
    PendingItem,
    _KEY,
    st.integers(1, 100),
    st.floats(0, 1),
    _INT,
    st.dictionaries(_KEY, st.floats(allow_nan=False), max_size=2),
)
_PENDING = st.builds(
    Pending,
    _KEY,
    _KEY,
    _INT,
    _INT,
    st.booleans(),
    st.none() | _KEY,
    st.floats(0, 1),
    st.binary(max_size=16),
    st.lists(_ITEM, max_size=3),
)
_CASE = st.builds(
    Case, _KEY, _INT, _INT, st.binary(max_size=8), st.floats(0, 1), st.floats(0, 9), _INT
)
PROFILES = st.builds(
    Profile,
    profile_id=st.text(min_size=1),
    first_ms=_INT,
    now_ms=_INT,
    version=st.integers(0, 2**53),
    plan=st.integers(0, 2**32 - 1),
    deadlines=st.dictionaries(st.integers(0, 200), _INT, max_size=4),
    signals=st.dictionaries(st.integers(0, 2**32 - 1), _SIGNAL_STATE, max_size=4),
    segments=st.dictionaries(_KEY, _INT, max_size=3),
    attributes=st.dictionaries(_KEY, _SCALAR, max_size=4),
    consent=st.dictionaries(_KEY, st.tuples(st.booleans(), _INT, st.integers(0, 1)), max_size=3),
    hidden=st.dictionaries(_KEY, _INT, max_size=3),
    shown=st.dictionaries(_KEY, st.lists(_INT, max_size=4), max_size=3),
    pending=st.lists(_PENDING, max_size=3),
    last=st.dictionaries(_KEY, st.tuples(_KEY, st.lists(_KEY, max_size=3)), max_size=2),
    holding=st.dictionaries(_KEY, _INT, max_size=2),
    provenance=st.dictionaries(_KEY, st.tuples(_KEY, _INT), max_size=2),
    records=st.dictionaries(
        _KEY, st.dictionaries(_KEY, st.tuples(_SCALAR, _INT), max_size=2), max_size=2
    ),
    gpc_ms=_INT,
    cases=st.lists(_CASE, max_size=2),
    sampled=st.dictionaries(_KEY, _INT, max_size=2),
)


@given(PROFILES, _INT)
def test_a_profile_is_read_back_as_it_was_and_encodes_to_the_same_bytes(
    held: Profile, due: int
) -> None:
    block = encode_profile(held, due_ms=due)
    again = decode_profile(block)
    assert again == held
    assert encode_profile(again, due_ms=due) == block
    assert head_of(block) == (due, held.now_ms, held.plan)


def test_fields_that_older_bytes_lack_take_their_defaults() -> None:
    """Fields are only ever appended: three are enough for a profile."""
    block = encode_profile(profile(), due_ms=FAR)[:HEAD] + msgspec.msgpack.encode(["u1", T0, T0])
    assert decode_profile(block) == profile()


def test_fields_of_a_newer_release_are_passed_over() -> None:
    block = encode_profile(profile(), due_ms=FAR)
    values = msgspec.msgpack.decode(block[HEAD:])
    newer = block[:HEAD] + msgspec.msgpack.encode([*values, {"a new": "field"}])
    assert decode_profile(newer) == profile()


@pytest.mark.parametrize("cut", [HEAD + 1, HEAD + 4, -1])
def test_damaged_bytes_of_a_profile_are_an_error(cut: int) -> None:
    block = encode_profile(profile(attributes={"plan": "free"}), due_ms=FAR)
    with pytest.raises(msgspec.MsgspecError):
        decode_profile(block[:cut])


def test_an_empty_profile_is_small() -> None:
    assert len(encode_profile(profile(), due_ms=FAR)) < 80


def test_a_deadline_is_the_earliest_of_segments_and_windows() -> None:
    assert profile().deadline() == FAR
    held = profile(deadlines={1: T0 + 5, 2: T0 + 3})
    assert held.deadline() == T0 + 3
    held.pending.append(Pending("d", "home", T0, T0 + 2, True, None, 1.0, b"", []))
    assert held.deadline() == T0 + 2
    held.cases.append(Case("churn", T0, T0 + 1, b""))
    assert held.deadline() == T0 + 1


# Golden state.


def body_of(snapshot: bytes) -> bytes:
    """What follows the header (magic, version, checksum), opened and decompressed."""
    body: bytes = lz4.block.decompress(UNSHARED.open(snapshot[10:]))
    return body


def test_the_golden_snapshot_is_read_as_what_it_meant() -> None:
    held = fresh_shard()
    held.restore((GOLDEN / f"shard-v{VERSION}.bin").read_bytes())
    assert meaning(held) == json.loads((GOLDEN / f"shard-v{VERSION}.json").read_text())


def test_the_golden_snapshot_is_written_again_byte_for_byte() -> None:
    """Compared before compression: another release of lz4 may compress differently."""
    golden = (GOLDEN / f"shard-v{VERSION}.bin").read_bytes()
    held = fresh_shard()
    held.restore(golden)
    for profile_id in json.loads((GOLDEN / f"shard-v{VERSION}.json").read_text())["profiles"]:
        assert held.look(profile_id)  # decoded, so that it must be encoded anew
    again = held.snapshot()
    assert again[:6] == golden[:6] == MAGIC + VERSION.to_bytes(2, "big")
    assert body_of(again) == body_of(golden)


# Version 1, as 0.1.0 wrote it.

V1: Final = ("shard-v1.bin", "shard-v1.json")


def upgraded() -> Shard:
    held = fresh_shard()
    held.restore((GOLDEN / V1[0]).read_bytes())
    return held


def test_what_a_person_stated_and_what_awaits_its_outcome_survive_the_upgrade() -> None:
    before = json.loads((GOLDEN / V1[1]).read_text())
    held = upgraded()
    assert held.watermark_ms == before["watermark_ms"]
    for profile_id, old in before["profiles"].items():
        new = held.look(profile_id)
        assert new is not None
        assert {p: [said[0], said[1]] for p, said in new.consent.items()} == old["consent"]
        same = ("first_ms", "now_ms", "version", "segments", "attributes", "hidden", "shown")
        assert {name: getattr(new, name) for name in same} == {name: old[name] for name in same}
        assert [p.decision_id for p in new.pending] == [p[0] for p in old["pending"]]


def test_signals_mean_the_same_after_the_upgrade() -> None:
    held = upgraded()
    person = held.look("u1")
    assert person is not None
    value = {
        signal.name: signal.value(person.signals, person.now_ms)
        for signal in held.decide.plan.signals
    }
    assert (value["views"], value["spent"], value["pages"]) == (2, 12.5, 2)
    bought_ms = T0 + 3 * MINUTE
    assert value["bought"] == person.now_ms - bought_ms


def test_nobody_enters_a_segment_by_the_upgrade_alone() -> None:
    """What 0.1.0 had not watched for 30 days is unknown, and unknown is not in."""
    held = upgraded()
    out = held.process(shard_batch([], watermarks=((0, T0 + DAY), (1, T0 + DAY)), partitions=2))
    assert [c for c in out.changes if c["direction"] == "entered"] == []


def test_the_upgraded_state_is_written_as_the_present_version() -> None:
    held = upgraded()
    snapshot = held.snapshot()
    assert snapshot[:6] == MAGIC + VERSION.to_bytes(2, "big")
    again = fresh_shard()
    again.restore(snapshot)
    assert meaning(again) == meaning(upgraded())
