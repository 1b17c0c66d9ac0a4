"""Do metrics, probes and their documentation say what is, and only that?"""

import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from flows import errors
from flows.errors import ConnectorError, NextbestError
from flows.telemetry import Health, NoTelemetry, Telemetry, TelemetryServer
from schemas.metrics import METRICS, CounterName, GaugeName, HistogramName, Metric

OPERATIONS = (Path(__file__).parents[1] / "docs" / "operations.md").read_text()


class Clock:
    """A monotonic clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(clock, snapshot_every_s=10.0, waits_for=("partitions assigned",))


@pytest.fixture
def server(health: Health) -> Iterator[TelemetryServer]:
    server = TelemetryServer(Telemetry(), health, host="127.0.0.1", port=0)
    yield server
    server.close()


def get(server: TelemetryServer, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=10) as page:
            return page.status, page.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


# The registry of names


@pytest.mark.parametrize(
    "kind, names", [("counter", CounterName), ("gauge", GaugeName), ("histogram", HistogramName)]
)
def test_every_name_of_a_kind_is_declared_once_with_that_kind(kind: str, names: object) -> None:
    assert [m.name for m in METRICS.values() if m.kind == kind] == list(get_args(names))


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)
def test_a_metric_is_named_as_prometheus_advises(metric: Metric) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]*", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert metric.help.endswith(".") or metric.help.endswith(").")
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert list(metric.buckets) == sorted(set(metric.buckets))


def test_no_label_can_hold_a_person_or_an_unbounded_set() -> None:
    forbidden = {"user", "user_id", "profile", "profile_id", "content_id", "event_id", "tag", "key"}
    assert forbidden.isdisjoint({label for metric in METRICS.values() for label in metric.labels})


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)
def test_the_operations_page_lists_every_metric_with_its_labels(metric: Metric) -> None:
    row = next(
        (r for r in OPERATIONS.splitlines() if r.startswith(f"| `{metric.full_name}` |")), ""
    )
    _, _, kind, labels, meaning, _ = row.split("|") if row else [""] * 6
    assert kind.strip() == metric.kind
    assert tuple(re.findall(r"`(\w+)`", labels)) == metric.labels
    assert meaning.strip() == metric.help


def test_the_operations_page_lists_no_metric_that_is_gone() -> None:
    listed = set(re.findall(r"^\| `(nextbest_\w+)` \|", OPERATIONS, flags=re.MULTILINE))
    assert listed == {metric.full_name for metric in METRICS.values()}


def test_the_operations_page_lists_every_exit_code() -> None:
    codes = {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, NextbestError)
    }
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", OPERATIONS, flags=re.MULTILINE)}
    assert listed == codes | {0, 2}


# Counting


def test_counts_add_up_and_gauges_are_set() -> None:
    telemetry = Telemetry()
    telemetry.count("events_total", 3, outcome="used")
    telemetry.count("events_total", outcome="used")
    telemetry.set("state_profiles", 7)
    telemetry.observe("decide_seconds", 0.000_03)
    telemetry.watch("redis_backlog", lambda: 42.0)
    text = telemetry.render().decode()
    assert 'nextbest_events_total{outcome="used"} 4.0' in text
    assert "nextbest_state_profiles 7.0" in text
    assert 'nextbest_decide_seconds_bucket{le="2e-05"} 0.0' in text
    assert 'nextbest_decide_seconds_bucket{le="4e-05"} 1.0' in text
    assert "nextbest_redis_backlog 42.0" in text


def test_the_order_of_labels_does_not_matter() -> None:
    telemetry = Telemetry()
    telemetry.count("dead_letters_total", stage="decode", code="not_json")
    telemetry.count("dead_letters_total", code="not_json", stage="decode")
    assert 'dead_letters_total{code="not_json",stage="decode"} 2.0' in telemetry.render().decode()


def test_losses_are_counted_apart_because_a_counter_only_grows() -> None:
    telemetry = Telemetry()
    for value in (2.0, -0.5):
        telemetry.count_signed(
            "reward_value_total", value, placement="home", kind="click", arm="holdout"
        )
    labels = {"placement": "home", "kind": "click", "arm": "holdout"}
    read = telemetry.registry.get_sample_value
    assert read("nextbest_reward_value_total", {**labels, "sign": "gain"}) == 2.0
    assert read("nextbest_reward_value_total", {**labels, "sign": "loss"}) == 0.5


@pytest.mark.parametrize("labels", [{}, {"user_id": "u1"}, {"outcome": "used", "user_id": "u1"}])
def test_labels_that_the_metric_does_not_declare_are_refused(labels: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="events_total"):
        Telemetry().count("events_total", 1, **labels)


def test_two_telemetries_do_not_share_counts() -> None:
    first, second = Telemetry(), Telemetry()
    first.count("unknown_fields_total")
    assert second.registry.get_sample_value("nextbest_unknown_fields_total") == 0.0


def test_no_telemetry_counts_nothing() -> None:
    telemetry = NoTelemetry()
    telemetry.count("unknown_fields_total")
    telemetry.set("state_profiles", 5)
    telemetry.watch("redis_backlog", lambda: 5.0)
    telemetry.observe("decide_seconds", 1.0)
    read = telemetry.registry.get_sample_value
    names = ("unknown_fields_total", "state_profiles", "redis_backlog", "decide_seconds_count")
    assert [read(f"nextbest_{name}") for name in names] == [0.0] * 4


# Health


def test_a_process_that_is_still_resuming_is_alive_but_neither_started_nor_ready(
    health: Health, clock: Clock
) -> None:
    clock.now += 600
    assert health.trouble_alive() is None
    assert not health.started
    assert health.trouble_ready() is not None


def test_a_loop_that_stands_still_for_more_than_30_seconds_is_not_alive(
    health: Health, clock: Clock
) -> None:
    health.tick()
    clock.now += 30.0
    assert health.trouble_alive() is None
    clock.now += 1.0
    assert health.trouble_alive() == "the loop has not turned for 31 s"
    health.tick()
    assert health.trouble_alive() is None


def test_ready_means_every_step_of_start_is_done(health: Health) -> None:
    health.tick()
    assert health.trouble_ready() == "waiting for: partitions assigned"
    health.done("partitions assigned")
    health.done("partitions assigned")
    assert health.trouble_ready() is None


def test_a_snapshot_older_than_three_intervals_ends_readiness_until_the_next(
    health: Health, clock: Clock
) -> None:
    health.done("partitions assigned")
    for _ in range(30):
        health.tick()
        clock.now += 1.0
    assert health.trouble_ready() is None
    clock.now += 1.0
    health.tick()
    assert health.trouble_ready() == "the last snapshot is 31 s old, expected every 10.0 s"
    health.snapshot_done()
    assert health.trouble_ready() is None


def test_without_recovery_snapshots_do_not_count(clock: Clock) -> None:
    health = Health(clock, snapshot_every_s=None, waits_for=())
    health.tick()
    clock.now += 10_000
    health.tick()
    assert health.trouble_ready() is None


# The server


def test_the_probes_answer_as_the_health_says(
    server: TelemetryServer, health: Health, clock: Clock
) -> None:
    assert [get(server, path)[0] for path in ("/startupz", "/livez", "/readyz")] == [503, 200, 503]
    health.tick()
    health.done("partitions assigned")
    assert [get(server, path)[0] for path in ("/startupz", "/livez", "/readyz")] == [200, 200, 200]
    clock.now += 31
    assert get(server, "/livez") == (503, "the loop has not turned for 31 s\n")


def test_a_scrape_and_an_unknown_page(server: TelemetryServer) -> None:
    code, text = get(server, "/metrics")
    assert code == 200
    assert "# TYPE nextbest_events_total counter" in text
    assert "process_cpu_seconds_total" in text
    assert get(server, "/other")[0] == 404


def test_a_port_that_is_taken_is_named(health: Health) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConnectorError, match=f"127.0.0.1:{port}"):
            TelemetryServer(Telemetry(), health, host="127.0.0.1", port=port)


def test_a_closed_server_gives_its_port_back(health: Health) -> None:
    first = TelemetryServer(Telemetry(), health, host="127.0.0.1", port=0)
    first.close()
    second = TelemetryServer(Telemetry(), health, host="127.0.0.1", port=first.port)
    assert get(second, "/livez")[0] == 200
    second.close()
