"""What holds of feedback however it arrives: late, out of order, twice, or never?

Hypothesis makes a person's visits, what was reported of them and in which order it came. What is
booked and taught is compared over orders, and with a plain count of what was reported.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.arrival import Arrived
from operators.attribute import close_windows, impression, reward
from operators.ids import uniform
from operators.outputs import Example, Outputs, Record
from operators.plan import Plan
from operators.profile import FAR, Pending, PendingItem, Profile
from tests.operators.builders import (
    T0,
    arrived,
    content,
    placement_policy,
    plan,
    policy,
    profile,
    request,
)
from tests.operators.decision_builders import (
    DAY,
    MINUTE,
    SECOND,
    all_positions,
    check_shapes,
    click,
    content_ids,
    deciding,
    features_of,
    follow,
    impression_of,
    learner,
    scorer_of,
)

CONTENTS: Final = ("a", "b", "c")
REWARDS: Final[dict[str, Any]] = {
    "click": {"events": ["click", "buy"], "value": 1, "within": "30m"},
    "sale": {"events": "buy", "value": 10, "within": "30m"},
    "skip": {"events": "skip", "value": -1, "within": "30m"},
}
KINDS_OF: Final = {"click": ("click",), "buy": ("click", "sale"), "skip": ("skip",)}
VALUE: Final = {"click": 1.0, "sale": 10.0, "skip": -1.0}


SHOP: Final = plan(
    policy(
        rewards=REWARDS,
        placements={
            "home": {"slots": 2, "rewards": list(REWARDS), "model": {"negatives": 1.0, "bits": 12}}
        },
    ),
    [content(c) for c in CONTENTS],
)


class Report(NamedTuple):
    """One thing that was reported: of which decision, on what, when, and whether it says so."""

    type: str
    decision: int
    content_id: str | None
    at: int
    named: bool = True


class Books(NamedTuple):
    """What came of it all: outcomes, facts, examples by label, and those after the close."""

    outcomes: list[Record]
    facts: Counter[tuple[str, ...]]
    taught: Counter[tuple[str, str | None, float]]
    records: list[Record]


def lived(reports: Iterable[Report], *, visits: int) -> Books:
    """One person's visits a minute apart, and then the reports as they arrive."""
    machine, person = deciding(SHOP), profile()
    out, records = Outputs(), []
    for visit in range(visits):
        _, made = follow(
            machine, [request(at=T0 + visit * MINUTE, event_id=f"r{visit}")], person=person
        )
        records.append(made.decisions[0].record)
    for report in reports:
        machine.apply(person, _event(report, records), shard=0, out=out)
    taught = Counter((e.content_id, e.kind, e.weight) for e in out.examples)
    out.examples.clear()
    close_windows(person, FAR - 1, plan=SHOP, out=out)
    close_windows(person, FAR - 1, plan=SHOP, out=out)
    assert (out.examples, person.pending) == ([], []), "a closing window teaches nothing"
    check_shapes(out)
    return Books(out.outcomes, Counter(dict(out.facts)), taught, records)


def _event(report: Report, records: Sequence[Record]) -> Arrived:
    at = T0 + report.at * SECOND
    known = report.decision < len(records)
    identity = records[report.decision]["decision_id"] if known else "000-unheard"
    if report.type == "impression":
        named = None if report.content_id is None else (report.content_id,)
        return arrived("impression", at=at, decision_id=identity, contents=named)
    return click(
        report.content_id,
        at=at,
        type=report.type,
        decision_id=identity if report.named else None,
    )


def booked(books: Books) -> list[Any]:
    """The outcomes but for `nth`, which counts impressions as they are reported."""
    return [
        {**one, "items": [{k: v for k, v in item.items() if k != "nth"} for item in one["items"]]}
        for one in books.outcomes
    ]


# Within 25 minutes of the first visit: in every window, wherever an impression starts it.
times = st.integers(3 * 60, 25 * 60)
decisions = st.integers(0, 3)
yes, no = st.just(True), st.just(False)
any_kind = st.sampled_from(sorted(KINDS_OF))
impressions = st.builds(
    Report, st.just("impression"), decisions, st.sampled_from([None, *CONTENTS]), times, yes
)
named = st.builds(Report, any_kind, decisions, st.sampled_from(CONTENTS), times, yes)
unnamed = st.builds(
    Report, any_kind, decisions, st.sampled_from([*CONTENTS, "unheard", None]), times, no
)
visits = st.integers(1, 3)


