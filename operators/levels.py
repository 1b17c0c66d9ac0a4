"""How personal may this placement be for this person?

State: the levels that a person allows, with as of when each was stated: `level` for everything,
`level.<placement>` for one placement. The newest statement holds, and of two of the same instant
the stricter, so that arrival order never changes what is allowed. A level says what may be seen: 0
nothing (the fallback answers), 1 segments, 2 signals too, 3 the context too, 4 attributes and
predictions too, 5 the profile itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

Levels = dict[str, tuple[int, int]]
"""What is limited to (level, as of in ms)."""

BEHAVIOURAL: Final = 2
"""From this level on behaviour may be used, and so be named in a reason."""
MOST: Final = 5
MOST_KEPT: Final = 64
_ALL: Final = "level"
_KEY: Final = re.compile(r"level(\.[a-z][a-z0-9_]{0,63})?")


def state_levels(held: Levels, stated: Mapping[str, int], at_ms: int) -> bool:
    """Apply what a person allowed at an instant; True where anything changed.

    Other keys than `level` and `level.<placement>`, and levels other than 0 to 5, are ignored. At
    most 64 are kept: beyond that the oldest of a single placement gives way.
    """
    changed = False
    for key, level in stated.items():
        if not 0 <= level <= MOST or _KEY.fullmatch(key) is None:
            continue
        known = held.get(key)
        if known is None or at_ms > known[1] or (at_ms == known[1] and level < known[0]):
            held[key] = (level, at_ms)
            changed = True
    while len(held) > MOST_KEPT:
        del held[min((key for key in held if key != _ALL), key=lambda key: (held[key][1], key))]
    return changed


def level_of(held: Levels, placement: str, level: int) -> int:
    """The level in force where a placement has this level of its own: never above it.

    >>> level_of({"level": (3, 0), "level.mail": (1, 0)}, "mail", 4)
    1
    >>> level_of({"level": (3, 0), "level.mail": (1, 0)}, "home", 4)
    3
    """
    if not held:
        return level
    for key in (_ALL, f"{_ALL}.{placement}"):
        allowed = held.get(key)
        if allowed is not None and allowed[0] < level:
            level = allowed[0]
    return level
