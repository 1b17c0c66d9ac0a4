"""What happened in a run, for its report and its closing lines: sums and series in event time.

State: counters that grow with the span of event time, the contents shown and the segments, not
with the number of events. Durations are wall time and come from the caller.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from flows.report.data import (
    Accounting,
    DecisionSeries,
    Latency,
    Learned,
    SegmentSeries,
    ShownContent,
    ShownSeries,
    Throughput,
)
from operators.outputs import Outputs, Record
from operators.plan import Plan
from schemas.time import DAY, HOUR, MINUTE, to_millis

_SPANS = (MINUTE, 10 * MINUTE, HOUR, 6 * HOUR, DAY, 7 * DAY, 30 * DAY)
_BUCKETS = 120
_SAMPLES = 20_000


@dataclass
class Tally:
    """Counts the outputs of a flow run under one plan."""

    plan: Plan
    read: int = 0
    dead_letters: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    facts: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    rejections: Counter[str] = field(default_factory=Counter)
    decisions: int = 0
    segment_changes: int = 0
    outcomes: int = 0
    shown: Counter[str] = field(default_factory=Counter)
    _minutes: dict[int, list[int]] = field(default_factory=dict)
    _groups: dict[int, Counter[str]] = field(default_factory=dict)
    _members: dict[int, Counter[str]] = field(default_factory=dict)
    _latencies_us: list[float] = field(default_factory=list)
    _pace: list[tuple[float, int]] = field(default_factory=list)

    def observe(self, outputs: Iterable[Outputs]) -> None:
        """Take in what the flow made of one batch."""
        for out in outputs:
            self.counts.update(out.counts)
            self.outcomes += len(out.outcomes)
            for fact, amount in out.facts.items():
                self.facts[fact[0]] += amount
            for made in out.decisions:
                self._decision(made.record)
            for change in out.changes:
                self.segment_changes += 1
                minute = _minute(change["changed_at"])
                step = 1 if change["direction"] == "entered" else -1
                self._members.setdefault(minute, Counter())[change["segment"]] += step

    def timed(self, *, elapsed_s: float, decisions: int, batch_s: float, events: int) -> None:
        """One batch took `batch_s` seconds of wall time and ended `elapsed_s` after the start."""
        self._pace.append((elapsed_s, events))
        if decisions and len(self._latencies_us) < _SAMPLES:
            self._latencies_us.append(batch_s / decisions * 1e6)

    def _decision(self, record: Record) -> None:
        self.decisions += 1
        self.rejections.update(record["rejections"])
        minute = _minute(record["decided_at"])
        series = self._minutes.setdefault(minute, [0, 0, 0])
        series[0] += 1
        series[1] += record["explored"]
        series[2] += record["fallback"] is not None
        groups = self._groups.setdefault(minute, Counter())
        for item in record["items"]:
            self.shown[item["content_id"]] += 1
            groups[self.group(item["content_id"])] += 1

    def group(self, content_id: str) -> str:
        """The group a content is plotted under: its category, else its first tag, else its type."""
        content = self.plan.contents.by_id.get(content_id)
        if content is None:
            return "unknown"
        category = content.attributes.get("category")
        if category is not None:
            return str(category)
        return content.tags[0] if content.tags else content.type

    @property
    def accounting(self) -> Accounting:
        """Where every event that was read went."""
        return Accounting(
            read=self.read,
            used=self.counts["used"],
            suppressed=self.counts["suppressed"],
            duplicates=self.counts["duplicate"],
            late=self.counts["late"],
            dead_letters=self.dead_letters,
        )

    def decision_series(self) -> DecisionSeries | None:
        """Decisions over event time."""
        if not self._minutes:
            return None
        span = _span(self._minutes)
        rows: dict[int, list[int]] = {}
        for minute, counts in self._minutes.items():
            row = rows.setdefault(minute // span * span, [0, 0, 0])
            for i, n in enumerate(counts):
                row[i] += n
        times = sorted(rows)
        return DecisionSeries(
            times,
            [rows[t][0] for t in times],
            [rows[t][1] for t in times],
            [rows[t][2] for t in times],
        )

    def shown_series(self) -> ShownSeries | None:
        """What was shown over event time, by group; the rare groups together."""
        if not self._groups:
            return None
        span = _span(self._groups)
        rows: dict[int, Counter[str]] = {}
        for minute, counts in self._groups.items():
            rows.setdefault(minute // span * span, Counter()).update(counts)
        times = sorted(rows)
        total: Counter[str] = sum(rows.values(), Counter())
        frequent = [name for name, _ in total.most_common(8)]
        groups = {name: [rows[t][name] for t in times] for name in frequent}
        if len(total) > len(frequent):
            groups["others"] = [
                rows[t].total() - sum(rows[t][name] for name in frequent) for t in times
            ]
        return ShownSeries(times, groups)

    def segment_series(self) -> SegmentSeries | None:
        """Members of each segment over event time."""
        if not self._members:
            return None
        span = _span(self._members)
        steps: dict[int, Counter[str]] = {}
        for minute, changes in self._members.items():
            row = steps.setdefault(minute // span * span, Counter())
            for name, step in changes.items():
                row[name] += step
        times = sorted(steps)
        members: dict[str, list[int]] = {name: [] for name in self.plan.policy.segments}
        for t in times:
            for name, series in members.items():
                series.append((series[-1] if series else 0) + steps[t][name])
        return SegmentSeries(times, members)

    def latency(self) -> Latency | None:
        """Wall time per decision, a sample per batch."""
        if not self._latencies_us:
            return None
        return Latency(self._latencies_us, of="one decision, learning and files included")

    def throughput(self) -> Throughput | None:
        """Events per second of wall time, in about a hundred buckets."""
        if not self._pace:
            return None
        width = max(self._pace[-1][0] / 100, 1e-3)
        sums: Counter[int] = Counter()
        for elapsed, events in self._pace:
            sums[int(elapsed / width)] += events
        return Throughput(
            [(bucket + 1) * width for bucket in sorted(sums)],
            [sums[bucket] / width for bucket in sorted(sums)],
        )

    def contents(self, clicks: dict[str, int] | None = None) -> tuple[ShownContent, ...]:
        """The contents shown most."""
        return tuple(
            ShownContent(name, self.group(name), n, None if clicks is None else clicks.get(name, 0))
            for name, n in self.shown.most_common(20)
        )

    def learned(self, examples: int) -> Learned | None:
        """Examples learned beside decisions made."""
        return Learned(examples, self.decisions) if self.decisions else None


def _minute(text: str) -> int:
    return to_millis(datetime.fromisoformat(text)) // MINUTE * MINUTE


def _span(minutes: Iterable[int]) -> int:
    known = list(minutes)
    length = max(known) - min(known)
    return next((span for span in _SPANS if length / span <= _BUCKETS), _SPANS[-1])
