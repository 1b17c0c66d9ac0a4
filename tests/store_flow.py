"""A flow with sealed state whose every epoch a test commands, in a process of its own.

Trap: who opens and closes a database file in the process of the engine takes the engine's locks
away. So the flow runs as `python -m tests.store_flow STORE KEPT SIZE`, and the test looks at the
files from outside. Each line on its input is an epoch: the texts to put into the state, or `-text`
to take one out. It answers with a line when the epoch before is closed. Every snapshot that it
takes is also written into `KEPT`, sealed as it is in the store.
"""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import IO, Any
from zlib import crc32

import bytewax.operators as op
import msgspec
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators import StatefulBatchLogic
from bytewax.testing import TestingSink

from flows.engine import run_flow
from flows.recovery import init_store
from operators.pseudonyms import Pseudonyms

ROOT = Path(__file__).parents[1]
SHARDS = 8
SECRET = b"the secret of these tests"


class _Commands(StatefulSourcePartition[tuple[str, list[str]], int]):
    def __init__(self, commands: IO[str]) -> None:
        self._commands = commands

    def next_batch(self) -> list[tuple[str, list[str]]]:
        print("closed", flush=True)
        line = self._commands.readline()
        if not line:
            raise StopIteration
        by_shard: dict[int, list[str]] = {}
        for word in line.split():
            shard = crc32(word.removeprefix("-").encode()) % SHARDS
            by_shard.setdefault(shard, []).append(word)
        return [(f"{shard:04d}", words) for shard, words in by_shard.items()]

    def snapshot(self) -> int:
        return 0


class _Source(FixedPartitionedSource[tuple[str, list[str]], int]):
    def list_parts(self) -> list[str]:
        return ["stdin"]

    def build_part(self, *_: Any) -> _Commands:
        return _Commands(sys.stdin)


class _Shard(StatefulBatchLogic[list[str], str, bytes]):
    def __init__(self, resumed: bytes | None, *, kept: Path, size: int) -> None:
        self._pseudonyms = Pseudonyms(SECRET)
        self._kept = kept
        self._size = size
        self._held: dict[str, str] = {}
        if resumed is not None:
            self._held = msgspec.msgpack.decode(self._pseudonyms.open(resumed))

    def on_batch(self, values: list[list[str]]) -> tuple[list[str], bool]:
        for word in (word for words in values for word in words):
            if word.startswith("-"):
                self._held.pop(word[1:], None)
            else:
                self._held[word] = (f"payload of {word}, " * self._size)[: self._size]
        return [" ".join(sorted(self._held))], StatefulBatchLogic.RETAIN

    def snapshot(self) -> bytes:
        sealed = self._pseudonyms.seal(msgspec.msgpack.encode(dict(sorted(self._held.items()))))
        names = "+".join(self._held) or "nobody"
        (self._kept / f"{crc32(sealed):08x}-{names[:100]}").write_bytes(sealed)
        return sealed


def main() -> None:
    store, kept, size = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    flow = Dataflow("sealed")
    events = op.input("events", flow, _Source())
    shards = op.stateful_batch("shards", events, lambda r: _Shard(r, kept=kept, size=size))
    op.output("out", shards, TestingSink([]))
    run_flow(flow, epoch_interval=timedelta(0), recovery_dir=store)


class StoreFlow:
    """The flow, commanded: `epoch` returns when what it was given is in a closed epoch."""

    def __init__(self, store: Path, kept: Path, *, size: int, partitions: int = 2) -> None:
        kept.mkdir(exist_ok=True)
        init_store(store, partitions=partitions)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.store_flow", str(store), str(kept), str(size)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._closed()

    def _closed(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "closed\n"

    def epoch(self, *words: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(words) + "\n")
        self._process.stdin.flush()
        self._closed()

    def stop(self) -> None:
        """End it as a signal would: the last epoch is closed."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(60) == 0

    def __enter__(self) -> StoreFlow:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


if __name__ == "__main__":
    main()