def some(of: st.SearchStrategy[Report]) -> st.SearchStrategy[list[Report]]:
    """Reports, some of which come twice."""
    return st.lists(of, max_size=7).flatmap(
        lambda once: (
            st.lists(st.sampled_from(once), max_size=3).map(lambda twice: once + twice)
            if once
            else st.just(once)
        )
    )


@given(visits=visits, reports=some(impressions | named), data=st.data())
def test_the_order_of_arrival_changes_neither_books_nor_what_is_taught(
    visits: int, reports: list[Report], data: st.DataObject
) -> None:
    in_order = lived(sorted(reports, key=lambda report: report.at), visits=visits)
    as_it_came = lived(data.draw(st.permutations(reports)), visits=visits)
    assert booked(as_it_came) == booked(in_order)
    assert as_it_came.taught == in_order.taught
    assert as_it_came.facts == in_order.facts


@given(
    visits=visits,
    seen=st.lists(times, min_size=3, max_size=3),
    reports=some(named | unnamed),
    data=st.data(),
)
def test_nor_where_rewards_do_not_name_their_decision_once_impressions_are_known(
    visits: int, seen: list[int], reports: list[Report], data: st.DataObject
) -> None:
    shown = [Report("impression", visit, None, seen[visit]) for visit in range(visits)]
    in_order = lived([*shown, *sorted(reports, key=lambda report: report.at)], visits=visits)
    shuffled = data.draw(st.permutations(shown)) + data.draw(st.permutations(reports))
    as_it_came = lived(shuffled, visits=visits)
    assert booked(as_it_came) == booked(in_order)
    assert as_it_came.taught == in_order.taught
    assert as_it_came.facts == in_order.facts


@given(visits=visits, reports=some(impressions | named | unnamed))
def test_every_reward_is_booked_repeated_or_unattributed_and_none_is_invented(
    visits: int, reports: list[Report]
) -> None:
    books = lived(reports, visits=visits)
    items = [item for one in books.outcomes for item in one["items"]]
    in_books = Counter(kind for item in items for kind in item["rewards"])
    for kind, value in VALUE.items():
        sent = sum(kind in KINDS_OF.get(report.type, ()) for report in reports)
        found = books.facts["rewards", "home", kind, ""]
        assert found == in_books[kind]
        assert sent == found + books.facts["repeated", kind] + books.facts["unattributed", kind]
        assert books.facts["reward_value", "home", kind, ""] == value * found
        assert {item["rewards"][kind] for item in items if kind in item["rewards"]} <= {value}
        taught = sum(n for (_, label, _), n in books.taught.items() if label == kind)
        assert taught == found, "each kind teaches once per item"
    shown = [item for item in items if item["shown"]]
    assert all(item["shown"] for item in items if item["rewards"]), "a reward proves the impression"
    assert len(shown) == books.facts["impressions", "home", ""]
    assert len(shown) == sum(n for (_, label, _), n in books.taught.items() if label is None)
    proven = {
        (report.decision, content_id)
        for report in reports
        if report.decision < visits
        for content_id in content_ids(books.records[report.decision])
        if report.content_id == content_id
        or (report.type == "impression" and report.content_id is None)
        if report.named
    }
    assert len(shown) == len(proven), "what nobody reported was not shown"


@given(
    kind=st.sampled_from(sorted(KINDS_OF)),
    seen=st.permutations([3 * 60, 6 * 60, 9 * 60]),
    meant=st.integers(0, 2),
)
def test_the_decision_that_a_reward_names_comes_before_the_last_impression(
    kind: str, seen: list[int], meant: int
) -> None:
    shown = [Report("impression", visit, None, at) for visit, at in enumerate(seen)]
    first = lived([], visits=3)
    for content_id in content_ids(first.records[meant]):
        books = lived([*shown, Report(kind, meant, content_id, 1_200)], visits=3)
        where = [
            (n, item["content_id"])
            for n, one in enumerate(books.outcomes)
            for item in one["items"]
            if item["rewards"]
        ]
        assert where == [(meant, content_id)]
        # Unnamed it belongs to the impression that was last.
        having = [n for n in range(3) if content_id in content_ids(first.records[n])]
        latest = max(having, key=lambda n: seen[n])
        books = lived([*shown, Report(kind, meant, content_id, 1_200, named=False)], visits=3)
        assert [n for n, one in enumerate(books.outcomes) if one["reward"]] == [latest]


