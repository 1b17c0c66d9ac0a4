"""What can be asked of a profile: the condition language of segments and eligibility.

One tree, written as a mapping with one telling key: `all`, `any`, `not`, `signal`, `attribute`,
`context`, `segment`, `done`, `not_done`. Segments, placements and contents all use it.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
    model_validator,
)

from schemas.events import Scalar
from schemas.time import Duration


def one_or_many(value: Any) -> Any:
    """Let a file write `view` where a list of event types is expected."""
    return (value,) if isinstance(value, str) else value


EventTypes = Annotated[
    tuple[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], ...],
    Field(min_length=1),
    BeforeValidator(one_or_many),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": "^[a-z][a-z0-9_]*$"},
                {
                    "type": "array",
                    "items": {"type": "string", "pattern": "^[a-z][a-z0-9_]*$"},
                    "minItems": 1,
                },
            ]
        }
    ),
]


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


FilterValue = Scalar | list[Scalar] | NumberRange
Filter = dict[
    Annotated[
        str,
        Field(
            pattern=r"^(value|content_id|placement|session_id|content\.(type|tags)"
            r"|(content\.attributes|properties|context)\.[A-Za-z0-9_]+)$"
        ),
    ],
    FilterValue,
]
"""Field path to the value, one of the values, or the range that it must have."""


class AllOf(Model):
    """Every condition holds."""

    all: tuple[Condition, ...] = Field(min_length=1)


class AnyOf(Model):
    """At least one condition holds."""

    any: tuple[Condition, ...] = Field(min_length=1)


class NotOf(Model):
    """The condition does not hold."""

    not_: Condition = Field(alias="not")


class SignalIs(Range):
    """A declared signal's value lies in a range, or its last event lies within or before a time."""

    signal: str
    key: str | None = Field(default=None, description="affinity: which tag or attribute value")
    within: Duration | None = Field(default=None, description="last: happened that recently")
    not_within: Duration | None = Field(default=None, description="last: not for that long")

    @model_validator(mode="after")
    def _asks_something(self) -> SignalIs:
        if not self.bounded and self.within is None and self.not_within is None:
            raise ValueError(
                "expected one of at_least, at_most, above, below, equals, within, not_within"
            )
        return self


class FieldIs(Range):
    """Shared by attribute and context: a value is equal, one of several, in range, or there."""

    is_: Scalar = Field(default=None, alias="is")
    one_of: tuple[Scalar, ...] | None = None
    exists: bool | None = None

    @model_validator(mode="after")
    def _asks_something(self) -> FieldIs:
        asked = {"is_", "one_of", "exists"} & self.model_fields_set
        if not asked and not self.bounded:
            raise ValueError(
                "expected one of is, one_of, exists, at_least, at_most, above, below, equals"
            )
        return self


class AttributeIs(FieldIs):
    """A profile attribute (set by `profile_updated`)."""

    attribute: str


class ContextIs(FieldIs):
    """A field of the triggering event's context; meaningful at decision time only."""

    context: str


class InSegment(Model):
    """The profile is in the segment now."""

    segment: str


class Done(Model):
    """Performed at least (and at most) so many times within a window."""

    done: EventTypes
    within: Duration
    where: Filter = Field(default_factory=dict)
    at_least: Annotated[int, Field(ge=1)] = 1
    at_most: Annotated[int, Field(ge=1)] | None = None


class NotDone(Model):
    """Not performed within a window."""

    not_done: EventTypes
    within: Duration
    where: Filter = Field(default_factory=dict)


_KINDS: Final = (
    "all",
    "any",
    "not",
    "signal",
    "attribute",
    "context",
    "segment",
    "done",
    "not_done",
)


def _kind(value: Any) -> str | None:
    if isinstance(value, dict):
        return next((kind for kind in _KINDS if kind in value), None)
    return next(
        (kind for kind in _KINDS if hasattr(value, "not_" if kind == "not" else kind)), None
    )


Condition = Annotated[
    Annotated[AllOf, Tag("all")]
    | Annotated[AnyOf, Tag("any")]
    | Annotated[NotOf, Tag("not")]
    | Annotated[SignalIs, Tag("signal")]
    | Annotated[AttributeIs, Tag("attribute")]
    | Annotated[ContextIs, Tag("context")]
    | Annotated[InSegment, Tag("segment")]
    | Annotated[Done, Tag("done")]
    | Annotated[NotDone, Tag("not_done")],
    Discriminator(
        _kind,
        custom_error_type="condition_kind",
        custom_error_message="expected a condition: a mapping with one of all, any, not, signal, "
        "attribute, context, segment, done, not_done",
    ),
]

for _model in (AllOf, AnyOf, NotOf):
    _model.model_rebuild()
