"""What do tests of monitoring build on? A small placement, and what is watched of it.

The world draws contents and rewards from known chances; nothing of it is the product's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any, Final

from operators.monitor_watch import Closed, ClosedItem, Decided, DecidedItem, Watched
from operators.plan import Plan
from schemas.time import DAY, HOUR
from tests.operators.builders import T0, content, plan

REGIONS: Final = ("north", "south")
CONTENTS: Final = tuple(f"c{i}" for i in range(1, 11))
GROUPS: Final[dict[str, Any]] = {
    "region": {"of": "profile", "attribute": "region"},
    "maker": {"of": "content", "attribute": "maker"},
}
Chance = Callable[[str, str, int], float]
"""By content, region and day."""


def always(value: float) -> Chance:
    """The same for every content, region and day."""
    return lambda *_: value


_RARE: Final = always(0.1)
_ALIKE: Final = always(1.0)
_MOSTLY: Final = always(0.9)


def monitored(*, every: str = "1h", shift_above: float = 0.2, **sections: Any) -> Plan:
    """A plan of ten contents by two makers, watched by region and maker."""
    catalogue = [
        content(c, attributes={"maker": "big" if i < 5 else "small"})
        for i, c in enumerate(CONTENTS)
    ]
    monitoring = {"every": every, "shift_above": shift_above, "groups": GROUPS}
    return plan(catalogue=catalogue, **{"monitoring": monitoring, **sections})


def made(at_ms: int = T0, *contents: str, draw: str = "greedy", **fields: Any) -> Decided:
    """A decision on the contents (`c1`), drawn by a model."""
    default: dict[str, Any] = {
        "placement": "home",
        "at_ms": at_ms,
        "arm": "personalised",
        "items": [DecidedItem(c, "model", 0.5, draw, False) for c in contents or ("c1",)],
        "fallback": None,
        "candidates": 10,
        "follows": False,
        "groups": {},
    }
    return Decided(**{**default, **fields})


def booked(
    at_ms: int = T0,
    content_id: str = "c1",
    *,
    chance: float | None = 0.1,
    reward: float = 0.0,
    groups: Mapping[str, str] | None = None,
    **fields: Any,
) -> Closed:
    """The books of a decision on one content, shown; a click where it is rewarded."""
    default: dict[str, Any] = {
        "content_id": content_id,
        "shown": True,
        "nth": 1,
        "propensity": 0.5,
        "score": chance,
        "chance": chance,
        "rewards": {"click": reward} if reward else {},
        "explored": False,
    }
    item = ClosedItem(**{**default, **fields})
    return Closed("home", at_ms - HOUR, at_ms, "personalised", [item], dict(groups or {}))


def days(
    seed: int,
    *,
    number: int,
    per_day: int = 2_000,
    chance: Chance = _RARE,
    predicted: Chance | None = None,
    weight: Chance = _ALIKE,
    personal: Chance = _MOSTLY,
) -> list[Watched]:
    """Days of decisions and their books, evenly over the hours; rewards follow the hour, too."""
    rng = Random(seed)
    watched: list[Watched] = []
    for i in range(number * per_day):
        at_ms = T0 + i * DAY // per_day
        day, hour = i // per_day, at_ms // HOUR % 24
        region = REGIONS[rng.random() < 0.4]
        shown = rng.choices(CONTENTS, [weight(c, region, day) for c in CONTENTS])[0]
        groups = {"region": region}
        fallback = None if rng.random() < personal(shown, region, day) else "consent_unknown"
        watched.append(made(at_ms, shown, groups=groups, fallback=fallback))
        by_hour = 1.5 if hour >= 18 else 5 / 6
        p = chance(shown, region, day) * by_hour
        said = (predicted or chance)(shown, region, day)
        reward = float(rng.random() < p)
        watched.append(
            booked(at_ms, shown, chance=said, reward=reward, groups=groups, nth=rng.randint(1, 8))
        )
    return watched
