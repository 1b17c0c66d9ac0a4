"""What is told of one placement's period, in the shape of `schemas.monitoring`?"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from operators.monitor_figures import (
    Interval,
    effective,
    gap_of,
    gini,
    moved,
    ratio,
    z_of_all,
)
from operators.monitor_tests import Drift, ScoreTests
from operators.monitor_watch import PERSONALISED
from operators.monitor_window import MANY, OTHER, GroupCount, Window, monitoring_of, value_of
from operators.outputs import Record
from operators.plan import Plan
from schemas.decisions import SCHEMA_VERSION
from schemas.guidance import Group
from schemas.time import rfc3339

_TOLD: Final = 32
"""Values of one group that a report names; the others are one."""
_LEAST: Final = 20
"""Decisions without which a group of profiles is not named: it might be one person."""
_MOVED: Final = 5
_FATIGUE: Final = ("1", "2", "3", "4-5", MANY)


class Pool(NamedTuple):
    """What may appear in a placement, and by group which share of it each value has."""

    contents: list[str]
    shares: dict[str, dict[str, float]]


def pool_of(plan: Plan, placement: str) -> Pool:
    """The pool of a placement; for as long as the plan is in force it is the same."""
    ids = plan.contents.ids
    pool = [ids[i] for i in plan.placements[placement].pool]
    groups = monitoring_of(plan).groups
    return Pool(pool, {name: _pool_shares(group, plan, pool) for name, group in groups.items()})


def report(
    window: Window,
    *,
    plan: Plan,
    placement: str,
    pool: Pool,
    before: dict[str, int],
    tests: ScoreTests,
    drift: Drift,
    drifts: int,
) -> Record:
    """The report of a period; `before` counts the items decided on in the one before."""
    personal = window.answers.get(PERSONALISED, 0)
    return {
        "report_id": f"{placement}@{window.begins_ms}",
        "placement": placement,
        "begins_at": rfc3339(window.begins_ms),
        "ends_at": rfc3339(window.ends_ms),
        "decisions": window.decisions,
        "answers": dict(sorted(window.answers.items())),
        "fallback": ratio(window.decisions - personal, window.decisions),
        "candidates": window.candidates / window.decisions if window.decisions else None,
        "exploration": _exploration(window),
        "shown": _shown(window, plan, pool.contents, before),
        "outcomes": _outcomes(window),
        "model": _model(window, tests, drift, drifts),
        "fatigue": _fatigue(window),
        "fairness": [
            _group(name, group, window, pool.shares[name])
            for name, group in monitoring_of(plan).groups.items()
        ],
        "policy_digest": plan.policy_digest,
        "catalogue_version": plan.catalogue_version,
        "schema_version": SCHEMA_VERSION,
    }


def _exploration(window: Window) -> Record:
    explored = window.draws.get("explored", 0)
    drawn = explored + window.draws.get("greedy", 0)
    return {
        "drawn": drawn,
        "explored": explored,
        "undirected": window.draws.get("undirected", 0),
        "given": window.draws.get("given", 0),
        "share": ratio(explored, drawn),
        "cost": window.cost.per_impression(),
    }


def _shown(window: Window, plan: Plan, pool: list[str], before: dict[str, int]) -> Record:
    contents = window.contents
    of_pool = [contents[name] for name in pool if name in contents]
    shift = moved(before, contents)
    limit = monitoring_of(plan).shift_above
    return {
        "items": sum(contents.values()),
        "contents": len(contents),
        "pool": len(pool),
        "coverage": len(of_pool) / len(pool) if pool and contents else None,
        "gini": gini(of_pool, len(pool)),
        "effective_contents": effective(contents.values()),
        "repetition": ratio(window.repeated, window.repeatable),
        "shift": None if shift is None else shift.distance,
        "sudden": shift is not None and shift.certain and shift.distance > limit,
        "moved": _most_moved(before, contents) if shift is not None else [],
    }


def _most_moved(before: dict[str, int], after: dict[str, int]) -> list[Record]:
    m, n = sum(before.values()), sum(after.values())
    shares = [(c, before.get(c, 0) / m, after.get(c, 0) / n) for c in before.keys() | after.keys()]
    shares.sort(key=lambda one: (-abs(one[2] - one[1]), one[0]))
    return [
        {"content_id": content, "before": was, "after": is_}
        for content, was, is_ in shares[:_MOVED]
        if was != is_
    ]


def _outcomes(window: Window) -> Record:
    impressions = window.item_rewards.count
    return {
        "books": window.books,
        "seen": window.rewards.count,
        "impressions": impressions,
        "reward_per_decision": window.rewards.mean(),
        "reward_per_impression": window.item_rewards.mean(),
        "kinds": [
            {
                "kind": kind,
                "rewarded": sums.count,
                "rate": ratio(min(sums.count, impressions), impressions),
                "value_per_impression": sums.mean(max(sums.count, impressions)),
            }
            for kind, sums in sorted(window.kinds.items())
        ],
        "arms": [
            {"arm": arm, "decisions": sums.count, "reward_per_decision": sums.mean()}
            for arm, sums in sorted(window.arms.items())
        ],
    }


def _model(window: Window, tests: ScoreTests, drift: Drift, drifts: int) -> Record:
    quality = tests.quality()
    return {
        "tests": quality["tests"],
        "roc_auc": quality["roc_auc"],
        "log_loss": quality["log_loss"],
        "calibration_error": quality["calibration_error"],
        "mean_predicted": quality["mean_predicted"],
        "mean_observed": quality["mean_observed"],
        "reliability": quality["reliability"],
        "expected_reward": window.predicted.mean(),
        "actual_reward": window.observed.mean(),
        "reward_drift": {0: None, 1: "rose", -1: "fell"}[drift.reward],
        "loss_drift": drift.loss,
        "drifts": drifts,
    }


def _fatigue(window: Window) -> list[Record]:
    return [
        {"nth": nth, "impressions": found[0], "rate": ratio(found[1], found[0])}
        for nth in _FATIGUE
        if (found := window.fatigue.get(nth)) is not None
    ]


def _group(name: str, group: Group, window: Window, pool: dict[str, float]) -> Record:
    counts = _told(window.groups.get(name, {}), least=_LEAST if group.of == "profile" else 1)
    named = [value for value, _ in counts if value != OTHER]
    z = z_of_all(len(named))
    items = sum(window.contents.values())
    exposures: dict[str, Interval | None] = {}
    rewards: dict[str, Interval | None] = {}
    values: list[Any] = []
    for value, count in counts:
        of_profiles = group.of == "profile"
        exposure = ratio(count.exposed, count.chosen if of_profiles else items, z)
        reward = ratio(count.rewarded, count.seen, z)
        if value != OTHER:
            exposures[value] = exposure if of_profiles else _relative(exposure, pool.get(value))
            rewards[value] = reward
        values.append(
            {
                "value": value,
                "decided": count.chosen,
                "seen": count.seen,
                "exposure": exposure,
                "of_pool": pool.get(value),
                "reward_rate": reward,
            }
        )
    return {
        "group": name,
        "of": group.of,
        "attribute": group.attribute,
        "values": values,
        "exposure_gap": gap_of(exposures),
        "reward_gap": gap_of(rewards),
    }


def _told(counts: dict[str, GroupCount], *, least: int) -> list[tuple[str, GroupCount]]:
    """The values that a report names, by name, and all others together."""
    # Of books alone there is no decision in the period: then the seen ones count.
    large = [v for v, c in counts.items() if v != OTHER and max(c.chosen, c.seen) >= least]
    large.sort(key=lambda value: (-counts[value].chosen, -counts[value].seen, value))
    named = set(large[:_TOLD])
    others = GroupCount()
    for value, count in counts.items():
        if value not in named:
            others.take(count)
    told = sorted((value, counts[value]) for value in named)
    return [*told, (OTHER, others)] if others != GroupCount() else told


def _pool_shares(group: Group, plan: Plan, pool: list[str]) -> dict[str, float]:
    """Which share of the placement's pool each value of a group of contents has."""
    if group.of == "profile":
        return {}
    counts: dict[str, int] = {}
    for content_id in pool:
        value = value_of(plan.contents.by_id[content_id].attributes, group)
        if value is not None:
            counts[value] = counts.get(value, 0) + 1
    return {value: count / len(pool) for value, count in counts.items()}


def _relative(exposure: Interval | None, of_pool: float | None) -> Interval | None:
    """Exposure in proportion to how much there is to show: 1 is as often as by chance."""
    if exposure is None or not of_pool:
        return None
    low, high = exposure["low"], exposure["high"]
    assert low is not None
    assert high is not None  # a share always has both
    return Interval(estimate=exposure["estimate"] / of_pool, low=low / of_pool, high=high / of_pool)
