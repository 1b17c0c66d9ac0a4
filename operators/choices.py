"""What is asked of the chooser, and what it answers, before that becomes a record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from operators.aggregate_quota import Quota
from operators.arrival import Arrived
from operators.fragments import Fragment
from operators.moment import Moment
from operators.placement_plan import CompiledPlacement
from operators.profile import Profile

UNASKED: Final = frozenset({"consent_refused", "consent_unknown", "privacy_signal"})
"""Fallbacks after which nothing but what a person has stated may be looked at, or told."""


class Chosen(NamedTuple):
    """One item of a choice.

    `code` is the reason's template where something else than the model put the item there.
    """

    content_id: str
    rank: int
    propensity: float
    score: float | None
    greedy: bool
    source: str
    learnable: bool
    code: str | None = None


class Choice(NamedTuple):
    """What was chosen and how, before it becomes a record."""

    items: list[Chosen]
    considered: int
    rejections: dict[str, int]
    fallback: str | None
    model_version: str | None
    features: bytes
    level: int
    rules: list[str]
    teaches: bool
    scored: bool = False
    shadow: list[str] | None = None
    fragment: Fragment | None = None


class Asked(NamedTuple):
    """One question: whose decision, where, under which name, and what the page shows already."""

    profile: Profile
    event: Arrived
    placement: CompiledPlacement
    identity: str
    variant: str | None
    moment: Moment
    quota: Quota | None
    level: int
    slots: int
    candidates: Sequence[str] | None
    elsewhere: Sequence[str]
