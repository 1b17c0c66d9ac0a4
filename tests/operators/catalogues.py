"""Catalogues compiled by themselves, for what needs no policy."""

from __future__ import annotations

from typing import Any

from operators.conditions import Compiler
from operators.contents import Contents, compile_contents
from schemas.catalogue import Content


def compiled(*fields: dict[str, Any]) -> Contents:
    """Contents `c0`, `c1`, … in that order, each with the fields given."""
    return compile_contents(
        [
            Content.model_validate({"content_id": f"c{i}", "type": "product", **given})
            for i, given in enumerate(fields)
        ],
        Compiler({}, {}),
    )
