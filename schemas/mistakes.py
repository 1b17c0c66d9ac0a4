"""What is wrong with a file, where, what was found there and what was expected?

A mistake is a value: loading never stops at the first one. The found text quotes the file itself;
a policy and a catalogue hold no personal data.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

Severity = Literal["error", "warning"]
_SHOWN: Final = 60
_GUESSED_AMONG: Final = 2_000
"""difflib compares with every name: beyond so many a typo is not worth seconds of guessing."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake in one file; line and column count from 1. A warning does not fail a check."""

    file: str
    line: int
    column: int
    field: str
    found: str
    expected: str
    severity: Severity = "error"

    def __str__(self) -> str:
        """One line that an editor can jump to.

        >>> print(Mistake("policy.yaml", 14, 7, "segments.bargain.when.at_leat", "'at_leat'", "…"))
        policy.yaml:14: segments.bargain.when.at_leat: found 'at_leat' - expected …
        """
        warning = "warning: " if self.severity == "warning" else ""
        where = f"{self.file}:{self.line}: {warning}{self.field}"
        line = f"{where}: found {self.found} - expected {self.expected}"
        # Names come from the file: none of them may break the line or reach a terminal as a code.
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


def in_file_order(mistakes: Iterable[Mistake]) -> list[Mistake]:
    """Each mistake once, sorted by file, line and column."""
    return sorted(set(mistakes), key=lambda m: (m.file, m.line, m.column, m.field, m.expected))


def failed(mistakes: Iterable[Mistake]) -> bool:
    """Whether any mistake is more than a warning."""
    return any(mistake.severity == "error" for mistake in mistakes)


def shown(value: object) -> str:
    """A value as one would write it in the file, cut at 60 characters.

    >>> shown(True), shown("x" * 100)[-5:], shown([1, None])
    ('true', 'xx...', '[1, null]')
    """
    if isinstance(value, str):
        # Cut first: repr of a text of megabytes is only thrown away again.
        text = repr(value[: _SHOWN + 1])
    else:
        try:
            text = json.dumps(value, default=repr, ensure_ascii=False)
        except (TypeError, ValueError, RecursionError):
            text = repr(value)
        # repr keeps a lone surrogate or a control character printable; json.dumps does not.
        text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def one_of(names: Iterable[object], *, guess: object = None) -> str:
    """What may stand there, with the likeliest meant name where `guess` resembles one.

    >>> one_of(["at_least", "at_most"], guess="at_leat")
    'one of at_least, at_most (did you mean at_least?)'
    """
    known = [str(name) for name in names]
    if not known:
        return "nothing: none is declared"
    text = f"one of {', '.join(known[:40])}" if len(known) > 1 else known[0]
    if len(known) > 40:
        text = f"{text} and {len(known) - 40} more"
    return text + did_you_mean(guess, known)


def did_you_mean(guess: object, known: Iterable[str]) -> str:
    """A hint in brackets, or nothing."""
    names = list(known)
    if not isinstance(guess, str) or len(names) > _GUESSED_AMONG:
        return ""
    # Compared in small letters, so that Signal finds signal.
    by_lower = {name.lower(): name for name in names}
    close = difflib.get_close_matches(guess[:256].lower(), by_lower, n=1)
    return f" (did you mean {by_lower[close[0]]}?)" if close else ""
