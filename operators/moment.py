"""What does a condition see besides the profile: the instant, the context, what was watched?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from operators.profile import Profile
from schemas.events import Scalar

Context = Mapping[str, Scalar]
Predict = Callable[[str, Profile, int], float | None]
"""(prediction, profile, now in ms) to its value; None where nothing was learned yet."""

NOTHING: Final[Mapping[str, Scalar]] = MappingProxyType({})
ALWAYS: Final[Mapping[int, int]] = MappingProxyType({})


def unpredicted(_name: str, _profile: Profile, _now_ms: int) -> float | None:
    """No prediction at all: every condition on one is unknown."""
    return None


class Moment(NamedTuple):
    """One instant at which conditions are asked.

    `since` tells of the signals that were not always watched from when on they were (slot to ms):
    that nothing was seen before then says nothing. `context` is the triggering event's.
    """

    now_ms: int
    context: Context = NOTHING
    since: Mapping[int, int] = ALWAYS
    predict: Predict = unpredicted
