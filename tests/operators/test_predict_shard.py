"""Do cases live through a shard: policy, consent, reset, erasure, timers and snapshots?"""

from __future__ import annotations

from typing import Any

import numpy as np

from operators.ids import hash32
from operators.outputs import Labelled
from operators.parameters import LocalParameters
from operators.plan import Plan
from operators.prediction_learner import PredictionLearner
from operators.profile import Profile
from operators.shard import Shard, ShardBatch
from schemas.time import DAY, HOUR
from tests.operators.builders import T0, plan, policy, shard_batch, tick
from tests.operators.decision_builders import deciding
from tests.operators.prediction_builders import BUYS, VIEWS, labelled_stream, seen

LAPSED: dict[str, Any] = {"lapsed": {"when": {"not_done": "view", "within": "10d"}}}


def _plan(**sections: Any) -> Plan:
    return plan(
        policy(
            signals=VIEWS,
            predictions={"buys": {**BUYS, "every": "1d"}},
            **sections,
        )
    )


def _shard(of: Plan, parameters: LocalParameters | None = None) -> Shard:
    return Shard(0, 1, deciding(of, parameters=parameters or LocalParameters()))


def _run(shard: Shard, *batches: ShardBatch) -> list[Labelled]:
    return [case for batch in batches for case in shard.process(batch).labelled]


def test_cases_are_taken_settled_and_closed() -> None:
    shard = _shard(_plan())
    labelled = _run(
        shard,
        shard_batch([seen(at=T0)]),
        shard_batch([seen("purchase", at=T0 + 30 * HOUR)]),
        tick(T0 + 40 * DAY),
    )
    assert [(c.at_ms, c.label) for c in labelled[:2]] == [(T0, 1.0), (T0 + DAY, 1.0)]
    assert {c.label for c in labelled[2:]} == {0.0}
    assert [(c.at_ms - T0) // HOUR for c in labelled[2:]] == [48, 72, 114, 198, 366, 702]


def test_a_watermark_that_leaps_shows_no_case_what_came_after_it() -> None:
    of = _plan(segments=LAPSED)
    lapsed = hash32("segment=lapsed")
    creeping, leaping = _shard(of), _shard(of)
    first = shard_batch([seen(at=T0)])
    crept = _run(creeping, first, *(tick(T0 + hour * HOUR) for hour in range(40 * 24 + 1)))
    leapt = _run(leaping, first, tick(T0 + 40 * DAY))
    assert leapt == crept
    days = {
        (case.at_ms - T0) // DAY: lapsed in np.frombuffer(case.features, "<u4") for case in leapt
    }
    assert days == {0: False, 1: False, 2: False, 4: False, 8: False, 16: True, 32: True}


def test_a_snapshot_in_between_changes_nothing() -> None:
    of = _plan(segments=LAPSED)
    events = [
        seen(
            "purchase" if hour % 140 == 0 else "view",
            at=T0 + hour * HOUR,
            profile_id=f"u{hour % 3}",
        )
        for hour in range(0, 400, 7)
    ]
    whole = _run(_shard(of), *(shard_batch([event]) for event in events), tick(T0 + 60 * DAY))
    shard, found = _shard(of), []
    for event in events:
        found += _run(shard, shard_batch([event]))
        again = _shard(of)
        again.restore(shard.snapshot())
        shard = again
    found += _run(shard, tick(T0 + 60 * DAY))
    assert found == whole
    assert {case.label for case in whole} == {0.0, 1.0}


def _open(shard: Shard) -> int:
    profile = shard.look("u1")
    assert isinstance(profile, Profile)
    return len(profile.cases)


def test_a_withdrawal_drops_what_is_open_and_teaches_nothing() -> None:
    of = _plan(consent={"learn": "science", "before_known": "granted"})
    shard = _shard(of)
    assert _run(shard, shard_batch([seen(at=T0)])) == []
    assert _open(shard) > 0
    withdrawn = seen("consent_changed", at=T0 + HOUR, consent={"science": False})
    assert _run(shard, shard_batch([withdrawn])) == []
    assert _open(shard) == 0
    assert _run(shard, shard_batch([seen("purchase", at=T0 + DAY)]), tick(T0 + 90 * DAY)) == []


def test_nothing_is_learned_before_consent_where_it_must_be_known() -> None:
    shard = _shard(_plan(consent={"learn": "science"}))
    assert _run(shard, shard_batch([seen(at=T0), seen("purchase", at=T0 + DAY)])) == []
    assert _open(shard) == 0


def test_a_taste_reset_and_an_erasure_drop_what_is_open() -> None:
    for control in ("taste_reset", "erasure_requested"):
        shard = _shard(_plan())
        _run(shard, shard_batch([seen(at=T0)]))
        assert _run(shard, shard_batch([seen(control, at=T0 + HOUR)])) == []
        assert [c.label for c in _run(shard, tick(T0 + 60 * DAY))] == []


def test_what_was_published_is_predicted_in_conditions_and_logged_with_cases() -> None:
    of = _plan(
        segments={
            "likely": {"when": {"prediction": "buys", "at_least": 0.0001}},
            "unlikely": {"when": {"prediction": "buys", "below": 0.0001}},
        }
    )
    parameters = LocalParameters()
    shard = _shard(of, parameters)
    before = shard.process(shard_batch([seen(at=T0)]))
    assert before.changes == []  # nothing learned yet: unknown is in neither
    learner = PredictionLearner("buys", of.policy, incarnation="life1")
    published, _ = learner.learn(labelled_stream(1, 300))
    assert published is not None
    parameters.publish(published)
    shard.decide.refresh()
    after = shard.process(shard_batch([seen(at=T0 + 25 * HOUR)]))
    assert [change["segment"] for change in after.changes] == ["likely"]
    [case] = [c for c in _cases(shard) if c.features and c.at_ms > T0]
    assert 0 < case.predicted < 1


def _cases(shard: Shard) -> list[Any]:
    profile = shard.look("u1")
    assert profile is not None
    return profile.cases
