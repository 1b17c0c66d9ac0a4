"""Does every kind of model keep the same promises? One suite for all of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pytest
from river import base

from operators.crosses import crosses_of
from operators.ids import hash32, uniform
from operators.learn import Learner
from operators.models.hashed_logistic import HashedLogistic
from operators.outputs import Example
from operators.parameters import ParameterSet, decode_parameters
from operators.plan import Plan
from operators.score import scorer_of
from tests.operators.builders import contents, placement_policy, plan
from tests.operators.decision_builders import all_positions, features_of, learner

KINDS: Final[dict[str, dict[str, Any]]] = {
    "shared": {},
    "per_content": {"kind": "per_content"},
    "popularity": {"kind": "popularity"},
    "factorised": {"kind": "factorised"},
    "hybrid": {"factors": 4},
    "forgetting": {"forget_after": 20_000},
}
PEOPLE: Final = ("ann", "bob", "cy", "dee")
BIAS: Final = hash32("1")

Truth = Callable[[str, str], float]


def of_kind(name: str, **model: Any) -> Plan:
    """Six contents, odd ones red and even ones blue, and a model of one kind over a small table."""
    policy = placement_policy(model={"bits": 14, "negatives": 1.0, **KINDS[name], **model})
    return plan(policy, contents())


def cells_of(person: str) -> list[int]:
    """A person's features: the bias, a taste shared with others, and themselves."""
    taste = "red" if person in ("ann", "cy") else "blue"
    return [BIAS, hash32(f"taste={taste}"), hash32(f"profile={person}")]


def tastes(person: str, content: str) -> float:
    """Who likes red clicks red; everybody clicks c1 a little more."""
    red = int(content[1:]) % 2 == 1
    return (0.4 if red == (person in ("ann", "cy")) else 0.05) + 0.05 * (content == "c1")


def appeal(_person: str, content: str) -> float:
    """All people alike: c1 is the best, then c2 and so on."""
    return (0.40, 0.30, 0.22, 0.15, 0.10, 0.05)[int(content[1:]) - 1]


def truth_of(name: str) -> Truth:
    """What a kind can learn: popularity knows no people."""
    return appeal if name == "popularity" else tastes


def stream(of: Plan, truth: Truth, *, number: int, seed: str, share: float = 1.0) -> list[Example]:
    """Every shown item as a negative at once (subsampled), and its reward right after."""
    ids, found = of.contents.ids, []
    for n in range(number):
        person = PEOPLE[int(uniform(f"{seed}|{n}|who") * len(PEOPLE))]
        shown = ids[int(uniform(f"{seed}|{n}|what") * len(ids))]
        logged = features_of(of, *cells_of(person))
        if uniform(f"{seed}|{n}|negative") < share:
            found.append(Example("home", shown, logged, None, 1 / share, n))
        if uniform(f"{seed}|{n}|reward") < truth(person, shown):
            found.append(Example("home", shown, logged, "click", 1.0, n))
    return found


def taught(of: Plan, examples: list[Example]) -> Learner:
    """A learner that has learned these."""
    new = learner(of)
    new.learn(examples)
    return new


def believed(of: Plan, parameters: ParameterSet, person: str) -> list[float]:
    """What a set says of every content for one person."""
    scorer = scorer_of(of.models["home"], of.contents, parameters)
    return [float(p) for p in scorer.score(cells_of(person), all_positions(of))]


@pytest.fixture(params=list(KINDS), name="kind")
def _kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_it_learns_a_known_preference(kind: str) -> None:
    of, truth = of_kind(kind), truth_of(kind)
    parameters = taught(of, stream(of, truth, number=4_000, seed="known")).publish()
    for person in PEOPLE:
        said = dict(zip(of.contents.ids, believed(of, parameters, person), strict=True))
        rates = {content: truth(person, content) for content in of.contents.ids}
        liked = [content for content, rate in rates.items() if rate >= 0.3]
        others = [content for content, rate in rates.items() if rate <= 0.15]
        assert min(said[c] for c in liked) > 1.5 * max(said[c] for c in others), person


