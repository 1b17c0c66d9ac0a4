"""Who else is using this directory? Locks as files, which the kernel drops with their process.

They live in `locks/` beneath the directory, readable by its owner only. It does not know what the
directory holds.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from flows.errors import RecoveryError

_BUSY_WAIT_S: Final = 60.0


@contextmanager
def exclusive(path: Path, name: str, *, wait_s: float = _BUSY_WAIT_S) -> Iterator[None]:
    """Hold the lock `name` of `path` alone; RecoveryError where it is not free within `wait_s`."""
    file = open_lock(path, name)
    try:
        deadline = time.monotonic() + wait_s
        while not lock(file, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise RecoveryError(f"another process holds {path}/locks/{name} for {wait_s:.0f} s")
            time.sleep(0.02)
        yield
    finally:
        os.close(file)


@contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Whether no run uses the store at `path`; where that is so none can start within the block."""
    with exclusive(path, "mutex"):
        run = open_lock(path, "cluster")
        try:
            yield lock(run, fcntl.LOCK_EX)
        finally:
            os.close(run)


def open_lock(path: Path, name: str) -> int:
    """The descriptor of a lock file, made where absent; closing it gives the lock back."""
    directory = path / "locks"
    directory.mkdir(mode=0o700, exist_ok=True)
    return os.open(directory / name, os.O_RDWR | os.O_CREAT, 0o600)


def lock(file: int, kind: int) -> bool:
    """Take the lock (`fcntl.LOCK_EX` or `LOCK_SH`) if that can be had at once; whether it was."""
    # The kernel drops the lock with the process, however it ends: no stale lock to clean up.
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def read_note(file: int) -> dict[str, str]:
    """What `write_note` wrote into a lock file; empty where nothing was."""
    try:
        found = json.loads(os.pread(file, 4096, 0) or b"{}")
    except ValueError:
        return {}  # a machine that crashed while it was written: nobody holds the lock then
    return {str(key): str(value) for key, value in found.items()}


def write_note(file: int, content: dict[str, Any]) -> None:
    """Say something to whoever finds the lock taken."""
    os.ftruncate(file, 0)
    os.pwrite(file, json.dumps(content).encode(), 0)
    os.fsync(file)
