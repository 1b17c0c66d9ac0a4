"""How much memory does a profile take, how long does a snapshot stop the flow, and a resume?

Memory: what the process holds more than before (resident), divided by the profiles. Pause: from the
first shard's snapshot to the next read of the source, in the real engine with a recovery store on
disk: encoding, compressing, and the engine's writing (pickling, SQLite, syncing). Resume: from the
start of the engine to the first read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, Final

import bytewax.operators as op
import lz4.block
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators import KeyedStream, StatefulBatchLogic

from benchmarks.flow_memory import Discard
from benchmarks.measure import in_fresh_process, median, resident_bytes
from benchmarks.population import CONTENTS, populate, user, views, waiting_share
from benchmarks.tables import Table, number
from benchmarks.workload import SHARDS, decoder_of, machines, plan
from flows.engine import run_flow
from flows.personalize import FLOW_ID, Core, Outlet, personalize
from flows.recovery import init_store
from operators.arrival import group_by_shard
from operators.ids import shard_key, shard_of
from operators.parameters import LocalParameters
from operators.shard import Shard, ShardBatch
from schemas.records import RawBatch

MEMORY_PROFILES: Final = 200_000
STORE_PROFILES: Final = (100_000, 300_000)
PARTITIONS: Final = 2
_EVERY_ACTIVATION: Final = timedelta(0)
_KIB: Final = 1 << 10


@dataclass(frozen=True)
class Memory:
    """Bytes per profile: resumed, all of them touched once, after the next snapshot."""

    resumed: float
    touched: float
    snapshot: float
    encoded: float
    waiting: float


def memory(folder: str, profiles: int, at_ms: int) -> Memory:
    """Load a population, touch every profile, take a snapshot; what is held after each."""
    of = plan(CONTENTS)
    made = machines(of, LocalParameters())
    decoder = decoder_of(of)
    before = resident_bytes()

    def per_profile() -> float:
        return (resident_bytes() - before) / profiles

    stored = 0
    for shard in made.shards:
        snapshot = (Path(folder) / f"{shard.number:04d}").read_bytes()
        shard.restore(snapshot)
        stored += len(snapshot)
    resumed = per_profile()
    for batch in views(iter(range(profiles)), at_ms=at_ms, name="touch"):
        decoded = decoder.decode(batch)
        for number_, events in group_by_shard(decoded.arrived, shards=SHARDS).items():
            made.shards[number_].process(ShardBatch(number_, events, decoded.watermarks, 1))
    touched = per_profile()
    for shard in made.shards:
        shard.snapshot()
    settled = per_profile()
    waiting = waiting_share(made.shards, profiles)
    return Memory(resumed, touched, settled, stored / profiles, waiting)


class _Given(StatefulBatchLogic[int, None, bytes]):
    """Holds nothing but a snapshot made beforehand."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._number = -1

    def on_batch(self, values: list[int]) -> tuple[Iterable[None], bool]:
        self._number = values[0]
        return [], StatefulBatchLogic.RETAIN

    def snapshot(self) -> bytes:
        return (self._folder / f"{self._number:04d}").read_bytes()


@dataclass
class Phases(FixedPartitionedSource[Any, None]):
    """A source that hands out one phase per epoch; `read_at` says when the engine asked."""

    phases: list[Callable[[], list[Any]]]
    read_at: list[float] = field(default_factory=list)

    def list_parts(self) -> list[str]:
        """One partition."""
        return ["log"]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _Phase:  # noqa: ARG002
        """The partition."""
        return _Phase(self)


class _Phase(StatefulSourcePartition[Any, None]):
    def __init__(self, source: Phases) -> None:
        self._source = source

    def next_batch(self) -> list[Any]:
        self._source.read_at.append(perf_counter())
        if len(self._source.read_at) > len(self._source.phases):
            raise StopIteration
        return self._source.phases[len(self._source.read_at) - 1]()

    def next_awake(self) -> datetime | None:
        return None

    def snapshot(self) -> None:
        return None


def write_store(folder: str, store: str) -> None:
    """Have the engine write a population into a recovery store, as a run of the flow would have."""
    init_store(Path(store), partitions=PARTITIONS)
    flow = Dataflow(FLOW_ID)
    keyed = op.map("keyed", op.input("events", flow, Phases([lambda: list(range(SHARDS))])), _keyed)
    held: KeyedStream[Any] = op.stateful_batch("decide", keyed, lambda _resume: _Given(folder))
    op.output("out", held, Discard())
    run_flow(flow, epoch_interval=_EVERY_ACTIVATION, recovery_dir=Path(store))


def _keyed(shard: int) -> tuple[str, int]:
    return shard_key(shard), shard


@dataclass(frozen=True)
class Pause:
    """Seconds that one snapshot stopped the flow, by part, and how many profiles were touched."""

    name: str
    touched: int
    whole_s: float
    encode_s: float
    compress_s: float

    @property
    def parts(self) -> tuple[float, float, float, float]:
        """The whole, encoding, compressing, and the rest: what the engine did."""
        rest = self.whole_s - self.encode_s - self.compress_s
        return self.whole_s, self.encode_s, self.compress_s, rest