@given(kind=st.sampled_from(sorted(KINDS_OF)), late=st.integers(1, 10 * DAY), named=st.booleans())
def test_after_its_window_a_reward_is_unattributed_before_and_after_the_close(
    kind: str, late: int, named: bool
) -> None:
    machine, person = deciding(SHOP), profile()
    _, made = follow(machine, [request(event_id="r")], person=person)
    record = made.decisions[0].record
    follow(machine, [impression_of(record, at=T0)], person=person)
    identity = record["decision_id"] if named else None
    again = click(
        content_ids(record)[0], at=T0 + 30 * MINUTE + late, type=kind, decision_id=identity
    )
    for _ in range(2):
        _, out = follow(machine, [again], person=person)
        assert out.examples == []
        assert {k: out.facts["unattributed", k] for k in KINDS_OF[kind]} == dict.fromkeys(
            KINDS_OF[kind], 1
        )
        close_windows(person, FAR - 1, plan=SHOP, out=out)
        assert sum(one["reward"] for one in out.outcomes) == 0


# Leaving out most of what was not rewarded.

SHARES: Final = (1.0, 0.25, 0.05)
RATE: Final = 0.2


def stream(
    share: float, seed: str, *, visits: int, delay: float = 60.0
) -> tuple[Plan, list[Example]]:
    """What is taught of visits to one content; clicks come `delay` visits late on average."""
    of = plan(
        placement_policy(model={"negatives": share, "bits": 12, "alpha": 0.3}), [content("a")]
    )
    out, features = Outputs(), features_of(of)
    due: list[tuple[float, int, Profile]] = []
    for n in range(visits):
        while due and due[0][0] <= n:
            _, since, rewarded = heapq.heappop(due)
            clicked = click("a", at=T0 + SECOND, decision_id=f"{seed}|{since}")
            reward(rewarded, clicked, plan=of, may_learn=True, out=out)
        person = profile(f"p{n}")
        identity = f"{seed}|{n}"
        item = PendingItem("a", 1, 1.0)
        person.pending.append(
            Pending(identity, "home", T0, T0 + DAY, True, None, 1.0, features, [item], model="home")
        )
        seen = arrived("impression", at=T0, decision_id=identity)
        impression(person, seen, plan=of, may_learn=True, out=out)
        if uniform(f"{identity}|luck") < RATE:
            late = -delay * math.log(1.0 - uniform(f"{identity}|delay"))
            heapq.heappush(due, (n + late, n, person))
    return of, out.examples


@pytest.mark.parametrize("share", SHARES)
def test_the_weights_of_the_negatives_add_up_to_the_impressions(share: float) -> None:
    visits = 12_000
    of, examples = stream(share, f"weights {share}", visits=visits)
    weights = [example.weight for example in examples if example.kind is None]
    assert set(weights) == {1 / share}
    # Each impression is kept or not by itself: the sum has variance visits (1 - share) / share.
    error = math.sqrt(visits * (1 - share) / share)
    assert abs(math.fsum(weights) - visits) <= 3 * error
    taught = learner(of)
    taught.learn(examples[:500])
    expected = math.fsum(e.weight for e in examples[:500] if e.kind is None)
    assert taught.publish().decisions == pytest.approx(expected, rel=1e-12)


def believed(share: float, seed: str, *, visits: int) -> float:
    """The rate that is believed, on average over the second half of what is taught."""
    of, examples = stream(share, seed, visits=visits)
    taught, found = learner(of), list[float]()
    cells = np.frombuffer(features_of(of), np.uint32).tolist()
    for n, example in enumerate(examples):
        taught.learn([example])
        if 2 * n > len(examples) and n % 10 == 0:
            found.append(float(scorer_of(of, taught.publish()).score(cells, all_positions(of))[0]))
    return float(np.mean(found))


def test_the_same_rate_is_learned_whatever_the_share_of_negatives() -> None:
    """Means over eight streams with their 99 % intervals: all overlap, and bear the true rate."""
    intervals = {}
    for share, visits in zip(SHARES, (2_500, 5_000, 12_000), strict=True):
        found = [believed(share, f"{share} {seed}", visits=visits) for seed in range(8)]
        half = 3.50 * float(np.std(found, ddof=1)) / math.sqrt(len(found))
        intervals[share] = float(np.mean(found)) - half, float(np.mean(found)) + half
    assert max(low for low, _ in intervals.values()) <= min(high for _, high in intervals.values())
    assert all(low <= RATE <= high for low, high in intervals.values()), intervals
    assert all(high - low < 0.25 * RATE for low, high in intervals.values()), intervals
