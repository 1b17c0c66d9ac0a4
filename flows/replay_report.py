"""The report of a replay: what the policy did with a log, without baselines to compare it with."""

from __future__ import annotations

from pathlib import Path

from flows.replay import Replayed
from flows.report import ReportData, write_report
from operators.plan import Plan


def write_replay_report(path: Path, plan: Plan, done: Replayed, *, logs: list[Path]) -> Path:
    """Write the report and return its path."""
    tally = done.tally
    write_report(
        path,
        ReportData(
            title=f"Replay of {', '.join(log.name for log in logs)}",
            subtitle=f"policy {plan.policy.name}",
            facts={"policy": plan.policy_digest, "catalogue": plan.catalogue_version},
            decisions=tally.decision_series(),
            shown=tally.shown_series(),
            contents=tally.contents(),
            segments=tally.segment_series(),
            latency=tally.latency(),
            throughput=tally.throughput(),
            learned=tally.learned(done.examples),
            accounting=tally.accounting,
            rejections=tally.rejections,
        ),
    )
    return path
