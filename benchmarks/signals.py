"""What does a declared signal or segment cost: per event that touches it, and where none does?

Views of a few hundred profiles go through DECIDE, decoded already; nothing is asked of a placement.
Signals are the five kinds of the other benchmarks in turn, each with a window of its own. "Fed by
others" declares the same over a type that never arrives: what an event does not touch must cost
nothing. One hot profile with half of all traffic shows that neither bytes nor cost grow.
"""

from __future__ import annotations

from collections.abc import Callable
from time import process_time
from typing import Any, Final, NamedTuple

import numpy as np
import orjson

from benchmarks.measure import in_fresh_process, median, resident_bytes
from benchmarks.tables import Table, number, spread
from benchmarks.workload import POLICY, SHARDS, T0, Machines, decoder_of, machines
from flows.load import plan_of
from operators.arrival import Arrived, group_by_shard
from operators.ids import shard_of
from operators.parameters import LocalParameters
from operators.plan import Plan
from operators.profile import FAR, Profile, decode_profile, encode_profile
from operators.shard import ShardBatch
from schemas.catalogue import Content
from schemas.policy import Policy
from schemas.records import RawBatch, RawRecord
from schemas.time import rfc3339

NUMBERS: Final = (5, 20, 100)
CONTENTS: Final = 60
HOT: Final = "hot"
_WARM: Final = 16
_BATCH: Final = 1_000
_STEP_MS: Final = 5_000
_PACE_MS: Final = 60_000
"""Beside the hot profile: its windows have filled after a tenth of the log, and what grows after
that would grow for ever."""


