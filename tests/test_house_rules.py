"""The rules of the house, held by reading the source: layers, purity, step ids, docstrings, README.

Imports run one way, flows -> operators -> schemas. What decides takes time and chance as arguments
and touches nothing outside: that is what makes a replay give the same decisions on any machine.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource

from flows.cli import every_command
from flows.lockstep import Lockstep
from flows.personalize import Core, Outlet, personalize
from flows.streams import STREAMS
from operators.parameters import LocalParameters
from schemas.records import RawBatch
from tests.operators.builders import decoder, plan

ROOT: Final = Path(__file__).parents[1]
PACKAGES: Final = ("flows", "operators", "schemas")
PURE: Final = ("operators", "schemas")
MODULES: Final = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
PURE_MODULES: Final = [path for path in MODULES if path.relative_to(ROOT).parts[0] in PURE]

MAY_IMPORT: Final = {
    "schemas": {"schemas"},
    "operators": {"operators", "schemas"},
    "flows": {"flows", "operators", "schemas"},
}
ENGINES: Final = {"bytewax", "kafka", "redis", "hiredis", "prometheus_client", "click", "rich"}
IMPURE_MODULES: Final = {
    "os",
    "sys",
    "io",
    "time",
    "random",
    "secrets",
    "uuid",
    "socket",
    "select",
    "ssl",
    "http",
    "urllib",
    "subprocess",
    "threading",
    "multiprocessing",
    "asyncio",
    "concurrent",
    "tempfile",
    "shutil",
    "glob",
    "signal",
    "logging",
    "locale",
    "platform",
    "getpass",
}
IMPURE_CALLS: Final = {
    # The built-in hash of a text differs from process to process.
    *("open", "print", "input", "exec", "eval", "compile", "__import__", "breakpoint", "hash", "id")
}
IMPURE_ATTRIBUTES: Final = {
    "now",
    "utcnow",
    "today",
    "time_ns",
    "perf_counter",
    "perf_counter_ns",
    "monotonic",
    "process_time",
    "default_rng",
    "urandom",
    "environ",
    "getenv",
    "read_text",
    "read_bytes",
    "write_text",
    "write_bytes",
}
# What a module may do all the same, and why.
ALLOWED: Final[dict[str, set[str]]] = {
    # The policy and catalogue files are read where their mistakes are reported.
    "schemas/check.py": {"read_text", "read_bytes"},
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # A relative import would hide its direction; none is used.
            yield "." * node.level + (node.module or "")


def impurities(tree: ast.Module) -> Iterator[str]:
    """What in a module reaches beyond its arguments, as `name (line)`."""
    defined = {
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Import() | ast.ImportFrom():
                names = (
                    [node.module or ""]
                    if isinstance(node, ast.ImportFrom)
                    else [alias.name for alias in node.names]
                )
                for name in names:
                    if name.split(".")[0] in IMPURE_MODULES or name.startswith("numpy.random"):
                        yield f"{name} (line {node.lineno})"
            case ast.Call(func=ast.Name(id=name)) if name in IMPURE_CALLS - defined:
                yield f"{name} (line {node.lineno})"
            case ast.Attribute(attr=name) if name in IMPURE_ATTRIBUTES:
                yield f"{name} (line {node.lineno})"
            case ast.Attribute(value=ast.Name(id="np" | "numpy"), attr="random"):
                yield f"numpy.random (line {node.lineno})"
            case ast.Global():
                yield f"global (line {node.lineno})"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_run_one_way(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    roots = {name.split(".")[0] for name in imported(tree_of(path))}
    assert "" not in roots, "a relative import hides its direction"
    forbidden = (set(PACKAGES) | {"tests", "benchmarks"}) - MAY_IMPORT[layer]
    assert roots.isdisjoint(forbidden)


@pytest.mark.parametrize("path", PURE_MODULES, ids=name_of)
def test_the_core_knows_no_engine_and_no_server(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported(tree_of(path))}
    assert roots.isdisjoint(ENGINES)


@pytest.mark.parametrize("path", PURE_MODULES, ids=name_of)
def test_the_core_has_no_clock_no_chance_no_environment_and_no_files(path: Path) -> None:
    allowed = ALLOWED.get(name_of(path), set())
    found = [what for what in impurities(tree_of(path)) if what.split(" ")[0] not in allowed]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "from time import perf_counter",
        "import random",
        "from os import environ",
        "from urllib.request import urlopen",
        "x = datetime.now()",
        "x = date.today()",
        "x = np.random.default_rng()",
        "from numpy.random import default_rng",
        "open('x')",
        "print('x')",
        "x = hash('text')",
        "p.read_text()",
        "def f():\n    global x",
    ],
)
def test_the_search_for_impurity_finds_it(source: str) -> None:
    assert list(impurities(ast.parse(source)))


@pytest.mark.parametrize(
    "source",
    ["x = profile.now_ms", "def hash(x): ...\nhash(1)", "from operators.ids import hash64"],
)
def test_the_search_for_impurity_accuses_nothing_else(source: str) -> None:
    assert list(impurities(ast.parse(source))) == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_opens_with_what_it_is_about(path: Path) -> None:
    said = ast.get_docstring(tree_of(path))
    assert said, "no docstring"
    first = said.splitlines()[0]
    assert first[-1] in ".?:", "the first line is not a sentence"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_module_is_too_long_to_read(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


# Step ids are where the engine keeps state: a renamed step starts empty, and says nothing.

STEPS: Final = {
    "nextbest.events": "input",
    "nextbest.decode.flat_map_batch": "flat_map_batch",
    "nextbest.dead-letters-parts.flat_map_batch": "flat_map_batch",
    "nextbest.dead-letters": "output",
    "nextbest.route.flat_map_batch": "flat_map_batch",
    "nextbest.decide": "stateful_batch",
    "nextbest.activations.flat_map_batch": "flat_map_batch",
    "nextbest.decisions-parts.flat_map_batch": "flat_map_batch",
    "nextbest.decisions": "output",
    "nextbest.segment-changes-parts.flat_map_batch": "flat_map_batch",
    "nextbest.segment-changes": "output",
    "nextbest.outcomes-parts.flat_map_batch": "flat_map_batch",
    "nextbest.outcomes": "output",
    "nextbest.late-parts.flat_map_batch": "flat_map_batch",
    "nextbest.late": "output",
    "nextbest.serve.flat_map_batch": "flat_map_batch",
    "nextbest.serving": "output",
    "nextbest.examples.flat_map_batch": "flat_map_batch",
    "nextbest.learn": "stateful_batch",
    "nextbest.sets.flat_map_batch": "flat_map_batch",
    "nextbest.learned.flat_map_batch": "flat_map_batch",
    "nextbest.given": "merge",
    "nextbest.reports.flat_map_batch": "flat_map_batch",
    "nextbest.taken.flat_map_batch": "flat_map_batch",
    "nextbest.parameters-parts.flat_map_batch": "flat_map_batch",
    "nextbest.parameters": "output",
    "nextbest.predictions-parts.flat_map_batch": "flat_map_batch",
    "nextbest.predictions": "output",
    "nextbest.audiences-parts.flat_map_batch": "flat_map_batch",
    "nextbest.audiences": "output",
    "nextbest.thresholds-parts.flat_map_batch": "flat_map_batch",
    "nextbest.thresholds": "output",
    "nextbest.watched.flat_map_batch": "flat_map_batch",
    "nextbest.monitor": "stateful_batch",
    "nextbest.told.flat_map_batch": "flat_map_batch",
    "nextbest.monitoring-parts.flat_map_batch": "flat_map_batch",
    "nextbest.monitoring": "output",
    "nextbest.erasures-parts.flat_map_batch": "flat_map_batch",
    "nextbest.erasures": "output",
}
SECTION_STEPS: Final = {
    "nextbest.identities.flat_map_batch": "flat_map_batch",
    "nextbest.links-route.flat_map_batch": "flat_map_batch",
    "nextbest.links": "stateful_batch",
    "nextbest.links-told.flat_map_batch": "flat_map_batch",
    "nextbest.identify-route.flat_map_batch": "flat_map_batch",
    "nextbest.identify-merge": "merge",
    "nextbest.identify": "stateful_batch",
    "nextbest.identified.flat_map_batch": "flat_map_batch",
    "nextbest.gather": "stateful_batch",
    "nextbest.gathered.flat_map_batch": "flat_map_batch",
    "nextbest.contacts.flat_map_batch": "flat_map_batch",
    "nextbest.evidence.flat_map_batch": "flat_map_batch",
    "nextbest.duplicates": "stateful_batch",
    "nextbest.suggested.flat_map_batch": "flat_map_batch",
    "nextbest.suggestions-parts.flat_map_batch": "flat_map_batch",
    "nextbest.suggestions": "output",
    "nextbest.cases.flat_map_batch": "flat_map_batch",
    "nextbest.predict": "stateful_batch",
    "nextbest.foreseen.flat_map_batch": "flat_map_batch",
    "nextbest.looks.flat_map_batch": "flat_map_batch",
    "nextbest.groups": "stateful_batch",
    "nextbest.found.flat_map_batch": "flat_map_batch",
    "nextbest.feedback.flat_map_batch": "flat_map_batch",
    "nextbest.follow": "stateful_batch",
    "nextbest.moved.flat_map_batch": "flat_map_batch",
    "nextbest.sightings.flat_map_batch": "flat_map_batch",
    "nextbest.aggregate": "stateful_batch",
    "nextbest.counted.flat_map_batch": "flat_map_batch",
    "nextbest.counts.flat_map_batch": "flat_map_batch",
}
"""What the sections add that a policy may leave out."""
LOCKSTEP_STEPS: Final = {
    "nextbest.decided.flat_map_batch": "flat_map_batch",
    "nextbest.learning-done.flat_map_batch": "flat_map_batch",
    "nextbest.monitoring-done.flat_map_batch": "flat_map_batch",
    "nextbest.settled": "merge",
    "nextbest.lockstep": "output",
}
SECTIONS: Final[dict[str, Any]] = {
    "signals": {"views": {"kind": "count", "events": "view", "within": "7d"}},
    "segments": {
        "active": {
            "when": {"signal": "views", "at_least": 5},
            "follow": {"signal": "views", "between": [2, 9], "reward": "click"},
        }
    },
    "predictions": {"churn": {"target": {"not_done": "view", "within": "30d"}}},
    "audiences": {},
    "identity": {"suggest": {"email": "email"}},
    "placements": {"home": {"rewards": ["click"], "fallback": {"popular": True}}},
}


def flow(*, lockstep: bool, **sections: Any) -> Dataflow:
    source: TestingSource[RawBatch] = TestingSource([])
    outlets = {name: Outlet(TestingSink([])) for name in STREAMS}
    parameters = LocalParameters()
    of = plan(**sections)
    core = Core(plan=of, decoder=decoder(), parameters=parameters, incarnation="test", shards=4)
    return personalize(
        core,
        source=source,
        outlets=outlets,
        serving=TestingSink([]),
        serve=lambda _out: [],
        lockstep=Lockstep(lambda _outputs: None, shards=4, models=1, parameters=parameters)
        if lockstep
        else None,
    )


def rendered(steps: list[Any]) -> Iterator[tuple[str, str]]:
    """The steps the engine really runs: those that are made of no others."""
    for step in steps:
        if step.substeps:
            yield from rendered(step.substeps)
        else:
            yield step.step_id, type(step).__name__


def test_the_steps_of_the_flow_keep_their_ids() -> None:
    """If this fails, state and offsets under the old id are lost at the next start."""
    assert dict(rendered(flow(lockstep=False).substeps)) == STEPS


def test_the_steps_of_optional_sections_keep_their_ids() -> None:
    assert dict(rendered(flow(lockstep=False, **SECTIONS).substeps)) == STEPS | SECTION_STEPS


def test_in_lockstep_the_flow_has_the_same_steps_and_its_own() -> None:
    assert dict(rendered(flow(lockstep=True).substeps)) == STEPS | LOCKSTEP_STEPS


# The same on every machine and in every process.

_DIGEST: Final = """
from hashlib import blake2b
from tests.operators.golden import golden_shard, meaning
held = golden_shard()
print(blake2b(repr(meaning(held)).encode() + held.snapshot()).hexdigest())
"""


def test_state_does_not_depend_on_the_hash_seed_of_the_process() -> None:
    """Python orders a set of texts differently in each process unless its seed is fixed."""
    digests = {
        subprocess.run(
            [sys.executable, "-c", _DIGEST],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(digests) == 1


# What the README says can be typed.


@pytest.fixture(scope="module")
def readme() -> str:
    path = ROOT / "README.md"
    if not path.is_file():
        pytest.fail("there is no README.md: a stranger has nothing to follow", pytrace=False)
    return path.read_text(encoding="utf-8")


def code_of(markdown: str) -> str:
    """The code blocks and code spans of a page."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL)
    return "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", rest)])


def targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))


def test_the_readme_names_the_two_commands(readme: str) -> None:
    named = set(re.findall(r"\bmake ([a-z]+)", code_of(readme)))
    assert {"demo", "test"} <= named


def test_every_make_command_of_the_readme_is_a_target(readme: str) -> None:
    named = set(re.findall(r"\bmake ([a-z]+)", code_of(readme)))
    assert named <= targets()


def test_every_nextbest_command_of_the_readme_exists(readme: str) -> None:
    named = set(re.findall(r"^(?:\.venv/bin/)?nextbest ([a-z]+)", code_of(readme), re.MULTILINE))
    assert named, "the README shows no command of nextbest"
    assert named <= set(every_command())


def test_the_targets_are_understood_by_make() -> None:
    for target in ("demo", "test"):
        asked = subprocess.run(
            ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert asked.returncode == 0, asked.stderr
