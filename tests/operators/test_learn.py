"""Does the learner come to the truth although rewards are late and most negatives are left out?"""

from __future__ import annotations

import heapq
import math
from collections import Counter

import msgspec
import numpy as np
import pytest

from operators.ids import uniform
from operators.learn import Learner, model_of
from operators.models.hashed_logistic import HashedLogistic
from operators.outputs import Example
from operators.parameters import ParameterSet
from operators.plan import Plan
from operators.shard_state import StateError
from tests.operators.builders import content, contents, placement_policy, plan
from tests.operators.decision_builders import (
    all_positions,
    example,
    features_of,
    learner,
    scorer_of,
)

RATES = (0.04, 0.10, 0.25)


def _scores(of: Plan, parameters: ParameterSet) -> list[float]:
    cells = np.frombuffer(features_of(of), np.uint32).tolist()
    return [float(p) for p in scorer_of(of, parameters).score(cells, all_positions(of))]


def _learned_rates(*, share: float, seed: str, impressions: int, delay: float) -> list[float]:
    """What the model believes of each arm, averaged over the stream's last two thirds.

    Every impression gives its negative at once (subsampled, weighted by the inverse); a true
    reward comes `delay` impressions later on average.
    """
    of = plan(
        placement_policy(model={"negatives": share, "alpha": 0.3}),
        [content(f"arm{arm}") for arm in range(len(RATES))],
    )
    taught = learner(of)
    due: list[tuple[float, int]] = []
    believed: list[list[float]] = []
    for t in range(impressions):
        while due and due[0][0] <= t:
            taught.learn([example(of, f"arm{heapq.heappop(due)[1]}", kind="click")])
        arm = t % len(RATES)
        if uniform(f"{seed}|{t}|negative") < share:
            taught.learn([example(of, f"arm{arm}", weight=1 / share)])
        if uniform(f"{seed}|{t}|reward") < RATES[arm]:
            late = -delay * math.log(1.0 - uniform(f"{seed}|{t}|delay"))
            heapq.heappush(due, (t + late, arm))
        if t % 100 == 0 and t > impressions / 3:
            believed.append(_scores(of, taught.publish()))
    return [float(p) for p in np.mean(believed, axis=0)]


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_the_learned_rate_is_the_true_one_although_rewards_come_late(share: float) -> None:
    runs = [
        _learned_rates(share=share, seed=f"{share}|{seed}", impressions=6_000, delay=200.0)
        for seed in range(3)
    ]
    learned = np.mean(runs, axis=0)
    # Without weights, fake negatives alone would give p / (1 + p): 0.2 for the last arm.
    assert learned == pytest.approx(RATES, rel=0.15)


def test_leaving_out_negatives_changes_the_learned_rates_by_noise_only() -> None:
    def runs(share: float) -> list[float]:
        found = [
            _learned_rates(share=share, seed=f"pair|{seed}", impressions=6_000, delay=50.0)
            for seed in range(2)
        ]
        return [float(p) for p in np.mean(found, axis=0)]

    assert runs(0.25) == pytest.approx(runs(1.0), rel=0.12)


def test_a_negative_is_learned_by_every_kind_and_a_reward_by_its_own() -> None:
    rewards = {
        "click": {"events": "click", "value": 1, "within": "30m"},
        "buy": {"events": "purchase", "value": 5, "within": "1d"},
    }
    policy = placement_policy(rewards=rewards)
    both = policy.placements["home"].model_copy(update={"rewards": ("click", "buy")})
    of = plan(policy.model_copy(update={"placements": {"home": both}}))
    taught = learner(of)
    _, learned = taught.learn([example(of, "c1")])
    after_negative = taught.publish()
    assert learned == Counter(unrewarded=1)
    assert (after_negative.weights.sum(axis=1) < 0).all()
    taught.learn([example(of, "c1", kind="click")])
    after_click = taught.publish()
    assert after_click.weights[0].sum() > after_negative.weights[0].sum()
    assert after_click.weights[1].tobytes() == after_negative.weights[1].tobytes()


def test_a_set_says_how_much_is_behind_it() -> None:
    of = plan(placement_policy(model={"negatives": 0.25}))
    taught = learner(of)
    taught.learn(
        [
            example(of, "c1", weight=4.0, at=1_000),
            example(of, "c2", weight=4.0, at=3_000),
            example(of, "c2", kind="click", at=2_000),
        ]
    )
    parameters = taught.publish()
    assert (parameters.decisions, parameters.examples, parameters.rewarded) == (8.0, 3, 1)
    assert parameters.learned_to_ms == 3_000
    assert parameters.heads == ("click",)


