"""What the model sees: hashed features of a profile and of a content.

A feature is a text such as `taste=shoes`, hashed to 32 bits. The model's weight for a profile
feature a and a content feature b sits in cell (a + b) mod 2^bits of one table: the sum keeps the
hash separable, so that a row of all contents for one profile feature is a single gather.
Numbers become bins on a log scale, so that no feature needs a scaler and none can explode.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from operators.affinity import DecayedAffinity
from operators.filters import number_of, values_of
from operators.ids import hash32
from operators.moment import Context
from operators.occurrences import FieldThen, TimeSince
from operators.profile import Profile
from operators.ratio import Quotient
from operators.rfm import Rfm
from operators.signals import CompiledSignal, Value
from operators.windows import SUM, AmountWindow
from schemas.catalogue import Content
from schemas.events import Scalar
from schemas.learning import Features
from schemas.policy import Sensitive
from schemas.time import MINUTE

Cells = npt.NDArray[np.int64]

_BIAS: Final = "1"
BIAS: Final = hash32(_BIAS)
"""The profile's cell that is always there."""
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


class _Known(dict[Any, int]):
    """Cells by what they stand for: writing a feature's text costs more than looking its cell up.

    Emptied when it grows too large, as `Hashes` is.
    """

    def __init__(self, text: Callable[[Any], str], hashes: Hashes) -> None:
        self._text = text
        self._hash = hashes

    def __missing__(self, key: Any) -> int:
        if len(self) >= _REMEMBERED:
            self.clear()
        cell = self[key] = self._hash(self._text(key))
        return cell


_Emit = Callable[[Profile, int, Context], list[int]]


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
        self._bias = hashes(_BIAS)
        self._hashes = hashes
        self._sensitive = sensitive
        self._liked: list[CompiledSignal] = []
        self._parts: list[_Emit] = []
        self.width = 1
        """About how many features a profile has; of its segments and liked values some."""
        if level >= 1:
            seen = segments if features.segments is None else frozenset(features.segments)
            cells = {name: hashes(f"segment={name}") for name in sorted(seen)}
            self._parts.append(
                lambda profile, _now, _context: [cells[n] for n in profile.segments if n in cells]
            )
            self.width += min(2, len(cells))
        if level >= 2:
            names = signals if features.signals is None else features.signals
            for name in sorted(names):
                self._parts.append(_signal(signals[name], features.top, hashes))
                self.width += 1
                if isinstance(signals[name].kind, DecayedAffinity):
                    self.width += (1 + features.top) // 2
                    if features.match:
                        self._liked.append(signals[name])
        if level >= 3:
            context = [n for n in features.context if n not in sensitive.context]
            self.width += len(context)
            read = _fields("context", context, hashes)
            self._parts.append(lambda _profile, _now, given: read(given))
        if level >= 4:
            own = [n for n in features.attributes if n not in sensitive.attributes]
            self.width += len(own)
            stated = _fields("own", own, hashes)
            self._parts.append(lambda profile, _now, _: stated(profile.attributes))
        if level >= 5:
            self.width += 1
            self._parts.append(lambda profile, _now, _: [hashes(f"profile={profile.profile_id}")])

    def cells(self, profile: Profile, now_ms: int, context: Context) -> list[int]:
        """The profile's feature hashes, the bias first, each once."""
        found = [self._bias]
        for part in self._parts:
            found += part(profile, now_ms, context)
        return found

    def liked(self, contents: Sequence[Content]) -> dict[int, tuple[int, list[int]]]:
        """What of the contents an affinity may name, by the profile's cell that names it.

        Maps the cell to the feature that stands for such a match (the affinity's favourite has one
        of its own) and the positions of the contents. Sensitive contents and tags match nothing.
        """
        found: dict[int, tuple[int, list[int]]] = {}
        for signal in self._liked:
            kind = signal.kind
            if not isinstance(kind, DecayedAffinity) or kind.read_content is None:
                continue
            name = signal.name
            plain, first = self._hashes(f"match:{name}"), self._hashes(f"match:{name}^")
            for position, content in enumerate(contents):
                if content.sensitive:
                    continue
                texts = set(values_of(kind.read_content(content)))
                for text in sorted(texts - kind.sensitive - set(self._sensitive.tags)):
                    for between, cell in (("=", plain), ("^", first)):
                        own = self._hashes(f"{name}{between}{text}")
                        found.setdefault(own, (cell, []))[1].append(position)
        return found


def _fields(prefix: str, names: list[str], hashes: Hashes) -> Callable[[Context], list[int]]:
    def known(name: str) -> _Known:
        # By type too: True equals 1 and is not the same category.
        return _Known(lambda key: _field(f"{prefix}.{name}", key[1]), hashes)

    fields = [(name, known(name)) for name in names]

    def read(given: Context) -> list[int]:
        found = []
        for name, cells in fields:
            value = given.get(name)
            if value is not None:
                found.append(cells[value.__class__, value])
        return found

    return read


def _field(name: str, value: Scalar) -> str:
    number = number_of(value)
    # Small whole numbers (an hour, a weekday) are categories; larger ones are quantities.
    if number is None or (number.is_integer() and 0 <= number < 32):
        # 3 and 3.0 are one category: which of them arrives is the client's JSON library.
        return f"{name}={value if number is None else int(number)}"
    return f"{name}~{number_bin(number)}"


def _signal(signal: CompiledSignal, top: int, hashes: Hashes) -> _Emit:
    name, slot, kind = signal.name, signal.slot, signal.kind
    if isinstance(kind, DecayedAffinity):
        # The favourite is a feature beside its plain membership: rank carries strength.
        favourite = _Known(lambda text: f"{name}^{text}", hashes)
        among = _Known(lambda text: f"{name}={text}", hashes)

        def affinity(profile: Profile, now_ms: int, _context: Context) -> list[int]:
            strongest = kind.top(profile.signals.get(slot), now_ms, top)
            found = [favourite[strongest[0][0] if strongest else ""]]
            found += [among[text] for text, _ in strongest]
            return found

        return affinity
    if isinstance(kind, TimeSince):
        ages = _Known(lambda age: f"{name}~{age}", hashes)

        def age(profile: Profile, now_ms: int, _context: Context) -> list[int]:
            since = kind.value(profile.signals.get(slot), now_ms)
            if since is None:
                return [ages["never"]]
            return [ages[min(9, int(math.log(1 + since / MINUTE, 4)))]]

        return age
    # An rfm score is a category; what may lie below 1 needs bins there too.
    fine = isinstance(kind, Quotient | FieldThen) or (
        isinstance(kind, AmountWindow) and kind.measure is not SUM
    )
    write = _category if isinstance(kind, Rfm) else number_bin if fine else _size
    cells = _Known(lambda value: _valued(name, value, write), hashes)
    read = signal.value

    def value(profile: Profile, now_ms: int, _context: Context) -> list[int]:
        return [cells[read(profile.signals, now_ms)]]

    return value


def _valued(name: str, value: Value, write: Callable[[float], str]) -> str:
    if value is None:
        return f"{name}~none"
    return f"{name}={value}" if isinstance(value, str) else f"{name}~{write(value)}"


def _category(number: float) -> str:
    return f"{number:.0f}"


def _size(number: float) -> str:
    """A bin on a log scale, one to the octave."""
    if number == 0:
        return "0"
    return f"{math.copysign(math.floor(math.log2(1 + abs(number))), number):.0f}"


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
