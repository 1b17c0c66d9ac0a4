"""Is what is watched of a decision what its record and its books say, and nothing of a person?"""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from operators.monitor_watch import Closed, closed, decided, group_value
from operators.outputs import Record
from operators.plan import Plan
from operators.profile import Pending, PendingItem
from schemas.time import HOUR, MINUTE, rfc3339
from tests.operators.builders import T0, content, placement_policy, plan


def _record(*items: Record, **fields: Any) -> Record:
    default: Record = {
        "decision_id": "000-1",
        "profile_id": "u1",
        "placement": "home",
        "decided_at": rfc3339(T0),
        "items": list(items),
        "candidates": 7,
        "experiment": None,
        "explored": False,
        "learnable": True,
        "fallback": None,
        "model_version": "home@1",
    }
    return {**default, **fields}


def _item(content_id: str = "c1", *, code: str = "best", **fields: Any) -> Record:
    default: Record = {
        "content_id": content_id,
        "rank": 1,
        "score": 0.2,
        "propensity": 0.5,
        "source": "model",
        "learnable": True,
        "reasons": [{"code": code, "text": ""}],
    }
    return {**default, **fields}


def _draw(record: Record, **fields: Any) -> str:
    return decided(record, {}, at_ms=T0, **fields).items[0].draw


def test_only_what_a_models_scores_were_drawn_by_is_greedy_or_explored() -> None:
    assert _draw(_record(_item())) == "greedy"
    assert _draw(_record(_item(code="explored"))) == "explored"
    assert _draw(_record(_item()), explored={"c1"}) == "explored"
    assert _draw(_record(_item(code="explored")), explored=()) == "greedy"


@pytest.mark.parametrize(
    "record",
    [
        _record(_item(score=None), model_version=None),
        _record(_item(score=None)),
        _record(_item(), model_version="prior"),
        _record(_item(), experiment={"id": "holdout", "variant": "holdout"}),
    ],
)
def test_a_draw_without_a_model_is_no_exploration(record: Record) -> None:
    assert _draw(record, explored={"c1"}) == "undirected"


@pytest.mark.parametrize(
    "record",
    [
        _record(_item(source="pinned", learnable=False)),
        _record(_item(source="sticky", learnable=False)),
        _record(_item(), fallback="capped"),
        _record(_item(learnable=False)),
    ],
)
def test_what_was_not_drawn_was_given(record: Record) -> None:
    assert _draw(record, explored={"c1"}) == "given"


def test_what_the_decision_before_had_is_repeated() -> None:
    watched = decided(_record(_item("c1"), _item("c2")), {}, at_ms=T0, last=["c2", "c3"])
    assert [item.repeated for item in watched.items] == [False, True]
    assert watched.follows
    assert not decided(_record(_item()), {}, at_ms=T0).follows


def _pending(**item: Any) -> Pending:
    shown = PendingItem("c1", 1, 0.5, T0 + MINUTE, **{"score": 0.2, "nth": 3, **item})
    return Pending(
        "000-1", "home", T0, T0 + HOUR, True, None, 0.5, b"", [shown], groups={"region": "north"}
    )


def _closed(pending: Pending, of: Plan, **fields: Any) -> Closed:
    return closed(
        pending,
        closed_ms=T0 + HOUR,
        placement=of.placements["home"],
        index=of.contents.index,
        **fields,
    )


def test_books_say_what_was_expected_and_what_came() -> None:
    pending = _pending(rewards={"click": 1.0})
    watched = _closed(pending, plan(), explored={"c1": True})
    [item] = watched.items
    assert (watched.decided_ms, watched.closed_ms, watched.arm) == (T0, T0 + HOUR, "personalised")
    assert watched.groups == {"region": "north"}
    assert (item.shown, item.nth, item.score, item.explored) == (True, 3, 0.2, True)
    assert item.rewards == {"click": 1.0}
    pending.items[0].rewards["view"] = 1.0
    assert item.rewards == {"click": 1.0}


def _worth(times: str | None, **sections: Any) -> Plan:
    click = {"events": "click", "value": 2, "within": "30m"}
    rewards = {"click": click if times is None else {**click, "times": times}}
    return plan(placement_policy(rewards=rewards, **sections), [content("c1", margin=4.0)])


def test_a_probability_is_the_score_by_what_the_reward_is_worth() -> None:
    assert _closed(_pending(), _worth(None)).items[0].chance == pytest.approx(0.1)
    assert _closed(_pending(), _worth("margin")).items[0].chance == pytest.approx(0.025)


def test_there_is_no_probability_where_a_score_is_made_of_more() -> None:
    assert _closed(_pending(), _worth("value")).items[0].chance is None
    two = {
        "click": {"events": "click", "value": 1, "within": "30m"},
        "buy": {"events": "purchase", "value": 9, "within": "30m"},
    }
    both = plan(_two(two))
    assert _closed(_pending(), both).items[0].chance is None
    assert _closed(_pending(score=None), _worth(None)).items[0].chance is None
    assert _closed(_pending(score=2.2), _worth(None)).items[0].chance is None
    gone = closed(_pending(), closed_ms=T0, placement=None, index={})
    assert gone.items[0].chance is None


def _two(rewards: Any) -> Any:
    return placement_policy(
        top={
            "rewards": rewards,
            "placements": {"home": {"rewards": ["click", "buy"], "expires_after": "15m"}},
        }
    )


def test_the_holdout_and_what_was_not_drawn_explore_nothing() -> None:
    held = _pending()
    held.variant = "holdout"
    assert _closed(held, plan(), explored={"c1": True}).items[0].explored is None
    given = _pending(learnable=False)
    assert _closed(given, plan(), explored={"c1": False}).items[0].explored is None
    assert _closed(_pending(), plan()).items[0].explored is None
    apprentice = plan(placement_policy(learning="apprentice"))
    assert _closed(_pending(), apprentice, explored={"c1": False}).items[0].explored is None


def test_nobody_is_named_and_it_crosses_processes() -> None:
    watched = [
        decided(_record(_item()), {"region": "north"}, at_ms=T0),
        _closed(_pending(), plan()),
    ]
    crossed = pickle.dumps(watched)
    assert pickle.loads(crossed) == watched
    assert b"u1" not in crossed
    assert b"000-1" not in crossed


def test_values_of_groups_are_short_texts() -> None:
    assert group_value("x" * 100) == "x" * 64
    assert [group_value(v) for v in (False, 2.5, 3.0)] == ["false", "2.5", "3"]
