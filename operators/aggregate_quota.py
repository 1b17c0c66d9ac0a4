"""May this shard still show it? The shard's part of each hard cap over everybody.

A hard cap of `max` is divided among the shards: each has `max // shards`, and `max % shards` of
them, chosen by a hash of what is capped, have one more. A shard counts what it *decides*, at once
and whether it is shown or not, against its own part only. So no message, staleness or restart of
another process can make the sum exceed `max` in any window of that length. The price: what a quiet
shard does not use is lost for that window, and with more shards than `max` most never show it.

State belongs in the shard's snapshot: `encode` gives the bytes for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec
import numpy as np

from operators.aggregate_asked import CapKey, cap_key, global_caps, over_everybody
from operators.aggregate_windows import NEVER, Counts
from operators.contents import Flags
from operators.ids import hash64
from operators.plan import Plan
from operators.shard_state import StateError
from schemas.placements import PlacementCap

VERSION: Final = 1

Instants = np.ndarray[Any, np.dtype[np.int64]]


class _Wire(msgspec.Struct, array_like=True):
    version: int
    floor_ms: int
    decided: dict[str, dict[str, dict[int, int]]]


def part_of(key: str, most: int, *, shard: int, shards: int) -> int:
    """How many of `most` a shard may decide; the parts of all shards sum to `most`.

    >>> [part_of("boot", 6, shard=shard, shards=4) for shard in range(4)]
    [2, 1, 1, 2]
    """
    extra = (shard - hash64(key)) % shards < most % shards
    return most // shards + extra


class Quota:
    """What one shard has decided of what hard caps limit, and what it therefore refuses.

    Decisions are counted wherever they are made, and refused in the placements that declare the
    cap. Times are event time; they may go back as far as the last `expire`.
    """

    def __init__(self, plan: Plan, *, shard: int, shards: int) -> None:
        self._shard = shard
        self._shards = shards
        self._floor_ms = NEVER
        self._decided: dict[tuple[str, int], Counts] = {}
        self.adopt(plan)

    def adopt(self, plan: Plan) -> None:
        """Go on under another plan: counts that it still asks for are kept, the rest is dropped."""
        self._contents = plan.contents
        self._caps = global_caps(plan.policy, hard=True)
        windows = {(per, within): Counts(within) for per, _, within in self._caps}
        self._decided = {window: self._decided.get(window, new) for window, new in windows.items()}
        self._keep()

    def _keep(self) -> None:
        """Drop what the catalogue does not know; what is worked out ahead begins anew."""
        keys = {"content": self._contents.ids, "tag": tuple(self._contents.tagged)}
        for (per, _), counts in self._decided.items():
            counts.keep(keys.get(per, ()))
        self._until: dict[tuple[CapKey, int], Instants] = {}
        self._tidied = dict.fromkeys(self._decided, NEVER)

    def at_cap(self, caps: Iterable[PlacementCap], now_ms: int, *, slots: int) -> Flags | None:
        """The contents that a slate of up to `slots` must not bear now, as flags (contents,).

        None: none is refused. A slate may bear a tag several times, so a tag needs as much room as
        the slate has slots (or as there are contents of it).
        """
        now_ms = max(now_ms, self._floor_ms)
        found: Flags | None = None
        for cap in caps:
            if not over_everybody(cap, hard=True):
                continue
            closed = self._closed_until(cap_key(cap), slots) > now_ms
            if closed.any():
                found = closed if found is None else found | closed
        return found

    def take(self, content_id: str, at_ms: int) -> None:
        """Book one decided item; also of a decision that is adopted, whatever is left."""
        content = self._contents.by_id.get(content_id)
        if content is None or not self._decided:
            return
        at_ms = max(at_ms, self._floor_ms)
        keys = {"content": (content_id,), "tag": tuple(dict.fromkeys(content.tags))}
        for (per, _), counts in self._decided.items():
            for key in keys.get(per, ()):
                counts.add(key, at_ms)
        for (cap, slots), until in self._until.items():
            for key in keys.get(cap[0], ()):
                self._close(until, cap, key, slots)

    def expire(self, watermark_ms: int) -> None:
        """Let time pass: no decision is made for an instant before this any more."""
        self._floor_ms = max(self._floor_ms, watermark_ms)
        for (per, within), counts in self._decided.items():
            # Looking through everything at each step of a watermark would cost more than it frees.
            if self._floor_ms - self._tidied[per, within] >= within // 8:
                counts.forget(self._floor_ms)
                self._tidied[per, within] = self._floor_ms

    def _closed_until(self, cap: CapKey, slots: int) -> Instants:
        """When each content opens again, in milliseconds, shape (contents,)."""
        until = self._until.get((cap, slots))
        if until is None:
            until = self._until[cap, slots] = np.full(len(self._contents.ids), NEVER, np.int64)
            for key in self._contents.ids if cap[0] == "content" else self._contents.tagged:
                self._close(until, cap, key, slots)
        return until

    def _close(self, until: Instants, cap: CapKey, key: str, slots: int) -> None:
        per, most, within = cap
        of_key = self._contents.index[key] if per == "content" else self._contents.tagged[key]
        needed = 1 if per == "content" else min(slots, int(np.count_nonzero(of_key)))
        # Kinds of key are told apart as in `profile.shown`, or a tag would share a content's hash.
        part = part_of(f"{per[0]}:{key}", most, shard=self._shard, shards=self._shards)
        opens_ms = self._decided[per, within].full_until(key, part - needed + 1)
        # Booking only ever moves it later, and a content may bear several tags.
        until[of_key] = np.maximum(until[of_key], opens_ms)

    def encode(self) -> bytes:
        """The state as versioned bytes for the shard's snapshot; equal states give equal bytes."""
        if not self._decided:
            return b""
        for counts in self._decided.values():
            counts.forget(self._floor_ms)
        decided = {f"{per} {within}": c.state for (per, within), c in sorted(self._decided.items())}
        return msgspec.msgpack.encode(_Wire(VERSION, self._floor_ms, decided))

    def restore(self, encoded: bytes) -> None:
        """Take over what `encode` gave, as far as the plan of now asks for it.

        No bytes (a shard of before there were quotas) are nothing decided. Raises StateError where
        they are damaged or of another version.
        """
        if not encoded:
            return
        try:
            wire = msgspec.msgpack.decode(encoded, type=_Wire)
        except msgspec.MsgspecError as error:
            raise StateError(f"the quotas' state is damaged: {error}") from error
        if wire.version != VERSION:
            raise StateError(
                f"the quotas' state has version {wire.version}, this program reads {VERSION}"
            )
        self._floor_ms = wire.floor_ms
        for per, within in self._decided:
            held = wire.decided.get(f"{per} {within}", {})
            self._decided[per, within] = Counts(within, held)
        self._keep()