def test_it_is_calibrated(kind: str) -> None:
    of, truth = of_kind(kind), truth_of(kind)
    pupil = taught(of, stream(of, truth, number=3_000, seed="calibrated"))
    # Averaged over the sets of the second half: fake negatives make single sets swing.
    sets = []
    for n in range(20):
        pupil.learn(stream(of, truth, number=150, seed=f"calibrated{n}"))
        sets.append(pupil.publish())
    for person in PEOPLE:
        said = np.mean([believed(of, one, person) for one in sets], axis=0)
        rates = [truth(person, content) for content in of.contents.ids]
        assert float(said.mean()) == pytest.approx(statistics.fmean(rates), rel=0.15)
        assert said == pytest.approx(rates, abs=0.12)


def test_garbage_and_absurd_weights_leave_every_number_finite_and_the_size_as_it_was(
    kind: str,
) -> None:
    of = of_kind(kind)
    pupil = learner(of)
    size = pupil.publish().weights.nbytes
    for n in range(300):
        features = features_of(of, *(hash32(f"{n}|{i}") for i in range(n % 40 + 1)))
        logged = (b"", features, features_of(of, *[BIAS] * 20))[n % 3]
        weight = (1.0, 1e6, 1e12, 1e-9, 0.0)[n % 5]
        label = "click" if n % 2 else None
        pupil.learn([Example("home", f"c{n % 6 + 1}", logged, label, weight, n)] * 3)
    parameters = pupil.publish()
    assert parameters.weights.nbytes == size
    assert np.isfinite(parameters.weights).all()
    for table in parameters.factors or ():
        assert np.isfinite(table).all()
    for person in PEOPLE:
        assert all(0 <= p <= 1 for p in believed(of, parameters, person))
    # And it still learns.
    pupil.learn(stream(of, truth_of(kind), number=500, seed="after"))
    assert np.isfinite(pupil.publish().weights).all()


def test_no_single_example_goes_beyond_its_label(kind: str) -> None:
    of = of_kind(kind)
    for label, weight in (("click", 1e9), (None, 1e9), ("click", 1.0)):
        pupil = learner(of)
        before = believed(of, pupil.publish(), "ann")[0]
        pupil.learn([Example("home", "c1", features_of(of, *cells_of("ann")), label, weight, 0)])
        after = believed(of, pupil.publish(), "ann")[0]
        assert (before < after < 1) if label else (0 < after < before)


def test_the_same_examples_give_the_same_bytes(kind: str) -> None:
    of = of_kind(kind)
    examples = stream(of, truth_of(kind), number=300, seed="same")
    one, other = taught(of, examples), taught(of, examples)
    assert one.snapshot() == other.snapshot()
    assert one.publish().encoded == other.publish().encoded


def test_a_set_comes_through_its_bytes(kind: str) -> None:
    of = of_kind(kind)
    parameters = taught(of, stream(of, truth_of(kind), number=300, seed="bytes")).publish()
    again = decode_parameters(parameters.encoded)
    assert again.encoded == parameters.encoded
    for person in PEOPLE:
        assert believed(of, again, person) == believed(of, parameters, person)


def test_it_goes_on_from_a_snapshot_as_if_nothing_had_happened(kind: str) -> None:
    of, truth = of_kind(kind), truth_of(kind)
    pupil = taught(of, stream(of, truth, number=400, seed="first"))
    revived = learner(of)
    served = revived.restore(pupil.snapshot())
    assert served is not None
    assert served.weights.tobytes() == pupil.publish().weights.tobytes()
    assert revived.snapshot() == pupil.snapshot()
    rest = stream(of, truth, number=400, seed="second")
    pupil.learn(rest)
    revived.learn(rest)
    assert revived.snapshot() == pupil.snapshot()
    assert believed(of, revived.publish(), "ann") == believed(of, pupil.publish(), "ann")


