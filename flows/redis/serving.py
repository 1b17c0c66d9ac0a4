"""Where decisions and profiles become readable: a sink that never waits for Redis.

`write_batch` hands writes to a thread and returns. The thread writes batches by compare-and-set
(`writes.py`) and, while Redis is down, tries again with a growing pause. A snapshot carries what is
not written yet, so a crash loses nothing; after the resume it is written again, which the versions
make harmless. It does not know what a decision or a profile looks like.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import redis
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from flows.errors import RecoveryError
from flows.redis.backlog import Backlog, Entry, decode_backlog, ttl_left_ms
from flows.redis.connection import connect, error_reason, redis_address
from flows.redis.writes import ServingWrite, compare_and_set, decision_key, profile_key
from flows.telemetry import NoTelemetry, Telemetry
from operators.pseudonyms import UNSHARED, Pseudonyms, SealError

__all__ = ["ServingPartition", "ServingSink", "ServingWrite", "decision_key", "profile_key"]

_LOG: Final = logging.getLogger(__name__)
_BATCH: Final = 200
_BATCH_BYTES: Final = 1 << 20
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 5.0
_SEALED: Final = b"NBSS"
_LINGER_S: Final = 0.005
"""A batch gathers this long: a call for one key costs as much CPU as a call for a dozen."""


class ServingSink(FixedPartitionedSink[list[ServingWrite], bytes]):
    """Writes items (partition key, list of writes) to Redis from one thread per process.

    The item's key is a number as text (its shard); all writes of a profile must bear the same one,
    so that a later snapshot of that partition replaces the earlier. `partitions` is the number of
    sink partitions over all processes: it must not shrink between runs, or the backlogs of the
    partitions that went are lost. `snapshot_wait_s` is how long a snapshot waits for the backlog
    to drain while Redis answers, all partitions together; while it does not answer, a snapshot
    does not wait at all. `max_entries` and `max_bytes` bound the backlog of all
    partitions together, each having an equal share. `pseudonyms` seal what a snapshot holds, and
    key what is remembered of deletes.
    """

    def __init__(
        self,
        url: str,
        *,
        partitions: int,
        prefix: str = "nextbest",
        telemetry: Telemetry | None = None,
        snapshot_wait_s: float = 0.2,
        close_wait_s: float = 5.0,
        max_entries: int = 100_000,
        max_bytes: int = 64 << 20,
        pseudonyms: Pseudonyms = UNSHARED,
    ) -> None:
        self._partitions = partitions
        self._pseudonyms = pseudonyms
        self._snapshot_wait_s = snapshot_wait_s
        self._close_wait_s = close_wait_s
        self._max_entries = max(1, max_entries // partitions)
        self._max_bytes = max(1, max_bytes // partitions)
        self._writer = _Writer(
            url,
            prefix=prefix,
            telemetry=telemetry or NoTelemetry(),
            salt=pseudonyms.key_of("redis"),
        )

    def list_parts(self) -> list[str]:
        """Every partition, on every worker; padded, because the engine sorts keys as text."""
        width = len(str(self._partitions - 1))
        return [f"{part:0{width}d}" for part in range(self._partitions)]

    def part_fn(self, item_key: str) -> int:
        """The shard number itself; the engine wraps it around the number of partitions."""
        return int(item_key)

    def build_part(
        self,
        step_id: str,  # noqa: ARG002  the engine's signature
        for_part: str,
        resume_state: bytes | None,
    ) -> ServingPartition:
        """A partition whose first writes are those that the last run could not finish."""
        backlog = Backlog(max_entries=self._max_entries, max_bytes=self._max_bytes)
        if resume_state is not None:
            now = time.monotonic()
            for write in decode_backlog(_opened(resume_state, self._pseudonyms)):
                backlog.offer(write, now=now)
        self._writer.add(for_part, backlog)
        return ServingPartition(
            self._writer,
            for_part,
            snapshot_wait_s=self._snapshot_wait_s,
            close_wait_s=self._close_wait_s,
            pseudonyms=self._pseudonyms,
        )

    def close(self) -> None:
        """Stop the thread without waiting: for after a run that the engine broke off.

        The engine does not promise to close partitions then. Harmless to call twice.
        """
        self._writer.remove_all()


class ServingPartition(StatefulSinkPartition[list[ServingWrite], bytes]):
    """One partition's share of the backlog; its state is what is not written yet."""

    def __init__(
        self,
        writer: _Writer,
        part: str,
        *,
        snapshot_wait_s: float,
        close_wait_s: float,
        pseudonyms: Pseudonyms,
    ) -> None:
        self._writer = writer
        self._pseudonyms = pseudonyms
        self._part = part
        self._snapshot_wait_s = snapshot_wait_s
        self._close_wait_s = close_wait_s

    def write_batch(self, values: list[list[ServingWrite]]) -> None:
        """Hand the writes over; never waits for Redis."""
        self._writer.offer(self._part, values)

    def snapshot(self) -> bytes:
        """What is not written yet, sealed, after a short wait for it to become nothing."""
        self._writer.wait_briefly(self._part, timeout_s=self._snapshot_wait_s)
        return _SEALED + self._pseudonyms.seal(self._writer.encode(self._part))

    def close(self) -> None:
        """Write what is left, for a bounded time; what remains is in the last snapshot."""
        self._writer.wait_finally(self._part, timeout_s=self._close_wait_s)
        self._writer.remove(self._part)


