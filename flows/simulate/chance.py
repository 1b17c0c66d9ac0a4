"""Where does every random number of the shop come from? From a hash, never from a stream.

A generator hands out its numbers in the order of the calls, so one click more in one arm would
shift every later draw, and two arms could not be compared shopper by shopper. Here a number belongs
to what it is about: `draw("click", shopper, visit, content)` is the same whoever asks, and when.
State: none. It does not know what its numbers are used for.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
_Words = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31, _S11 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(11)
_UNIT = 2.0**-53


class Chance:
    """Uniform and normal numbers as a pure function of (seed, purpose, keys)."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._keys: dict[str, np.uint64] = {}

    def uniform(self, purpose: str, *keys: Ints | int) -> Floats:
        """Numbers in [0, 1), one per element of the broadcast keys.

        >>> import numpy as np
        >>> a, b = np.arange(3), np.arange(2)
        >>> one = Chance(7).uniform("click", a[:, None], b)
        >>> one.shape, bool(one[2, 1] == Chance(7).uniform("click", 2, 1)[()])
        ((3, 2), True)
        """
        words: _Words = np.asarray(self._key(purpose))
        with np.errstate(over="ignore"):
            for key in keys:
                words = _splitmix64(words ^ (np.asarray(key).astype(np.uint64) * _MIX_2))
        return (words >> _S11).astype(np.float64) * _UNIT

    def normal(self, purpose: str, *keys: Ints | int) -> Floats:
        """Standard normal numbers, one per element of the broadcast keys (Box-Muller)."""
        radius = np.sqrt(-2.0 * np.log1p(-self.uniform(purpose + "/radius", *keys)))
        turn: Floats = np.cos(2.0 * np.pi * self.uniform(purpose + "/angle", *keys))
        return radius * turn

    def pick(self, purpose: str, count: int, *keys: Ints | int) -> Ints:
        """Whole numbers in [0, count), one per element of the broadcast keys."""
        return (self.uniform(purpose, *keys) * count).astype(np.int64)

    def _key(self, purpose: str) -> np.uint64:
        key = self._keys.get(purpose)
        if key is None:
            text = f"{self._seed}/{purpose}".encode()
            key = np.uint64(int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little"))
            self._keys[purpose] = key
        return key


def _splitmix64(words: _Words) -> _Words:
    words = words + _GOLDEN
    words = (words ^ (words >> _S30)) * _MIX_1
    words = (words ^ (words >> _S27)) * _MIX_2
    return words ^ (words >> _S31)
