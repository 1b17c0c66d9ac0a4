"""Reads a policy and a catalogue from disk and says everything that is wrong with them.

The judging is done in `schemas.check`; here are files, colours and exit codes.
"""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

from schemas.check import Checked, load
from schemas.mistakes import Mistake, in_file_order
from schemas.policy import Policy

PASSED: Final = 0
FAILED: Final = 2
_STYLES: Final = {"error": "red", "warning": "yellow"}


def read_config(path: Path) -> str | Mistake:
    """The text of a file, unpacked where its name ends in .gz; a mistake where it cannot be had."""
    try:
        raw = path.read_bytes()
        if path.suffix == ".gz":
            raw = gzip.decompress(raw)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        return _unreadable(path, "no gzip data", "a file packed by gzip, as its name says")
    except FileNotFoundError:
        return _unreadable(path, "no such file", "a file that exists: check the path")
    except OSError as error:
        return _unreadable(path, (error.strerror or "an error").lower(), "a file that can be read")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        return _unreadable(path, f"byte 0x{raw[error.start]:02x}", "UTF-8 text", line=line)


def _unreadable(path: Path, found: str, expected: str, *, line: int = 1) -> Mistake:
    return Mistake(str(path), line, 1, "(file)", found, expected)


def load_files(policy: Path, *, catalogue: Path | None) -> Checked:
    """A policy and a catalogue from files, with every mistake; never raises for what they hold."""
    policy_text = read_config(policy)
    catalogue_text = read_config(catalogue) if catalogue else None
    unread = [text for text in (policy_text, catalogue_text) if isinstance(text, Mistake)]
    checked = load(
        "" if isinstance(policy_text, Mistake) else policy_text,
        policy_name=str(policy),
        catalogue_text=None if isinstance(catalogue_text, Mistake) else catalogue_text,
        catalogue_name=str(catalogue),
    )
    # An unread policy was checked as an empty one: what that says of it is not true.
    files = {mistake.file for mistake in unread}
    mistakes = [mistake for mistake in checked.mistakes if mistake.file not in files]
    return Checked(checked.policy, checked.contents, tuple(in_file_order([*unread, *mistakes])))


def check(
    policy_path: str | Path,
    catalogue_path: str | Path | None = None,
    *,
    console: Console | None = None,
    estimated: bool = False,
    as_json: bool = False,
) -> int:
    """Print every mistake of a policy (and a catalogue) and return the exit code.

    2 where anything is an error, 0 otherwise; warnings are printed and do not count. `estimated`:
    also how many bytes a profile takes, where there is no error; `as_json`: that as one JSON object
    with the warnings in it, and nothing else.
    """
    checked = load_files(
        Path(policy_path), catalogue=None if catalogue_path is None else Path(catalogue_path)
    )
    out = console or Console()
    if checked.failed or checked.policy is None or not as_json:
        print_mistakes(checked.mistakes, console=out)
        out.print(Text(closing_line(checked)), soft_wrap=True)
    if checked.failed or checked.policy is None:
        return FAILED
    if estimated or as_json:
        _print_estimate(checked, checked.policy, console=out, as_json=as_json)
    return PASSED


def _print_estimate(checked: Checked, policy: Policy, *, console: Console, as_json: bool) -> None:
    # The whole core is imported for this: a plain check starts faster without.
    from flows.estimate import estimate, print_estimate
    from flows.load import plan_of

    found = estimate(plan_of(policy, list(checked.contents or ())))
    if as_json:
        record = {**found.record(), "warnings": [str(mistake) for mistake in checked.mistakes]}
        console.print(Text(json.dumps(record, indent=2)), soft_wrap=True)
        return
    console.print()
    print_estimate(found, console=console)


def print_mistakes(mistakes: tuple[Mistake, ...], *, console: Console) -> None:
    """One line per mistake, never wrapped: editors and grep read them."""
    for mistake in mistakes:
        console.print(Text(str(mistake), style=_STYLES[mistake.severity]), soft_wrap=True)


def closing_line(checked: Checked) -> str:
    """What was checked and that it is right, or how much is wrong."""
    errors = sum(mistake.severity == "error" for mistake in checked.mistakes)
    warnings = len(checked.mistakes) - errors
    if errors or checked.policy is None:
        counted = [_count(errors, "mistake")]
        return ", ".join([*counted, _count(warnings, "warning")] if warnings else counted)
    policy = checked.policy
    parts = (
        _count(len(policy.signals), "signal"),
        _count(len(policy.segments), "segment"),
        _count(len(policy.placements), "placement"),
    )
    line = f"policy {policy.name}: {', '.join(parts)}"
    if checked.contents is not None:
        line += f"; catalogue: {_count(len(checked.contents), 'content')}"
    line += " - no mistakes"
    return f"{line}, {_count(warnings, 'warning')}" if warnings else line


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
