"""May this process use this recovery store, and is what it will load from there only data?

State: files in the recovery directory: the engine's partitions, and beside them `locks/`. The lock
is per process index; the processes of one run (an *incarnation*) share the store, any other run is
refused, because the engine itself would let both write. It does not know what a snapshot means.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import pickle
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple

from bytewax.recovery import init_db_dir

from flows.errors import RecoveryError, RefusedPickleError
from flows.locks import exclusive, lock, open_lock, read_note, write_note
from schemas.records import OutRecord, RawBatch, RawRecord

_PARTITIONS: Final = "part-*.sqlite3"


def init_store(path: Path, *, partitions: int) -> None:
    """Make `path` a recovery store of `partitions` files, readable by its owner only.

    Superseded state can be cut out of such a store while a flow runs (`flows.scrub`). A store that
    is there is left as it is. Raises RecoveryError where it has another number of partitions
    (fixed for good once made) or the directory cannot be used.
    """
    try:
        _own_directory(path)
        with exclusive(path, "init"):
            found = len(list(path.glob(_PARTITIONS)))
            if found == 0:
                init_db_dir(path, partitions)  # type: ignore[no-untyped-call]
                found = partitions
                for file in path.glob(_PARTITIONS):
                    _give_space_back(file)
            for file in path.glob("part-*"):
                file.chmod(0o600)
    except OSError as error:
        raise RecoveryError(f"recovery directory {path} cannot be used: {error}") from error
    if found != partitions:
        raise RecoveryError(
            f"recovery store {path} has {found} partitions, expected {partitions}: the number is "
            "fixed when the store is made. Set it back, or start with an empty directory (the flow "
            "then begins anew)"
        )


def _give_space_back(file: Path) -> None:
    # Kept in the file's header, so it holds for the engine's connections as well. Measured at
    # 64 MB a snapshot: `incremental` costs an epoch nothing, `full` takes 65 to 80 % longer.
    with closing(sqlite3.connect(file, isolation_level=None)) as store:
        store.execute("PRAGMA auto_vacuum = INCREMENTAL")
        store.execute("VACUUM")


class Snapshot(NamedTuple):
    """What a step's key had in state: bytes, the epoch, and when they were written (UTC)."""

    state: bytes
    epoch: int
    written_at: str


def newest_snapshots(path: Path, step_id: str, state_key: str | None = None) -> dict[str, Snapshot]:
    """The newest snapshot of each key of a step (or of one key), also while a flow runs.

    Nothing is written and no class is unpickled. Raises RecoveryError where a partition cannot be
    read, RefusedPickleError where a row holds more than plain data.
    """
    found: dict[str, Snapshot] = {}
    for file in sorted(path.glob(_PARTITIONS)):
        try:
            with closing(_read_only(file)) as store:
                # Of an aggregate's row the other columns are those of the row with the maximum.
                rows = store.execute(
                    "SELECT state_key, max(snap_epoch), created_at, ser_change FROM snaps"
                    " WHERE step_id = ? AND (? IS NULL OR state_key = ?) GROUP BY state_key",
                    (step_id, state_key, state_key),
                ).fetchall()
        except sqlite3.Error as error:
            raise RecoveryError(f"recovery partition {file} cannot be read: {error}") from error
        for key, epoch, written_at, pickled in rows:
            state = None if pickled is None else _plain(pickled)
            known = found.get(key)
            if isinstance(state, bytes) and (known is None or known.epoch < epoch):
                found[key] = Snapshot(state, epoch, written_at)
    return found


def _plain(pickled: bytes) -> object:
    try:
        return _PlainUnpickler(io.BytesIO(pickled)).load()
    except RefusedPickleError:
        raise
    except Exception as error:  # damaged pickles raise nearly anything
        raise RecoveryError("the recovery store is damaged: a row is no pickle") from error


def _read_only(file: Path) -> sqlite3.Connection:
    # This must never create a file or repair one beside a running engine.
    return sqlite3.connect(f"file:{file}?mode=ro", uri=True)


def is_fresh(path: Path) -> bool:
    """Whether a run on the store would begin anew, because no epoch was ever closed in it.

    Where only a part of a cluster's partitions is in `path` the answer may be True too often. What
    follows from True is only a longer read of the topics.
    """
    resume: dict[int, int] = {}
    fronts: dict[tuple[int, int], int] = {}
    for file in sorted(path.glob(_PARTITIONS)):
        try:
            with closing(_read_only(file)) as store:
                resume |= dict(store.execute("SELECT ex_num, resume_epoch FROM exs"))
                for run, worker, epoch in store.execute(
                    "SELECT ex_num, worker_index, worker_frontier FROM fronts"
                ):
                    fronts[run, worker] = epoch
        except sqlite3.Error as error:
            raise RecoveryError(f"recovery partition {file} cannot be read: {error}") from error
    # The engine's first epoch is 1; a run that resumed later, or got further, has closed one.
    return all(epoch <= 1 for epoch in (*resume.values(), *fronts.values()))


