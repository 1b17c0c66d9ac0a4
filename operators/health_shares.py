"""Has a share changed for good? So many events bear a property, come late, are refused.

A step is a minute, or as many as it takes for ten events. River's ADWIN (Bifet, Gavaldà, "Learning
from time-changing data with adaptive windowing", SDM 2007) tells on the shares of the steps that a
change is no chance; it then counts if it is also large. The share is as usual again once it is back
by half of that, or after `accept_after`.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final, NamedTuple

from river import drift

_STEP: Final = 10
_LATELY: Final = 5
"""Steps that make the present share."""
_USUAL: Final = 2_000
"""Steps over which the usual share is a running mean."""
_GRACE: Final = 30


def _adwin() -> Any:  # River's classes are untyped
    return drift.ADWIN(clock=1, grace_period=_GRACE)  # type: ignore[no-untyped-call]


class ShareChange(NamedTuple):
    """A share that left what was usual (`began`), or came back to it."""

    began: bool
    was: float
    is_: float


class ShareWatch:
    """One share, fed with every minute that had events.

    `change` is the least change that counts. With `rising` only a growing share is told, else only
    a falling one.
    """

    __slots__ = (
        "_accept",
        "_adwin",
        "_change",
        "_lately",
        "_moved",
        "_of",
        "_part",
        "_rising",
        "_seen",
        "_since",
        "_step_of",
        "_step_part",
        "usual",
    )

    def __init__(self, *, change: float, rising: bool, accept_minutes: int) -> None:
        self._change = change
        self._rising = rising
        self._accept = accept_minutes
        self._adwin = _adwin()
        self._lately: deque[tuple[int, int]] = deque()
        self._part = self._of = self._step_part = self._step_of = 0
        self._seen = 0
        self._moved = False
        self._since: int | None = None
        self.usual = 0.0

    @property
    def on(self) -> bool:
        """Whether an alarm is on."""
        return self._since is not None

    def minute(self, minute: int, part: int, of: int) -> ShareChange | None:
        """Take in `part` of `of` events (more than 0) of a minute; the change it brings."""
        self._step_part += part
        self._step_of += of
        if self._step_of < _STEP:
            return None
        part, of = self._step_part, self._step_of
        self._step_part = self._step_of = 0
        share = part / of
        lately = self._lately
        if len(lately) == _LATELY:
            gone_part, gone_of = lately.popleft()
            self._part -= gone_part
            self._of -= gone_of
        lately.append((part, of))
        self._part += part
        self._of += of
        now = self._part / self._of
        if self._since is not None:
            return self._until(minute, now)
        self._adwin.update(share)
        away = now - self.usual if self._rising else self.usual - now
        self._moved |= self._adwin.drift_detected
        if self._moved and away >= self._change:
            self._since, self._moved = minute, False
            return ShareChange(True, self.usual, now)
        if self._seen < _GRACE or away < self._change / 2:
            # What may be a change is not learned before ADWIN had its say.
            self._moved = False
            self._seen = min(self._seen + 1, _USUAL)
            self.usual += (share - self.usual) / self._seen
        return None

    def _until(self, minute: int, now: float) -> ShareChange | None:
        assert self._since is not None  # asked only while an alarm is on
        away = now - self.usual if self._rising else self.usual - now
        accepted = minute - self._since >= self._accept
        if away > self._change / 2 and not accepted:
            return None
        was = self.usual
        if accepted:
            self.usual, self._seen = now, _GRACE
        self._since = None
        self._adwin = _adwin()
        return ShareChange(False, was, now)
