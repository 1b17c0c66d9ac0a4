"""Does the watch count what decode read, follow the log's clock, and keep names tame?"""

from __future__ import annotations

import logging
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.health_watch import HealthWatch, in_words, watch_of
from flows.telemetry import Telemetry
from operators.arrival import Arrived
from operators.decode import Decoded
from operators.health import Alarm
from schemas.dead_letters import DeadLetter
from schemas.health import Health
from schemas.policy import Policy
from schemas.records import RawBatch, RawRecord
from schemas.time import HOUR, MINUTE

T0 = 1_767_225_600_000
LATENESS = MINUTE


def arrived(
    at: int, type_: str = "view", *, age: int = 0, partition: int = 0, **properties: Any
) -> Arrived:
    return Arrived(
        event_id="e",
        profile_id="secret-user",
        type=type_,
        occurred_ms=at - age,
        received_ms=at,
        watermark_ms=at,
        partition=partition,
        content_id="c1",
        placement=None,
        decision_id=None,
        session_id=None,
        value=None,
        context={},
        properties=properties,
        candidates=None,
        slots=None,
        contents=None,
        feedback=None,
        tag=None,
        attributes=None,
        consent=None,
    )


def read(
    watch: HealthWatch,
    events: list[Arrived],
    *,
    dead: int = 0,
    partition: int = 0,
    idle: tuple[tuple[int, int], ...] = (),
    at: int | None = None,
) -> list[Alarm]:
    """One batch, whose last record was appended `at` (absent: a log without a clock of its own)."""
    letters = [
        DeadLetter("t", partition, i, "decode", "not_json", "no", None, b"", ())
        for i in range(dead)
    ]
    records = [] if at is None else [RawRecord(0, at, None, b"")]
    return watch.saw(RawBatch("t", partition, 2, records, idle), Decoded(events, letters, 0, (), 2))


def gauge(telemetry: Telemetry, name: str, **labels: str) -> float | None:
    return telemetry.registry.get_sample_value(f"nextbest_{name}", labels)


def watching(**options: Any) -> tuple[HealthWatch, Telemetry]:
    telemetry = Telemetry()
    health = Health.model_validate(options)
    return HealthWatch(health, telemetry, lateness_ms=LATENESS), telemetry


def test_a_minute_is_shown_when_it_is_over() -> None:
    watch, telemetry = watching()
    events = [arrived(T0 + i * 1_000, age=2 * MINUTE if i < 5 else 500) for i in range(50)]
    read(watch, events, dead=10)
    assert gauge(telemetry, "input_events_per_minute", event_type="view") is None
    read(watch, [arrived(T0 + MINUTE)])
    assert gauge(telemetry, "input_events_per_minute", event_type="view") == 50
    assert gauge(telemetry, "input_dated_old_ratio", event_type="view") == pytest.approx(0.1)
    assert gauge(telemetry, "input_freshness_seconds", event_type="view") == pytest.approx(11.5)
    assert gauge(telemetry, "input_dead_letter_ratio") == pytest.approx(10 / 60)


def test_batches_of_any_size_count_alike() -> None:
    events = [
        arrived(T0 + i * 250, random.Random(i).choice(["view", "click"])) for i in range(2_000)
    ]
    shown = []
    for size in (1, 7, 2_000):
        watch, telemetry = watching()
        for start in range(0, 2_000, size):
            read(watch, events[start : start + size])
        shown.append(
            [
                (s.name, tuple(s.labels.items()), s.value)
                for metric in telemetry.registry.collect()
                for s in metric.samples
                if s.name.startswith("nextbest_input")
            ]
        )
    assert shown[0] == shown[1] == shown[2]
    assert shown[0]


def test_a_busy_type_is_looked_at_in_part_and_counted_in_full() -> None:
    watch, telemetry = watching()
    read(watch, [arrived(T0, age=2 * MINUTE if i % 3 == 0 else 0) for i in range(10_000)])
    read(watch, [arrived(T0 + MINUTE)])
    assert gauge(telemetry, "input_events_per_minute", event_type="view") == 10_000
    old = gauge(telemetry, "input_dated_old_ratio", event_type="view")
    assert old == pytest.approx(1 / 3, abs=0.02)


def test_a_minute_waits_for_the_slower_partition_but_not_for_an_idle_one() -> None:
    watch, telemetry = watching()
    read(watch, [arrived(T0)])
    read(watch, [arrived(T0 + 1, partition=1)], partition=1)
    read(watch, [arrived(T0 + 3 * MINUTE)])
    assert gauge(telemetry, "input_events_per_minute", event_type="view") is None
    read(watch, [arrived(T0 + 2, partition=1)], partition=1)
    read(watch, [], partition=0, idle=((1, T0 + 1 * MINUTE),))
    assert gauge(telemetry, "input_events_per_minute", event_type="view") == 3


def test_a_partition_that_never_comes_back_holds_nothing_up_for_good() -> None:
    watch, telemetry = watching()
    read(watch, [arrived(T0, partition=1)], partition=1)
    for t in range(130):
        read(watch, [arrived(T0 + t * MINUTE)])
    assert gauge(telemetry, "input_events_per_minute", event_type="view") == 1
    assert len(watch._minutes) <= 122


