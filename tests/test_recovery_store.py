"""Is a recovery store used by one run at a time, and is what is loaded from it only data?"""

from __future__ import annotations

import os
import pickle
import re
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.recovery import init_db_dir
from bytewax.testing import TestingSink, TestingSource

from flows.engine import run_flow
from flows.errors import RecoveryError, RefusedPickleError
from flows.locks import alone
from flows.recovery import (
    StoreLock,
    init_store,
    install_restricted_unpickler,
    is_fresh,
    newest_snapshots,
)
from flows.scrub import KeptScrubbed, scrub, scrub_running, tidy
from schemas.records import OutRecord, RawBatch, RawRecord
from tests.kafka_topics import eventually
from tests.servers.process import free_ports
from tests.store_flow import StoreFlow

ROOT = Path(__file__).parents[1]
TWO = ("a:1", "b:1")


@pytest.fixture
def restricted() -> Iterator[None]:
    undo = install_restricted_unpickler()
    yield
    undo()


def lock(path: Path, *, process_id: int = 0, addresses: tuple[str, ...] = ()) -> StoreLock:
    clock = count(1_000)
    return StoreLock(path, process_id=process_id, addresses=addresses, now_ms=lambda: next(clock))


def counting(items: list[Any], *, said: list[Any]) -> Dataflow:
    """A flow with state: the running sum by key."""
    flow = Dataflow("counting")
    events = op.input("events", flow, TestingSource(items))

    def add(total: int | None, item: int) -> tuple[int, int]:
        total = (total or 0) + item
        return total, total

    op.output("out", op.stateful_map("sum", events, add), TestingSink(said))
    return flow


def run(flow: Dataflow, store: Path) -> None:
    run_flow(flow, epoch_interval=timedelta(0), recovery_dir=store)


def test_a_new_store_is_private_and_a_second_init_leaves_it_alone(tmp_path: Path) -> None:
    store = tmp_path / "deep" / "store"
    init_store(store, partitions=3)
    before = {file.name: file.read_bytes() for file in store.glob("part-*")}
    init_store(store, partitions=3)
    assert {file.name: file.read_bytes() for file in store.glob("part-*")} == before
    assert len(before) == 3
    assert stat.S_IMODE(store.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in store.glob("part-*")} == {0o600}


def test_another_number_of_partitions_is_refused(tmp_path: Path) -> None:
    init_store(tmp_path, partitions=2)
    with pytest.raises(RecoveryError, match="has 2 partitions, expected 4"):
        init_store(tmp_path, partitions=4)


def test_a_directory_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(RecoveryError, match="cannot be used"):
        init_store(tmp_path / "file" / "store", partitions=1)
    with pytest.raises(RecoveryError, match="cannot be used"):
        lock(tmp_path / "file" / "store")


def test_a_store_is_fresh_until_an_epoch_was_closed_in_it(tmp_path: Path) -> None:
    assert is_fresh(tmp_path)
    init_store(tmp_path, partitions=2)
    assert is_fresh(tmp_path)
    run(counting([("a", 1)], said=[]), tmp_path)
    assert not is_fresh(tmp_path)


def test_a_damaged_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "part-0.sqlite3").write_bytes(b"not a database" * 100)
    with pytest.raises(RecoveryError, match=r"part-0.sqlite3 cannot be read"):
        is_fresh(tmp_path)


def test_a_flow_resumes_from_a_locked_store_with_the_restricted_loader(tmp_path: Path) -> None:
    said: list[Any] = []
    init_store(tmp_path, partitions=2)
    with lock(tmp_path):
        items = [("a", 1), ("b", 10), TestingSource.ABORT(), ("a", 2)]
        run(counting(items, said=said), tmp_path)
        run(counting(items, said=said), tmp_path)
    assert said[-1] == ("a", 3)


