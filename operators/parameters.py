"""What DECIDE scores with: an immutable parameter set of one model, and its bytes.

LEARN publishes a new set every so many examples; DECIDE reads the newest at the start of an
activation and never waits for one. Weights are float32 on purpose, in the process as over the
wire: a decision is then the same whether its set came by reference or through Redis, and last-bit
differences between machines in the learner's double arithmetic are rounded away.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

Weights = npt.NDArray[np.float32]

_MAGIC: Final = b"NBP1"


class ParameterError(ValueError):
    """Bytes that are not a parameter set of a version this program reads."""


class _Wire(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    model: str
    incarnation: str
    counter: int
    decisions: float
    examples: int
    rewarded: int
    learned_to_ms: int
    bits: int
    heads: list[str]
    intercepts: list[float]
    indices: list[bytes]
    values: list[bytes]
    digest: str


@dataclass(frozen=True, eq=False)
class ParameterSet:
    """Weights of one model's heads, shape (heads, 2^bits), and one intercept per head.

    `counter` grows by one with each set of an `incarnation` (one life of a learner);
    `decisions` is the estimated number of shown items behind the set (before subsampling),
    `examples` the number actually learned, `rewarded` how many of those bore a reward, and
    `learned_to_ms` the event time of the newest of them.
    """

    model: str
    incarnation: str
    counter: int
    decisions: float
    examples: int
    rewarded: int
    learned_to_ms: int
    heads: tuple[str, ...]
    intercepts: Weights
    weights: Weights
    digest: str

    @property
    def version(self) -> str:
        """Names this set and no other, also after a resume: incarnation.counter+digest."""
        return f"{self.incarnation}.{self.counter}+{self.digest}"

    @property
    def bits(self) -> int:
        """Width of the weight table: it has 2^bits cells per head."""
        return int(self.weights.shape[1]).bit_length() - 1

    @cached_property
    def encoded(self) -> bytes:
        """Versioned, compressed bytes; only cells that are not zero are written."""
        indices, values = [], []
        for row in self.weights:
            cells = np.flatnonzero(row).astype("<u4")
            indices.append(cells.tobytes())
            values.append(row[cells].astype("<f4").tobytes())
        wire = _Wire(
            model=self.model,
            incarnation=self.incarnation,
            counter=self.counter,
            decisions=self.decisions,
            examples=self.examples,
            rewarded=self.rewarded,
            learned_to_ms=self.learned_to_ms,
            bits=self.bits,
            heads=list(self.heads),
            intercepts=[float(value) for value in self.intercepts],
            indices=indices,
            values=values,
            digest=self.digest,
        )
        return _MAGIC + zlib.compress(msgspec.msgpack.encode(wire), 1)


def parameter_set(
    *,
    model: str,
    incarnation: str,
    counter: int,
    decisions: float,
    examples: int,
    rewarded: int,
    learned_to_ms: int,
    heads: tuple[str, ...],
    intercepts: Weights,
    weights: Weights,
    digest: str,
) -> ParameterSet:
    """Freeze arrays into a set; `digest` is the learner's running digest of all that changed.

    `weights` has shape (heads, 2^bits); both arrays must not be changed afterwards and are marked
    read-only here so that a mistake is loud.
    """
    intercepts.flags.writeable = False
    weights.flags.writeable = False
    return ParameterSet(
        model=model,
        incarnation=incarnation,
        counter=counter,
        decisions=decisions,
        examples=examples,
        rewarded=rewarded,
        learned_to_ms=learned_to_ms,
        heads=heads,
        intercepts=intercepts,
        weights=weights,
        digest=digest,
    )


def decode_parameters(payload: bytes) -> ParameterSet:
    """The set that `ParameterSet.encoded` holds.

    Raises ParameterError where the bytes are damaged or of another version.
    """
    if payload[:4] != _MAGIC:
        raise ParameterError(f"parameter set has format {payload[:4]!r}, expected {_MAGIC!r}")
    try:
        wire = msgspec.msgpack.decode(zlib.decompress(payload[4:]), type=_Wire)
        parts = {len(p) for p in (wire.heads, wire.intercepts, wire.indices, wire.values)}
        if not 1 <= wire.bits <= 24 or len(parts) != 1:
            raise ParameterError("parameter set is damaged: its parts do not fit together")
        weights = np.zeros((len(wire.heads), 1 << wire.bits), np.float32)
        for row, cells, values in zip(weights, wire.indices, wire.values, strict=True):
            row[np.frombuffer(cells, "<u4")] = np.frombuffer(values, "<f4")
    except (zlib.error, msgspec.MsgspecError, IndexError, ValueError) as error:
        raise ParameterError(f"parameter set is damaged: {error}") from error
    return parameter_set(
        model=wire.model,
        incarnation=wire.incarnation,
        counter=wire.counter,
        decisions=wire.decisions,
        examples=wire.examples,
        rewarded=wire.rewarded,
        learned_to_ms=wire.learned_to_ms,
        heads=tuple(wire.heads),
        intercepts=np.array(wire.intercepts, np.float32),
        weights=weights,
        digest=wire.digest,
    )


class Parameters(Protocol):
    """Where DECIDE finds parameter sets and LEARN leaves them."""

    def latest(self, model: str) -> ParameterSet | None:
        """The newest set of a model, or None where none was ever published."""

    def publish(self, parameters: ParameterSet) -> None:
        """Make a set the newest of its model."""


class LocalParameters:
    """A parameter store of one process: a reference per model.

    With `staged` a published set stays hidden until `advance` is called: replay and the demo
    advance between batches, so that which decision sees which set depends on the log alone and
    not on how the engine interleaves its steps.
    """

    def __init__(self, *, staged: bool = False) -> None:
        self._staged = staged
        self._current: dict[str, ParameterSet] = {}
        self._next: dict[str, ParameterSet] = {}

    def latest(self, model: str) -> ParameterSet | None:
        """The newest visible set of a model, or None where none was ever published."""
        return self._current.get(model)

    def publish(self, parameters: ParameterSet) -> None:
        """Make a set the newest of its model (with `staged`: at the next `advance`)."""
        (self._next if self._staged else self._current)[parameters.model] = parameters

    def advance(self) -> None:
        """Let staged sets be seen."""
        self._current.update(self._next)
        self._next.clear()
