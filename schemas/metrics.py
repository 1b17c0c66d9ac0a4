"""Every metric's name, type, meaning and labels: the one place where a metric is declared.

Names are members of a `Literal` per type, so a misspelt name is a type error; on the wire each
carries the prefix `nextbest_`. A label never holds anything about a person, nor a content id: the
number of series is bounded by the policy, the topics and the closed sets named here.
`docs/operations.md` lists them all and a test fails when it does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

PREFIX: Final = "nextbest_"

Kind = Literal["counter", "gauge", "histogram"]

CounterName = Literal[
    "events_read_total",
    "events_total",
    "dead_letters_total",
    "unknown_fields_total",
    "decisions_total",
    "adopted_decisions_total",
    "impressions_total",
    "rewards_total",
    "reward_value_total",
    "outcomes_unattributed_total",
    "segment_changes_total",
    "examples_learned_total",
    "parameters_published_total",
    "redis_writes_total",
    "redis_errors_total",
    "profiles_shrunk_total",
    "profile_gave_up_total",
    "profiles_dropped_total",
    "identity_total",
    "prediction_cases_total",
    "prediction_drifts_total",
    "threshold_changes_total",
    "input_unknown_properties_total",
    "input_alarms_total",
    "monitored_reports_total",
    "monitored_drifts_total",
    "monitored_shifts_total",
    "monitored_unfair_total",
    "versions_total",
]
GaugeName = Literal[
    "prediction_roc_auc",
    "prediction_pr_auc",
    "prediction_log_loss",
    "prediction_mean_absolute_error",
    "prediction_calibration_error",
    "prediction_mean_predicted",
    "prediction_mean_observed",
    "prediction_tests",
    "monitored_fallback_ratio",
    "monitored_reward_per_decision",
    "monitored_reward_per_impression",
    "monitored_reward_ratio",
    "monitored_exploration_ratio",
    "monitored_exploration_cost",
    "monitored_coverage_ratio",
    "monitored_gini",
    "monitored_effective_contents",
    "monitored_repetition_ratio",
    "monitored_shift",
    "monitored_roc_auc",
    "monitored_log_loss",
    "monitored_calibration_error",
    "monitored_tests",
    "monitored_fatigue_ratio",
    "monitored_group_gap",
    "input_events_per_minute",
    "input_expected_events_per_minute",
    "input_freshness_seconds",
    "input_missing_ratio",
    "input_dated_old_ratio",
    "input_dead_letter_ratio",
    "input_alarm",
    "parameters_age_seconds",
    "parameters_confirmed_age_seconds",
    "kafka_consumer_lag_records",
    "watermark_lag_seconds",
    "source_idle_seconds",
    "last_snapshot_timestamp_seconds",
    "start_timestamp_seconds",
    "state_profiles",
    "state_bytes",
    "redis_backlog",
    "versions_confirmed_age_seconds",
    "versions_refused",
    "build_info",
]
HistogramName = Literal[
    "decide_seconds",
    "end_to_end_latency_seconds",
    "snapshot_duration_seconds",
]
MetricName = CounterName | GaugeName | HistogramName

Arm = Literal["personalised", "holdout"]
EventOutcome = Literal["used", "suppressed", "duplicate", "late", "dead_letter"]
RedisError = Literal[
    "connection", "auth", "response", "wrong_type", "stale_parameters", "damaged_parameters"
]
"""connection: unreachable or too slow; auth: refused the login; response: any other refusal."""
RedisResult = Literal["written", "same", "stale", "dropped"]
"""same: this version was there already; stale: a newer one was; dropped: the backlog was full."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric: `name` without the prefix; `buckets` are upper bounds in the metric's unit."""

    name: MetricName
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def full_name(self) -> str:
        """The name that a scrape and a query show."""
        return PREFIX + self.name


def _counter(name: CounterName, text: str, *labels: str) -> Metric:
    return Metric(name=name, kind="counter", help=text, labels=labels)


def _gauge(name: GaugeName, text: str, *labels: str) -> Metric:
    return Metric(name=name, kind="gauge", help=text, labels=labels)


def _histogram(name: HistogramName, text: str, *buckets: float) -> Metric:
    return Metric(name=name, kind="histogram", help=text, buckets=buckets)


