"""Which candidates may still follow what a slate already has? Limits on a shared value.

At most so many items of one slate share a value of a content field: one per brand, two per type.
A content with several values (tags) is limited by each of them. A content without the field is
never limited, nor is one marked sensitive: its fields are not read at all. Limits shape what the
draw may choose from, rank by rank, so propensities account for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from operators.contents import Contents, Flags
from operators.score import Indices
from schemas.catalogue import Content
from schemas.placements import Diversity

Codes = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class _Field:
    """Which values of one field each candidate has, and how many items may share one.

    `codes` has shape (candidates, widest); `unlimited` is the code of no value.
    """

    codes: Codes
    unlimited: int
    most: int

    def blocked(self, chosen: Sequence[int]) -> Flags | None:
        """Which candidates have a value that is used up; None: none has."""
        if len(chosen) < self.most:
            return None
        used = np.bincount(self.codes[list(chosen)].ravel(), minlength=self.unlimited + 1)
        full = used >= self.most
        full[self.unlimited] = False
        if not full.any():
            return None
        return np.asarray(full[self.codes].any(axis=1), np.bool_)


@dataclass(frozen=True, slots=True)
class Limit:
    """The limits of one placement over the contents it was compiled for or narrowed to."""

    fields: tuple[_Field, ...]

    def among(self, positions: Indices) -> Limit:
        """The same limits over these candidates alone, numbered as in `positions`."""
        return Limit(tuple(_Field(f.codes[positions], f.unlimited, f.most) for f in self.fields))

    def open(self, chosen: Sequence[int]) -> Flags | None:
        """Which candidates may follow those `chosen`, as new flags (None: all).

        Candidates already chosen are not closed for that: the draw sees to it.
        """
        closed: Flags | None = None
        for field in self.fields:
            blocked = field.blocked(chosen)
            if blocked is not None:
                closed = blocked if closed is None else closed | blocked
        return None if closed is None else np.logical_not(closed)


def compile_limits(diversity: tuple[Diversity, ...], contents: Contents) -> Limit | None:
    """The limits over a whole catalogue; None where a placement has none."""
    if not diversity:
        return None
    return Limit(tuple(_field(limit, contents) for limit in diversity))


def _field(limit: Diversity, contents: Contents) -> _Field:
    code_of: dict[Any, int] = {}
    rows = [
        [code_of.setdefault(value, len(code_of)) for value in _values(contents.by_id[c], limit.by)]
        for c in contents.ids
    ]
    codes = np.full((len(rows), max(map(len, rows), default=0) or 1), len(code_of), np.intp)
    for i, row in enumerate(rows):
        codes[i, : len(row)] = row
    return _Field(codes, len(code_of), limit.most)


def _values(content: Content, by: str) -> list[Any]:
    if content.sensitive:
        return []
    if by == "type":
        return [content.type]
    if by == "tags":
        return list(dict.fromkeys(content.tags))
    value = content.attributes.get(by.removeprefix("attributes."))
    # By class too: True equals 1 and is another value.
    return [] if value is None else [(isinstance(value, bool), value)]
