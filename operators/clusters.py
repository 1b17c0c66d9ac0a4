"""Where do the centres of a set of points lie? Seeding and repair for the online k-means.

River's incremental k-means follows centres that move, but starts at random points and never
revives a centre that lost its points. Both are mended here on the newest points, without chance:
centres are added one at a time where they lower the cost most (Likas, Vlassis, Verbeek, "The
global k-means clustering algorithm", Pattern Recognition 36, 2003, with candidate points at even
strides), and a centre that hardly matters is moved where one is missing.

Points have shape (points, signals), centres (centres, signals), both in standard deviations. The
cost is the mean squared distance of a point to its nearest centre. Sums run in a fixed order and
no matrix product is used, so the same points give the same centres on every machine.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_CANDIDATES: Final = 64
_PASSES: Final = 8
_GAIN: Final = 0.03
"""Share of the cost that another centre, or a moved one, must save to be worth it."""


def squared_distances(points: Floats, centres: Floats) -> Floats:
    """Squared distance of every point to every centre, shape (points, centres)."""
    found = np.empty((len(points), len(centres)))
    for j, centre in enumerate(centres):
        found[:, j] = ((points - centre) ** 2).sum(axis=1)
    return found


def settled(points: Floats, centres: Floats) -> Floats:
    """Centres after a few passes of Lloyd's algorithm; one without points stays where it is."""
    centres = centres.copy()
    for _ in range(_PASSES):
        nearest = squared_distances(points, centres).argmin(axis=1)
        before = centres.copy()
        for j in range(len(centres)):
            members = points[nearest == j]
            if len(members):
                centres[j] = members.mean(axis=0)
        if np.array_equal(before, centres):
            break
    return centres


def cost(points: Floats, centres: Floats) -> float:
    """Mean squared distance of a point to its nearest centre."""
    return float(squared_distances(points, centres).min(axis=1).mean())


def _best_addition(points: Floats, nearest: Floats) -> Floats:
    """The candidate point that as a further centre would lower the cost most."""
    stride = max(1, len(points) // _CANDIDATES)
    candidates = points[::stride]
    saved = [
        float(np.maximum(nearest - ((points - candidate) ** 2).sum(axis=1), 0.0).sum())
        for candidate in candidates
    ]
    best: Floats = candidates[int(np.argmax(saved))]
    return best


def seeded(points: Floats, *, most: int) -> Floats:
    """At most `most` centres for points, fewer where another would explain almost nothing."""
    centres: Floats = points.mean(axis=0, keepdims=True)
    while len(centres) < most:
        more = grown(points, centres)
        if more is None:
            break
        centres = more
    return centres


def grown(points: Floats, centres: Floats) -> Floats | None:
    """The centres and one more (last), or None where it would save too little."""
    nearest = squared_distances(points, centres).min(axis=1)
    now = float(nearest.mean())
    more = settled(points, np.vstack([centres, _best_addition(points, nearest)]))
    return more if cost(points, more) < (1 - _GAIN) * now else None


def moved(points: Floats, centres: Floats) -> tuple[int, Floats] | None:
    """Which centre is better off elsewhere, and all centres after its move; None where none is.

    Tried is the one whose loss would cost least.
    """
    distances = squared_distances(points, centres)
    if len(centres) < 2:
        return None
    now = float(distances.min(axis=1).mean())
    without = [
        float(np.delete(distances, j, axis=1).min(axis=1).mean()) for j in range(len(centres))
    ]
    weakest = int(np.argmin(without))
    nearest = np.delete(distances, weakest, axis=1).min(axis=1)
    trial = centres.copy()
    trial[weakest] = _best_addition(points, nearest)
    trial = settled(points, trial)
    return (weakest, trial) if cost(points, trial) < (1 - _GAIN) * now else None
