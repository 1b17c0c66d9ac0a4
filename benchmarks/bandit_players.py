"""Who plays against whom in the simulation? Ours as the product composes it, and the others.

A player chooses one of the live contents and hears of the outcome when it arrives. It keeps what
it needs for that in a ticket of its own.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from benchmarks.bandit_world import Setting, Visit, World
from benchmarks.errors import BenchmarkUnavailable
from flows.load import plan_of
from operators.crosses import crosses_of
from operators.explore import draw_slate
from operators.ids import uniform
from operators.learn import Learner
from operators.outputs import Example
from operators.plan import Plan
from operators.profile import Profile
from operators.score import Scorer, scorer_of
from schemas.catalogue import Content
from schemas.policy import Policy

_PLACEMENT: Final = "home"


class Player(Protocol):
    """One policy in the simulation."""

    def choose(self, visit: Visit, step: int) -> tuple[int, Any]:
        """The index into `visit.live` that is shown at a step, and a ticket for its outcome."""

    def rewarded(self, ticket: Any) -> None:
        """The reward of what was shown has come."""

    def closed(self, ticket: Any, *, rewarded: bool) -> None:
        """The attribution window of what was shown is over."""


class Ours:
    """Learner, published sets, scorer and draw as the flow composes them.

    `model`, `exploration` and `features` are sections of a placement's policy.
    """

    def __init__(self, world: World, *, seed: int, **sections: Any) -> None:
        self._plan = bandit_plan(world, **sections)
        self._placement = self._plan.models[_PLACEMENT]
        self._share = self._placement.policy.model.negatives
        self._learner = Learner(_PLACEMENT, self._plan, incarnation="benchmark")
        self._seed = seed
        self._scorer: Scorer | None = None
        self._crosses = crosses_of(self._placement, self._plan.contents)
        self._at = np.array(
            [self._plan.contents.index[content.name] for content in world.contents], np.intp
        )
        self._names = [f"f{number:02d}" for number in range(world.setting.fields)]
        self._nobody = Profile("p", 0, 0)

    def choose(self, visit: Visit, step: int) -> tuple[int, Any]:
        """Score all live contents with the newest set and draw."""
        told = {n: f"v{v}" for n, v in zip(self._names, visit.values, strict=True)}
        cells = self._placement.features.cells(self._nobody, 0, told)
        positions = self._at[visit.live]
        scorer = self._scorer
        exploration = self._placement.policy.exploration
        spread: dict[str, Any] = {}
        scores = None
        if scorer is not None:
            scores = scorer.score(cells, positions)
            if exploration.kind == "thompson" or exploration.optimism:
                spread = {"spread": scorer.spread(cells, positions), "noise_of": f"{step}"}
        [drawn] = draw_slate(
            scores,
            count=len(positions),
            slots=1,
            exploration=exploration,
            rewarded=0 if scorer is None else scorer.parameters.rewarded,
            chances=[uniform(f"{self._seed}|{step}")],
            **spread,
        )
        content_id = self._plan.contents.ids[positions[drawn.position]]
        ticket = (content_id, np.array(cells, np.uint32).tobytes(), step)
        # As `operators.attribute` does: the negative at once, by a hash of the decision.
        if self._share >= 1 or uniform(f"{self._seed}|{step}|negative") < self._share:
            self._learn(ticket, None, 1.0 / self._share)
        return drawn.position, ticket

    def rewarded(self, ticket: Any) -> None:
        """The correction of the fake negative."""
        self._learn(ticket, "click", 1.0)

    def closed(self, ticket: Any, *, rewarded: bool) -> None:
        """Closing a window teaches nothing."""

    def _learn(self, ticket: Any, kind: str | None, weight: float) -> None:
        content_id, features, step = ticket
        published, _ = self._learner.learn(
            [Example(_PLACEMENT, content_id, features, kind, weight, step)]
        )
        if published:
            self._scorer = scorer_of(
                self._placement, self._plan.contents, published[-1], crosses=self._crosses
            )


def bandit_plan(world: World, **sections: Any) -> Plan:
    """The simulation's policy (defaults but for `sections` of the placement) and catalogue."""
    features = sections.pop("features", {})
    policy = {
        "name": "bandit",
        "rewards": {"click": {"events": "click", "value": 1, "within": "1d"}},
        "placements": {
            _PLACEMENT: {
                "rewards": ["click"],
                "features": {
                    "context": [f"f{number:02d}" for number in range(world.setting.fields)],
                    **features,
                },
                **sections,
            }
        },
    }
    catalogue = [
        Content(
            content_id=content.name,
            type="item",
            tags=(content.tag,),
            attributes={
                "category": content.category,
                "brand": content.brand,
                "style": content.style,
            },
        )
        for content in world.contents
    ]
    return plan_of(Policy.model_validate(policy), catalogue)


