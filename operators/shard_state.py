"""What is a shard at rest? Its snapshot: versioned, compressed, sealed bytes of our own.

`NBSH`, the version (2 bytes), a checksum (4 bytes), then the sealed body. Equal states give equal
bytes. An older version is upgraded by a pure function with golden fixtures; an unknown one, another
key, another number of shards or damage is refused with a StateError that says which.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from zlib import crc32

import lz4.block
import msgspec

from operators.profile import encode_profile
from operators.pseudonyms import Pseudonyms, SealError
from operators.signals import CompiledSignal
from operators.state_v1 import ShardV1, upgrade_profile

MAGIC: Final = b"NBSH"
VERSION: Final = 2
_HEAD_BYTES: Final = 10


class StateError(Exception):
    """State that this program must not run on: another version, another shard count, damaged."""


class ShardWire(msgspec.Struct, array_like=True):
    """Everything a shard keeps. Fields are only ever appended, each with a default.

    `slots` are the signals that were watched, `since` tells of those watched from some instant on;
    `floor` is above every version of a profile that is gone; `erased` holds the hashes of the
    erasure requests that were carried out, with their dates.
    """

    shard: int
    shards: int
    watermarks: dict[int, int]
    partitions: int
    swept_day: int
    seen: dict[int, list[int]]
    profiles: dict[str, bytes]
    watermark: int
    newest: int
    floor: int
    slots: list[int]
    since: dict[int, int]
    erased: dict[int, int]
    quota: bytes = b""


def encode_shard(wire: ShardWire, pseudonyms: Pseudonyms) -> bytes:
    """The snapshot of a shard's state. lz4 at this size costs less than writing what it saves."""
    body = pseudonyms.seal(lz4.block.compress(msgspec.msgpack.encode(wire), mode="fast"))
    return MAGIC + VERSION.to_bytes(2, "big") + crc32(body).to_bytes(4, "big") + body


def decode_shard(
    snapshot: bytes, pseudonyms: Pseudonyms, signals: Iterable[CompiledSignal]
) -> ShardWire:
    """The state of a snapshot of this version or an older one.

    `signals` are those of the plan, under which an older version is upgraded. Raises StateError.
    """
    if snapshot[:4] != MAGIC:
        raise StateError("the recovery store holds something that is not a shard's snapshot")
    version = int.from_bytes(snapshot[4:6], "big")
    if not 1 <= version <= VERSION:
        raise StateError(
            f"the state has version {version}, this program reads 1 to {VERSION}: "
            "run the release that wrote it, or a newer one that upgrades it"
        )
    body = snapshot[_HEAD_BYTES:]
    # lz4 has no checksum of its own: damage within a text would be read as another text.
    if crc32(body) != int.from_bytes(snapshot[6:_HEAD_BYTES], "big"):
        raise StateError("the state is damaged: its checksum does not fit")
    try:
        if version == 1:
            old = msgspec.msgpack.decode(lz4.block.decompress(body), type=ShardV1)
            return _from_v1(old, tuple(signals))
        return msgspec.msgpack.decode(lz4.block.decompress(pseudonyms.open(body)), type=ShardWire)
    except SealError as error:
        raise StateError(str(error)) from error
    except (lz4.block.LZ4BlockError, msgspec.MsgspecError, ValueError) as error:
        raise StateError(f"the state is damaged: {error}") from error


def _from_v1(old: ShardV1, signals: tuple[CompiledSignal, ...]) -> ShardWire:
    blocks: dict[str, bytes] = {}
    watched: set[int] = set()
    newest = old.watermark
    for profile_id, block in old.profiles.items():
        profile, due = upgrade_profile(block, signals)
        watched.update(profile.signals)
        newest = max(newest, profile.now_ms)
        blocks[profile_id] = encode_profile(profile, due_ms=due)
    return ShardWire(
        shard=old.shard,
        shards=old.shards,
        watermarks=old.watermarks,
        partitions=old.partitions,
        swept_day=old.swept_day,
        seen=old.seen,
        profiles=blocks,
        watermark=old.watermark,
        newest=newest,
        floor=0,
        # Version 1 did not write down what it watched: a signal that nobody has is as good as new.
        slots=sorted(watched),
        since={},
        erased={},
    )


def watched_since(
    known: Iterable[int], since: dict[int, int], declared: Iterable[int], *, newest_ms: int
) -> dict[int, int]:
    """From when on each signal was watched, under a plan that declares these (absent: always).

    A signal that is new to a shard was watched from after the newest event seen without it.
    """
    before = set(known)
    found: dict[int, int] = {}
    for slot in declared:
        if slot not in before:
            found[slot] = newest_ms + 1
        elif slot in since:
            found[slot] = since[slot]
    return found
