"""What can be asked of a profile: the condition language of segments and eligibility.

One tree, written as a mapping with one telling key: `all`, `any`, `not`, `signal`, `attribute`,
`context`, `segment`, `intent`, `prediction`, `done`, `not_done`, `local_time`, `weekday`. Segments,
intents, placements and contents all use it.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Self, get_args

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    Tag,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from schemas.dates import Instant, TimeOfDay, Weekday, Zone
from schemas.events import Scalar
from schemas.ranges import Model as Model
from schemas.ranges import NumberRange as NumberRange
from schemas.ranges import Range as Range
from schemas.time import DAY, Duration

MAX_ANNIVERSARY: Final = 363 * DAY
INTENT: Final = "intent."
"""What stands before the name of an intent's internal segment; no declared name has a dot."""


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


class ValueIs(Range):
    """A value is equal, one of several, or in range."""

    is_: Scalar = Field(default=None, alias="is")
    one_of: Annotated[tuple[Scalar, ...], Field(min_length=1)] | None = None

    def asked_besides(self, *fields: str) -> bool:
        """Whether anything is asked: of the value, or by one of these fields."""
        return self.bounded or not self.model_fields_set.isdisjoint(("is_", "one_of", *fields))


class SignalIs(ValueIs):
    """What a declared signal's value is, or how long ago it happened."""

    signal: str
    key: str | None = Field(
        default=None,
        description="affinity: which tag or attribute value; rfm: recency, frequency, monetary "
        "or score",
    )
    within: Duration | None = Field(default=None, description="first, last: happened that recently")
    not_within: Duration | None = Field(
        default=None, description="first, last: not for that long, or never"
    )

    @model_validator(mode="after")
    def _asks_something(self) -> SignalIs:
        if not self.asked_besides("within", "not_within"):
            raise ValueError(
                "expected one of is, one_of, at_least, at_most, above, below, equals, within, "
                "not_within"
            )
        return self


class FieldIs(ValueIs):
    """Shared by attribute and context: a value is equal, one of several, in range, or there."""

    exists: bool | None = None


class AttributeIs(FieldIs):
    """A profile attribute (set by `profile_updated`); a date may lie near the present.

    A date without a time counts as its whole day in the person's own time zone (attribute
    `timezone`, else UTC).
    """

    attribute: str
    anniversary_within: Duration | None = Field(
        default=None, description="The day comes round again that soon, or is today."
    )
    within_next: Duration | None = Field(default=None, description="The date is that near ahead.")
    within_last: Duration | None = Field(default=None, description="The date is that near past.")

    @field_validator("anniversary_within")
    @classmethod
    def _is_shorter_than_a_year(cls, value: int | None) -> int | None:
        if value is not None and value > MAX_ANNIVERSARY:
            raise ValueError("expected at most 363d: a longer time holds all year")
        return value

    @model_validator(mode="after")
    def _asks_something(self) -> AttributeIs:
        if not self.asked_besides("exists", "anniversary_within", "within_next", "within_last"):
            raise ValueError(
                "expected one of is, one_of, exists, at_least, at_most, above, below, equals, "
                "anniversary_within, within_next, within_last"
            )
        return self


class ContextIs(FieldIs):
    """A field of the triggering event's context; meaningful at decision time only."""

    context: str

    @model_validator(mode="after")
    def _asks_something(self) -> ContextIs:
        if not self.asked_besides("exists"):
            raise ValueError(
                "expected one of is, one_of, exists, at_least, at_most, above, below, equals"
            )
        return self


class InSegment(Model):
    """The profile is in the segment now."""

    segment: str


class HasIntent(Model):
    """The profile's intent is this one now."""

    intent: str


class PredictionIs(Range):
    """What is predicted of the profile lies in a range; unknown before anything was learned."""

    prediction: str

    @model_validator(mode="after")
    def _has_a_bound(self) -> PredictionIs:
        if not self.bounded:
            raise ValueError("expected one of at_least, at_most, above, below, equals")
        return self


class Following(Model):
    """What happens, or does not happen, after something else."""

    done: EventTypes
    where: Filter = Field(default_factory=dict)
    gap: Duration = Field(description="How long after it at most.")


