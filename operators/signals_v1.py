"""What does a signal's state of release 0.1.0 say in today's shape?

0.1.0 kept windows in buckets only: {bucket: amount in millionths} and {value: newest bucket}. What
a bucket held is taken to have happened when the bucket began: it then leaves early, never late.
The instant of `last` and an affinity's state have not changed their shape.
"""

from __future__ import annotations

from operators.affinity import DecayedAffinity
from operators.distinct import DistinctValues
from operators.kinds import MICRO, Kind, State
from operators.occurrences import TimeSince
from operators.windows import EXACT, AmountWindow, CountWindow, bucket_size


def from_v1(kind: Kind, state: State) -> State | None:
    """The state in today's shape; None where 0.1.0 had no such kind."""
    match kind:
        case CountWindow():
            counted = {bucket: amount // MICRO for bucket, amount in sorted(state.items())}
            return _count(counted, kind.size)
        case AmountWindow():
            kept = sorted(state.items())
            newest = kept[-EXACT:]
            return [
                [bucket * kind.size for bucket, _ in newest],
                dict(kept[:-EXACT]),
                [amount for _, amount in newest],
            ]
        case DistinctValues():
            size = bucket_size(kind.within)
            seen = sorted((bucket, text) for text, bucket in state.items())
            return {text: bucket * size for bucket, text in seen}
        case TimeSince() | DecayedAffinity():
            return state
        case _:
            return None


def _count(counted: dict[int, int], size: int) -> State:
    times: list[int] = []
    for bucket in sorted(counted, reverse=True):
        taken = min(counted[bucket], EXACT - len(times))
        times[:0] = [bucket * size] * taken
        counted[bucket] -= taken
    return [times, {bucket: left for bucket, left in counted.items() if left}]