def test_records_that_are_all_refused_still_move_the_clock() -> None:
    watch, telemetry = watching()
    for t in range(5):
        read(watch, [], dead=7, at=T0 + t * MINUTE)
    assert gauge(telemetry, "input_dead_letter_ratio") == 1.0


def test_a_gap_in_the_log_is_no_silence_of_a_tracker() -> None:
    watch, _ = watching()
    told: list[Alarm] = []
    for t in range(600):
        told += read(watch, [arrived(T0 + t * MINUTE)] * 40)
    alarms = read(watch, [arrived(T0 + 600 * MINUTE + 30 * 24 * HOUR)] * 40)
    assert told == []
    assert [(alarm.what, alarm.began) for alarm in alarms] == [("silent", True)]
    assert alarms[0].at_ms < T0 + 620 * MINUTE
    later = read(watch, [arrived(T0 + 700 * MINUTE + 30 * 24 * HOUR)] * 40)
    assert all(alarm.at_ms > T0 + 30 * 24 * HOUR for alarm in later)


def test_an_alarm_is_counted_shown_and_logged_and_names_no_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch, telemetry = watching()
    caplog.set_level(logging.INFO, "nextbest.health")
    for t in range(300):
        lost: dict[str, Any] = {} if t >= 200 else {"price": "secret-value"}
        read(watch, [arrived(T0 + t * MINUTE, sku="secret-value", **lost)] * 40)
    labels = {"event_type": "view", "alarm": "missing_property"}
    assert gauge(telemetry, "input_alarm", **labels) == 1.0
    assert gauge(telemetry, "input_alarms_total", **labels) == 1.0
    assert gauge(telemetry, "input_missing_ratio", event_type="view") == 1.0
    for t in range(300, 340):
        read(watch, [arrived(T0 + t * MINUTE, sku="secret-value", price=1)] * 40)
    assert gauge(telemetry, "input_alarm", **labels) == 0.0
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "view: missing_property price: share 0.000, usually 1.000" in caplog.text
    assert "secret" not in caplog.text
    assert b"secret" not in telemetry.render()


def test_a_lost_content_id_counts_as_a_lost_property() -> None:
    watch, _ = watching()
    told: list[Alarm] = []
    for t in range(300):
        event = arrived(T0 + t * MINUTE)
        told += read(watch, [event if t < 200 else event._replace(content_id=None)] * 40)
    assert [(alarm.what, alarm.subject) for alarm in told] == [
        ("missing_property", "event.content_id")
    ]


def test_names_of_properties_are_bounded_in_a_minute() -> None:
    watch, telemetry = watching()
    for t in range(3):
        events = [arrived(T0 + t * MINUTE, f"t{i % 100}", **{f"p{i}": 1}) for i in range(6_000)]
        read(watch, events)
    assert max(len(minute.shapes) for minute in watch._minutes.values()) <= 4_096 + 100
    assert gauge(telemetry, "input_events_per_minute", event_type="other") == 36 * 60


def test_what_the_policy_names_is_always_watched() -> None:
    policy = Policy.model_validate(
        {
            "name": "p",
            "health": {"types": 1},
            "signals": {
                "views": {"kind": "count", "events": "view", "within": "7d"},
                "taste": {"kind": "affinity", "weights": {"listen": 1.0}},
            },
            "rewards": {"buy": {"events": "purchase", "value": 1.0, "within": "1h"}},
            "placements": {"home": {"triggers": ["open"]}},
        }
    )
    telemetry = Telemetry()
    watch = watch_of(policy, telemetry)
    names = ["noise", "view", "listen", "purchase", "open", "more"]
    read(watch, [arrived(T0, name) for name in names])
    read(watch, [arrived(T0 + MINUTE)])
    for name in ("noise", "view", "listen", "purchase", "open", "other"):
        assert gauge(telemetry, "input_events_per_minute", event_type=name) == 1


@given(
    st.lists(
        st.tuples(st.integers(0, 3 * 24 * 60), st.integers(0, 2), st.integers(0, 3)), max_size=60
    )
)
def test_any_order_of_partitions_and_clocks_is_survived(
    seen: list[tuple[int, int, int]],
) -> None:
    watch, _ = watching()
    for minute, partition, dead in seen:
        at = T0 + minute * MINUTE
        event = arrived(at, partition=partition)
        read(watch, [event], dead=dead, partition=partition, idle=((5, at),))
    assert len(watch._minutes) <= 122


@pytest.mark.parametrize(
    ("alarm", "text"),
    [
        (
            Alarm("view", "rate_up", True, 10.0, 25.5, T0),
            "input: view: rate_up: 25.5 a minute, expected 10, at 2026-01-01T00:00:00.000Z",
        ),
        (
            Alarm("all", "dead_letters", True, 0.001, 0.25, T0),
            "input: all: dead_letters: share 0.250, usually 0.001, at 2026-01-01T00:00:00.000Z",
        ),
        (
            Alarm("view", "new_property", True, 0.0, 1.0, T0, "colour"),
            "input: view: new_property colour: never seen before, at 2026-01-01T00:00:00.000Z",
        ),
        (
            Alarm("view", "silent", False, 10.0, 9.0, T0),
            "input: view: silent: over, at 2026-01-01T00:00:00.000Z",
        ),
    ],
)
def test_an_alarm_in_words(alarm: Alarm, text: str) -> None:
    assert in_words(alarm) == text
