"""What is nextbest compared with? Random, most popular, and an oracle that knows the hidden model.

Most popular is meant to be hard to beat: it ranks by a smoothed click rate corrected for rank and
fading in time, tries new contents, and does not show one shopper the same thing for ever. What it
does not do is look at who is asking. Chance comes from hashes, as everywhere in the shop.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Final, Protocol

import numpy as np

from flows.simulate.chance import Bools, Chance, Ints
from flows.simulate.results import ArmResult
from flows.simulate.shop import Play, Shop
from schemas.time import to_millis

_EXPLORE: Final = 0.05
_HALF_LIFE_TICKS: Final = 60.0
_PRIOR_SHOWN: Final = 100.0
_PRIOR_CTR: Final = 0.06
_SHOW_AGAIN: Final = 2
_RANK_DISCOUNT: Final = np.array([1.0, 0.88, 0.78])
_NEVER: Final = 2**62


class Arm(Protocol):
    """Something that answers page requests: the flow behind an adapter, or a baseline."""

    name: str

    def observe(self, events: Sequence[dict[str, Any]]) -> None:
        """See every event of a tick, before its requests are to be answered."""

    def decide(self, requests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """One decision record per request."""


def play_arm(
    shop: Shop, arm: Arm, *, progress: Callable[[int, int], None] | None = None
) -> ArmResult:
    """Run the whole loop with an arm; `progress` is called with (tick, ticks) after each tick."""
    return _run(shop.play(arm.name), lambda _play: arm, shop.ticks(), progress)


def play_oracle(shop: Shop, *, progress: Callable[[int, int], None] | None = None) -> ArmResult:
    """Run the whole loop with decisions made from the hidden model: the ceiling of any arm."""
    return _run(shop.play("oracle"), OracleArm, shop.ticks(), progress)


class RandomArm:
    """Any live contents, each with the same chance."""

    def __init__(self, shop: Shop, *, name: str = "random") -> None:
        self.name = name
        self._shelf = _Shelf(shop.catalogue())
        self._chance = Chance(shop.seed)

    def observe(self, events: Sequence[dict[str, Any]]) -> None:
        """Nothing to learn."""

    def decide(self, requests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """A uniform draw without replacement per request."""
        keys = _keys(requests)
        contents = np.arange(len(self._shelf.content_ids))
        drawn = self._chance.uniform("random-arm", keys[:, None], contents)
        drawn[:, ~self._shelf.live(requests)] = -1.0
        # Only the first few places matter: a partition costs a fifth of sorting every row.
        front = min(max((request["slots"] for request in requests), default=1), len(contents))
        best = np.argpartition(-drawn, front - 1, axis=1)[:, :front]
        live = np.take_along_axis(drawn, best, axis=1) >= 0
        return [
            self._shelf.decision(request, row[alive][: request["slots"]].tolist(), explored=True)
            for request, row, alive in zip(requests, best, live, strict=True)
        ]


class MostPopularArm:
    """The contents clicked most per time shown, forgetting with a half-life of two days.

    One page in twenty shows a random content in its last slot, so that new contents are found. A
    content shown twice to a shopper since his last click on it, hidden or bought by him
    makes way for the next most popular: the caps any shop has.
    """

    def __init__(self, shop: Shop, *, name: str = "most popular") -> None:
        self.name = name
        self._shelf = _Shelf(shop.catalogue())
        self._chance = Chance(shop.seed)
        self._clicks = np.full(len(self._shelf.content_ids), _PRIOR_CTR * _PRIOR_SHOWN)
        self._shown = np.full(len(self._shelf.content_ids), _PRIOR_SHOWN)
        self._tired: dict[str, dict[int, int]] = {}
        self._prior = np.array([_PRIOR_CTR * _PRIOR_SHOWN, _PRIOR_SHOWN])

    def observe(self, events: Sequence[dict[str, Any]]) -> None:
        """Count what was shown and clicked, after fading what was counted before."""
        keep = 0.5 ** (1.0 / _HALF_LIFE_TICKS)
        self._clicks = self._prior[0] + (self._clicks - self._prior[0]) * keep
        self._shown = self._prior[1] + (self._shown - self._prior[1]) * keep
        index = self._shelf.index
        for event in events:
            kind = event["type"]
            if kind == "impression":
                tired = self._tired.setdefault(event["user_id"], {})
                for rank, content_id in enumerate(event["contents"]):
                    content = index[content_id]
                    self._shown[content] += _RANK_DISCOUNT[min(rank, 2)]
                    tired[content] = tired.get(content, 0) + 1
            elif kind == "click":
                content = index[event["content_id"]]
                self._clicks[content] += 1.0
                self._tired[event["user_id"]][content] = 0
            elif kind == "purchase" or (kind == "feedback" and "content_id" in event):
                self._tired[event["user_id"]][index[event["content_id"]]] = _NEVER

    def decide(self, requests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The most popular contents of which the shopper is not tired."""
        live = self._shelf.live(requests)
        rate = np.where(live, self._clicks / self._shown, -1.0)
        order = np.argsort(-rate, kind="stable").tolist()
        keys = _keys(requests)
        explores = (self._chance.uniform("popular-arm/explore", keys) < _EXPLORE).tolist()
        alive = np.flatnonzero(live)
        found = alive[self._chance.pick("popular-arm/content", len(alive), keys)].tolist()
        decisions = []
        for request, explore, content in zip(requests, explores, found, strict=True):
            tired = self._tired.get(request["user_id"], {})
            slots = request["slots"]
            chosen: list[int] = []
            for candidate in order:
                if tired.get(candidate, 0) < _SHOW_AGAIN and rate[candidate] >= 0:
                    chosen.append(candidate)
                    if len(chosen) == slots:
                        break
            explored = explore and content not in chosen and bool(chosen)
            if explored:
                chosen[-1] = content
            decisions.append(self._shelf.decision(request, chosen, explored=explored))
        return decisions