_ONE_OF: list[JsonValue] = [{"required": ["within"]}, {"required": ["from"]}]


class _Dated(Model):
    """A window that slides with time, or a fixed range of dates; one of the two."""

    model_config = ConfigDict(json_schema_extra={"oneOf": _ONE_OF})

    within: Duration | None = Field(default=None, description="The last so long; at most 400d.")
    from_: Instant | None = Field(default=None, alias="from", description="From this date on.")
    until: Instant | None = Field(default=None, description="Before this date; absent: for ever.")
    where: Filter = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_one_window(self) -> Self:
        if (self.within is None) == (self.from_ is None):
            raise ValueError("expected either within, or from and until")
        if self.until is not None and self.within is not None:
            raise ValueError("expected from with until, or within alone")
        return self


class Done(_Dated):
    """Performed so many times: once or more, where neither bound nor number says otherwise.

    With `then` each event of `then.done` at most `gap` after one of `done` counts; with `not_then`
    each of `done` whose `gap` passed without one.
    """

    done: EventTypes
    at_least: Annotated[int, Field(ge=0)] = 1
    at_most: Annotated[int, Field(ge=1)] | None = None
    exactly: Annotated[int, Field(ge=0)] | None = None
    then: Following | None = None
    not_then: Following | None = None

    @model_validator(mode="after")
    def _follows_within_a_window(self) -> Done:
        if self.then is not None and self.not_then is not None:
            raise ValueError("expected then or not_then, not both")
        if (self.then or self.not_then) and self.within is None:
            raise ValueError("expected within: then and not_then need a sliding window")
        return self

    @property
    def times(self) -> tuple[int, int | None]:
        """How often at least and at most (None: no limit)."""
        if self.exactly is not None:
            return self.exactly, self.exactly
        return self.at_least, self.at_most


class NotDone(_Dated):
    """Not performed in a window; unknown before the profile was watched for all of it."""

    not_done: EventTypes


class Hours(Model):
    """A part of the day, half open; one that ends before it begins lasts over midnight."""

    from_: TimeOfDay = Field(alias="from")
    to: TimeOfDay

    @model_validator(mode="after")
    def _has_length(self) -> Hours:
        if self.from_ == self.to:
            raise ValueError("expected from and to at different times of day")
        return self


_A_DAY: Final = {"type": "string", "enum": list(get_args(Weekday))}
Weekdays = Annotated[
    tuple[Weekday, ...],
    Field(min_length=1),
    BeforeValidator(one_or_many),
    WithJsonSchema({"anyOf": [_A_DAY, {"type": "array", "items": _A_DAY, "minItems": 1}]}),
]


class LocalTimeIs(Model):
    """The time of day where the person is, on any day or on these weekdays."""

    local_time: Hours
    weekday: Weekdays | None = None
    zone: Zone | None = Field(
        default=None,
        description="Absent: the zone named by the attribute `timezone`, else UTC.",
    )


class WeekdayIs(Model):
    """The weekday where the person is."""

    weekday: Weekdays
    zone: Zone | None = Field(
        default=None,
        description="Absent: the zone named by the attribute `timezone`, else UTC.",
    )


_KINDS: Final = (
    "all",
    "any",
    "not",
    "signal",
    "attribute",
    "context",
    "segment",
    "intent",
    "prediction",
    "done",
    "not_done",
    "local_time",
    "weekday",
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
    | Annotated[HasIntent, Tag("intent")]
    | Annotated[PredictionIs, Tag("prediction")]
    | Annotated[Done, Tag("done")]
    | Annotated[NotDone, Tag("not_done")]
    | Annotated[LocalTimeIs, Tag("local_time")]
    | Annotated[WeekdayIs, Tag("weekday")],
    Discriminator(
        _kind,
        custom_error_type="condition_kind",
        custom_error_message="expected a condition: a mapping with one of all, any, not, signal, "
        "attribute, context, segment, intent, prediction, done, not_done, local_time, weekday",
    ),
]

for _model in (AllOf, AnyOf, NotOf):
    _model.model_rebuild()
