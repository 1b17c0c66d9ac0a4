"""Reads a policy and a catalogue from disk and says everything that is wrong with them.

The judging is done in `schemas.check`; here are files, colours and exit codes.
"""

from __future__ import annotations

import gzip
import json
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from schemas.check import Checked, load
from schemas.mistakes import Mistake, in_file_order
from schemas.policy import Policy
from schemas.time import rfc3339

if TYPE_CHECKING:
    from operators.coverage import Covered

PASSED: Final = 0
FAILED: Final = 2
_STYLES: Final = {"error": "red", "warning": "yellow"}


class Coverage(NamedTuple):
    """What coverage is asked for: when (ms; None: now), how many contents to choose from beyond the
    slots, and whether too few of them fail the check.
    """

    at_ms: int | None = None
    at_least: int = 3
    strict: bool = False


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
    coverage: Coverage | None = None,
) -> int:
    """Print every mistake of a policy (and a catalogue) and return the exit code.

    2 where anything is an error, 0 otherwise; warnings are printed and do not count. Where there is
    no error: `estimated`: also how many bytes a profile takes; `coverage`: also for whom there are
    too few contents, which fails only if it is strict; `as_json`: that as one JSON object with the
    warnings in it, and nothing else.
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
    if coverage is not None and checked.contents is None:
        out.print(Text("coverage is counted in a catalogue: name one after the policy"))
        return FAILED
    covered = _covered(checked, checked.policy, coverage)
    record: dict[str, Any] = {}
    if estimated or as_json:
        record = _estimate(checked, checked.policy, console=None if as_json else out)
    if covered is not None:
        at_ms, wanted = covered
        record["coverage"] = {"at": rfc3339(at_ms), "lines": [_record(line) for line in wanted]}
        if not as_json:
            print_coverage(wanted, console=out, at_ms=at_ms)
    if as_json:
        record["warnings"] = [str(mistake) for mistake in checked.mistakes]
        out.print(Text(json.dumps(record, indent=2)), soft_wrap=True)
    strict = coverage is not None and coverage.strict
    short = covered is not None and any(line.surely_short for line in covered[1])
    return FAILED if strict and short else PASSED


def _estimate(checked: Checked, policy: Policy, *, console: Console | None) -> dict[str, Any]:
    """The bytes that a profile takes, printed where there is a console."""
    # The whole core is imported for this: a plain check starts faster without.
    from flows.estimate import estimate, print_estimate
    from flows.load import plan_of

    found = estimate(plan_of(policy, list(checked.contents or ())))
    if console is not None:
        console.print()
        print_estimate(found, console=console)
    return found.record()


def _covered(
    checked: Checked, policy: Policy, asked: Coverage | None
) -> tuple[int, list[Covered]] | None:
    """When, and for each placement and segment how many contents; None where nobody asks."""
    if asked is None:
        return None
    from operators.coverage import coverage

    at_ms = time.time_ns() // 1_000_000 if asked.at_ms is None else asked.at_ms
    contents = checked.contents or ()
    return at_ms, coverage(policy, contents, at_ms=at_ms, at_least=asked.at_least)


def _record(line: Covered) -> dict[str, Any]:
    return {
        "placement": line.placement,
        "segment": line.segment,
        "eligible": line.holds,
        "untold": line.untold,
        "wanted": line.wanted,
        "refused": dict(sorted(line.refused.items())),
        "too_few": line.surely_short,
    }


def print_coverage(covered: list[Covered], *, console: Console, at_ms: int) -> None:
    """The placements and segments with too few contents, as a table, and how many they are."""
    short = [line for line in covered if line.short]
    console.print()
    if short:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("placement", "segment"):
            table.add_column(name, overflow="fold")
        for name in ("eligible", "untold", "wanted"):
            table.add_column(name, justify="right")
        table.add_column("")
        for line in short:
            refused = ", ".join(f"{n:,} {why}" for why, n in sorted(line.refused.items()))
            table.add_row(
                Text(line.placement),
                Text(line.segment or ("everybody" if _alone(line, covered) else "none")),
                f"{line.holds:,}",
                f"{line.untold:,}",
                f"{line.wanted:,}",
                Text(refused, style="dim"),
                style=_STYLES["error" if line.surely_short else "warning"],
            )
        console.print(table)
    surely = sum(line.surely_short for line in short)
    of = _count(len(covered), "placement and segment", "placements and segments")
    text = f"coverage at {rfc3339(at_ms)}: of {of}, {surely} with too few contents"
    if len(short) > surely:
        text += f", {len(short) - surely} perhaps (what is untold decides)"
    console.print(Text(text), soft_wrap=True)


def _alone(line: Covered, covered: list[Covered]) -> bool:
    """Whether a placement has this one line only: what it shows depends on no segment."""
    return sum(other.placement == line.placement for other in covered) == 1


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


def _count(number: int, noun: str, several: str | None = None) -> str:
    return f"{number} {noun if number == 1 else several or noun + 's'}"
