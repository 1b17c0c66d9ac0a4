"""What DECIDE scores with: an immutable parameter set of one model, and its bytes.

LEARN publishes a new set every so many examples; DECIDE reads the newest at the start of an
activation and never waits for one. Weights are float32 on purpose, in the process as over the
wire: a decision is then the same whether its set came by reference or through Redis, and last-bit
differences between machines in the learner's double arithmetic are rounded away.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from operators.models.factors import first_rows

Weights = npt.NDArray[np.float32]

_MAGIC: Final = b"NBP2"
_FORMER: Final = b"NBP1"
"""Without the parts from `evidence` on."""
_MOST_FACTORS: Final = 64


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
    evidence: list[bytes] = []
    means: dict[str, tuple[float, dict[str, float]]] = {}
    factors: int = 0
    factor_rows: int = 0
    profile_rows: list[tuple[bytes, bytes]] = []
    content_rows: list[tuple[bytes, bytes]] = []


class Means(NamedTuple):
    """The mean value of an event of one reward kind: overall, and where it differs by content."""

    overall: float
    by_content: dict[str, float]


class FactorTables(NamedTuple):
    """Factors of both sides, shape (heads, rows, factors), float32 (`operators.models.factors`)."""

    profile: Weights
    content: Weights

    @property
    def rows(self) -> int:
        """How many rows each side has, a power of two."""
        return int(self.profile.shape[1])


@dataclass(frozen=True, eq=False)
class ParameterSet:
    """Weights of one model's heads, shape (heads, 2^bits), and one intercept per head.

    `counter` grows by one with each set of an `incarnation` (one life of a learner);
    `decisions` is the estimated number of shown items behind the set (before subsampling),
    `examples` the number actually learned, `rewarded` how many of those bore a reward, and
    `learned_to_ms` the event time of the newest of them.

    `evidence` (shape of `weights`) is what was seen of each cell, FTRL's sum of squared gradients;
    None where nothing asks how sure the model is. `means` are of events whose own value counts.
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
    evidence: Weights | None = None
    means: Mapping[str, Means] = field(default_factory=dict)
    factors: FactorTables | None = None

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
        indices, values, evidence = [], [], []
        for head, row in enumerate(self.weights):
            seen = row if self.evidence is None else self.evidence[head]
            cells = np.flatnonzero((row != 0) | (seen != 0)).astype("<u4")
            indices.append(cells.tobytes())
            values.append(row[cells].astype("<f4").tobytes())
            if self.evidence is not None:
                evidence.append(seen[cells].astype("<f4").tobytes())
        tables = self.factors
        rows, count = (0, 0) if tables is None else tables.profile.shape[1:]
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
            evidence=evidence,
            means={head: (m.overall, m.by_content) for head, m in self.means.items()},
            factors=count,
            factor_rows=rows,
            profile_rows=[] if tables is None else _changed(tables.profile, 0.0),
            content_rows=[]
            if tables is None
            else _changed(tables.content, first_rows(rows, count)),
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
    evidence: Weights | None = None,
    means: Mapping[str, Means] | None = None,
    factors: FactorTables | None = None,
) -> ParameterSet:
    """Freeze arrays into a set; `digest` is the learner's running digest of all that changed.

    `weights` has shape (heads, 2^bits); no array must be changed afterwards, and all are marked
    read-only here so that a mistake is loud.
    """
    for array in (intercepts, weights, evidence, *(factors or ())):
        if array is not None:
            array.flags.writeable = False
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
        evidence=evidence,
        means=means or {},
        factors=factors,
    )


def _changed(table: Weights, first: Weights | float) -> list[tuple[bytes, bytes]]:
    """Of each head the rows that differ from the first ones, and what is in them."""
    found = []
    for head in table:
        rows = np.flatnonzero((head != first).any(axis=1)).astype("<u4")
        found.append((rows.tobytes(), head[rows].astype("<f4").tobytes()))
    return found


def _table(first: Weights, parts: list[tuple[bytes, bytes]]) -> Weights:
    table = np.array([first] * len(parts), np.float32)
    for head, (rows, values) in zip(table, parts, strict=True):
        head[np.frombuffer(rows, "<u4")] = np.frombuffer(values, "<f4").reshape(-1, head.shape[1])
    return table


def decode_parameters(payload: bytes) -> ParameterSet:
    """The set that `ParameterSet.encoded` holds.

    Raises ParameterError where the bytes are damaged or of another version.
    """
    if payload[:4] not in (_MAGIC, _FORMER):
        raise ParameterError(
            f"parameter set has format {payload[:4]!r}, expected {_MAGIC!r} or {_FORMER!r}"
        )
    try:
        wire = msgspec.msgpack.decode(zlib.decompress(payload[4:]), type=_Wire)
        parts = {len(p) for p in (wire.heads, wire.intercepts, wire.indices, wire.values)}
        if not 1 <= wire.bits <= 24 or len(parts) != 1:
            raise ParameterError("parameter set is damaged: its parts do not fit together")
        weights = np.zeros((len(wire.heads), 1 << wire.bits), np.float32)
        for row, cells, values in zip(weights, wire.indices, wire.values, strict=True):
            row[np.frombuffer(cells, "<u4")] = np.frombuffer(values, "<f4")
        evidence = np.zeros_like(weights) if wire.evidence else None
        if evidence is not None:
            for row, cells, values in zip(evidence, wire.indices, wire.evidence, strict=True):
                row[np.frombuffer(cells, "<u4")] = np.frombuffer(values, "<f4")
        factors = _factors(wire)
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
        evidence=evidence,
        means={head: Means(*means) for head, means in wire.means.items()},
        factors=factors,
    )


def _factors(wire: _Wire) -> FactorTables | None:
    if not wire.factors:
        return None
    heads = len(wire.heads)
    fits = 0 < wire.factors <= _MOST_FACTORS and 0 < wire.factor_rows <= 1 << wire.bits
    if not fits or len(wire.profile_rows) != heads or len(wire.content_rows) != heads:
        raise ParameterError("parameter set is damaged: its factors do not fit")
    first = first_rows(wire.factor_rows, wire.factors)
    return FactorTables(
        _table(np.zeros_like(first), wire.profile_rows), _table(first, wire.content_rows)
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
