"""What is told of a placement's decisions: a record about everybody together, of nobody by name."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from schemas.decisions import SCHEMA_VERSION
from schemas.prediction_reports import ReliabilityBin

_Count = Annotated[int, Field(ge=0)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Loss = Annotated[float, Field(ge=0)]


class _Told(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Interval(_Told):
    """A figure and where it lies with 95 %; of groups, with 99.9 % for all of them together.

    Shares have Wilson's interval; means the normal one, null below 30 values.
    """

    estimate: float
    low: float | None
    high: float | None


class ExplorationFigures(_Told):
    """How the items of the period's decisions came about."""

    drawn: _Count = Field(description="Drawn by a model's scores: greedy or explored.")
    explored: _Count = Field(description="Drawn against a better-scored candidate.")
    undirected: _Count = Field(
        description="Drawn without scores: the holdout, or nothing was learned yet."
    )
    given: _Count = Field(description="Not drawn: fallback, rules, sticky, incumbent.")
    share: Interval | None = Field(description="Explored of drawn.")
    cost: Interval | None = Field(
        description="What exploration costs per shown item: the reward that always taking the "
        "best-scored one would bring (by inverse propensities) less the reward that came."
    )


class MovedContent(_Told):
    """A content whose share of what is shown changed most."""

    content_id: str
    before: _Share
    after: _Share


class ShownFigures(_Told):
    """What was decided on in the period: how much of the catalogue, how evenly, how changed."""

    items: _Count
    contents: _Count = Field(description="Different ones.")
    pool: _Count = Field(description="Contents that may appear in the placement.")
    coverage: _Share | None = Field(description="Share of the pool that was decided on.")
    gini: _Share | None = Field(description="0: all of the pool alike; towards 1: only one.")
    effective_contents: float | None = Field(
        description="As varied as so many contents shown equally often (exp of the entropy)."
    )
    repetition: Interval | None = Field(
        description="Share of items that the profile's decision before had too."
    )
    shift: _Share | None = Field(
        description="Total variation distance to the report before, less what chance makes of it."
    )
    sudden: bool = Field(description="The shift is above shift_above, and no chance.")
    moved: list[MovedContent]


class KindFigures(_Told):
    """One reward kind, by shown item."""

    kind: str
    rewarded: _Count
    rate: Interval | None
    value_per_impression: Interval | None


class ArmFigures(_Told):
    """The reward of seen decisions of one arm of the holdout."""

    arm: str
    decisions: _Count
    reward_per_decision: Interval | None


class OutcomeFigures(_Told):
    """What came of decisions whose books were closed in the period (they were made before it)."""

    books: _Count
    seen: _Count = Field(description="Of which some item was shown.")
    impressions: _Count
    reward_per_decision: Interval | None = Field(description="Of seen decisions.")
    reward_per_impression: Interval | None
    kinds: list[KindFigures]
    arms: list[ArmFigures]


class ModelFigures(_Told):
    """What was expected at the decision against what came, of the newest tests.

    Figures of probabilities are null where a score is made of several rewards or of amounts.
    """

    tests: _Count
    roc_auc: _Share | None
    log_loss: _Loss | None
    calibration_error: _Loss | None
    mean_predicted: float | None
    mean_observed: float | None = Field(description="Share of tests with a reward above 0.")
    reliability: list[ReliabilityBin]
    expected_reward: Interval | None = Field(description="The mean score, of this period.")
    actual_reward: Interval | None = Field(description="The mean reward of the same items.")
    reward_drift: Literal["rose", "fell"] | None
    loss_drift: bool = Field(description="The model's error changed for the worse.")
    drifts: _Count = Field(description="How often either did in all.")


class FatigueFigures(_Told):
    """How often an item is rewarded at a profile's nth impression of it."""

    nth: Literal["1", "2", "3", "4-5", "6+"]
    impressions: _Count
    rate: Interval | None


class GroupFigures(_Told):
    """One value of a group."""

    value: str = Field(description="`other`: too few decisions to be named, or too many values.")
    decided: _Count = Field(description="Decisions of the profiles, or items of the contents.")
    seen: _Count = Field(description="Seen decisions, or shown items, of closed books.")
    exposure: Interval | None = Field(
        description="Of profiles: share of their decisions that were personalised. Of contents: "
        "their share of all items."
    )
    of_pool: _Share | None = Field(description="Of contents: their share of the pool.")
    reward_rate: Interval | None = Field(description="Share of seen that brought a reward.")


class Gap(_Told):
    """The largest difference between two named values of a group."""

    highest: str
    lowest: str
    gap: _Loss
    flagged: bool = Field(description="Some two intervals do not meet.")


class FairnessFigures(_Told):
    """Exposure and reward by one declared group."""

    group: str
    of: Literal["profile", "content"]
    attribute: str
    values: list[GroupFigures]
    exposure_gap: Gap | None = Field(
        description="Of contents it is in proportion to their share of the pool."
    )
    reward_gap: Gap | None


class MonitoringReport(_Told):
    """How a placement's decisions fared in one period of event time; null: too little to tell."""

    report_id: str
    placement: str
    begins_at: AwareDatetime
    ends_at: AwareDatetime
    decisions: _Count
    answers: dict[str, int] = Field(
        description="Decisions by the reason of their fallback; personalised; empty."
    )
    fallback: Interval | None = Field(description="Share of decisions not personalised.")
    candidates: Annotated[float, Field(ge=0)] | None = Field(description="Mean per decision.")
    exploration: ExplorationFigures
    shown: ShownFigures
    outcomes: OutcomeFigures
    model: ModelFigures
    fatigue: list[FatigueFigures]
    fairness: list[FairnessFigures]
    policy_digest: str
    catalogue_version: str
    schema_version: int = SCHEMA_VERSION
