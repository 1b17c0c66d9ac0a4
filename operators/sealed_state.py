"""How is state other than a shard's kept? A magic, a version, a checksum, then sealed bytes.

The layout of `operators.shard_state`, for machines whose state has no former version to upgrade.
"""

from __future__ import annotations

from typing import Any, Final, Protocol, TypeVar
from zlib import crc32

import lz4.block
import msgspec

from operators.pseudonyms import SealError
from operators.shard_state import StateError

_HEAD_BYTES: Final = 10
W = TypeVar("W", bound=msgspec.Struct)


class Seal(Protocol):
    """What makes people unreadable at rest (see `operators.pseudonyms`)."""

    @property
    def mark(self) -> int:
        """Tells secrets apart without revealing them."""

    def key_of(self, text: str) -> bytes:
        """The keyed hash that stands for a text: 16 bytes."""

    def seal(self, data: bytes) -> bytes:
        """The bytes sealed."""

    def open(self, sealed: bytes) -> bytes:
        """What was sealed; raises SealError."""


def encode_state(wire: Any, seal: Seal, *, magic: bytes, version: int) -> bytes:
    """The snapshot of a state; equal states give equal bytes."""
    body = seal.seal(lz4.block.compress(msgspec.msgpack.encode(wire), mode="fast"))
    return magic + version.to_bytes(2, "big") + crc32(body).to_bytes(4, "big") + body


def decode_state(snapshot: bytes, seal: Seal, kind: type[W], *, magic: bytes, version: int) -> W:
    """The state of a snapshot; raises StateError where it is another's, damaged or sealed anew."""
    if snapshot[:4] != magic:
        raise StateError(f"the recovery store holds something that is not {magic.decode()} state")
    found = int.from_bytes(snapshot[4:6], "big")
    if found != version:
        raise StateError(
            f"the {magic.decode()} state has version {found}, this program reads {version}: "
            "run the release that wrote it, or a newer one that upgrades it"
        )
    body = snapshot[_HEAD_BYTES:]
    if crc32(body) != int.from_bytes(snapshot[6:_HEAD_BYTES], "big"):
        raise StateError("the state is damaged: its checksum does not fit")
    try:
        return msgspec.msgpack.decode(lz4.block.decompress(seal.open(body)), type=kind)
    except SealError as error:
        raise StateError(str(error)) from error
    except (lz4.block.LZ4BlockError, msgspec.MsgspecError, ValueError) as error:
        raise StateError(f"the state is damaged: {error}") from error
