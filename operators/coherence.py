"""May the slate of a placement change for this person now, and what of it stays if not?

State: by placement when its contents last turned, the first slate of a visit included. In any span
of `within` at most `changes` + 1 slates begin: the first one, and so many changes. While no more
may begin, what was shown stays at its rank as far as it is still eligible (what a person hides is
not), and only the other ranks are drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np

from operators.contents import Contents
from operators.profile import Profile
from operators.score import Indices
from schemas.placements import Coherence

_NOTHING: Final[Mapping[int, int]] = MappingProxyType({})


def kept(
    profile: Profile,
    name: str,
    coherence: Coherence,
    *,
    contents: Contents,
    positions: Indices,
    slots: int,
    now_ms: int,
    taken: Mapping[int, int] = _NOTHING,
) -> dict[int, int] | None:
    """What stays in place: rank (from 0) to candidate; None where the slate may change.

    `positions` are the eligible candidates' positions in the catalogue, a candidate is an index
    into them. `taken` is what rules have put in place already, in the same form: it goes first.
    """
    last = profile.last.get(name)
    if last is None:
        return None
    since = now_ms - coherence.within
    if sum(at_ms > since for at_ms in profile.turned.get(name, ())) <= coherence.changes:
        return None
    candidate = np.full(len(contents.ids), -1, np.intp)
    candidate[positions] = np.arange(len(positions))
    elsewhere = set(taken.values())
    stays: dict[int, int] = {}
    for rank, content_id in enumerate(last[1][:slots]):
        at = contents.index.get(content_id)
        found = -1 if at is None else int(candidate[at])
        if found >= 0 and rank not in taken and found not in elsewhere:
            stays[rank] = found
    return stays


def turned(
    profile: Profile, name: str, coherence: Coherence, content_ids: list[str], now_ms: int
) -> None:
    """Note whether a slate is another one than the last; called before it becomes the last.

    A slate after a pause of more than `within` begins anew, even if it is the same.
    """
    last = profile.last.get(name)
    since = now_ms - coherence.within
    if last is not None and last[1] == content_ids and profile.last_ms.get(name, since) > since:
        return
    times = [at_ms for at_ms in profile.turned.get(name, ()) if at_ms > since]
    # More than that are never asked for.
    profile.turned[name] = [*times, now_ms][-(coherence.changes + 1) :]
