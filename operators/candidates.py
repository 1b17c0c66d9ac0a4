"""Which contents may be shown to this profile now, and why were the others refused?

Eligibility (may it be shown at all: schedule, stock, consent, audience) and the profile's own
limits (do-not-show, caps, what the page shows already) narrow the candidates before anything is
scored. Everything is an array over the catalogue; only what a profile itself holds (a few hidden
contents, a few caps) is looped over.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from operators.consent import granted
from operators.contents import Contents, Flags
from operators.moment import Moment
from operators.placement_plan import CompiledPlacement
from operators.profile import Profile
from operators.prompts import Prompts
from operators.score import Indices
from schemas.catalogue import Cap


class Candidates(NamedTuple):
    """Positions of the eligible contents, how many were considered, and refusals by reason."""

    positions: Indices
    considered: int
    rejections: dict[str, int]


class Eligibility:
    """Narrows the candidates of one placement; remembers which contents are in season.

    The schedule and stock of a catalogue change at known instants only, so their part is worked
    out once per season (the span between two such instants) instead of once per decision.
    """

    def __init__(
        self,
        placement: CompiledPlacement,
        contents: Contents,
        prompts: Prompts | None = None,
    ) -> None:
        self._placement = placement
        self._prompts = Prompts(contents) if prompts is None else prompts
        self._contents = contents
        self._edges = np.unique(np.concatenate([contents.valid_from, contents.valid_until]))
        own = [cap for cap in placement.policy.caps if cap.over == "profile"]
        self._content_caps = tuple(cap for cap in own if cap.per == "content")
        self._tag_caps = tuple(cap for cap in own if cap.per == "tag")
        self._placement_caps = tuple(cap for cap in own if cap.per == "placement")
        self._channel_caps = tuple(cap for cap in own if cap.per == "channel")
        self._least_cap = min(
            [cap.max for cap in (*self._content_caps, *self._tag_caps)]
            + [cap.max for caps in contents.caps.values() for cap in caps],
            default=1,
        )
        self._season: tuple[int, int] | None = None
        self._open = np.zeros(0, np.bool_)
        self._pooled: tuple[Indices, dict[str, int]] = (np.zeros(0, np.intp), {})

    def _in_season(self, now_ms: int) -> Flags:
        season = self._season
        if season is None or not season[0] <= now_ms < season[1]:
            contents = self._contents
            at = int(np.searchsorted(self._edges, now_ms, side="right"))
            never = 1 << 62
            self._season = (
                int(self._edges[at - 1]) if at else -never,
                int(self._edges[at]) if at < len(self._edges) else never,
            )
            scheduled = (contents.valid_from <= now_ms) & (now_ms < contents.valid_until)
            unfit = contents.sensitive & (not self._placement.policy.candidates.sensitive)
            self._open = scheduled & contents.in_stock & ~unfit
            pool = self._placement.pool
            refused = {
                "not_scheduled": int((~scheduled[pool]).sum()),
                "out_of_stock": int((scheduled & ~contents.in_stock)[pool].sum()),
                "sensitive": int((scheduled & contents.in_stock & unfit)[pool].sum()),
            }
            self._pooled = (
                pool[self._open[pool]],
                {reason: n for reason, n in refused.items() if n},
            )
        return self._open

    def worn_out(self, profile: Profile, now_ms: int) -> bool:
        """Whether a cap of the placement as a whole, or of its channel, is reached."""
        policy = self._placement.policy
        return (
            bool(self._placement_caps)
            and reached(
                profile.shown.get(f"p:{self._placement.name}", []), self._placement_caps, now_ms
            )
        ) or (
            bool(self._channel_caps)
            and policy.channel is not None
            and reached(profile.shown.get(f"n:{policy.channel}", []), self._channel_caps, now_ms)
        )

    def narrow(
        self,
        profile: Profile,
        moment: Moment,
        *,
        asked: Iterable[str] | None,
        crowded: Flags | None = None,
        elsewhere: Sequence[str] = (),
    ) -> Candidates:
        """The eligible candidates: of the pool, or of the contents asked for in the request.

        `crowded` flags contents that everybody together has seen enough of, `elsewhere` lists what
        the page shows in other placements.
        """
        open_ = self._in_season(moment.now_ms)
        if asked is None:
            positions, rejections = self._pooled
            considered = len(self._placement.pool)
        else:
            positions, rejections, considered = self._of_request(asked, open_)
        rejections = dict(rejections)
        contents = self._contents

        def keep(flags: Flags, reason: str) -> None:
            nonlocal positions
            kept = positions[flags[positions]]
            if len(kept) < len(positions):
                rejections[reason] = rejections.get(reason, 0) + len(positions) - len(kept)
                positions = kept

        for purpose, bound in contents.needs.items():
            if not granted(profile, purpose):
                keep(~bound, "consent")
        if contents.asks:
            for refusal, left in self._prompts.closed(profile, moment.now_ms):
                keep(left, refusal)
        for evaluate, bound, refusal in contents.conditions:
            if not evaluate(profile, moment).holds:
                keep(~bound, refusal)
        if profile.hidden:
            keep(self._not_hidden(profile), "hidden")
        if profile.shown:
            keep(self._below_caps(profile, moment.now_ms), "capped")
        if crowded is not None:
            keep(~crowded, "capped_for_all")
        if elsewhere:
            keep(self._not_among(elsewhere), "on_page")
        return Candidates(positions, considered, rejections)

    def open_to_anybody(
        self,
        profile: Profile,
        now_ms: int,
        *,
        crowded: Flags | None = None,
        elsewhere: Sequence[str] = (),
    ) -> Flags:
        """Which contents may be shown without asking who somebody is.

        It asks nothing of the profile but what it has stated (do-not-show, consent) and how often
        it was shown what (kept with consent only), so it may be asked without consent.
        """
        contents = self._contents
        open_ = self._in_season(now_ms)
        for _, bound, _ in contents.conditions:
            open_ = open_ & ~bound
        for purpose, bound in contents.needs.items():
            if not granted(profile, purpose):
                open_ = open_ & ~bound
        if contents.asks:
            for _, left in self._prompts.closed(profile, now_ms):
                open_ = open_ & left
        # A legal notice is not something to be hidden.
        if profile.hidden and not self._placement.policy.never_personalised:
            open_ = open_ & self._not_hidden(profile)
        if profile.shown:
            open_ = open_ & self._below_caps(profile, now_ms)
        if crowded is not None:
            open_ = open_ & ~crowded
        if elsewhere:
            open_ = open_ & self._not_among(elsewhere)
        return open_

    def _of_request(
        self, asked: Iterable[str], open_: Flags
    ) -> tuple[Indices, dict[str, int], int]:
        wanted = list(dict.fromkeys(asked))
        known = [i for c in wanted if (i := self._contents.index.get(c)) is not None]
        rejections = (
            {"unknown_content": len(wanted) - len(known)} if len(known) < len(wanted) else {}
        )
        positions = np.array(known, np.intp)
        for flags, reason in ((self._placement.in_pool, "not_a_candidate"), (open_, "unavailable")):
            kept = positions[flags[positions]]
            if len(kept) < len(positions):
                rejections[reason] = len(positions) - len(kept)
            positions = kept
        return positions, rejections, len(wanted)

    def _not_hidden(self, profile: Profile) -> Flags:
        shown = np.ones(len(self._contents.ids), np.bool_)
        for key in profile.hidden:
            kind, _, name = key.partition(":")
            if kind == "c" and name in self._contents.index:
                shown[self._contents.index[name]] = False
            elif kind == "t" and name in self._contents.tagged:
                shown &= ~self._contents.tagged[name]
        return shown

    def _not_among(self, ids: Iterable[str]) -> Flags:
        free = np.ones(len(self._contents.ids), np.bool_)
        index = self._contents.index
        free[[index[c] for c in ids if c in index]] = False
        return free

    def _below_caps(self, profile: Profile, now_ms: int) -> Flags:
        contents = self._contents
        below = np.ones(len(contents.ids), np.bool_)
        for key, times in profile.shown.items():
            if len(times) < self._least_cap:
                continue
            kind, name = key[0], key[2:]
            if kind == "c":
                at = contents.index.get(name)
                limits = (*self._content_caps, *contents.caps.get(name, ()))
                if at is not None and reached(times, limits, now_ms):
                    below[at] = False
            elif kind == "t" and name in contents.tagged and reached(times, self._tag_caps, now_ms):
                below &= ~contents.tagged[name]
        return below


def reached(times: list[int], caps: Iterable[Cap], now_ms: int) -> bool:
    """Whether any cap is reached by impressions at these times, given in order.

    >>> reached([1_000, 2_000], [Cap(max=2, within="1s")], 2_500)
    False
    >>> reached([1_600, 2_000], [Cap(max=2, within="1s")], 2_500)
    True
    """
    return any(len(times) >= cap.max and times[-cap.max] > now_ms - cap.within for cap in caps)
