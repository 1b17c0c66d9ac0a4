"""What is told of a prediction's quality: a record about everybody together, of nobody by name."""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from schemas.decisions import SCHEMA_VERSION

_Share = Annotated[float, Field(ge=0, le=1)]


class _Told(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ReliabilityBin(_Told):
    """A tenth of the tests, by what was predicted."""

    count: Annotated[int, Field(ge=1)]
    predicted: float = Field(description="The mean prediction.")
    observed: float = Field(description="The mean of what came true.")


class PredictionReport(_Told):
    """How good a prediction has been: what was said at each case's moment against what came true.

    The figures are of the newest `tests`. None: too little to tell, or not of this kind of target.
    """

    prediction: str
    model_version: str = Field(description="The parameter set published with the report.")
    examples: int = Field(ge=0, description="Learned in all.")
    skipped: int = Field(ge=0, description="Not learned: settled before the first horizon ended.")
    base_rate: float | None = Field(description="The mean label of all that was learned.")
    tests: int = Field(ge=0)
    roc_auc: _Share | None
    pr_auc: _Share | None
    log_loss: Annotated[float, Field(ge=0)] | None
    mae: Annotated[float, Field(ge=0)] | None
    calibration_error: Annotated[float, Field(ge=0)] | None = Field(
        description="Expected calibration error over ten bins; of a sum, relative to the mean."
    )
    mean_predicted: float | None
    mean_observed: float | None
    reliability: list[ReliabilityBin]
    drift: bool = Field(description="Whether the loss got worse since the report before.")
    drifts: int = Field(ge=0, description="How often it did in all.")
    learned_to: AwareDatetime
    schema_version: int = SCHEMA_VERSION
