"""Does a new content find its audience while it is still new?

Simulations over several seeds, with a margin: no single run decides.
"""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np

from operators.crosses import crosses_of
from operators.explore import draw_slate
from operators.features import BIAS
from operators.ids import hash32, uniform
from operators.outputs import Example
from operators.score import Scorer, scorer_of
from tests.operators.builders import content, placement_policy, plan
from tests.operators.decision_builders import features_of, learner

AUDIENCES = ("sport", "music", "news", "games", "food")
LIKED, OTHERS = 0.20, 0.03
DOUBT = {"optimism": 2.0}
"""Chosen on seeds 0 to 3 and 10 to 13 (1.0 and 1.5 missed a newcomer there); tested on others."""
NEWCOMER_FROM, STEPS = 4_000, 11_000


def _life(
    seed: int, *, known_tag: bool, exploration: dict[str, Any]
) -> tuple[list[bool], list[bool]]:
    """Who the newcomer was shown to (True: its audience), and for whom it was chosen at the end.

    Ten contents, two for each audience, are there from the start; the newcomer joins later. It
    bears the tag of its audience's contents or one that was never seen.
    """
    old = [content(f"c{i}", tags=[AUDIENCES[i % 5]]) for i in range(10)]
    new = content("new", tags=["sport" if known_tag else "unheard"])
    of = plan(placement_policy(model={"bits": 14}, exploration=exploration), [*old, new])
    placement = of.models["home"]
    crosses, pupil = crosses_of(placement, of.contents), learner(of)
    at_first = np.array([of.contents.index[c.content_id] for c in old])
    later = np.append(at_first, of.contents.index["new"])
    scorer: Scorer | None = None
    shown_to: list[bool] = []
    for step in range(STEPS):
        if len(shown_to) >= 200:
            break
        who = AUDIENCES[int(uniform(f"{seed}|{step}|who") * 5)]
        cells = [BIAS, hash32(f"likes={who}"), hash32(f"other={step % 7}")]
        positions = at_first if step < NEWCOMER_FROM else later
        [drawn] = draw_slate(
            None if scorer is None else scorer.score(cells, positions),
            spread=None if scorer is None else scorer.spread(cells, positions),
            count=len(positions),
            slots=1,
            exploration=placement.policy.exploration,
            rewarded=0 if scorer is None else scorer.parameters.rewarded,
            chances=[uniform(f"{seed}|{step}|draw")],
        )
        name = of.contents.ids[positions[drawn.position]]
        its = who == "sport" if name == "new" else who == AUDIENCES[int(name[1:]) % 5]
        if name == "new":
            shown_to.append(its)
        logged = features_of(of, *cells)
        examples = [Example("home", name, logged, None, 1.0, step)]
        # The newcomer pleases its audience more than what was there.
        rate = (0.35 if name == "new" else LIKED) if its else OTHERS
        if uniform(f"{seed}|{step}|reward") < rate:
            examples.append(Example("home", name, logged, "click", 1.0, step))
        published, _ = pupil.learn(examples)
        if published:
            scorer = scorer_of(placement, of.contents, published[-1], crosses=crosses)
    final = scorer_of(placement, of.contents, pupil.publish(), crosses=crosses)
    chosen = []
    for number in range(50):
        cells = [BIAS, hash32("likes=sport"), hash32(f"other={number % 7}")]
        best = int(final.score(cells, later).argmax())
        chosen.append(of.contents.ids[later[best]] == "new")
    return shown_to, chosen


def test_a_content_whose_tag_is_known_finds_its_audience_within_200_impressions() -> None:
    lives = [_life(seed, known_tag=True, exploration=DOUBT) for seed in range(20, 26)]
    assert all(len(shown) == 200 for shown, _ in lives), "it was hardly ever tried"
    to_audience = [statistics.fmean(shown[100:]) for shown, _ in lives]
    assert statistics.fmean(to_audience) > 0.6  # by chance: 0.2
    assert statistics.fmean(statistics.fmean(chosen) for _, chosen in lives) > 0.6


def test_a_content_nothing_is_known_of_finds_its_audience_within_200_impressions() -> None:
    lives = [_life(seed, known_tag=False, exploration=DOUBT) for seed in range(20, 26)]
    assert all(len(shown) == 200 for shown, _ in lives), "it was hardly ever tried"
    to_audience = [statistics.fmean(shown[100:]) for shown, _ in lives]
    assert statistics.fmean(to_audience) > 0.4
    assert statistics.fmean(statistics.fmean(chosen) for _, chosen in lives) > 0.6
