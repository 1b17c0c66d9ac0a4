"""How things are named and how chance is drawn: stable hashes, the same on every machine and run.

Python's own `hash` of a string differs per process, so it is used nowhere. What looks like
randomness in the flow is a hash of a decision's id: the same decision, made twice, is the same.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

_TWO_53: Final = float(1 << 53)


def hash64(text: str) -> int:
    """A 64-bit hash of a string.

    >>> hash64("nextbest")
    6695205382285351527
    """
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def hash32(text: str) -> int:
    """A 32-bit hash of a string, for feature cells and state slots."""
    return int.from_bytes(blake2b(text.encode(), digest_size=4).digest(), "little")


def shard_of(profile_id: str, *, shards: int) -> int:
    """The shard that holds a profile; fixed for good once state exists."""
    return hash64(profile_id) % shards


def shard_key(shard: int) -> str:
    """The engine's key of a shard: zero-padded, because the engine sorts keys as text."""
    return f"{shard:04d}"


def decision_id(*, shard: int, profile_id: str, trigger_id: str, placement: str) -> str:
    """The identity of a decision: its shard, then a hash of what caused it.

    The shard in front lets an outcome that names the decision find the state that made it.

    >>> decision_id(shard=7, profile_id="u1", trigger_id="e1", placement="home")[:4]
    '007-'
    """
    cause = blake2b(f"{profile_id}\0{trigger_id}\0{placement}".encode(), digest_size=12)
    return f"{shard:03x}-{cause.hexdigest()}"


def uniform(text: str) -> float:
    """A number in [0, 1) drawn by hash: uniform over texts, fixed for one text.

    >>> 0 <= uniform("a") < 1
    True
    """
    return (hash64(text) >> 11) / _TWO_53