def _opened(state: bytes, pseudonyms: Pseudonyms) -> bytes:
    if not state.startswith(_SEALED):
        return state  # as the first release wrote it
    try:
        return pseudonyms.open(state[len(_SEALED) :])
    except SealError as error:
        raise RecoveryError(f"what waited to be written to Redis: {error}") from error


class _Writer:
    """The thread that writes, and the backlogs it writes from; one lock guards them all."""

    def __init__(self, url: str, *, prefix: str, telemetry: Telemetry, salt: bytes) -> None:
        self._url = url
        self._salt = salt
        self._client = connect(url)
        self._prefix = prefix
        self._telemetry = telemetry
        self._changed = threading.Condition()
        self._backlogs: dict[str, Backlog] = {}
        self._thread: threading.Thread | None = None
        self._down = False
        self._hurry = threading.Event()
        self._close_by: float | None = None
        self._briefly_from = float("-inf")
        self._bug: BaseException | None = None
        telemetry.watch("redis_backlog", self.size)

    def size(self) -> int:
        """How many writes wait."""
        with self._changed:
            return sum(map(len, self._backlogs.values()))

    def add(self, part: str, backlog: Backlog) -> None:
        with self._changed:
            self._backlogs[part] = backlog
            self._hurry.clear()
            self._close_by = None
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="redis-serving", daemon=True)
                self._thread.start()

    def remove(self, part: str) -> None:
        """Forget a partition; the thread ends with the last one."""
        with self._changed:
            self._backlogs.pop(part, None)
            self._hurry.set()
            self._changed.notify_all()

    def remove_all(self) -> None:
        for part in list(self._backlogs):
            self.remove(part)

    def offer(self, part: str, values: list[list[ServingWrite]]) -> None:
        if self._bug is not None:
            raise RuntimeError("the thread that writes to Redis ended by a bug") from self._bug
        now = time.monotonic()
        with self._changed:
            backlog = self._backlogs[part]
            dropped = sum(backlog.offer(write, now=now) for writes in values for write in writes)
            self._changed.notify_all()
        if dropped:
            self._telemetry.count("redis_writes_total", dropped, result="dropped")

    def wait_briefly(self, part: str, *, timeout_s: float) -> None:
        """Wait until a partition has nothing left to write, unless Redis is down.

        The partitions of one snapshot come right after another and share one wait: each of many
        waiting on its own would hold up the epoch by as many times.
        """
        now = time.monotonic()
        if now > self._briefly_from + timeout_s + 1.0:
            self._briefly_from = now
        with self._changed:
            self._changed.wait_for(
                lambda: self._down or not self._backlogs.get(part),
                max(0.0, self._briefly_from + timeout_s - now),
            )

    def wait_finally(self, part: str, *, timeout_s: float) -> None:
        """Wait at the end of a run, Redis down or not; all partitions share one deadline."""
        self._hurry.set()  # cut a pause short: this is the last chance
        now = time.monotonic()
        if self._close_by is None:
            self._close_by = now + timeout_s
        with self._changed:
            self._changed.wait_for(
                lambda: not self._backlogs.get(part), max(0.0, self._close_by - now)
            )

    def encode(self, part: str) -> bytes:
        with self._changed:
            return self._backlogs[part].encode(now=time.monotonic())

    def _run(self) -> None:
        try:
            self._write_until_removed()
        except BaseException as error:
            self._bug = error
            raise
        finally:
            self._client.close()

    def _write_until_removed(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while (batch := self._next()) is not None:
            try:
                self._write(batch)
            except redis.RedisError as error:
                self._failed(error)
                # Not all at once when many processes have lost the same server.
                self._hurry.wait(pause_s * random.uniform(0.5, 1.0))
                self._hurry.clear()
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
            else:
                pause_s = _FIRST_PAUSE_S

    def _next(self) -> list[tuple[str, list[Entry]]] | None:
        """The next batch by partition, waiting for one; None when the last partition has gone."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._backlogs or any(self._backlogs.values()))
                if not self._backlogs:
                    self._thread = None
                    return None
                linger = sum(map(len, self._backlogs.values())) < _BATCH
            if linger:
                self._hurry.wait(_LINGER_S)
            with self._changed:
                if batch := self._gather():
                    return batch

    def _gather(self) -> list[tuple[str, list[Entry]]]:
        """One batch out of all partitions: one call a partition would be a call a key."""
        batch = []
        left, left_bytes = _BATCH, _BATCH_BYTES
        for part in list(self._backlogs):
            if left <= 0 or left_bytes <= 0:
                break
            # The served partition goes to the end, so that a busy one starves none.
            backlog = self._backlogs[part] = self._backlogs.pop(part)
            if entries := backlog.peek(limit=left, limit_bytes=left_bytes):
                batch.append((part, entries))
                left -= len(entries)
                left_bytes -= sum(entry.size for entry in entries)
        return batch

    def _write(self, batch: list[tuple[str, list[Entry]]]) -> None:
        now = time.monotonic()
        all_entries = [entry for _, entries in batch for entry in entries]
        results = compare_and_set(
            self._client,
            [entry.write for entry in all_entries],
            prefix=self._prefix,
            ttls_ms=[ttl_left_ms(entry, now=now) for entry in all_entries],
            salt=self._salt,
        )
        with self._state_changes():
            for part, entries in batch:
                if backlog := self._backlogs.get(part):
                    backlog.done(entries)
            recovered, self._down = self._down, False
        if recovered:
            _LOG.warning("Redis at %s answers again", redis_address(self._url))
        for result in ("written", "same", "stale"):
            if n := results.count(result):
                self._telemetry.count("redis_writes_total", n, result=result)
        if refused := results.count("wrong_type"):
            # Another program's key under our name: trying again would not help.
            self._telemetry.count("redis_errors_total", refused, reason="wrong_type")
            _LOG.error("Redis holds %d keys of ours that are not hashes of ours", refused)

    def _failed(self, error: redis.RedisError) -> None:
        self._telemetry.count("redis_errors_total", reason=error_reason(error))
        with self._state_changes():
            known, self._down = self._down, True
        if not known:
            _LOG.warning(
                "Redis at %s fails (%s); decisions go on and are served later",
                redis_address(self._url),
                type(error).__name__,
            )

    @contextmanager
    def _state_changes(self) -> Iterator[None]:
        with self._changed:
            yield
            self._changed.notify_all()
