"""How do the decisions of one placement fare: what is told of them every so often in event time?

Key: the placement. State: the periods that are still open (one or two), the sample of tests, what
was shown in the last period told. Output: reports about everybody together.

A decision counts in the period in which it was made, its outcome in the one in which its books
were closed. A period is told once event time is past its end by the lateness; what comes even
later counts in the oldest period still open, so that nothing is lost.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Final

import msgspec

from operators.monitor_report import Pool, pool_of, report
from operators.monitor_tests import ScoreTests, ScoreTestsWire
from operators.monitor_watch import Decided, Watched
from operators.monitor_window import Counting, Window, monitoring_of
from operators.outputs import Record
from operators.plan import Plan
from operators.shard_state import StateError
from schemas.time import MINUTE

MAGIC: Final = b"NBMO"
VERSION: Final = 1
_NEVER: Final = -(1 << 62)


def placement_of(snapshot: bytes) -> str:
    """Which placement a monitor's snapshot is of; raises StateError as `restore` does."""
    return _decode(snapshot).placement


class _Wire(msgspec.Struct, array_like=True):
    placement: str
    newest_ms: int
    told_ms: int
    drifts: int
    windows: list[Window]
    before: dict[str, int]
    tests: ScoreTestsWire


class Monitor:
    """Adds up what is watched of one placement; KeyError for one that the plan does not have."""

    def __init__(self, plan: Plan, placement: str) -> None:
        self.placement = placement
        self._windows: list[Window] = []
        self._newest_ms = _NEVER
        self._before: dict[str, int] = {}
        self._tests = ScoreTests()
        self._drifts = 0
        self._told_ms = _NEVER
        self._moving = True
        self.adopt(plan)

    def adopt(self, plan: Plan) -> None:
        """Go on under another policy or catalogue; open periods end where they were to end."""
        self._counting = Counting(plan, self.placement)
        self._plan = plan
        self._pool: Pool | None = None
        self._every_ms = max(monitoring_of(plan).every, MINUTE)
        # Books are closed once the watermark, not the newest event, has passed their window.
        self._grace_ms = min(self._every_ms, 2 * plan.policy.time.allowed_lateness + MINUTE)

    def watch(self, watched: Iterable[Watched], *, as_of_ms: int | None = None) -> list[Record]:
        """Take in what was watched, in any order; the reports that fell due, oldest first.

        `as_of_ms` is an instant before which nothing comes any more but what is late (the shards
        of one batch come one after the other, and the batch may span days); None: what is watched
        moves time itself.
        """
        reports: list[Record] = []
        if as_of_ms is not None:
            self._advance(as_of_ms, reports)
        self._moving = as_of_ms is None
        counting = self._counting
        for one in watched:
            if isinstance(one, Decided):
                counting.decided(self._window(one.at_ms, reports), one)
            else:
                counting.closed(self._window(one.closed_ms, reports), one)
        return reports

    def _window(self, at_ms: int, reports: list[Record]) -> Window:
        windows = self._windows
        if self._moving:
            self._advance(at_ms, reports)
        for i, window in enumerate(windows):
            if at_ms < window.ends_ms:
                if at_ms >= window.begins_ms or self._is_past(at_ms):
                    return window
                after_ms = windows[i - 1].ends_ms if i else _NEVER
                return self._open(i, at_ms, after_ms, window.begins_ms)
        return self._open(len(windows), at_ms, windows[-1].ends_ms if windows else _NEVER, None)

    def _advance(self, at_ms: int, reports: list[Record]) -> None:
        if at_ms > self._newest_ms:
            self._newest_ms = at_ms
            windows = self._windows
            while windows and windows[0].ends_ms + self._grace_ms <= at_ms:
                reports.append(self._tell(windows.pop(0)))

    def _is_past(self, at_ms: int) -> bool:
        """Whether the period of an instant was told, or would have been: it is too late for it."""
        ends_ms = (at_ms // self._every_ms + 1) * self._every_ms
        return at_ms < self._told_ms or ends_ms + self._grace_ms <= self._newest_ms

    def _open(self, place: int, at_ms: int, after_ms: int, until_ms: int | None) -> Window:
        after_ms = max(after_ms, self._told_ms)
        begins = max(at_ms, after_ms) // self._every_ms * self._every_ms
        ends = begins + self._every_ms
        window = Window(max(begins, after_ms), ends if until_ms is None else min(ends, until_ms))
        self._windows.insert(place, window)
        return window

    def _tell(self, window: Window) -> Record:
        self._told_ms = window.ends_ms
        drift = self._tests.add(window.ends_ms - 1, window.tests)
        self._drifts += bool(drift.reward) + drift.loss
        if self._pool is None:  # not at once: under many a plan no period ends
            self._pool = pool_of(self._plan, self.placement)
        told = report(
            window,
            plan=self._plan,
            placement=self.placement,
            pool=self._pool,
            before=self._before,
            tests=self._tests,
            drift=drift,
            drifts=self._drifts,
        )
        self._counting.told(window)
        if window.contents:
            self._before = window.contents
        return told

    def snapshot(self) -> bytes:
        """The monitor's state as versioned bytes with a checksum."""
        wire = _Wire(
            self.placement,
            self._newest_ms,
            self._told_ms,
            self._drifts,
            self._windows,
            self._before,
            self._tests.wire(),
        )
        body = msgspec.json.encode(wire)  # exact sums outgrow the 64 bits of msgpack
        return MAGIC + VERSION.to_bytes(2, "big") + zlib.crc32(body).to_bytes(4, "big") + body

    def restore(self, snapshot: bytes) -> None:
        """Take over a snapshot; raises StateError for other versions and damaged bytes."""
        wire = _decode(snapshot)
        if wire.placement != self.placement:
            raise StateError(f"a monitor of {self.placement} was given that of {wire.placement}")
        try:
            self._tests = ScoreTests.restored(wire.tests)
        except ValueError as error:
            raise StateError(f"a monitor's state is damaged: {error}") from error
        self._newest_ms, self._told_ms = wire.newest_ms, wire.told_ms
        self._drifts = wire.drifts
        self._windows, self._before = wire.windows, wire.before
        self.adopt(self._plan)  # what was known of other periods is not of these


def _decode(snapshot: bytes) -> _Wire:
    if snapshot[:4] != MAGIC or int.from_bytes(snapshot[4:6], "big") != VERSION:
        raise StateError(
            f"a monitor's state is of format {snapshot[:6]!r}, this program reads "
            f"{MAGIC!r} version {VERSION}"
        )
    body = snapshot[10:]
    if zlib.crc32(body) != int.from_bytes(snapshot[6:10], "big"):
        raise StateError("a monitor's state is damaged: its checksum does not fit")
    try:
        return msgspec.json.decode(body, type=_Wire)
    except msgspec.MsgspecError as error:
        raise StateError(f"a monitor's state is damaged: {error}") from error


def by_placement(watched: Iterable[Watched]) -> dict[str, list[Watched]]:
    """What was watched, grouped by placement, each group in order."""
    grouped: dict[str, list[Watched]] = {}
    for one in watched:
        grouped.setdefault(one.placement, []).append(one)
    return grouped
