"""Does `check` say for whom there are too few contents, and fail only where it is told to?"""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from flows.check_cli import FAILED, PASSED, Coverage, check
from schemas.dates import parse_instant

POLICY = """
name: shop
segments:
  vip: {when: {attribute: plan, is: vip}}
  new: {when: {attribute: plan, exists: false}}
rewards: {click: {events: click, value: 1, within: 1d}}
placements:
  home: {slots: 1, rewards: [click]}
  legal: {never_personalised: true, slots: 2}
"""
CATALOGUE = """
- {content_id: a, placements: [home]}
- {content_id: b, placements: [home]}
- {content_id: c, placements: [home], eligibility: {segment: vip}}
- {content_id: d, placements: [home], eligibility: {context: device, is: tv}}
- {content_id: e, placements: [home], valid_from: 2026-06-01T00:00:00Z}
- {content_id: imprint, placements: [legal]}
"""
SPRING = parse_instant("2026-04-01T00:00:00Z")


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    policy, catalogue = tmp_path / "policy.yaml", tmp_path / "catalogue.yaml"
    policy.write_text(POLICY)
    catalogue.write_text(CATALOGUE)
    return policy, catalogue


def checked(
    policy: Path, catalogue: Path | None, asked: Coverage | None, *, as_json: bool = False
) -> tuple[int, str]:
    file = io.StringIO()
    console = Console(file=file, width=100)
    code = check(policy, catalogue, console=console, coverage=asked, as_json=as_json)
    return code, file.getvalue()


def rows(output: str) -> list[list[str]]:
    """The table's rows, as words."""
    lines = output.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("placement"))
    end = next(i for i, line in enumerate(lines) if line.startswith("coverage at"))
    return [line.split() for line in lines[head + 1 : end]]


def test_those_with_too_few_contents_are_listed_with_what_is_out(files: tuple[Path, Path]) -> None:
    code, output = checked(*files, Coverage(SPRING))
    assert code == PASSED
    assert rows(output) == [
        ["home", "none", "2", "1", "4", "1", "not_in_audience,", "1", "not_scheduled"],
        ["home", "vip", "3", "1", "4", "1", "not_scheduled"],
        ["home", "new", "2", "1", "4", "1", "not_in_audience,", "1", "not_scheduled"],
        ["legal", "everybody", "1", "0", "2"],
    ]
    assert output.splitlines()[-1] == (
        "coverage at 2026-04-01T00:00:00.000Z: of 4 placements and segments, 3 with too few "
        "contents, 1 perhaps (what is untold decides)"
    )


def test_enough_is_said_without_a_table_and_too_few_for_the_slots_always(
    files: tuple[Path, Path],
) -> None:
    code, output = checked(*files, Coverage(SPRING, at_least=0, strict=True))
    assert code == FAILED, "one content is too few for two slots, whatever else there is to choose"
    assert [row[0] for row in rows(output)] == ["legal"]
    files[0].write_text(POLICY.replace("slots: 2", "slots: 1"))
    code, output = checked(*files, Coverage(SPRING, at_least=0, strict=True))
    assert code == PASSED
    assert "eligible" not in output
    assert output.splitlines()[-1].endswith("of 4 placements and segments, 0 with too few contents")


def test_only_a_strict_check_fails_and_only_where_it_is_sure(files: tuple[Path, Path]) -> None:
    assert checked(*files, Coverage(SPRING, strict=True))[0] == FAILED
    policy, catalogue = files
    policy.write_text(POLICY.replace("  legal: {never_personalised: true, slots: 2}\n", ""))
    catalogue.write_text(CATALOGUE.replace(", placements: [legal]", "").replace("[home]", "[home]"))
    # With one content more for everybody, four are eligible only if what is untold holds.
    code, output = checked(policy, catalogue, Coverage(SPRING, strict=True))
    assert (code, [row[2:5] for row in rows(output)]) == (
        PASSED,
        [["3", "1", "4"], ["3", "1", "4"]],
    )


def test_coverage_is_part_of_the_answer_for_machines(files: tuple[Path, Path]) -> None:
    code, output = checked(*files, Coverage(SPRING), as_json=True)
    told = json.loads(output)
    assert code == PASSED
    assert told["coverage"]["at"] == "2026-04-01T00:00:00.000Z"
    assert told["coverage"]["lines"][1] == {
        "placement": "home",
        "segment": "vip",
        "eligible": 3,
        "untold": 1,
        "wanted": 4,
        "refused": {"not_scheduled": 1},
        "too_few": False,
    }
    assert "warnings" in told
    assert "coverage" not in json.loads(checked(*files, None, as_json=True)[1])


def test_now_is_the_time_unless_told_otherwise(files: tuple[Path, Path]) -> None:
    policy, catalogue = files
    ends = "- {content_id: x, placements: [home], valid_until: 2020-01-01T00:00:00Z}\n"
    catalogue.write_text(CATALOGUE + ends)
    assert "not_scheduled" in checked(policy, catalogue, Coverage())[1]


def test_without_a_catalogue_there_is_nothing_to_count(files: tuple[Path, Path]) -> None:
    code, output = checked(files[0], None, Coverage())
    assert code == FAILED
    assert output.splitlines()[-1].startswith("coverage is counted in a catalogue")


def test_a_policy_with_mistakes_is_not_counted(files: tuple[Path, Path]) -> None:
    policy, catalogue = files
    policy.write_text(POLICY + "colour: red\n")
    code, output = checked(policy, catalogue, Coverage(SPRING))
    assert (code, output.splitlines()[-1]) == (FAILED, "1 mistake")