class OracleArm:
    """Decides from the shop's hidden model: no arm can know this, some can come near."""

    name = "oracle"

    def __init__(self, play: Play) -> None:
        self._play = play

    def observe(self, events: Sequence[dict[str, Any]]) -> None:
        """Nothing to learn."""

    def decide(self, requests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The best slate for each open request."""
        return self._play.best_decisions() if requests else []


class _Shelf:
    """The catalogue as the baselines use it: what is live when, and decision records."""

    def __init__(self, catalogue: Iterable[dict[str, Any]]) -> None:
        records = list(catalogue)
        self.content_ids: list[str] = [record["content_id"] for record in records]
        self.index = {content_id: number for number, content_id in enumerate(self.content_ids)}
        self._from_ms = np.array([_instant(record, "valid_from", 0) for record in records])
        self._until_ms = np.array([_instant(record, "valid_until", _NEVER) for record in records])

    def live(self, requests: Sequence[dict[str, Any]]) -> Bools:
        """Which contents may be shown at the time of the requests of one tick."""
        if not requests:
            return np.zeros(len(self.content_ids), dtype=bool)
        at_ms = to_millis(datetime.fromisoformat(requests[0]["occurred_at"]))
        return (self._from_ms <= at_ms) & (at_ms < self._until_ms)

    def decision(
        self, request: dict[str, Any], contents: Sequence[int], *, explored: bool
    ) -> dict[str, Any]:
        """The fields of a decision record that the shop reads."""
        event_id = request["event_id"]
        return {
            "decision_id": f"d:{event_id}",
            "profile_id": request["user_id"],
            "placement": request["placement"],
            "trigger": {"event_id": event_id, "type": "decision_requested"},
            "items": [
                {
                    "content_id": self.content_ids[content],
                    "rank": rank,
                    "score": None,
                    "propensity": 1.0,
                }
                for rank, content in enumerate(contents, start=1)
            ],
            "explored": explored,
            "fallback": None,
        }


def _run(
    play: Play,
    arm_of: Callable[[Play], Arm],
    ticks: int,
    progress: Callable[[int, int], None] | None,
) -> ArmResult:
    arm = arm_of(play)
    events: list[dict[str, Any]] | None = play.start()
    while events is not None:
        arm.observe(events)
        requests = [event for event in events if event["type"] == "decision_requested"]
        decisions = arm.decide(requests)
        if progress is not None:
            progress(play.tick, ticks)
        events = play.step(decisions)
    return play.result()


def _keys(requests: Sequence[dict[str, Any]]) -> Ints:
    return np.array(
        [
            int.from_bytes(
                hashlib.blake2b(request["event_id"].encode(), digest_size=7).digest(), "little"
            )
            for request in requests
        ],
        dtype=np.int64,
    )


def _instant(record: dict[str, Any], field: str, absent: int) -> int:
    text = record.get(field)
    return absent if text is None else to_millis(datetime.fromisoformat(text))