_ALL: Final = (
    _counter("events_read_total", "Records read from the source.", "topic", "partition"),
    _counter(
        "events_total",
        "Events by what became of them; the outcomes sum to the events read.",
        "outcome",
    ),
    _counter("dead_letters_total", "Records refused, by stage and reason.", "stage", "code"),
    _counter("unknown_fields_total", "Event fields that the contract does not know (kept)."),
    _counter(
        "decisions_total",
        "Decisions made; fallback is none or the reason, explored is true or false.",
        "placement",
        "fallback",
        "explored",
        "arm",
    ),
    _counter(
        "adopted_decisions_total", "Recorded decisions taken over after a resume, not made again."
    ),
    _counter("impressions_total", "Shown items, as attributed.", "placement", "arm"),
    _counter("rewards_total", "Rewards attributed to a decision.", "placement", "kind", "arm"),
    _counter(
        "reward_value_total",
        "Size of the rewards attributed; sign is gain or loss, since a counter only grows.",
        "placement",
        "kind",
        "arm",
        "sign",
    ),
    _counter("outcomes_unattributed_total", "Outcomes that match no open decision."),
    _counter(
        "segment_changes_total",
        "Profiles that entered or left a segment.",
        "segment",
        "direction",
    ),
    _counter(
        "examples_learned_total",
        "Examples learned; label is positive or negative.",
        "model",
        "label",
    ),
    _counter("parameters_published_total", "Parameter sets published.", "model"),
    _counter(
        "redis_writes_total",
        "Serving writes by result: written, same, stale or dropped.",
        "result",
    ),
    _counter("redis_errors_total", "Refused or failed Redis operations, by reason.", "reason"),
    _counter(
        "profiles_shrunk_total", "Profiles that gave up detail to stay within their byte budget."
    ),
    _counter(
        "profile_gave_up_total",
        "Kinds of detail given up for the byte budget, in the documented order.",
        "step",
    ),
    _counter("profiles_dropped_total", "Profiles erased, or idle beyond their TTL."),
    _counter(
        "identity_total",
        "What became of links, histories and probable duplicates.",
        "outcome",
    ),
    _counter("prediction_cases_total", "Labelled cases learned.", "prediction"),
    _counter("prediction_drifts_total", "Times that a prediction's error grew.", "prediction"),
    _counter("threshold_changes_total", "Thresholds that followed feedback.", "segment"),
    _counter(
        "input_unknown_properties_total",
        "Events with a property never seen before on their type.",
        "event_type",
    ),
    _counter("input_alarms_total", "Sudden changes of the input.", "event_type", "alarm"),
    _counter("monitored_reports_total", "Reports on a placement's decisions.", "placement"),
    _counter(
        "monitored_drifts_total",
        "Times that a placement's reward changed, or its model's error grew.",
        "placement",
        "of",
    ),
    _counter("monitored_shifts_total", "Times that what is shown moved suddenly.", "placement"),
    _counter(
        "monitored_unfair_total",
        "Reports in which groups differ beyond chance; of is exposure or reward.",
        "placement",
        "group",
        "of",
    ),
    _counter(
        "versions_total",
        "Publications by what became of them: adopted, refused, restart.",
        "outcome",
    ),
    _gauge("prediction_roc_auc", "Area under the ROC curve, of the newest tests.", "prediction"),
    _gauge("prediction_pr_auc", "Area under the precision-recall curve.", "prediction"),
    _gauge("prediction_log_loss", "Log loss of the newest tests.", "prediction"),
    _gauge(
        "prediction_mean_absolute_error", "Mean absolute error of the newest tests.", "prediction"
    ),
    _gauge("prediction_calibration_error", "Expected calibration error.", "prediction"),
    _gauge("prediction_mean_predicted", "Mean of what was predicted.", "prediction"),
    _gauge("prediction_mean_observed", "Mean of what came true.", "prediction"),
    _gauge("prediction_tests", "Tests that the figures of a prediction are of.", "prediction"),
    _gauge("monitored_fallback_ratio", "Share of decisions not personalised.", "placement"),
    _gauge("monitored_reward_per_decision", "Mean reward of a seen decision.", "placement"),
    _gauge("monitored_reward_per_impression", "Mean reward of a shown item.", "placement"),
    _gauge("monitored_reward_ratio", "Share of shown items with a reward.", "placement", "kind"),
    _gauge(
        "monitored_exploration_ratio",
        "Share of items drawn by a model that were not its best.",
        "placement",
    ),
    _gauge(
        "monitored_exploration_cost", "Reward per shown item that exploring costs.", "placement"
    ),
    _gauge("monitored_coverage_ratio", "Share of the pool that was decided on.", "placement"),
    _gauge("monitored_gini", "How unevenly the pool is decided on.", "placement"),
    _gauge(
        "monitored_effective_contents",
        "As varied as so many contents shown equally often.",
        "placement",
    ),
    _gauge(
        "monitored_repetition_ratio",
        "Share of items that the profile's decision before had too.",
        "placement",
    ),
    _gauge("monitored_shift", "How far what is shown moved since the report before.", "placement"),
    _gauge("monitored_roc_auc", "Area under the ROC curve of scores at decision.", "placement"),
    _gauge("monitored_log_loss", "Log loss of probabilities at decision.", "placement"),
    _gauge("monitored_calibration_error", "Expected calibration error of them.", "placement"),
    _gauge("monitored_tests", "Tests that a model's figures are of.", "placement"),
    _gauge(
        "monitored_fatigue_ratio",
        "Share rewarded at a profile's nth impression of a content.",
        "placement",
        "nth",
    ),
    _gauge(
        "monitored_group_gap",
        "Largest difference between groups; of is exposure or reward.",
        "placement",
        "group",
        "of",
    ),
    _gauge("input_events_per_minute", "Events of a type in the log's last minute.", "event_type"),
    _gauge(
        "input_expected_events_per_minute", "Events of a type that were expected.", "event_type"
    ),
    _gauge("input_freshness_seconds", "Clock minus the newest event of a type.", "event_type"),
    _gauge(
        "input_missing_ratio",
        "Share of events that lack a property they usually bear.",
        "event_type",
    ),
    _gauge("input_dated_old_ratio", "Share dated beyond the allowed lateness.", "event_type"),
    _gauge("input_dead_letter_ratio", "Share of records that became dead letters."),
    _gauge("input_alarm", "1 while something is wrong with the input.", "event_type", "alarm"),
    _gauge("parameters_age_seconds", "Time since the parameter set in use arrived.", "model"),
    _gauge(
        "parameters_confirmed_age_seconds",
        "Time since Redis last confirmed that the parameter sets in use are the newest.",
    ),
    _gauge(
        "kafka_consumer_lag_records", "Records not yet read of a partition.", "topic", "partition"
    ),
    _gauge("watermark_lag_seconds", "Clock minus the lowest watermark of this process."),
    _gauge("source_idle_seconds", "Time since the source last brought a record."),
    _gauge("last_snapshot_timestamp_seconds", "When the last snapshot was completed (Unix time)."),
    _gauge("start_timestamp_seconds", "When this process started (Unix time)."),
    _gauge("state_profiles", "Profiles held in state by this process."),
    _gauge("state_bytes", "Encoded size of the state held by this process."),
    _gauge("redis_backlog", "Serving writes waiting for Redis."),
    _gauge(
        "versions_confirmed_age_seconds",
        "Time since Kafka last confirmed that no newer publication exists.",
    ),
    _gauge("versions_refused", "1 while the newest publication is not in force."),
    _gauge("build_info", "Always 1; what is running.", "version", "policy", "policy_digest"),
    _histogram(
        "decide_seconds",
        "Time in DECIDE per event, one observation per activation.",
        *(0.000_005, 0.000_01, 0.000_02, 0.000_04, 0.000_08, 0.000_16),
        *(0.000_32, 0.000_64, 0.001_25, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1),
    ),
    _histogram(
        "end_to_end_latency_seconds",
        "From the broker's append time of the trigger to the acknowledgement of the decision.",
        *(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60),
    ),
    _histogram(
        "snapshot_duration_seconds",
        "How long a snapshot held up the flow.",
        *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    ),
)

METRICS: Final[dict[MetricName, Metric]] = {metric.name: metric for metric in _ALL}
"""Every metric by its name without the prefix."""
