"""What of former state is still in the files of a recovery store, and how does it go?

A deleted row is not gone: sqlite keeps it in pages that are free, in the slack of pages that are
not, and in the log. `scrub` rewrites the files of a store that nobody uses, after which they hold
what is live and nothing else. `scrub_running` is for beside a running flow: in transactions of a
few milliseconds it cuts the free pages off and empties the log. What may remain then is the slack,
less than a page each: the beginning of sealed snapshots.

Trap: the engine carries a sqlite of its own. Two in one process break each other's locks (closing a
file drops all locks that the process has on it), so beside the engine this runs as a child process.
"""

from __future__ import annotations

import json
import logging
import os
import select
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

from flows.errors import RecoveryError
from flows.locks import alone, exclusive

_LOG: Final = logging.getLogger(__name__)
_PARTITIONS: Final = "part-*.sqlite3"
_PAGES_AT_ONCE: Final = 64
_EVERY_S: Final = 3_600.0
_LOCKED_FOR_S: Final = 5.0


def scrub(path: Path) -> bool:
    """Rewrite the store at `path` without a trace of former state; False where a run uses it.

    Takes about 5 ms a megabyte, and room for another copy of the largest partition (in the
    directory for temporary files, see `SQLITE_TMPDIR`). A store that was not written since it was
    last scrubbed is left alone. Raises RecoveryError where a partition cannot be rewritten.
    """
    if not path.is_dir():
        return True
    with alone(path) as nobody_else:
        if not nobody_else:
            return False
        files = sorted(path.glob(_PARTITIONS))
        if files and _read_marks(path) == _marks(files):
            return True
        for file in files:
            try:
                _rewrite(file)
            except sqlite3.Error as error:
                raise RecoveryError(
                    f"recovery partition {file} cannot be rewritten: {error}. What was erased may "
                    "still be in it, sealed; `nextbest scrub` tries again"
                ) from error
        _marks_file(path).write_text(json.dumps(_marks(files)))
    return True


def tidy(path: Path) -> None:
    """`scrub` where nobody uses the store; a failure is logged and stops nobody."""
    try:
        scrub(path)
    except (RecoveryError, OSError) as error:
        _LOG.warning("the recovery store was not scrubbed: %s", error)


def scrub_running(path: Path) -> None:
    """Cut the free pages off and empty the log of a store that a flow is using.

    For another process than the flow's. A store of a release before 0.2 has no way to give pages
    back while it is in use: its log is emptied, its pages wait for `scrub`. Raises RecoveryError.
    """
    with exclusive(path, "scrub"):
        for file in sorted(path.glob(_PARTITIONS)):
            try:
                _trim(file)
            except sqlite3.Error as error:
                raise RecoveryError(
                    f"recovery partition {file} cannot be scrubbed: {error}"
                ) from error


def _rewrite(file: Path) -> None:
    with closing(sqlite3.connect(file, isolation_level=None, timeout=_LOCKED_FOR_S)) as store:
        store.execute("PRAGMA secure_delete = ON")
        store.execute("PRAGMA auto_vacuum = INCREMENTAL")
        store.execute("VACUUM")
        store.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    file.chmod(0o600)


def _trim(file: Path) -> None:
    with closing(sqlite3.connect(file, isolation_level=None, timeout=_LOCKED_FOR_S)) as store:
        store.execute("PRAGMA secure_delete = FAST")
        free = _free_pages(store)
        while free:
            began = time.monotonic()
            # A script, because a statement would be stepped once, and once is one page.
            store.executescript(f"PRAGMA incremental_vacuum({_PAGES_AT_ONCE});")
            before, free = free, _free_pages(store)
            if free >= before:
                break  # made without a way to give pages back, or the flow frees them faster
            # As long a pause as it took: the flow is to find the store unlocked.
            time.sleep(time.monotonic() - began)
        (busy, _, _) = store.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise RecoveryError(f"recovery partition {file} is busy: its log was not emptied")


def _free_pages(store: sqlite3.Connection) -> int:
    return int(store.execute("PRAGMA freelist_count").fetchone()[0])


def _marks(files: Iterable[Path]) -> dict[str, list[int]]:
    found = {}
    for file in files:
        log = file.with_name(f"{file.name}-wal")
        seen, logged = file.stat(), log.stat().st_size if log.exists() else 0
        found[file.name] = [seen.st_size, seen.st_mtime_ns, logged]
    return found


def _marks_file(path: Path) -> Path:
    return path / "locks" / "scrubbed"


def _read_marks(path: Path) -> Any:
    try:
        return json.loads(_marks_file(path).read_bytes())
    except (OSError, ValueError):
        return None


class KeptScrubbed:
    """A child process that scrubs the store at `path` beside a running flow.

    It does so `settle_s` after `erased` was called: give two snapshots' time, for only then
    the last state that knew the profile is superseded. And once an hour all the same. It ends with
    this process, however that ends.
    """

    def __init__(self, path: Path, *, settle_s: float) -> None:
        self._child: subprocess.Popen[bytes] | None = subprocess.Popen(
            [sys.executable, "-m", "flows.scrub", str(path), str(settle_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            # The terminal's Ctrl-C is for the flow: the child ends when its input does.
            start_new_session=True,
        )

    @property
    def process_id(self) -> int | None:
        """Of the child; None when it has ended."""
        return None if self._child is None else self._child.pid

    def erased(self) -> None:
        """Say that something was erased; never waits."""
        if self._child is None or self._child.stdin is None:
            return
        try:
            self._child.stdin.write(b".")
            self._child.stdin.flush()
        except OSError:
            self._child = None
            _LOG.error(
                "the process that scrubs the recovery store has ended; what is erased now leaves "
                "sealed traces in the store until the flow is stopped"
            )

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child is None:
            return
        if child.stdin is not None:
            try:
                child.stdin.close()
            except OSError:
                _LOG.debug("the scrubbing process had ended already")
        try:
            child.wait(timeout=_LOCKED_FOR_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def __enter__(self) -> KeptScrubbed:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def keep_scrubbed(path: Path, *, settle_s: float, told: IO[bytes], every_s: float) -> None:
    """Scrub after each byte that comes from `told`, and every `every_s`, until it ends."""
    due = time.monotonic() + every_s
    settled = float("-inf")
    while True:
        wait_s = max(0.0, due - time.monotonic())
        if select.select([told], [], [], wait_s)[0]:
            if not os.read(told.fileno(), 4_096):
                return
            settled = time.monotonic() + settle_s
            due = min(due, settled)
            continue
        began = time.monotonic()
        try:
            scrub_running(path)
        except (RecoveryError, OSError) as error:
            _LOG.warning("%s; trying again in %.0f s", error, settle_s)
            settled = time.monotonic() + max(1.0, settle_s)
        # What was erased while others waited to be scrubbed was not superseded yet.
        due = settled if settled > began else time.monotonic() + every_s


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    keep_scrubbed(
        Path(sys.argv[1]), settle_s=float(sys.argv[2]), told=sys.stdin.buffer, every_s=_EVERY_S
    )
