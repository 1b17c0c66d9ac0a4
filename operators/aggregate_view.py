"""What does everybody's behaviour say to a decision: capped contents, popular ones, test shares?

The DECIDE side of the aggregate step (`operators.aggregate`). What is published is an ordinary
parameter set, so that it travels, is archived, restored and staged as every other learned value.
Each head is one list, as JSON: what it tells, then the names that its cells stand for.

    ["cap", per, max, within_ms, [key, ...]]    how many slices on the key opens again
    ["popular", placement, [content, ...]]      its rate; best first
    ["shares", test, [variant, ...]]            the share of profiles that each variant gets

Of counts only those at their cap are published, with when they open again: a count of millions does
not fit a float32, and a content that nobody sees any more must open by time alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple
from zlib import crc32

import msgspec
import numpy as np

from operators.aggregate_asked import CapKey, cap_key, over_everybody
from operators.aggregate_windows import NEVER, slice_ms
from operators.contents import Flags
from operators.parameters import ParameterSet, parameter_set
from operators.plan import Plan
from schemas.placements import PlacementCap

MODEL: Final = "_aggregates"
"""The model under which aggregates are published; no placement can begin with an underscore."""


class Listed(NamedTuple):
    """One head: what it tells (JSON), and the values of what it names."""

    told: list[Any]
    values: Sequence[float]


def to_set(
    listed: Sequence[Listed], *, incarnation: str, counter: int, taken: int, newest_ms: int
) -> ParameterSet:
    """The parameter set that tells these lists as of `newest_ms`."""
    longest = max([len(one.values) for one in listed], default=0)
    table = np.zeros((len(listed), 1 << max(longest - 1, 1).bit_length()), np.float32)
    for row, one in zip(table, listed, strict=True):
        row[: len(one.values)] = one.values
    heads = tuple(msgspec.json.encode(one.told).decode() for one in listed)
    named = crc32("\n".join(heads).encode(), newest_ms & 0xFFFFFFFF)
    return parameter_set(
        model=MODEL,
        incarnation=incarnation,
        counter=counter,
        decisions=float(taken),
        examples=taken,
        rewarded=0,
        learned_to_ms=newest_ms,
        heads=heads,
        intercepts=np.zeros(len(heads), np.float32),
        weights=table,
        digest=f"{crc32(table.tobytes(), named):08x}",
    )


class AggregateView:
    """A published set, read under one plan; without one (None) nothing is capped or known.

    What the set says of contents, placements, tests or caps that the plan does not know is left
    out: it was counted under another policy or catalogue.
    """

    def __init__(self, published: ParameterSet | None, plan: Plan) -> None:
        self._plan = plan
        self._closed_until: dict[CapKey, np.ndarray[Any, np.dtype[np.int64]]] = {}
        self._popular: dict[str, tuple[int, ...]] = {}
        self._shares: dict[str, dict[str, float]] = {}
        if published is None:
            return
        for head, values in zip(published.heads, published.weights, strict=True):
            match msgspec.json.decode(head):
                case ["cap", per, most, within, keys]:
                    cap = (per, most, within)
                    self._closed_until[cap] = self._until(cap, keys, values, published)
                case ["popular", placement, contents]:
                    self._popular[placement] = self._in_pool(placement, contents)
                case ["shares", test, variants]:
                    self._take_shares(test, variants, values.tolist())

    def _until(
        self, cap: CapKey, keys: list[str], values: Any, published: ParameterSet
    ) -> np.ndarray[Any, np.dtype[np.int64]]:
        contents = self._plan.contents
        width = slice_ms(cap[2])
        until = np.full(len(contents.ids), NEVER, np.int64)
        now = published.learned_to_ms // width
        for key, slices in zip(keys, values.tolist(), strict=False):
            opens_ms = (now + int(slices)) * width
            if cap[0] == "content" and key in contents.index:
                until[contents.index[key]] = opens_ms
            elif cap[0] == "tag" and key in contents.tagged:
                tagged = contents.tagged[key]
                until[tagged] = np.maximum(until[tagged], opens_ms)
        return until

    def _in_pool(self, placement: str, contents: list[str]) -> tuple[int, ...]:
        known = self._plan.placements.get(placement)
        if known is None:
            return ()
        found = (self._plan.contents.index.get(content) for content in contents)
        return tuple(at for at in found if at is not None and known.in_pool[at])

    def _take_shares(self, test: str, variants: list[str], values: list[float]) -> None:
        known = self._plan.policy.experiments.tests.get(test)
        if known is None or known.promote is None or set(known.variants) != set(variants):
            return
        # Shares are whole thousandths; through float32 they come back with a tail of digits.
        shares = {v: round(share, 6) for v, share in zip(variants, values, strict=False)}
        self._shares[test] = {variant: shares[variant] for variant in known.variants}

    def at_cap(self, caps: Iterable[PlacementCap], now_ms: int) -> Flags | None:
        """The contents at a soft cap of these at an instant, as flags (contents,); None: none is.

        Counts are as of the newest event that the set knows; caps of a profile and hard ones are
        not looked at.
        """
        found: Flags | None = None
        for cap in caps:
            until = self._closed_until.get(cap_key(cap))
            if until is None or not over_everybody(cap, hard=False):
                continue
            closed = until > now_ms
            if closed.any():
                found = closed if found is None else found | closed
        return found

    def popular(self, placement: str) -> tuple[int, ...]:
        """Positions of a placement's contents by reward per impression, best first.

        Only what was shown there lately is among them, and of that the best 256.
        """
        return self._popular.get(placement, ())

    def shares(self) -> dict[str, dict[str, float]]:
        """Shares by variant of each test that promotes; for any other test its weights hold."""
        return self._shares
