"""Which partition does a key belong to? A pure function; it knows no broker."""

from __future__ import annotations

from functools import lru_cache

from kafka.partitioner.default import murmur2


@lru_cache(maxsize=1 << 16)
def partition_of(key: bytes, partitions: int) -> int:
    """The partition of `key`, as Java's default partitioner chooses it.

    Cached because murmur2 is pure Python (1.2 to 3.6 µs measured) and keys come back.

    >>> partition_of(b"21", 12), partition_of(b"foobar", 12)
    (0, 6)
    """
    return int((murmur2(key) & 0x7FFFFFFF) % partitions)