def test_examples_of_a_withdrawn_content_or_a_dropped_reward_are_counted_and_not_learned() -> None:
    of = plan()
    taught = learner(of)
    _, learned = taught.learn([example(of, "gone"), example(of, "c1", kind="removed_kind")])
    assert learned == Counter(withdrawn=1, unknown_kind=1)
    assert taught.examples == 0
    assert not taught.publish().weights.any()


def test_before_any_example_the_set_says_the_base_rate() -> None:
    of = plan(placement_policy(model={"base_rate": 0.03}))
    assert _scores(of, learner(of).publish()) == pytest.approx([0.03] * 6, rel=1e-6)


def test_sets_are_published_by_the_number_of_examples_early_ones_more_often() -> None:
    of = plan(placement_policy(model={"publish_every": 50}))
    taught = learner(of)
    published, _ = taught.learn([example(of, f"c{1 + n % 6}") for n in range(1_000)])
    behind = [parameters.examples for parameters in published]
    steps = np.diff([0, *behind])
    assert behind[0] == 10
    assert steps.max() == 50
    assert (np.diff(steps) >= 0).all()
    assert [p.counter for p in published] == list(range(1, len(published) + 1))
    one_by_one = learner(of)
    for n in range(1_000):
        for parameters in one_by_one.learn([example(of, f"c{1 + n % 6}")])[0]:
            assert parameters.examples == behind.pop(0)
    assert behind == []


def test_the_same_examples_give_the_same_sets_bit_for_bit() -> None:
    of = plan()
    examples = _mixed(of, 300)
    first, second = learner(of), learner(of)
    published, _ = first.learn(examples)
    again, _ = second.learn(examples)
    assert [p.encoded for p in published] == [p.encoded for p in again]


def test_a_published_set_does_not_change_as_learning_goes_on() -> None:
    of = plan()
    taught = learner(of)
    taught.learn(_mixed(of, 50))
    parameters = taught.publish()
    before = parameters.weights.tobytes()
    taught.learn(_mixed(of, 50))
    assert parameters.weights.tobytes() == before
    assert taught.publish().weights.tobytes() != before


def test_absurd_streaks_and_weights_keep_every_number_finite() -> None:
    of = plan()
    taught = learner(of)
    taught.learn([example(of, "c1", kind="click", weight=1.0) for _ in range(3_000)])
    taught.learn([example(of, "c1", weight=1e6) for _ in range(50)])
    parameters = taught.publish()
    assert np.isfinite(parameters.weights).all()
    assert all(0 <= p <= 1 for p in _scores(of, parameters))


def _mixed(of: Plan, number: int, *, start: int = 0) -> list[Example]:
    ids = of.contents.ids
    return [
        example(
            of,
            ids[int(uniform(f"{n}|what") * len(ids))],
            kind="click" if uniform(f"{n}|kind") < 0.3 else None,
            features=features_of(of, 7, int(uniform(f"{n}|who") * 5)),
            at=n,
        )
        for n in range(start, start + number)
    ]


def _revived(of: Plan, snapshot: bytes, *, incarnation: str) -> tuple[Learner, ParameterSet | None]:
    taught = learner(of, incarnation=incarnation)
    return taught, taught.restore(snapshot)


def test_a_learner_goes_on_from_its_snapshot_as_if_nothing_had_happened() -> None:
    of = plan()
    taught = learner(of)
    taught.learn(_mixed(of, 150))
    snapshot = taught.snapshot()
    revived, served = _revived(of, snapshot, incarnation="life2")
    last = taught.publish()
    assert served is not None
    assert served.weights.tobytes() == last.weights.tobytes()
    assert served.intercepts.tobytes() == last.intercepts.tobytes()
    assert _scores(of, served) == _scores(of, last)
    for field in ("decisions", "examples", "rewarded", "learned_to_ms"):
        assert getattr(served, field) == getattr(last, field)
    assert revived.snapshot() == snapshot
    for one in (taught, revived):
        one.learn(_mixed(of, 150, start=150))
    assert revived.publish().weights.tobytes() == taught.publish().weights.tobytes()


def test_no_life_of_a_learner_reuses_a_version_of_another() -> None:
    of = plan()
    versions: list[str] = []
    taught = learner(of, incarnation="life1")
    for life in range(2, 5):
        published, _ = taught.learn(_mixed(of, 60))
        versions += [p.version for p in published]
        versions.append(taught.publish().version)
        taught, served = _revived(of, taught.snapshot(), incarnation=f"life{life}")
        assert served is not None
        versions.append(served.version)
    assert len(versions) == len(set(versions))