@dataclass
class _Watch:
    """Times every snapshot of a shard, and the compression inside."""

    began: list[float] = field(default_factory=list)
    inside: list[float] = field(default_factory=list)
    compressing: list[tuple[float, float]] = field(default_factory=list)

    def install(self) -> None:
        snapshot, compress = Shard.snapshot, lz4.block.compress

        def timed_snapshot(shard: Shard) -> bytes:
            self.began.append(perf_counter())
            try:
                return snapshot(shard)
            finally:
                self.inside.append(perf_counter() - self.began[-1])

        def timed_compress(*given: Any, **named: Any) -> bytes:
            started = perf_counter()
            packed: bytes = compress(*given, **named)
            self.compressing.append((started, perf_counter() - started))
            return packed

        Shard.snapshot = timed_snapshot  # type: ignore[method-assign, assignment]
        lz4.block.compress = timed_compress

    def pause(self, name: str, touched: int, read_at: float, next_read_at: float) -> Pause:
        """The pause of the epoch between two reads."""
        found = [i for i, at in enumerate(self.began) if read_at <= at < next_read_at]
        inside = sum(self.inside[i] for i in found)
        packed = sum(took for at, took in self.compressing if read_at <= at < next_read_at)
        first = self.began[found[0]] if found else next_read_at
        return Pause(name, touched, next_read_at - first, inside - packed, packed)


def pauses(store: str, profiles: int, at_ms: int) -> tuple[float, list[Pause], float]:
    """Resume on a store; seconds to the first read, the pauses, the bytes of the store."""
    of = plan(CONTENTS)
    watch = _Watch()
    watch.install()
    few = [n for n in range(profiles) if shard_of(user(n), shards=SHARDS) < SHARDS // 10]
    asked = [
        ("every profile", range(profiles)),
        *[("one profile in ten, in all shards", range(turn, profiles, 10)) for turn in range(3)],
        *[("all profiles of one shard in ten", few)] * 3,
    ]

    def phase(turn: int, numbers: Iterable[int]) -> Callable[[], list[RawBatch]]:
        return lambda: list(views(iter(numbers), at_ms=at_ms + turn, name=f"touch{turn}"))

    source = Phases([phase(turn, numbers) for turn, (_, numbers) in enumerate(asked)])
    flow = personalize(
        Core(
            plan=of,
            decoder=decoder_of(of),
            parameters=LocalParameters(),
            incarnation="benchmark",
            shards=SHARDS,
        ),
        source=source,
        outlets={"decisions": Outlet(Discard()), "segment-changes": Outlet(Discard())},
    )
    started = perf_counter()
    run_flow(flow, epoch_interval=_EVERY_ACTIVATION, recovery_dir=Path(store))
    reads = source.read_at
    found = [
        watch.pause(name, len(numbers), reads[turn], reads[turn + 1])
        for turn, (name, numbers) in enumerate(asked)
    ]
    size = sum(file.stat().st_size for file in Path(store).glob("part-*"))
    return reads[0] - started, found, size


def _in_turn(found: list[Pause]) -> Iterator[list[Pause]]:
    for name in dict.fromkeys(pause.name for pause in found):
        yield [pause for pause in found if pause.name == name]


def _store_tables(sizes: tuple[int, ...]) -> list[Table]:
    rows: list[tuple[str, ...]] = []
    resumes: list[tuple[str, ...]] = []
    for profiles in sizes:
        with TemporaryDirectory() as folder, TemporaryDirectory() as store:
            at_ms = in_fresh_process(populate, Path(folder), profiles)
            in_fresh_process(write_store, folder, store)
            resumed, found, size = in_fresh_process(pauses, store, profiles, at_ms)
            held = sum(file.stat().st_size for file in Path(folder).iterdir())
        resumes.append(
            (
                f"{profiles:,}",
                number(resumed),
                number(held / profiles),
                number(size / profiles),
                number(size / (1 << 20)),
            )
        )
        for same in _in_turn(found):
            rows.append(
                (
                    f"{profiles:,}: {same[0].name}",
                    f"{same[0].touched:,}",
                    *(
                        number(median(seconds) * 1e3)
                        for seconds in zip(*(pause.parts for pause in same), strict=True)
                    ),
                )
            )
    return [
        Table(
            "The pause of a snapshot, ms of wall time",
            ("profiles held: touched", "touched", "pause", "encode", "compress", "write"),
            tuple(rows),
            (
                f"{SHARDS} shards in a recovery store of {PARTITIONS} partitions on disk. Every "
                "profile: one run; the others: the median of three.",
                "Write is what the engine does: pickling, SQLite, syncing, removing old rows.",
            ),
        ),
        Table(
            "Resume, and size on disk",
            (
                "profiles",
                "resume, s",
                "snapshots, bytes per profile",
                "store, bytes per profile",
                "store, MiB",
            ),
            tuple(resumes),
            (
                "Resume: from the start of the engine to its first read, plan compiled already. "
                "The store's files are measured after the run: SQLite keeps the room of the "
                "versions it no longer needs.",
            ),
        ),
    ]


def _memory_table(profiles: int) -> Table:
    with TemporaryDirectory() as folder:
        at_ms = in_fresh_process(populate, Path(folder), profiles)
        held = in_fresh_process(memory, folder, profiles, at_ms)
    return Table(
        "Memory per profile",
        ("when", "KiB per profile"),
        (
            ("resumed: every profile cold", number(held.resumed / _KIB)),
            ("every profile touched since the last snapshot", number(held.touched / _KIB)),
            ("after the next snapshot: every profile cold again", number(held.snapshot / _KIB)),
            ("for comparison: its bytes in the snapshots", number(held.encoded / _KIB)),
        ),
        (
            f"{profiles:,} profiles with five signals, {held.waiting:.2f} decisions waiting for "
            "an outcome per profile, one run. The aim is at most 1.5 KiB. Touched is the worst "
            "case: every shard then keeps as many profiles decoded as it may, and memory once "
            "taken is not given back.",
        ),
    )


def measure(*, quick: bool) -> list[Table]:
    """Memory, pauses and resumes."""
    sizes = (500,) if quick else STORE_PROFILES
    return list(chain([_memory_table(2_000 if quick else MEMORY_PROFILES)], _store_tables(sizes)))
