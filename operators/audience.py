"""Which audience is a profile in, and what is told to the step that discovers them?

The DECIDE side of audience discovery. A profile is looked at once per `every`: its numeric signals
become one vector on a logarithmic scale (counts and sums are long-tailed: without it the few
heaviest users would be all the groups there are). No profile id leaves with it. The discovering
step (`operators.discover`) publishes its centres as a parameter set of a model of its own, so that
they travel, are archived and are restored as every other learned value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from operators.parameters import ParameterSet
from operators.profile import Profile
from schemas.audiences import COMPARABLE
from schemas.policy import Policy

MODEL: Final = "audience.clusters"
"""The model under which centres are published; no placement can bear a name with a dot."""
LOOKED_AT: Final = "#audiences"
"""The entry of a profile's `sampled` that says when it was last looked at."""
_IDS: Final = "#audience"

Floats = npt.NDArray[np.float64]


class Signal(Protocol):
    """What is asked of a compiled signal here."""

    def value(self, signals: Mapping[int, Any], now_ms: int, /) -> float | str | None:
        """The value at an instant; None where it has none."""


class Sampled(NamedTuple):
    """One look at one profile: its compared signals, scaled, in the order of `compared`."""

    vector: tuple[float, ...]
    at_ms: int


@dataclass(frozen=True, eq=False)
class Centres:
    """Audiences as last published.

    `ids` are the audiences' numbers; `centres` (audiences, signals) are in standard deviations
    from `means`, which like `deviations` are on the logarithmic scale of `scaled`.
    """

    signals: tuple[str, ...]
    ids: tuple[int, ...]
    means: Floats
    deviations: Floats
    centres: Floats
    version: str


def compared(policy: Policy, signals: tuple[str, ...] | None) -> tuple[str, ...]:
    """The signals of a policy that profiles are compared by, in the order of a vector.

    Absent `signals` mean all that can be compared; of those given, what cannot is left out
    (`schemas.check` has refused it before).
    """
    return tuple(
        name
        for name, signal in policy.signals.items()
        if signal.kind in COMPARABLE and (signals is None or name in signals)
    )[:64]


def scaled(value: float | str | None) -> float:
    """A number on the logarithmic scale, keeping its sign; what has no value counts as 0.

    >>> round(scaled(9.0), 3), round(scaled(-9.0), 3), scaled(None)
    (2.303, -2.303, 0.0)
    """
    if value is None or isinstance(value, str) or not math.isfinite(value):
        return 0.0
    return math.copysign(math.log1p(abs(value)), value)


def unscaled(value: float) -> float:
    """The number that `scaled` made `value` of."""
    return math.copysign(math.expm1(abs(value)), value)


def sample(signals: Sequence[Signal], states: Mapping[int, Any], now_ms: int) -> tuple[float, ...]:
    """The vector of a profile at an instant: one scaled number per compared signal.

    `states` is the profile's `signals`.
    """
    return tuple([scaled(signal.value(states, now_ms)) for signal in signals])


def look(
    profile: Profile, signals: Sequence[Signal], *, every_ms: int, now_ms: int
) -> Sampled | None:
    """A look at a profile where the last is `every_ms` old, which is then noted in the profile.

    An event that comes late gives no look, and nor does a policy that compares no signal.
    """
    last = profile.sampled.get(LOOKED_AT)
    if not signals or (last is not None and now_ms - last < every_ms):
        return None
    profile.sampled[LOOKED_AT] = now_ms
    return Sampled(sample(signals, profile.signals, now_ms), now_ms)


def to_table(centres: Centres) -> tuple[tuple[str, ...], npt.NDArray[np.float32]]:
    """Heads and weights of the parameter set that carries centres.

    One row per signal: mean, deviation, then one column per audience; the first row holds the
    audiences' numbers. The width is the next power of two.
    """
    columns = 2 + len(centres.ids)
    table = np.zeros((1 + len(centres.signals), 1 << (columns - 1).bit_length()), np.float32)
    table[0, 2:columns] = centres.ids
    table[1:, 0] = centres.means
    table[1:, 1] = centres.deviations
    table[1:, 2:columns] = centres.centres.T
    return (_IDS, *centres.signals), table


def to_centres(published: ParameterSet | None, signals: tuple[str, ...]) -> Centres | None:
    """The centres of a published set; None before the first, or where it compares other signals."""
    if published is None or published.heads != (_IDS, *signals):
        return None
    table = published.weights.astype(np.float64)
    columns = np.flatnonzero(table[0, 2:]) + 2
    return Centres(
        signals=signals,
        ids=tuple(int(number) for number in table[0, columns]),
        means=table[1:, 0],
        deviations=table[1:, 1],
        centres=np.ascontiguousarray(table[1:, columns].T),
        version=published.version,
    )


def assign(vector: tuple[float, ...], centres: Centres) -> int:
    """The number of the audience whose centre is nearest."""
    away = standardised(np.array([vector]), centres.means, centres.deviations)
    return centres.ids[int(((centres.centres - away) ** 2).sum(axis=1).argmin())]


def standardised(vectors: npt.NDArray[Any], means: Floats, deviations: Floats) -> Floats:
    """Vectors in standard deviations from the mean; a signal that never varied gives 0."""
    spread = np.where(deviations > 0, deviations, 1.0)
    away: Floats = np.where(deviations > 0, (vectors - means) / spread, 0.0)
    return away
