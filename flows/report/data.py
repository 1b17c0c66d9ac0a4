"""What can a report say? Every part is optional; a section without data is left out.

`nextbest demo` gives `arms` (the first one is the subject) and gets the comparison; what was shown,
exploration and fallback over time are then read from the subject unless given. `nextbest replay`
has no arms and gives the series itself. Instants are milliseconds since the epoch in UTC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flows.simulate.results import ArmResult


@dataclass(frozen=True)
class DecisionSeries:
    """Decisions per bucket of event time, and how many explored or fell back."""

    times_ms: Sequence[int]
    decisions: Sequence[int]
    explored: Sequence[int]
    fallback: Sequence[int]


@dataclass(frozen=True)
class ShownSeries:
    """How often each group of contents (a category, a tag) was shown per bucket of event time."""

    times_ms: Sequence[int]
    groups: Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class ShownContent:
    """One content and how it did; `clicks` is None where outcomes are not known."""

    content_id: str
    group: str
    shown: int
    clicks: int | None = None


@dataclass(frozen=True)
class SegmentSeries:
    """Members of each segment at instants of event time."""

    times_ms: Sequence[int]
    members: Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Latency:
    """Samples of a duration in microseconds, and what they measure."""

    samples_us: Sequence[float]
    of: str = "one decision"


@dataclass(frozen=True)
class Throughput:
    """Events per second of wall time, at seconds since the start."""

    elapsed_s: Sequence[float]
    events_per_second: Sequence[float]


@dataclass(frozen=True)
class Learned:
    """Examples learned and decisions made; the series, if given, holds both per bucket."""

    examples: int
    decisions: int
    times_ms: Sequence[int] = ()
    examples_over_time: Sequence[int] = ()
    decisions_over_time: Sequence[int] = ()


@dataclass(frozen=True)
class Accounting:
    """Where every event that was read went."""

    read: int
    used: int
    suppressed: int
    duplicates: int
    late: int
    dead_letters: int

    @property
    def missing(self) -> int:
        """Events read but booked nowhere: 0, or the accounting identity is broken."""
        booked = self.used + self.suppressed + self.duplicates + self.late + self.dead_letters
        return self.read - booked


@dataclass(frozen=True)
class ReportData:
    """Everything a report is made of. `facts` are shown as given: seed, policy digest, versions."""

    title: str
    subtitle: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    arms: tuple[ArmResult, ...] = ()
    decisions: DecisionSeries | None = None
    shown: ShownSeries | None = None
    contents: tuple[ShownContent, ...] = ()
    segments: SegmentSeries | None = None
    latency: Latency | None = None
    throughput: Throughput | None = None
    learned: Learned | None = None
    accounting: Accounting | None = None
    rejections: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
