"""What a user types: help, exit codes, and one message instead of a stack trace."""

from __future__ import annotations

import inspect
import logging
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import orjson
import pytest
from click.testing import CliRunner, Result

from flows.cli import every_command, main
from flows.kafka.admin import default_topics
from flows.personalize import DEFAULT_SHARDS
from tests.flows.live_flow import ROOT, command, environment
from tests.flows.test_replay import ALWAYS
from tests.servers.kafka import RunningKafka
from tests.servers.process import free_ports

HAND = Path(__file__).parent / "data" / "hand"
POLICY, CATALOGUE, EVENTS = (
    str(HAND / name) for name in ("policy.yaml", "catalogue.yaml", "events.jsonl")
)
COMMANDS = {
    *("demo", "replay", "run", "export", "check", "schema", "topics", "simulate"),
    *("profile", "forget", "scrub", "publish", "lift", "ladder"),
}


@pytest.fixture(autouse=True)
def as_if_in_a_process_of_its_own(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """A command sets logging up as it likes, and may write into the folder it is called in."""
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))
    loggers = [logging.getLogger(), logging.getLogger("kafka")]
    former = [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
    yield
    for logger, (level, propagate, handlers) in zip(loggers, former, strict=True):
        logger.setLevel(level)
        logger.propagate = propagate
        logger.handlers = handlers


def nextbest(*words: str, **settings: object) -> Result:
    blank: dict[str, str | None] = {
        name: None for name in os.environ if name.startswith("NEXTBEST_")
    }
    env = {f"NEXTBEST_{name.upper()}": str(value) for name, value in settings.items()}
    return CliRunner().invoke(main, list(words), env=blank | env)


def said_plainly(done: Result, *, code: int) -> str:
    """What was said on the way out with `code`: one message, no trace, no exception let through."""
    assert done.exit_code == code, done.output
    assert done.exception is None or isinstance(done.exception, SystemExit)
    assert "Traceback" not in done.output
    return " ".join(done.output.split())


def test_the_program_runs_as_a_module() -> None:
    done = subprocess.run(
        command("--help"), cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0
    assert all(name in done.stdout for name in COMMANDS)


def test_every_command_explains_itself_and_its_options() -> None:
    assert isinstance(main, click.Group)
    assert set(every_command()) == COMMANDS
    for name, sub in every_command().items():
        for flag in ("--help", "-h"):
            page = said_plainly(nextbest(name, flag), code=0)
            assert page.startswith(f"Usage: main {name}")
        first = str(inspect.cleandoc(sub.help or "")).split("\n", maxsplit=1)[0]
        assert first.endswith(".")
        for option in sub.params:
            if isinstance(option, click.Option):
                assert option.opts[0] in page


def test_the_version_is_that_of_the_package() -> None:
    assert re.search(r"version \d+\.\d+\.\d+", said_plainly(nextbest("--version"), code=0))


@pytest.mark.parametrize(
    "words",
    [
        ("no-such-command",),
        ("replay",),
        ("replay", EVENTS, "--policy", POLICY),
        ("demo", "--shoppers", "0"),
        ("demo", "--seed", "one"),
        ("run", "-i", "2", "-a", "h:1", "-a", "h:2"),
        ("export", "--out", "x", "--from", "yesterday"),
        ("export", "--out", "x", "--to", "2026-01-01T00:00:00"),
        ("topics", "--partitions", "0"),
        ("replay", str(HAND), "--policy", POLICY, "--catalogue", CATALOGUE, "--out", "x"),
    ],
    ids=lambda words: " ".join(words).replace(str(HAND), "…"),
)
def test_a_wrong_command_line_is_exit_code_2(words: tuple[str, ...]) -> None:
    assert "Usage:" in said_plainly(nextbest(*words), code=2)


def test_replay_prints_the_accounting_identity(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    done = nextbest(
        "replay", EVENTS, "--policy", POLICY, "--catalogue", CATALOGUE, "--out", str(out)
    )
    said = said_plainly(done, code=0)
    assert "20 events, 5 decisions, 2 segment changes" in said
    identity = "events read 20 = used 15 + suppressed 0 + duplicates 1 + late 1 + dead letters 3"
    assert identity in said
    assert "BROKEN" not in said
    assert {path.name for path in out.iterdir()} == {*ALWAYS, "report.html"}


def test_replay_takes_the_number_of_shards_of_the_flow_whose_log_it_is(tmp_path: Path) -> None:
    def ids(folder: str, *words: str, **settings: object) -> set[str]:
        out = tmp_path / folder
        given = ("replay", EVENTS, "--policy", POLICY, "--catalogue", CATALOGUE)
        said_plainly(nextbest(*given, "--out", str(out), *words, **settings), code=0)
        made = (out / "decisions.jsonl").read_bytes().splitlines()
        return {orjson.loads(line)["decision_id"] for line in made}

    default = ids("default")
    assert default == ids("said", "--shards", str(DEFAULT_SHARDS))
    assert default != ids("seven", "--shards", "7") == ids("env", shards=7)


@pytest.mark.parametrize("missing", ["events", "policy", "catalogue"])
def test_a_file_that_does_not_exist_is_named(tmp_path: Path, missing: str) -> None:
    paths = {"events": EVENTS, "policy": POLICY, "catalogue": CATALOGUE}
    paths[missing] = str(tmp_path / "nowhere.yaml")
    words = ("--policy", paths["policy"], "--catalogue", paths["catalogue"])
    done = nextbest("replay", paths["events"], *words, "--out", str(tmp_path / "out"))
    said = said_plainly(done, code=3 if missing == "events" else 2)
    assert "nowhere.yaml" in said
    assert "such file" in said.lower()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    out = str(tmp_path / "file" / "out")
    for words in (
        ("replay", EVENTS, "--policy", POLICY, "--catalogue", CATALOGUE, "--out", out),
        ("demo", "--shoppers", "1", "--days", "1", "--out", out),
        ("schema", "--out", out),
    ):
        assert out in said_plainly(nextbest(*words), code=3)


def test_check_is_0_for_a_right_policy_and_2_with_every_mistake_for_a_wrong_one(
    tmp_path: Path,
) -> None:
    assert "no mistakes" in said_plainly(nextbest("check", POLICY, CATALOGUE), code=0)
    wrong = tmp_path / "policy.yaml"
    wrong.write_text(
        "name: wrong\nplacements:\n  home: {slots: 0, rewards: [riches]}\n  mail: {level: 6}\n"
    )
    for words in (
        ("check", str(wrong)),
        ("replay", EVENTS, "--policy", str(wrong), "--catalogue", CATALOGUE, "--out", "x"),
        ("demo", "--policy", str(wrong), "--out", str(tmp_path / "demo")),
    ):
        said = said_plainly(nextbest(*words), code=2)
        assert "policy.yaml:3" in said
        assert "policy.yaml:4" in said
        assert "riches" in said


def test_schema_writes_one_file_for_each_contract(tmp_path: Path) -> None:
    done = nextbest("schema", "--out", str(tmp_path / "schemas"))
    written = [Path(line) for line in done.output.splitlines()]
    assert done.exit_code == 0
    assert sorted(written) == sorted((tmp_path / "schemas").iterdir())
    assert {path.name for path in (ROOT / "docs" / "schemas").iterdir()} == {
        path.name for path in written
    }
    for path in written:
        if path.suffix == ".json":
            assert orjson.loads(path.read_bytes())["$schema"]


@pytest.mark.parametrize(
    "settings",
    [
        {"shards": 0},
        {"snapshot_every_s": "often"},
        {"telemetry_port": 70_000},
        {"policy": POLICY},
        {"catalogue": CATALOGUE},
        {"policy": "nowhere.yaml", "catalogue": CATALOGUE},
    ],
    ids=str,
)
def test_a_wrong_setting_is_named_before_anything_is_connected(settings: dict[str, object]) -> None:
    said = said_plainly(nextbest("run", **settings), code=2)
    name, value = next(iter(settings.items()))
    assert f"NEXTBEST_{name.upper()}" in said or str(value) in said


def test_several_wrong_settings_are_named_at_once_and_no_secret_is_shown() -> None:
    done = nextbest(
        "run", shards=0, recovery_partitions=99, redis_url="redis://:hidden@h/0", start="middle"
    )
    said = said_plainly(done, code=2)
    for name in ("NEXTBEST_SHARDS", "NEXTBEST_RECOVERY_PARTITIONS", "NEXTBEST_START"):
        assert name in said
    assert "hidden" not in said


def test_a_cluster_without_redis_is_refused() -> None:
    # A process of its own: a cluster's end does not pass through the interpreter's.
    done = subprocess.run(
        command("run", "-a", "127.0.0.1:1", "-a", "127.0.0.1:2"),
        cwd=ROOT,
        env=environment(policy=POLICY, catalogue=CATALOGUE),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert "a cluster needs NEXTBEST_REDIS_URL" in done.stderr
    assert "Traceback" not in done.stderr


def test_topics_are_created_once_and_differences_are_told(
    kafka: RunningKafka, topic_prefix: str
) -> None:
    settings = {"kafka_bootstrap_servers": kafka.bootstrap, "topic_prefix": f"{topic_prefix}."}
    first = nextbest("topics", "--partitions", "2", **settings).output.splitlines()
    assert len(first) == len(default_topics())
    assert all(re.fullmatch(rf"{topic_prefix}\.[a-z-]+: created", line) for line in first)
    again = nextbest("topics", "--partitions", "3", **settings).output.splitlines()
    # What is published is read in one order, whatever the other topics have.
    single = (f"{topic_prefix}.catalogue:", f"{topic_prefix}.policies:")
    of_one = [line for line in again if line.startswith(single)]
    assert [line.partition(": ")[2] for line in of_one] == ["exists", "exists"]
    others = [line for line in again if line not in of_one]
    assert all("exists; partitions is 2, expected 3" in line for line in others)


@pytest.mark.parametrize("words", [("topics",)])
def test_a_broker_that_cannot_be_reached_is_named(words: tuple[str, ...]) -> None:
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    said = said_plainly(nextbest(*words, kafka_bootstrap_servers=address), code=3)
    assert address in said
    # The client's own time-out says the same for a wrong password; the cause is only in its log.
    assert "ECONNREFUSED" in said
