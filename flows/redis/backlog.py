"""What still has to reach Redis: the newest write of each key, in bounded memory, and its bytes.

State: one entry per key. Deletes go first and are never dropped, because a lost delete would leave
an erased profile to be read; they are small and rare. When the rest outgrows its bound the oldest
entry gives way: its profile is served from an older write until it is next written.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Final, NamedTuple

import msgspec

from flows.redis.writes import ServingWrite

_MAGIC: Final = b"NBS1"
_Key = tuple[str, str, str]
_DECODER: Final = msgspec.msgpack.Decoder(list[ServingWrite])


class BacklogError(ValueError):
    """Bytes that are not a backlog of a version this program reads."""


class Entry(NamedTuple):
    """A write, when it was handed over (monotonic seconds), and whether a delete is behind it."""

    key: _Key
    write: ServingWrite
    since: float
    erases: bool
    size: int


class Backlog:
    """The newest write per key, oldest first; not safe for threads, its owner holds a lock."""

    def __init__(self, *, max_entries: int = 100_000, max_bytes: int = 64 << 20) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._deletes: dict[_Key, Entry] = {}
        self._values: dict[_Key, Entry] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._deletes) + len(self._values)

    def offer(self, write: ServingWrite, *, now: float) -> int:
        """Keep a write unless a newer one of its key waits; how many others had to be dropped."""
        # Called for every decision, on the flow's thread: plain look-ups, nothing shared.
        key = write[:3]
        value = write.value
        erases = not value
        if held := self._deletes.get(key) or self._values.get(key):
            if not _newer(write, held.write):
                return 0
            erases = erases or held.erases
            self._forget(held)
        size = len(value or b"") + len(write.profile_id) + 100
        entry = Entry(key, write, now, erases, size)
        if not value:
            self._deletes[key] = entry
            return 0
        self._values[key] = entry
        self._bytes += size
        if len(self._values) > self._max_entries or self._bytes > self._max_bytes:
            return self._shrink()
        return 0

    def peek(self, *, limit: int, limit_bytes: int) -> list[Entry]:
        """The entries to write next; at least one where there is any."""
        chosen: list[Entry] = []
        size = 0
        for entry in chain(self._deletes.values(), self._values.values()):
            size += entry.size
            if chosen and (len(chosen) == limit or size > limit_bytes):
                break
            chosen.append(entry)
        return chosen

    def done(self, entries: Iterable[Entry]) -> None:
        """Forget entries that were written, unless a newer one has taken their place."""
        for entry in entries:
            key = entry.key
            if self._values.get(key) is entry or self._deletes.get(key) is entry:
                self._forget(entry)

    def encode(self, *, now: float) -> bytes:
        """Versioned bytes of everything that waits, with the time to live that is left."""
        writes = [
            entry.write._replace(ttl_ms=ttl_left_ms(entry, now=now))
            for entry in chain(self._deletes.values(), self._values.values())
        ]
        return _MAGIC + msgspec.msgpack.encode(writes)

    def _forget(self, entry: Entry) -> None:
        if self._values.pop(entry.key, None):
            self._bytes -= entry.size
        else:
            del self._deletes[entry.key]

    def _shrink(self) -> int:
        dropped = 0
        while len(self._values) > self._max_entries or self._bytes > self._max_bytes:
            entry = next(iter(self._values.values()))
            self._forget(entry)
            dropped += 1
            if entry.erases:
                # It had replaced a delete that was never written: what it would have overwritten
                # is the erased profile, so the delete must still go out.
                delete = entry.write._replace(value=None)
                self._deletes[entry.key] = entry._replace(write=delete)
        return dropped


def ttl_left_ms(entry: Entry, *, now: float) -> int:
    """The time to live of a write, shortened by the time it has waited; at least 1 ms."""
    ttl_ms = entry.write.ttl_ms
    # A delete keeps its whole time: it guards against writes that may be as late as itself.
    if not entry.write.value:
        return max(1, ttl_ms)
    return max(1, ttl_ms - int((now - entry.since) * 1_000))


def decode_backlog(payload: bytes) -> list[ServingWrite]:
    """The writes that `Backlog.encode` wrote; BacklogError where it did not."""
    if payload[:4] != _MAGIC:
        raise BacklogError(f"Redis backlog has format {payload[:4]!r}, expected {_MAGIC!r}")
    try:
        return _DECODER.decode(payload[4:])
    except msgspec.MsgspecError as error:
        raise BacklogError(f"Redis backlog is damaged: {error}") from error


def _newer(write: ServingWrite, held: ServingWrite) -> bool:
    if write.version == held.version:
        return not write.value and bool(held.value)
    return write.version > held.version
