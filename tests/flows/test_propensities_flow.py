"""Does the log of the whole flow tell the truth about chance?

A small shop lives for a day: people view, ask, are shown and click, in placements that explore,
learn and are guided in every way. Then thousands ask in one and the same situation. From what was
written (decisions and outcomes), what was sent (events), the policy and the parameter sets that
were published, every propensity is worked out again, and counted.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np
import orjson
import pytest

from flows.load import plan_of
from flows.replay import replay
from operators.ids import decision_id, hash32, shard_of
from operators.parameters import LocalParameters, ParameterSet
from operators.plan import Plan
from operators.score import scorer_of
from schemas.catalogue import Content
from schemas.learning import Exploration
from schemas.policy import Policy
from schemas.time import MINUTE, SECOND, rfc3339, to_millis
from tests.operators.builders import T0
from tests.operators.naive_draw import Logged, chances_at, slates

Record = dict[str, Any]

PEOPLE: Final = 420
SHARDS: Final = 4
SAME: Final = 900
"""How many decisions there are of each of the situations that repeat."""
HALF_LIFE: Final = 7 * 24 * 60 * MINUTE
REPEATED: Final = {"device": "phone", "topic": "sport"}

KINDS: Final[dict[str, dict[str, Any]]] = {
    "igw": {"kind": "igw", "gamma": 6.0},
    "epsilon": {"kind": "epsilon_greedy", "epsilon": 0.4, "budget": 0.3},
    "softmax": {"kind": "softmax", "temperature": 0.5},
    "thompson": {"kind": "thompson", "spread": 1.0, "draws": 32, "floor": 0.1, "optimism": 0.2},
}
SITUATIONS: Final = tuple(f"{kind}_{slots}" for kind in KINDS for slots in (1, 3))
GUIDED: Final = ("pinned", "forced", "quiet", "varied", "sticky")
MODELS: Final = ("popular", "own", "factored", "revenue")
PLACES: Final = (*SITUATIONS, *GUIDED, *MODELS, "plain")

CATALOGUE: Final[list[dict[str, Any]]] = [
    {"content_id": f"c{i}", "type": "item", "tags": tags, "attributes": {"brand": brand}}
    for i, (tags, brand) in enumerate(
        [
            (["red"], "acme"),
            (["blue", "new"], "acme"),
            (["red", "new"], "bolt"),
            (["green"], "bolt"),
            (["blue"], "core"),
            (["green", "red"], "dune"),
        ],
        start=1,
    )
]
BY_ID: Final = {content["content_id"]: content for content in CATALOGUE}
BOOSTED: Final = 3.0


def _placement(**sections: Any) -> dict[str, Any]:
    model = {"bits": 12, "negatives": 1.0, "publish_every": 1, **sections.pop("model", {})}
    made = {"rewards": ["click"], "features": {"context": ["device", "topic"]}, "model": model}
    return {**made, "exploration": {}, **sections}


POLICY: Final[dict[str, Any]] = {
    "name": "chance",
    "signals": {
        "taste": {
            "kind": "affinity",
            "of": "content.tags",
            "weights": {"view": 1},
            "half_life": "7d",
        }
    },
    "rewards": {
        "click": {"events": "click", "value": 1, "within": "1h"},
        "dislike": {"events": "dislike", "value": -0.5, "within": "1h"},
        "buy": {"events": "buy", "value": 0.1, "times": "value", "within": "1h"},
    },
    "placements": {
        **{
            f"{kind}_{slots}": _placement(
                exploration=KINDS[kind], slots=slots, rewards=["click", "dislike"]
            )
            for kind in KINDS
            for slots in (1, 3)
        },
        "pinned": _placement(slots=3),
        "forced": _placement(slots=3, exploration=KINDS["softmax"]),
        "quiet": _placement(slots=2, exploration=KINDS["epsilon"]),
        "varied": _placement(
            slots=3,
            exploration=KINDS["softmax"],
            diversity=[{"by": "attributes.brand", "most": 1}],
        ),
        "sticky": _placement(slots=2, coherence={"within": "30m"}),
        "popular": _placement(model={"kind": "popularity"}),
        "own": _placement(model={"kind": "per_content"}),
        "factored": _placement(model={"kind": "factorised"}),
        "revenue": _placement(rewards=["click", "buy"]),
        "plain": _placement(level=0),
    },
    "rules": {
        "top": {
            "placements": ["pinned"],
            "pin": [{"content": "c1", "rank": 2}],
            "exclude": {"contents": ["c5"]},
        },
        "season": {"placements": ["pinned"], "boost": {"tags": ["red"], "by": BOOSTED}},
        "campaign": {"placements": ["forced"], "force": ["c4", "c2"]},
        "calm": {"placements": ["quiet"], "explore": False},
    },
}


def events() -> list[Record]:
    """What is sent, in order of time."""
    chance, made = Random(11), list[tuple[int, Record]]()

    def say(at: int, user: str, kind: str, **fields: Any) -> None:
        made.append((at, {"user_id": user, "type": kind, **fields}))

    for n in range(PEOPLE):
        user, at = f"u{n:03d}", T0 + n * MINUTE
        for step in range(chance.randrange(3)):
            say(at + step * SECOND, user, "view", content_id=f"c{chance.randrange(6) + 1}")
        if n % 5 == 0:
            say(at + 4 * SECOND, user, "feedback", feedback="less_like_this", tag="red")
        context = {
            "device": chance.choice(["phone", "desktop"]),
            "topic": chance.choice(["sport", "art"]),
        }
        for ask, place in enumerate([*chance.sample(PLACES, 5), "sticky", "sticky"]):
            said, asked = at + (10 + ask) * SECOND, f"ask{n}.{ask}"
            say(said, user, "decision_requested", placement=place, context=context, event_id=asked)
            shown = decision_id(
                shard=shard_of(user, shards=SHARDS),
                profile_id=user,
                trigger_id=asked,
                placement=place,
            )
            say(said + SECOND, user, "impression", decision_id=shown)
            for number, content in enumerate(BY_ID):
                likes = 0.5 if (context["topic"] == "sport") == (number % 2 == 0) else 0.1
                if chance.random() < likes:
                    kind = chance.choice(["click", "click", "dislike", "buy"])
                    value = {"value": chance.randrange(5, 90)} if kind == "buy" else {}
                    say(said + 30 * SECOND, user, kind, content_id=content, **value)
    at = T0 + (PEOPLE + 5) * MINUTE
    for n in range(SAME):
        for place in SITUATIONS:
            repeated: Record = {"placement": place, "context": REPEATED}
            say(at + n * SECOND, f"same{n:04d}", "decision_requested", **repeated)
    # Time goes on until every window is closed.
    say(at + 240 * MINUTE, "last", "view", content_id="c1")
    made.sort(key=lambda one: one[0])
    return [
        {"event_id": f"e{i}", "occurred_at": rfc3339(at), "received_at": rfc3339(at), **event}
        for i, (at, event) in enumerate(made)
    ]


class Published(LocalParameters):
    """The parameter store of the run, that forgets no set."""

    sets: dict[str, ParameterSet]

    def __init__(self, *, staged: bool = False) -> None:
        super().__init__(staged=staged)
        self.sets = {}
        Published.last = self

    last: Published

    def publish(self, parameters: ParameterSet) -> None:
        self.sets[parameters.version] = parameters
        super().publish(parameters)


@dataclass(frozen=True)
class Told:
    """One run: what was sent and written, the sets that were published, and the plan."""

    plan: Plan
    sent: dict[str, Record]
    by_user: dict[str, list[Record]]
    decisions: list[Record]
    outcomes: list[Record]
    sets: dict[str, ParameterSet]

    def of(self, *places: str) -> Iterator[Record]:
        return (d for d in self.decisions if d["placement"] in places)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    sent = events()
    folder = tmp_path_factory.mktemp("chance")
    log = folder / "events.jsonl"
    log.write_bytes(b"".join(orjson.dumps(event) + b"\n" for event in sent))
    catalogue = [Content.model_validate(content) for content in CATALOGUE]
    of = plan_of(Policy.model_validate(POLICY), catalogue)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("flows.replay.LocalParameters", Published)
        replay(of, [log], folder / "out", shards=SHARDS)
    by_user = defaultdict(list)
    for event in sent:
        by_user[event["user_id"]].append(event)
    return Told(
        of,
        {event["event_id"]: event for event in sent},
        by_user,
        _lines(folder / "out" / "decisions.jsonl"),
        _lines(folder / "out" / "outcomes.jsonl"),
        Published.last.sets,
    )


def _lines(path: Path) -> list[Record]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


# What was known when a decision was made, by the log alone.


def _before(told: Told, decision: Record) -> Iterator[tuple[int, Record]]:
    """The events of the person up to the trigger, each with its age."""
    now = _ms(decision["decided_at"])
    for event in told.by_user[decision["profile_id"]]:
        age = now - _ms(event["occurred_at"])
        if age >= 0:
            yield age, event


def _ms(text: str) -> int:
    return to_millis(datetime.fromisoformat(text))


def texts_of(told: Told, decision: Record) -> list[str]:
    """What the model saw of the person, in the words that are hashed."""
    liked: dict[str, float] = defaultdict(float)
    for age, event in _before(told, decision):
        if event["type"] == "view":
            for tag in BY_ID[event["content_id"]]["tags"]:
                liked[tag] += 2.0 ** (-age / HALF_LIFE)
    top = sorted(liked, key=lambda tag: (-liked[tag], tag))[:3]
    context = told.sent[decision["trigger"]["event_id"]]["context"]
    return [
        "1",
        f"taste^{top[0] if top else ''}",
        *(f"taste={tag}" for tag in top),
        *(f"context.{name}={context[name]}" for name in ("device", "topic")),
    ]


def worth(told: Told, decision: Record, content_id: str) -> float:
    """The score of a content, from the weights of the set that the decision names."""
    used, place = told.sets[decision["model_version"]], decision["placement"]
    kind = POLICY["placements"][place]["model"].get("kind", "shared")
    content, mask = BY_ID[content_id], (1 << used.bits) - 1
    own = ["1", f"id={content_id}", "type=item", *(f"tag={tag}" for tag in content["tags"])]
    own.append(f"brand={content['attributes']['brand']}")
    cells = []
    seen = texts_of(told, decision)
    for text in seen:
        for feature in own:
            crossed = {
                "shared": True,
                "popularity": text == "1",
                "per_content": feature.startswith("id="),
                "factorised": "1" in (text, feature),
            }[kind]
            if crossed:
                cells.append(hash32(text) + hash32(f"content:{feature}"))
        name, mark, tag = text.partition("^") if "^" in text else text.partition("=")
        if name == "taste" and tag in content["tags"] and kind in ("shared", "factorised"):
            cells.append(hash32("match:taste^" if mark == "^" else "match:taste"))
    total = 0.0
    for row, head in enumerate(used.heads):
        logit = float(used.intercepts[row]) + math.fsum(
            float(used.weights[row, cell & mask]) for cell in cells
        )
        if kind == "factorised":
            assert used.factors is not None
            rows = used.factors.rows - 1
            mine = sum(used.factors.profile[row, hash32(text) & rows] for text in seen)
            its = sum(used.factors.content[row, hash32(f"content:{f}") & rows] for f in own)
            logit += float(np.dot(mine, its))
        value = float(POLICY["rewards"][head]["value"])
        if head in used.means:
            means = used.means[head]
            value *= means.by_content.get(content_id, means.overall)
        total += value / (1 + math.exp(-logit))
    return total


def test_a_score_is_what_the_named_parameters_say(told: Told) -> None:
    """To the six digits that are logged: scores are summed in float32."""
    looked_at: Counter[str] = Counter()
    for decision in told.of(*GUIDED, *MODELS, *SITUATIONS):
        place = decision["placement"]
        if looked_at[place] >= 60:
            continue
        for item in decision["items"]:
            if decision["model_version"] == "prior":
                assert item["score"] is None
                continue
            looked_at[place] += 1
            expected = worth(told, decision, item["content_id"])
            assert item["score"] == pytest.approx(expected, abs=2e-6, rel=2e-6), decision
    assert looked_at.keys() == {*GUIDED, *MODELS, *SITUATIONS}


# Every propensity again.


def candidates_of(decision: Record) -> list[str]:
    """What could have been shown: no rule has taken it away."""
    excluded = {"c5"} if decision["placement"] == "pinned" else set()
    return [content_id for content_id in BY_ID if content_id not in excluded]


def blocked_by_brand(ids: Sequence[str], chosen: Sequence[int]) -> Collection[int]:
    brands = [BY_ID[content_id]["attributes"]["brand"] for content_id in ids]
    return {i for i, brand in enumerate(brands) if brand in {brands[j] for j in chosen}}


def factors_of(told: Told, decision: Record, ids: Sequence[str]) -> list[float]:
    """What rules and what the person said multiply the scores by."""
    red = 1.0
    for age, event in _before(told, decision):
        if event["type"] == "feedback":
            # What is said counts in float32.
            red *= 1 - 0.4 * float(np.float32(2.0 ** (-age / (2 * HALF_LIFE))))
    boosted = BOOSTED if decision["placement"] == "pinned" else 1.0
    return [boosted * red if "red" in BY_ID[c]["tags"] else 1.0 for c in ids]


def logged_of(told: Told, decision: Record) -> Logged:
    """What the decision was drawn from."""
    place, ids = decision["placement"], candidates_of(decision)
    compiled = told.plan.placements[place]
    given = (
        {"kind": "greedy", "optimism": 0}
        if place == "quiet"
        else POLICY["placements"][place]["exploration"]
    )
    exploration = Exploration.model_validate(given)
    cells = [hash32(text) for text in texts_of(told, decision)]
    positions = np.array([told.plan.contents.index[c] for c in ids], np.intp)
    version = decision["model_version"]
    factors = factors_of(told, decision, ids)
    known: dict[str, Any] = {"scores": None}
    if version != "prior":
        used = told.sets[version]
        scorer = scorer_of(compiled, told.plan.contents, used)
        scores = scorer.score(cells, positions)
        known = {
            "scores": [s + abs(s) * (f - 1) for s, f in zip(scores.tolist(), factors, strict=True)],
            "rewarded": used.rewarded,
            "scale": scorer.scale(cells, positions),
        }
        if exploration.kind == "thompson" or exploration.optimism:
            spread = scorer.spread(cells, positions)
            assert spread is not None
            known["spread"] = spread.tolist()
    elif place == "quiet" or set(factors) != {1.0}:
        # Greedily the first of equals, in the order of the fallback: by id, as no priority differs.
        known = {"scores": factors}
    fixed = {
        item["rank"] - 1: ids.index(item["content_id"])
        for item in decision["items"]
        if item["source"] != "model"
    }
    logged = Logged(
        exploration=exploration,
        count=len(ids),
        noise_of=decision["decision_id"],
        fixed=fixed,
        **known,
    )
    if place == "varied":
        return Logged(**{**vars(logged), "blocked": lambda taken: blocked_by_brand(ids, taken)})
    return logged


def chances_of(told: Told, decision: Record) -> Iterator[tuple[int, Mapping[int, float], Record]]:
    """Of each drawn item which candidate it is, and what each had for a chance at its rank."""
    logged, ids = logged_of(told, decision), candidates_of(decision)
    above: list[int] = []
    for item in decision["items"]:
        if item["source"] == "model":
            at = ids.index(item["content_id"])
            yield at, chances_at(logged, above), item
            above.append(at)


def test_every_propensity_follows_from_the_log(told: Told) -> None:
    checked: Counter[str] = Counter()
    priors = 0
    for decision in told.of(*GUIDED, *MODELS, *SITUATIONS):
        place = decision["placement"]
        if decision["profile_id"].startswith("same") and checked[place] > 400:
            continue
        priors += decision["model_version"] == "prior"
        kind = told.plan.placements[place].policy.exploration.kind
        for at, chances, item in chances_of(told, decision):
            # The weights of softmax pass through float32, so that no machine's `exp` matters.
            close = 1e-7 if kind == "softmax" else 1e-9
            assert item["propensity"] == pytest.approx(chances[at], abs=close, rel=0), decision
            assert math.isclose(sum(chances.values()), 1.0, rel_tol=1e-12)
            checked[place] += 1
    assert priors
    assert checked.keys() == {*GUIDED, *MODELS, *SITUATIONS}
    assert sum(checked.values()) > 3_000


def test_a_slates_propensity_is_the_product_of_its_items(told: Told) -> None:
    sizes = set()
    for decision in told.decisions:
        product = math.prod(item["propensity"] for item in decision["items"])
        assert math.isclose(decision["slate_propensity"], product, rel_tol=1e-12)
        sizes.add(len(decision["items"]))
    assert sizes == {1, 2, 3}


# How often it happened.


def repeated(told: Told, place: str) -> list[Record]:
    """The decisions of one situation: the same people to the model, the same parameters."""
    same = [d for d in told.of(place) if d["profile_id"].startswith("same")]
    version = same[-1]["model_version"]
    assert version != "prior"
    same = [d for d in same if d["model_version"] == version]
    assert len(same) > SAME - 100
    return same


@pytest.mark.parametrize("place", [s for s in SITUATIONS if not s.startswith("thompson")])
def test_slates_come_as_often_as_logged(told: Told, place: str) -> None:
    """Chi-square over whole slates; those that are rare are counted together."""
    same = repeated(told, place)
    logged, ids = logged_of(told, same[0]), candidates_of(same[0])
    slots = len(same[0]["items"])
    expected = {tuple(ids[i] for i in slate): p for slate, p in slates(logged, slots)}
    often: Counter[tuple[str, ...]] = Counter()
    for decision in same:
        slate = tuple(item["content_id"] for item in decision["items"])
        often[slate] += 1
        assert decision["slate_propensity"] == pytest.approx(expected[slate], rel=1e-6)
    cells = [(often[slate], p * len(same)) for slate, p in expected.items()]
    rare = [(seen, due) for seen, due in cells if due < 5]
    cells = [(seen, due) for seen, due in cells if due >= 5]
    if sum(due for _, due in rare) >= 5:
        cells.append((sum(seen for seen, _ in rare), sum(due for _, due in rare)))
    assert len(cells) >= 2
    statistic = math.fsum((seen - due) ** 2 / due for seen, due in cells)
    # Five standard deviations above its mean: ids are fixed, so what is true passes for ever.
    assert statistic <= len(cells) - 1 + 5 * math.sqrt(2 * (len(cells) - 1))


@pytest.mark.parametrize("place", SITUATIONS)
def test_each_candidate_comes_as_often_as_its_chances_add_up_to(told: Told, place: str) -> None:
    """Rank by rank, also where every decision has samples and therefore chances of its own."""
    surplus: dict[tuple[int, int], float] = defaultdict(float)
    variance: dict[tuple[int, int], float] = defaultdict(float)
    explored = 0
    for decision in repeated(told, place):
        explored += decision["explored"]
        for at, chances, item in chances_of(told, decision):
            for candidate, chance in chances.items():
                key = item["rank"], candidate
                surplus[key] += (candidate == at) - chance
                variance[key] += chance * (1 - chance)
    assert explored > 20
    tested = [key for key in surplus if variance[key] >= 2]
    assert {rank for rank, _ in tested} == set(range(1, int(place[-1]) + 1))
    for key in tested:
        assert abs(surplus[key]) <= 4.5 * math.sqrt(variance[key]), key
    for key in surplus.keys() - set(tested):
        assert abs(surplus[key]) <= 12, key


# What was not drawn.


def test_what_was_put_there_has_propensity_one_and_says_so(told: Told) -> None:
    sources: Counter[str] = Counter()
    for decision in told.decisions:
        for item in decision["items"]:
            sources[item["source"]] += 1
            if item["source"] == "model":
                assert item["learnable"]
                continue
            assert (item["propensity"], item["learnable"]) == (1.0, False)
        drawn = any(item["source"] == "model" for item in decision["items"])
        assert decision["learnable"] is drawn
    assert {"model", "pinned", "forced", "sticky", "fallback"} == sources.keys()
    for decision in told.of("pinned"):
        assert decision["items"][1]["content_id"] == "c1"
    for decision in told.of("forced"):
        assert [item["content_id"] for item in decision["items"][:2]] == ["c4", "c2"]


def test_only_what_was_drawn_teaches(told: Told) -> None:
    """As many examples as drawn items were shown and rewarded; of all others none."""
    due: Counter[str] = Counter()
    others: Counter[str] = Counter()
    for books in told.outcomes:
        for item in books["items"]:
            taught = item["shown"] + len(item["rewards"])
            (due if item["learnable"] else others)[books["placement"]] += taught
    learned: Counter[str] = Counter()
    for used in told.sets.values():
        learned[used.model] = max(learned[used.model], used.examples)
    assert learned == due
    assert {"pinned", "forced", "sticky", "plain"} <= others.keys()
    assert all(others[place] > 20 for place in ("pinned", "forced", "sticky", "plain"))
