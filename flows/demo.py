"""The main job on the embedded default: simulated shoppers react to the flow's own decisions.

A closed loop through the real dataflow, with no server: each tick's events go in over an in-process
channel, the decisions that come out are what the shoppers see, and the next tick holds their
reactions. The baselines meet the same shoppers with the same draws.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import orjson

from flows.replay import run_lockstep
from flows.report import ReportData, write_report
from flows.shop.plan import shop_plan, shop_policy
from flows.simulate.baselines import MostPopularArm, RandomArm, play_arm
from flows.simulate.results import ArmResult
from flows.simulate.shop import Shop
from flows.tally import Tally
from operators.outputs import Outputs
from operators.plan import Plan
from schemas.records import RawBatch, RawRecord

SUBJECT: Final = "nextbest"
Progress = Callable[[str, int, int], None]
"""Called with the arm's name, the tick and the number of ticks."""


@dataclass(frozen=True)
class Shown:
    """The arms of a demo, the subject first, and how the subject's run went."""

    arms: tuple[ArmResult, ...]
    tally: Tally
    examples: int
    elapsed_s: float
    report: Path


def play_flow(
    shop: Shop, plan: Plan, out: Path, *, tally: Tally, progress: Progress
) -> tuple[ArmResult, int]:
    """Let the flow decide for the whole shop; its result and the number of examples learned."""
    play = shop.play(SUBJECT)
    ticks = shop.ticks()
    offset = 0
    started = last = perf_counter()
    size = decided = 0

    def following(outputs: list[Outputs]) -> RawBatch | None:
        nonlocal offset, last, size, decided
        now = perf_counter()
        if play.tick == 0:
            events: list[dict[str, Any]] | None = play.start()
        else:
            tally.timed(
                elapsed_s=now - started,
                decisions=tally.decisions - decided,
                batch_s=now - last,
                events=size,
            )
            decided = tally.decisions
            events = play.step([made.record for out in outputs for made in out.decisions])
        progress(SUBJECT, play.tick, ticks)
        if events is None:
            return None
        records = [
            RawRecord(offset + i, None, None, orjson.dumps(event)) for i, event in enumerate(events)
        ]
        offset += len(records)
        size = len(records)
        tally.read += size
        last = perf_counter()
        return RawBatch("shop", 0, 1, records)

    examples = run_lockstep(plan, following, out=out, tally=tally)
    return play.result(), examples


def run_demo(
    out: Path,
    *,
    seed: int = 1,
    shoppers: int = 2_000,
    contents: int = 300,
    days: int = 10,
    policy_text: str | None = None,
    progress: Progress = lambda _arm, _tick, _ticks: None,
) -> Shown:
    """Play the flow, most popular and random; write outputs, policy, catalogue and report."""
    shop = Shop(seed, shoppers=shoppers, contents=contents, days=days)
    text = shop_policy() if policy_text is None else policy_text
    plan = shop_plan(shop, text)
    out.mkdir(parents=True, exist_ok=True)
    (out / "policy.yaml").write_text(text)
    (out / "catalogue.jsonl").write_bytes(
        b"".join(orjson.dumps(c) + b"\n" for c in shop.catalogue())
    )
    tally = Tally(plan)
    started = perf_counter()
    subject, examples = play_flow(shop, plan, out, tally=tally, progress=progress)
    elapsed = perf_counter() - started
    baselines = [
        play_arm(shop, arm, progress=partial(progress, arm.name))
        for arm in (MostPopularArm(shop), RandomArm(shop))
    ]
    clicks: Counter[str] = Counter()
    for content_id, clicked in zip(
        subject.content_ids, subject.clicked.sum(axis=0).tolist(), strict=True
    ):
        clicks[content_id] = int(clicked)
    report = out / "report.html"
    write_report(
        report,
        ReportData(
            title="nextbest in the simulated shop",
            subtitle=f"{shoppers:,} shoppers, {contents} contents, {days} days, seed {seed}",
            facts={"policy": plan.policy_digest, "catalogue": plan.catalogue_version},
            arms=(subject, *baselines),
            decisions=tally.decision_series(),
            shown=tally.shown_series(),
            contents=tally.contents(clicks),
            segments=tally.segment_series(),
            latency=tally.latency(),
            throughput=tally.throughput(),
            learned=tally.learned(examples),
            accounting=tally.accounting,
            rejections=tally.rejections,
        ),
    )
    return Shown((subject, *baselines), tally, examples, elapsed, report)
