"""Do the benchmarks run, and do they write tables that a reader can read?

Tiny sizes, each benchmark whole. No figure is looked at: that would be a timed assertion.
"""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import pytest

from benchmarks.run import BENCHMARKS, PAGE
from benchmarks.tables import Table, replace_tables, tables_of
from benchmarks.workload import batches, decisions_in, decoder_of, machines, plan, visits
from operators.arrival import group_by_shard
from operators.ids import shard_of
from operators.parameters import LocalParameters
from operators.shard import ShardBatch
from tests.servers.kafka import RunningKafka

ROOT = Path(__file__).parents[1]


AS_MODULE = ("-m", "benchmarks.run")
AS_FILE = ("benchmarks/run.py",)
NEEDING = {"kafka", "open_bandit", "bandit"}
"""What needs a broker, a log or another program: tested where they are."""


def run_quick(
    name: str, page: Path, *, command: tuple[str, ...] = AS_MODULE, **environment: str
) -> str:
    """Run one benchmark as a person would; the page it wrote."""
    page.write_text(PAGE.read_text())
    done = subprocess.run(
        [sys.executable, *command, name, "--quick", "--page", str(page)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return page.read_text()


def assert_well_formed(text: str) -> None:
    """Every table has a caption, and every row of it as many cells as its head."""
    lines = text.splitlines()
    tables = 0
    for i, line in enumerate(lines):
        if not line.startswith("| ---"):
            continue
        tables += 1
        assert lines[i - 3].startswith("**")
        width = lines[i - 1].count("|")
        rows = list(takewhile(bool, lines[i + 1 :]))
        assert rows
        for row in rows:
            assert row.count("|") == width, row
            assert "nan" not in row.split()
    assert tables


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name not in NEEDING])
def test_a_benchmark_runs_and_writes_its_tables(name: str, tmp_path: Path) -> None:
    page = run_quick(name, tmp_path / "page.md")
    written = tables_of(page, name=name)
    assert_well_formed(written)
    assert f"python -m benchmarks.run {name} --quick" in written
    assert str(tmp_path) not in page


def test_the_kafka_benchmark_runs_on_a_real_broker(kafka: RunningKafka, tmp_path: Path) -> None:
    # As `make bench` runs it: as a file, beside which lies a module that is called `kafka` too.
    page = run_quick(
        "kafka",
        tmp_path / "page.md",
        command=AS_FILE,
        KAFKA_BOOTSTRAP_SERVERS=kafka.bootstrap,
    )
    written = tables_of(page, name="kafka")
    assert_well_formed(written)
    assert "passthrough" in written


def test_the_page_has_a_place_for_every_benchmark_and_names_no_folder_of_a_machine() -> None:
    page = PAGE.read_text()
    for name in BENCHMARKS:
        tables_of(page, name=name)
    assert not any(folder in page for folder in ("/home/", "/root", "/tmp", "/work"))


def test_only_what_stands_between_the_markers_is_replaced() -> None:
    page = PAGE.read_text()
    once = replace_tables(page, name="stages", text="some figures")
    twice = replace_tables(once, name="stages", text="other figures")
    assert "some figures" in once
    assert "some figures" not in twice
    assert tables_of(twice, name="stages") == "other figures"
    assert replace_tables(twice, name="stages", text="some figures") == once
    with pytest.raises(ValueError, match="no lines"):
        replace_tables(page, name="unheard", text="")


def test_a_row_with_a_cell_too_few_is_refused() -> None:
    with pytest.raises(ValueError, match="has not 2 cells"):
        Table("t", ("a", "b"), (("1",),))


def test_the_log_closes_the_loop_although_nothing_was_decided_when_it_was_written() -> None:
    """Its impressions and clicks must find the decisions, or learning would cost nothing."""
    log = visits(60, profiles=10, contents=30, bought=0.5)
    made = machines(plan(30), LocalParameters())
    decoder = decoder_of(made.decide.plan)
    outputs = []
    for batch in batches(log, size=7):
        decoded = decoder.decode(batch)
        assert not decoded.dead_letters
        for shard, events in group_by_shard(decoded.arrived, shards=64).items():
            outputs.append(
                made.shards[shard].process(ShardBatch(shard, events, decoded.watermarks, 1))
            )
    records = [m.record for out in outputs for m in out.decisions]
    assert len(records) == decisions_in(log) == 60
    assert all(
        int(r["decision_id"][:3], 16) == shard_of(r["profile_id"], shards=64) for r in records
    )
    assert not any(out.late for out in outputs)
    assert sum(out.facts["impressions_unmatched",] for out in outputs) == 0
    kinds = [example.kind for out in outputs for example in out.examples]
    bought = sum(sent.type == "purchase" for sent in log)
    assert kinds.count("purchase") == bought > 0
    assert kinds.count("click") == sum(sent.type == "click" for sent in log) > 0