class StoreLock:
    """Holds the store for process `process_id` of a run until released or the process ends.

    `addresses` are those of all processes of the run, in order (empty for a single process).
    `incarnation` is shared by the processes of the run and `started` belongs to this start alone;
    both are texts that sort by time and never come again on this store. Raises RecoveryError where
    another run holds the store, or this process index is running already.
    """

    def __init__(
        self,
        path: Path,
        *,
        process_id: int = 0,
        addresses: Sequence[str] = (),
        now_ms: Callable[[], int],
    ) -> None:
        run = hashlib.blake2b("\n".join(addresses).encode(), digest_size=8).hexdigest()
        self._files: list[int] = []
        try:
            _own_directory(path)
            # One process at a time: the step from an exclusive lock to a shared one is not atomic.
            with exclusive(path, "mutex"):
                self._join(path, process_id=process_id, run=run, now_ms=now_ms())
        except OSError as error:
            self.release()
            raise RecoveryError(f"recovery directory {path} cannot be used: {error}") from error
        except BaseException:
            self.release()
            raise

    def _join(self, path: Path, *, process_id: int, run: str, now_ms: int) -> None:
        own = open_lock(path, f"process-{process_id}")
        self._files.append(own)
        if not lock(own, fcntl.LOCK_EX):
            raise RecoveryError(
                f"process {process_id} is running on recovery store {path} already "
                f"(pid {read_note(own).get('pid', 'unknown')}). Two runs on one store would both "
                "write: stop the other, or give this one a directory of its own"
            )
        write_note(own, {"pid": os.getpid()})
        cluster = open_lock(path, "cluster")
        self._files.append(cluster)
        first = lock(cluster, fcntl.LOCK_EX)
        known = read_note(cluster)
        last = int(known.get("started", "0"), 16)
        self.started = f"{max(now_ms, last + 1):012x}"
        if first:
            self.incarnation = self.started
        elif known.get("run") == run:
            self.incarnation = known["incarnation"]
        else:
            raise RecoveryError(
                f"recovery store {path} is in use by a run with other addresses. The processes of "
                "one run must all be given the same list of addresses in the same order"
            )
        write_note(cluster, {"run": run, "incarnation": self.incarnation, "started": self.started})
        lock(cluster, fcntl.LOCK_SH)

    def release(self) -> None:
        """Let others use the store."""
        while self._files:
            os.close(self._files.pop())

    def __enter__(self) -> StoreLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


_CROSSING: Final[tuple[type, ...]] = (RawRecord, RawBatch, OutRecord)


class _PlainUnpickler(pickle.Unpickler):
    allowed: frozenset[tuple[str, str]] = frozenset()

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) in self.allowed:
            return super().find_class(module_name, global_name)
        raise RefusedPickleError(
            f"pickled bytes name {module_name}.{global_name}, which plain state never holds: the "
            "recovery store was written by another program or tampered with, or a peer sent what "
            "no process of this version sends. Nothing of it was run. Restore a backup of the "
            "store, or start with an empty directory"
        )


def install_restricted_unpickler(*, allow: Iterable[type] = ()) -> Callable[[], None]:
    """Make `pickle.loads` refuse every class but the records' and `allow`; returns the undoing.

    Whoever can write the recovery directory could otherwise run code in this process when it
    resumes. The engine looks `pickle.loads` up at each call, for snapshots and for what comes from
    other processes; for the latter the named tuples of `schemas.records` are allowed, which hold
    data only. Plain data (bytes, str, numbers, None, tuple, list, dict, set) needs no class.
    """
    allowed = frozenset((kind.__module__, kind.__qualname__) for kind in (*_CROSSING, *allow))
    unpickler = type("PlainUnpickler", (_PlainUnpickler,), {"allowed": allowed})
    former = pickle.loads

    def loads(data: Any, /, **options: Any) -> Any:
        return unpickler(io.BytesIO(data), **options).load()

    def undo() -> None:
        pickle.loads = former

    pickle.loads = loads
    return undo


def _own_directory(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    # State holds profiles; and whoever can write here decides what a resume loads.
    path.chmod(0o700)
