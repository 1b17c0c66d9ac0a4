"""What is a piece of configuration made of, and when does a number lie in a range?"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, model_validator


class Model(BaseModel):
    """A piece of configuration: unknown fields are mistakes here."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False
    )


class Range(Model):
    """Bounds on a number; at least one must be given."""

    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None
    equals: float | None = None

    def holds(self, number: float) -> bool:
        """Whether the number lies within every bound given."""
        return (
            (self.at_least is None or number >= self.at_least)
            and (self.at_most is None or number <= self.at_most)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
            and (self.equals is None or number == self.equals)
        )

    @property
    def bounded(self) -> bool:
        """Whether any bound is given."""
        return any(
            bound is not None
            for bound in (self.at_least, self.at_most, self.above, self.below, self.equals)
        )


class NumberRange(Range):
    """A range standing on its own, as a filter's value."""

    @model_validator(mode="after")
    def _has_a_bound(self) -> NumberRange:
        if not self.bounded:
            raise ValueError("expected one of at_least, at_most, above, below, equals")
        return self