def signals(count: int, events: str) -> dict[str, Any]:
    """So many signals over one type of event."""
    kinds: tuple[Callable[[int], dict[str, Any]], ...] = (
        lambda days: {"kind": "count", "events": events, "within": f"{days}d"},
        lambda days: {"kind": "sum", "events": events, "within": f"{days}d"},
        lambda days: {
            "kind": "distinct",
            "events": events,
            "of": "content.attributes.category",
            "within": f"{days}d",
        },
        lambda _days: {"kind": "last", "events": events},
        lambda days: {
            "kind": "affinity",
            "weights": {events: 1},
            "of": "content.tags",
            "half_life": f"{days}d",
        },
    )
    return {f"s{n}": kinds[n % len(kinds)](7 + n // len(kinds)) for n in range(count)}


def segments(count: int) -> dict[str, Any]:
    """So many segments, each with a bound of its own on one of five signals."""
    asked: tuple[Callable[[int], dict[str, Any]], ...] = (
        lambda n: {"signal": "s0", "at_least": 3 + n},
        lambda n: {"signal": "s1", "above": 10 * n},
        lambda n: {"signal": "s2", "at_least": 1 + n % 5},
        lambda n: {"signal": "s3", "within": f"{1 + n}h"},
        lambda n: {"signal": "s4", "key": f"t{n % 10}", "at_least": 2},
    )
    return {f"g{n}": {"when": asked[n % len(asked)](n // len(asked))} for n in range(count)}


def policy_of(own_signals: dict[str, Any], own_segments: dict[str, Any]) -> Plan:
    """The benchmarks' policy with other signals and segments."""
    sections = {**POLICY, "signals": own_signals, "segments": own_segments}
    return plan_of(
        Policy.model_validate(sections),
        [
            Content(
                content_id=f"c{i:04d}",
                type="product",
                tags=(f"t{i % 10}", f"u{i % 7}"),
                attributes={"category": f"k{i % 5}", "price": 1.0 + i},
            )
            for i in range(CONTENTS)
        ],
    )


def user(number: int) -> str:
    """The id of a profile."""
    return f"user-{number:07d}"


def views(
    of: Plan, count: int, users: list[str], *, begin: int = 0, step_ms: int = _STEP_MS
) -> list[Arrived]:
    """So many views of the log from one on, decoded; whose each is, is drawn."""
    rng = np.random.default_rng(begin)
    who = rng.integers(len(users), size=count).tolist()
    what = rng.integers(CONTENTS, size=count).tolist()
    records = []
    for i in range(count):
        at = T0 + (begin + i) * step_ms
        event = {
            "event_id": f"v{begin + i}",
            "user_id": users[who[i]],
            "type": "view",
            "content_id": f"c{what[i]:04d}",
            "value": 1.5 + what[i],
            "occurred_at": rfc3339(at),
        }
        records.append(RawRecord(begin + i, at, None, orjson.dumps(event)))
    decoded = decoder_of(of).decode(RawBatch("events", 0, 1, records))
    assert not decoded.dead_letters, decoded.dead_letters[0]
    return decoded.arrived


def decide(made: Machines, events: list[Arrived]) -> float:
    """CPU seconds of DECIDE for events, in batches."""
    taken = 0.0
    for at in range(0, len(events), _BATCH):
        grouped = group_by_shard(events[at : at + _BATCH], shards=SHARDS)
        started = process_time()
        for shard, mine in grouped.items():
            made.shards[shard].process(ShardBatch(shard, mine, (), 1))
        taken += process_time() - started
    return taken


def _look(made: Machines, name: str) -> Profile | None:
    return made.shards[shard_of(name, shards=SHARDS)].look(name)


class Size(NamedTuple):
    """How much is measured: profiles, views per run, runs, copies held in memory, hot events."""

    profiles: int
    events: int
    runs: int
    copies: int
    hot: int


FULL: Final = Size(500, 3_000, 5, 20_000, 100_000)
QUICK: Final = Size(20, 40, 1, 100, 100)


def cost(
    own_signals: dict[str, Any], own_segments: dict[str, Any], size: Size
) -> tuple[list[float], list[bytes]]:
    """CPU µs per view, once per run, on warm profiles; and some of the profiles, encoded."""
    of = policy_of(own_signals, own_segments)
    made = machines(of, LocalParameters())
    users = [user(n) for n in range(size.profiles)]
    warm = size.profiles * _WARM
    decide(made, views(of, warm, users))
    found = []
    for run in range(size.runs):
        events = views(of, size.events, users, begin=warm + run * size.events)
        found.append(decide(made, events) / size.events * 1e6)
    held = [_look(made, name) for name in users[:100]]
    return found, [encode_profile(profile, due_ms=FAR) for profile in held if profile is not None]


def memory(blocks: list[bytes], copies: int) -> tuple[float, float]:
    """Resident bytes per profile that is kept encoded, with its id and its timer, and decoded."""
    held: dict[str, bytes] = {}
    timers: list[tuple[int, str]] = []
    begin = resident_bytes()
    for n in range(copies):
        name = user(n)
        held[name] = bytes(bytearray(blocks[n % len(blocks)]))
        timers.append((T0 + n, name))
    cold = resident_bytes()
    decoded = [decode_profile(blocks[n % len(blocks)]) for n in range(copies // 10)]
    return (cold - begin) / len(held), (resident_bytes() - cold) / len(decoded)


def _signal_table(size: Size) -> Table:
    rows = []
    none, _ = cost({}, {}, size)
    rows.append(("none declared", number(median(none)), "–", number(median(none)), "–", "–", "–"))
    for declared in NUMBERS:
        fed, blocks = cost(signals(declared, "view"), {}, size)
        others, _ = cost(signals(declared, "other"), {}, size)
        cold, decoded = in_fresh_process(memory, blocks, size.copies)
        rows.append(
            (
                f"{declared}",
                f"{number(median(fed))} ({spread(fed)})",
                number((median(fed) - median(none)) / declared),
                f"{number(median(others))} ({spread(others)})",
                f"{sum(map(len, blocks)) / len(blocks):,.0f}",
                f"{cold:,.0f}",
                f"{decoded:,.0f}",
            )
        )
    return Table(
        "Signals: CPU µs of DECIDE per event, and bytes per profile",
        (
            "signals declared",
            "all fed by the event",
            "per signal",
            "all fed by other events",
            "bytes encoded",
            "in memory, cold",
            "in memory, decoded",
        ),
        tuple(rows),
        (
            f"Median (least to most) of {size.runs} runs of {size.events:,} views of "
            f"{size.profiles:,} profiles that have had {_WARM} views each, no segments and nothing "
            "to decide.",
            "Counts, sums, distinct values, last times and affinities in equal parts, windows of 7 "
            "to 26 days.",
            f"In memory: resident bytes of {size.copies:,} profiles (a tenth of that decoded), ids "
            "and timers included.",
        ),
    )


def _segment_table(size: Size) -> Table:
    rows = []
    for kind in ("view", "other"):
        base, _ = cost(signals(5, kind), {}, size)
        row = [number(median(base))]
        for declared in NUMBERS:
            found, _ = cost(signals(5, kind), segments(declared), size)
            row.append(f"{number(median(found))} ({spread(found)})")
        name = "that the event touches" if kind == "view" else "that it does not touch"
        rows.append((name, *row))
    return Table(
        "Segments: CPU µs of DECIDE per event",
        ("segments", "none", *(f"{declared}" for declared in NUMBERS)),
        tuple(rows),
        (
            f"Five signals, all fed by the event or none; median (least to most) of {size.runs} "
            f"runs of {size.events:,} views. Each segment asks about one signal, a fifth each "
            "about a count, a sum, distinct values, a last time and an affinity. Timers included.",
        ),
    )


def _hot_table(size: Size) -> Table:
    of = policy_of(signals(20, "view"), segments(20))
    made = machines(of, LocalParameters())
    rows = []
    seen = 0
    users = [user(n) for n in range(size.profiles)]
    for upto in (size.hot // 100, size.hot // 10, size.hot // 2, size.hot):
        first = seen
        hot_s = others_s = 0.0
        while seen < upto:
            some = min(_BATCH, upto - seen)
            hot = views(of, some, [HOT], begin=2 * seen, step_ms=_PACE_MS)
            others = views(of, some, users, begin=2 * seen + some, step_ms=_PACE_MS)
            hot_s += decide(made, hot)
            others_s += decide(made, others)
            seen += some
        held = _look(made, HOT)
        assert held is not None
        rows.append(
            (
                f"{seen:,}",
                number(hot_s / (seen - first) * 1e6),
                number(others_s / (seen - first) * 1e6),
                f"{len(encode_profile(held, due_ms=FAR)):,}",
            )
        )
    return Table(
        "One profile with half of all traffic",
        ("its events so far", "µs per event of it", "µs per event of others", "its bytes"),
        tuple(rows),
        (
            f"20 signals and 20 segments, all touched by every event; {size.profiles:,} other "
            "profiles share the other half. CPU time of DECIDE since the row above; one run.",
            "Windows fill while the first two rows are measured: after that nothing may grow.",
        ),
    )


def measure(*, quick: bool) -> list[Table]:
    """Signals, segments, and a hot profile."""
    size = QUICK if quick else FULL
    return [_signal_table(size), _segment_table(size), _hot_table(size)]
