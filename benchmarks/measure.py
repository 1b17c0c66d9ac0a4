"""What did a piece of work cost this process, and on what machine?

CPU time is the figure to trust: it counts what this process did, however busy the machine is
(though a busy neighbour still slows caches and clocks). Wall time is kept for what waits on disks.
"""

from __future__ import annotations

import gc
import os
import platform
import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Final, TypeVar

T = TypeVar("T")

_LIBRARIES: Final = (
    "bytewax",
    "kafka-python",
    "river",
    "numpy",
    "pydantic",
    "orjson",
    "msgspec",
    "lz4",
)


@dataclass
class Spent:
    """Seconds of CPU (all threads of the process) and of wall time."""

    cpu_s: float = 0.0
    wall_s: float = 0.0


@contextmanager
def spent(on: Spent) -> Iterator[None]:
    """Add the cost of what runs inside to `on`."""
    wall, cpu = perf_counter(), process_time()
    try:
        yield
    finally:
        on.cpu_s += process_time() - cpu
        on.wall_s += perf_counter() - wall


def cpu_us(work: Callable[[], object], *, per: int, runs: int) -> float:
    """Microseconds of CPU per item of `work`, which handles `per` items: the median of `runs`."""
    costs = []
    for _ in range(runs):
        cost = Spent()
        with spent(cost):
            work()
        costs.append(cost.cpu_s / per * 1e6)
    return statistics.median(costs)


def in_fresh_process(work: Callable[..., T], *given: Any) -> T:
    """What `work(*given)` returns, run in a new interpreter: no garbage and no memory of others."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *given).result()


def resident_bytes() -> int:
    """Memory this process holds now (resident set), garbage collected first."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def load_average() -> float:
    """How many processes wanted to run, over the last minute."""
    return os.getloadavg()[0]


def machine() -> str:
    """The facts that a figure depends on, in a sentence."""
    libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    return (
        f"{_processor()}, {len(os.sched_getaffinity(0))} cores, {_memory_gib():.0f} GiB; "
        f"{platform.system()} {platform.machine()}, {platform.python_implementation()} "
        f"{platform.python_version()}; {libraries}"
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or "processor unknown"


def _memory_gib() -> float:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)
