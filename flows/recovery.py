"""May this process use this recovery store, and is what it will load from there only data?

State: files in the recovery directory: the engine's partitions, and beside them `locks/`. The lock
is per process index; the processes of one run (an *incarnation*) share the store, any other run is
refused, because the engine itself would let both write. It does not know what a snapshot means.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import pickle
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from bytewax.recovery import init_db_dir

from flows.errors import RecoveryError, RefusedPickleError
from schemas.records import OutRecord, RawBatch, RawRecord

_PARTITIONS: Final = "part-*.sqlite3"
_BUSY_WAIT_S: Final = 10.0


def init_store(path: Path, *, partitions: int) -> None:
    """Make `path` a recovery store of `partitions` files, readable by its owner only.

    A store that is there is left as it is. Raises RecoveryError where it has another number of
    partitions (fixed for good once made) or the directory cannot be used.
    """
    try:
        _own_directory(path)
        with _exclusive(path, "init"):
            found = len(list(path.glob(_PARTITIONS)))
            if found == 0:
                init_db_dir(path, partitions)  # type: ignore[no-untyped-call]
                found = partitions
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


def is_fresh(path: Path) -> bool:
    """Whether a run on the store would begin anew, because no epoch was ever closed in it.

    Where only a part of a cluster's partitions is in `path` the answer may be True too often. What
    follows from True is only a longer read of the topics.
    """
    resume: dict[int, int] = {}
    fronts: dict[tuple[int, int], int] = {}
    for file in sorted(path.glob(_PARTITIONS)):
        try:
            # Read-only: this must never create a file or repair one beside a running engine.
            with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as store:
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
            with _exclusive(path, "mutex"):
                self._join(path, process_id=process_id, run=run, now_ms=now_ms())
        except OSError as error:
            self.release()
            raise RecoveryError(f"recovery directory {path} cannot be used: {error}") from error
        except BaseException:
            self.release()
            raise

    def _join(self, path: Path, *, process_id: int, run: str, now_ms: int) -> None:
        own = _open_lock(path, f"process-{process_id}")
        self._files.append(own)
        if not _lock(own, fcntl.LOCK_EX):
            raise RecoveryError(
                f"process {process_id} is running on recovery store {path} already "
                f"(pid {_read(own).get('pid', 'unknown')}). Two runs on one store would both "
                "write: stop the other, or give this one a directory of its own"
            )
        _write(own, {"pid": os.getpid()})
        cluster = _open_lock(path, "cluster")
        self._files.append(cluster)
        first = _lock(cluster, fcntl.LOCK_EX)
        known = _read(cluster)
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
        _write(cluster, {"run": run, "incarnation": self.incarnation, "started": self.started})
        _lock(cluster, fcntl.LOCK_SH)

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


@contextmanager
def _exclusive(path: Path, name: str) -> Iterator[None]:
    file = _open_lock(path, name)
    try:
        deadline = time.monotonic() + _BUSY_WAIT_S
        while not _lock(file, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise RecoveryError(
                    f"another process holds {path}/locks/{name} for {_BUSY_WAIT_S:.0f} s"
                )
            time.sleep(0.02)
        yield
    finally:
        os.close(file)


def _open_lock(path: Path, name: str) -> int:
    directory = path / "locks"
    directory.mkdir(mode=0o700, exist_ok=True)
    return os.open(directory / name, os.O_RDWR | os.O_CREAT, 0o600)


def _lock(file: int, kind: int) -> bool:
    # The kernel drops the lock with the process, however it ends: no stale lock to clean up.
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(file: int) -> dict[str, str]:
    try:
        found = json.loads(os.pread(file, 4096, 0) or b"{}")
    except ValueError:
        return {}  # a machine that crashed while it was written: nobody holds the lock then
    return {str(key): str(value) for key, value in found.items()}


def _write(file: int, content: dict[str, Any]) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, json.dumps(content).encode(), 0)
    os.fsync(file)
