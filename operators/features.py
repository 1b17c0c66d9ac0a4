"""What the model sees: hashed features of a profile and of a content.

A feature is a text such as `taste=shoes`, hashed to 32 bits. The model's weight for a profile
feature a and a content feature b sits in cell (a + b) mod 2^bits of one table: the sum keeps the
hash separable, so that a row of all contents for one profile feature is a single gather.
Numbers become bins on a log scale, so that no feature needs a scaler and none can explode.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from operators.conditions import Context
from operators.filters import number_of
from operators.ids import hash32
from operators.profile import Profile
from operators.signals import CompiledSignal, DecayedAffinity, DistinctValues, LastTime, Windowed
from schemas.catalogue import Content
from schemas.policy import Features, Sensitive
from schemas.time import MINUTE

Cells = npt.NDArray[np.int64]

_BIAS: Final = "1"
_REMEMBERED: Final = 100_000


def number_bin(number: float) -> str:
    """A bin on a log scale, two to the octave, the same whatever else is in the catalogue.

    >>> number_bin(0), number_bin(1), number_bin(1.5), number_bin(-8)
    ('0', '0.0', '1.0', '-6.0')
    """
    if number == 0:
        return "0"
    octave = float(math.floor(2 * math.log2(abs(number))))
    return f"{octave:.1f}" if number > 0 else f"-{octave:.1f}"


class Hashes:
    """Remembers the 32-bit hash of each text: hashing costs ten times a look-up.

    Context values are an open vocabulary, so the memory is emptied when it grows too large.
    """

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        """The hash of a text."""
        cell = self._known.get(text)
        if cell is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            cell = self._known[text] = hash32(text)
        return cell


_Emit = Callable[[Profile, int, Context], list[str]]


class ProfileFeatures:
    """Reads a profile's features for one placement, as far as its level lets the model see.

    Level 1 sees segments, 2 adds signals, 3 context, 4 attributes, 5 the profile itself.
    """

    def __init__(
        self,
        features: Features,
        *,
        level: int,
        signals: dict[str, CompiledSignal],
        segments: frozenset[str],
        sensitive: Sensitive,
        hashes: Hashes,
    ) -> None:
        self._hash = hashes
        self._parts: list[_Emit] = []
        if level >= 1:
            seen = segments if features.segments is None else frozenset(features.segments)
            self._parts.append(lambda profile, _now, _context: _segments(profile, seen))
        if level >= 2:
            names = signals if features.signals is None else features.signals
            for name in sorted(names):
                self._parts.append(_signal(signals[name], features.top))
        if level >= 3:
            context = [n for n in features.context if n not in sensitive.context]
            self._parts.append(lambda _profile, _now, given: _fields("context", context, given))
        if level >= 4:
            own = [n for n in features.attributes if n not in sensitive.attributes]
            self._parts.append(lambda profile, _now, _: _fields("own", own, profile.attributes))
        if level >= 5:
            self._parts.append(lambda profile, _now, _: [f"profile={profile.profile_id}"])

    def cells(self, profile: Profile, now_ms: int, context: Context) -> list[int]:
        """The profile's feature hashes, the bias first, each once."""
        hashed = self._hash
        found = [hashed(_BIAS)]
        for part in self._parts:
            found += [hashed(text) for text in part(profile, now_ms, context)]
        return found


def _segments(profile: Profile, seen: frozenset[str]) -> list[str]:
    return [f"segment={name}" for name in profile.segments if name in seen]


def _fields(prefix: str, names: list[str], given: Context) -> list[str]:
    found = []
    for name in names:
        value = given.get(name)
        if value is None:
            continue
        number = number_of(value)
        # Small whole numbers (an hour, a weekday) are categories; larger ones are quantities.
        if number is None or (number.is_integer() and 0 <= number < 32):
            # 3 and 3.0 are one category: which of them arrives is the client's JSON library.
            found.append(f"{prefix}.{name}={value if number is None else int(number)}")
        else:
            found.append(f"{prefix}.{name}~{number_bin(number)}")
    return found


def _signal(signal: CompiledSignal, top: int) -> _Emit:
    name, slot, kind = signal.name, signal.slot, signal.kind

    def affinity(profile: Profile, now_ms: int, _context: Context) -> list[str]:
        assert isinstance(kind, DecayedAffinity)
        strongest = kind.top(profile.signals.get(slot), now_ms, top)
        # The favourite is a feature beside its plain membership: rank carries strength.
        first = [f"{name}^{strongest[0][0]}"] if strongest else [f"{name}^"]
        return first + [f"{name}={text}" for text, _ in strongest]

    def last(profile: Profile, now_ms: int, _context: Context) -> list[str]:
        assert isinstance(kind, LastTime)
        age = kind.value(profile.signals.get(slot), now_ms)
        if math.isinf(age):
            return [f"{name}~never"]
        return [f"{name}~{min(9, int(math.log(1 + age / MINUTE, 4)))}"]

    def amount(profile: Profile, now_ms: int, _context: Context) -> list[str]:
        assert isinstance(kind, (Windowed, DistinctValues))
        number = kind.value(profile.signals.get(slot), now_ms)
        if number == 0:
            return [f"{name}~0"]
        return [f"{name}~{math.copysign(math.floor(math.log2(1 + abs(number))), number):.0f}"]

    if isinstance(kind, DecayedAffinity):
        return affinity
    return last if isinstance(kind, LastTime) else amount


def content_features(
    content: Content, sensitive: Sensitive, *, attributes: tuple[str, ...] | None = None
) -> list[str]:
    """The texts of a content's features; a sensitive content has none of its own.

    `attributes` names those that count (None: all); id, type and tags always do.
    """
    if content.sensitive:
        return [_BIAS]
    found = [_BIAS, f"id={content.content_id}", f"type={content.type}"]
    found += [f"tag={tag}" for tag in content.tags if tag not in sensitive.tags]
    for name, value in content.attributes.items():
        if name in sensitive.attributes or not (attributes is None or name in attributes):
            continue
        number = number_of(value)
        found.append(f"{name}={value}" if number is None else f"{name}~{number_bin(number)}")
    return found


def content_cells(rows: list[list[str]], hashes: Hashes) -> tuple[Cells, npt.NDArray[np.float32]]:
    """Feature hashes of contents as (contents, widest) int64, and a mask of 1 where one is real."""
    width = max((len(row) for row in rows), default=1)
    cells = np.zeros((len(rows), width), np.int64)
    real = np.zeros((len(rows), width), np.float32)
    for i, row in enumerate(rows):
        cells[i, : len(row)] = [hashes(f"content:{text}") for text in row]
        real[i, : len(row)] = 1.0
    return cells, real


def crossed_cells(profile: Cells, content: Cells, *, bits: int) -> list[int]:
    """The table cells of all crosses of a profile's and one content's features."""
    crossed = (profile[:, None] + content[None, :]) & ((1 << bits) - 1)
    cells: list[int] = crossed.ravel().tolist()
    return cells
