"""What do the model and a person see of each kind of signal?"""

from __future__ import annotations

from typing import Any, Final

import pytest

from operators.features import Hashes, ProfileFeatures
from operators.ids import hash32
from operators.moment import Moment
from operators.plan import Plan
from operators.profile import Profile
from operators.signals import compile_signals
from operators.views import profile_view
from schemas.learning import Features
from schemas.policy import Sensitive
from schemas.time import DAY, HOUR, MINUTE, rfc3339
from tests.operators.builders import T0, arrived, content, plan, profile
from tests.operators.signal_builders import declare, fold, view

SIGNALS: Final[dict[str, dict[str, Any]]] = {
    "views": {"kind": "count", "events": "view", "within": "7d"},
    "mean_price": {"kind": "mean", "events": "buy", "within": "7d"},
    "cheapest": {"kind": "min", "events": "buy", "within": "7d"},
    "pages": {"kind": "distinct", "events": "view", "within": "7d"},
    "seen": {"kind": "last", "events": "view"},
    "began": {"kind": "first", "events": "view"},
    "brand": {"kind": "last", "events": "view", "of": "properties.brand"},
    "paid": {"kind": "last", "events": "buy", "of": "value"},
    "per_view": {"kind": "ratio", "of": "mean_price", "to": "views"},
    "taste": {"kind": "affinity", "weights": {"view": 1}},
    "cart": {
        "kind": "sequence",
        "first": {"events": "view"},
        "then": {"events": "buy"},
        "gap": "1h",
        "within": "7d",
    },
    "days": {"kind": "streak", "events": "view", "per": "day"},
    "length": {"kind": "session", "measure": "length"},
    "worth": {"kind": "rfm", "events": "buy", "monetary": [10, 100, 1_000, 10_000]},
}
EVENTS: Final = [
    view(T0, content_id="c1", properties={"brand": "nike"}),
    view(T0 + MINUTE, content_id="c2", properties={"brand": "puma"}),
    arrived("buy", at=T0 + 2 * MINUTE, value=12.5),
]
COMPILED: Final = compile_signals({name: declare(**s) for name, s in SIGNALS.items()})
NOW: Final = T0 + 10 * MINUTE


def features_of(name: str, signals: dict[int, Any]) -> set[str]:
    """Which of the texts that may stand for a signal are among its features."""
    reads = ProfileFeatures(
        Features.model_validate({"signals": [name]}),
        level=2,
        signals=COMPILED,
        segments=frozenset(),
        sensitive=Sensitive(),
        hashes=Hashes(),
    )
    known = profile(at=T0, signals=signals)
    known.now_ms = NOW
    cells = set(reads.cells(known, NOW, {})) - {hash32("1")}
    texts = ["none", "never", *"0123456789", *(f"{n / 2:.1f}" for n in range(-40, 80))]
    guesses = [f"{name}~{text}" for text in texts]
    guesses += [f"{name}{sign}{text}" for sign in "=^" for text in ("", "red", "puma", "nike")]
    guesses += [f"{name}~{number}" for number in range(10, 30)]
    found = {guess for guess in guesses if hash32(guess) in cells}
    assert len(found) == len(cells), "a feature that no guess covers"
    return found


@pytest.mark.parametrize(
    ("name", "with_events", "without"),
    [
        ("views", {"views~1"}, {"views~0"}),
        ("mean_price", {"mean_price~7.0"}, {"mean_price~none"}),
        ("cheapest", {"cheapest~7.0"}, {"cheapest~none"}),
        ("pages", {"pages~1"}, {"pages~0"}),
        ("seen", {"seen~1"}, {"seen~never"}),
        ("began", {"began~1"}, {"began~never"}),
        ("brand", {"brand=puma"}, {"brand~none"}),
        ("paid", {"paid~7.0"}, {"paid~none"}),
        ("per_view", {"per_view~5.0"}, {"per_view~none"}),
        ("taste", {"taste^red", "taste=red"}, {"taste^"}),
        ("cart", {"cart~1"}, {"cart~0"}),
        ("days", {"days~1"}, {"days~0"}),
        ("length", {"length~16"}, {"length~0"}),
        ("worth", {"worth~8"}, {"worth~0"}),
    ],
)
def test_the_model_sees_every_kind(name: str, with_events: set[str], without: set[str]) -> None:
    held = fold(COMPILED.values(), EVENTS, content=content(tags=["red"]))
    assert features_of(name, held) == with_events
    assert features_of(name, {}) == without


def signals_of(known: Profile, of: Plan) -> dict[str, Any]:
    shown: dict[str, Any] = profile_view(known, of, Moment(known.now_ms))["signals"]
    return shown


def test_a_person_sees_every_kind_by_its_name() -> None:
    of = plan(signals=SIGNALS)
    held = fold([s for s in of.signals if s.name in SIGNALS], EVENTS, content=content(tags=["red"]))
    known = profile(at=T0, signals=held)
    known.now_ms = NOW
    shown = signals_of(known, of)
    taste = shown.pop("taste")
    assert taste["red"] == pytest.approx(2.0, abs=0.01)
    assert shown == {
        "views": 2,
        "mean_price": 12.5,
        "cheapest": 12.5,
        "pages": 2,
        "seen": rfc3339(T0 + MINUTE),
        "began": rfc3339(T0),
        "brand": "puma",
        "paid": 12.5,
        "per_view": 6.25,
        "cart": 1,
        "days": 1,
        "length": 2 * MINUTE,
        "worth": {"score": 8, "recency": 8 * MINUTE, "frequency": 1, "monetary": 12.5},
    }


def test_a_person_sees_nothing_of_what_is_not_held() -> None:
    known = profile(at=T0)
    assert signals_of(known, plan(signals=SIGNALS)) == {}
    later = profile(at=T0, signals=fold(COMPILED.values(), EVENTS[2:]))
    later.now_ms = T0 + 8 * DAY + HOUR
    shown = signals_of(later, plan(signals=SIGNALS))
    # What has left its window is a 0 where that is a number, and missing where it is none.
    assert "mean_price" not in shown
    assert shown["worth"]["frequency"] == 1
    assert shown["length"] == 0
