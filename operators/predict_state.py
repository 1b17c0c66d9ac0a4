"""What is kept of a profile for its predictions? Cases whose label is not known yet.

Apart from `operators.predict`, so that the profile's encoding needs nothing but this shape.
"""

from __future__ import annotations

from typing import Final

import msgspec

UNPREDICTED: Final = -1.0
"""`Case.predicted` where nothing had been learned at the case's moment."""


class Case(msgspec.Struct, array_like=True, gc=False):
    """One profile at one moment, waiting for what happens next.

    An event dated after `at_ms` and before `closes_ms` is within the horizon; the label is final
    when the watermark reaches `closes_ms`. `features` are the profile's cells at `at_ms` (uint32,
    little-endian; none: not a case but the instant at which an idle one is due) and `predicted`
    what was believed then. `total` is what the horizon has brought so far. `mark` tells the target
    that the case was taken for: a label means nothing under another one.
    """

    prediction: str
    at_ms: int
    closes_ms: int
    features: bytes
    predicted: float = UNPREDICTED
    total: float = 0.0
    mark: int = 0
