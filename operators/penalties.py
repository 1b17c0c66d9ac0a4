"""How much less does a person want of this, after having said so?

State: by content (`c:<id>`) and tag (`t:<tag>`) when it was last liked (0: never) and when less of
it was wanted since. What is kept are the statements; their weight is worked out when a decision is
made, so that arrival order changes nothing, a late one never undoes a newer one, and another policy
weighs them anew.

Each statement counts one and halves every half-life. An amount of one takes the policy's strength
away, a smaller one that share of it, and n take 1 - (1 - strength)^n: more and more, never all.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Container
from typing import Final

import numpy as np
import numpy.typing as npt

from operators.arrival import Arrived
from operators.contents import Contents, Flags
from operators.score import Indices, Scores
from schemas.guidance import Feedback

Less = dict[str, list[int]]
"""Key to [last liked, less wanted, less wanted ...], in ms, each newer than the one before."""

MOST_KEYS: Final = 128
MOST_TIMES: Final = 8
FADED: Final = 10
"""Half-lives after which a statement counts nothing (it would be a thousandth)."""
_Row = npt.NDArray[np.float32]
_MOST_ROWS: Final = 4_096
_KEPT_CELLS: Final = 2_000_000
"""Floats kept in rows (8 MB): beyond that many, no more rows are kept than a profile has keys."""


def state_less(
    held: Less, event: Arrived, feedback: Feedback, now_ms: int, *, sensitive: Container[str] = ()
) -> bool:
    """Book a `less_like_this` (a dislike too, where the policy says so) or a like that ends it.

    True where anything changed. `sensitive` are the tags that are never kept. At most 128 keys are
    kept, with the newest 8 statements of each: beyond that likes give way first, then the oldest.
    """
    kind = event.feedback
    liked = kind == "like"
    if not liked and kind != "less_like_this" and not (kind == "dislike" and feedback.dislike):
        return False
    keys = [f"c:{event.content_id}"] if event.content_id else []
    keys += [f"t:{event.tag}"] if event.tag and event.tag not in sensitive else []
    changed = False
    for key in keys:
        changed = _state(held, key, event.occurred_ms, liked=liked) or changed
    if changed:
        _forget_faded(held, now_ms - FADED * feedback.less_like_this.half_life)
    return changed


def _state(held: Less, key: str, at_ms: int, *, liked: bool) -> bool:
    stated = held.get(key) or [0]
    since, wanted = stated[0], stated[1:]
    if at_ms <= since:  # what is newer was liked; of one instant the like holds
        return False
    if liked:
        # Remembered also where there was nothing to end: what is older may still arrive.
        held[key] = [at_ms, *wanted[bisect_right(wanted, at_ms) :]]
    else:
        insort(wanted, at_ms)
        held[key] = [since, *wanted[-MOST_TIMES:]]
    return True


def _forget_faded(held: Less, before_ms: int) -> None:
    for key in [key for key, stated in held.items() if stated[-1] <= before_ms]:
        del held[key]
    while len(held) > MOST_KEYS:
        del held[min(held, key=lambda key: (len(held[key]) > 1, held[key][-1], key))]


def amount_of(stated: list[int], now_ms: int, half_life: int) -> float:
    """How many statements there are as of now, each halving every half-life (ms).

    >>> amount_of([0, 0, 1_000], 1_000, 1_000)
    1.5
    """
    amount = 0.0
    for at_ms in stated[1:]:
        age = (now_ms - at_ms) / half_life
        if age < FADED:
            amount += 2.0**-age if age > 0 else 1.0
    return amount


def strength_of(amount: float, strength: float) -> float:
    """The share of a score that an amount takes away, 0 to 1.

    >>> strength_of(0.5, 0.8), strength_of(1, 0.8), round(strength_of(2, 0.8), 9)
    (0.4, 0.8, 0.96)
    """
    return strength * amount if amount <= 1 else 1 - (1 - strength) ** amount


class Penalties:
    """What one catalogue's contents lose by what a person wants less of.

    A content of which less is wanted loses by `content`; contents that share a tag with it, or bear
    a tag of which less is wanted, lose by `tags`. A sensitive content's tags, and sensitive tags,
    are not read.
    """

    def __init__(
        self, contents: Contents, feedback: Feedback, *, sensitive: Container[str] = ()
    ) -> None:
        self._contents = contents
        self._weights = feedback.less_like_this
        self._sensitive = sensitive
        self._rows: dict[str, _Row | None] = {}
        fitting = _KEPT_CELLS // max(1, len(contents.ids))
        self._most_rows = max(MOST_KEYS, min(_MOST_ROWS, fitting))

    def factors(self, held: Less, positions: Indices, now_ms: int) -> Scores | None:
        """What to multiply each candidate's score by, 0 to 1; None: nothing is penalised.

        `positions` are the candidates' positions in the catalogue; the result is in their order.
        """
        contents, weights = self._contents, self._weights
        own: list[tuple[int, float]] = []
        shared: Scores | None = None
        most = 0.0
        for key, stated in held.items():
            amount = amount_of(stated, now_ms, weights.half_life)
            if not amount:
                continue
            name = key[2:]
            if key[0] == "c" and name in contents.index:
                own.append((contents.index[name], strength_of(amount, weights.content)))
            alike = self._row(key, name)
            if alike is not None:
                if shared is None:
                    shared = np.zeros(len(contents.ids))
                shared += alike * amount
                most += amount
        if shared is None:
            if not own:
                return None
            left = np.ones(len(contents.ids))
        else:
            left = 1 - weights.tags * shared
            if most > 1:
                many = shared > 1
                left[many] = (1 - weights.tags) ** shared[many]
        for at, strength in own:
            left[at] *= 1 - strength
        return left[positions]

    def _row(self, key: str, name: str) -> _Row | None:
        """1 for each content that loses by `tags`; None where there is none."""
        if key not in self._rows:
            if len(self._rows) >= self._most_rows:
                self._rows.clear()
            alike = self._alike(key, name) if self._weights.tags else None
            self._rows[key] = None if alike is None or not alike.any() else alike.astype(np.float32)
        return self._rows[key]

    def _alike(self, key: str, name: str) -> Flags | None:
        contents = self._contents
        if key[0] == "t":
            return None if name in self._sensitive else contents.tagged.get(name)
        content = contents.by_id.get(name)
        if content is None or content.sensitive:
            return None
        found = np.zeros(len(contents.ids), np.bool_)
        for tag in content.tags:
            if tag not in self._sensitive:
                found |= contents.tagged[tag]
        found[contents.index[name]] = False
        return found
