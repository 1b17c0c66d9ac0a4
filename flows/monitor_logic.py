"""The few lines that know the engine: a placement's monitor as a Bytewax logic.

What it adds up is `operators.monitor`'s; here it is handed batches, asked for snapshots, and its
reports become gauges and lines of the log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from bytewax.operators import StatefulBatchLogic

from flows.telemetry import Telemetry
from operators.monitor import Monitor, by_placement, placement_of
from operators.monitor_watch import WATCHED, Watched
from operators.outputs import Record
from operators.plan import Plan
from schemas.metrics import GaugeName

_LOG: Final = logging.getLogger(__name__)
_GAUGES: Final[tuple[tuple[GaugeName, tuple[str, ...]], ...]] = (
    ("monitored_fallback_ratio", ("fallback", "estimate")),
    ("monitored_reward_per_decision", ("outcomes", "reward_per_decision", "estimate")),
    ("monitored_reward_per_impression", ("outcomes", "reward_per_impression", "estimate")),
    ("monitored_exploration_ratio", ("exploration", "share", "estimate")),
    ("monitored_exploration_cost", ("exploration", "cost", "estimate")),
    ("monitored_coverage_ratio", ("shown", "coverage")),
    ("monitored_gini", ("shown", "gini")),
    ("monitored_effective_contents", ("shown", "effective_contents")),
    ("monitored_repetition_ratio", ("shown", "repetition", "estimate")),
    ("monitored_shift", ("shown", "shift")),
    ("monitored_roc_auc", ("model", "roc_auc")),
    ("monitored_log_loss", ("model", "log_loss")),
    ("monitored_calibration_error", ("model", "calibration_error")),
    ("monitored_tests", ("model", "tests")),
)


class WatchedPlacement(NamedTuple):
    """What was watched of one placement, in order."""

    placement: str
    watched: list[Watched]
    as_of_ms: int | None = None


class Told(NamedTuple):
    """What one activation gives: how many lists it took in, and the reports that fell due."""

    taken: int
    reports: list[Record]


MONITOR_CROSSING: Final = (*WATCHED, WatchedPlacement)
"""What of the monitors crosses processes."""


def keyed_by_placement(
    watched: Iterable[Watched], everybody: Iterable[str] = (), *, as_of_ms: int | None = None
) -> list[tuple[str, WatchedPlacement]]:
    """What was watched, by placement; those of `everybody` are answered even without any.

    `as_of_ms` is an instant that nothing of it lies before.
    """
    found = by_placement(watched)
    for placement in everybody:
        found.setdefault(placement, [])
    return [(name, WatchedPlacement(name, listed, as_of_ms)) for name, listed in found.items()]


class MonitorLogic(StatefulBatchLogic[WatchedPlacement, Told, bytes]):
    """One placement's monitor; `plan` gives the plan in force, asked at every activation.

    The state of a placement that the policy no longer has is kept as it is, so that rolling the
    policy back finds it.
    """

    def __init__(
        self, resume: bytes | None, *, plan: Callable[[], Plan], telemetry: Telemetry
    ) -> None:
        self._resume = resume
        self._plan = plan
        self._telemetry = telemetry
        self._adopted: Plan | None = None
        self._monitor: Monitor | None = None
        self._name: str | None = None if resume is None else placement_of(resume)
        if self._name is not None:
            self._refresh(self._name)

    def _refresh(self, name: str) -> Monitor | None:
        """The monitor under the plan in force; None while that has no such placement."""
        plan = self._plan()
        if plan is self._adopted:
            return self._monitor
        self._adopted = plan
        if name not in plan.placements:
            if self._monitor is not None:
                self._resume, self._monitor = self._monitor.snapshot(), None
        elif self._monitor is not None:
            self._monitor.adopt(plan)
        else:
            self._monitor = Monitor(plan, name)
            if self._resume is not None:
                self._monitor.restore(self._resume)
            self._begin(plan, name)
        return self._monitor

    def _begin(self, plan: Plan, name: str) -> None:
        # From 0 on, so that the first of each is a growth that an alert can see.
        for of in ("reward", "loss"):
            self._telemetry.count("monitored_drifts_total", 0, placement=name, of=of)
        self._telemetry.count("monitored_shifts_total", 0, placement=name)
        monitoring = plan.policy.monitoring
        for group in monitoring.groups if monitoring is not None else ():
            for of in ("exposure", "reward"):
                self._telemetry.count(
                    "monitored_unfair_total", 0, placement=name, group=group, of=of
                )

    def on_batch(self, values: list[WatchedPlacement]) -> tuple[Iterable[Told], bool]:
        """Add up all that was watched, in order."""
        self._name = values[0].placement
        monitor = self._refresh(self._name)
        if monitor is None:
            return [Told(len(values), [])], StatefulBatchLogic.RETAIN
        reports = [
            report
            for value in values
            for report in monitor.watch(value.watched, as_of_ms=value.as_of_ms)
        ]
        for report in reports:
            self._tell(report)
        return [Told(len(values), reports)], StatefulBatchLogic.RETAIN

    def _tell(self, report: Record) -> None:
        placement = report["placement"]
        telemetry = self._telemetry
        telemetry.count("monitored_reports_total", placement=placement)
        for gauge, path in _GAUGES:
            figure = _figure(report, path)
            if figure is not None:
                telemetry.set(gauge, figure, placement=placement)
        for kind in report["outcomes"]["kinds"]:
            if kind["rate"] is not None:
                telemetry.set(
                    "monitored_reward_ratio",
                    kind["rate"]["estimate"],
                    placement=placement,
                    kind=kind["kind"],
                )
        for part in report["fatigue"]:
            telemetry.set(
                "monitored_fatigue_ratio",
                part["rate"]["estimate"],
                placement=placement,
                nth=part["nth"],
            )
        self._tell_changes(report, placement)
        for group in report["fairness"]:
            self._tell_group(group, placement)

    def _tell_changes(self, report: Record, placement: str) -> None:
        model, shown = report["model"], report["shown"]
        if model["reward_drift"] is not None:
            self._telemetry.count("monitored_drifts_total", placement=placement, of="reward")
            _LOG.warning("placement %s: its reward %s", placement, model["reward_drift"])
        if model["loss_drift"]:
            self._telemetry.count("monitored_drifts_total", placement=placement, of="loss")
            _LOG.warning("placement %s: the model's error grew", placement)
        if shown["sudden"]:
            self._telemetry.count("monitored_shifts_total", placement=placement)
            _LOG.warning(
                "placement %s: what is shown moved by %.2f in one period, %s most",
                placement,
                shown["shift"],
                ", ".join(one["content_id"] for one in shown["moved"][:3]),
            )

    def _tell_group(self, group: Record, placement: str) -> None:
        for of in ("exposure", "reward"):
            gap = group[f"{of}_gap"]
            if gap is None:
                continue
            labels = {"placement": placement, "group": group["group"], "of": of}
            self._telemetry.set("monitored_group_gap", gap["gap"], **labels)
            if gap["flagged"]:
                self._telemetry.count("monitored_unfair_total", **labels)
                _LOG.warning(
                    "placement %s: %s of %s differs by %.3f between %s and %s",
                    placement,
                    of,
                    group["group"],
                    gap["gap"],
                    gap["highest"],
                    gap["lowest"],
                )

    def snapshot(self) -> bytes:
        """The monitor's state."""
        if self._monitor is not None:
            return self._monitor.snapshot()
        assert self._resume is not None  # the engine snapshots what it was given or has awoken
        return self._resume


def _figure(report: Record, path: tuple[str, ...]) -> float | None:
    found: Any = report
    for name in path:
        if found is None:
            return None
        found = found[name]
    return None if found is None else float(found)
