"""The few lines that know the engine: audience discovery and moving thresholds as Bytewax logics.

What they find is `operators.discover`'s and `operators.adaptive`'s; here those are handed batches,
asked for snapshots, and what they find goes to the parameter store, the metrics and the log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Final, NamedTuple

from bytewax.operators import StatefulBatchLogic

from flows.telemetry import Telemetry
from operators.adaptive import MODEL as THRESHOLDS
from operators.adaptive import Adaptive, Followed, Following
from operators.audience import MODEL as CLUSTERS
from operators.audience import Sampled
from operators.discover import Discover
from operators.outputs import Record
from operators.parameters import Parameters, ParameterSet
from schemas.audiences import Audiences
from schemas.policy import Policy

_LOG: Final = logging.getLogger(__name__)


class Looks(NamedTuple):
    """Looks at profiles, in order; all of them go to the one step under the key `CLUSTERS`."""

    looks: list[Sampled]


class Found(NamedTuple):
    """What one activation gives: how many lists it took in, the newest set and report."""

    taken: int
    published: ParameterSet | None
    report: Record | None


class Feedback(NamedTuple):
    """Outcomes for thresholds, in order; all of them go to the step under the key `THRESHOLDS`."""

    outcomes: list[Followed]


class Moved(NamedTuple):
    """What one activation gives: how many lists it took in, the newest set and every change."""

    taken: int
    published: ParameterSet | None
    changes: list[Record]


class AudienceLogic(StatefulBatchLogic[Looks, Found, bytes]):
    """The discovery of audiences; publishes its centres and gives a report as they fall due."""

    def __init__(
        self,
        resume: bytes | None,
        *,
        policy: Policy,
        audiences: Audiences,
        parameters: Parameters,
        incarnation: str,
        telemetry: Telemetry,
    ) -> None:
        self._parameters = parameters
        self._telemetry = telemetry
        self._discover = Discover(policy, audiences, incarnation=incarnation)
        if resume is not None and (kept := self._discover.restore(resume)) is not None:
            # At once, before the first event: no profile is without its audience for a while.
            parameters.publish(kept)

    def on_batch(self, values: list[Looks]) -> tuple[Iterable[Found], bool]:
        """Take in all looks in order; only the newest set of an activation is published."""
        looks = chain.from_iterable(value.looks for value in values)
        published, report = self._discover.learn(looks)
        if published is not None:
            self._parameters.publish(published)
            self._telemetry.count("parameters_published_total", model=CLUSTERS)
        if report is not None:
            _LOG.info(
                "audiences: %d found among %d looks, explaining %.0f %% of the spread",
                len(report["audiences"]),
                report["of"],
                100 * report["quality"],
            )
        return [Found(len(values), published, report)], StatefulBatchLogic.RETAIN

    def snapshot(self) -> bytes:
        """The state of the discovery."""
        return self._discover.snapshot()


class ThresholdLogic(StatefulBatchLogic[Feedback, Moved, bytes]):
    """The thresholds that follow feedback; publishes them whenever one moved."""

    def __init__(
        self,
        resume: bytes | None,
        *,
        following: Sequence[Following],
        parameters: Parameters,
        incarnation: str,
        telemetry: Telemetry,
    ) -> None:
        self._parameters = parameters
        self._telemetry = telemetry
        self._adaptive = Adaptive(following, incarnation=incarnation)
        kept = None if resume is None else self._adaptive.restore(resume)
        if kept is None and parameters.latest(THRESHOLDS) is not None:
            # Without its state it begins at what is declared, and so must what decides.
            kept = self._adaptive.publish()
        if kept is not None:
            parameters.publish(kept)

    def on_batch(self, values: list[Feedback]) -> tuple[Iterable[Moved], bool]:
        """Take in all outcomes in order; only the newest set of an activation is published."""
        outcomes = chain.from_iterable(value.outcomes for value in values)
        published, changes = self._adaptive.learn(outcomes)
        if published is not None:
            self._parameters.publish(published)
            self._telemetry.count("parameters_published_total", model=THRESHOLDS)
        for change in changes:
            self._telemetry.count("threshold_changes_total", segment=change["segment"])
            because = change["because"]
            _LOG.info(
                "segment %s: %s of %s from %.4g to %.4g: %s rate %.4g, target %.4g, %d examples",
                change["segment"],
                change["bound"],
                change["signal"],
                change["threshold_from"],
                change["threshold_to"],
                because["reward"],
                because["rate"],
                because["target"],
                because["examples"],
            )
        return [Moved(len(values), published, changes)], StatefulBatchLogic.RETAIN

    def snapshot(self) -> bytes:
        """The state of the thresholds."""
        return self._adaptive.snapshot()
