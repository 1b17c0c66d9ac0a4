"""How replay and the demo keep the flow deterministic: one batch at a time, wholly settled.

The engine may interleave its steps as it likes, and which parameters a decision sees must not
depend on that. So the source hands out the next batch only when every shard and every learner has
finished the former one, and staged parameters become visible exactly then. The same channel closes
the demo's loop: what the flow decided on a batch is what the next batch reacts to.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.outputs import DynamicSink, StatelessSinkPartition

from operators.outputs import Outputs
from operators.parameters import LocalParameters
from schemas.records import RawBatch

Next = Callable[[list[Outputs]], RawBatch | None]
"""The next batch, given what the flow made of the former one; None at the end."""


class Lockstep:
    """Counts what is still to settle of the batch under way, and asks for the next one."""

    def __init__(
        self, following: Next, *, shards: int, models: int, parameters: LocalParameters
    ) -> None:
        self._following = following
        self._expected = shards * (1 + models)
        self._parameters = parameters
        self._settled = self._expected
        self._outputs: list[Outputs] = []

    def settle(self, outputs: Outputs | None, count: int) -> None:
        """A shard gave its outputs, or a learner took in so many lists of examples."""
        self._settled += count
        if outputs is not None:
            self._outputs.append(outputs)

    def advance(self) -> RawBatch | None:
        """The next batch, an empty one while the last is under way, None at the end."""
        if self._settled < self._expected:
            return _NOTHING_YET
        outputs, self._outputs = self._outputs, []
        self._parameters.advance()
        batch = self._following(outputs)
        self._settled = 0
        return batch


_NOTHING_YET = RawBatch("", 0, 0, [])


class LockstepSource(FixedPartitionedSource[RawBatch, None]):
    """The input of a flow that runs in lockstep: one partition, no resume."""

    def __init__(self, lockstep: Lockstep) -> None:
        self._lockstep = lockstep

    def list_parts(self) -> list[str]:
        """One partition."""
        return ["log"]

    def build_part(
        self,
        step_id: str,  # noqa: ARG002  the engine's signature
        for_part: str,  # noqa: ARG002
        resume_state: None,  # noqa: ARG002
    ) -> _LockstepPartition:
        """The partition."""
        return _LockstepPartition(self._lockstep)


class _LockstepPartition(StatefulSourcePartition[RawBatch, None]):
    def __init__(self, lockstep: Lockstep) -> None:
        self._lockstep = lockstep

    def next_batch(self) -> list[RawBatch]:
        batch = self._lockstep.advance()
        if batch is None:
            raise StopIteration
        return [] if batch is _NOTHING_YET else [batch]

    def next_awake(self) -> datetime | None:
        return None

    def snapshot(self) -> None:
        return None


class LockstepSink(DynamicSink[tuple[Outputs | None, int]]):
    """Where settled work is counted."""

    def __init__(self, lockstep: Lockstep) -> None:
        self._lockstep = lockstep

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _LockstepOut:  # noqa: ARG002
        """The sink of the one worker."""
        return _LockstepOut(self._lockstep)


class _LockstepOut(StatelessSinkPartition[Any]):
    def __init__(self, lockstep: Lockstep) -> None:
        self._lockstep = lockstep

    def write_batch(self, items: list[tuple[Outputs | None, int]]) -> None:
        for outputs, count in items:
            self._lockstep.settle(outputs, count)
