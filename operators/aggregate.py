"""What did everybody see and do? Global caps, popularity and the shares of tests, in one step.

One key, fed by DECIDE with lists of what was decided, shown and rewarded; nothing in them says by
whom. State: counts by content and tag in the windows that soft caps ask for, decayed rewards and
impressions by placement and content, and what each variant of a promoting test has earned: only of
contents, placements and tests that the plan knows. All are whole numbers summed in slices of event
time, so the order in which lists come changes nothing.

Sets are published by count, never by the clock: every `PUBLISH_EVERY` lines, and at the end of
every list in which something reached its cap or is now held there for longer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple
from zlib import crc32

import msgspec

from operators.aggregate_asked import CapKey, global_caps, popular_placements
from operators.aggregate_view import Listed, to_set
from operators.aggregate_windows import (
    UNIT,
    Counts,
    Popularity,
    in_units,
)
from operators.experiments import Earned, shares_of
from operators.parameters import ParameterSet
from operators.plan import Plan
from operators.shard_state import StateError

MAGIC: Final = b"NBAG"
VERSION: Final = 1
PUBLISH_EVERY: Final = 250
LISTED: Final = 256
"""Popular contents told per placement; the rest follow in the fallback's order anyway."""


class Seen(NamedTuple):
    """One line of what happened, without whom it happened to.

    * A decision was made: no `content_id`, no `kind`; `tests` are the (test, variant) it was in.
    * A content was shown: `content_id`, no `kind`.
    * A reward came: `kind` and its `value`; `tests` those of its decision, and `before` what that
      decision had earned of this kind already.
    """

    placement: str
    content_id: str
    at_ms: int
    kind: str | None = None
    value: float = 0.0
    tests: tuple[tuple[str, str], ...] = ()
    before: float = 0.0


class _Tally(msgspec.Struct, array_like=True):
    """What the variants of one test earned of one reward: decisions, units, squares of units."""

    reward: str
    variants: dict[str, tuple[int, int, int]] = msgspec.field(default_factory=dict)

    def add(self, variant: str, decisions: int, earned: int, before: int) -> None:
        n, total, squares = self.variants.get(variant, (0, 0, 0))
        # The square of a decision's sum, as it grows by one reward.
        grown = earned * (earned + 2 * before)
        self.variants[variant] = (n + decisions, total + earned, squares + grown)


