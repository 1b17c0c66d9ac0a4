"""A simulated shop whose shoppers react to the decisions they are shown.

The shop knows nothing of the flow: it speaks the event contract and reads decision records. Every
draw is a hash of (seed, purpose, shopper, visit, content), so the same shoppers meet every arm.
"""

from flows.simulate.baselines import (
    Arm,
    MostPopularArm,
    OracleArm,
    RandomArm,
    play_arm,
    play_oracle,
)
from flows.simulate.results import ArmResult, Estimates, Interval, estimates, uplift
from flows.simulate.shop import Play, Reference, Shop

__all__ = [
    "Arm",
    "ArmResult",
    "Estimates",
    "Interval",
    "MostPopularArm",
    "OracleArm",
    "Play",
    "RandomArm",
    "Reference",
    "Shop",
    "estimates",
    "play_arm",
    "play_oracle",
    "uplift",
]