def test_a_second_run_of_the_same_process_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    with lock(tmp_path) as first:
        with pytest.raises(RecoveryError, match=rf"process 0 is running.*pid {os.getpid()}"):
            lock(tmp_path)
        started = first.started
    with lock(tmp_path) as second:
        assert second.incarnation > started


def test_the_processes_of_one_run_share_an_incarnation(tmp_path: Path) -> None:
    with (
        lock(tmp_path, addresses=TWO) as first,
        lock(tmp_path, process_id=1, addresses=TWO) as second,
    ):
        assert first.incarnation == second.incarnation
        assert first.started < second.started
        last = second.started
    with lock(tmp_path, process_id=1, addresses=TWO) as later:
        # The clock stood still: names of an earlier start never come again all the same.
        assert later.incarnation == later.started > last


def test_a_run_with_other_addresses_is_refused_while_one_lives(tmp_path: Path) -> None:
    with (
        lock(tmp_path, addresses=TWO),
        pytest.raises(RecoveryError, match="in use by a run with other addresses"),
    ):
        lock(tmp_path, process_id=1, addresses=("a:1", "b:2"))
    with (
        lock(tmp_path),
        pytest.raises(RecoveryError, match="in use by a run with other addresses"),
    ):
        lock(tmp_path, process_id=1, addresses=TWO)


def test_a_refused_run_leaves_no_lock_behind(tmp_path: Path) -> None:
    with lock(tmp_path, addresses=TWO):
        with pytest.raises(RecoveryError):
            lock(tmp_path, process_id=1)
        with lock(tmp_path, process_id=1, addresses=TWO):
            pass


