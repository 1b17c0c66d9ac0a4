"""How often is each candidate the best of a model that is not sure? Thompson sampling by counting.

Thompson (1933) shows a candidate as often as it is the best under what may be true; Russo et al.
("A tutorial on Thompson sampling", 2018) is the modern account. That probability p has no closed
form. Here a fixed number of samples of all scores is taken, the winners are counted, and the draw
is made from those counts: what is logged is then exactly the probability of the draw given the
samples, whatever their number. Against Thompson's own p it has a standard error of
sqrt(p(1 - p) / draws), which the number of samples buys down.

Chance is a text: equal texts give equal samples, on every machine. The noise is counted out by
SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) from a hash of the text, and made normal by a table
of 65,536 quantiles rounded to float32: no logarithm's last bit reaches a decision.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from statistics import NormalDist
from typing import Final

import numpy as np
import numpy.typing as npt

from operators.contents import Flags
from operators.ids import hash64
from operators.score import Scores

Normals = npt.NDArray[np.float32]

_AT_ONCE: Final = 1 << 20
"""Samples held in memory (4 MB): with more candidates they are made again for each rank."""
_PER_WORD: Final = 4
_LEAST: Final = np.float32(-np.inf)
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_FIRST: Final = np.uint64(0xBF58476D1CE4E5B9)
_SECOND: Final = np.uint64(0x94D049BB133111EB)
_WORD: Final = (1 << 64) - 1


class Samples:
    """Samples of all candidates' scores, normal around `scores` with standard deviations `spread`.

    Both have shape (candidates,). Raises ValueError where the spread is not finite.
    """

    def __init__(self, scores: Scores, spread: Scores, *, draws: int, noise_of: str) -> None:
        largest = float(np.abs(spread).max())
        if not math.isfinite(largest):
            raise ValueError("the spread of the scores must be finite to be sampled")
        # Only who wins is asked: at the size of what differs, float32 tells as much at half the
        # cost.
        best = float(scores.max())
        size = max(best - float(scores.min()), largest) or 1.0
        self._scores = ((scores - best) / size).astype(np.float32)
        self._spread = (spread / size).astype(np.float32)
        self._draws = draws
        self._seed = hash64(noise_of)
        # Ranks of one slate are filled from the same samples.
        kept = draws * len(scores) <= _AT_ONCE
        self._kept = list(self._parts()) if kept else None

    def wins(self, open_: Flags | None) -> Scores:
        """The share of samples in which each candidate is the best of those open (None: all)."""
        count = len(self._scores)
        won = np.zeros(count, np.intp)
        for part in self._parts() if self._kept is None else self._kept:
            among = part if open_ is None else np.where(open_, part, _LEAST)
            won += np.bincount(among.argmax(axis=1), minlength=count)
        return won / self._draws

    def _parts(self) -> Iterator[Normals]:
        """The samples, shape (draws, candidates), a few draws at a time."""
        count = len(self._scores)
        words = -(-count // _PER_WORD)
        rows = max(1, _AT_ONCE // (words * _PER_WORD))
        for first in range(0, self._draws, rows):
            several = min(rows, self._draws - first)
            noise = _normal(self._seed, first * words, several * words).reshape(several, -1)
            part = noise[:, :count] * self._spread
            part += self._scores
            yield part


def _normal(seed: int, first: int, words: int) -> Normals:
    """Four standard normal numbers per word; equal arguments give equal numbers."""
    # Wrapping around 2^64 is what the generator asks for; arrays wrap without a warning.
    mixed = np.arange(first + 1, first + words + 1, dtype=np.uint64)
    mixed *= _GOLDEN
    mixed += np.array(seed & _WORD, np.uint64)
    mixed ^= mixed >> np.uint64(30)
    mixed *= _FIRST
    mixed ^= mixed >> np.uint64(27)
    mixed *= _SECOND
    mixed ^= mixed >> np.uint64(31)
    # Little-endian whatever the machine: which quarter of a word comes first must not vary.
    return _quantiles().take(mixed.astype("<u8", copy=False).view("<u2"))


@cache
def _quantiles() -> Normals:
    """The normal quantiles at the middles of 65,536 equal shares."""
    inverse, shares = NormalDist().inv_cdf, 1 << 16
    lower = np.array([inverse((i + 0.5) / shares) for i in range(shares // 2)], np.float32)
    return np.concatenate([lower, -lower[::-1]])