def test_another_table_width_starts_the_model_anew() -> None:
    narrow = plan(placement_policy(model={"bits": 12}))
    wide = plan(placement_policy(model={"bits": 14}))
    taught = learner(narrow)
    taught.learn(_mixed(narrow, 40))
    revived, served = _revived(wide, taught.snapshot(), incarnation="life2")
    assert served is None
    assert revived.examples == 0
    assert _scores(wide, revived.publish()) == pytest.approx([0.05] * 6, rel=1e-6)


def test_a_new_reward_kind_starts_at_the_prior_beside_those_that_are_kept() -> None:
    one = plan()
    rewards = {
        "buy": {"events": "purchase", "value": 5, "within": "1d"},
        "click": {"events": "click", "value": 1, "within": "30m"},
    }
    policy = placement_policy(rewards=rewards)
    both = policy.placements["home"].model_copy(update={"rewards": ("buy", "click")})
    two = plan(policy.model_copy(update={"placements": {"home": both}}))
    taught = learner(one)
    taught.learn(_mixed(one, 40))
    _, served = _revived(two, taught.snapshot(), incarnation="life2")
    assert served is not None
    assert served.heads == ("buy", "click")
    assert not served.weights[0].any()
    assert served.weights[1].tobytes() == taught.publish().weights[0].tobytes()


def test_a_snapshot_tells_its_model_and_anything_else_is_refused() -> None:
    of = plan(catalogue=contents(3))
    taught = learner(of)
    taught.learn(_mixed(of, 20))
    snapshot = taught.snapshot()
    assert model_of(snapshot) == "home"
    other = snapshot[:4] + (9).to_bytes(2, "big") + snapshot[6:]
    for bad in (b"", b"NBSH" + snapshot[4:], other, snapshot[:-3], snapshot[:6] + b"\xc1"):
        with pytest.raises(StateError):
            learner(of).restore(bad)


@pytest.mark.parametrize(
    "position, damage",
    [(1, b"\xff" * 12), (1, b"\0" * 7), (2, b"\0" * 7), (3, b"\0" * 8)],
)
def test_a_snapshot_whose_arrays_do_not_fit_is_refused_and_names_the_trouble(
    position: int, damage: bytes
) -> None:
    of = plan()
    taught = learner(of)
    taught.learn(_mixed(of, 20))
    snapshot = taught.snapshot()
    parts = msgspec.msgpack.decode(snapshot[6:])
    [head] = parts[6]
    head[position] = damage
    with pytest.raises(StateError, match="damaged"):
        learner(of).restore(snapshot[:6] + msgspec.msgpack.encode(parts))


def test_a_snapshot_of_the_former_version_is_restored_with_the_weights_it_had() -> None:
    of = plan(placement_policy(model={"alpha": 0.1, "bits": 12}))
    old = HashedLogistic(("click",), cells=1 << 12, alpha=0.1)
    for n in range(200):
        old.learn_one({n % 7: 1.0, 7 + n % 5: 1.0}, {"click": n % 3 == 0})
    cells, z, n_ = old.head("click")
    head = ["click", float(old.intercepts[0]), cells.tobytes(), z.tobytes(), n_.tobytes()]
    wire = ["home", 12, 200.0, 200, 67, 5, [head]]
    taught = learner(of)
    served = taught.restore(b"NBLM" + (1).to_bytes(2, "big") + msgspec.msgpack.encode(wire))
    assert served is not None
    assert served.weights == pytest.approx(old.weights, rel=1e-6)
    assert (served.examples, served.rewarded) == (200, 67)
    # From now on it is kept as the present version.
    again = learner(of)
    back = again.restore(taught.snapshot())
    assert back is not None
    assert back.weights.tobytes() == served.weights.tobytes()


def test_another_number_of_factors_starts_them_anew_and_keeps_the_rest() -> None:
    few, more = (plan(placement_policy(model={"factors": number, "bits": 12})) for number in (2, 3))
    taught = learner(few)
    taught.learn(_mixed(few, 200))
    revived = learner(more)
    served = revived.restore(taught.snapshot())
    assert served is not None
    assert served.weights.tobytes() == taught.publish().weights.tobytes()
    assert served.factors is not None
    assert not served.factors.profile.any()