class _Wire(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    taken: int
    newest_ms: int
    since: int
    shown: dict[str, dict[str, dict[int, int]]]
    popular: dict[str, dict[str, dict[int, tuple[int, int]]]]
    tests: dict[str, tuple[str, dict[str, tuple[int, str, str]]]]


class Aggregator:
    """The machine of the aggregate step.

    `incarnation` names this life: versions of another life are never reused.
    """

    def __init__(self, plan: Plan, *, incarnation: str) -> None:
        self._incarnation = incarnation
        self._taken = 0
        self._since = 0
        self._newest_ms = 0
        self._counter = 0
        self._told: dict[tuple[CapKey, str], int] = {}
        self._shown: dict[tuple[str, int], Counts] = {}
        self._popular: dict[str, Popularity] = {}
        self._tests: dict[str, _Tally] = {}
        self.adopt(plan)

    def adopt(self, plan: Plan) -> None:
        """Go on under another plan: what it still asks for is kept, the rest is dropped."""
        self._plan = plan
        self._caps = global_caps(plan.policy, hard=False)
        contents = plan.contents
        keys = {"content": contents.ids, "tag": tuple(contents.tagged)}
        windows = {(per, within): Counts(within) for per, _, within in self._caps}
        self._shown = {window: self._shown.get(window, new) for window, new in windows.items()}
        for (per, _), counts in self._shown.items():
            counts.keep(keys.get(per, ()))
        self._popular = {
            name: self._popular.get(name, Popularity()) for name in popular_placements(plan.policy)
        }
        for popularity in self._popular.values():
            popularity.keep(contents.ids)
        tests = {}
        for name, test in plan.policy.experiments.tests.items():
            if test.promote is None:
                continue
            tally = self._tests.get(name)
            if tally is None or tally.reward != test.promote.reward:
                tally = _Tally(test.promote.reward)
            tally.variants = {v: tally.variants[v] for v in test.variants if v in tally.variants}
            tests[name] = tally
        self._tests = tests

    def take(self, seen: Iterable[Seen]) -> ParameterSet | None:
        """Take in one list; the set that fell due at its end, if one did."""
        turned = False
        for one in seen:
            self._taken += 1
            self._since += 1
            self._newest_ms = max(self._newest_ms, one.at_ms)
            turned |= self._one(one)
        return self.publish() if turned or self._since >= PUBLISH_EVERY else None

    def _one(self, one: Seen) -> bool:
        """Count one line; whether a cap is reached by it, or held for longer than was told."""
        for test, variant in one.tests:
            tally = self._tests.get(test)
            if tally is None or variant not in self._plan.policy.experiments.tests[test].variants:
                continue
            if one.kind == tally.reward:
                tally.add(variant, 0, in_units(one.value), in_units(one.before))
            elif one.kind is None and not one.content_id:
                tally.add(variant, 1, 0, 0)
        if one.content_id not in self._plan.contents.index:
            return False
        popularity = self._popular.get(one.placement)
        if popularity is not None:
            popularity.add(
                one.content_id,
                one.at_ms,
                impressions=int(one.kind is None),
                reward=0 if one.kind is None else in_units(one.value),
                newest_ms=self._newest_ms,
            )
        return one.kind is None and bool(self._shown) and self._shown_once(one)

    def _shown_once(self, one: Seen) -> bool:
        tags = tuple(dict.fromkeys(self._plan.contents.by_id[one.content_id].tags))
        keys: dict[str, tuple[str, ...]] = {"content": (one.content_id,), "tag": tags}
        for (per, _), counts in self._shown.items():
            for key in keys.get(per, ()):
                counts.add(key, one.at_ms)
        turned = False
        for cap in self._caps:
            per, most, within = cap
            for key in keys.get(per, ()):
                until = self._shown[per, within].full_until(key, most)
                turned |= until > self._newest_ms and until != self._told.get((cap, key))
        return turned

    def publish(self) -> ParameterSet:
        """What is known now, as an immutable set (see `operators.aggregate_view`)."""
        self._since = 0
        self._counter += 1
        self._tidy()
        self._told = {}
        listed = [*self._list_caps(), *self._list_popular(), *self._list_shares()]
        return to_set(
            listed,
            incarnation=self._incarnation,
            counter=self._counter,
            taken=self._taken,
            newest_ms=self._newest_ms,
        )

    def _tidy(self) -> None:
        for counts in self._shown.values():
            counts.forget(self._newest_ms)
        for popularity in self._popular.values():
            popularity.move(self._newest_ms)

    def _list_caps(self) -> Iterable[Listed]:
        for cap in self._caps:
            per, most, within = cap
            counts = self._shown[per, within]
            now = self._newest_ms // counts.width
            full = {key: counts.full_until(key, most) for key in counts.keys}
            full = {key: until for key, until in full.items() if until > self._newest_ms}
            self._told.update({(cap, key): until for key, until in full.items()})
            slices = [until // counts.width - now for until in full.values()]
            yield Listed(["cap", per, most, within, list(full)], slices)

    def _list_popular(self) -> Iterable[Listed]:
        for placement, popularity in self._popular.items():
            ranked = popularity.ranked(LISTED)
            contents = [content for content, _ in ranked]
            yield Listed(["popular", placement, contents], [rate for _, rate in ranked])

    def _list_shares(self) -> Iterable[Listed]:
        for name, tally in self._tests.items():
            test = self._plan.policy.experiments.tests[name]
            if test.promote is None:
                continue
            earned = {
                variant: Earned(float(n), total / UNIT, squares / UNIT**2)
                for variant, (n, total, squares) in tally.variants.items()
            }
            weights = {variant: given.weight for variant, given in test.variants.items()}
            shares = shares_of(earned, test.promote, weights)
            yield Listed(["shares", name, list(shares)], list(shares.values()))

    def snapshot(self) -> bytes:
        """The state as versioned, checked bytes; equal states give equal bytes."""
        self._tidy()
        wire = _Wire(
            taken=self._taken,
            newest_ms=self._newest_ms,
            since=self._since,
            shown={f"{per} {within}": c.state for (per, within), c in sorted(self._shown.items())},
            popular={name: self._popular[name].state for name in sorted(self._popular)},
            tests={
                # Squares outgrow 64 bits: as text.
                name: (
                    tally.reward,
                    {v: (n, str(t), str(s)) for v, (n, t, s) in sorted(tally.variants.items())},
                )
                for name, tally in sorted(self._tests.items())
            },
        )
        body = msgspec.msgpack.encode(wire)
        return MAGIC + VERSION.to_bytes(2, "big") + crc32(body).to_bytes(4, "big") + body

    def restore(self, snapshot: bytes) -> ParameterSet:
        """Take over a snapshot under the plan of now; the set to publish at once.

        What the plan does not ask for any more is left out. Raises StateError for other versions
        and damaged bytes.
        """
        wire = _decode(snapshot)
        self._taken, self._newest_ms, since = wire.taken, wire.newest_ms, wire.since
        for (per, within), counts in list(self._shown.items()):
            held = wire.shown.get(f"{per} {within}")
            self._shown[per, within] = counts if held is None else Counts(within, held)
        for name in self._popular:
            self._popular[name] = Popularity(wire.popular.get(name))
        for name, (reward, variants) in wire.tests.items():
            tally = {v: (n, int(total), int(sq)) for v, (n, total, sq) in variants.items()}
            self._tests[name] = _Tally(reward, tally)
        self.adopt(self._plan)
        kept = self.publish()
        self._since = since
        return kept


def _decode(snapshot: bytes) -> _Wire:
    if snapshot[:4] != MAGIC or int.from_bytes(snapshot[4:6], "big") != VERSION:
        raise StateError(
            f"the aggregates' state is of format {snapshot[:6]!r}, this program reads "
            f"{MAGIC!r} version {VERSION}"
        )
    body = snapshot[10:]
    if crc32(body).to_bytes(4, "big") != snapshot[6:10]:
        raise StateError("the aggregates' state is damaged: its checksum differs")
    try:
        return msgspec.msgpack.decode(body, type=_Wire)
    except msgspec.MsgspecError as error:
        raise StateError(f"the aggregates' state is damaged: {error}") from error
