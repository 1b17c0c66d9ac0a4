"""What is shown when there is nothing to decide: segment default, popular, editorial.

The chain asks in that order and each link answers as far as its contents may be shown; the last one
is the whole pool by priority, so there is an answer wherever anything may be shown at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from operators.contents import Contents, Flags
from operators.diversity import Limit
from operators.placement_plan import CompiledPlacement
from operators.profile import Profile

Link = tuple[int, str | None]
"""A content's position, and the code of the link of the chain that names it (None: editorial)."""


def fallback_order(
    placement: CompiledPlacement,
    contents: Contents,
    profile: Profile,
    *,
    open_: Flags,
    asked: Iterable[str] | None,
    popular: Sequence[int],
    personal: bool,
) -> list[Link]:
    """Open contents in the order of the chain, each once.

    Where the request named its candidates, only they can be shown, in the order asked, and of them
    what the placement's pool or its editorial contents have. `personal` says whether segments may
    be looked at; `popular` lists positions, the most rewarding first.
    """
    if asked is not None:
        index, editorial = contents.index, placement.policy.fallback.contents
        found = dict.fromkeys(index[c] for c in asked if c in index)
        own = [i for i in found if placement.in_pool[i] or contents.ids[i] in editorial]
        return [(i, None) for i in own if open_[i]]
    order: dict[int, str | None] = {}
    for at, link in _chain(placement, profile, popular=popular, personal=personal):
        if open_[at]:
            order.setdefault(at, link)
    return list(order.items())


def _chain(
    placement: CompiledPlacement, profile: Profile, *, popular: Sequence[int], personal: bool
) -> Iterator[Link]:
    if personal:
        for segment, contents in placement.by_segment:
            if segment in profile.segments:
                yield from ((at, "segment_default") for at in contents)
                break
    if placement.policy.fallback.popular:
        yield from ((at, "popular") for at in popular if placement.in_pool[at])
    yield from ((at, None) for at in placement.order)


def slate(
    order: Sequence[Link], fixed: dict[int, int], *, slots: int, limit: Limit | None = None
) -> list[tuple[int, Link]]:
    """(rank from 0, link) of a slate: `fixed` maps ranks to places in the order, others fill up.

    What the limit closes is passed over, as in a draw.
    """
    among = None if limit is None else limit.among(np.array([at for at, _ in order], np.intp))
    taken = [at for rank, at in fixed.items() if rank < slots]
    found: list[tuple[int, Link]] = []
    for rank in range(min(slots, len(order))):
        at = fixed.get(rank)
        if at is None:
            open_ = None if among is None else among.open(taken)
            free = (i for i in range(len(order)) if i not in taken)
            at = next((i for i in free if open_ is None or open_[i]), None)
            if at is None:
                continue
            taken.append(at)
        found.append((len(found), order[at]))
    return found
