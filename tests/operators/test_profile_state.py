"""State is bytes with a version: what was written is read back, by this release and later ones.

`tests/golden/shard-v1.bin` is a snapshot as version 1 wrote it and `shard-v1.json` what it means.
Neither may change. A new version of the state gets new files beside them, written by
`python -m tests.operators.golden`, and an upgrade that reads these.
"""

from __future__ import annotations

import json

import lz4.block
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.profile import (
    FAR,
    Pending,
    PendingItem,
    Profile,
    decode_profile,
    encode_profile,
    head_of,
)
from operators.shard import MAGIC, VERSION
from tests.operators.builders import T0, profile
from tests.operators.golden import GOLDEN, fresh_shard, meaning

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
PROFILES = st.builds(
    Profile,
    profile_id=st.text(min_size=1),
    first_ms=_INT,
    now_ms=_INT,
    version=st.integers(0, 2**53),
    plan=st.integers(0, 2**32 - 1),
    deadlines=st.lists(_INT, max_size=4),
    signals=st.dictionaries(st.integers(0, 2**32 - 1), _SIGNAL_STATE, max_size=4),
    segments=st.dictionaries(_KEY, _INT, max_size=3),
    attributes=st.dictionaries(_KEY, _SCALAR, max_size=4),
    consent=st.dictionaries(_KEY, st.tuples(st.booleans(), _INT), max_size=3),
    hidden=st.dictionaries(_KEY, _INT, max_size=3),
    shown=st.dictionaries(_KEY, st.lists(_INT, max_size=4), max_size=3),
    pending=st.lists(_PENDING, max_size=3),
    last=st.dictionaries(_KEY, st.tuples(_KEY, st.lists(_KEY, max_size=3)), max_size=2),
)


@given(PROFILES, _INT)
def test_a_profile_is_read_back_as_it_was_and_encodes_to_the_same_bytes(
    held: Profile, due: int
) -> None:
    block = encode_profile(held, due_ms=due)
    again = decode_profile(block)
    assert again == held
    assert encode_profile(again, due_ms=due) == block
    assert head_of(block) == (due, held.now_ms)


def test_fields_that_older_bytes_lack_take_their_defaults() -> None:
    """Fields are only ever appended: three are enough for a profile."""
    block = encode_profile(profile(), due_ms=FAR)[:16] + msgspec.msgpack.encode(["u1", T0, T0])
    assert decode_profile(block) == profile()


def test_fields_of_a_newer_release_are_passed_over() -> None:
    block = encode_profile(profile(), due_ms=FAR)
    values = msgspec.msgpack.decode(block[16:])
    newer = block[:16] + msgspec.msgpack.encode([*values, {"a new": "field"}])
    assert decode_profile(newer) == profile()


@pytest.mark.parametrize("cut", [17, 20, -1])
def test_damaged_bytes_of_a_profile_are_an_error(cut: int) -> None:
    block = encode_profile(profile(attributes={"plan": "free"}), due_ms=FAR)
    with pytest.raises(msgspec.MsgspecError):
        decode_profile(block[:cut])


def test_an_empty_profile_is_small() -> None:
    assert len(encode_profile(profile(), due_ms=FAR)) < 80


def test_a_deadline_is_the_earliest_of_segments_and_windows() -> None:
    assert profile().deadline() == FAR
    held = profile(deadlines=[0, T0 + 5, T0 + 3])
    assert held.deadline() == T0 + 3
    held.pending.append(Pending("d", "home", T0, T0 + 2, True, None, 1.0, b"", []))
    assert held.deadline() == T0 + 2


# Golden state.


def body_of(snapshot: bytes) -> bytes:
    """What follows the header (magic, version, checksum), decompressed."""
    body: bytes = lz4.block.decompress(snapshot[10:])
    return body


def test_the_golden_snapshot_is_read_as_what_it_meant() -> None:
    held = fresh_shard()
    held.restore((GOLDEN / "shard-v1.bin").read_bytes())
    assert meaning(held) == json.loads((GOLDEN / "shard-v1.json").read_text())


def test_the_golden_snapshot_is_written_again_byte_for_byte() -> None:
    """Compared before compression: another release of lz4 may compress differently."""
    golden = (GOLDEN / "shard-v1.bin").read_bytes()
    held = fresh_shard()
    held.restore(golden)
    for profile_id in json.loads((GOLDEN / "shard-v1.json").read_text())["profiles"]:
        assert held.look(profile_id)  # decoded, so that it must be encoded anew
    again = held.snapshot()
    assert again[:6] == golden[:6] == MAGIC + VERSION.to_bytes(2, "big")
    assert body_of(again) == body_of(golden)
