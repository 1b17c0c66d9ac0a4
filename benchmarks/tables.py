"""How does a measurement become a table in the docs?

Pure: text in, text out. A benchmark's tables stand between two markers; everything else on the page
is prose that people write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """One table: a caption, the names of the columns, rows of as many texts, notes below."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{self.caption}: {row} has not {len(self.columns)} cells")

    def markdown(self) -> str:
        """The table in Markdown, its caption in bold above."""
        rows = [self.columns, ("---", *("---:",) * (len(self.columns) - 1)), *self.rows]
        lines = [f"**{self.caption}**", "", *("| " + " | ".join(row) + " |" for row in rows)]
        if self.notes:
            lines += ["", *(f"* {note}" for note in self.notes)]
        return "\n".join(lines)


def number(value: float) -> str:
    """A figure with about three digits, thousands set apart.

    >>> number(0.1234), number(12.34), number(1234.5), number(98765.4)
    ('0.12', '12.3', '1,230', '98,800')
    """
    size = abs(value)
    if size >= 1_000:
        digits = len(f"{size:.0f}")
        return f"{round(value, 3 - digits):,.0f}"
    return f"{value:.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def spread(values: Sequence[float]) -> str:
    """The least and the most of several runs, as a reader wants to see them beside a median.

    >>> spread([3.0, 1.0, 2.0])
    '1.00 to 3.00'
    """
    return f"{number(min(values))} to {number(max(values))}"


def _marker(name: str, which: str) -> str:
    return f"<!-- {which} of generated tables: {name} -->"


def replace_tables(page: str, *, name: str, text: str) -> str:
    """The page with the tables of benchmark `name` replaced.

    Raises ValueError where the page has no place for them.
    """
    begin, end = _marker(name, "begin"), _marker(name, "end")
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the page has no lines {begin} and {end} around the tables of {name}")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def tables_of(page: str, *, name: str) -> str:
    """What stands between the markers of benchmark `name`; ValueError where there are none."""
    replace_tables(page, name=name, text="")
    return page.partition(_marker(name, "begin"))[2].partition(_marker(name, "end"))[0].strip()
