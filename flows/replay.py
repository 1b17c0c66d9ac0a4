"""The same flow on log files: the same log gives the same decisions, byte for byte.

Batches are of fixed size, parameters are published by count and become visible between batches,
chance comes from hashes, and the clock is the log's own: nothing depends on the machine or the day.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Final

from flows.encode import dead_letter_line
from flows.engine import run_flow
from flows.files import JsonLines, initial_clock, read_records
from flows.learners import learner_count
from flows.lockstep import Lockstep, LockstepSource, Next
from flows.personalize import DEFAULT_SHARDS, Core, Outlet, personalize
from flows.streams import StreamName
from flows.tally import Tally
from operators.decode import Decoder
from operators.outputs import Outputs
from operators.parameters import LocalParameters
from operators.plan import Plan
from schemas.records import RawBatch, RawRecord

BATCH: Final = 250
INCARNATION: Final = "replay"
FILES: Final[dict[StreamName, str]] = {
    "decisions": "decisions.jsonl",
    "segment-changes": "segment-changes.jsonl",
    "outcomes": "outcomes.jsonl",
    "late": "late.jsonl",
    "dead-letters": "dead-letters.jsonl",
    "predictions": "predictions.jsonl",
    "audiences": "audiences.jsonl",
    "thresholds": "thresholds.jsonl",
    "monitoring": "monitoring.jsonl",
    "suggestions": "suggestions.jsonl",
    "erasures": "erasures.jsonl",
}
"""Every stream's file."""
_NEVER: Final = timedelta(days=1)
"""No epoch closes during a replay: nothing resumes it, and a snapshot would only cost time."""


def files_of(plan: Plan) -> dict[StreamName, str]:
    """The files that a replay writes: none for a section that the policy leaves out."""
    absent: set[StreamName] = set()
    if not plan.predictions:
        absent.add("predictions")
    if plan.policy.audiences is None:
        absent.add("audiences")
    if not plan.followings:
        absent.add("thresholds")
    if not plan.monitored:
        absent.add("monitoring")
    if plan.suggest is None:
        absent.add("suggestions")
    return {name: file for name, file in FILES.items() if name not in absent}


@dataclass(frozen=True)
class Replayed:
    """What a replay gave: its tally, and how many examples were learned."""

    tally: Tally
    examples: int
    elapsed_s: float


def run_lockstep(
    plan: Plan,
    following: Next,
    *,
    out: Path,
    tally: Tally,
    initial_clock_ms: int | None = None,
    shards: int = DEFAULT_SHARDS,
) -> int:
    """Run the flow in lockstep over the batches that `following` gives; the examples learned.

    Decisions, segment changes, outcomes, late events and dead letters are written to `out`.
    """
    parameters = LocalParameters(staged=True)
    core = Core(
        plan=plan,
        decoder=Decoder(
            plan.policy.time,
            plan.policy.sensitive,
            plan.placement_names,
            initial_clock_ms=initial_clock_ms,
        ),
        parameters=parameters,
        incarnation=INCARNATION,
        shards=shards,
    )

    def observed(outputs: list[Outputs]) -> RawBatch | None:
        tally.observe(outputs)
        return following(outputs)

    lockstep = Lockstep(
        observed,
        shards=core.shards,
        models=learner_count(plan),
        parameters=parameters,
    )
    out.mkdir(parents=True, exist_ok=True)
    flow = personalize(
        core,
        source=LockstepSource(lockstep),
        outlets={name: Outlet(JsonLines(out / file)) for name, file in files_of(plan).items()},
        dead_letter=dead_letter_line,
        lockstep=lockstep,
    )
    run_flow(flow, epoch_interval=_NEVER)
    tally.dead_letters = _lines(out / FILES["dead-letters"])
    models = list(plan.models)
    return sum(p.examples for name in models if (p := parameters.latest(name)) is not None)


def replay(
    plan: Plan,
    logs: list[Path],
    out: Path,
    *,
    on_bytes: Callable[[int], None] = lambda _count: None,
    shards: int = DEFAULT_SHARDS,
) -> Replayed:
    """Replay logs, in order, through the flow; raises ConnectorError where one cannot be read.

    `shards` is that of the live flow whose log it is: a decision's id begins with its shard, and
    what is drawn for it follows from its id.
    """
    tally = Tally(plan)
    records = read_records(logs, on_bytes=on_bytes)
    started = last = perf_counter()
    size = decided = 0
    name = logs[0].name if len(logs) == 1 else "logs"

    def following(_outputs: list[Outputs]) -> RawBatch | None:
        nonlocal last, size, decided
        now = perf_counter()
        if size:
            tally.timed(
                elapsed_s=now - started,
                decisions=tally.decisions - decided,
                batch_s=now - last,
                events=size,
            )
        last, decided = now, tally.decisions
        batch = next(batches, None)
        size = 0 if batch is None else len(batch.records)
        tally.read += size
        return batch

    batches = _batches(records, name)
    examples = run_lockstep(
        plan,
        following,
        out=out,
        tally=tally,
        initial_clock_ms=initial_clock(logs),
        shards=shards,
    )
    return Replayed(tally, examples, perf_counter() - started)


def _batches(records: Iterator[RawRecord], name: str) -> Iterator[RawBatch]:
    while batch := list(islice(records, BATCH)):
        yield RawBatch(name, 0, 1, batch)
    # What is due by the log's own clock fires at its end; only replay may do that.
    yield RawBatch(name, 0, 1, [], final=True)


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)