def test_the_scorer_says_what_the_classifier_says(kind: str) -> None:
    of = of_kind(kind)
    pupil = taught(of, stream(of, truth_of(kind), number=600, seed="scorer"))
    parameters, crosses = pupil.publish(), crosses_of(of.models["home"], of.contents)
    for person in PEOPLE:
        own = np.array(cells_of(person), np.int64)
        said = [
            pupil._classifier.predict_proba_one(crosses.example(own, i))["click"][True]
            for i in range(len(of.contents.ids))
        ]
        assert believed(of, parameters, person) == pytest.approx(said, abs=1e-6)


def test_a_weight_is_worth_as_many_repetitions(kind: str) -> None:
    of, truth = of_kind(kind), truth_of(kind)
    weighted, repeated = [], []
    for seed in range(4):
        found = stream(of, truth, number=800, seed=f"worth{seed}")
        heavy = [one._replace(weight=3.0) for one in found]
        thrice = [one for one in found for _ in range(3)]
        weighted.append(believed(of, taught(of, heavy).publish(), "ann"))
        repeated.append(believed(of, taught(of, thrice).publish(), "ann"))
    one, other = np.mean(weighted, axis=0), np.mean(repeated, axis=0)
    assert one == pytest.approx(other, rel=0.25, abs=0.05)
    assert float(one.mean()) == pytest.approx(float(other.mean()), rel=0.1)


def test_leaving_out_negatives_does_not_bias_what_is_learned(kind: str) -> None:
    """The mean difference over seeds, with its 95 % interval, is nothing but noise."""
    of, truth = of_kind(kind), truth_of(kind)
    differences = []
    for seed in range(10):
        means = []
        for share in (0.25, 1.0):
            pupil = taught(of, stream(of, truth, number=1_200, seed=f"left{seed}", share=share))
            at = [*stream(of, truth, number=400, seed=f"more{seed}", share=share)]
            said = []
            for part in range(0, len(at), 50):
                pupil.learn(at[part : part + 50])
                said.append(np.mean([believed(of, pupil.publish(), p) for p in PEOPLE]))
            means.append(float(np.mean(said)))
        differences.append(means[0] - means[1])
    true_rate = statistics.fmean(truth(p, c) for p in PEOPLE for c in of.contents.ids)
    half = 2.26 * statistics.stdev(differences) / len(differences) ** 0.5
    bias = statistics.fmean(differences)
    assert half < 0.12 * true_rate, "too noisy to show anything"
    assert abs(bias) < half + 0.06 * true_rate


def test_forgetting_finds_back_after_a_shift(kind: str) -> None:
    def shifted(person: str, content: str) -> float:
        other = f"c{7 - int(content[1:])}"
        return truth_of(kind)(person, other)

    errors = []
    for forget_after in (None, 1_000):
        of = of_kind(kind, forget_after=forget_after)
        pupil = taught(of, stream(of, truth_of(kind), number=6_000, seed="before"))
        pupil.learn(stream(of, shifted, number=400, seed="after"))
        said = []
        for n in range(15):
            pupil.learn(stream(of, shifted, number=40, seed=f"later{n}"))
            parameters = pupil.publish()
            said.append([believed(of, parameters, person) for person in PEOPLE])
        rates = [[shifted(person, c) for c in of.contents.ids] for person in PEOPLE]
        errors.append(float(np.abs(np.mean(said, axis=0) - np.array(rates)).mean()))
    assert errors[1] < errors[0]


def test_it_has_rivers_interface(kind: str) -> None:
    of = of_kind(kind)
    model = learner(of)._classifier
    crosses = crosses_of(of.models["home"], of.contents)
    x: dict[Any, Any] = {**crosses.example(np.array(cells_of("ann"), np.int64), 0)}
    assert isinstance(model, base.MultiLabelClassifier)
    said = model.predict_proba_one(x)
    assert set(said) == {"click"}
    assert said["click"][True] + said["click"][False] == pytest.approx(1.0)
    assert model.predict_one(x) == {"click": False}
    for _ in range(30):
        model.learn_one(x, {"click": True})
    assert model.predict_one(x) == {"click": True}
    fresh = model.clone()
    assert isinstance(fresh, HashedLogistic)
    assert fresh.predict_proba_one(x) == said
