"""What `nextbest check --estimate` says a profile takes must hold for those that really lived."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest
from rich.console import Console

from flows.check_cli import FAILED, PASSED, check
from flows.estimate import Estimate, closing_lines, estimate, print_estimate
from flows.estimate_fill import NOW_MS, fed, whole_profile
from operators.plan import Plan
from operators.profile import FAR, decode_profile, encode_profile
from schemas.time import DAY, HOUR, MINUTE
from tests.operators.builders import arrived, content, contents, plan, policy
from tests.operators.signal_builders import encoded, fold
from tests.operators.test_budget import SIGNALS

ROOT: Final = Path(__file__).parents[1]
POLICY: Final = ROOT / "examples" / "policy.yaml"
CATALOGUE: Final = ROOT / "examples" / "catalogue.yaml"

EVERYTHING: Final[dict[str, Any]] = {
    "signals": {
        **SIGNALS,
        "brands": {
            "kind": "affinity",
            "weights": {"view": 1},
            "of": "content.attributes.brand",
        },
        "share": {"kind": "ratio", "of": "spent", "to": "buys"},
        "weeks": {"kind": "streak", "events": "view", "per": "week", "zone": "Europe/Berlin"},
        "length": {"kind": "session", "measure": "length", "gap": "1s"},
        "age": {"kind": "last", "events": "view"},
        "second": {"kind": "sum", "events": "buy", "within": "1s"},
    },
    "segments": {
        "once": {"when": {"done": "view", "from": "2024-01-01", "until": "2024-02-01"}},
        "later": {"when": {"done": "view", "from": "2030-01-01", "until": "2031-01-01"}},
        "gold": {"when": {"attribute": "tier", "is": "gold"}, "for_at_least": "1d"},
    },
    "intents": {"buying": {"signal": "buys", "at_least": 1}},
    "predictions": {
        "buys_soon": {"target": {"done": "buy", "within": "7d"}},
        "like_gold": {"target": {"segment": "gold"}},
    },
    "identity": {"attributes": {"rule": "recency"}},
    "consent": {"collect": "analytics"},
    "placements": {
        "home": {
            "rewards": ["click"],
            "slots": 10,
            "caps": [{"max": 5, "within": "1d"}, {"max": 9, "within": "1d", "per": "tag"}],
            "features": {"context": ["device"], "predictions": ["buys_soon"]},
        },
        "mail": {"rewards": ["click"], "candidates": {"from": "request"}, "slots": 20},
    },
}


def everything(**sections: Any) -> Plan:
    """A policy that uses all there is, over contents with brands."""
    return plan(
        policy(**{**EVERYTHING, **sections}),
        [content(f"c{n}", tags=["red"], attributes={"brand": f"b{n % 3}"}) for n in range(9)],
    )


WHOLE: Final = everything()


def part(found: Estimate, name: str) -> tuple[int, int]:
    """A part's typical and largest bytes."""
    return next((p.typical, p.largest) for p in found.parts if p.name == name)


@pytest.mark.parametrize("of", list(WHOLE.signals), ids=lambda of: str(of.name)[:24])
def test_no_life_takes_more_than_the_largest_state(of: Any) -> None:
    largest = fed(of, WHOLE, largest=True)
    if len(of.needs) > 1:
        assert largest is None
        return
    bound = len(encoded({of.slot: largest}))
    random = Random(of.slot)
    for pace in (200, MINUTE, 11 * MINUTE, 7 * HOUR, 2 * DAY + HOUR):
        at, events = NOW_MS - 1_500 * pace, []
        for n in range(1_500):
            at += random.randrange(2 * pace)
            events.append(
                arrived(
                    random.choice(("view", "buy")),
                    at=at,
                    content_id=f"c{n}".ljust(200, "x"),
                    value=random.choice((-1e12, 1e12, 0.1)),
                    properties={"tag": f"t{n}".ljust(200, "x")},
                )
            )
        held = fold(of, events, content=content("c1", attributes={"brand": "b1"}))
        assert len(encoded(held)) <= bound


