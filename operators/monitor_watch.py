"""What is watched of a decision: when it is made, and when its books are closed?

Two kinds of facts, each about one decision and of nobody by name: a monitor (`operators.monitor`)
adds them up. They cross processes, so both are tuples of plain builtins.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from operators.outputs import Record
from operators.placement_plan import CompiledPlacement
from operators.profile import Pending

PERSONALISED: Final = "personalised"
_PRIOR: Final = "prior"
_HOLDOUT: Final = "holdout"
_LONGEST: Final = 64
_ROUNDING: Final = 1e-6


class DecidedItem(NamedTuple):
    """One item as decided.

    `draw` is `greedy` or `explored` where a model's scores were drawn by, `undirected` where a draw
    had no scores (holdout, prior), `given` where nothing was drawn (fallback, rules, incumbent).
    `repeated`: the profile's decision before, in this placement, had it too.
    """

    content_id: str
    source: str
    propensity: float
    draw: str
    repeated: bool


class Decided(NamedTuple):
    """A decision when it is made; `follows`: the profile had one before in this placement."""

    placement: str
    at_ms: int
    arm: str
    items: list[DecidedItem]
    fallback: str | None
    candidates: int
    follows: bool
    groups: dict[str, str]


class ClosedItem(NamedTuple):
    """What became of one item.

    `nth` counts the profile's impressions of the content (0: unknown), `score` is the reward that
    was expected, `chance` the probability of the one reward kind where the score is made of it
    alone. `explored` is None where no model's scores were drawn by.
    """

    content_id: str
    shown: bool
    nth: int
    propensity: float
    score: float | None
    chance: float | None
    rewards: dict[str, float]
    explored: bool | None


class Closed(NamedTuple):
    """A decision when its books are closed."""

    placement: str
    decided_ms: int
    closed_ms: int
    arm: str
    items: list[ClosedItem]
    groups: dict[str, str]


Watched = Decided | Closed
WATCHED: Final = (Decided, DecidedItem, Closed, ClosedItem)
"""What crosses processes."""


def group_value(value: object) -> str:
    """An attribute's value as the name of a group.

    >>> group_value(True), group_value(2.0), group_value("north")
    ('true', '2', 'north')
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value)[:_LONGEST]


def decided(
    record: Record,
    groups: Mapping[str, str],
    *,
    at_ms: int,
    last: Collection[str] = (),
    explored: Collection[str] | None = None,
) -> Decided:
    """What is watched of a decision record.

    `last` are the contents of the profile's decision before, in this placement. `explored` are the
    contents that were drawn against a better one; None (a record that was taken over): as the
    items' reasons say.
    """
    experiment, fallback = record["experiment"], record["fallback"]
    arm = PERSONALISED if experiment is None else experiment["variant"]
    scored = fallback is None and arm != _HOLDOUT and record["model_version"] not in (None, _PRIOR)
    items = []
    for item in record["items"]:
        content_id = item["content_id"]
        source = item.get("source", "model")
        if source != "model" or fallback is not None or not item.get("learnable", True):
            draw = "given"
        elif not scored or item["score"] is None:
            draw = "undirected"
        else:
            against = says_explored(item) if explored is None else content_id in explored
            draw = "explored" if against else "greedy"
        items.append(DecidedItem(content_id, source, item["propensity"], draw, content_id in last))
    # By position, here and below: naming the fields doubles what building one costs.
    return Decided(
        record["placement"],
        at_ms,
        arm,
        items,
        fallback,
        record["candidates"],
        bool(last),
        dict(groups),
    )


def says_explored(item: Record) -> bool:
    """Whether an item of a record says that it was drawn against a better one."""
    return any(reason["code"] == "explored" for reason in item["reasons"])


def closed(
    pending: Pending,
    *,
    closed_ms: int,
    placement: CompiledPlacement | None,
    index: Mapping[str, int],
    explored: Mapping[str, bool] | None = None,
) -> Closed:
    """What is watched of a decision whose books are closed.

    `placement` (None: the policy has it no more) and `index` (content id to catalogue position)
    tell what a reward was worth. `explored` says by content whether it was drawn against a better
    one; None: unknown, and no cost of exploration is estimated of it.
    """
    # Where an incumbent acts nothing was drawn, whatever the model would have scored it.
    acts = placement is None or placement.policy.learning == "online"
    known = {} if explored is None or pending.variant == _HOLDOUT or not acts else explored
    alone = None
    if placement is not None and len(placement.heads) == 1 and not placement.by_event[0]:
        alone = placement.values[0]
    items = []
    for item in pending.items:
        content_id, score = item.content_id, item.score
        chance, against = None, None
        if score is not None:
            if alone is not None and (at := index.get(content_id)) is not None:
                chance = _chance(score, alone.item(at))
            if item.learnable:
                against = known.get(content_id)
        items.append(
            ClosedItem(
                content_id,
                bool(item.shown_ms),
                item.nth,
                item.propensity,
                score,
                chance,
                dict(item.rewards) if item.rewards else {},
                against,
            )
        )
    return Closed(
        pending.placement,
        pending.decided_ms,
        closed_ms,
        pending.variant or PERSONALISED,
        items,
        dict(pending.groups),
    )


def _chance(score: float, worth: float) -> float | None:
    """The score divided by what its one reward is worth; None where that is no probability."""
    if worth == 0.0:
        return None
    chance = score / worth
    # What rules weighed is no probability any more.
    return min(chance, 1.0) if 0.0 <= chance <= 1.0 + _ROUNDING else None
