"""How many bytes does a profile take under a policy: typically, and at most?

`nextbest check POLICY CATALOGUE --estimate`. Bytes are those of the profile's own encoding, as they
lie in memory while it is cold; `flows.estimate_fill` says what is filled in. Nothing is measured
while it runs, so that the same policy gives the same figures on any machine.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.estimate_fill import whole_profile
from operators.budget import Budget, encoded_size
from operators.outputs import Outputs
from operators.plan import Plan
from operators.profile import Profile

HELD_BYTES: Final = 250
"""What a cold profile takes in the process beside its bytes: its id in a dict, a timer, headers.

Measured: 245 bytes, as resident memory of 100,000 encoded profiles less their bytes
(`python -m benchmarks.run signals` measures it again).
"""
DECODED: Final = 6.5
"""How many times its bytes a profile takes while it is decoded: Python's numbers and texts are
objects. Measured in the same way, 5.2 to 6.2 times. At most 128 profiles per shard are decoded.
"""
MANY: Final = 1_000_000


@dataclass(frozen=True)
class Part:
    """Something that a profile holds, in bytes."""

    name: str
    what: str
    typical: int
    largest: int


@dataclass(frozen=True)
class Estimate:
    """Bytes per profile, part by part.

    `largest` is what could come together if nothing were given up, `limit` the policy's
    `retention.profile_bytes`, `floor` what the declared signals and segments keep of the largest
    profile when all else is given up; `kept` what a person stated and caps count may add to it.
    """

    parts: tuple[Part, ...]
    typical: int
    largest: int
    limit: int
    floor: int
    kept: int

    @property
    def bound(self) -> int:
        """The most that a profile takes, its budget applied."""
        return min(self.largest, max(self.limit, self.floor + self.kept))

    @property
    def held(self) -> int:
        """Bytes of memory that a typical cold profile takes in the process."""
        return self.typical + HELD_BYTES

    def record(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "parts": [
                {
                    "name": part.name,
                    "what": part.what,
                    "typical_bytes": part.typical,
                    "largest_bytes": part.largest,
                }
                for part in self.parts
            ],
            "typical_bytes": self.typical,
            "largest_bytes": self.largest,
            "profile_bytes": self.limit,
            "bound_bytes": self.bound,
            "floor_bytes": self.floor,
            "in_memory_bytes": self.held,
            "decoded_bytes": round(self.typical * DECODED),
            "profiles": MANY,
            "in_memory_bytes_of_all": self.held * MANY,
        }


def estimate(plan: Plan) -> Estimate:
    """The bytes of a typical and of the largest profile under a plan."""
    typical, largest = whole_profile(plan, largest=False), whole_profile(plan, largest=True)
    floor, kept = _floor(plan, largest)
    return Estimate(
        parts=tuple(_parts(plan, typical, largest)),
        typical=encoded_size(typical),
        largest=encoded_size(largest),
        limit=plan.policy.retention.profile_bytes,
        floor=floor,
        kept=kept,
    )


_STATED: Final[dict[str, Any]] = {
    "consent": {},
    "hidden": {},
    "gpc_ms": 0,
    "less": {},
    "preferences": {},
    "prompted": {},
}
_SECTIONS: Final[tuple[tuple[str, str, dict[str, Any]], ...]] = (
    ("segments", "memberships and deadlines", {"segments": {}, "deadlines": {}, "holding": {}}),
    ("attributes", "values, sources", {"attributes": {}, "provenance": {}, "records": {}}),
    ("statements", "consent, do-not-show, levels", _STATED),
    ("caps", "impressions counted", {"shown": {}}),
    ("open decisions", "awaiting outcomes", {"pending": []}),
    ("last decisions", "per placement", {"last": {}, "last_ms": {}, "turned": {}}),
    ("prediction cases", "awaiting labels", {"cases": [], "sampled": {}}),
)


def _parts(plan: Plan, typical: Profile, largest: Profile) -> list[Part]:
    both = (typical, largest)
    parts, implied = [], [0, 0]
    emptied: dict[str, Any] = {"signals": {}}
    for signal in plan.signals:
        taken = [_taken_by_signal(profile, signal.slot) for profile in both]
        if signal.name in plan.policy.signals:
            kind = plan.policy.signals[signal.name].kind
            parts.append(Part(signal.name, kind, *taken))
        else:
            implied = [known + more for known, more in zip(implied, taken, strict=True)]
    number = len(plan.signals) - len(parts)
    if number:
        parts.append(Part("done, not done", f"{number} counted for conditions", *implied))
    for name, what, without in _SECTIONS:
        emptied |= without
        parts.append(Part(name, what, *(_taken_by(profile, without) for profile in both)))
    bare = [encoded_size(msgspec.structs.replace(profile, **emptied)) for profile in both]
    return [Part("the profile itself", "id, times", *bare), *parts]


def _taken_by(profile: Profile, without: dict[str, Any]) -> int:
    return encoded_size(profile) - encoded_size(msgspec.structs.replace(profile, **without))


def _taken_by_signal(profile: Profile, slot: int) -> int:
    rest = {other: state for other, state in profile.signals.items() if other != slot}
    return _taken_by(profile, {"signals": rest})


def _floor(plan: Plan, largest: Profile) -> tuple[int, int]:
    """What stays of the largest profile: what the policy asks for, and what people state."""
    held = copy.deepcopy(largest)
    budget = Budget(plan)
    budget.limit = 0
    budget.shrink(held, out=Outputs())
    left = encoded_size(held)
    stated = _taken_by(held, {**_STATED, "shown": {}})
    return left - stated, stated


def print_estimate(found: Estimate, *, console: Console) -> None:
    """The estimate as a table and a few sentences, within 80 columns."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("bytes per profile", overflow="ellipsis", no_wrap=True, max_width=30)
    table.add_column("", style="dim", overflow="ellipsis", no_wrap=True, max_width=26)
    table.add_column("typical", justify="right")
    table.add_column("largest", justify="right")
    for part in found.parts:
        table.add_row(Text(part.name), part.what, f"{part.typical:,}", f"{part.largest:,}")
    table.add_row("all", "", f"{found.typical:,}", f"{found.largest:,}", style="bold")
    table.add_row("within its budget", "retention.profile_bytes", "", f"{found.bound:,}")
    console.print(table)
    for line in closing_lines(found):
        console.print(Text(line))


def closing_lines(found: Estimate) -> list[str]:
    """What the figures come to, in sentences."""
    decoded = round(found.typical * DECODED)
    lines = [
        f"1,000,000 typical profiles: about {_size(found.held * MANY)} in the process "
        f"({found.typical:,} bytes each and about {HELD_BYTES} for its id, its timer and Python's "
        "own), before the shards' memory of event ids.",
        f"A decoded profile takes about {DECODED:g} times its bytes, {_size(decoded)}; at most 128 "
        "per shard are.",
    ]
    if found.floor > found.limit:
        lines.append(
            f"Signals and segments alone may need {found.floor:,} bytes: more than the budget of "
            f"{found.limit:,}, whatever else is given up. Expect retention.profile_bytes of at "
            "least that, or declare less."
        )
    elif found.largest > found.limit:
        lines.append(
            f"Above {found.limit:,} bytes a profile gives up detail, in the order that "
            "docs/policy.md lists under Retention."
        )
    return lines


def _size(number: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if number < 1_024:
            return f"{number:,.0f} {unit}" if unit == "bytes" else f"{number:,.1f} {unit}"
        number /= 1_024
    return f"{number:,.1f} GiB"