def test_the_typical_state_is_that_of_twenty_events_over_the_window() -> None:
    found = estimate(WHOLE)
    twenty = [
        arrived("buy", at=NOW_MS - 30 * DAY * n // 20, value=19.99) for n in reversed(range(20))
    ]
    of = next(signal for signal in WHOLE.signals if signal.name == "buys")
    # One byte is the map's own, which every profile has.
    assert part(found, "buys")[0] == len(encoded(fold(of, twenty))) - 1
    # Texts that come from the catalogue are those of the catalogue.
    brands = next(signal for signal in WHOLE.signals if signal.name == "brands")
    liked = fed(brands, WHOLE, largest=False)
    assert liked is not None
    assert liked[1].keys() == {"b0", "b1", "b2"}


def test_the_parts_add_up_to_the_whole() -> None:
    found = estimate(WHOLE)
    for whole, parts in (
        (found.typical, [p.typical for p in found.parts]),
        (found.largest, [p.largest for p in found.parts]),
    ):
        # A list or a map of many has a head of two to four bytes more than one of few.
        assert abs(whole - sum(parts)) <= 4 * len(parts)
    assert all(p.typical <= p.largest for p in found.parts)
    assert {p.name for p in found.parts} >= {*WHOLE.policy.signals, "done, not done", "caps"}
    assert part(found, "share") == (0, 0)
    assert part(found, "prediction cases")[0] > 0


def test_the_profiles_that_are_measured_are_real_ones() -> None:
    for largest in (False, True):
        made = whole_profile(WHOLE, largest=largest)
        assert decode_profile(encode_profile(made, due_ms=FAR)) == made
    assert estimate(WHOLE) == estimate(everything())


def test_a_budget_bounds_the_largest() -> None:
    free = estimate(everything(retention={"profile_bytes": 1 << 20}))
    assert free.bound == free.largest
    tight = estimate(everything(retention={"profile_bytes": 32_768}))
    assert tight.largest == free.largest > 32_768
    assert tight.bound == 32_768
    assert any("gives up detail" in line for line in closing_lines(tight))
    assert not any("gives up detail" in line for line in closing_lines(free))


def test_a_policy_that_cannot_fit_its_budget_is_told_so() -> None:
    many = {f"s{n}": {"kind": "sum", "events": "buy", "within": f"{n + 2}d"} for n in range(60)}
    found = estimate(
        everything(signals={**EVERYTHING["signals"], **many}, retention={"profile_bytes": 4_096})
    )
    assert found.floor > 4_096
    assert found.bound > 4_096
    assert any(f"{found.floor:,} bytes" in line for line in closing_lines(found))


def test_a_policy_without_a_catalogue_is_estimated_too() -> None:
    assert estimate(plan(policy(**EVERYTHING), [])).typical > 1_000
    assert estimate(plan(policy(), contents())).typical < 1_000


# The command.


def run(
    policy_path: Path, catalogue_path: Path, *, estimated: bool = False, as_json: bool = False
) -> tuple[int, str]:
    out = StringIO()
    code = check(
        policy_path,
        catalogue_path,
        console=Console(file=out, width=80),
        estimated=estimated,
        as_json=as_json,
    )
    return code, out.getvalue()


def test_check_prints_a_table_that_fits_a_terminal() -> None:
    code, said = run(POLICY, CATALOGUE, estimated=True)
    assert code == PASSED
    assert "no mistakes" in said
    assert "1,000,000 typical profiles" in said
    for name in ("taste", "reads_7d", "open decisions", "within its budget"):
        assert any(line.startswith(name) for line in said.splitlines())
    assert max(map(len, said.splitlines()[1:])) <= 80
    _, without = run(POLICY, CATALOGUE)
    assert said.startswith(without)
    assert len(without.splitlines()) == 1


def test_check_writes_json_and_nothing_else() -> None:
    code, said = run(POLICY, CATALOGUE, as_json=True)
    record = json.loads(said)
    assert code == PASSED
    assert record["warnings"] == []
    assert record["in_memory_bytes_of_all"] == record["in_memory_bytes"] * record["profiles"]
    by_name = {p["name"]: p for p in record["parts"]}
    assert by_name["taste"]["what"] == "affinity"
    assert by_name["reads_7d"]["typical_bytes"] < by_name["reads_7d"]["largest_bytes"]
    assert record["typical_bytes"] < record["bound_bytes"] <= record["largest_bytes"]


@pytest.mark.parametrize("asked", [{"estimated": True}, {"as_json": True}])
def test_a_policy_with_mistakes_has_no_estimate(tmp_path: Path, asked: dict[str, bool]) -> None:
    wrong = tmp_path / "policy.yaml"
    wrong.write_text(POLICY.read_text().replace("kind: count", "kind: counts"))
    code, said = run(wrong, CATALOGUE, **asked)
    assert code == FAILED
    assert "mistake" in said
    assert "bytes" not in said


def test_names_are_printed_as_they_are() -> None:
    """Rich reads brackets as markup; a signal's name has none, a long one is cut."""
    found = estimate(
        plan(policy(signals={"s" * 60: {"kind": "count", "events": "v", "within": "1d"}}))
    )
    out = StringIO()
    print_estimate(found, console=Console(file=out, width=80))
    assert any(line.startswith("ssss") and "…" in line for line in out.getvalue().splitlines())
