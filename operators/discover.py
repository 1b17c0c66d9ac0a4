"""Which groups of profiles behave alike? Looks at profiles in, centres and readable reports out.

State: River's `StandardScaler` and incremental `KMeans` (kept as numbers, never as objects) and
the newest looks, at most `memory` of them. Each look moves the nearest centre a little; every
`report_every` looks the centres are mended on the newest looks (`operators.clusters`), and a report
and a parameter set go out. No chance is drawn: the same looks give the same audiences.

An audience keeps its number while its centre goes on moving step by step; a centre that is put
elsewhere is another audience with a number of its own.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterable
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
from river import cluster, preprocessing

from operators.audience import (
    MODEL,
    Centres,
    Sampled,
    compared,
    standardised,
    to_table,
    unscaled,
)
from operators.clusters import cost, grown, moved, seeded, settled, squared_distances
from operators.outputs import Record
from operators.parameters import ParameterSet, parameter_set
from operators.shard_state import StateError
from schemas.audiences import SCHEMA_VERSION, Audiences
from schemas.policy import Policy
from schemas.time import rfc3339

MAGIC: Final = b"NBAU"
VERSION: Final = 1
SEED_AFTER: Final = 200
"""Looks before the first centres are placed."""
_PACE: Final = 0.02
"""Share of the way that a look draws its centre: some 35 looks make half of it."""
_TELLING: Final = 0.5
"""Standard deviations from which on a trait is worth telling."""

Floats = npt.NDArray[np.float64]


class _Wire(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    signals: list[str]
    looked_at: int
    newest_ms: int
    next_id: int
    counts: list[int]
    means: list[float]
    variances: list[float]
    ids: list[int]
    centres: bytes
    recent: bytes


class Discover:
    """Finds audiences among the profiles looked at.

    `incarnation` names this life: versions of another life are never reused.
    """

    def __init__(self, policy: Policy, audiences: Audiences, *, incarnation: str) -> None:
        self._audiences = audiences
        self._signals = compared(policy, audiences.signals)
        self._incarnation = incarnation
        self._scaler = preprocessing.StandardScaler()
        self._recent: deque[tuple[float, ...]] = deque(maxlen=audiences.memory)
        self._kmeans: cluster.KMeans | None = None
        self._ids: list[int] = []
        self._next_id = 1
        self._looked_at = 0
        self._newest_ms = 0
        self._counter = 0

    def learn(self, looks: Iterable[Sampled]) -> tuple[ParameterSet | None, Record | None]:
        """Take in looks, in order; the newest set and report that fell due, if any did.

        A look of another length was taken under another policy and is left out.
        """
        published: ParameterSet | None = None
        report: Record | None = None
        for look in looks:
            if len(look.vector) != len(self._signals):
                continue
            self._one(look)
            if self._kmeans is not None and self._looked_at % self._audiences.report_every == 0:
                self._mend()
                published, report = self.publish()
        return published, report

    def _one(self, look: Sampled) -> None:
        # Held and learned as float32, so that a restored machine goes on with the same numbers.
        values = tuple(np.array(look.vector, np.float32).tolist())
        self._recent.append(values)
        self._looked_at += 1
        self._newest_ms = max(self._newest_ms, look.at_ms)
        named = dict(zip(self._signals, values, strict=True))
        self._scaler.learn_one(named)  # type: ignore[no-untyped-call]
        for name in self._signals:
            # A count that stops growing makes the running mean forget: what is usual may change.
            self._scaler.counts[name] = min(self._scaler.counts[name], self._audiences.memory)
        if self._kmeans is not None:
            away = self._scaler.transform_one(named)  # type: ignore[no-untyped-call]
            self._kmeans.learn_one(away)  # type: ignore[no-untyped-call]
        elif self._looked_at >= SEED_AFTER:
            self._place(seeded(self._points(), most=self._audiences.clusters))

    def _points(self) -> Floats:
        return standardised(np.array(self._recent), *self._scale())

    def _scale(self) -> tuple[Floats, Floats]:
        means = np.array([self._scaler.means[name] for name in self._signals])
        variances = np.array([self._scaler.vars[name] for name in self._signals])
        return means, np.sqrt(np.maximum(variances, 0.0))

    def _centres(self) -> Floats:
        assert self._kmeans is not None
        return np.array(
            [
                [self._kmeans.centers[j][name] for name in self._signals]
                for j in self._kmeans.centers
            ]
        )

    def _place(self, centres: Floats) -> None:
        # Every coordinate is set here, so the random start that River offers is never drawn.
        self._kmeans = cluster.KMeans(n_clusters=len(centres), halflife=_PACE, seed=0)
        for j, centre in enumerate(centres.tolist()):
            self._kmeans.centers[j].update(zip(self._signals, centre, strict=True))
        while len(self._ids) < len(centres):
            self._ids.append(self._next_id)
            self._next_id += 1

    def _mend(self) -> None:
        points = self._points()
        centres = settled(points, self._centres())
        for _ in range(self._audiences.clusters):
            move = moved(points, centres)
            if move is None:
                break
            weakest, centres = move
            self._ids[weakest] = self._next_id
            self._next_id += 1
        while len(centres) < self._audiences.clusters:
            more = grown(points, centres)
            if more is None:
                break
            centres = more
        self._place(centres)

    def publish(self) -> tuple[ParameterSet, Record]:
        """The parameter set and the report of now; needs centres, so `SEED_AFTER` looks."""
        means, deviations = self._scale()
        centres = Centres(self._signals, tuple(self._ids), means, deviations, self._centres(), "")
        heads, table = to_table(centres)
        self._counter += 1
        published = parameter_set(
            model=MODEL,
            incarnation=self._incarnation,
            counter=self._counter,
            decisions=float(self._looked_at),
            examples=self._looked_at,
            rewarded=0,
            learned_to_ms=self._newest_ms,
            heads=heads,
            intercepts=np.zeros(len(heads), np.float32),
            weights=table,
            digest=f"{zlib.crc32(table.tobytes()):08x}",
        )
        return published, self._report(centres, published.version)

    def _report(self, centres: Centres, version: str) -> Record:
        points = self._points()
        nearest = squared_distances(points, centres.centres).argmin(axis=1)
        spread = cost(points, points.mean(axis=0, keepdims=True))
        found = [
            self._describe(centres, j, int((nearest == j).sum()), len(points))
            for j in range(len(centres.ids))
        ]
        return {
            "report_id": f"{self._looked_at}-{version.rpartition('+')[2]}",
            "looked_at": self._looked_at,
            "of": len(points),
            "quality": round(1 - cost(points, centres.centres) / spread, 4) if spread else 0.0,
            "audiences": sorted(found, key=lambda one: (-one["profiles"], one["audience"])),
            "model_version": version,
            "reported_at": rfc3339(self._newest_ms),
            "schema_version": SCHEMA_VERSION,
        }

    def _describe(self, centres: Centres, j: int, profiles: int, of: int) -> Record:
        away = centres.centres[j]
        told = profiles >= self._audiences.smallest
        order = sorted(range(len(away)), key=lambda i: (-abs(away[i]), i)) if told else []
        typical = {
            name: round(unscaled(float(centres.means[i] + away[i] * centres.deviations[i])), 4)
            for i, name in enumerate(self._signals)
        }
        traits = [
            {
                "signal": self._signals[i],
                "centre": typical[self._signals[i]],
                "deviations": round(float(away[i]), 2),
            }
            for i in order[: self._audiences.top]
            if abs(away[i]) >= _TELLING
        ]
        if not told:
            description = f"fewer than {self._audiences.smallest} profiles: not described"
        else:
            description = ", ".join(map(_in_words, traits)) or "close to the average"
        return {
            "audience": f"a{centres.ids[j]}",
            "share": round(profiles / of, 4),
            "profiles": profiles,
            "description": description,
            "traits": traits,
            "centre": typical if told else {},
        }

    def snapshot(self) -> bytes:
        """The state as versioned, checked bytes."""
        names = self._signals
        wire = _Wire(
            signals=list(names),
            looked_at=self._looked_at,
            newest_ms=self._newest_ms,
            next_id=self._next_id,
            counts=[self._scaler.counts[name] for name in names],
            means=[self._scaler.means[name] for name in names],
            variances=[self._scaler.vars[name] for name in names],
            ids=self._ids,
            centres=b"" if self._kmeans is None else self._centres().astype("<f8").tobytes(),
            recent=np.array(self._recent, "<f4").tobytes(),
        )
        body = msgspec.msgpack.encode(wire)
        head = MAGIC + VERSION.to_bytes(2, "big") + zlib.crc32(body).to_bytes(4, "big")
        return head + body

    def restore(self, snapshot: bytes) -> ParameterSet | None:
        """Take over a snapshot; the set to publish at once, or None.

        Where other signals are compared now, discovery starts anew but no number of an audience is
        used again. A changed `memory` keeps the newest looks; with fewer `clusters` than there are
        centres, centres are placed anew. Raises StateError for other versions and damaged bytes.
        """
        wire = _decode(snapshot)
        self._next_id = wire.next_id
        if tuple(wire.signals) != self._signals:
            return None
        width = len(wire.signals)
        self._looked_at, self._newest_ms = wire.looked_at, wire.newest_ms
        self._recent.extend(
            map(tuple, np.frombuffer(wire.recent, "<f4").reshape(-1, max(width, 1)).tolist())
        )
        for i, name in enumerate(self._signals):
            self._scaler.counts[name] = min(wire.counts[i], self._audiences.memory)
            self._scaler.means[name] = wire.means[i]
            self._scaler.vars[name] = wire.variances[i]
        if not wire.ids:
            return None
        if len(wire.ids) > self._audiences.clusters:
            self._place(seeded(self._points(), most=self._audiences.clusters))
        else:
            self._ids = wire.ids
            self._place(np.frombuffer(wire.centres, "<f8").reshape(-1, width))
        return self.publish()[0]


def _in_words(trait: Record) -> str:
    away = trait["deviations"]
    size = "high" if away > 0 else "low"
    side = "above" if away > 0 else "below"
    return f"{trait['signal']} {size} ({abs(away):.1f} sd {side})"


def _decode(snapshot: bytes) -> _Wire:
    if snapshot[:4] != MAGIC or int.from_bytes(snapshot[4:6], "big") != VERSION:
        raise StateError(
            f"the audiences' state is of format {snapshot[:6]!r}, this program reads "
            f"{MAGIC!r} version {VERSION}"
        )
    body = snapshot[10:]
    if zlib.crc32(body).to_bytes(4, "big") != snapshot[6:10]:
        raise StateError("the audiences' state is damaged: its checksum differs")
    try:
        wire = msgspec.msgpack.decode(body, type=_Wire)
    except msgspec.MsgspecError as error:
        raise StateError(f"the audiences' state is damaged: {error}") from error
    width = len(wire.signals)
    fits = {len(wire.counts), len(wire.means), len(wire.variances)} == {width}
    fits = fits and len(wire.centres) == 8 * width * len(wire.ids)
    if not fits or (len(wire.recent) % (4 * width) if width else wire.recent):
        raise StateError("the audiences' state is damaged: its parts do not fit together")
    return wire
