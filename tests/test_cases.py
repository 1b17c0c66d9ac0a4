"""Do the cases in plain YAML come out as they say, on the pure machine?"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.case_file import (
    CASES,
    EVENT_FIELDS,
    EXPECT_FIELDS,
    CaseError,
    Listed,
    all_cases,
    list_cases,
)
from tests.case_runner import run_machine

LEAST = 150


@pytest.mark.parametrize("listed", all_cases(), ids=str)
def test_a_case_comes_out_as_it_says(listed: Listed) -> None:
    run_machine(listed.read())


def test_there_are_many_cases_each_with_a_name_of_its_own() -> None:
    names = Counter(str(listed) for listed in all_cases())
    assert [name for name, times in names.items() if times > 1] == []
    assert len(names) >= LEAST


def test_every_case_expects_something() -> None:
    silent = [
        str(listed)
        for listed in all_cases()
        if not any("expect" in step for step in listed.said["steps"])
    ]
    assert silent == []


def written(tmp_path: Path, text: str) -> Listed:
    path = tmp_path / "one.yaml"
    path.write_text(text)
    [listed] = list_cases(path)
    return listed


CASE = """
cases:
  - name: two views
    policy:
      signals: {views: {kind: count, events: view, within: 7d}}
    steps:
      - {at: 0d 10:00, type: view}
      - {at: +1h, type: view}
      - expect: {signals: {views: VIEWS}}
"""


def test_a_case_that_holds_passes(tmp_path: Path) -> None:
    run_machine(written(tmp_path, CASE.replace("VIEWS", "2")).read())


def test_a_case_that_fails_says_where_what_was_expected_and_what_was_there(tmp_path: Path) -> None:
    with pytest.raises(CaseError) as failed:
        run_machine(written(tmp_path, CASE.replace("VIEWS", "3")).read())
    said = str(failed.value)
    assert "tests/cases/one.yaml, line 3, case 'two views'" in said
    assert "step 3 (line 9), 2026-01-01T11:00:00.000Z, as the pure machine has it" in said
    assert "signal views of u1: expected 3, got 2" in said


@pytest.mark.parametrize(
    ("find", "put", "said"),
    [
        ("type: view}\n      - {at: +1h", "tpe: view}\n      - {at: +1h", "unknown field tpe"),
        ("+1h", "0d 09:00", "is written with `ago`"),
        ("kind: count", "kind: cuont", "the policy has mistakes"),
        ("VIEWS}}", "2}, segmnets: [a]}", "unknown field segmnets"),
    ],
)
def test_a_case_that_is_wrongly_written_says_so(
    tmp_path: Path, find: str, put: str, said: str
) -> None:
    with pytest.raises(CaseError, match=said):
        written(tmp_path, CASE.replace(find, put).replace("VIEWS", "2")).read()


def test_the_example_of_the_readme_is_a_case_that_holds(tmp_path: Path) -> None:
    example = (CASES / "README.md").read_text().split("```yaml\n")[1].split("```")[0]
    run_machine(written(tmp_path, example).read())


def test_the_readme_names_every_field_of_a_step_and_an_expectation() -> None:
    readme = (CASES / "README.md").read_text()
    assert [field for field in sorted(EVENT_FIELDS | EXPECT_FIELDS) if field not in readme] == []


def test_every_file_says_what_it_is_about() -> None:
    paths = sorted(CASES.glob("*.yaml"))
    assert [p.name for p in paths if not p.read_text().startswith("about: ")] == []
