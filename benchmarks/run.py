"""Runs benchmarks and writes their tables: `python -m benchmarks.run [NAME...] [--quick]`.

Each benchmark runs in a process of its own, one after the other. A full run rewrites its tables in
docs/benchmarks.md; a quick one only shows that the benchmarks work, so it prints its figures and
leaves the page alone (unless `--page` names one).
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Final

_ROOT: Final = Path(__file__).resolve().parents[1]
# Run as a file (`python benchmarks/run.py`) the interpreter would look in this folder, where
# `kafka` is a benchmark and not the client, and would not find the packages.
sys.path[:] = [str(_ROOT), *(p for p in sys.path if Path(p).resolve() != _ROOT / "benchmarks")]

from benchmarks.errors import BenchmarkUnavailable  # noqa: E402
from benchmarks.measure import in_fresh_process, load_average, machine  # noqa: E402
from benchmarks.tables import Table, replace_tables, tables_of  # noqa: E402

PAGE: Final = _ROOT / "docs" / "benchmarks.md"
BENCHMARKS: Final = (
    "stages",
    "signals",
    "flow_memory",
    "kafka",
    "state",
    "learning",
    "bandit",
    "flow_learning",
    "decisions",
    "open_bandit",
)


def measure(name: str, quick: bool) -> list[Table]:
    """The tables of one benchmark; BenchmarkUnavailable where it cannot run here."""
    tables: list[Table] = import_module(f"benchmarks.{name}").measure(quick=quick)
    return tables


def section(name: str, *, quick: bool) -> str:
    """Run one benchmark in a new process; its tables and their circumstances as Markdown."""
    load, started = load_average(), perf_counter()
    tables = in_fresh_process(measure, name, quick)
    took = perf_counter() - started
    command = f"python -m benchmarks.run {name}{' --quick' if quick else ''}"
    facts = f"`{command}` took {took:.0f} s; load average at the start {load:.1f}. {machine()}."
    return "\n\n".join([*(table.markdown() for table in tables), facts])


def _must_have_room(page: Path, names: list[str]) -> None:
    """Raise ValueError now rather than after minutes of measuring."""
    text = page.read_text()
    for name in names:
        tables_of(text, name=name)


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; the exit code is 1 where a benchmark could not run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--quick", action="store_true", help="tiny sizes; prints, writes nothing")
    parser.add_argument("--page", type=Path, help="the page to rewrite")
    asked = parser.parse_args(arguments)
    if unknown := [name for name in asked.names if name not in BENCHMARKS]:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    page: Path | None = asked.page or (None if asked.quick else PAGE)
    names = asked.names or list(BENCHMARKS)
    if page is not None:
        _must_have_room(page, names)
    failed = False
    for name in names:
        try:
            text = section(name, quick=asked.quick)
        except BenchmarkUnavailable as error:
            print(f"benchmarks.run: {name}: {error}", file=sys.stderr)
            failed = True
            continue
        print(f"\n## {name}\n\n{text}", flush=True)
        if page is not None:
            page.write_text(replace_tables(page.read_text(), name=name, text=text))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
