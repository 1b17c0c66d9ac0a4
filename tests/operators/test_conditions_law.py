"""The law of a verdict: its truth is that of a naive reading, and `until` is never too late.

The naive reading keeps every event and looks at all of them anew for each instant asked. Truths may
turn at few instants only, each an event or a beginning plus a span of the condition; it is asked at
all of those, a millisecond before and after included.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.time import DAY, HOUR, MINUTE, parse_duration
from tests.operators.builders import T0, arrived
from tests.operators.condition_builders import SIGNALS, World

NOW: Final = T0 + 240 * MINUTE
LAST: Final = NOW + 3 * DAY


class Happened(NamedTuple):
    at: int
    kind: str
    tag: str
    value: float


def naive(condition: dict[str, Any], events: list[Happened], since: int, now: int) -> bool | None:
    """The truth of a condition at an instant, from all events; `since`: watched from then on."""
    if "all" in condition:
        truths = [naive(part, events, since, now) for part in condition["all"]]
        return False if False in truths else None if None in truths else True
    if "any" in condition:
        truths = [naive(part, events, since, now) for part in condition["any"]]
        return True if True in truths else None if None in truths else False
    if "not" in condition:
        truth = naive(condition["not"], events, since, now)
        return None if truth is None else not truth
    past = [event for event in events if event.at <= now]
    if "local_time" in condition:
        shown = datetime.fromtimestamp(now / 1_000, UTC)
        hours = condition["local_time"]
        return bool(hours["from"] <= shown.strftime("%H:%M") < hours["to"])
    if "signal" in condition:
        return naive_signal(condition, past, since, now)
    return naive_done(condition, past, since, now)


def naive_signal(
    condition: dict[str, Any], past: list[Happened], since: int, now: int
) -> bool | None:
    name = condition["signal"]
    if name == "bought":
        times = [event.at for event in past if event.kind == "buy"]
        within, beyond = (parse_duration(condition.get(f, "0s")) for f in ("within", "not_within"))
        if not times:
            if now < since + (within or beyond):
                return None
            return not within
        age = now - max(times)
        return (not within or age < within) and age >= beyond
    window = now - parse_duration(SIGNALS[name]["within"])
    inside = [event for event in past if event.at > window]
    number: float
    if name == "views":
        number = sum(event.kind == "view" for event in inside)
    elif name == "spent":
        number = sum(event.value for event in inside if event.kind == "buy")
    else:
        number = len({event.tag for event in inside if event.kind == "view"})
    return in_range(condition, number)


def in_range(condition: dict[str, Any], number: float) -> bool:
    tests = {
        "at_least": operator.ge,
        "at_most": operator.le,
        "above": operator.gt,
        "below": operator.lt,
        "equals": operator.eq,
    }
    return all(test(number, condition[name]) for name, test in tests.items() if name in condition)


def naive_done(
    condition: dict[str, Any], past: list[Happened], since: int, now: int
) -> bool | None:
    kind = condition.get("done", condition.get("not_done"))
    own = [event.at for event in past if event.kind == kind]
    watched: bool
    if "from" in condition:
        begin, end = at_of(condition["from"]), at_of(condition["until"])
        if now < begin:
            return None
        number = sum(begin <= at < end for at in own)
        watched = since <= begin
    else:
        within = parse_duration(condition["within"])
        window, watched = now - within, now >= since + within
        number = sum(at > window for at in own)
        for role in ("then", "not_then"):
            if (after := condition.get(role)) is not None:
                gap = parse_duration(after["gap"])
                others = [event.at for event in past if event.kind == after["done"]]
                if role == "then":
                    number = sum(
                        other > window and any(at < other <= at + gap for at in own)
                        for other in others
                    )
                    watched = now >= since + within + gap
                else:
                    number = sum(
                        at > window
                        and now > at + gap
                        and not any(at < other <= at + gap for other in others)
                        for at in own
                    )
    least: int
    most: int | None
    if "not_done" in condition:
        least, most = 0, 0
    elif "exactly" in condition:
        least = most = condition["exactly"]
    else:
        least, most = condition.get("at_least", 1), condition.get("at_most")
    asked = least <= number and (most is None or number <= most)
    if watched:
        return asked
    if most is not None and number > most:
        return False
    return True if asked and (number or most is None) else None


def at_of(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1_000)


def turns(condition: Any, events: list[Happened], since: int) -> Iterator[int]:
    """Every instant at which a truth may turn, for certain."""
    spans = {0}
    hours: set[str] = set()

    def read(part: Any) -> None:
        if isinstance(part, list):
            for item in part:
                read(item)
        elif isinstance(part, dict):
            for name, value in part.items():
                if name in ("within", "not_within", "gap"):
                    spans.add(parse_duration(value))
                elif name in ("from", "until") and "T" in str(value):
                    bases.add(at_of(value))
                elif name in ("from", "to"):
                    hours.add(value)
                elif name == "signal" and "within" in SIGNALS[value]:
                    spans.add(parse_duration(SIGNALS[value]["within"]))
                read(value)

    bases = {event.at for event in events} | {since, NOW}
    read(condition)
    for hour in hours:
        clock = int(hour[:2]) * HOUR + int(hour[3:]) * MINUTE
        bases.update(T0 + n * DAY + clock for n in range(5))
    for base in bases:
        for one in spans:
            for other in spans:
                yield base + one + other
                yield base + one + other + 1


def minutes(least: int, most: int) -> st.SearchStrategy[str]:
    return st.integers(least, most).map(lambda n: f"{n}m")


KINDS: Final = st.sampled_from(["view", "buy"])
TIMES: Final[st.SearchStrategy[dict[str, int]]] = st.one_of(
    st.just({}),
    st.integers(2, 3).map(lambda n: {"at_least": n}),
    st.integers(0, 3).map(lambda n: {"exactly": n}),
    st.integers(1, 3).map(lambda n: {"at_most": n}),
    st.integers(1, 3).map(lambda n: {"at_least": 0, "at_most": n}),
)
WINDOW: Final = st.one_of(
    minutes(1, 300).map(lambda within: {"within": within}),
    st.tuples(st.integers(-60, 300), st.integers(1, 300)).map(
        lambda pair: {
            "from": datetime.fromtimestamp((T0 + pair[0] * MINUTE) / 1_000, UTC).isoformat(),
            "until": datetime.fromtimestamp((T0 + sum(pair) * MINUTE) / 1_000, UTC).isoformat(),
        }
    ),
)
LEAVES: Final[st.SearchStrategy[Any]] = st.one_of(
    st.builds(
        lambda signal, bound, n: {"signal": signal, bound: n},
        st.sampled_from(["views", "spent", "pages"]),
        st.sampled_from(["at_least", "at_most", "above", "below", "equals"]),
        st.integers(0, 4),
    ),
    minutes(1, 300).map(lambda age: {"signal": "bought", "within": age}),
    minutes(1, 300).map(lambda age: {"signal": "bought", "not_within": age}),
    st.tuples(st.integers(1, 100), st.integers(1, 300)).map(
        lambda ages: {
            "signal": "bought",
            "not_within": f"{ages[0]}m",
            "within": f"{sum(ages)}m",
        }
    ),
    st.builds(lambda kind, window, times: {"done": kind, **window, **times}, KINDS, WINDOW, TIMES),
    st.builds(lambda kind, window: {"not_done": kind, **window}, KINDS, WINDOW),
    st.builds(
        lambda kind, role, within, gap, times: {
            "done": kind,
            "within": within,
            role: {"done": "view", "gap": gap},
            **times,
        },
        KINDS,
        st.sampled_from(["then", "not_then"]),
        minutes(60, 300),
        minutes(1, 59),
        TIMES,
    ),
    st.sampled_from(
        [
            {"local_time": {"from": "02:15", "to": "05:30"}},
            {"local_time": {"from": "00:00", "to": "04:00"}},
        ]
    ),
)
CONDITIONS: Final[st.SearchStrategy[Any]] = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"all": parts})
        | st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"any": parts})
        | inner.map(lambda part: {"not": part})
    ),
    max_leaves=4,
)
EVENTS: Final = st.lists(
    st.builds(
        Happened,
        st.integers(0, 240).map(lambda n: T0 + n * MINUTE),
        st.sampled_from(["view", "buy", "dislike"]),
        st.sampled_from("ab"),
        st.sampled_from([0.5, 1.0, 3.0]),
    ),
    max_size=8,
)
SINCE: Final = st.sampled_from([T0 - 1_000 * DAY, T0 - HOUR, T0, T0 + 200 * MINUTE])


@settings(max_examples=300)
@given(CONDITIONS, EVENTS, SINCE, SINCE)
def test_a_verdict_is_the_naive_truth_and_following_until_misses_no_turn(
    condition: dict[str, Any], events: list[Happened], first: int, since: int
) -> None:
    world = World(condition, first=first).watched(since)
    world.see(*[arrived(e.kind, at=e.at, properties={"tag": e.tag}, value=e.value) for e in events])
    watched = max(first, since)
    probes = sorted({at for at in turns(condition, events, watched) if NOW <= at <= LAST})
    foretold: int | None = NOW
    held: bool | None = None
    steps = 0
    for probe in probes:
        # Evaluated at the instants foretold alone, the truth is right at every instant.
        while foretold is not None and foretold <= probe:
            verdict = world.verdict(foretold)
            assert verdict.until_ms is None or verdict.until_ms > foretold
            held, foretold = verdict
            steps += 1
        assert held is naive(condition, events, watched, probe), probe - NOW
        assert world.holds(probe) is held
    assert steps <= 2 * len(probes) + 2
    # A rule says the same as the condition that it explains.
    assert world.rule.evaluate(world.profile, world.moment(NOW)) == world.verdict(NOW)


@settings(max_examples=100)
@given(
    st.sampled_from("ab"),
    st.sampled_from(["at_least", "at_most", "above", "below"]),
    st.sampled_from([-3.0, -0.7, 0.3, 1.1, 4.2]),
    EVENTS,
    st.lists(st.integers(0, 3 * DAY), max_size=8),
)
def test_a_liking_crosses_its_bound_when_foretold(
    key: str, bound: str, number: float, events: list[Happened], probes: list[int]
) -> None:
    world = World({"signal": "tastes", "key": key, bound: number})
    world.see(*[arrived(e.kind, at=e.at, properties={"tag": e.tag}) for e in events])
    start = NOW
    holds, until = world.verdict(start)
    assert until is None or until > start
    for probe in probes:
        if until is None or start + probe < until:
            assert world.holds(start + probe) is holds
    if until is not None:
        assert world.holds(until) is not holds
