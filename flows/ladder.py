"""What does each step of personalisation earn? One shop under policies that see more and more.

Every step goes through the whole flow, with the same learner, exploration, caps and shoppers: the
policies in `flows/ladder_policies` differ in what may be seen, and so do the steps. A shop is drawn
from a seed; what its shoppers do by themselves, and how they react to what is shown, is the same in
every step (`flows.simulate.chance`), so that steps are compared shopper by shopper.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any, Final

import numpy as np
import orjson

from flows.estimate import estimate
from flows.ladder_lift import COLUMNS
from flows.ladder_people import People
from flows.replay import run_lockstep
from flows.shop.plan import shop_plan
from flows.simulate.chance import Floats
from flows.simulate.results import ArmResult
from flows.simulate.shop import Shop
from flows.tally import Tally
from operators.outputs import Outputs
from operators.plan import Plan
from schemas.records import RawBatch, RawRecord

Progress = Callable[[int, int], None]
"""Called with the runs done and the number of runs."""


@dataclass(frozen=True)
class Step:
    """A step of the ladder: its policy's name, what readers call it, and what it may see."""

    name: str
    title: str
    sees: str


STEPS: Final = (
    Step("popular", "the same for everybody", "nothing of anybody"),
    Step("static", "static segments", "what a person stated at the start"),
    Step("dynamic", "dynamic segments", "segments of behaviour too"),
    Step(
        "realtime", "real-time decisions", "signals, attributes and context, not cut into segments"
    ),
)
"""From the least to the most complex; each knows what the one before it knows, and more."""


@dataclass(frozen=True)
class Size:
    """How large the shops are, and which ones."""

    seeds: tuple[int, ...] = (1, 2, 3)
    shoppers: int = 800
    contents: int = 100
    days: int = 6


QUICK: Final = Size(seeds=(1, 2), shoppers=200, contents=60, days=3)


@dataclass(frozen=True)
class Run:
    """One step in one shop: sums per shopper, shape (shoppers, len(COLUMNS)), and what it took."""

    step: str
    seed: int
    sums: Floats
    events: int
    unaccounted: int
    cpu_seconds: float


@dataclass(frozen=True)
class Cost:
    """What a step takes: processor time per event, bytes of a typical profile, what is declared.

    The time is that of the flow with learning and files, without the simulated shoppers. The bytes
    are those of `nextbest check --estimate`.
    """

    us_per_event: float
    profile_bytes: int
    signals: int
    segments: int


@dataclass(frozen=True)
class Climbed:
    """Every step in every shop: `sums` has per seed (steps, shoppers, len(COLUMNS))."""

    size: Size
    sums: tuple[Floats, ...]
    costs: tuple[Cost, ...]
    digests: tuple[str, ...]
    events: int
    unaccounted: int


def policy_text(step: str) -> str:
    """The text of a step's policy."""
    return files("flows.ladder_policies").joinpath(f"{step}.yaml").read_text(encoding="utf-8")


def climb(
    size: Size, *, workers: int = 1, progress: Progress = lambda _done, _runs: None
) -> Climbed:
    """Play every step in every shop; with `workers` above 1, in so many processes at a time.

    The same size gives the same result but for the processor time.
    """
    tasks = [(step.name, seed, size) for seed in size.seeds for step in STEPS]
    found: dict[tuple[str, int], Run] = {}
    for run in _runs(tasks, workers):
        found[run.step, run.seed] = run
        progress(len(found), len(tasks))
    sums = tuple(np.stack([found[step.name, seed].sums for step in STEPS]) for seed in size.seeds)
    shop = _shop(size.seeds[0], size)
    plans = [shop_plan(shop, policy_text(step.name)) for step in STEPS]
    return Climbed(
        size=size,
        sums=sums,
        costs=tuple(
            _cost(plan, [found[step.name, seed] for seed in size.seeds])
            for step, plan in zip(STEPS, plans, strict=True)
        ),
        digests=tuple(plan.policy_digest for plan in plans),
        events=sum(run.events for run in found.values()),
        unaccounted=sum(run.unaccounted for run in found.values()),
    )


def spare_cores(most: int) -> int:
    """How many processes may work at a time: one per core, and no more than there are runs."""
    return max(1, min(os.cpu_count() or 1, most))


def quieten() -> None:
    """Keep what the flow has to say of single runs off the terminal: the figures say it."""
    logging.getLogger("flows").addHandler(logging.NullHandler())


def _runs(tasks: Sequence[tuple[str, int, Size]], workers: int) -> Iterator[Run]:
    if workers == 1:
        for task in tasks:
            yield play_step(*task)
        return
    # Spawned, not forked: the engine's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(workers, len(tasks)), mp_context=context, initializer=quieten
    ) as pool:
        futures = [pool.submit(play_step, *task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def play_step(step: str, seed: int, size: Size) -> Run:
    """Let one step's policy decide for one whole shop."""
    shop = _shop(seed, size)
    plan = shop_plan(shop, policy_text(step))
    people = People(shop)
    play = shop.play(step)
    tally = Tally(plan)
    visits = dict.fromkeys(shop.crowd.user_ids, 0)
    busy = 0.0
    handed: float | None = None

    def following(outputs: list[Outputs]) -> RawBatch | None:
        nonlocal busy, handed
        if handed is not None:
            busy += process_time() - handed
        events: list[dict[str, Any]] | None
        if play.tick == 0:
            events = play.start()
        else:
            events = play.step([made.record for out in outputs for made in out.decisions])
        if events is None:
            return None
        events = people.joined(events)
        for event in events:
            # Every session opens one page of its own accord.
            if event["type"] == "page_view":
                visits[event["user_id"]] += 1
        records = [
            RawRecord(tally.read + i, None, None, orjson.dumps(event))
            for i, event in enumerate(events)
        ]
        tally.read += len(records)
        handed = process_time()
        return RawBatch("shop", 0, 1, records)

    with TemporaryDirectory(prefix="nextbest-ladder-") as out:
        run_lockstep(plan, following, out=Path(out), tally=tally)
    accounting = tally.accounting
    return Run(
        step=step,
        seed=seed,
        sums=_sums(play.result(), list(visits.values()), plan),
        events=tally.read,
        unaccounted=abs(accounting.missing) + accounting.late + accounting.dead_letters,
        cpu_seconds=busy,
    )


def _shop(seed: int, size: Size) -> Shop:
    return Shop(seed, shoppers=size.shoppers, contents=size.contents, days=size.days)


def _sums(arm: ArmResult, visits: list[int], plan: Plan) -> Floats:
    worth = {
        kind: sum(r.value for r in plan.policy.rewards.values() if kind in r.events)
        for kind in ("click", "purchase")
    }
    columns = {
        "shown": arm.shopper_impressions,
        "clicks": arm.shopper_clicks,
        "pages": arm.shopper_pages,
        "purchases": arm.shopper_purchases,
        "revenue": arm.shopper_revenue,
        "reward": worth["click"] * arm.shopper_clicks + worth["purchase"] * arm.shopper_purchases,
        "visits": np.asarray(visits),
    }
    return np.column_stack([columns[name] for name in COLUMNS]).astype(np.float64)


def _cost(plan: Plan, runs: Sequence[Run]) -> Cost:
    return Cost(
        us_per_event=sum(r.cpu_seconds for r in runs) / sum(r.events for r in runs) * 1e6,
        profile_bytes=estimate(plan).typical,
        signals=len(plan.policy.signals),
        segments=len(plan.policy.segments),
    )