class Vowpal:
    """Vowpal Wabbit's contextual bandit over the same fields of visitors and contents.

    `teach` says what it learns of a reward that comes late: `window` one labelled example when the
    window closes; `arrival` the reward when it comes and the lack of one when the window closes;
    `at_once` no reward at once, and the reward as one more example when it comes.
    """

    def __init__(self, world: World, *, seed: int, options: str, teach: str) -> None:
        try:
            workspace = import_module("vowpalwabbit").Workspace
        except ImportError as error:
            raise BenchmarkUnavailable(
                "vowpalwabbit is not installed: pip install vowpalwabbit"
            ) from error
        self._vw = workspace(f"--cb_explore_adf -q pc --quiet --random_seed {seed + 1} {options}")
        self._teach = teach
        self._seed = seed
        self._lines = [
            f"|c id={c.name} category={c.category} brand={c.brand} style={c.style} tag={c.tag}"
            for c in world.contents
        ]

    def choose(self, visit: Visit, step: int) -> tuple[int, Any]:
        """Draw from the probabilities that it gives."""
        shared = "shared |p " + " ".join(f"f{n}=v{v}" for n, v in enumerate(visit.values))
        lines = [self._lines[i] for i in visit.live]
        said: Sequence[float] = self._vw.predict("\n".join([shared, *lines]))
        line = np.cumsum(said)
        chance = uniform(f"{self._seed}|{step}") * float(line[-1])
        at = min(int(line.searchsorted(chance, side="right")), len(lines) - 1)
        ticket = (shared, lines, at, float(said[at]))
        if self._teach == "at_once":
            self._learn(ticket, 0.0)
        return at, ticket

    def rewarded(self, ticket: Any) -> None:
        """Learn it now unless labels wait for the window."""
        if self._teach != "window":
            self._learn(ticket, -1.0)

    def closed(self, ticket: Any, *, rewarded: bool) -> None:
        """Learn what was not learned before."""
        if self._teach == "window" or (self._teach == "arrival" and not rewarded):
            self._learn(ticket, -float(rewarded))

    def _learn(self, ticket: Any, cost: float) -> None:
        shared, lines, at, propensity = ticket
        labelled = list(lines)
        labelled[at] = f"0:{cost}:{propensity:.6f} {lines[at]}"
        self._vw.learn("\n".join([shared, *labelled]))


class Played(Protocol):
    """Makes a player for a world."""

    def __call__(self, world: World, *, seed: int) -> Player:
        """A player that has learned nothing yet."""


class Tally:
    """What a player got, beside what knowing everything and choosing blindly would have got."""

    def __init__(self) -> None:
        self.got = self.best = self.blind = 0.0

    @property
    def closed(self) -> float:
        """The share of the way from blind choice (0) to perfect knowledge (1)."""
        return (self.got - self.blind) / (self.best - self.blind)

    @property
    def regret(self) -> float:
        """Expected rewards lost against perfect knowledge."""
        return self.best - self.got


def play(make: Played, setting: Setting, *, seed: int, delay: float = 0.0) -> Tally:
    """One player through one world; rewards come `delay` steps late on average (exponential).

    An attribution window is three mean delays: one reward in twenty comes after it and is lost to
    those who wait for it to close.
    """
    world, tally = World(setting, seed), Tally()
    player = make(world, seed=seed)
    window = math.ceil(3 * delay)
    late: npt.NDArray[np.float64] = np.random.default_rng(seed + 10_000).exponential(
        delay or 1.0, setting.steps
    )
    due: list[tuple[float, int, Any]] = []
    open_: dict[int, tuple[Any, bool]] = {}
    for step, visit in enumerate(world.visits()):
        while due and due[0][0] <= step:
            _, since, ticket = heapq.heappop(due)
            if since in open_:
                open_[since] = (ticket, True)
            player.rewarded(ticket)
        if step - window in open_:
            ticket, came = open_.pop(step - window)
            player.closed(ticket, rewarded=came)
        at, ticket = player.choose(visit, step)
        probability = float(visit.probabilities[at])
        tally.got += probability
        tally.best += float(visit.probabilities.max())
        tally.blind += float(visit.probabilities.mean())
        rewarded = visit.luck < probability
        if delay:
            open_[step] = (ticket, False)
            if rewarded:
                heapq.heappush(due, (step + float(late[step]), step, ticket))
        else:
            if rewarded:
                player.rewarded(ticket)
            player.closed(ticket, rewarded=rewarded)
    return tally