def test_a_killed_process_leaves_no_lock_behind(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from flows.recovery import StoreLock\n"
        "lock = StoreLock(pathlib.Path(sys.argv[1]), now_ms=lambda: 1)\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(RecoveryError, match=rf"pid {holder.pid}"):
            lock(tmp_path)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    lock(tmp_path).release()


class Attack:
    """Unpickling it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.usefixtures("restricted")
@pytest.mark.parametrize("protocol", range(pickle.DEFAULT_PROTOCOL, pickle.HIGHEST_PROTOCOL + 1))
def test_plain_state_is_loaded(protocol: int) -> None:
    state = {"a": [1, 2.5, None, True, ("x", b"bytes", {3})], "n": -(10**30)}
    assert pickle.loads(pickle.dumps(state, protocol)) == state


@pytest.mark.usefixtures("restricted")
def test_the_records_that_cross_processes_are_loaded() -> None:
    record = RawRecord(1, 2, b"k", None, (("h", b"v"),))
    crossing = [RawBatch("t", 0, 1, [record], ((0, 5),)), OutRecord("id", b"k", b"v")]
    assert pickle.loads(pickle.dumps(crossing)) == crossing


@pytest.mark.usefixtures("restricted")
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_names_a_class_or_function_is_refused_and_not_run(
    tmp_path: Path, protocol: int
) -> None:
    for bad in (Attack(tmp_path / "made"), timedelta(1), print, Path("x"), RecoveryError("x")):
        with pytest.raises(RefusedPickleError, match="which plain state never holds"):
            pickle.loads(pickle.dumps({"state": bad}, protocol))
    assert not (tmp_path / "made").exists()


def test_a_class_can_be_allowed_and_the_restriction_undone() -> None:
    undo = install_restricted_unpickler(allow=[timedelta])
    try:
        assert pickle.loads(pickle.dumps(timedelta(1))) == timedelta(1)
    finally:
        undo()
    assert pickle.loads(pickle.dumps(Path("x"))) == Path("x")


def test_a_planted_pickle_in_the_store_is_refused_and_not_run(tmp_path: Path) -> None:
    store = tmp_path / "store"
    init_store(store, partitions=1)
    items = [("a", 1), TestingSource.ABORT(), ("a", 2)]
    run(counting(items, said=[]), store)
    with closing(sqlite3.connect(store / "part-0.sqlite3")) as database:
        planted = database.execute(
            "UPDATE snaps SET ser_change = ? WHERE step_id LIKE '%sum%'",
            (pickle.dumps(Attack(tmp_path / "made")),),
        ).rowcount
        database.commit()
    assert planted == 1

    with pytest.raises(RefusedPickleError, match="mkdir"):
        run(counting(items, said=[]), store)

    assert not (tmp_path / "made").exists()


# What a step had in state, seen from outside


def test_the_newest_snapshot_of_each_key_can_be_read(tmp_path: Path) -> None:
    with StoreFlow(tmp_path / "store", tmp_path / "kept", size=100, partitions=3) as flow:
        flow.epoch("one", "two", "three")
        first = newest_snapshots(tmp_path / "store", "sealed.shards")
        flow.epoch("one", "four")
        flow.epoch("five")
        second = newest_snapshots(tmp_path / "store", "sealed.shards")
        flow.stop()
    held = {file.read_bytes() for file in (tmp_path / "kept").iterdir()}
    assert {snapshot.state for snapshot in (*first.values(), *second.values())} <= held
    assert len(second) > 1
    assert set(first) <= set(second)
    assert all(second[key].epoch >= first[key].epoch for key in first)
    assert any(second[key].epoch > first[key].epoch for key in first)
    for key, snapshot in newest_snapshots(tmp_path / "store", "sealed.shards").items():
        assert snapshot.state == second[key].state
        assert newest_snapshots(tmp_path / "store", "sealed.shards", key) == {key: snapshot}
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", snapshot.written_at)
    assert newest_snapshots(tmp_path / "store", "another step") == {}
    assert newest_snapshots(tmp_path, "sealed.shards") == {}


def test_looking_at_a_planted_pickle_does_not_run_it(tmp_path: Path) -> None:
    store = tmp_path / "store"
    init_store(store, partitions=1)
    run(counting([("a", 1)], said=[]), store)
    for planted in (pickle.dumps(Attack(tmp_path / "made")), b"no pickle at all"):
        with closing(sqlite3.connect(store / "part-0.sqlite3")) as database:
            database.execute("UPDATE snaps SET ser_change = ?", (planted,))
            database.commit()
            (step,) = database.execute("SELECT step_id FROM snaps LIMIT 1").fetchone()
        with pytest.raises(RecoveryError, match=r"mkdir|no pickle"):
            newest_snapshots(store, step)
    assert not (tmp_path / "made").exists()
    (store / "part-0.sqlite3").write_bytes(b"not a database" * 100)
    with pytest.raises(RecoveryError, match=r"part-0.sqlite3 cannot be read"):
        newest_snapshots(store, "step")


# Nothing of what was erased is left

_FRAGMENT = 32
_PAGE = 4_096


def left_of(kept: Path, store: Path) -> dict[str, int]:
    """By file of the store, how far into a sealed snapshot of a canary anything of it is found.

    Sealed bytes are as good as random: 32 of them in a row are found by no chance.
    """
    files = {file.name: file.read_bytes() for file in store.glob("part-*")}
    deepest: dict[str, int] = {}
    for snapshot in kept.glob("*canary*"):
        sealed = snapshot.read_bytes()
        starts = [*range(0, 2 * _PAGE, 2 * _FRAGMENT), *range(2 * _PAGE, len(sealed), _PAGE // 4)]
        for start in (start for start in starts if start + _FRAGMENT <= len(sealed)):
            for name, content in files.items():
                if sealed[start : start + _FRAGMENT] in content:
                    deepest[name] = max(start, deepest.get(name, 0))
    return deepest


CANARIES = ("canary1", "canary2", "canary3")
PLAIN = (b"canary", b"payload of")


def lived_with_canaries(flow: StoreFlow) -> None:
    """Thirty epochs in which the canaries' shards were written often; then they are erased."""
    flow.epoch(*(f"user{n}" for n in range(60)), *CANARIES)
    for number in range(20):
        flow.epoch(*(f"more{number}-{n}" for n in range(3)), CANARIES[number % 3])
    flow.epoch(*(f"-{canary}" for canary in CANARIES))
    flow.epoch("user1")
    flow.epoch("user2")


@pytest.mark.parametrize("size", [300, 2_000], ids=["small snapshots", "large snapshots"])
def test_erased_profiles_leave_nothing_in_the_store(tmp_path: Path, size: int) -> None:
    store, kept = tmp_path / "store", tmp_path / "kept"
    with StoreFlow(store, kept, size=size) as flow:
        lived_with_canaries(flow)
        # That there is something to find, and that this finds it.
        assert left_of(kept, store)
        with KeptScrubbed(store, settle_s=0.0) as child:
            child.erased()
            eventually(lambda: log_bytes(store) == 0, what="an emptied log")
        # Beside the running flow: no more than the beginning of a snapshot, in the slack of a page.
        assert all(depth < _PAGE for depth in left_of(kept, store).values())
        flow.epoch("user3")
        flow.stop()

    assert scrub(store)

    assert left_of(kept, store) == {}
    for file in store.rglob("*"):
        assert not file.is_file() or not any(text in file.read_bytes() for text in PLAIN)
    before = newest_snapshots(store, "sealed.shards")
    with StoreFlow(store, kept, size=size) as resumed:
        resumed.epoch("newcomer")
        resumed.stop()
    after = newest_snapshots(store, "sealed.shards")
    assert set(after) == set(before)
    assert sum(after[key].state != before[key].state for key in before) == 1


def log_bytes(store: Path) -> int:
    return sum(file.stat().st_size for file in store.glob("*-wal"))


def free_pages(store: Path) -> int:
    free = 0
    for file in store.glob("part-*.sqlite3"):
        with closing(sqlite3.connect(file)) as database:
            free += database.execute("PRAGMA freelist_count").fetchone()[0]
    return free


def test_a_store_that_a_run_uses_is_not_rewritten(tmp_path: Path) -> None:
    init_store(tmp_path, partitions=1)
    with lock(tmp_path):
        assert not scrub(tmp_path)
        with alone(tmp_path) as nobody_else:
            assert not nobody_else
    with alone(tmp_path) as nobody_else:
        assert nobody_else
    assert scrub(tmp_path)


def test_a_store_that_was_not_written_since_is_left_alone(tmp_path: Path) -> None:
    store = tmp_path / "store"
    init_store(store, partitions=2)
    run(counting([("a", 1)], said=[]), store)
    assert scrub(store)
    before = {file.name: file.stat().st_mtime_ns for file in store.glob("part-*")}
    assert scrub(store)
    assert {file.name: file.stat().st_mtime_ns for file in store.glob("part-*")} == before
    run(counting([("a", 2)], said=[]), store)
    written = {file.name: file.stat().st_mtime_ns for file in store.glob("part-*")}
    assert scrub(store)
    assert {file.name: file.stat().st_mtime_ns for file in store.glob("part-*")} != written


def test_a_store_of_the_first_release_can_be_scrubbed_too(tmp_path: Path) -> None:
    init_db_dir(tmp_path, 1)  # type: ignore[no-untyped-call]
    items = [(f"k{n % 4}", n) for n in range(400)]
    run(counting(items, said=[]), tmp_path)
    with closing(sqlite3.connect(tmp_path / "part-0.sqlite3", isolation_level=None)) as database:
        assert database.execute("PRAGMA auto_vacuum").fetchone() == (0,)
        # As large as a shard's, so that pages fall free.
        database.execute("UPDATE snaps SET ser_change = zeroblob(100000)")
        database.execute("DELETE FROM snaps WHERE rowid % 2")
    assert free_pages(tmp_path) > 0
    # It has no way to give pages back while it is used: that is no error, and never ends late.
    scrub_running(tmp_path)
    assert free_pages(tmp_path) > 0
    assert scrub(tmp_path)
    assert free_pages(tmp_path) == 0
    with closing(sqlite3.connect(tmp_path / "part-0.sqlite3")) as database:
        assert database.execute("PRAGMA auto_vacuum").fetchone() == (2,)


def test_scrubbing_says_what_it_cannot_do(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert scrub(tmp_path / "not there")
    (tmp_path / "part-0.sqlite3").write_bytes(b"not a database" * 100)
    with pytest.raises(RecoveryError, match=r"part-0.sqlite3 cannot be rewritten"):
        scrub(tmp_path)
    with pytest.raises(RecoveryError, match=r"part-0.sqlite3 cannot be scrubbed"):
        scrub_running(tmp_path)
    tidy(tmp_path)
    assert "was not scrubbed" in caplog.text


def test_the_scrubbing_process_ends_with_its_parent_and_one_that_died_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    init_store(tmp_path, partitions=1)
    code = (
        "import sys, time, pathlib\n"
        "from flows.scrub import KeptScrubbed\n"
        "child = KeptScrubbed(pathlib.Path(sys.argv[1]), settle_s=0.0)\n"
        "print(child.process_id, flush=True)\n"
        "sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with parent:
        assert parent.stdout is not None
        child_id = int(parent.stdout.readline())
        os.kill(child_id, 0)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    eventually(lambda: not is_alive(child_id), what="the end of the orphan")

    with KeptScrubbed(tmp_path, settle_s=0.0) as kept:
        assert kept.process_id is not None
        os.kill(kept.process_id, signal.SIGKILL)

        def noticed() -> bool:
            kept.erased()
            return kept.process_id is None

        eventually(noticed, what="a broken pipe")
    assert "has ended" in caplog.text


def is_alive(process_id: int) -> bool:
    try:
        stat_line = Path(f"/proc/{process_id}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat_line.rpartition(")")[2].split()[0] != "Z"


def test_a_flow_raises_what_its_step_raised() -> None:
    flow = Dataflow("failing")
    numbers = op.input("numbers", flow, TestingSource([1]))

    def fail(number: int) -> int:
        raise LookupError(f"no {number}")

    op.output("out", op.map("fail", numbers, fail), TestingSink([]))
    with pytest.raises(LookupError, match="no 1"):
        run_flow(flow)


CLUSTER = """
import sys, logging
import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.recovery import init_db_dir
from bytewax.testing import TestingSink, TestingSource
from flows.engine import leave, run_flow
from flows.errors import NextbestError
logging.basicConfig(level=logging.ERROR)
def fail(number):
    if number == 500:
        raise LookupError("no such profile")
    return number
flow = Dataflow("failing")
# One source in the cluster: the process that holds it is the one that fails.
numbers = op.input("numbers", flow, TestingSource(range(1000)))
op.output("out", op.map("fail", numbers, fail), TestingSink([]))
try:
    run_flow(flow, process_id=int(sys.argv[1]), addresses=sys.argv[2:])
except NextbestError as error:
    print(error, file=sys.stderr)
    leave(error.exit_code)
except LookupError as error:
    print("raised", repr(error), file=sys.stderr)
    leave(7)
"""


def test_a_cluster_process_logs_and_raises_its_own_error_and_the_other_says_whose_it_was() -> None:
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CLUSTER, str(n), *addresses],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(2)
    ]
    ended = {process.communicate(timeout=60)[1]: process.returncode for process in processes}
    assert sorted(ended.values()) == [1, 7]
    own = next(text for text, code in ended.items() if code == 7)
    peer = next(text for text, code in ended.items() if code == 1)
    assert "step failing.fail.flat_map_batch: no such profile" in own
    assert "LookupError" in own
    assert "because another process of the cluster did" in peer
