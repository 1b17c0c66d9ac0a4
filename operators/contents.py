"""Which contents are there, as arrays in the order of their ids?

Worked out once per catalogue: everything that narrows or scores candidates is an array over these
positions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from operators.conditions import Compiler
from operators.verdicts import Evaluate
from schemas.catalogue import Cap, Content
from schemas.conditions import Condition
from schemas.reads import reads
from schemas.time import to_millis

Flags = npt.NDArray[np.bool_]
_ALWAYS: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Contents:
    """The catalogue as arrays, in the order of content ids.

    Times are milliseconds. `conditions` lists each different eligibility condition once, with the
    contents (flags) it binds and what its failing is called. `asks` and `needs` map a consent
    purpose to the contents that ask for it or need it.
    """

    ids: tuple[str, ...]
    by_id: dict[str, Content]
    index: dict[str, int]
    valid_from: npt.NDArray[np.int64]
    valid_until: npt.NDArray[np.int64]
    in_stock: Flags
    conditions: tuple[tuple[Evaluate, Flags, str], ...]
    sensitive: Flags
    asks: dict[str, Flags]
    needs: dict[str, Flags]
    caps: dict[str, tuple[Cap, ...]]
    tagged: dict[str, Flags]


def compile_contents(catalogue: Iterable[Content], compiler: Compiler) -> Contents:
    """A checked catalogue, compiled; its conditions with those of the policy."""
    listed = sorted(catalogue, key=lambda content: content.content_id)
    count = len(listed)
    bound: dict[str, tuple[Evaluate, Flags, str]] = {}
    asks: dict[str, Flags] = {}
    needs: dict[str, Flags] = {}
    tagged: dict[str, Flags] = {}
    for i, content in enumerate(listed):
        if content.eligibility is not None:
            key = content.eligibility.model_dump_json()
            if key not in bound:
                bound[key] = (
                    compiler.compile(content.eligibility),
                    np.zeros(count, np.bool_),
                    _refusal(content.eligibility),
                )
            bound[key][1][i] = True
        for tag in content.tags:
            tagged.setdefault(tag, np.zeros(count, np.bool_))[i] = True
        if content.asks_consent is not None:
            asks.setdefault(content.asks_consent, np.zeros(count, np.bool_))[i] = True
        if content.needs_consent is not None:
            needs.setdefault(content.needs_consent, np.zeros(count, np.bool_))[i] = True
    return Contents(
        ids=tuple(c.content_id for c in listed),
        by_id={c.content_id: c for c in listed},
        index={c.content_id: i for i, c in enumerate(listed)},
        valid_from=np.array(
            [to_millis(c.valid_from) if c.valid_from else -_ALWAYS for c in listed], np.int64
        ),
        valid_until=np.array(
            [to_millis(c.valid_until) if c.valid_until else _ALWAYS for c in listed], np.int64
        ),
        in_stock=np.array([c.stock is None or c.stock > 0 for c in listed], np.bool_),
        conditions=tuple(bound.values()),
        sensitive=np.array([c.sensitive for c in listed], np.bool_),
        asks=asks,
        needs=needs,
        caps={c.content_id: c.caps for c in listed if c.caps},
        tagged=tagged,
    )


def _refusal(condition: Condition) -> str:
    """What it is called where a condition fails: by what the condition asks about."""
    asked = reads(condition.model_dump(mode="json", by_alias=True), {})
    if asked.segments or asked.predictions:
        return "not_in_audience"
    plain = condition.model_dump_json(by_alias=True)
    behaviour = asked.signals or asked.attributes or asked.events
    if not behaviour and ('"context"' in plain or '"local_time"' in plain or '"weekday"' in plain):
        return "not_in_context"
    return "not_eligible"
